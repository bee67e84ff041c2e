"""Blocks of a search: the unit of large-area inference, cut from one raster grid on a fixed pixel lattice."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray

from utils.errors import EmptyAreaError
from utils.types import ChipGrid

PROBABILITY_SCALE: Final = 254
"""Stored probabilities are uint8: 0 to 254 is 0 to 1."""
PROBABILITY_NODATA: Final = 255
"""Stored probability of pixels without imagery, or that no window covered."""

_SAME_PX = 1e-3
_SAME_GSD = 1e-5
_PHASE_DIGITS = 6
_BOXES_AT_ONCE = 1 << 18


@dataclass(frozen=True, kw_only=True)
class SearchBlock:
    """One block of a search raster."""

    row: int
    """Row in the lattice of blocks."""
    column: int
    """Column in the lattice of blocks."""
    top_px: int
    """Row of its upper-left pixel in the search raster."""
    left_px: int
    """Column of its upper-left pixel in the search raster."""
    grid: ChipGrid
    """Its pixels, without halo; blocks at the right and lower edge are cut off at the raster's edge."""

    @property
    def block_id(self) -> str:
        """Name of the block, the same in every run on the same raster: ``r00012-c00003``."""
        return f"r{self.row:05d}-c{self.column:05d}"


@dataclass(frozen=True, kw_only=True)
class PixelLattice:
    """All pixels of one size in one CRS: rasters cut from it share pixels wherever they overlap.

    Pixel edges lie at ``(k + phase_x) · gsd_m`` and ``(k + phase_y) · gsd_m`` for whole numbers ``k``.
    """

    epsg: int
    """EPSG code of the CRS, metres."""
    gsd_m: float
    """Pixel size, metres."""
    phase_x: float = 0.0
    """Where columns begin, 0 to 1 pixel."""
    phase_y: float = 0.0
    """Where rows begin, 0 to 1 pixel."""

    def covering(self, bounds: tuple[float, float, float, float]) -> ChipGrid:
        """The least raster of the lattice that holds ``(min x, min y, max x, max y)``, CRS units.

        Raises:
            EmptyAreaError: the bounds have no area, or next to none.
        """
        west, south, east, north = (value / self.gsd_m for value in bounds)
        # what lies on a pixel's edge but for rounding takes no further pixel in
        left, right = math.floor(west - self.phase_x + _SAME_PX), math.ceil(east - self.phase_x - _SAME_PX)
        bottom, top = math.floor(south - self.phase_y + _SAME_PX), math.ceil(north - self.phase_y - _SAME_PX)
        if not (east > west and north > south and right > left and top > bottom):
            raise EmptyAreaError(f"the area {bounds} (EPSG:{self.epsg}) holds no pixel of {self.gsd_m} m")
        x, y = (left + self.phase_x) * self.gsd_m, (top + self.phase_y) * self.gsd_m
        return ChipGrid(
            epsg=self.epsg,
            transform=(self.gsd_m, 0.0, x, 0.0, -self.gsd_m, y),
            height=top - bottom,
            width=right - left,
        )


def common_lattice(grids: Sequence[ChipGrid], gsd_m: float) -> PixelLattice | None:
    """The lattice that every grid lies on, if its pixels have this size: reads on it need no resampling.

    Grids count as aligned when they are north-up, of one CRS, and shifted against each other by whole pixels, to a
    thousandth of a pixel.

    Args:
        grids: pixel grids of scenes.
        gsd_m: wanted pixel size, metres.
    """
    if not grids or len({grid.epsg for grid in grids}) > 1:
        return None
    a, b, c, d, e, f = np.array([grid.transform for grid in grids]).T
    if (b != 0).any() or (d != 0).any() or (np.abs(np.stack([a, -e]) / gsd_m - 1) > _SAME_GSD).any():
        return None
    phases = [_phase(origin / gsd_m) for origin in (c, f)]
    if None in phases:
        return None
    return PixelLattice(epsg=grids[0].epsg, gsd_m=gsd_m, phase_x=float(phases[0] or 0), phase_y=float(phases[1] or 0))


def _phase(origins_px: NDArray[np.float64]) -> float | None:
    """What the origins have beyond whole pixels, 0 to 1; None where they differ."""
    beyond = origins_px - np.round(origins_px[0])
    apart = beyond - beyond[0]
    if (np.abs(apart - np.round(apart)) > _SAME_PX).any():
        return None
    return round(float(beyond[0]), _PHASE_DIGITS) % 1.0


def block_at(raster: ChipGrid, block_px: int, row: int, column: int) -> SearchBlock:
    """The block at a place in the lattice of blocks of ``block_px`` rows and columns."""
    a, b, c, d, e, f = raster.transform
    top, left = row * block_px, column * block_px
    grid = ChipGrid(
        epsg=raster.epsg,
        transform=(a, b, c + a * left + b * top, d, e, f + d * left + e * top),
        height=min(block_px, raster.height - top),
        width=min(block_px, raster.width - left),
    )
    return SearchBlock(row=row, column=column, top_px=top, left_px=left, grid=grid)


def search_blocks(raster: ChipGrid, block_px: int) -> list[SearchBlock]:
    """Blocks that cover a raster, row by row.

    Args:
        raster: the search raster.
        block_px: rows and columns of a block.
    """
    rows, columns = math.ceil(raster.height / block_px), math.ceil(raster.width / block_px)
    return [block_at(raster, block_px, row, column) for row in range(rows) for column in range(columns)]


def blocks_over(raster: ChipGrid, block_px: int, area: shapely.Geometry) -> list[SearchBlock]:
    """Blocks that share ground with an area, row by row; blocks elsewhere are never made.

    Args:
        raster: the search raster, north-up.
        block_px: rows and columns of a block.
        area: polygons in the raster's CRS.
    """
    shapely.prepare(area)
    return [
        block_at(raster, block_px, row, column)
        for rows, columns in _places(raster, block_px)
        for row, column in zip(*_touching(raster, block_px, area, rows, columns), strict=True)
    ]


def _places(raster: ChipGrid, block_px: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows and columns of all blocks, some at a time so that memory does not grow with the raster."""
    rows, columns = math.ceil(raster.height / block_px), math.ceil(raster.width / block_px)
    step = max(1, _BOXES_AT_ONCE // columns)
    for start in range(0, rows, step):
        row, column = np.meshgrid(np.arange(start, min(start + step, rows)), np.arange(columns), indexing="ij")
        yield row.ravel(), column.ravel()


def _touching(
    raster: ChipGrid, block_px: int, area: shapely.Geometry, row: NDArray[np.int64], column: NDArray[np.int64]
) -> tuple[list[int], list[int]]:
    a, _, c, _, e, f = raster.transform
    left, top = column * block_px, row * block_px
    right, bottom = np.minimum(left + block_px, raster.width), np.minimum(top + block_px, raster.height)
    boxes = shapely.box(c + a * left, f + e * bottom, c + a * right, f + e * top)
    # interiors meet: for two areas, an intersection with positive area
    shared = shapely.intersects(area, boxes)
    shared[shared] = shapely.relate_pattern(area, boxes[shared], "T********")
    return row[shared].tolist(), column[shared].tolist()


def block_boxes(blocks: Sequence[SearchBlock]) -> NDArray[np.object_]:
    """Outlines of blocks as shapely polygons, shape (n,), in the raster's CRS."""
    boxes = np.empty(len(blocks), object)
    boxes[:] = [block.grid.footprint for block in blocks]
    return boxes
