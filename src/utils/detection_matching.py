"""Detections and known labels, one to one: which detection is which label, and what was not found.

Pairs are looked for within H3 cells and assigned within groups that share candidates: first so that the sum of IoUs is
greatest, then, among what is left, so that as many pairs as possible lie near each other and their distances add up to
least (``scipy.optimize.linear_sum_assignment``, the rectangular assignment problem of Crouse, IEEE TAES 52(4), 2016).
"""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from utils.errors import ConfigError
from utils.geo import LONLAT, reproject
from utils.ragged import ragged

_Floats = NDArray[np.float64]
_Indices = NDArray[np.int64]
_Shapes = NDArray[np.object_]

H3_RESOLUTION = 11
"""Resolution of the cells candidates share, about 25 m along an edge: arrays on roofs meet one or a few."""
_COARSEST = 5
_CELL_M2 = 2150.0
_MOST_CELLS = 4000
_METRES_PER_DEGREE = 110_574.0
_SLACK_M = 1.0


@dataclass(frozen=True, kw_only=True)
class MatchRule:
    """When a detection is a known label."""

    min_iou: float = 0.2
    """Outlines that overlap at least this much are one object; above 0, at most 1. Weak labels lie metres off."""
    max_distance_m: float = 5.0
    """Otherwise centroids this near are one object, metres; a point label lies on the outline or this near to it."""

    def __post_init__(self) -> None:
        """Refuse a rule that matches nothing, or everything."""
        if not 0 < self.min_iou <= 1:
            raise ConfigError(f"matching.min_iou is {self.min_iou}; give a share above 0 and at most 1")
        if not (math.isfinite(self.max_distance_m) and 0 <= self.max_distance_m <= 1000):
            raise ConfigError(f"matching.max_distance_m is {self.max_distance_m}; give 0 to 1000 metres")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Detections and labels that may be one object, each pair once; n pairs."""

    detection: _Indices
    """Rows of detections, shape (n,)."""
    label: _Indices
    """Rows of labels, shape (n,)."""
    iou: _Floats
    """Intersection over union, 0 to 1; NaN where the label is a point."""
    distance_m: _Floats
    """Distance of the centroids, metres."""
    gap_m: _Floats
    """Distance of the outline and the label, 0 where they touch, metres."""
    shared: _Floats
    """Share of the label's area on the detection, 0 to 1; for a point 1 on the outline and 0 beside it."""


def candidate_pairs(
    detections: _Shapes, labels: _Shapes, reach_m: float, *, resolution: int = H3_RESOLUTION
) -> tuple[_Indices, _Indices]:
    """Every pair whose boxes lie within ``reach_m`` of each other, and some beyond: those that meet one H3 cell.

    Outlines and their centroids lie in their boxes, so that no pair with either of them within reach is lost.

    Args:
        detections: geometries in EPSG:4326, shape (n,).
        labels: geometries in EPSG:4326, shape (m,).
        reach_m: metres on the ground.
        resolution: of the H3 cells; larger cells are taken where a geometry would need thousands.

    Returns:
        Rows of detections and of labels, each pair once, sorted.
    """
    nothing = np.empty(0, np.int64)
    if not len(detections) or not len(labels):
        return nothing, nothing
    # half the reach each, and what a cell's edge may be off its geodesic
    boxes = [_grown(shapely.bounds(shapes), reach_m / 2 + _SLACK_M) for shapes in (detections, labels)]
    at = min(_resolution(each, resolution) for each in boxes)
    (owners, cells), (others, their_cells) = (_covered(each, at) for each in boxes)
    order = np.argsort(their_cells, kind="stable")
    others, their_cells = others[order], their_cells[order]
    first, last = np.searchsorted(their_cells, cells, "left"), np.searchsorted(their_cells, cells, "right")
    k, nth = ragged(last - first)
    pairs = np.unique(owners[k] * len(labels) + others[first[k] + nth])
    one, two = pairs // len(labels), pairs % len(labels)
    a, b = boxes[0][one], boxes[1][two]
    meet = (a[:, :2] <= b[:, 2:]).all(axis=1) & (b[:, :2] <= a[:, 2:]).all(axis=1)
    return one[meet], two[meet]


def measured_pairs(detections: _Shapes, labels: _Shapes, epsg: int, reach_m: float) -> Pairs:
    """Candidate pairs with what is between them, in a metric CRS.

    Args:
        detections: valid outlines in EPSG:4326, shape (n,).
        labels: valid polygons and points in EPSG:4326, shape (m,).
        epsg: CRS in which areas and distances are measured, the UTM zone of the detections.
        reach_m: pairs whose outlines and centroids are both further apart than this are left out.

    Raises:
        GeometryError: a geometry is missing, empty, or has no place in the CRS.
    """
    one, two = candidate_pairs(detections, labels, reach_m)
    rows, at = np.unique(one, return_inverse=True)
    others, there = np.unique(two, return_inverse=True)
    outlines = _metric(detections[rows], epsg)[at]
    known = _metric(labels[others], epsg)[there]
    areal = shapely.area(known) > 0
    both = shapely.area(shapely.intersection(outlines, known))
    whole = shapely.area(outlines) + shapely.area(known) - both
    gap = shapely.distance(outlines, known)
    pairs = Pairs(
        detection=one,
        label=two,
        iou=np.where(areal, both / np.maximum(whole, 1e-12), np.nan),
        distance_m=shapely.distance(shapely.centroid(outlines), shapely.centroid(known)),
        gap_m=gap,
        shared=np.where(areal, both / np.maximum(shapely.area(known), 1e-12), gap == 0),
    )
    return chosen_pairs(pairs, (gap <= reach_m) | (pairs.distance_m <= reach_m))


