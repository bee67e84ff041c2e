"""Coverings: every S2 or H3 cell that shares a position with a geometry.

A geometry is what its coordinates say in longitude and latitude: edges are straight in degrees, not geodesics, and
nothing crosses the antimeridian unless it is split there (RFC 7946, 3.1.9). The edges of cells are geodesics. Coverings
are conservative: a cell within the distance by which its drawn outline may differ from its true one counts as met, so a
covering may hold a cell that comes that near (within 75° of the equator at most 5 cm at S2 level 13 and 9 cm at H3
resolution 7), and never lacks one that shares a position with the geometry.
"""

import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from shapely import Geometry

from utils.cells import MAX_LEVEL, Cells, s2_children, s2_levels
from utils.errors import GeometryError
from utils.outlines import ROUNDING_DEG, h3_outlines, h3_vertices, s2_outlines, xyz_of

MAX_CELLS = 1_000_000
"""Cells a covering may hold unless the caller says otherwise."""

_START = 3
_BLOCK = 1 << 14
_POLE = 90 - ROUNDING_DEG
_Floats = NDArray[np.float64]
_Flags = NDArray[np.bool_]


def s2_covering(
    geometry: Geometry,
    *,
    level: int | None = None,
    min_level: int | None = None,
    max_level: int | None = None,
    max_cells: int = MAX_CELLS,
) -> Cells:
    """S2 cells that meet a geometry, sorted; edges and corners that only touch count.

    Give ``level`` for cells of one level, or ``min_level`` and ``max_level`` for as few cells as hold the same ground:
    a cell wholly inside stays as coarse as ``min_level`` allows, the rim is ``max_level``.

    Args:
        geometry: points, lines, polygons or collections, EPSG:4326, edges straight in degrees.
        level: 0 to 30.
        min_level: coarsest level.
        max_level: finest level.
        max_cells: more than these are refused.

    Returns:
        Disjoint cell ids, uint64, shape (n,).

    Raises:
        GeometryError: the geometry is empty, invalid, not finite or off the globe; levels contradict; too many cells.
    """
    low, high = _levels(level, min_level, max_level)
    _require_lonlat(geometry)
    cells = np.arange(1, 12, 2, dtype=np.uint64) << np.uint64(60)
    found: list[Cells] = []
    for at in range(high + 1):
        if at > 0:
            cells = s2_children(cells).ravel()
        # outlines of the coarsest cells are too bent to be tested
        if at >= min(_START, high):
            meets, inside = _in_blocks(geometry, cells, s2_outlines, high - at if at >= low else None)
            found.append(cells[inside])
            cells = cells[meets & ~inside]
        _require_few(len(cells) + sum(map(len, found)), max_cells, f"S2 level {at}")
    covering = _merged(np.concatenate([*found, cells]), low)
    _require_few(len(covering), max_cells, f"S2 level {high}")
    return covering


def h3_covering(geometry: Geometry, *, resolution: int, max_cells: int = MAX_CELLS) -> Cells:
    """H3 cells that meet a geometry, sorted; edges and corners that only touch count.

    Args:
        geometry: points, lines, polygons or collections, EPSG:4326, edges straight in degrees.
        resolution: 0 to 15.
        max_cells: more than these are refused.

    Returns:
        Cell ids, uint64, shape (n,).

    Raises:
        GeometryError: the geometry is empty, invalid, not finite or off the globe; no such resolution; too many cells.
    """
    if not 0 <= resolution <= 15:
        raise GeometryError(f"H3 has resolutions 0 to 15, not {resolution}")
    _require_lonlat(geometry)
    import h3.api.numpy_int as h3  # noqa: PLC0415 - start-up
    from h3ronpy import change_resolution  # noqa: PLC0415

    shapely.prepare(geometry)
    cells = np.sort(np.array(h3.get_res0_cells(), np.uint64))
    for at in range(resolution + 1):
        if at > 0:
            cells = np.array(change_resolution(pa.array(cells), at), np.uint64)
        cells = cells[_h3_reaches(geometry, cells)]
        _require_few(len(cells), 2 * max_cells + 1000, f"H3 resolution {at}")
    meets, _ = _in_blocks(geometry, cells, h3_outlines, None)
    _require_few(int(meets.sum()), max_cells, f"H3 resolution {resolution}")
    return np.sort(cells[meets])


_Outlines = Callable[[Cells], tuple[NDArray[np.object_], _Floats]]


