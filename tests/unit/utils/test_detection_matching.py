"""Matching of detections and labels against brute force."""

from itertools import permutations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.detection_matching import MatchRule, Pairs, assignment, candidate_pairs, measured_pairs
from utils.errors import ConfigError
from utils.geo import reproject

EPSG = 32632


def lonlat(shapes: list[shapely.Geometry]) -> np.ndarray:
    return np.array(reproject(np.array(shapes, object), EPSG, 4326), object)


def scene(seed: int, count: int, side_m: float) -> tuple[list[shapely.Geometry], list[shapely.Geometry]]:
    """Outlines, and labels near them of all kinds and sizes, in metres."""
    rng = np.random.default_rng(seed)

    def place() -> tuple[float, float]:
        return 465_000 + rng.uniform(0, side_m), 5_250_000 + rng.uniform(0, side_m)

    def outline(scale: float) -> shapely.Geometry:
        width, height = rng.uniform(2, 30, 2) * scale
        turned = shapely.affinity.rotate(shapely.box(0, 0, width, height), rng.uniform(0, 90))
        return shapely.affinity.translate(turned, *place())

    outlines = [outline(30 if rng.random() < 0.05 else 1) for _ in range(count)]
    labels: list[shapely.Geometry] = []
    for k in range(count):
        kind = rng.integers(4)
        if kind == 0:
            labels.append(shapely.Point(place()))
        elif kind == 1:
            labels.append(shapely.affinity.translate(outlines[k].centroid, *rng.normal(0, 4, 2)))
        elif kind == 2:
            labels.append(shapely.affinity.translate(outlines[k], *rng.normal(0, 3, 2)))
        else:
            labels.append(outline(1))
    return outlines, labels


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 40), side_m=st.floats(20, 3000), reach_m=st.floats(0, 100))
def test_no_pair_within_reach_is_lost(seed, count, side_m, reach_m) -> None:
    outlines, labels = scene(seed, count, side_m)
    pairs = measured_pairs(lonlat(outlines), lonlat(labels), EPSG, reach_m)
    found = dict(
        zip(zip(pairs.detection.tolist(), pairs.label.tolist(), strict=True), range(len(pairs.label)), strict=True)
    )
    for d, outline in enumerate(outlines):
        for k, label in enumerate(labels):
            gap, apart = outline.distance(label), outline.centroid.distance(label.centroid)
            if min(gap, apart) < reach_m - 1e-3:
                assert (d, k) in found
            if (d, k) not in found:
                continue
            at = found[(d, k)]
            assert pairs.gap_m[at] == pytest.approx(gap, abs=1e-3)
            assert pairs.distance_m[at] == pytest.approx(apart, abs=1e-3)
            if label.area:
                both = outline.intersection(label).area
                assert pairs.iou[at] == pytest.approx(both / (outline.area + label.area - both), abs=1e-4)
                assert pairs.shared[at] == pytest.approx(both / label.area, abs=1e-3)
            else:
                assert np.isnan(pairs.iou[at])
                assert pairs.shared[at] == float(gap == 0)


def test_h3_prunes_and_one_huge_park_is_met_by_all_in_it() -> None:
    outlines, labels = scene(1, 400, 4000)
    park = shapely.box(465_000, 5_250_000, 469_000, 5_254_000)
    one, two = candidate_pairs(lonlat(outlines), lonlat([*labels, park]), 5.0)
    assert set(one[two == len(labels)].tolist()) == set(range(400))
    one, two = candidate_pairs(lonlat(outlines), lonlat(labels), 5.0)
    assert len(one) < 0.02 * 400 * 400


@settings(max_examples=40)
@given(data=st.data())
def test_assignment_is_the_best_of_all(data) -> None:
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    cells = [(d, k) for d in range(rows) for k in range(columns) if data.draw(st.booleans())]
    iou = [data.draw(st.floats(0, 1).map(lambda x: round(x, 3))) for _ in cells]
    distance = [data.draw(st.floats(0, 20).map(lambda x: round(x, 3))) for _ in cells]
    pairs = Pairs(
        detection=np.array([d for d, _ in cells], np.int64),
        label=np.array([k for _, k in cells], np.int64),
        iou=np.array(iou, float),
        distance_m=np.array(distance, float),
        gap_m=np.zeros(len(cells)),
        shared=np.zeros(len(cells)),
    )
    rule = MatchRule(min_iou=0.2, max_distance_m=8.0)
    chosen = assignment(pairs, rule)
    assert len(set(pairs.detection[chosen])) == len(set(pairs.label[chosen])) == len(chosen)
    value = {cell: i for cell, i in zip(cells, iou, strict=True) if i >= 0.2}
    size = max(rows, columns)
    best = max(sum(value.get((d, k), 0) for d, k in enumerate(order)) for order in permutations(range(size)))
    by_overlap = [at for at in chosen if pairs.iou[at] >= 0.2]
    assert sum(pairs.iou[by_overlap]) == pytest.approx(best, abs=1e-6)
    rest = [at for at in chosen if pairs.iou[at] < 0.2]
    assert all(pairs.distance_m[at] <= 8 for at in rest)
    taken_d, taken_k = set(pairs.detection[by_overlap]), set(pairs.label[by_overlap])
    left = {
        cell: (1, -far)
        for cell, far in zip(cells, distance, strict=True)
        if far <= 8 and cell[0] not in taken_d and cell[1] not in taken_k
    }
    options = [[left[(d, k)] for d, k in enumerate(order) if (d, k) in left] for order in permutations(range(size))]
    most = max((len(each), sum(far for _, far in each)) for each in options)
    assert len(rest) == most[0]
    assert -sum(pairs.distance_m[rest]) == pytest.approx(most[1], abs=1e-5)


def test_no_detection_or_no_label_is_no_pair() -> None:
    outlines, _ = scene(0, 3, 100)
    nothing = np.empty(0, object)
    for one, two in ((nothing, lonlat(outlines)), (lonlat(outlines), nothing), (nothing, nothing)):
        pairs = measured_pairs(one, two, EPSG, 5.0)
        assert len(pairs.label) == len(assignment(pairs, MatchRule())) == 0


@pytest.mark.parametrize(
    "wrong", [{"min_iou": 0.0}, {"min_iou": 1.1}, {"max_distance_m": -1.0}, {"max_distance_m": float("nan")}]
)
def test_rules_that_cannot_be_followed_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        MatchRule(**wrong)
