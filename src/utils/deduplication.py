"""Labels of one object in several datasets: pairs from :mod:`utils.neighbourhoods`, merged by a priority rule.

Merging is greedy and never transitive: a label is merged if it duplicates a *kept* label that comes before it. In a
chain A ~ B ~ C where A and C do not overlap, B goes into A and C stays.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import ArrayLike, NDArray

from utils.errors import ConfigError, GeometryError
from utils.geo import LONLAT, reproject_points
from utils.neighbourhoods import candidate_pairs

Overlap = Literal["iou", "smaller"]
KINDS = ("polygon", "box", "point")
"""Kinds of labels, the one that says most about the object first."""

EQUAL_AREA = 6933
"""EPSG code of the cylindrical equal-area projection (metres) in which areas are compared."""

_X_PER_DEGREE = 17_367_530.445161 / 180
_A_M, _E2 = 6_378_137.0, 0.0066943799901413165
_PAIRS_PER_BLOCK = 1 << 15

_Floats = NDArray[np.float64]
_Indices = NDArray[np.int64]
_Shapes = NDArray[np.object_]


@dataclass(frozen=True, kw_only=True)
class DeduplicationRule:
    """When labels are duplicates, and which of them stays."""

    enabled: bool = True
    """Whether labels are compared at all."""
    overlap: Overlap = "iou"
    """``iou`` divides the shared area by the area of both together: outlines of one extent. ``smaller`` divides it by
    the smaller area: also a box around an outline, and small outlines under a coarse one."""
    min_overlap: float = 0.5
    """Polygons and boxes that overlap at least this much are duplicates; above 0, at most 1."""
    point_distance_m: float = 0.0
    """A point is a duplicate of a label this near or nearer, metres; 0 asks it to lie on the label."""
    priority: tuple[str, ...] = ()
    """Datasets, the most trusted first; all others come after them, as equals."""
    within_dataset: bool = False
    """Whether labels of one dataset may be duplicates of each other. Off, because one provider's neighbouring outlines
    are rows of one plant more often than the same row drawn twice."""
    fill_missing: bool = True
    """Whether a kept label takes a missing date or capacity from a label merged into it (noted in ``repairs``)."""

    def __post_init__(self) -> None:
        """Refuse a rule that cannot be followed."""
        if self.overlap not in ("iou", "smaller"):
            raise ConfigError(f"overlap is {self.overlap!r}; give 'iou' or 'smaller'")
        if not 0 < self.min_overlap <= 1:
            raise ConfigError(f"min_overlap is {self.min_overlap}; give a share above 0 and at most 1")
        if not (math.isfinite(self.point_distance_m) and 0 <= self.point_distance_m <= 10_000):
            raise ConfigError(f"point_distance_m is {self.point_distance_m}; give 0 to 10,000 metres")
        if isinstance(self.priority, str) or len(set(self.priority)) < len(self.priority):
            raise ConfigError(f"priority {self.priority!r} must be a tuple of dataset names without repetition")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Duplicate pairs, each once."""

    first: _Indices
    """Rows of one label of each pair, shape (n,)."""
    second: _Indices
    """Rows of the other, greater than ``first``, shape (n,)."""
    overlap: NDArray[np.float32]
    """Shared area by the rule's measure; with a point, 1 on the label and 0 beside it."""
    distance_m: NDArray[np.float32]
    """Distance of pairs with a point; NaN for pairs without."""


@dataclass(frozen=True, kw_only=True)
class Merges:
    """What became of the labels that were merged."""

    kept: _Indices
    """Rows of the labels merged into, shape (n,)."""
    merged: _Indices
    """Rows of the labels that went, ascending, shape (n,)."""
    overlap: NDArray[np.float32]
    """As in :class:`Pairs`."""
    distance_m: NDArray[np.float32]
    """As in :class:`Pairs`."""


def label_order(
    dataset: ArrayLike,
    kind: ArrayLike,
    label_id: ArrayLike,
    rule: DeduplicationRule,
    *,
    installed_on: ArrayLike | None = None,
    area_m2: ArrayLike | None = None,
) -> _Indices:
    """Rows from the label to keep first to the one to keep last, shape (n,); independent of the order of rows.

    By dataset (:attr:`DeduplicationRule.priority`), kind (polygon, box, point), date (newer first, none last), area
    (larger first, none last), and id.

    Args:
        dataset: names, shape (n,).
        kind: ``polygon``, ``box`` or ``point``, shape (n,).
        label_id: unique ids, shape (n,).
        rule: the priority.
        installed_on: days since the epoch, NaN where unknown, shape (n,).
        area_m2: square metres, NaN where unknown, shape (n,).

    Raises:
        GeometryError: an id is used twice, or a kind is unknown.
    """
    names, kinds, ids = (_texts(values) for values in (dataset, kind, label_id))
    by_id = pc.sort_indices(pa.array(ids, pa.string())).to_numpy()
    twice = int((ids[by_id][1:] == ids[by_id][:-1]).sum())
    if twice:
        raise GeometryError(f"{twice} label ids are used more than once; ids must be unique")
    ids_rank = np.empty(len(ids), np.int64)
    ids_rank[by_id] = np.arange(len(ids))
    if not np.isin(kinds, KINDS).all():
        raise GeometryError(f"label kinds are {', '.join(KINDS)}, not {sorted(set(kinds.tolist()) - set(KINDS))}")
    trust = np.full(len(ids), len(rule.priority))
    for place, name in enumerate(rule.priority):
        trust[names == name] = place
    form = np.select([kinds == name for name in KINDS], range(len(KINDS)))
    unknown = np.full(len(ids), np.nan)
    newer, larger = (
        -np.nan_to_num(np.asarray(unknown if values is None else values, np.float64), nan=-np.inf)
        for values in (installed_on, area_m2)
    )
    return np.lexsort((ids_rank, larger, newer, form, trust))


