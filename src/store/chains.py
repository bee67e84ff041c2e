"""The chain behind one chip or mask: labels and prompts, images, masks and verdicts, code and settings, run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import lance
import pyarrow as pa

from store import lance_io
from store.fingerprint import digest
from store.schemas import RUNS, TABLES
from store.sql import literal
from utils.errors import AegirError, TableNotFoundError

_PIXELS = {
    "vhr_image_chip", "msi_image_chip", "msi_scl", "msi_mask", "generated_mask", "prompt_geometry", "footprint",
}  # fmt: skip
_JSON = ("config", "recipes", "code", "inputs", "packages", "counts")
_GEOMETRY = ("geometry", "label_geometry")
_POINTS = ("positive_points", "negative_points")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A chip or mask somebody asks for: ``ID`` or ``ID@VERSION``."""

    start: str
    """The id, or its first characters."""
    version: int | str | None = None
    """Version or tag of the table it stands in; None is the newest."""

    @staticmethod
    def parse(text: str) -> "Reference":
        """Read ``ID`` or ``ID@VERSION``; VERSION is a number or a tag of the table.

        Raises:
            AegirError: the text is neither.
        """
        start, sign, version = text.partition("@")
        if not start or not set(start) <= set("0123456789abcdef-"):
            raise AegirError(f"{text!r} is no chip id: ids are hexadecimal with dashes; @VERSION may follow")
        if sign and not version:
            raise AegirError(f"{text!r} names no version; give ID@VERSION with a number or a tag")
        return Reference(start=start, version=int(version) if version.isdecimal() else version or None)


def explain(uri: str | Path, uuid: str) -> dict[str, Any]:
    """The chain behind one chip, or behind one mask of the table ``masks``.

    Args:
        uri: the store.
        uuid: id of the chip or mask, or its first characters where they are unambiguous; ``@VERSION`` behind it asks
            for the row as it stood at a version (or tag) of its table, and for the other tables as they stood then.

    Returns:
        ``chip``, ``mask`` (None for a chip), ``prompts``, ``datasets``, ``masks``, ``scenes``, ``run`` (None where its
        row is gone) and ``version`` that was asked for.

    Raises:
        TableNotFoundError: the store has no ``training_data``, or not that version.
        AegirError: no chip or mask, or more than one, has that id.
    """
    asked = Reference.parse(uuid)
    made = found_rows(uri, "masks", "mask_id", asked, optional=True)
    chips = found_rows(uri, "training_data", "uuid", asked, optional=bool(made))
    if len(chips) + len(made) != 1:
        raise AegirError(_not_one(uri, uuid, len(chips), len(made)))
    table = "training_data" if chips else "masks"
    moment = Moment(uri, table, asked.version)
    chain = _mask_chain(moment, made[0]) if made else _chip_chain(moment, chips[0])
    return chain | {"version": asked.version}


def mask_pixels(uri: str | Path, chain: Mapping[str, Any]) -> tuple[bytes | None, tuple[int, ...]]:
    """The mask at the end of a chain, one byte a pixel, None where it is empty; and its EPSG code and transform."""
    mask, chip = chain["mask"], chain["chip"]
    table, key, column = ("masks", "mask_id", "mask") if mask else ("training_data", "uuid", "generated_mask")
    row = mask or chip
    found = lance_io.scan(uri, table, [column], f"{key} = {literal(row[key])}", version=chain["version"])
    place = (row["epsg"], *row["transform"]) if mask else (row["vhr_epsg"], *row["vhr_transform"])
    return found[column][0].as_py(), place


class Moment:
    """The store's tables as they stood when a version of one of them was committed; the newest without a version."""

    def __init__(self, uri: str | Path, table: str, version: int | str | None) -> None:
        self.uri, self._table, self._version = uri, table, version

    @cached_property
    def _time(self) -> datetime | None:
        if self._version is None:
            return None
        pinned = lance_io.open_table(self.uri, self._table, self._version)
        return _times(pinned)[pinned.version]

    def rows(self, table: str, columns: Sequence[str], where: str) -> list[dict[str, Any]]:
        """Some columns of the rows of a table that satisfy ``where``, as they stood then."""
        found: list[dict[str, Any]] = lance_io.scan(self.uri, table, columns, where, self._then(table)).to_pylist()
        return found

    def _then(self, table: str) -> int | str | None:
        if self._time is None or table == self._table:
            return self._version
        try:
            times = _times(lance_io.open_table(self.uri, table))
        except TableNotFoundError:
            return None
        before = [version for version, time in times.items() if time <= self._time]
        # versions that were cleaned away leave the earliest one that stayed
        return max(before) if before else min(times)


def _times(table: lance.LanceDataset) -> dict[int, datetime]:
    """Version → when it was committed."""
    return {int(found["version"]): cast("datetime", found["timestamp"]) for found in table.versions()}


def _chip_chain(moment: Moment, chip: dict[str, Any]) -> dict[str, Any]:
    prompts = _prompts(moment, f"uuid = '{chip['uuid']}' AND input_set = {literal(chip['input_set'])}")
    made = f"uuid = '{chip['uuid']}' AND mask_recipe = {literal(chip['mask_recipe'])}"
    made += f" AND generation = {chip['generation']:d}"
    masks = moment.rows("masks", _columns("masks", but={"mask", "outline", "transform"}, uri=moment.uri), made)
    asked = {prompt["prompt_id"] for prompt in prompts}
    masks = [mask for mask in masks if mask["prompt_id"] in asked]
    run = run_row(moment.uri, chip["run_id"])
    return {"chip": chip, "mask": None, "masks": masks} | _around(moment, chip, prompts, run)


