"""Cell maths on whole arrays: S2 (the same cells as Google's C++ library) and H3.

Formulas: S2 geometry, ``s2coords.h`` (quadratic projection) and ``s2cell_id.cc`` (Hilbert curve by table).
"""

import math
from functools import cache

import h3.api.basic_int as h3
import numpy as np
from numpy.typing import ArrayLike, NDArray
from shapely import Polygon

from utils.errors import GeometryError

Cells = NDArray[np.uint64]
_Floats = NDArray[np.float64]

MAX_LEVEL = 30
"""Level of S2 leaf cells, about 1 cm across."""

_SIDE = 1 << MAX_LEVEL
_RADIANS = math.pi / 180
_SWAP, _INVERT = 1, 2
_POSITION_TO_IJ = ((0, 1, 3, 2), (0, 2, 3, 1), (3, 2, 0, 1), (3, 1, 0, 2))
_TURN = (_SWAP, 0, 0, _SWAP | _INVERT)
# per face: the axis (and its sign) that gives u, the one that gives v; s2coords.h, ValidFaceXYZtoUV
_U_AXIS = np.array([1, 0, 0, 2, 2, 1])
_V_AXIS = np.array([2, 2, 1, 1, 0, 0])
_U_SIGN = np.array([1.0, -1.0, -1.0, 1.0, 1.0, -1.0])
_V_SIGN = np.array([1.0, 1.0, -1.0, 1.0, -1.0, -1.0])


def checked_lonlat(lon: ArrayLike, lat: ArrayLike) -> tuple[_Floats, _Floats]:
    """Longitudes and latitudes as flat float64 arrays of one length.

    Raises:
        GeometryError: shapes differ, a value is not finite, or lies outside ±180 / ±90 degrees.
    """
    lons, lats = np.atleast_1d(np.asarray(lon, np.float64)), np.atleast_1d(np.asarray(lat, np.float64))
    if lons.shape != lats.shape or lons.ndim != 1:
        raise GeometryError(f"lon has shape {lons.shape} and lat {lats.shape}; give two flat arrays of one length")
    good = (np.abs(lons) <= 180) & (np.abs(lats) <= 90)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        raise GeometryError(
            f"{int((~good).sum())} of {len(good)} positions are not lon/lat degrees, first at {first}: "
            f"({lons[first]}, {lats[first]}); expected EPSG:4326 with |lon| ≤ 180 and |lat| ≤ 90"
        )
    return lons, lats


@cache
def _hilbert_table() -> NDArray[np.int64]:
    """``iiiijjjjoo`` → ``ppppppppoo``: four levels of the curve at once, ``oo`` the orientation before and after."""
    table = np.zeros(1024, np.int64)
    for start in range(4):
        for position in range(256):
            i = j = 0
            turned = start
            for level in range(3, -1, -1):
                quarter = (position >> 2 * level) & 3
                ij = _POSITION_TO_IJ[turned][quarter]
                i, j = (i << 1) | (ij >> 1), (j << 1) | (ij & 1)
                turned ^= _TURN[quarter]
            table[(i << 6) | (j << 2) | start] = (position << 2) | turned
    return table


def _st(uv: _Floats) -> _Floats:
    root = 0.5 * np.sqrt(1.0 + 3.0 * np.abs(uv))
    return np.where(uv >= 0, root, 1.0 - root)


def _face_st(x: _Floats, y: _Floats, z: _Floats) -> tuple[NDArray[np.int64], _Floats, _Floats]:
    """Cube face of unit vectors and their place ``(s, t)`` on it, each 0 to 1; ties go to the later axis."""
    xyz = np.stack([x, y, z])
    size = np.abs(xyz)
    axis = np.where(size[0] > size[1], np.where(size[0] > size[2], 0, 2), np.where(size[1] > size[2], 1, 2))
    row = np.arange(len(x))
    along = xyz[axis, row]
    face = axis + 3 * (along < 0)
    u = _U_SIGN[face] * xyz[_U_AXIS[face], row] / along
    v = _V_SIGN[face] * xyz[_V_AXIS[face], row] / along
    return face, _st(u), _st(v)


