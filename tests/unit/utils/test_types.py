"""The nouns: grids against rasterio's transforms, chips and masks that disagree with their grid."""

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import rasterio.transform
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window
from rasterio.windows import transform as window_transform
from shapely import Point, Polygon, box

from utils.types import S2_L2A_BANDS, ChipGrid, ChipProfile, Mask, Prompt, RasterChip

GRIDS = st.builds(
    ChipGrid.around,
    st.floats(1e5, 9e5),
    st.floats(0, 9e6),
    epsg=st.just(32632),
    gsd_m=st.sampled_from([0.25, 0.3, 0.5, 10.0]),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
)


def corners(grid: ChipGrid) -> tuple[float, float, float, float]:
    return rasterio.transform.array_bounds(grid.height, grid.width, grid.affine)


@given(GRIDS)
def test_footprint_and_centre_equal_rasterios_bounds(grid: ChipGrid) -> None:
    west, south, east, north = corners(grid)
    assert grid.footprint.bounds == pytest.approx((west, south, east, north), abs=1e-6)
    assert grid.footprint.area == pytest.approx((east - west) * (north - south))
    assert grid.centre == pytest.approx(((west + east) / 2, (south + north) / 2), abs=1e-6)


@given(st.floats(1e5, 9e5), st.floats(0, 9e6), st.integers(1, 300), st.integers(1, 300))
def test_around_keeps_centre_size_and_gsd(x: float, y: float, height: int, width: int) -> None:
    grid = ChipGrid.around(x, y, epsg=32632, gsd_m=0.3, height=height, width=width)
    assert grid.centre == pytest.approx((x, y), abs=1e-6)
    assert (grid.height, grid.width, grid.epsg) == (height, width, 32632)
    assert grid.gsd_m == pytest.approx(0.3)
    assert grid.affine.e < 0 < grid.affine.a


@given(GRIDS, st.integers(0, 64))
def test_padding_equals_rasterios_window_and_goes_back(grid: ChipGrid, pixels: int) -> None:
    grown = grid.padded(pixels)
    window = Window(-pixels, -pixels, grid.width + 2 * pixels, grid.height + 2 * pixels)
    assert (grown.height, grown.width) == (window.height, window.width)
    assert grown.affine.almost_equals(window_transform(window, grid.affine), 1e-6)
    assert grown.centre == pytest.approx(grid.centre, abs=1e-6)
    back = grown.padded(-pixels)
    assert (back.height, back.width) == (grid.height, grid.width)
    assert back.transform == pytest.approx(grid.transform, abs=1e-6)


def test_a_turned_grid_keeps_its_ground_sample_distance() -> None:
    place, turn = rasterio.Affine.translation(500_000, 5_000_000), rasterio.Affine.rotation(30)
    turned = place @ turn @ rasterio.Affine.scale(0.3)
    grid = ChipGrid(epsg=32632, transform=turned[:6], height=4, width=8)
    assert grid.gsd_m == pytest.approx(0.3)
    assert grid.footprint.area == pytest.approx(4 * 8 * 0.09)
    assert grid.footprint.is_valid


def chip(**change: Any) -> RasterChip:
    grid = ChipGrid.around(0, 0, epsg=32632, gsd_m=1, height=4, width=6)
    values: dict[str, Any] = {
        "data": np.zeros((3, 4, 6), np.uint8),
        "valid": np.ones((4, 6), np.bool_),
        "grid": grid,
        "bands": ("R", "G", "B"),
        "source": "local",
        "scene_ids": ("a",),
        "sensor": "camera",
        "acquired_at": datetime(2026, 7, 1, tzinfo=UTC),
    }
    return RasterChip(**{**values, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.zeros((3, 6, 4), np.uint8)}, "data has shape"),
        ({"data": np.zeros((4, 6, 3), np.uint8)}, "data has shape"),
        ({"bands": ("R", "G")}, "data has shape"),
        ({"valid": np.ones((6, 4), np.bool_)}, "valid has shape"),
        ({"valid": np.ones((4, 6), np.uint8)}, "valid has shape"),
        ({"scl": np.zeros((6, 4), np.uint8)}, "scl has shape"),
    ],
)
def test_chips_that_disagree_with_their_grid(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chip(**change)


def test_valid_fraction_counts_pixels() -> None:
    valid = np.ones((4, 6), np.bool_)
    valid[:1] = False
    assert chip(valid=valid).valid_fraction == pytest.approx(0.75)
    assert chip(scl=np.zeros((4, 6), np.uint8)).scl is not None


@pytest.mark.parametrize(
    "data", [np.zeros((6, 4), np.bool_), np.zeros((4, 6), np.uint8), np.zeros((1, 4, 6), np.bool_)]
)
def test_masks_that_disagree_with_their_grid(data: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ValueError, match="expected bool"):
        Mask(data=data, grid=chip().grid, prompt_id="p")


@pytest.mark.parametrize(
    ("geometry", "bounds"),
    [
        (Point(3, 4), (3, 4, 3, 4)),
        (box(0, 1, 2, 3), (0, 1, 2, 3)),
        (Polygon([(0, 0), (4, 0), (0, 3)]), (0, 0, 4, 3)),
    ],
)
def test_prompt_bounds_and_box(geometry: Any, bounds: tuple[float, ...]) -> None:
    prompt = Prompt(prompt_id="p", label_id="l", kind="polygon", geometry=geometry)
    assert prompt.bounds == bounds
    assert prompt.box.bounds == bounds


def test_values_are_frozen() -> None:
    profile = ChipProfile()
    with pytest.raises(FrozenInstanceError):
        profile.height = 512  # type: ignore[misc]
    assert profile.has_msi
    assert not ChipProfile(msi_bands=()).has_msi
    assert len(set(S2_L2A_BANDS)) == 12
    assert "B10" not in S2_L2A_BANDS