def duplicate_pairs(geometry: _Shapes, dataset: ArrayLike, rule: DeduplicationRule) -> Pairs:
    """All pairs of labels that are duplicates by the rule, sorted by ``first``, then ``second``.

    Areas are those of EPSG:6933 (equal-area on WGS 84) with straight edges between the vertices there: for labels of
    one kilometre at 60° the overlap is right to about 1e-5. Point distances are taken on a plane that touches the
    ellipsoid at the point, right to about 0.1 % within 10 km. Labels split at the antimeridian are joined.

    Args:
        geometry: points, polygons and their multi-forms, EPSG:4326, shape (n,).
        dataset: names, shape (n,).
        rule: measure, thresholds, and whether labels of one dataset are compared.

    Raises:
        GeometryError: a geometry is missing, empty, not finite, off the globe, or a line or collection.
    """
    shapes = _checked(geometry)
    owner = pc.dictionary_encode(pa.array(_texts(dataset), pa.string())).indices.to_numpy()
    bounds = shapely.bounds(shapes)
    joined = np.flatnonzero(bounds[:, 2] - bounds[:, 0] > 180)
    if len(joined):
        shapes = shapes.copy()
        shapes[joined] = [_joined(shape) for shape in shapes[joined]]
        bounds = shapely.bounds(shapes)
    parts = []
    for rows_a, rows_b in candidate_pairs(bounds, rule.point_distance_m):
        compared = np.full(len(rows_a), rule.within_dataset) | (owner[rows_a] != owner[rows_b])
        first, second = rows_a[compared], rows_b[compared]
        for start in range(0, len(first), _PAIRS_PER_BLOCK):
            block = slice(start, start + _PAIRS_PER_BLOCK)
            parts.append(_measured(shapes, first[block], second[block], rule))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else [np.empty(0)] * 4
    order = np.lexsort((columns[1], columns[0]))
    first, second, overlap, distance = (column[order] for column in columns)
    return Pairs(
        first=first.astype(np.int64),
        second=second.astype(np.int64),
        overlap=overlap.astype(np.float32),
        distance_m=distance.astype(np.float32),
    )


def _texts(values: ArrayLike) -> _Shapes:
    """Values as text; NumPy's own takes the longest one's memory for each, and loses zero bytes at the end."""
    return np.array([*map(str, np.asarray(values, object).ravel()), None], object)[:-1]


def merges(pairs: Pairs, order: _Indices) -> Merges:
    """Which labels go, and into which: greedily along ``order``, each into the earlier kept label it overlaps most.

    Ties go to the nearer label, then to the one earlier in ``order``.

    Args:
        pairs: duplicates among ``len(order)`` labels.
        order: their rows, the one to keep first in front (:func:`label_order`).
    """
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    ahead = place[pairs.first] < place[pairs.second]
    early, late = np.where(ahead, pairs.first, pairs.second), np.where(ahead, pairs.second, pairs.first)
    kept = np.ones(len(order), np.bool_)
    walk = np.lexsort((place[early], place[late]))
    state = kept.tolist()
    for keeper, loser in zip(early[walk].tolist(), late[walk].tolist(), strict=True):
        # every pair of the keeper with an earlier label came before
        if state[keeper]:
            state[loser] = False
    kept = np.array(state, np.bool_)
    real = np.flatnonzero(kept[early])
    near = np.nan_to_num(pairs.distance_m[real], nan=0.0)
    best = real[np.lexsort((place[early[real]], near, -pairs.overlap[real], late[real]))]
    best = best[np.append(True, np.diff(late[best]) != 0)[: len(best)]]
    return Merges(kept=early[best], merged=late[best], overlap=pairs.overlap[best], distance_m=pairs.distance_m[best])


def _checked(geometry: _Shapes) -> _Shapes:
    shapes = np.atleast_1d(np.asarray(geometry, object))
    bad = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    bad |= ~np.isin(shapely.get_type_id(shapes), [0, 3, 4, 6])
    if not bad.any():
        west, south, east, north = shapely.bounds(shapes).T
        bad = ~((west >= -180) & (east <= 180) & (south >= -90) & (north <= 90))
        bad |= ~shapely.is_valid(shapes)
    if bad.any():
        raise GeometryError(
            f"{int(bad.sum())} of {len(shapes)} labels, first row {int(np.flatnonzero(bad)[0])}, are no valid "
            "points or polygons in longitude and latitude; check their CRS, and mend or drop them"
        )
    return shapes