def _place_on_cube(lon: _Floats, lat: _Floats) -> tuple[NDArray[np.int64], _Floats, _Floats]:
    phi, theta = lat * _RADIANS, lon * _RADIANS
    cos_phi = np.cos(phi)
    x, y, z = np.cos(theta) * cos_phi, np.sin(theta) * cos_phi, np.sin(phi)
    face, s, t = _face_st(x, y, z)
    # numpy's vectorised sine may differ from the C library's in the last bit: decide points on an edge with the latter
    near = np.zeros(len(lon), np.bool_)
    for place in (s, t):
        scaled = place * _SIDE
        near |= np.abs(scaled - np.rint(scaled)) < 1e-5
    where = np.flatnonzero(near)
    if len(where):
        exact = [
            (math.cos(b) * math.cos(a), math.sin(b) * math.cos(a), math.sin(a))
            for a, b in zip(phi[where].tolist(), theta[where].tolist(), strict=True)
        ]
        face[where], s[where], t[where] = _face_st(*np.array(exact).T)
    return face, s, t


def s2_cells(lon: ArrayLike, lat: ArrayLike, level: int) -> Cells:
    """S2 cell of each position, the one Google's C++ ``S2CellId(S2LatLng).parent(level)`` gives.

    Args:
        lon: longitudes, degrees, EPSG:4326, flat array or scalar.
        lat: latitudes, degrees, same length.
        level: 0 (a sixth of the Earth) to 30 (about 1 cm).

    Returns:
        Cell ids, shape (n,).

    Raises:
        GeometryError: a position is not finite or out of range, or there is no such level.
    """
    shift = _shift(level)
    face, s, t = _place_on_cube(*checked_lonlat(lon, lat))
    i, j = (np.clip(np.floor(place * _SIDE), 0, _SIDE - 1).astype(np.int64) for place in (s, t))
    table = _hilbert_table()
    cells = face.astype(np.uint64) << np.uint64(60)
    turned = face & _SWAP
    for step in range(7, -1, -1):
        offset = 4 * step
        looked_up = table[(((i >> offset) & 15) << 6) | (((j >> offset) & 15) << 2) | turned]
        cells |= (looked_up >> 2).astype(np.uint64) << np.uint64(2 * offset)
        turned = looked_up & 3
    return _truncated((cells << np.uint64(1)) | np.uint64(1), shift)


def s2_parents(cells: ArrayLike, level: int) -> Cells:
    """Ancestor at ``level`` of each S2 cell (the cell itself where it is of that level), shape (n,).

    Raises:
        GeometryError: an id is no S2 cell, or lies above ``level``.
    """
    shift = _shift(level)
    ids = np.atleast_1d(np.asarray(cells, np.uint64))
    coarse = s2_levels(ids) < level
    if coarse.any():
        cell = int(ids[coarse][0])
        raise GeometryError(f"{int(coarse.sum())} cells, first {cell:#x}, are coarser than level {level}")
    return _truncated(ids, shift)


def s2_levels(cells: ArrayLike) -> NDArray[np.int64]:
    """Level of each S2 cell, shape (n,).

    Raises:
        GeometryError: an id is no S2 cell.
    """
    ids = np.atleast_1d(np.asarray(cells, np.uint64))
    lowest = ids & (~ids + np.uint64(1))
    good = ((ids >> np.uint64(61)) < 6) & ((lowest & np.uint64(0x1555555555555555)) != 0)
    if not good.all():
        raise GeometryError(f"{int((~good).sum())} ids are no S2 cells, first {int(ids[~good][0]):#x}")
    return MAX_LEVEL - (np.log2(lowest.astype(np.float64)) / 2).astype(np.int64)


