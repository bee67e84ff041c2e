"""Which features may matter to which targets: candidates by S2 cell and box, in the metres of a UTM zone."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from utils.context_cells import Covering, covering, join_level, shared_cells
from utils.context_places import Geometries, centres_lonlat, clipped, in_metres, local_bounds
from utils.errors import GeometryError
from utils.geo import utm_epsgs

_BLOCK = 1024

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Local:
    """Geometries in the metres of one zone."""

    targets: Geometries
    """Targets of the zone, shape (n,)."""
    features: Geometries
    """Features near them, shape (k,)."""
    feature_of: _Ints
    """Row of the feature table each of ``features`` stands in."""


def zones(targets: Geometries) -> Iterator[tuple[int, _Ints]]:
    """EPSG code of each UTM zone and the targets whose centre lies in it.

    Raises:
        GeometryError: a target has no geometry.
        CRSError: a target lies outside 80° S to 84° N, where UTM ends.
    """
    if (shapely.is_missing(targets) | shapely.is_empty(targets)).any():
        raise GeometryError("a target has no geometry; leave it out before the join")
    centres = centres_lonlat(targets)
    codes = utm_epsgs(centres[:, 0], centres[:, 1]) if len(targets) else np.empty(0, np.int32)
    for code in np.unique(codes):
        yield int(code), np.flatnonzero(codes == code)


def candidates(
    targets: Geometries, features: Geometries, epsg: int, search_m: float
) -> Iterator[tuple[Local, _Ints, _Ints]]:
    """Local geometries and, for a block of targets at a time, the pairs whose boxes lie within ``search_m``."""
    centre_lon = (epsg % 100) * 6 - 183.0
    # grid metres are at most 0.1 % longer than ground metres within a zone
    reach_m = 1.01 * search_m + 1.0
    near = clipped(features, local_bounds(targets, centre_lon, reach_m))
    kept = np.flatnonzero(~shapely.is_empty(near))
    level = join_level(reach_m + 50.0)
    cells = covering(near[kept], level, adaptive=True)
    wanted = covering(targets, level, grow_m=reach_m)
    used = np.unique(shared_cells(_all_of(wanted), cells)[1])
    back = np.full(len(kept), -1, np.int64)
    back[used] = np.arange(len(used))
    local = Local(targets=in_metres(targets, epsg), features=in_metres(near[kept[used]], epsg), feature_of=kept[used])
    shapely.prepare(local.targets)
    boxes, others = shapely.bounds(local.targets), shapely.bounds(local.features)
    # targets that share cells are looked at together
    first = wanted.cells[np.searchsorted(wanted.owners, np.arange(len(targets)))]
    order = np.argsort(first, kind="stable")
    for start in range(0, len(order), _BLOCK):
        some = np.sort(order[start : start + _BLOCK])
        t, f = shared_cells(_some_of(wanted, some, len(targets)), cells)
        t, f = some[t], back[f]
        close = box_gaps(boxes[t], others[f]) <= search_m
        yield local, t[close], f[close]


def box_gaps(boxes: _Floats, others: _Floats) -> _Floats:
    """Distance between boxes, 0 where they touch."""
    x = np.maximum(np.maximum(others[:, 0] - boxes[:, 2], boxes[:, 0] - others[:, 2]), 0)
    y = np.maximum(np.maximum(others[:, 1] - boxes[:, 3], boxes[:, 1] - others[:, 3]), 0)
    return np.hypot(x, y)


def _all_of(wanted: Covering) -> Covering:
    """The cells of all targets as those of one."""
    cells, first = np.unique(wanted.cells, return_index=True)
    return Covering(owners=np.zeros(len(cells), np.int64), cells=cells, levels=wanted.levels[first])


def _some_of(wanted: Covering, some: _Ints, count: int) -> Covering:
    """The cells of some targets, which are counted anew."""
    place = np.full(count, -1, np.int64)
    place[some] = np.arange(len(some))
    owners = place[wanted.owners]
    return Covering(owners=owners[owners >= 0], cells=wanted.cells[owners >= 0], levels=wanted.levels[owners >= 0])
