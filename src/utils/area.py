"""Area fractions of a fine mask on a coarse grid, exact for upright grids of one CRS."""

import numpy as np
from numpy.typing import NDArray

from utils.errors import CRSError
from utils.types import IGNORE, ChipGrid

FRACTION_SCALE = 254
"""Stored value of a pixel that PV covers wholly."""

_WHOLE = 1 - 1e-6


def overlap_weights(edges_from: NDArray[np.float64], edges_to: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each target interval that each source interval covers, shape (targets, sources).

    Args:
        edges_from: increasing edges of n source intervals, shape (n + 1,).
        edges_to: increasing edges of m target intervals, shape (m + 1,).
    """
    low = np.maximum(edges_to[:-1, None], edges_from[None, :-1])
    high = np.minimum(edges_to[1:, None], edges_from[None, 1:])
    shares: NDArray[np.float64] = np.clip(high - low, 0, None) / np.diff(edges_to)[:, None]
    return shares


def area_fractions(mask: NDArray[np.uint8], fine: ChipGrid, coarse: ChipGrid) -> NDArray[np.uint8]:
    """PV area fraction of every coarse pixel, uint8: 0 to 254 is 0 to 100 %, 255 is unknown.

    A coarse pixel is unknown where the fine grid does not cover all of it, or where a fine pixel in it is 255.

    Args:
        mask: 0 background, 1 PV, 255 ignore; shape (rows, columns) of ``fine``.
        fine: grid of the mask.
        coarse: grid of the result.

    Raises:
        CRSError: the grids differ in CRS or are not upright.
    """
    if fine.epsg != coarse.epsg or not all(_is_upright(grid) for grid in (fine, coarse)):
        raise CRSError("area fractions need two upright grids of one CRS; warp the mask to the coarse grid's CRS first")
    rows = overlap_weights(_edges(fine, 1), _edges(coarse, 1))
    columns = overlap_weights(_edges(fine, 0), _edges(coarse, 0))
    known = rows @ (mask != IGNORE) @ columns.T
    pv = rows @ (mask == 1) @ columns.T
    return np.where(known >= _WHOLE, np.rint(pv * FRACTION_SCALE), IGNORE).astype(np.uint8)


def _is_upright(grid: ChipGrid) -> bool:
    """Whether columns run east and rows south."""
    a, b, _, d, e, _ = grid.transform
    return a > 0 and e < 0 and b == d == 0


def _edges(grid: ChipGrid, axis: int) -> NDArray[np.float64]:
    """Pixel edges along x (axis 0) or y (axis 1), increasing in pixel order."""
    a, _, c, _, e, f = grid.transform
    step, origin, count = ((a, c, grid.width), (-e, -f, grid.height))[axis]
    edges: NDArray[np.float64] = np.asarray(origin + step * np.arange(count + 1), np.float64)
    return edges