def chosen_pairs(pairs: Pairs, keep: NDArray[np.bool_]) -> Pairs:
    """Some of the pairs."""
    return Pairs(**{name: values[keep] for name, values in vars(pairs).items()})


def joined_pairs(found: list[Pairs]) -> Pairs:
    """Pairs of several sets of detections as one."""
    names = ("detection", "label", "iou", "distance_m", "gap_m", "shared")
    kinds = {"detection": np.int64, "label": np.int64}
    return Pairs(
        **{
            name: np.concatenate([np.empty(0, kinds.get(name, np.float64)), *(getattr(each, name) for each in found)])
            for name in names
        }
    )


def assignment(pairs: Pairs, rule: MatchRule) -> _Indices:
    """Which pairs are matches: positions in ``pairs``, sorted; every detection and every label in one at most."""
    point = np.isnan(pairs.iou)
    overlap = np.where(point, 0.0, pairs.iou)
    by_overlap = np.flatnonzero(overlap >= rule.min_iou)
    # among equal sums of IoU the nearer pairs win
    nearness = 1e-9 / (1 + pairs.distance_m)
    first = _best(pairs, by_overlap, overlap + nearness)
    free = ~np.isin(pairs.detection, pairs.detection[first]) & ~np.isin(pairs.label, pairs.label[first])
    apart = np.where(point, pairs.gap_m, pairs.distance_m)
    by_distance = np.flatnonzero(free & (apart <= rule.max_distance_m))
    # one pair more outweighs any distances
    most = (rule.max_distance_m + 1) * (len(by_distance) + 1)
    tie = np.minimum(pairs.distance_m, 1e6) * 1e-9
    second = _best(pairs, by_distance, most - apart - tie)
    return np.sort(np.concatenate([first, second]))


def _best(pairs: Pairs, chosen: _Indices, gain: _Floats) -> _Indices:
    """Of the chosen pairs those that together gain most, one to one, group by group."""
    if not len(chosen):
        return chosen
    detections, at = np.unique(pairs.detection[chosen], return_inverse=True)
    labels, there = np.unique(pairs.label[chosen], return_inverse=True)
    size = len(detections) + len(labels)
    graph = coo_array((np.ones(len(chosen)), (at, len(detections) + there)), shape=(size, size))
    _, group = connected_components(graph, directed=False)
    of_pair = group[at]
    order = np.argsort(of_pair, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(of_pair[order])) + 1)
    found = [
        same if len(same) == 1 else _group_best(at[same], there[same], gain[chosen[same]], same) for same in groups
    ]
    return chosen[np.concatenate(found)]


def _group_best(at: _Indices, there: _Indices, gain: _Floats, same: _Indices) -> _Indices:
    rows, row = np.unique(at, return_inverse=True)
    columns, column = np.unique(there, return_inverse=True)
    table = np.zeros((len(rows), len(columns)))
    place = np.full(table.shape, -1)
    table[row, column], place[row, column] = gain, same
    best = place[linear_sum_assignment(table, maximize=True)]
    return np.asarray(best[best >= 0])


def _metric(shapes: _Shapes, epsg: int) -> _Shapes:
    moved = np.asarray(reproject(shapes, LONLAT, epsg), object)
    broken = ~shapely.is_valid(moved)
    moved[broken] = shapely.make_valid(moved[broken])
    return moved


def _grown(bounds: _Floats, metres: float) -> _Floats:
    """Boxes in degrees grown by at least ``metres`` on all sides."""
    up = metres / _METRES_PER_DEGREE
    lat = np.minimum(np.abs(bounds[:, [1, 3]]).max(axis=1) + up, 89.0)
    across = up / np.cos(np.radians(lat))
    return np.column_stack([bounds[:, 0] - across, bounds[:, 1] - up, bounds[:, 2] + across, bounds[:, 3] + up])


def _resolution(boxes: _Floats, resolution: int) -> int:
    """Finest resolution, at most the wanted one, at which the largest box meets some thousand cells at most."""
    lat = np.radians(np.abs(boxes[:, [1, 3]]).min(axis=1))
    area = (boxes[:, 2] - boxes[:, 0]) * np.cos(lat) * (boxes[:, 3] - boxes[:, 1]) * (111_700.0**2)
    coarser = math.ceil(math.log(max(1.0, float(area.max()) / (_CELL_M2 * _MOST_CELLS)), 7))
    return max(_COARSEST, resolution - coarser)


def _covered(boxes: _Floats, resolution: int) -> tuple[_Indices, NDArray[np.uint64]]:
    """Cells each box meets, flat: rows of boxes and cells."""
    from h3ronpy import ContainmentMode  # noqa: PLC0415 - start-up
    from h3ronpy.vector import wkb_to_cells  # noqa: PLC0415

    wkb = pa.array(shapely.to_wkb(shapely.box(*boxes.T)))
    lists = pa.array(wkb_to_cells(wkb, resolution, containment_mode=ContainmentMode.Covers))
    counts = np.diff(lists.offsets.to_numpy())
    return np.repeat(np.arange(len(boxes)), counts), lists.flatten().to_numpy().astype(np.uint64)
