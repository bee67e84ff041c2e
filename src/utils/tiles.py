"""Chips side by side on one pixel lattice as one image, so that what is costly per image is done once for all."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from affine import Affine

from utils.types import ChipGrid, RasterChip

_SUBPIXEL = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """One image made of chips."""

    chip: RasterChip
    """The pixels of all its chips; nodata where no chip reaches."""
    members: tuple[int, ...]
    """Numbers of the chips in it, ascending."""
    windows: tuple[tuple[slice, slice], ...]
    """Rows and columns of each member in the tile."""


def shared_tiles(chips: Sequence[RasterChip], tile_px: int) -> list[Tile]:
    """Chips gathered into images of at most ``tile_px`` rows and columns; every chip is in exactly one.

    Chips share a tile when they lie on one lattice (CRS, pixel vectors, whole-pixel offsets), hold the same bands of
    one source and time, and their centres fall into one block of a raster that is fixed on the ground; so a chip's tile
    does not depend on the order of chips. Where chips overlap, the first with data counts.

    Args:
        chips: of any size; one larger than the tile is a tile of its own.
        tile_px: greatest side, pixels; 0 gives each chip a tile of its own.
    """
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, chip in enumerate(chips):
        groups[_block(chip, tile_px) or (number,)].append(number)
    return [_tile([chips[number] for number in members], tuple(members)) for members in groups.values()]


def _block(chip: RasterChip, tile_px: int) -> tuple[object, ...] | None:
    """What chips of one tile have in common; None for a chip that shares with nobody."""
    grid = chip.grid
    step_rows, step_cols = tile_px - grid.height, tile_px - grid.width
    if step_rows <= 0 or step_cols <= 0:
        return None
    col, row = _origin(grid)
    phase = tuple(round(value / _SUBPIXEL) % round(1 / _SUBPIXEL) for value in (col, row))
    block = (int(np.floor((col + grid.width / 2) / step_cols)), int(np.floor((row + grid.height / 2) / step_rows)))
    a, b, _, d, e, _ = grid.transform
    shape = (grid.height, grid.width, chip.data.dtype.str, chip.bands)
    return (grid.epsg, a, b, d, e, phase, block, shape, chip.source, chip.sensor, chip.acquired_at)


def _origin(grid: ChipGrid) -> tuple[float, float]:
    """Pixels from the CRS's origin to the grid's upper-left corner, along its own columns and rows."""
    a, b, c, d, e, f = grid.transform
    col, row = ~Affine(a, b, 0, d, e, 0) @ (c, f)
    return round(col / _SUBPIXEL) * _SUBPIXEL, round(row / _SUBPIXEL) * _SUBPIXEL


def _tile(chips: list[RasterChip], members: tuple[int, ...]) -> Tile:
    first = chips[0]
    if len(chips) == 1:
        window = (slice(0, first.grid.height), slice(0, first.grid.width))
        return Tile(chip=first, members=members, windows=(window,))
    origins = np.array([_origin(chip.grid) for chip in chips])
    offsets = np.rint(origins - origins.min(axis=0)).astype(int)
    height, width = first.grid.height, first.grid.width
    cols, rows = (offsets.max(axis=0) + np.array([width, height])).tolist()
    data = np.zeros((len(first.bands), rows, cols), first.data.dtype)
    valid = np.zeros((rows, cols), np.bool_)
    windows = tuple((slice(row, row + height), slice(col, col + width)) for col, row in offsets.tolist())
    for chip, window in zip(chips, windows, strict=True):
        new = chip.valid & ~valid[window]
        data[(slice(None), *window)][:, new] = chip.data[:, new]
        valid[window] |= new
    lowest = int(np.lexsort(offsets.T)[0])
    moved = chips[lowest].grid.affine @ Affine.translation(*(-offsets[lowest]).tolist())
    grid = replace(
        first.grid, transform=(moved.a, moved.b, moved.c, moved.d, moved.e, moved.f), height=rows, width=cols
    )
    scenes = tuple(dict.fromkeys(scene for chip in chips for scene in chip.scene_ids))
    whole = replace(first, data=data, valid=valid, grid=grid, scene_ids=scenes, scl=None)
    return Tile(chip=whole, members=members, windows=windows)
