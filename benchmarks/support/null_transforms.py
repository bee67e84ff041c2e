"""Nodes of the build flow that do the work, replaced by constant results: what is left is orchestration."""

import sys
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
from hamilton import driver
from hamilton.function_modifiers import hamilton_exclude
from numpy.typing import NDArray

from dataflows import drivers
from dataflows._chips import ChipReads, planned_grid
from dataflows.config import BuildConfig
from dataflows.flow_inputs import build_inputs
from dataflows.sam_mask_factory import JudgedMask
from utils.indices import INDICES
from utils.types import RGB_BANDS, ChipProfile, Mask, Prompt, RasterChip

_ACQUIRED = datetime(2023, 6, 14, tzinfo=UTC)
_STATISTICS = {f"{name}_{place}": 0.5 for name in INDICES for place in ("chip", "inside", "ring")} | {
    "index_inside_px": 10.0,
    "index_ring_px": 20.0,
}
_PIXELS: dict[tuple[int, ...], NDArray[Any]] = {}


def vhr_reads(chip_plan: pa.Table, chip_profile: ChipProfile, halo_px: int) -> ChipReads:
    """One constant chip for every place."""
    side = chip_profile.height + 2 * halo_px
    data, valid = _constant((3, side, side), np.uint8), _constant((side, side), np.bool_)
    chips = {
        row["uuid"]: RasterChip(
            data=data, valid=valid, grid=planned_grid(row, chip_profile).padded(halo_px), bands=RGB_BANDS,
            source="local", scene_ids=("vhr",), sensor="none", acquired_at=_ACQUIRED,
        )
        for row in chip_plan.to_pylist()
    }  # fmt: skip
    return ChipReads(chips=chips, failures=[])


def msi_reads(chip_plan: pa.Table, chip_profile: ChipProfile) -> ChipReads:
    """One constant chip for every place."""
    shape = (chip_profile.msi_height, chip_profile.msi_width)
    data, valid = _constant((len(chip_profile.msi_bands), *shape), np.uint16), _constant(shape, np.bool_)
    scl = _constant(shape, np.uint8)
    chips = {
        row["uuid"]: RasterChip(
            data=data, valid=valid, grid=planned_grid(row, chip_profile, msi=True), bands=chip_profile.msi_bands,
            source="local", scene_ids=("msi",), sensor="none", acquired_at=_ACQUIRED, scl=scl,
        )
        for row in chip_plan.to_pylist()
    }  # fmt: skip
    return ChipReads(chips=chips, failures=[])


def segmentation() -> dict[str, Any]:
    """No masks before judgement, and no failures."""
    return {"raw_masks": {}, "mask_failures": []}


def judged_masks(
    vhr_cores: dict[str, RasterChip], chip_prompts: dict[str, list[Prompt]]
) -> dict[str, list[JudgedMask]]:
    """One constant mask for every prompt, accepted."""
    return {uuid: [_judged(chip, prompt) for prompt in chip_prompts[uuid]] for uuid, chip in vhr_cores.items()}


def generated_masks(vhr_cores: dict[str, RasterChip]) -> dict[str, NDArray[np.uint8]]:
    """One constant mask for every chip."""
    return {uuid: _constant(chip.valid.shape, np.uint8) for uuid, chip in vhr_cores.items()}


def msi_masks(msi_chips: dict[str, RasterChip]) -> dict[str, NDArray[np.uint8]]:
    """One constant mask for every chip."""
    return {uuid: _constant(chip.valid.shape, np.uint8) for uuid, chip in msi_chips.items()}


def index_statistics(msi_chips: dict[str, RasterChip]) -> dict[str, dict[str, float | None]]:
    """The same statistics for every chip."""
    return dict.fromkeys(msi_chips, _STATISTICS)


def chip_cells(chip_plan: pa.Table) -> pa.Table:
    """The same cells for every chip."""
    cell = pa.array(np.full(len(chip_plan), 1 << 60, np.uint64))
    return pa.table({"uuid": chip_plan["uuid"], **dict.fromkeys(("s2_cell", "s2_l10", "s2_l13", "h3_cell"), cell)})


def mask_rows(judged_masks: dict[str, list[JudgedMask]]) -> list[dict[str, Any]]:
    """Rows of ``masks`` with a constant outline."""
    return [_mask_row(uuid, judged.mask) for uuid, found in judged_masks.items() for judged in found]


@hamilton_exclude
def driver_of(config: BuildConfig, *adapters: Any) -> driver.Driver:
    """The build flow with this module's nodes in place of its own."""
    names = [import_module(name) for name in drivers.flow("build").modules]
    builder = driver.Builder().with_modules(*names, sys.modules[__name__]).allow_module_overrides()
    return builder.with_config(build_inputs(config)).with_adapters(*adapters).build()


def _judged(chip: RasterChip, prompt: Prompt) -> JudgedMask:
    mask = Mask(
        data=_constant(chip.valid.shape, np.bool_), grid=chip.grid, prompt_id=prompt.prompt_id,
        scores={"predicted_iou": 0.9, "stability": 0.9},
    )  # fmt: skip
    return JudgedMask(mask=mask, score=0.9, verdict="accept", reasons=(), area_m2=100.0)


def _mask_row(uuid: str, mask: Mask) -> dict[str, Any]:
    return {
        "uuid": uuid, "prompt_id": mask.prompt_id, "verdict": "accept", "flags": [], "score": 0.9,
        "scores": sorted(mask.scores.items()), "area_m2": 100.0, "mask": mask.data.tobytes(), "outline": bytes(93),
        "epsg": mask.grid.epsg, "transform": list(mask.grid.transform),
    }  # fmt: skip


def _constant(shape: tuple[int, ...], kind: type) -> NDArray[Any]:
    key = (*shape, np.dtype(kind).num)
    if key not in _PIXELS:
        _PIXELS[key] = np.ones(shape, kind)
    return _PIXELS[key]
