"""Generations of masks: the same prompts answered again by other backends or options, side by side in ``masks``."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from store import lance_io
from store.sql import instant, literal, literals

_ROWS_AT_ONCE = 8192
_CHIPS_AT_ONCE = 512


@dataclass(kw_only=True)
class Generation:
    """Masks of one number, backend and recipe."""

    generation: int
    """Its number; 0 is what builds made."""
    backend: str
    """Mask backend."""
    mask_recipe: str
    """Hash of code and settings."""
    masks: int = 0
    """Masks in force."""
    retired: int = 0
    """Masks whose label is gone."""
    verdicts: dict[str, int] = field(default_factory=dict)
    """Verdict → masks in force."""
    calibrations: tuple[str, ...] = ()
    """Versions of the calibration behind their quality; none where all are uncalibrated."""
    mean_score: float | None = None
    """Mean score of masks in force."""
    mean_quality: float | None = None
    """Mean quality of those that have one."""
    last_made: datetime | None = None
    """When the newest of them was made."""


@dataclass(kw_only=True)
class _Sums:
    verdicts: Counter[str] = field(default_factory=Counter)
    calibrations: set[str] = field(default_factory=set)
    retired: int = 0
    score: float = 0.0
    quality: float = 0.0
    with_quality: int = 0
    last_made: datetime | None = None

    def take(self, rows: pa.Table) -> None:
        made = pc.max(rows["created_at"]).as_py()
        self.last_made = made if self.last_made is None else max(made, self.last_made)
        live = rows.filter(pc.is_null(rows["retired_at"]))
        self.retired += len(rows) - len(live)
        self.verdicts.update(live["verdict"].to_pylist())
        self.score += pc.sum(live["score"]).as_py() or 0.0
        if "quality" in live.column_names:
            self.quality += pc.sum(live["quality"]).as_py() or 0.0
            self.with_quality += len(live) - live["quality"].null_count
            self.calibrations |= {name for name in pc.unique(live["calibration"]).to_pylist() if name is not None}


def generations(uri: str | Path) -> list[Generation]:
    """What generations the store holds, by number, backend and recipe; reads no pixel, a batch at a time.

    Raises:
        TableNotFoundError: the store has no masks.
    """
    dataset = lance_io.open_table(uri, "masks")
    keys = ["generation", "backend", "mask_recipe"]
    newer = [name for name in ("quality", "calibration") if name in dataset.schema.names]
    columns = [*keys, "verdict", "score", "retired_at", "created_at", *newer]
    found: dict[tuple[Any, ...], _Sums] = {}
    for batch in dataset.scanner(columns=columns, batch_size=_ROWS_AT_ONCE).to_batches():
        rows = pa.Table.from_batches([batch])
        for key in rows.select(keys).group_by(keys).aggregate([]).to_pylist():
            number, backend, recipe = (key[name] for name in keys)
            own = pc.and_(pc.equal(rows["generation"], number), pc.equal(rows["mask_recipe"], recipe))
            own = pc.and_(own, pc.equal(rows["backend"], backend))
            found.setdefault((number, backend, recipe), _Sums()).take(rows.filter(own))
    return [_generation(key, sums) for key, sums in sorted(found.items())]


def _generation(key: tuple[Any, ...], sums: _Sums) -> Generation:
    masks = sum(sums.verdicts.values())
    return Generation(
        generation=key[0],
        backend=key[1],
        mask_recipe=key[2],
        masks=masks,
        retired=sums.retired,
        verdicts=dict(sorted(sums.verdicts.items())),
        calibrations=tuple(sorted(sums.calibrations)),
        mean_score=sums.score / masks if masks else None,
        mean_quality=sums.quality / sums.with_quality if sums.with_quality else None,
        last_made=sums.last_made,
    )


def number_for(uri: str | Path, mask_recipe: str, claimed: dict[str, int]) -> int:
    """The generation that masks of a recipe go to: the one they have beyond the first, else the next free number.

    Args:
        uri: the store.
        mask_recipe: the recipe.
        claimed: recipe → number that runs, killed ones among them, took and may not have written to yet.
    """
    used: dict[str, int] = dict(claimed)
    most = max([0, *claimed.values()])
    dataset = lance_io.open_table(uri, "masks") if lance_io.table_exists(uri, "masks") else None
    if dataset is not None:
        for batch in dataset.scanner(columns=["generation", "mask_recipe"], batch_size=_ROWS_AT_ONCE).to_batches():
            rows = pa.Table.from_batches([batch]).group_by(["generation", "mask_recipe"]).aggregate([]).to_pylist()
            most = max([most, *(row["generation"] for row in rows)])
            used |= {row["mask_recipe"]: row["generation"] for row in rows if row["generation"]}
    return used.get(mask_recipe, most + 1)


def answered(uri: str | Path, mask_recipe: str, generation: int) -> dict[str, tuple[datetime, str]]:
    """Prompt → when and by which run it was answered under a recipe, in a generation or by a build; in force only."""
    where = f"mask_recipe = {literal(mask_recipe)} AND generation IN (0, {generation:d}) AND retired_at IS NULL"
    rows = lance_io.scan(uri, "masks", ["prompt_id", "created_at", "run_id"], where)
    found: dict[str, tuple[datetime, str]] = {}
    for row in rows.sort_by("created_at").to_pylist():
        found[row["prompt_id"]] = (row["created_at"], row["run_id"])
    return found


def answered_since(
    uri: str | Path, prompt_ids: list[str], mask_recipe: str, generation: int, moment: datetime
) -> set[str]:
    """Those of the prompts that other runs answered in a generation after ``moment``."""
    where = f"mask_recipe = {literal(mask_recipe)} AND generation = {generation:d} AND retired_at IS NULL"
    found: set[str] = set()
    for start in range(0, len(prompt_ids), _CHIPS_AT_ONCE):
        own = f"prompt_id IN ({literals(prompt_ids[start : start + _CHIPS_AT_ONCE])}) AND {where}"
        own += f" AND created_at > {instant(moment)}"
        found |= set(lance_io.scan(uri, "masks", ["prompt_id"], own)["prompt_id"].to_pylist())
    return found


def first_masks(uri: str | Path, uuids: list[str]) -> dict[tuple[str, str], bytes | None]:
    """(Prompt, chip) → pixels of its mask of generation 0, the latest in force; None where that one is empty."""
    found: dict[tuple[str, str], bytes | None] = {}
    columns = ["prompt_id", "uuid", "mask", "created_at"]
    for start in range(0, len(uuids), _CHIPS_AT_ONCE):
        where = f"uuid IN ({literals(uuids[start : start + _CHIPS_AT_ONCE])}) AND generation = 0 AND retired_at IS NULL"
        for row in lance_io.scan(uri, "masks", columns, where).sort_by("created_at").to_pylist():
            found[row["prompt_id"], row["uuid"]] = row["mask"]
    return found


def retire_late(uri: str | Path) -> int:
    """Mark masks of later generations that are in force although their prompt is retired; returns how many.

    A build retires the masks it knows of with their prompt; those that a run beside it commits come later.
    """
    columns = ["prompt_id", "retired_at", "retired_snapshot"]
    gone = lance_io.scan(uri, "prompts", columns, "retired_at IS NOT NULL").to_pylist()
    if not gone:
        return 0
    masks = lance_io.scan(uri, "masks", ["mask_id", "prompt_id"], "generation > 0 AND retired_at IS NULL")
    by_prompt: dict[str, list[str]] = {}
    for row in masks.to_pylist():
        by_prompt.setdefault(row["prompt_id"], []).append(row["mask_id"])
    groups: dict[tuple[datetime, int | None], list[str]] = {}
    for row in gone:
        ids = by_prompt.get(row["prompt_id"])
        if ids:
            groups.setdefault((row["retired_at"], row["retired_snapshot"]), []).extend(ids)
    return sum(
        lance_io.mark(
            uri,
            "masks",
            ids,
            {
                "retired_at": instant(at),
                "retired_snapshot": "CAST(NULL AS BIGINT)" if snapshot is None else str(snapshot),
            },
            where="retired_at IS NULL",
        )
        for (at, snapshot), ids in groups.items()
    )