def _in_blocks(geometry: Geometry, cells: Cells, outlines: _Outlines, finer: int | None) -> tuple[_Flags, _Flags]:
    """Whether each cell meets the geometry, and whether it lies wholly inside (never, where ``finer`` is None)."""
    meets, inside = np.zeros(len(cells), np.bool_), np.zeros(len(cells), np.bool_)
    shapely.prepare(geometry)
    edge = geometry.boundary if finer else None
    areal = edge is not None and not edge.is_empty and geometry.area > 0
    if areal:
        shapely.prepare(edge)
    _, south, _, north = geometry.bounds
    for start in range(0, len(cells), _BLOCK):
        block = slice(start, start + _BLOCK)
        shapes, margins = outlines(cells[block])
        bounds = shapely.bounds(shapes)
        near = shapely.dwithin(geometry, shapes, margins)
        for turn, crosses in ((360.0, bounds[:, 0] - margins <= -180), (-360.0, bounds[:, 2] + margins >= 180)):
            turned = shapely.transform(shapes[crosses], lambda xy, turn=turn: xy + np.array((turn, 0.0)))
            near[crosses] |= shapely.dwithin(geometry, turned, margins[crosses])
        # at a pole every longitude is the same place
        near |= (bounds[:, 3] >= _POLE) & (north >= _POLE) | (bounds[:, 1] <= -_POLE) & (south <= -_POLE)
        meets[block] = near
        if areal:
            within = (bounds[:, 0] > -180) & (bounds[:, 2] < 180) & near
            within[within] = shapely.contains_properly(geometry, shapes[within])
            within[within] = ~shapely.dwithin(edge, shapes[within], margins[within])
            inside[block] = within
    return meets, inside


def _h3_reaches(geometry: Geometry, cells: Cells) -> _Flags:
    """Whether the geometry comes near enough to each cell to meet any of its descendants.

    Centres of descendants stray at most √3·ρ·Σ7^(-k/2) ≈ 1.06 ρ from the centre of a cell of circumradius ρ; 1.5 ρ
    leaves room for H3's distortion.
    """
    from h3ronpy.vector import cells_to_coordinates  # noqa: PLC0415 - start-up

    centres = cells_to_coordinates(pa.array(cells))
    lon, lat = np.array(centres.column("lng"), np.float64), np.array(centres.column("lat"), np.float64)
    lonlat, owner = h3_vertices(cells)
    away = np.linalg.norm(xyz_of(lonlat) - xyz_of(np.column_stack([lon, lat]))[owner], axis=1)
    chord = np.zeros(len(cells))
    np.maximum.at(chord, owner, away)
    radius = 1.5 * 2 * np.degrees(np.arcsin(np.minimum(chord / 2, 1)))
    south, north = np.maximum(lat - radius, -90), np.minimum(lat + radius, 90)
    # a cap's widest parallel: sin Δλ = sin ρ / cos φ
    ratio = np.sin(np.radians(radius)) / np.maximum(np.cos(np.radians(lat)), 1e-12)
    polar = (np.abs(lat) + radius >= 90) | (ratio >= 1)
    wide = np.where(polar, 360.0, np.degrees(np.arcsin(np.minimum(ratio, 1))) + ROUNDING_DEG)
    meets = np.zeros(len(cells), np.bool_)
    for turn in (-360.0, 0.0, 360.0):
        west, east = np.maximum(lon - wide + turn, -180), np.minimum(lon + wide + turn, 180)
        there = west <= east
        meets[there] |= shapely.intersects(geometry, shapely.box(west[there], south[there], east[there], north[there]))
    return meets


def _merged(cells: Cells, min_level: int) -> Cells:
    """Sorted cells with every four siblings replaced by their parent, down to ``min_level``."""
    cells = np.sort(cells)
    levels = s2_levels(cells)
    for at in range(int(levels.max(initial=0)), min_level, -1):
        here = cells[levels == at]
        marker = np.uint64(1 << 2 * (MAX_LEVEL - at + 1))
        parents, owner, count = np.unique(
            (here & ~(marker - np.uint64(1))) & ~marker | marker, return_inverse=True, return_counts=True
        )
        cells = np.sort(np.concatenate([cells[levels != at], here[count[owner] < 4], parents[count == 4]]))
        levels = s2_levels(cells)
    return cells


def _levels(level: int | None, low: int | None, high: int | None) -> tuple[int, int]:
    if (level is None) == (low is None and high is None) or (low is None) != (high is None):
        raise GeometryError("give level, or both min_level and max_level")
    first, last = (level, level) if level is not None else (low, high)
    if first is None or last is None or not 0 <= first <= last <= MAX_LEVEL:
        raise GeometryError(f"S2 has levels 0 to {MAX_LEVEL}; {first} to {last} are none of them, or upside down")
    return first, last


def _require_lonlat(geometry: Geometry) -> None:
    if geometry is None or geometry.is_empty or not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise GeometryError("the geometry to cover is missing, empty or not finite")
    west, south, east, north = geometry.bounds
    if not (west >= -180 and east <= 180 and south >= -90 and north <= 90):
        raise GeometryError(
            f"the geometry spans {geometry.bounds}, which is no longitude and latitude; "
            "split it at the antimeridian, or check its CRS"
        )
    if not geometry.is_valid:
        raise GeometryError(f"the geometry to cover is invalid ({shapely.is_valid_reason(geometry)}); mend it first")


def _require_few(count: int, limit: int, where: str) -> None:
    if not math.isfinite(limit) or count > limit:
        raise GeometryError(f"the covering needs {count} cells at {where}, more than {limit}; take coarser cells")
