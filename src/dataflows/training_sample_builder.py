"""Training samples: one row per chip, with its mask on the VHR grid and PV area fractions on the multispectral grid."""

from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from hamilton.function_modifiers import tag
from numpy.typing import NDArray

from dataflows._chip_masks import chip_mask, verdict_columns
from dataflows.sam_mask_factory import JudgedMask
from utils.area import area_fractions
from utils.geo import reproject
from utils.scl import cloud_fraction, shadow_fraction
from utils.types import IGNORE, Prompt, RasterChip


@tag(stage="samples")
def vhr_cores(vhr_chips: dict[str, RasterChip], halo_px: int) -> dict[str, RasterChip]:
    """VHR chips without their halo."""
    return {uuid: _core(chip, halo_px) for uuid, chip in vhr_chips.items()}


@tag(stage="samples")
def generated_masks(
    vhr_cores: dict[str, RasterChip],
    judged_masks: dict[str, list[JudgedMask]],
    chip_prompts: dict[str, list[Prompt]],
) -> dict[str, NDArray[np.uint8]]:
    """Mask per chip, uint8 (rows, columns): 0 background, 1 PV, 255 ignore.

    255 is nodata, masks that were rejected or await review, and the ground of their prompts, unless an accepted mask
    holds the prompt's centre: somebody said there is PV, so it is not taught as background. Where an accepted mask and
    another overlap, the accepted one counts.
    """
    return {uuid: chip_mask(vhr_cores[uuid], judged, chip_prompts[uuid]) for uuid, judged in judged_masks.items()}


@tag(stage="samples")
def msi_masks(
    generated_masks: dict[str, NDArray[np.uint8]],
    vhr_cores: dict[str, RasterChip],
    msi_chips: dict[str, RasterChip],
) -> dict[str, NDArray[np.uint8]]:
    """PV area fraction per multispectral pixel, uint8 (rows, columns): 0-254 is 0-100 %, 255 unknown."""
    return {
        uuid: area_fractions(generated_masks[uuid], vhr_cores[uuid].grid, chip.grid)
        for uuid, chip in msi_chips.items()
        if uuid in generated_masks
    }


@tag(stage="samples", table="training_data")
def training_samples(
    chip_plan: pa.Table,
    prompts: pa.Table,
    vhr_cores: dict[str, RasterChip],
    msi_chips: dict[str, RasterChip],
    generated_masks: dict[str, NDArray[np.uint8]],
    msi_masks: dict[str, NDArray[np.uint8]],
    judged_masks: dict[str, list[JudgedMask]],
    chip_cells: pa.Table,
    index_statistics: dict[str, dict[str, float | None]],
) -> list[dict[str, Any]]:
    """One row of ``training_data`` per complete chip, without recipes and run; pixels as arrays."""
    cells = {row["uuid"]: row for row in chip_cells.to_pylist()}
    geometry = _prompt_collections(prompts)
    rows = []
    for planned in chip_plan.to_pylist():
        uuid = planned["uuid"]
        if uuid not in generated_masks:
            continue
        row = (
            {name: planned[name] for name in ("uuid", "split_cell", "split", "partition", "chip_role", "input_set")}
            | cells[uuid]
            | {"prompt_geometry": geometry.get(uuid)}
            | _vhr_columns(vhr_cores[uuid], generated_masks[uuid])
            | verdict_columns(judged_masks[uuid])
        )
        if uuid in msi_chips:
            row |= _msi_columns(msi_chips[uuid], msi_masks[uuid]) | index_statistics[uuid]
        rows.append(row)
    return rows


def _core(chip: RasterChip, halo_px: int) -> RasterChip:
    grid = chip.grid.padded(-halo_px)
    window = np.s_[..., halo_px : halo_px + grid.height, halo_px : halo_px + grid.width]
    return RasterChip(
        data=chip.data[window],
        valid=chip.valid[window],
        grid=grid,
        bands=chip.bands,
        source=chip.source,
        scene_ids=chip.scene_ids,
        sensor=chip.sensor,
        acquired_at=chip.acquired_at,
    )


def _prompt_collections(prompts: pa.Table) -> dict[str, bytes]:
    shapes: dict[str, list[shapely.Geometry]] = {}
    for row in prompts.select(["uuid", "geometry"]).to_pylist():
        shapes.setdefault(row["uuid"], []).append(shapely.from_wkb(row["geometry"]))
    return {uuid: shapely.to_wkb(shapely.GeometryCollection(found)) for uuid, found in shapes.items()}


def _placed(chip: RasterChip, prefix: str) -> dict[str, Any]:
    return {
        f"{prefix}_source": chip.source,
        f"{prefix}_scene_ids": list(chip.scene_ids),
        f"{prefix}_sensor": chip.sensor,
        f"{prefix}_acquired_at": chip.acquired_at,
        f"{prefix}_gsd_m": chip.grid.gsd_m,
        f"{prefix}_epsg": chip.grid.epsg,
        f"{prefix}_transform": list(chip.grid.transform),
        f"{prefix}_valid_fraction": chip.valid_fraction,
    }


def _vhr_columns(chip: RasterChip, mask: NDArray[np.uint8]) -> dict[str, Any]:
    known = int((mask != IGNORE).sum())
    return _placed(chip, "vhr") | {
        "vhr_image_chip": chip.data,
        "generated_mask": mask.tobytes(),
        "footprint": shapely.to_wkb(reproject(chip.grid.footprint, chip.grid.epsg, 4326)),
        "pv_fraction": int((mask == 1).sum()) / known if known else None,
    }


def _msi_columns(chip: RasterChip, fractions: NDArray[np.uint8]) -> dict[str, Any]:
    scl = chip.scl if chip.scl is not None else np.zeros((chip.grid.height, chip.grid.width), np.uint8)
    return _placed(chip, "msi") | {
        "msi_image_chip": chip.data,
        "msi_scl": scl,
        "msi_mask": fractions.tobytes(),
        "cloud_fraction": cloud_fraction(scl),
        "shadow_fraction": shadow_fraction(scl),
    }
