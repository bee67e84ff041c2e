"""Pairs of masks: overlap against torchmetrics, boundaries against scipy's distance transform, sums by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter
from torchmetrics.functional import jaccard_index

from utils.mask_comparison import (
    SIZE_CLASSES,
    BoundaryScore,
    ComparisonTally,
    boundary,
    boundary_score,
    mask_pair,
    size_class,
)

SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24))
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape)))
BLOBS = st.tuples(st.integers(5, 40), st.integers(5, 40), st.integers(0, 2**32 - 1), st.floats(0.5, 3), st.floats(0, 5))


def blob_pair(rows, columns, seed, sigma):
    """Two smooth random masks of one shape."""
    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.normal(size=(rows, columns)), sigma) for _ in range(2)]
    return [field > np.quantile(field, rng.uniform(0.2, 0.9)) for field in fields]


def scipy_boundary(mask):
    """Mask pixels with a four-neighbour outside, the window's edge being no outside."""
    return mask & ~binary_erosion(mask, np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]), border_value=1)


def scipy_share(one, two, tolerance):
    """Share of boundary one within the tolerance of boundary two."""
    if not one.any() or not two.any():
        return 0.0
    return float((distance_transform_edt(~two)[one] <= tolerance + 1e-9).mean())


@given(PAIRS)
def test_iou_is_torchmetrics(pair):
    one, two = pair
    found = mask_pair(one, two, pixel_m2=1.0).iou
    if (one | two).any():
        wanted = jaccard_index(torch.tensor(one), torch.tensor(two), task="binary").item()
        assert found == pytest.approx(wanted, abs=1e-6)
    else:
        assert found == 1.0


@settings(max_examples=150)
@given(BLOBS)
def test_boundaries_are_scipys(drawn):
    rows, columns, seed, sigma, tolerance = drawn
    one, two = blob_pair(rows, columns, seed, sigma)
    edges = [scipy_boundary(mask) for mask in (one, two)]
    np.testing.assert_array_equal(boundary(one), edges[0])
    # a tolerance that is a distance of the lattice to the last bit is the business of the next test
    tolerance = math.floor(tolerance * 1000) / 1000 + 0.0005
    found = boundary_score(one, two, tolerance)
    if edges[0].any() or edges[1].any():
        assert found.precision == pytest.approx(scipy_share(edges[0], edges[1], tolerance))
        assert found.recall == pytest.approx(scipy_share(edges[1], edges[0], tolerance))


@pytest.mark.parametrize("shift", range(5))
@pytest.mark.parametrize("tolerance", [0, 1, 2, 3])
def test_a_shifted_square_matches_up_to_its_shift(shift, tolerance):
    one, two = np.zeros((2, 40, 40), bool)
    one[10:20, 10:20] = True
    two[10:20, 10 + shift : 20 + shift] = True
    found = boundary_score(one, two, tolerance)
    assert (found.f1 == 1.0) == (shift <= tolerance)
    assert found.precision == found.recall


@pytest.mark.parametrize("tolerance", [math.sqrt(n) for n in (1, 2, 5, 8, 13, 325)])
def test_a_distance_of_exactly_the_tolerance_counts(tolerance):
    square = round(tolerance**2)
    rows, columns = next((a, b) for a in range(20) for b in range(20) if a * a + b * b == square)
    one, two = np.zeros((2, 60, 60), bool)
    one[5, 5] = two[5 + rows, 5 + columns] = True
    assert boundary_score(one, two, tolerance).f1 == 1.0
    assert boundary_score(one, two, tolerance - 0.01).f1 == 0.0


