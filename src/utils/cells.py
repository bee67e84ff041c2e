"""Cell maths on whole arrays: S2 (the same cells as Google's C++ library) and H3.

Formulas: S2 geometry, ``s2coords.h`` (quadratic projection) and ``s2cell_id.cc`` (Hilbert curve by table).
"""

import math
import sys
from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from utils.errors import GeometryError

Cells = NDArray[np.uint64]
_Floats = NDArray[np.float64]

MAX_LEVEL = 30
"""Level of S2 leaf cells, about 1 cm across."""

COMPILE_AFTER = 1_000_000
"""Positions a process maps before :func:`s2_cells` compiles its kernel (about two seconds, once per process)."""

SIDE = 1 << MAX_LEVEL
"""Leaf cells along the edge of a cube face."""

_RADIANS = math.pi / 180
# temporaries of a block stay in the processor's cache
_BLOCK = 1 << 13
SWAP, _INVERT = 1, 2
_POSITION_TO_IJ = ((0, 1, 3, 2), (0, 2, 3, 1), (3, 2, 0, 1), (3, 1, 0, 2))
_TURN = (SWAP, 0, 0, SWAP | _INVERT)
# per face: the axis (and its sign) that gives u, the one that gives v; s2coords.h, ValidFaceXYZtoUV
U_AXIS = np.array([1, 0, 0, 2, 2, 1])
V_AXIS = np.array([2, 2, 1, 1, 0, 0])
U_SIGN = np.array([1.0, -1.0, -1.0, 1.0, 1.0, -1.0])
V_SIGN = np.array([1.0, 1.0, -1.0, 1.0, -1.0, -1.0])


def checked_lonlat(lon: ArrayLike, lat: ArrayLike) -> tuple[_Floats, _Floats]:
    """Longitudes and latitudes as flat float64 arrays of one length.

    Raises:
        GeometryError: shapes differ, a value is not finite, or lies outside ±180 / ±90 degrees.
    """
    lons, lats = np.atleast_1d(np.asarray(lon, np.float64)), np.atleast_1d(np.asarray(lat, np.float64))
    if lons.shape != lats.shape or lons.ndim != 1:
        raise GeometryError(f"lon has shape {lons.shape} and lat {lats.shape}; give two flat arrays of one length")
    # NaN is what minimum and maximum then are, and fails every comparison
    if len(lons) and not (lons.min() >= -180 and lons.max() <= 180 and lats.min() >= -90 and lats.max() <= 90):
        good = (np.abs(lons) <= 180) & (np.abs(lats) <= 90)
        first = int(np.flatnonzero(~good)[0])
        raise GeometryError(
            f"{int((~good).sum())} of {len(good)} positions are not lon/lat degrees, first at {first}: "
            f"({lons[first]}, {lats[first]}); expected EPSG:4326 with |lon| ≤ 180 and |lat| ≤ 90"
        )
    return lons, lats


@cache
def hilbert_table() -> NDArray[np.int64]:
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
    u = U_SIGN[face] * xyz[U_AXIS[face], row] / along
    v = V_SIGN[face] * xyz[V_AXIS[face], row] / along
    return face, _st(u), _st(v)


