"""Columns of stored chips that follow from their mask: area fractions, PV share and index means, taken anew."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataflows import spectral_indices
from store.backfill_schemas import mask_columns
from utils.area import area_fractions
from utils.indices import INDICES, spectral_index
from utils.types import IGNORE, ChipGrid, ChipProfile, RasterChip

PLACE_COLUMNS = ("vhr_epsg", "vhr_transform")
MSI_COLUMNS = (
    "msi_image_chip", "msi_scl", "msi_epsg", "msi_transform", "msi_source", "msi_scene_ids", "msi_sensor",
    "msi_acquired_at",
)  # fmt: skip


def grid_of(row: Mapping[str, Any], profile: ChipProfile, kind: str = "vhr") -> ChipGrid:
    """Pixel grid of a stored chip, ``vhr`` or ``msi``."""
    height, width = (profile.height, profile.width) if kind == "vhr" else (profile.msi_height, profile.msi_width)
    transform = tuple(row[f"{kind}_transform"])
    return ChipGrid(epsg=row[f"{kind}_epsg"], transform=transform, height=height, width=width)


def mask_statistics(rows: pa.Table, masks: list[NDArray[np.uint8]], profile: ChipProfile) -> list[dict[str, Any]]:
    """What rows of ``training_data`` say of a mask each: ``generated_mask``, ``pv_fraction``, ``msi_mask``, indices.

    Args:
        rows: :data:`PLACE_COLUMNS`, and :data:`MSI_COLUMNS` where the profile has multispectral chips.
        masks: one per row, uint8 (rows, columns): 0 background, 1 PV, 255 ignore.
        profile: chip profile of the table.
    """
    images = rows["msi_image_chip"].combine_chunks().to_numpy_ndarray() if profile.has_msi else None
    classes = rows["msi_scl"].combine_chunks().to_numpy_ndarray() if profile.has_msi else None
    plain = rows.drop_columns([name for name in ("msi_image_chip", "msi_scl") if name in rows.column_names]).to_pylist()
    found = []
    for number, (row, mask) in enumerate(zip(plain, masks, strict=True)):
        known = int((mask != IGNORE).sum())
        told: dict[str, Any] = {
            "generated_mask": mask.tobytes(),
            "pv_fraction": int((mask == 1).sum()) / known if known else None,
        }
        if images is not None and classes is not None:
            chip = _msi_chip(row, images[number], classes[number], profile)
            fractions = area_fractions(mask, grid_of(row, profile), chip.grid)
            told |= {"msi_mask": fractions.tobytes()} | _index_means(chip, fractions)
        found.append(told)
    return found


def _msi_chip(
    row: Mapping[str, Any], pixels: NDArray[np.uint16], classes: NDArray[np.uint8], profile: ChipProfile
) -> RasterChip:
    return RasterChip(
        data=pixels,
        # 0 is nodata in stored multispectral chips
        valid=(pixels != 0).all(axis=0),
        grid=grid_of(row, profile, "msi"),
        bands=profile.msi_bands,
        source=row["msi_source"],
        scene_ids=tuple(row["msi_scene_ids"]),
        sensor=row["msi_sensor"],
        acquired_at=row["msi_acquired_at"],
        scl=classes,
    )


def _index_means(chip: RasterChip, fractions: NDArray[np.uint8]) -> dict[str, float | None]:
    chips = {"chip": chip}
    planes = spectral_indices.msi_reflectance(chips)
    images = {
        name: spectral_index(name, planes) for name, spec in INDICES.items() if set(spec.bands) <= set(chip.bands)
    }
    means: dict[str, float | None] = spectral_indices.index_statistics(
        images, chips, {"chip": fractions}, spectral_indices.clear_masks(chips)
    )["chip"]
    return means


def written_columns(schema: pa.Schema, told: Mapping[str, Any]) -> list[str]:
    """Those of the columns told that change with a mask, in the schema's order."""
    return [name for name in mask_columns(schema) if name in told]