@given(PAIRS, st.floats(0, 4))
def test_identity_and_symmetry(pair, tolerance):
    one, two = pair
    same = boundary_score(one, one, tolerance)
    assert (same.precision, same.recall) == (1.0, 1.0)
    there, back = boundary_score(one, two, tolerance), boundary_score(two, one, tolerance)
    assert (there.precision, there.recall) == (back.recall, back.precision)
    assert there.f1 == back.f1
    assert 0 <= there.f1 <= 1
    a, b = mask_pair(one, two, pixel_m2=0.09), mask_pair(two, one, pixel_m2=0.09)
    assert a.iou == b.iou
    if a.log_ratio is not None:
        assert a.log_ratio == pytest.approx(-b.log_ratio)


@given(PAIRS)
def test_more_tolerance_never_matches_less(pair):
    scores = [boundary_score(*pair, tolerance) for tolerance in (0, 1, 2, 4, 8)]
    for less, more in pairwise(scores):
        assert more.precision >= less.precision
        assert more.recall >= less.recall


def test_masks_without_a_boundary():
    empty, full = np.zeros((8, 8), bool), np.ones((8, 8), bool)
    part = empty.copy()
    part[2:4, 2:4] = True
    assert boundary_score(empty, empty).f1 == boundary_score(full, full).f1 == 1.0
    assert boundary_score(empty, full).f1 == boundary_score(full, empty).f1 == 0.0
    assert boundary_score(part, empty).f1 == boundary_score(full, part).f1 == 0.0
    assert not boundary(full).any()


def test_what_cannot_be_compared_is_refused():
    mask = np.zeros((4, 4), bool)
    with pytest.raises(ValueError, match="shapes"):
        boundary_score(mask, np.zeros((4, 5), bool))
    for wrong in (-1.0, math.nan):
        with pytest.raises(ValueError, match="tolerance"):
            boundary_score(mask, mask, wrong)


def test_inputs_stay_as_they_are():
    one, two = blob_pair(20, 20, 1, 1.5)
    kept = one.copy(), two.copy()
    mask_pair(one, two, pixel_m2=1.0)
    np.testing.assert_array_equal(one, kept[0])
    np.testing.assert_array_equal(two, kept[1])


@pytest.mark.parametrize(
    ("area", "wanted"), [(0, 0), (19.99, 0), (20, 1), (99.9, 1), (100, 2), (999.9, 2), (1000, 3), (1e9, 3)]
)
def test_size_classes(area, wanted):
    assert size_class(area) == SIZE_CLASSES[wanted]


def test_a_tally_is_the_means_by_hand():
    rng = np.random.default_rng(3)
    pairs = [mask_pair(*blob_pair(30, 30, int(seed), 2.0), pixel_m2=0.09) for seed in rng.integers(0, 1000, 12)]
    empty = np.zeros((30, 30), bool)
    half = np.tri(30, dtype=bool)
    tally = ComparisonTally(only_first=2, only_second=3)
    for pair in [*pairs, mask_pair(half, empty, pixel_m2=0.09), mask_pair(empty, empty, pixel_m2=0.09)]:
        tally.add(pair)
    found = tally.summary()
    assert (found["pairs"], found["one_empty"], found["both_empty"]) == (13, 1, 1)
    assert (found["only_first"], found["only_second"]) == (2, 3)
    assert found["iou"] == pytest.approx(sum(pair.iou for pair in pairs) / 13)
    assert found["boundary_f1"] == pytest.approx(sum(pair.boundary.f1 for pair in pairs) / 13)
    first = sum(pair.first_m2 for pair in pairs) + half.sum() * 0.09
    assert found["area_ratio"] == pytest.approx(first / sum(pair.second_m2 for pair in pairs))
    logs = [math.log(pair.first_m2 / pair.second_m2) for pair in pairs]
    assert found["mean_log_area_ratio"] == pytest.approx(np.mean(logs))


def test_an_empty_tally_has_no_means():
    found = ComparisonTally().summary()
    assert [found[name] for name in ("iou", "boundary_f1", "area_ratio", "mean_log_area_ratio")] == [None] * 4
    assert BoundaryScore(precision=0.0, recall=0.0).f1 == 0.0
