"""S2 cells that geometries meet, and the pairs of geometries that share one: candidates of a join, none lost.

A covering here holds every cell of its level that meets the geometry (it may hold neighbours too). So when a point of
a feature lies within ``grow_m`` of a target, the cell of that point is in the feature's covering and in the grown
target's, and the two are a pair by equality of cells. Features larger than a few cells are covered by larger cells and
paired with the targets' ancestors, as S2's own coverings are.

Cell sizes: S2 geometry, ``s2metrics.cc`` (quadratic projection: least width 2√2/3, greatest diagonal 2.4387, over
2^level, on the unit sphere).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from utils.cells import U_AXIS, U_SIGN, V_AXIS, V_SIGN, Cells, place_on_cube, s2_cells, s2_parents
from utils.errors import GeometryError
from utils.ragged import ragged

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]

FINEST_LEVEL, COARSEST_LEVEL = 18, 5
"""Levels coverings are made at."""
_METRES_PER_DEGREE = 110_574.0, 111_700.0
_RADIUS_M = 6_335_000.0, 6_400_000.0
"""Least and greatest radius of curvature of WGS 84, rounded outwards."""
_MOST_ACROSS = 4
"""Cells a feature may be wide before it is covered by larger ones."""
_FINER = 2
"""Levels below the wanted one at which geometries are sampled: the slack of a covering is a diagonal of those."""
_LARGE_M = 20_000.0
_INSIDE = 0.4871
"""Place within a cell, off its middle, which is an edge of smaller cells and so needs care in ``s2_cells``."""
_CORNERS = ((0, 1), (2, 1), (2, 3), (0, 3))
_BLOCK = 2_000_000


def least_width_m(level: int) -> float:
    """Least width of an S2 cell of ``level``, metres."""
    return float(2 * np.sqrt(2) / 3 * 0.5**level * _RADIUS_M[0])


def greatest_diagonal_m(level: int) -> float:
    """Greatest diagonal of an S2 cell of ``level``, metres."""
    return float(2.438654594434021 * 0.5**level * _RADIUS_M[1])


def join_level(reach_m: float) -> int:
    """Finest level whose cells are no narrower than ``reach_m``: a target then meets a handful of them."""
    level = int(np.floor(np.log2(least_width_m(0) / max(reach_m, 1.0))))
    return int(np.clip(level, COARSEST_LEVEL, FINEST_LEVEL))


@dataclass(frozen=True, kw_only=True)
class Covering:
    """Cells of many geometries, flat: ``owners[k]`` meets, or nearly meets, ``cells[k]`` of level ``levels[k]``."""

    owners: _Ints
    """Position of the geometry, shape (n,), sorted."""
    cells: Cells
    """S2 cells, shape (n,)."""
    levels: _Ints
    """Level of each cell, shape (n,)."""

    def lists(self, count: int) -> list[Cells]:
        """Cells of each of ``count`` geometries."""
        return np.split(self.cells, np.searchsorted(self.owners, np.arange(1, count)))


def covering(geometries: NDArray[np.object_], level: int, *, grow_m: float = 0.0, adaptive: bool = False) -> Covering:
    """Every S2 cell that a geometry meets, or that lies within ``grow_m`` metres of it, and some neighbours.

    Args:
        geometries: shape (n,), EPSG:4326 with longitudes in ±180; none missing or empty.
        level: level of the cells.
        grow_m: distance around each geometry, metres on the ground.
        adaptive: take larger cells for geometries wider than four cells.

    Raises:
        GeometryError: a geometry is missing or empty, or a coordinate is out of range.
    """
    parts, owners = shapely.get_parts(geometries, return_index=True)
    bounds = shapely.bounds(parts)
    # the comparison is also False for NaN, which missing and empty geometries have
    good = (np.abs(bounds[:, [0, 2]]) <= 180).all(1) & (np.abs(bounds[:, [1, 3]]) <= 90).all(1)
    if len(np.unique(owners)) != len(geometries) or not good.all():
        raise GeometryError("a covering needs geometries with finite longitudes in ±180 and latitudes in ±90")
    levels = _own_levels(bounds, level) if adaptive else np.full(len(parts), level, np.int64)
    found: list[tuple[_Ints, Cells, _Ints]] = [(np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.int64))]
    for own in np.unique(levels):
        chosen = np.flatnonzero(levels == own)
        for k, cells in _covered(parts[chosen], bounds[chosen], int(own), grow_m):
            found.append((owners[chosen[k]], cells, np.full(len(k), own)))
    index, cells, at = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((cells, index))
    index, cells, at = index[order], cells[order], at[order]
    new = np.ones(len(index), np.bool_)
    new[1:] = (index[1:] != index[:-1]) | (cells[1:] != cells[:-1])
    return Covering(owners=index[new], cells=cells[new], levels=at[new])


def shared_cells(targets: Covering, features: Covering) -> tuple[_Ints, _Ints]:
    """Pairs (target, feature) that share a cell, each once; shapes (m,).

    A target's cells stand at one level, no coarser than any feature's; features' cells are met by their descendants.
    """
    width = int(features.owners.max()) + 1 if len(features.owners) else 1
    several = np.bincount(features.owners, minlength=width) > 1
    keys, repeated = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for level in np.unique(features.levels):
        chosen = features.levels == level
        order = np.argsort(features.cells[chosen], kind="stable")
        cells, owners = features.cells[chosen][order], features.owners[chosen][order]
        ancestors = s2_parents(targets.cells, int(level))
        # cells of a target are sorted, so its descendants of one ancestor stand together
        new = np.ones(len(ancestors), np.bool_)
        new[1:] = (targets.owners[1:] != targets.owners[:-1]) | (ancestors[1:] != ancestors[:-1])
        whose, mine = targets.owners[new], ancestors[new]
        first, last = np.searchsorted(cells, mine, "left"), np.searchsorted(cells, mine, "right")
        k, nth = ragged(last - first)
        found = owners[first[k] + nth]
        pair, again = whose[k] * width + found, several[found]
        keys.append(pair[~again])
        repeated.append(pair[again])
    # only a feature of several cells can meet a target twice
    pairs = np.concatenate([*keys, np.unique(np.concatenate(repeated))])
    return pairs // width, pairs % width


def _own_levels(bounds: _Floats, level: int) -> _Ints:
    """Level at which each box is at most a few cells wide."""
    size_m = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1]) * _METRES_PER_DEGREE[1]
    wide = np.log2(np.maximum(size_m / (_MOST_ACROSS * least_width_m(level)), 1.0))
    return np.maximum(level - np.ceil(wide).astype(np.int64), min(COARSEST_LEVEL, level))


def _covered(parts: NDArray[np.object_], bounds: _Floats, level: int, grow_m: float) -> Iterator[tuple[_Ints, Cells]]:
    """Positions and cells of geometries of one part each, repeated now and then."""
    flat, cells = _lattice_cells(bounds, level, grow_m)
    yield flat, cells
    rest = np.setdiff1d(np.arange(len(bounds)), flat)
    finer = min(level + _FINER, 30)
    # a cell holds a circle of this radius, so a grid of spacing radius·√2 has a point in every cell; a cell that comes
    # within grow_m has all its points within grow_m plus its diagonal
    spacing_m = 0.9 * least_width_m(finer) / np.sqrt(2)
    reach_m = grow_m + greatest_diagonal_m(finer)
    reached = _padded(bounds[rest], reach_m)
    step_lat = spacing_m / _METRES_PER_DEGREE[1]
    step_lon = step_lat / np.maximum(np.cos(np.radians(_lowest(reached))), 1e-6)
    rows = np.floor((reached[:, 3] - reached[:, 1]) / step_lat).astype(np.int64) + 2
    columns = np.floor((reached[:, 2] - reached[:, 0]) / step_lon).astype(np.int64) + 2
    for block in _blocks(rows * columns):
        k, nth = ragged((rows * columns)[block])
        k = block[k]
        lat = np.minimum(reached[k, 1] + (nth // columns[k]) * step_lat, 90.0)
        lon = reached[k, 0] + (nth % columns[k]) * step_lon[k]
        close = _within(lon, lat, k, parts[rest], bounds[rest], reached, reach_m)
        k, cells = k[close], s2_parents(s2_cells(_wrapped(lon[close]), lat[close], finer), level)
        # neighbouring samples mostly share their cell
        new = np.ones(len(k), np.bool_)
        new[1:] = (k[1:] != k[:-1]) | (cells[1:] != cells[:-1])
        yield rest[k[new]], cells[new]


def _lattice_cells(bounds: _Floats, level: int, grow_m: float) -> tuple[_Ints, Cells]:
    """Positions and cells of the boxes that lie on one face of the cube and are not too large, grown by ``grow_m``.

    On a face, cells of a level are the squares of a lattice whose lines are geodesics. So a coordinate is greatest and
    least at corners of a convex shape, and the shape meets no squares but those between its corners' extremes. A box of
    longitude and latitude is convex but for its parallels, which leave their chords by width² · tan(latitude) / (8 ·
    radius): padding makes up for that.
    """
    size = _padded(bounds, grow_m)
    width_m = (size[:, 2] - size[:, 0]) * _METRES_PER_DEGREE[1] * np.cos(np.radians(_lowest(size)))
    highest = np.minimum(np.abs(size[:, [1, 3]]).max(1), 89.0)
    bulge_m = 1.1 * width_m**2 * np.tan(np.radians(highest)) / (8 * _RADIUS_M[0])
    near = _padded(bounds, grow_m + 1.0 + bulge_m)
    faces, s, t = (
        np.stack(values, 1)
        for values in zip(*(place_on_cube(_wrapped(near[:, x]), near[:, y]) for x, y in _CORNERS), strict=True)
    )
    flat = (faces == faces[:, :1]).all(1) & (width_m < _LARGE_M) & (np.abs(near[:, [1, 3]]).max(1) < 85)
    flat &= (near[:, 3] - near[:, 1]) * _METRES_PER_DEGREE[1] < _LARGE_M
    chosen = np.flatnonzero(flat)
    side = 1 << level
    i, j = (np.clip(np.floor(place[chosen] * side), 0, side - 1).astype(np.int64) for place in (s, t))
    columns, rows = np.ptp(i, axis=1) + 1, np.ptp(j, axis=1) + 1
    k, nth = ragged(columns * rows)
    lon, lat = _lattice_centres(
        faces[chosen, 0][k],
        (i.min(1)[k] + nth % columns[k] + _INSIDE) / side,
        (j.min(1)[k] + nth // columns[k] + _INSIDE) / side,
    )
    return chosen[k], s2_cells(lon, lat, level)


def _lattice_centres(face: _Ints, s: _Floats, t: _Floats) -> tuple[_Floats, _Floats]:
    """Longitude and latitude, degrees, of places ``(s, t)`` on faces of the cube; ``s2coords.h``, FaceUVtoXYZ."""
    u, v = (np.where(x >= 0.5, (4 * x * x - 1) / 3, (1 - 4 * (1 - x) ** 2) / 3) for x in (s, t))
    row = np.arange(len(face))
    along = np.where(face < 3, 1.0, -1.0)
    xyz = np.empty((3, len(face)))
    xyz[face % 3, row] = along
    xyz[U_AXIS[face], row] = U_SIGN[face] * u * along
    xyz[V_AXIS[face], row] = V_SIGN[face] * v * along
    return np.degrees(np.arctan2(xyz[1], xyz[0])), np.degrees(np.arctan2(xyz[2], np.hypot(xyz[0], xyz[1])))


def _within(
    lon: _Floats, lat: _Floats, k: _Ints, parts: NDArray[np.object_], bounds: _Floats, reached: _Floats, reach_m: float
) -> NDArray[np.bool_]:
    """Samples that may lie within ``reach_m`` of their geometry; lengths are understated, so none is lost."""
    scale = _METRES_PER_DEGREE[0] * np.cos(np.radians(np.minimum(np.abs(reached[:, [1, 3]]).max(1), 90.0)))
    x_gap = np.maximum(np.maximum(bounds[k, 0] - lon, lon - bounds[k, 2]), 0) * scale[k]
    y_gap = np.maximum(np.maximum(bounds[k, 1] - lat, lat - bounds[k, 3]), 0) * _METRES_PER_DEGREE[0]
    # a box all around the globe has no outside to tell from
    round_the_globe = (reached[:, 2] - reached[:, 0] >= 360)[k]
    close: NDArray[np.bool_] = (np.hypot(x_gap, y_gap) <= reach_m) | round_the_globe
    size_m = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1]) * _METRES_PER_DEGREE[1]
    # the box of a small geometry says enough
    asked = np.flatnonzero(close & ~round_the_globe & (size_m > reach_m)[k])
    if len(asked):
        metric = np.empty(len(parts), object)
        for one in np.unique(k[asked]):
            metric[one] = _scaled(parts[one], float(scale[one]))
        points = shapely.points(lon[asked] * scale[k[asked]], lat[asked] * _METRES_PER_DEGREE[0])
        shapely.prepare(metric)
        close[asked] = shapely.dwithin(metric[k[asked]], points, reach_m)
    return close


def _scaled(geometry: shapely.Geometry, scale: float) -> shapely.Geometry:
    return shapely.transform(geometry, lambda lonlat: lonlat * [scale, _METRES_PER_DEGREE[0]])


def _padded(bounds: _Floats, metres: float | _Floats) -> _Floats:
    """Boxes (west, south, east, north) grown by at least ``metres``; longitudes may leave ±180."""
    up = metres / _METRES_PER_DEGREE[0]
    south, north = np.maximum(bounds[:, 1] - up, -90.0), np.minimum(bounds[:, 3] + up, 90.0)
    narrow = np.cos(np.radians(np.maximum(np.abs(south), np.abs(north))))
    across = np.minimum(up / np.maximum(narrow, 1e-9), 180.0)
    whole = bounds[:, 2] - bounds[:, 0] + 2 * across >= 360
    west, east = np.where(whole, -180.0, bounds[:, 0] - across), np.where(whole, 180.0, bounds[:, 2] + across)
    return np.column_stack([west, south, east, north])


def _lowest(bounds: _Floats) -> _Floats:
    """Least absolute latitude of each box, where a degree of longitude is longest."""
    straddles = (bounds[:, 1] <= 0) & (bounds[:, 3] >= 0)
    return np.where(straddles, 0.0, np.abs(bounds[:, [1, 3]]).min(1))


def _wrapped(lon: _Floats) -> _Floats:
    return np.where(np.abs(lon) <= 180, lon, (lon + 180) % 360 - 180)


def _blocks(counts: _Ints) -> Iterator[_Ints]:
    """Runs of rows whose counts add up to about a block."""
    if len(counts):
        edges = np.flatnonzero(np.diff(np.cumsum(counts) // _BLOCK)) + 1
        yield from np.split(np.arange(len(counts)), edges)
