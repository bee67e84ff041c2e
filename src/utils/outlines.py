"""Outlines of S2 and H3 cells in longitude and latitude, and how far a drawn outline may be from the true one."""

import math
from functools import cache

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely import Geometry, Polygon

from utils.cells import MAX_LEVEL, SIDE, SWAP, U_AXIS, U_SIGN, V_AXIS, V_SIGN, Cells, hilbert_table, s2_levels
from utils.errors import GeometryError

ROUNDING_DEG = 1e-9
"""Slack for the rounding of float64 degrees, about a tenth of a millimetre."""

_STEPS = 8
_Floats = NDArray[np.float64]
_Indices = NDArray[np.int64]
_Shapes = NDArray[np.object_]


def s2_cell_polygon(cell: int) -> Polygon:
    """Outline of an S2 cell, EPSG:4326.

    The corners are exact; the edges are straight in lon/lat, where S2's are geodesics (at level 13 they part by less
    than a metre at mid-latitudes). Longitudes are continuous: a cell across the antimeridian reaches beyond ±180.

    Raises:
        GeometryError: the id is no S2 cell, or the cell holds a pole inside (the two polar faces).
    """
    level = int(s2_levels(cell)[0])
    if level == 0 and int(cell) >> 61 in {2, 5}:
        raise GeometryError("the polar faces of S2 have no outline in lon/lat; take their children")
    corners = lonlat_of(_s2_ring(np.array([cell], np.uint64), 1))[0].tolist()
    polar = [k for k, (_, lat) in enumerate(corners) if abs(lat) > 90 - ROUNDING_DEG]
    anchor = corners[(polar[0] + 1) % 4 if polar else 0][0]
    ring = [(anchor + (lon - anchor + 180) % 360 - 180, lat) for lon, lat in corners]
    for k in polar:
        # a pole has every longitude: reach it along both neighbouring meridians
        ring[k : k + 1] = [(ring[k - 1][0], ring[k][1]), (ring[(k + 1) % 4][0], ring[k][1])]
    return Polygon(ring)


def s2_outlines(cells: Cells) -> tuple[_Shapes, _Floats]:
    """Finely drawn outlines of S2 cells, and the degrees by which they may miss the true ones; two arrays (n,).

    Longitudes are continuous and may reach beyond ±180; a pole is reached along the neighbouring meridians.
    """
    return _drawn(lonlat_of(_s2_ring(cells, _STEPS)))


def h3_outlines(cells: Cells) -> tuple[_Shapes, _Floats]:
    """Finely drawn outlines of H3 cells, and the degrees by which they may miss the true ones; two arrays (n,).

    Longitudes are continuous and may reach beyond ±180; a pole inside is reached along one meridian.
    """
    lonlat, owner = h3_vertices(cells)
    counts = np.bincount(owner, minlength=len(cells))
    shapes, margins = np.empty(len(cells), object), np.empty(len(cells))
    xyz = xyz_of(lonlat)
    share = np.linspace(0, 1, _STEPS, endpoint=False)[:, None]
    for count in np.unique(counts):
        these = np.flatnonzero(counts == count)
        corners = xyz[counts[owner] == count].reshape(len(these), count, 1, 3)
        # a chord of the sphere seen from its centre is the geodesic
        along = corners * (1 - share) + np.roll(corners, -1, 1) * share
        shapes[these], margins[these] = _drawn(lonlat_of(along.reshape(len(these), -1, 3)))
    return shapes, margins


def h3_vertices(cells: Cells) -> tuple[_Floats, _Indices]:
    """Vertices of H3 cells in order, shape (m, 2), columns lon, lat, and the cell each belongs to, shape (m,)."""
    from h3ronpy.vector import cells_to_wkb_polygons  # noqa: PLC0415 - start-up

    rings = shapely.from_wkb(pa.array(cells_to_wkb_polygons(pa.array(cells))).to_numpy(zero_copy_only=False))
    lonlat, owner = shapely.get_coordinates(rings, return_index=True)
    # the first vertex is repeated at the end
    last = np.append(owner[1:] != owner[:-1], np.ones(min(len(owner), 1), np.bool_))
    return lonlat[~last], owner[~last]


def lonlat_of(xyz: _Floats) -> _Floats:
    """Longitude and latitude in degrees of vectors of any length, shape (…, 3) → (…, 2)."""
    x, y, z = np.moveaxis(xyz, -1, 0)
    return np.stack([np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))], axis=-1)


def xyz_of(lonlat: _Floats) -> _Floats:
    """Unit vectors of positions in degrees, shape (n, 2) → (n, 3)."""
    theta, phi = np.radians(lonlat[:, 0]), np.radians(lonlat[:, 1])
    return np.column_stack([np.cos(theta) * np.cos(phi), np.sin(theta) * np.cos(phi), np.sin(phi)])


@cache
def _inverse_table() -> _Indices:
    """``ppppppppoo`` → ``iiiijjjjoo``, the inverse of the curve's table; ``oo`` the orientation before and after."""
    table = hilbert_table()
    before = np.arange(1024)
    inverse = np.empty(1024, np.int64)
    inverse[(table & ~3) | (before & 3)] = (before & ~3) | (table & 3)
    return inverse