def _joined(shape: shapely.Geometry) -> shapely.Geometry:
    """A label split at the antimeridian in one piece around 180°; any other as it is."""
    parts = shapely.get_parts(shape)
    bounds = shapely.bounds(parts)
    if len(parts) < 2 or not ((bounds[:, 0] >= 0) | (bounds[:, 2] <= 0)).all():
        return shape
    moved = shapely.transform(
        shape, lambda xy: np.column_stack([np.where(xy[:, 0] < 0, xy[:, 0] + 360, xy[:, 0]), xy[:, 1]])
    )
    west, _, east, _ = moved.bounds
    return moved if east - west <= 180 else shape


def _measured(
    shapes: _Shapes, first: _Indices, second: _Indices, rule: DeduplicationRule
) -> tuple[_Indices, _Indices, _Floats, _Floats]:
    """Those of the pairs that are duplicates: rows, overlap, distance in metres (NaN without a point)."""
    point = shapely.get_dimensions(shapes)
    overlap, distance = np.zeros(len(first)), np.full(len(first), np.nan)
    with_point = (point[first] == 0) | (point[second] == 0)
    areal = np.flatnonzero(~with_point)
    overlap[areal] = _area_overlap(shapes, first[areal], second[areal], rule.overlap)
    some = np.flatnonzero(with_point)
    is_first = point[first[some]] == 0
    origins = np.where(is_first, first[some], second[some])
    others = np.where(is_first, second[some], first[some])
    distance[some] = _distances_m(shapes[origins], shapes[others])
    overlap[some] = distance[some] == 0
    duplicate = np.where(with_point, distance <= rule.point_distance_m, overlap >= rule.min_overlap)
    return first[duplicate], second[duplicate], overlap[duplicate], distance[duplicate]


def _area_overlap(shapes: _Shapes, first: _Indices, second: _Indices, measure: Overlap) -> _Floats:
    rows, place = np.unique(np.concatenate([first, second]), return_inverse=True)
    flat = _equal_area(shapes[rows])
    area = shapely.area(flat)
    a, b = place[: len(first)], place[len(first) :]
    centre = shapely.bounds(flat)[:, [0, 2]].mean(axis=1) if len(flat) else np.empty(0)
    turns = np.rint((centre[a] - centre[b]) / (360 * _X_PER_DEGREE))
    theirs = flat[b]
    turned = np.flatnonzero(turns)
    theirs[turned] = _shifted(theirs[turned], turns[turned] * 360 * _X_PER_DEGREE)
    shared = shapely.area(shapely.intersection(flat[a], theirs))
    whole = np.minimum(area[a], area[b]) if measure == "smaller" else area[a] + area[b] - shared
    return np.asarray(np.clip(shared / np.maximum(whole, np.finfo(float).tiny), 0, 1))


def _equal_area(shapes: _Shapes) -> _Shapes:
    """Shapes in EPSG:6933, metres; longitudes beyond ±180 continue."""

    def flattened(lonlat: _Floats) -> _Floats:
        rows = np.column_stack([np.zeros(len(lonlat)), lonlat[:, 1]])
        return np.column_stack([lonlat[:, 0] * _X_PER_DEGREE, reproject_points(rows, LONLAT, EQUAL_AREA)[:, 1]])

    flat: _Shapes = shapely.transform(shapes, flattened)
    broken = ~shapely.is_valid(flat)
    flat[broken] = shapely.make_valid(flat[broken])
    return flat


def _shifted(shapes: _Shapes, x: _Floats) -> _Shapes:
    coordinates, owner = shapely.get_coordinates(shapes, return_index=True)
    coordinates[:, 0] += x[owner]
    moved: _Shapes = shapely.set_coordinates(shapes.copy(), coordinates)
    return moved


def _distances_m(points: _Shapes, others: _Shapes) -> _Floats:
    """Distances on planes that touch the ellipsoid at the points, metres; 0 on the other label."""
    bounds, other_bounds = shapely.bounds(points).reshape(-1, 4), shapely.bounds(others).reshape(-1, 4)
    origin = (bounds[:, :2] + bounds[:, 2:]) / 2
    turns = 360 * np.rint((origin[:, 0] - (other_bounds[:, 0] + other_bounds[:, 2]) / 2) / 360)
    phi = np.radians(origin[:, 1])
    root = np.sqrt(1 - _E2 * np.sin(phi) ** 2)
    # radii of curvature along the parallel and the meridian
    scale = np.radians(np.column_stack([_A_M / root * np.cos(phi), _A_M * (1 - _E2) / root**3]))

    def local(shapes: _Shapes, turns: _Floats) -> _Shapes:
        lonlat, owner = shapely.get_coordinates(shapes, return_index=True)
        lonlat[:, 0] += turns[owner]
        placed: _Shapes = shapely.set_coordinates(shapes.copy(), (lonlat - origin[owner]) * scale[owner])
        return placed

    return np.asarray(shapely.distance(local(points, np.zeros(len(points))), local(others, turns)))
