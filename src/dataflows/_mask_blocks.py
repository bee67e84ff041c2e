"""Masks of some generations with their prompts and chips, a few chips at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from store import lance_io
from store.schemas import profile_of
from store.sql import literals

_CHIPS_AT_ONCE = 64
_COLUMNS = (
    "prompt_id", "uuid", "generation", "backend", "mask", "verdict", "epsg", "transform", "created_at", "run_id",
)  # fmt: skip
_PROMPT_COLUMNS = ("prompt_id", "uuid", "kind", "geometry", "created_at", "run_id")


@dataclass(kw_only=True)
class MaskBlock:
    """Masks and prompts of a few chips."""

    shape: tuple[int, int]
    """Rows and columns of a mask."""
    masks: dict[int, dict[tuple[str, str], dict[str, Any]]]
    """Generation → (prompt, chip) → its newest mask in force."""
    outdated: dict[int, int]
    """Generation → masks older than what they answer."""
    prompts: dict[str, dict[str, Any]]
    """Prompt → its row."""
    chips: list[dict[str, Any]]
    """Rows of ``training_data``, where they were asked for."""


def mask_blocks(
    store: str, sides: Sequence[int], verdicts: Sequence[str] = (), *, every_chip: bool = False
) -> Iterator[MaskBlock]:
    """The store's chips with masks of some generations, a few at a time; only their ids are held all at once.

    Args:
        store: the store.
        sides: numbers of generations.
        verdicts: only masks of these verdicts; empty is all.
        every_chip: take in chips without such masks, and read what ``training_data`` says of each.

    Raises:
        TableNotFoundError: the store has no masks.
    """
    profile = profile_of(lance_io.open_table(store, "masks").schema)
    numbers = ", ".join(str(number) for number in sides)
    uuids = set(lance_io.scan(store, "masks", ["uuid"], f"generation IN ({numbers})")["uuid"].to_pylist())
    if every_chip:
        uuids |= set(lance_io.scan(store, "training_data", ["uuid"])["uuid"].to_pylist())
    ordered = sorted(uuids)
    for start in range(0, len(ordered), _CHIPS_AT_ONCE):
        here = f"uuid IN ({literals(ordered[start : start + _CHIPS_AT_ONCE])})"
        prompts = {
            row["prompt_id"]: row for row in lance_io.scan(store, "prompts", list(_PROMPT_COLUMNS), here).to_pylist()
        }
        where = f"{here} AND generation IN ({numbers}) AND retired_at IS NULL"
        rows = lance_io.scan(store, "masks", list(_COLUMNS), where).sort_by("created_at").to_pylist()
        block = MaskBlock(
            shape=(profile.height, profile.width),
            masks={number: {} for number in sides},
            outdated=dict.fromkeys(sides, 0),
            prompts=prompts,
            chips=_chips(store, here) if every_chip else [],
        )
        for row in rows:
            block.masks[row["generation"]][row["prompt_id"], row["uuid"]] = row
        for number, found in block.masks.items():
            _leave_out(block, number, found, verdicts)
        yield block


def _leave_out(
    block: MaskBlock, number: int, found: dict[tuple[str, str], dict[str, Any]], verdicts: Sequence[str]
) -> None:
    """Drop masks of other verdicts, and count and drop those older than what they answer."""
    for key, row in list(found.items()):
        if _is_outdated(row, block.prompts.get(row["prompt_id"])):
            block.outdated[number] += 1
            del found[key]
        elif verdicts and row["verdict"] not in verdicts:
            del found[key]


def _is_outdated(mask: dict[str, Any], prompt: dict[str, Any] | None) -> bool:
    if prompt is None:
        return False
    asked: datetime = prompt["created_at"]
    return bool(mask["created_at"] < asked and mask["run_id"] != prompt["run_id"])


def _chips(store: str, where: str) -> list[dict[str, Any]]:
    columns = ["uuid", "vhr_epsg", "vhr_transform", "vhr_acquired_at", "footprint"]
    rows: list[dict[str, Any]] = lance_io.scan(store, "training_data", columns, where).sort_by("uuid").to_pylist()
    return rows
