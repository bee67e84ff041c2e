"""Windows and their blending, held against plain loops and full accumulators."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.blending import PlacedWindow, Reach, WindowLattice, blended
from utils.errors import ConfigError

LATTICES = st.integers(1, 40).flatmap(
    lambda side: st.builds(WindowLattice, window_px=st.just(side), overlap_px=st.integers(0, side // 2))
)


@pytest.mark.parametrize(("window_px", "overlap_px"), [(0, 0), (64, 33), (64, -1)])
def test_windows_that_cannot_be_laid_out_are_refused(window_px, overlap_px):
    with pytest.raises(ConfigError, match="half a window"):
        WindowLattice(window_px=window_px, overlap_px=overlap_px)


@given(LATTICES, st.integers(0, 200), st.integers(1, 90))
def test_starts_are_all_windows_that_hold_a_pixel(lattice, first, length):
    margin = lattice.overlap_px // 4
    every = [k * lattice.stride_px + margin - lattice.overlap_px for k in range(-300, 300)]
    cores = [(start, start + margin, start + lattice.window_px - margin) for start in every]
    wanted = [start for start, begin, end in cores if begin < first + length and end > first]
    assert list(lattice.starts(first, length)) == wanted
    # no pixel lies in more than two
    pixels = np.concatenate([np.arange(start + margin, start + lattice.window_px - margin) for start in wanted])
    assert np.unique(pixels, return_counts=True)[1].max() <= 2


@given(LATTICES)
def test_windows_begin_where_the_one_before_would_count_nothing(lattice):
    first = lattice.starts(0, 1)[0]
    assert first == lattice.anchor_px <= 0
    assert first - lattice.stride_px + lattice.window_px - lattice.margin_px == 0


@given(LATTICES)
def test_weights_of_two_windows_sum_to_one_and_rise(lattice):
    flank = lattice.flank
    assert lattice.overlap_px // 2 <= len(flank) == lattice.core_px - lattice.stride_px <= lattice.overlap_px
    np.testing.assert_allclose(flank + flank[::-1], 1, atol=1e-6)
    assert (np.diff(flank) > 0).all()
    # numpy's window has points on pixel edges and centres in turn; these are the centres of its rising half
    np.testing.assert_allclose(flank, np.hanning(4 * len(flank) + 1)[1 : 2 * len(flank) : 2], atol=1e-6)


@given(LATTICES, st.integers(1, 70), st.data())
def test_reach_holds_windows_and_what_they_mirror(lattice, raster_length, data):
    first = data.draw(st.integers(0, raster_length - 1))
    length = data.draw(st.integers(1, raster_length - first))
    reach = lattice.reach(first, length, raster_length)
    starts = lattice.starts(first, length)
    assert reach.first <= starts[0]
    assert reach.first + reach.count >= starts[-1] + lattice.window_px
    line = np.arange(raster_length)
    before, after = max(0, -reach.first), max(0, reach.first + reach.count - raster_length)
    padded = np.pad(line, (before, after), mode="symmetric")
    shown = padded[reach.first + before :][: reach.count]
    windows = slice(starts[0] - reach.first, starts[-1] + lattice.window_px - reach.first)
    place = reach.first + reach.mirrored
    assert (place == shown).all()
    # mirrored pixels were read, for every pixel a window holds
    assert ((reach.mirrored >= 0) & (reach.mirrored < reach.count))[windows].all()
    beyond = np.zeros(reach.count, bool)
    for part in reach.beyond:
        beyond[part] = True
    inside = np.arange(reach.count) + reach.first
    assert (beyond == ((inside < 0) | (inside >= raster_length))).all()


def test_nothing_lies_beyond_inside_the_raster():
    assert Reach(first=3, count=5, raster_length=20).beyond == []


def accumulated(windows, lattice, shape):
    """Weighted sums over a whole accumulator, in float64."""
    flank = lattice.flank.astype(np.float64)
    margin = lattice.overlap_px // 4
    core = np.ones(lattice.window_px - 2 * margin)
    core[: len(flank)] = flank
    core[len(core) - len(flank) :] = flank[::-1]
    line = np.pad(core, margin)
    total = np.zeros((shape[0] + 200, shape[1] + 200))
    weights = np.zeros_like(total)
    for window in windows:
        place = (
            slice(window.top + 100, window.top + 100 + lattice.window_px),
            slice(window.left + 100, window.left + 100 + lattice.window_px),
        )
        total[place] += np.outer(line, line) * window.data
        weights[place] += np.outer(line, line)
    inner = slice(100, 100 + shape[0]), slice(100, 100 + shape[1])
    return total[inner] / weights[inner], weights[inner]


@given(LATTICES, st.integers(0, 50), st.integers(0, 50), st.integers(1, 60), st.integers(1, 60))
def test_blending_equals_a_full_accumulator(lattice, top, left, height, width):
    rng = np.random.default_rng(0)
    windows = [
        PlacedWindow(top=row - top, left=column - left, data=rng.random((lattice.window_px,) * 2, dtype=np.float32))
        for row in lattice.starts(top, height)
        for column in lattice.starts(left, width)
    ]
    found = blended(windows, lattice, np.ones((height, width), bool))
    wanted, weights = accumulated(windows, lattice, (height, width))
    np.testing.assert_allclose(weights, 1, atol=1e-5)
    assert np.abs(found / 254 - wanted).max() <= 0.5 / 254 + 1e-5


@given(LATTICES, st.integers(1, 60), st.integers(1, 60))
def test_equal_values_come_back_exactly(lattice, height, width):
    scene = np.random.default_rng(1).random((height + 100, width + 100), dtype=np.float32)
    valid = np.random.default_rng(2).random((height, width)) > 0.3
    windows = [
        PlacedWindow(
            top=row,
            left=column,
            data=scene[row + 50 : row + 50 + lattice.window_px, column + 50 : column + 50 + lattice.window_px],
        )
        for row in lattice.starts(0, height)
        for column in lattice.starts(0, width)
        if valid[max(row, 0) : row + lattice.window_px, max(column, 0) : column + lattice.window_px].any()
    ]
    found = blended(windows, lattice, valid)
    wanted = np.rint(scene[50 : 50 + height, 50 : 50 + width] * np.float32(254)).astype(np.uint8)
    assert (found == np.where(valid, wanted, 255)).all()


def test_without_windows_all_is_nodata():
    assert (blended([], WindowLattice(window_px=8, overlap_px=2), np.zeros((5, 6), bool)) == 255).all()
