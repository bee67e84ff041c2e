import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.paired_bootstrap import iou_and_f1, paired_differences


def chips(seed, count=40, cells=8):
    rng = np.random.default_rng(seed)
    return rng.integers(1, 500, (count, 3)), rng.integers(0, cells, count).astype(np.uint64)


def test_measures_are_those_of_pooled_pixels():
    counts = np.array([[30, 10, 20], [0, 5, 0]])
    pooled = iou_and_f1(counts.sum(axis=0))
    assert pooled["iou"] == pytest.approx(30 / 65)
    assert pooled["f1"] == pytest.approx(60 / 95)
    assert np.isnan(iou_and_f1(np.array([0, 0, 0]))["iou"])


def test_equal_models_do_not_differ():
    counts, cells = chips(0)
    found = paired_differences(counts, counts, cells, draws=200, level=0.9, seed=1)
    assert all((one.value, one.low, one.high, one.noise) == (0, 0, 0, 0) for one in found.values())


def test_pairing_leaves_what_cells_have_in_common_out_of_the_noise():
    counts, cells = chips(1, count=400, cells=40)
    better = counts.copy()
    better[:, 2] = (better[:, 2] * 0.8).astype(int)
    found = paired_differences(counts, better, cells, draws=500, level=0.9, seed=1)["iou"]
    assert 0 < found.low < found.value < found.high
    alone = np.random.default_rng(0).multinomial(400, np.full(400, 1 / 400), size=500) @ counts
    assert found.noise < np.ptp(np.quantile(iou_and_f1(alone)["iou"], [0.05, 0.95])) / 2


def test_the_interval_is_that_of_draws_by_hand():
    counts, cells = chips(2, count=30, cells=5)
    other = counts + 3
    found = paired_differences(counts, other, cells, draws=4000, level=0.8, seed=3)["f1"]
    rng, names, drawn = np.random.default_rng(9), np.unique(cells), []
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(cells == one) for one in rng.choice(names, len(names))])
        drawn.append(iou_and_f1(other[rows].sum(axis=0))["f1"] - iou_and_f1(counts[rows].sum(axis=0))["f1"])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.1, 0.9])), abs=2e-3)


@given(st.integers(0, 1000))
def test_the_order_of_chips_does_not_matter(seed):
    counts, cells = chips(seed)
    other = counts[::-1].copy()
    order = np.random.default_rng(seed).permutation(len(cells))
    one = paired_differences(counts, other, cells, draws=50, level=0.9, seed=0)
    two = paired_differences(counts[order], other[order], cells[order], draws=50, level=0.9, seed=0)
    assert one == two


def test_one_cell_has_no_noise_and_nothing_found_is_undefined():
    counts, _ = chips(4)
    one = paired_differences(counts, counts + 1, np.zeros(len(counts), np.uint64), draws=50, level=0.9, seed=0)
    assert one["iou"].noise == 0
    nothing = np.zeros((3, 3), np.int64)
    found = paired_differences(nothing, nothing, np.arange(3, dtype=np.uint64), draws=50, level=0.9, seed=0)
    assert np.isnan(found["iou"].value)
