"""Area fractions against rasterio's averages and shapely's areas."""

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.warp import reproject as warp

from utils.area import FRACTION_SCALE, area_fractions, overlap_weights
from utils.errors import CRSError
from utils.types import IGNORE, ChipGrid

EPSG = 32632


def grid(left, top, step, height, width, *, epsg=EPSG):
    return ChipGrid(epsg=epsg, transform=(step, 0.0, left, 0.0, -step, top), height=height, width=width)


def mask_of(seed, shape, values=(0, 1)):
    return np.random.default_rng(seed).choice(np.array(values, np.uint8), shape)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    ratio=st.integers(1, 9),
    height=st.integers(1, 8),
    width=st.integers(1, 8),
    left=st.integers(-3, 3),
    top=st.integers(-3, 3),
)
def test_whole_ratios_are_rasterios_averages(seed, ratio, height, width, left, top):
    """A fine grid of whole coarse pixels, anywhere on a larger or smaller coarse grid."""
    fine = grid(500_000, 5_000_000, 0.5, height * ratio, width * ratio)
    step = 0.5 * ratio
    coarse = grid(500_000 - left * step, 5_000_000 + top * step, step, 8, 8)
    mask = mask_of(seed, (fine.height, fine.width))
    wanted = np.full((8, 8), -1.0)
    warp(
        mask.astype(np.float64),
        wanted,
        src_transform=fine.affine,
        dst_transform=coarse.affine,
        src_crs=f"EPSG:{EPSG}",
        dst_crs=f"EPSG:{EPSG}",
        resampling=Resampling.average,
        dst_nodata=-1,
    )
    found = area_fractions(mask, fine, coarse)
    known = np.zeros((8, 8), bool)
    known[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = True
    np.testing.assert_array_equal(found != IGNORE, known)
    assert (wanted[known] >= 0).all()
    assert np.abs(found[known] / FRACTION_SCALE - wanted[known]).max(initial=0) <= 0.5 / FRACTION_SCALE + 1e-9


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    fine_m=st.floats(0.2, 3),
    coarse_m=st.floats(0.5, 12),
    dx=st.floats(-20, 20),
    dy=st.floats(-20, 20),
)
def test_any_ratio_and_offset_is_shapelys_area(seed, fine_m, coarse_m, dx, dy):
    fine = grid(500_000, 5_000_000, fine_m, 9, 7)
    coarse = grid(500_000 + dx, 5_000_000 + dy, coarse_m, 5, 6)
    mask = mask_of(seed, (9, 7), (0, 1, IGNORE))
    found = area_fractions(mask, fine, coarse)
    pixels = {value: shapely.union_all(boxes(fine, mask == value)) for value in (0, 1, IGNORE)}
    known = shapely.union_all([pixels[0], pixels[1]])
    for (row, column), value in np.ndenumerate(found):
        cell = one_box(coarse, row, column)
        covered = cell.intersection(known).area / cell.area
        if value == IGNORE:
            assert covered < 1 - 1e-7
        else:
            assert covered > 1 - 1e-5
            share = cell.intersection(pixels[1]).area / cell.area
            assert abs(value / FRACTION_SCALE - share) <= 0.5 / FRACTION_SCALE + 1e-5


def one_box(g, row, column):
    (x0, y0), (x1, y1) = g.affine @ (column, row), g.affine @ (column + 1, row + 1)
    return shapely.box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))


def boxes(g, chosen):
    return [one_box(g, row, column) for row, column in np.argwhere(chosen)]


@settings(max_examples=50, deadline=None)
@given(
    a=st.lists(st.floats(0.1, 5), min_size=1, max_size=12),
    b=st.lists(st.floats(0.1, 5), min_size=1, max_size=12),
    shift=st.floats(-20, 20),
)
def test_weights_share_out_every_interval(a, b, shift):
    edges_from, edges_to = np.cumsum([0, *a]), shift + np.cumsum([0, *b])
    weights = overlap_weights(edges_from, edges_to)
    assert weights.shape == (len(b), len(a))
    shared = np.clip(np.minimum(edges_to[1:], edges_from[-1]) - np.maximum(edges_to[:-1], edges_from[0]), 0, None)
    np.testing.assert_allclose(weights.sum(axis=1) * np.diff(edges_to), shared, atol=1e-9)
    assert (weights >= 0).all()
    assert (weights <= 1 + 1e-12).all()


def test_a_chip_under_a_sentinel_pixel_grid():
    """256 px of 0.3 m on 10 m pixels of the same centre: 6 × 6 whole pixels are known, and areas add up."""
    fine = ChipGrid.around(500_000, 5_000_000, epsg=EPSG, gsd_m=0.3, height=256, width=256)
    coarse = ChipGrid.around(500_000, 5_000_000, epsg=EPSG, gsd_m=10, height=64, width=64)
    mask = np.zeros((256, 256), np.uint8)
    mask[100:150, 90:120] = 1
    found = area_fractions(mask, fine, coarse)
    known = found != IGNORE
    assert known.sum() == 36
    assert known[29:35, 29:35].all()
    assert (found[known] / FRACTION_SCALE).sum() * 100 == pytest.approx(50 * 30 * 0.09, abs=36 * 100 / 508)


def test_extremes_and_unknown():
    fine, coarse = grid(0, 0, 1, 4, 4), grid(0, 0, 2, 2, 2)
    assert (area_fractions(np.ones((4, 4), np.uint8), fine, coarse) == FRACTION_SCALE).all()
    assert (area_fractions(np.zeros((4, 4), np.uint8), fine, coarse) == 0).all()
    mask = np.ones((4, 4), np.uint8)
    mask[0, 0] = IGNORE
    assert area_fractions(mask, fine, coarse).tolist() == [[IGNORE, 254], [254, 254]]
    assert area_fractions(mask, fine, coarse).dtype == np.uint8


TURNED = Affine.rotation(10)


@pytest.mark.parametrize(
    "other",
    [
        grid(0, 0, 2, 2, 2, epsg=32633),
        ChipGrid(epsg=EPSG, transform=(TURNED.a, TURNED.b, 0.0, TURNED.d, TURNED.e, 0.0), height=2, width=2),
        ChipGrid(epsg=EPSG, transform=(0.0, 1.0, 0.0, 1.0, 0.0, 0.0), height=2, width=2),
        ChipGrid(epsg=EPSG, transform=(2.0, 0.0, 0.0, 0.0, 2.0, -4.0), height=2, width=2),
        ChipGrid(epsg=EPSG, transform=(-2.0, 0.0, 4.0, 0.0, -2.0, 0.0), height=2, width=2),
    ],
    ids=["another crs", "turned", "transposed", "south up", "west right"],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_grids_that_are_not_upright_in_one_crs_are_refused(other, swapped):
    upright = grid(0, 0, 1, 4, 4)
    fine, coarse = (other, upright) if swapped else (upright, other)
    with pytest.raises(CRSError, match="upright"):
        area_fractions(np.ones((fine.height, fine.width), np.uint8), fine, coarse)