def _mask_chain(moment: Moment, mask: dict[str, Any]) -> dict[str, Any]:
    where = f"uuid = {literal(mask['uuid'])}"
    newest = Moment(moment.uri, "training_data", None)
    chips = newest.rows("training_data", _chip_columns(moment.uri), where)
    prompts = _prompts(moment, f"prompt_id = {literal(mask['prompt_id'])}")
    run = run_row(moment.uri, mask["run_id"])
    chip = chips[0] if chips else None
    return {"chip": chip, "mask": mask, "masks": [mask]} | _around(moment, chip, prompts, run)


def _around(
    moment: Moment, chip: Mapping[str, Any] | None, prompts: list[dict[str, Any]], run: dict[str, Any] | None
) -> dict[str, Any]:
    inputs = (run["inputs"] or {}) if run else {}
    return {
        "prompts": prompts,
        "datasets": _datasets(moment.uri, {prompt["dataset"] for prompt in prompts}, inputs.get("datasets", {})),
        "scenes": scenes_of(moment.uri, chip, inputs.get("scenes", {})) if chip else [],
        "run": run,
    }


def found_rows(
    uri: str | Path, table: str, key: str, asked: Reference, *, optional: bool = False
) -> list[dict[str, Any]]:
    """Up to two rows whose id begins as asked; none where an optional table, or its version, does not exist."""
    try:
        schema = lance_io.open_table(uri, table, asked.version).schema
    except TableNotFoundError:
        if optional:
            return []
        raise
    columns = [name for name in schema.names if name not in {*_PIXELS, "mask", "outline"}]
    # an index makes finding the row quick; the row itself is read by its whole id
    ids = lance_io.scan(uri, table, [key], f"{key} LIKE '{asked.start}%'", asked.version)[key].to_pylist()[:2]
    return [
        row
        for found in ids
        for row in lance_io.scan(uri, table, columns, f"{key} = {literal(found)}", asked.version).to_pylist()
    ]


def _not_one(uri: str | Path, asked: str, chips: int, masks: int) -> str:
    if chips and masks:
        found = "a chip and a mask"
    elif chips + masks:
        found = "more than one chip" if chips else "more than one mask"
    else:
        found = "no chip, no mask and no detection"
    return f"{found} of {uri} has an id that begins with {asked!r}; `python -m store show training_data` lists ids"


def _prompts(moment: Moment, where: str) -> list[dict[str, Any]]:
    """Prompts with a hash in place of each geometry."""
    rows = moment.rows("prompts", _columns("prompts", but=set(), uri=moment.uri), where)
    for row in rows:
        for name in _GEOMETRY:
            row[f"{name}_digest"] = digest((row.pop(name) or b"").hex())
        # tables of earlier schema versions have no points
        for name in _POINTS:
            points = row.pop(name, None)
            row[f"{name}_digest"] = None if points is None else digest(points.hex())
    return rows


def run_row(uri: str | Path, run_id: str) -> dict[str, Any] | None:
    """A run with its JSON columns read; None where its row is gone."""
    rows = lance_io.scan(uri, "runs", RUNS.names, f"run_id = {literal(run_id)}").to_pylist()
    if not rows:
        return None
    run: dict[str, Any] = rows[0]
    for column in _JSON:
        run[column] = json.loads(run[column] or "null")
    return run


def runs_by_id(uri: str | Path, run_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Run id → its row with JSON columns read, for the runs that have one."""
    return {run_id: run for run_id in run_ids if (run := run_row(uri, run_id)) is not None}


def newest_run(uri: str | Path, flow: str) -> dict[str, Any] | None:
    """The run of ``flow`` that started last; None without any."""
    rows = lance_io.scan(uri, "runs", ["run_id", "started_at"], f"flow = {literal(flow)}").to_pylist()
    return run_row(uri, max(rows, key=lambda row: row["started_at"])["run_id"]) if rows else None


def _datasets(uri: str | Path, names: set[str], keys: Mapping[str, str]) -> dict[str, dict[str, Any] | None]:
    """Dataset → its manifest as the run that made the chip knew it; None where the run recorded none."""
    wanted = sorted({keys[name] for name in names if name in keys})
    where = " OR ".join(f"dataset_key = {literal(key)}" for key in wanted)
    rows = lance_io.scan(uri, "datasets", _columns("datasets", but=set()), where).to_pylist() if wanted else []
    found = {row["dataset"]: row for row in rows}
    return {name: found.get(name) for name in sorted(names)}


def scenes_of(
    uri: str | Path, chip: Mapping[str, Any], checksums: Mapping[str, Mapping[str, str]]
) -> list[dict[str, Any]]:
    """The chip's scenes as the run that made it found them."""
    wanted = []
    for kind in ("vhr", "msi"):
        for scene in chip.get(f"{kind}_scene_ids") or []:
            checksum = checksums.get(kind, {}).get(scene)
            as_found = f" AND kind = '{kind}' AND checksum = {literal(checksum)}" if checksum else ""
            wanted.append(f"(scene_id = {literal(scene)}{as_found})")
    columns = ["kind", "scene_id", "source", "sensor", "acquired_at", "assets", "checksum"]
    rows: list[dict[str, Any]] = lance_io.scan(uri, "scenes", columns, " OR ".join(wanted) or "false").to_pylist()
    return rows


def _columns(table: str, *, but: set[str], uri: str | Path | None = None) -> list[str]:
    """Columns of a table; those of the table on disk, which may be of an earlier schema version."""
    names: list[str] = TABLES[table].names
    if uri is not None:
        try:
            names = lance_io.open_table(uri, table).schema.names
        except TableNotFoundError:
            names = TABLES[table].names
    return [name for name in names if name not in but]


def _chip_columns(uri: str | Path) -> list[str]:
    schema: pa.Schema = lance_io.open_table(uri, "training_data").schema
    return [name for name in schema.names if name not in _PIXELS]