def place_on_cube(lon: _Floats, lat: _Floats) -> tuple[NDArray[np.int64], _Floats, _Floats]:
    """Face of the cube and place ``(s, t)`` on it, each 0 to 1, of checked positions in degrees, shape (n,) each."""
    phi, theta = lat * _RADIANS, lon * _RADIANS
    cos_phi = np.cos(phi)
    x, y, z = np.cos(theta) * cos_phi, np.sin(theta) * cos_phi, np.sin(phi)
    face, s, t = _face_st(x, y, z)
    # numpy's vectorised sine may differ from the C library's in the last bit: decide points on an edge with the latter
    near = np.zeros(len(lon), np.bool_)
    for place in (s, t):
        scaled = place * SIDE
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
        Cell ids, uint64, shape (n,). Small inputs are mapped by numpy; a process that maps many positions gets a
        compiled loop, which gives the same cells (:data:`COMPILE_AFTER`).

    Raises:
        GeometryError: a position is not finite or out of range, or there is no such level.
    """
    marker = np.uint64(1 << _shift(level))
    lons, lats = checked_lonlat(lon, lat)
    if not _compiled(len(lons)):
        cells = np.empty(len(lons), np.uint64)
        for start in range(0, len(lons), _BLOCK):
            block = slice(start, start + _BLOCK)
            cells[block] = _truncated(_leaves(lons[block], lats[block]), marker)
        return cells
    from utils._s2_kernel import fill_cells  # noqa: PLC0415 - it imports and compiles numba's code

    cells = np.empty(len(lons), np.uint64)
    fill_cells(np.ascontiguousarray(lons), np.ascontiguousarray(lats), hilbert_table().view(np.uint64), marker, cells)
    return cells


def compile_kernel() -> None:
    """Compile the kernel of :func:`s2_cells` now instead of after :data:`COMPILE_AFTER` positions."""
    import utils._s2_kernel  # noqa: F401, PLC0415


_mapped = {"positions": 0}


def _compiled(count: int) -> bool:
    """Whether the compiled kernel should map ``count`` positions; both ways give the same cells."""
    if "utils._s2_kernel" in sys.modules:
        return True
    before = _mapped["positions"]
    _mapped["positions"] = before + count
    return before >= COMPILE_AFTER


def _leaves(lon: _Floats, lat: _Floats) -> Cells:
    face, s, t = place_on_cube(lon, lat)
    i, j = (np.clip(np.floor(place * SIDE), 0, SIDE - 1).astype(np.int64) for place in (s, t))
    table = hilbert_table()
    cells = face.astype(np.uint64) << np.uint64(60)
    turned = face & SWAP
    for step in range(7, -1, -1):
        offset = 4 * step
        looked_up = table[(((i >> offset) & 15) << 6) | (((j >> offset) & 15) << 2) | turned]
        cells |= (looked_up >> 2).astype(np.uint64) << np.uint64(2 * offset)
        turned = looked_up & 3
    return (cells << np.uint64(1)) | np.uint64(1)


def s2_parents(cells: ArrayLike, level: int) -> Cells:
    """Ancestor at ``level`` of each S2 cell (the cell itself where it is of that level), shape (n,).

    Raises:
        GeometryError: an id is no S2 cell, or lies above ``level``.
    """
    marker = np.uint64(1 << _shift(level))
    ids = _ids(cells)
    coarse = s2_levels(ids) < level
    if coarse.any():
        cell = int(ids[coarse][0])
        raise GeometryError(f"{int(coarse.sum())} cells, first {cell:#x}, are coarser than level {level}")
    return _truncated(ids, marker)


def s2_ranges(cells: ArrayLike) -> tuple[Cells, Cells]:
    """First and last leaf cell inside each S2 cell, two arrays of shape (n,), both ends included.

    A position lies in a cell exactly if its leaf id is between the two, so ``s2_cell BETWEEN first AND last`` selects
    it in a store. Ids of faces 4 and 5 exceed a signed 64-bit integer: keep columns and literals unsigned.

    Raises:
        GeometryError: an id is no S2 cell.
    """
    ids = _ids(cells)
    s2_levels(ids)
    reach = (ids & (~ids + np.uint64(1))) - np.uint64(1)
    return ids - reach, ids + reach


def s2_children(cells: ArrayLike) -> Cells:
    """The four children of each S2 cell in curve order, shape (n, 4).

    Raises:
        GeometryError: an id is no S2 cell, or is a leaf.
    """
    ids = _ids(cells)
    if (s2_levels(ids) == MAX_LEVEL).any():
        raise GeometryError("leaf cells have no children")
    lowest = ids & (~ids + np.uint64(1))
    step = lowest >> np.uint64(2)
    first = ids - lowest + step
    return first[:, None] + np.arange(4, dtype=np.uint64) * (step << np.uint64(1))[:, None]


def s2_levels(cells: ArrayLike) -> NDArray[np.int64]:
    """Level of each S2 cell, shape (n,).

    Raises:
        GeometryError: an id is no S2 cell.
    """
    ids = _ids(cells)
    lowest = ids & (~ids + np.uint64(1))
    good = ((ids >> np.uint64(61)) < 6) & ((lowest & np.uint64(0x1555555555555555)) != 0)
    if not good.all():
        raise GeometryError(f"{int((~good).sum())} ids are no S2 cells, first {int(ids[~good][0]):#x}")
    # powers of two are exact in float64
    return MAX_LEVEL - (np.log2(lowest.astype(np.float64)) / 2).astype(np.int64)


def h3_cells(lon: ArrayLike, lat: ArrayLike, resolution: int) -> Cells:
    """H3 cell of each position, uint64, shape (n,); the one the reference library gives.

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
    from h3ronpy.vector import coordinates_to_cells  # noqa: PLC0415 - a third of this module's start-up

    return np.array(coordinates_to_cells(pa.array(lats), pa.array(lons), int(resolution)), np.uint64)


def _shift(level: int) -> int:
    if not 0 <= level <= MAX_LEVEL:
        raise GeometryError(f"S2 has levels 0 to {MAX_LEVEL}, not {level}")
    return 2 * (MAX_LEVEL - level)


def _ids(cells: ArrayLike) -> Cells:
    """Cell ids as a flat uint64 array.

    Raises:
        GeometryError: they are not whole numbers of 0 or more; float64 cannot hold an id, int64 not all of them.
    """
    given = np.atleast_1d(np.asarray(cells))
    if given.size == 0 and given.ndim == 1:
        return np.empty(0, np.uint64)
    if given.ndim != 1 or given.dtype.kind not in "ui" or (given.dtype.kind == "i" and (given < 0).any()):
        raise GeometryError(
            f"cell ids came as {given.dtype} of shape {given.shape}; pass a flat array of unsigned 64-bit integers"
        )
    return given.astype(np.uint64, copy=False)


def _truncated(cells: Cells, marker: np.uint64) -> Cells:
    return (cells & ~(marker - np.uint64(1))) & ~marker | marker
