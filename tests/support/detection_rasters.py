"""Probability rasters cut into blocks, held in memory, for tests of detections."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import shapely
from numpy.typing import NDArray

from utils.search_blocks import SearchBlock, search_blocks
from utils.types import ChipGrid

DAY = datetime(2023, 6, 9, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldBlock:
    data: NDArray[np.uint8]
    scene_ids: tuple[str, ...]
    acquired_at: datetime


@dataclass(kw_only=True, eq=False)
class HeldParts:
    """Blocks of one array; those in ``missing`` are not done."""

    data: NDArray[np.uint8]
    missing: set[str] = field(default_factory=set)
    block_px: int = 16
    grid: ChipGrid | None = None

    @property
    def raster(self) -> ChipGrid:
        return self.grid or raster_of(self.data)

    @property
    def blocks(self) -> list[SearchBlock]:
        return search_blocks(self.raster, self.block_px)

    def done(self) -> set[str]:
        return {block.block_id for block in self.blocks} - self.missing

    def read(self, block: SearchBlock) -> HeldBlock:
        rows, columns = (
            slice(block.top_px, block.top_px + block.grid.height),
            slice(block.left_px, block.left_px + block.grid.width),
        )
        return HeldBlock(data=self.data[rows, columns], scene_ids=(f"scene of {block.block_id}",), acquired_at=DAY)


def raster_of(data: NDArray[np.uint8], gsd_m: float = 0.5) -> ChipGrid:
    return ChipGrid(
        epsg=32632,
        transform=(gsd_m, 0.0, 465_000.0, 0.0, -gsd_m, 5_250_000.0),
        height=data.shape[0],
        width=data.shape[1],
    )


def raster_over(shapes: NDArray[np.object_], gsd_m: float = 0.3, epsg: int = 32632) -> ChipGrid:
    """A raster around geometries in metres, with a margin of ten pixels."""
    west, south, east, north = shapely.total_bounds(shapes)
    margin = 10 * gsd_m
    return ChipGrid(
        epsg=epsg,
        transform=(gsd_m, 0.0, west - margin, 0.0, -gsd_m, north + margin),
        height=int((north - south) / gsd_m) + 20,
        width=int((east - west) / gsd_m) + 20,
    )