def _face_ij(cells: ArrayLike) -> tuple[_Indices, _Indices, _Indices]:
    """Face and ``(i, j)`` of the cells' lower corners: the table walk backwards."""
    ids = np.asarray(cells, np.uint64)
    face = (ids >> np.uint64(61)).astype(np.int64)
    position = ((ids >> np.uint64(1)) & np.uint64((1 << 60) - 1)).astype(np.int64)
    i, j = np.zeros_like(face), np.zeros_like(face)
    turned = face & SWAP
    for step in range(7, -1, -1):
        found = _inverse_table()[(((position >> 8 * step) & 255) << 2) | turned]
        i, j, turned = (i << 4) | (found >> 6), (j << 4) | ((found >> 2) & 15), found & 3
    side = np.int64(1) << (MAX_LEVEL - s2_levels(ids))
    return face, i & -side, j & -side


def _s2_ring(cells: Cells, steps: int) -> _Floats:
    """Vectors along the outlines of S2 cells, counter-clockwise, shape (n, 4 · steps, 3)."""
    face, i, j = _face_ij(cells)
    side = np.int64(1) << (MAX_LEVEL - s2_levels(cells))
    there, back = np.arange(steps) / steps, 1 - np.arange(steps) / steps
    zeros, ones = np.zeros(steps), np.ones(steps)
    s = (i[:, None] + side[:, None] * np.concatenate([there, ones, back, zeros])) / SIDE
    t = (j[:, None] + side[:, None] * np.concatenate([zeros, there, ones, back])) / SIDE
    u, v = ((np.where(p >= 0.5, 4 * p * p - 1, 1 - 4 * (1 - p) ** 2)) / 3 for p in (s, t))
    xyz = np.empty((*u.shape, 3))
    rows = np.arange(len(face))
    along = np.where(face < 3, 1.0, -1.0)
    xyz[rows, :, face % 3] = along[:, None]
    xyz[rows, :, U_AXIS[face]] = u * (U_SIGN[face] * along)[:, None]
    xyz[rows, :, V_AXIS[face]] = v * (V_SIGN[face] * along)[:, None]
    return xyz


def _drawn(lonlat: _Floats) -> tuple[_Shapes, _Floats]:
    """Polygons through points of closed outlines, shape (n, edges · _STEPS, 2), and a bound on what lies between.

    Between neighbours the true edge bends like a parabola: a chord over two steps misses the middle point by four times
    what a chord over one step misses. Twice the greatest miss over two steps is eight times the wanted bound.
    """
    lon, lat = lonlat[..., 0], lonlat[..., 1]
    step = (np.roll(lon, -1, axis=1) - lon + 180) % 360 - 180
    at_pole = np.asarray(np.abs(lat) > 90 - ROUNDING_DEG)
    miss = np.hypot(
        (np.roll(step, 1, axis=1) - step) / 2, lat - (np.roll(lat, 1, axis=1) + np.roll(lat, -1, axis=1)) / 2
    )
    # corners are exact, and edges that end at a pole are meridians
    exact = at_pole | np.roll(at_pole, 1, axis=1) | np.roll(at_pole, -1, axis=1)
    exact[:, ::_STEPS] = True
    margins: _Floats = 2 * np.where(exact, 0, miss).max(axis=1, initial=0) + ROUNDING_DEG
    turns = np.rint(step.sum(axis=1) / 360)
    polar: NDArray[np.bool_] = np.any(at_pole, axis=1)
    unwrapped = lon[:, :1] + np.cumsum(step, axis=1) - step
    plain = ~polar & (turns == 0)
    shapes = np.empty(len(lon), object)
    shapes[plain] = shapely.polygons(np.stack([unwrapped[plain], lat[plain]], axis=-1))
    for k in np.flatnonzero(~plain):
        shapes[k] = _round_pole_corner(lonlat[k], at_pole[k]) if polar[k] else _round_pole(unwrapped[k], lat[k])
    return shapes, margins


def _round_pole(lon: _Floats, lat: _Floats) -> Geometry:
    """Outline of a cell that holds a pole inside, closed along the meridian of its first point."""
    pole = math.copysign(90.0, lat.mean())
    end = lon[0] + math.copysign(360.0, lon[-1] - lon[0])
    return Polygon([*zip(lon, lat, strict=True), (end, lat[0]), (end, pole), (lon[0], pole)])


def _round_pole_corner(lonlat: _Floats, at_pole: NDArray[np.bool_]) -> Geometry:
    """Outline of a cell with a pole as corner, which it reaches along both neighbouring meridians."""
    first = int(np.flatnonzero(at_pole)[0])
    rest = np.roll(lonlat, -first, axis=0)[1:]
    lon = rest[0, 0] + (rest[:, 0] - rest[0, 0] + 180) % 360 - 180
    pole = math.copysign(90.0, lonlat[first, 1])
    return Polygon([*zip(lon, rest[:, 1], strict=True), (lon[-1], pole), (lon[0], pole)])