def s2_cell_polygon(cell: int) -> Polygon:
    """Outline of an S2 cell, EPSG:4326.

    The corners are exact; the edges are straight in lon/lat, where S2's are geodesics (at level 13 they part by less
    than a metre at mid-latitudes). Longitudes are continuous: a cell across the antimeridian reaches beyond ±180.

    Raises:
        GeometryError: the id is no S2 cell, or the cell holds a pole inside (the two polar faces).
    """
    level = int(s2_levels(cell)[0])
    face, i, j = _face_ij(int(cell))
    if level == 0 and face in {2, 5}:
        raise GeometryError("the polar faces of S2 have no outline in lon/lat; take their children")
    side = 1 << (MAX_LEVEL - level)
    i, j = i & -side, j & -side
    corners = [_lonlat(face, i + di, j + dj) for di, dj in ((0, 0), (side, 0), (side, side), (0, side))]
    polar = [k for k, (_, lat) in enumerate(corners) if abs(lat) > 90 - 1e-9]
    anchor = corners[(polar[0] + 1) % 4 if polar else 0][0]
    ring = [(anchor + (lon - anchor + 180) % 360 - 180, lat) for lon, lat in corners]
    for k in polar:
        # a pole has every longitude: reach it along both neighbouring meridians
        ring[k : k + 1] = [(ring[k - 1][0], ring[k][1]), (ring[(k + 1) % 4][0], ring[k][1])]
    return Polygon(ring)


def h3_cells(lon: ArrayLike, lat: ArrayLike, resolution: int) -> Cells:
    """H3 cell of each position, shape (n,).

    Args:
        lon: longitudes, degrees, EPSG:4326, flat array or scalar.
        lat: latitudes, degrees, same length.
        resolution: 0 (about 1,300 km across) to 15 (about 1 m).

    Raises:
        GeometryError: a position is not finite or out of range, or there is no such resolution.
    """
    if not 0 <= resolution <= 15:
        raise GeometryError(f"H3 has resolutions 0 to 15, not {resolution}")
    lons, lats = checked_lonlat(lon, lat)
    pairs = zip(lats.tolist(), lons.tolist(), strict=True)
    return np.fromiter((h3.latlng_to_cell(*pair, resolution) for pair in pairs), np.uint64, len(lons))


def _shift(level: int) -> int:
    if not 0 <= level <= MAX_LEVEL:
        raise GeometryError(f"S2 has levels 0 to {MAX_LEVEL}, not {level}")
    return 2 * (MAX_LEVEL - level)


def _truncated(cells: Cells, shift: int) -> Cells:
    marker = np.uint64(1 << shift)
    return (cells & ~(marker - np.uint64(1))) & ~marker | marker


def _face_ij(cell: int) -> tuple[int, int, int]:
    """Face and ``(i, j)`` of a leaf inside the cell: the inverse of the table walk."""
    inverse = {(before & 3, after >> 2): before for before, after in enumerate(_hilbert_table().tolist())}
    face, position = cell >> 61, (cell >> 1) & ((1 << 60) - 1)
    i = j = 0
    turned = face & _SWAP
    for step in range(7, -1, -1):
        before = inverse[turned, (position >> 8 * step) & 255]
        i, j = (i << 4) | (before >> 6), (j << 4) | ((before >> 2) & 15)
        turned = int(_hilbert_table()[before]) & 3
    return face, i, j


def _lonlat(face: int, i: int, j: int) -> tuple[float, float]:
    u, v = ((4 * s * s - 1) / 3 if s >= 0.5 else (1 - 4 * (1 - s) ** 2) / 3 for s in (i / _SIDE, j / _SIDE))
    xyz = [0.0, 0.0, 0.0]
    along = 1.0 if face < 3 else -1.0
    xyz[face % 3] = along
    xyz[_U_AXIS[face]] = _U_SIGN[face] * u * along
    xyz[_V_AXIS[face]] = _V_SIGN[face] * v * along
    x, y, z = xyz
    return math.atan2(y, x) / _RADIANS, math.atan2(z, math.hypot(x, y)) / _RADIANS
