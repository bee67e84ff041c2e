"""Masks of a new generation: prompts of chips that are in the store, answered by another backend or other options."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from hamilton.function_modifiers import dataloader, datasaver, tag
from numpy.typing import NDArray

from dataflows import lance_writer
from dataflows.lance_writer import Provenance
from store import generations, lance_io
from store.partition_rows import PartitionRows
from store.sql import literals
from utils.errors import ImageryChangedError
from utils.failures import Failure
from utils.quality import iou
from utils.types import ChipProfile, RasterChip


@tag(stage="generations")
@dataloader()
def stored_pixels(store: str, chip_plan: pa.Table) -> tuple[dict[str, NDArray[np.uint8]], dict[str, Any]]:
    """Chip id → the VHR pixels the store holds, uint8 (band, row, column), without halo."""
    where = f"uuid IN ({literals(chip_plan['uuid'].to_pylist())})" if len(chip_plan) else "false"
    found: dict[str, NDArray[np.uint8]] = {}
    dataset = lance_io.open_table(store, "training_data")
    for batch in dataset.scanner(columns=["uuid", "vhr_image_chip"], filter=where, batch_size=64).to_batches():
        found |= zip(batch["uuid"].to_pylist(), batch["vhr_image_chip"].to_numpy_ndarray(), strict=True)
    return found, {"chips": len(found)}


@tag(stage="generations")
def changed_imagery(
    vhr_chips: dict[str, RasterChip], stored_pixels: dict[str, NDArray[np.uint8]], halo_px: int, chip_plan: pa.Table
) -> list[Failure]:
    """Chips whose pixels, read again, are not those the store holds: masks on them would answer another image."""
    inputs = dict(zip(chip_plan["uuid"].to_pylist(), chip_plan["input_set"].to_pylist(), strict=True))
    failures = []
    for uuid, chip in vhr_chips.items():
        rows, columns = chip.grid.height, chip.grid.width
        core = chip.data[:, halo_px : rows - halo_px, halo_px : columns - halo_px]
        stored = stored_pixels.get(uuid)
        if stored is not None and np.array_equal(core, stored):
            continue
        told = "is not in the store any more" if stored is None else _difference(core, stored)
        error = ImageryChangedError(f"the chip {told}; make it again with `python -m dataflows run`")
        failures.append(
            Failure.of("changed_imagery", error, uuid=uuid, input_ids=chip.scene_ids, input_set=inputs[uuid])
        )
    return failures


@tag(stage="generations")
@dataloader()
def first_masks(
    store: str, chip_plan: pa.Table
) -> tuple[dict[tuple[str, str], NDArray[np.bool_] | None], dict[str, Any]]:
    """(Prompt, chip) → its mask of generation 0, flat; None where that mask is empty."""
    stored = generations.first_masks(store, chip_plan["uuid"].to_pylist())
    found = {key: None if data is None else np.frombuffer(data, np.uint8) > 0 for key, data in stored.items()}
    return found, {"masks": len(found)}


@tag(stage="generations", table="masks")
def generation_rows(
    mask_rows: list[dict[str, Any]],
    changed_imagery: list[Failure],
    first_masks: dict[tuple[str, str], NDArray[np.bool_] | None],
    provenance: Provenance,
    stored_profile: ChipProfile,
) -> pa.Table:
    """Rows of ``masks`` with the score ``agreement``: IoU with the mask of generation 0 of the same prompt and chip.

    A mask whose prompt has none of generation 0 gets no such score; two empty masks agree fully.
    """
    changed = {failure.uuid for failure in changed_imagery}
    rows = [_with_agreement(row, first_masks) for row in mask_rows if row["uuid"] not in changed]
    return lance_writer.mask_table(rows, provenance, stored_profile)


@tag(stage="generations")
@datasaver()
def generation_write(
    partition: int,
    generation_rows: pa.Table,
    changed_imagery: list[Failure],
    chip_failures: list[Failure],
    mask_failures: list[Failure],
    commit_buffer: PartitionRows,
) -> dict:  # type: ignore[type-arg]
    """Hand one partition's masks and failures to the commit buffer and return a receipt: counts, never pixels."""
    changed = {failure.uuid for failure in changed_imagery}
    failures = [*chip_failures, *changed_imagery, *(found for found in mask_failures if found.uuid not in changed)]
    commit_buffer.masks.append(generation_rows)
    commit_buffer.fail(failures, partition=partition)
    verdicts = Counter(generation_rows["verdict"].to_pylist())
    return {
        "partition": partition,
        "chips": len(set(generation_rows["uuid"].to_pylist())),
        "failed": len({failure.uuid for failure in failures}),
        "not_taken": 0,
        **{verdict: verdicts[verdict] for verdict in ("accept", "review", "reject", "not_in_chip")},
    }


def _difference(core: NDArray[np.generic], stored: NDArray[np.uint8]) -> str:
    if core.shape != stored.shape:
        return f"was {stored.shape} and reads as {core.shape}"
    pixels = int((core != stored).any(axis=0).sum())
    return f"reads differently in {pixels} of {core[0].size} pixels than when it was made"


def _with_agreement(row: dict[str, Any], first: dict[tuple[str, str], NDArray[np.bool_] | None]) -> dict[str, Any]:
    key = row["prompt_id"], row["uuid"]
    if key not in first:
        return row
    one, two = (None if row["mask"] is None else np.frombuffer(row["mask"], np.uint8) > 0), first[key]
    size = next((len(mask) for mask in (one, two) if mask is not None), 0)
    nothing = np.zeros(size, np.bool_)
    agreement = iou(nothing if one is None else one, nothing if two is None else two)
    return row | {"scores": sorted([*row["scores"], ("agreement", agreement)])}
