"""Texture on drawn surfaces whose regularity is known, and the masked autocorrelation against plain sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.texture_evidence import fourfold_order, grown, likeness, module_regularity, texture

GSD_M = 0.3


def lattice(pitch_px: int, size: int = 60) -> np.ndarray:
    """Dark ground with light lines every ``pitch_px`` pixels along both axes."""
    image = np.full((size, size), 40.0, np.float32)
    image[::pitch_px] = image[:, ::pitch_px] = 60.0
    return image


def painted(lightness: np.ndarray, outside: tuple[int, int, int] = (120, 110, 90)) -> tuple[np.ndarray, np.ndarray]:
    """A bluish object in the middle of a plain, and its mask."""
    mask = np.zeros(lightness.shape, bool)
    mask[10:-10, 10:-10] = True
    rgb = np.empty((3, *lightness.shape), np.uint8)
    for band, (inside, value) in enumerate(zip((0.8, 0.9, 1.4), outside, strict=True)):
        rgb[band] = np.where(mask, np.clip(lightness * inside, 0, 255), value)
    return rgb, mask


@pytest.mark.parametrize("pitch_px", [3, 4, 5, 6, 7])
def test_a_lattice_at_the_pitch_of_modules_is_regular(pitch_px: int) -> None:
    image, mask = lattice(pitch_px), np.ones((60, 60), bool)
    assert module_regularity(image, mask, GSD_M) > 0.6


def test_noise_and_an_even_surface_are_not() -> None:
    noise = np.random.default_rng(1).normal(40, 5, (60, 60)).astype(np.float32)
    mask = np.ones((60, 60), bool)
    assert module_regularity(noise, mask, GSD_M) < 0.25
    assert abs(module_regularity(np.full((60, 60), 40, np.float32), mask, GSD_M)) < 0.05


def test_a_lattice_of_another_pitch_is_less_regular() -> None:
    mask = np.ones((90, 90), bool)
    wide = module_regularity(lattice(20, 90), mask, GSD_M)
    assert wide < module_regularity(lattice(5, 90), mask, GSD_M) / 2


def test_coarse_or_few_pixels_say_nothing() -> None:
    mask = np.ones((60, 60), bool)
    assert module_regularity(lattice(5), mask, 0.5) is None
    few = np.zeros((60, 60), bool)
    few[:4, :4] = True
    assert module_regularity(lattice(5), few, GSD_M) is None
    rgb, _ = painted(lattice(5))
    assert texture(rgb, np.ones((60, 60), bool), few, GSD_M) is None


def test_the_autocorrelation_is_that_of_plain_sums() -> None:
    """Shifted products over the pixels both copies hold, lag by lag."""
    rng = np.random.default_rng(3)
    plane = rng.normal(size=(24, 31)).astype(np.float32) * 4
    mask = rng.random((24, 31)) < 0.8
    values, variance = np.where(mask, plane - plane[mask].mean(), 0), float(plane[mask].var())
    reach = int(np.ceil(2.4 / GSD_M))
    rho = np.full((2 * reach + 1, 2 * reach + 1), np.nan)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            ys, xs = slice(max(0, dy), 24 + min(0, dy)), slice(max(0, dx), 31 + min(0, dx))
            yt, xt = slice(max(0, -dy), 24 + min(0, -dy)), slice(max(0, -dx), 31 + min(0, -dx))
            pairs = (mask[ys, xs] & mask[yt, xt]).sum()
            if pairs >= max(0.3 * mask.sum(), 12):
                rho[dy + reach, dx + reach] = (values[ys, xs] * values[yt, xt]).sum() / pairs / variance
    # integer half lags alone, so that nothing is interpolated
    best = max(
        rho[dy + reach, dx + reach] - rho[dy // 2 + reach, dx // 2 + reach]
        for dy in range(0, reach + 1, 2)
        for dx in range(-reach + reach % 2, reach + 1, 2)
        if 0.8 <= np.hypot(dy, dx) * GSD_M <= 2.4 and np.isfinite(rho[dy + reach, dx + reach])
    )
    found = module_regularity(plane, mask, GSD_M)
    assert found >= best - 1e-4
    assert found <= np.nanmax(rho) - np.nanmin(rho) + 1e-4


@given(st.floats(0, np.pi / 2))
def test_order_tells_right_angles_from_none(angle: float) -> None:
    turns = angle + np.arange(4) * np.pi / 2
    assert fourfold_order(np.cos(turns), np.sin(turns)) == pytest.approx(1)
    every = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    assert fourfold_order(np.cos(every), np.sin(every)) == pytest.approx(0, abs=1e-6)
    assert fourfold_order(np.zeros(3), np.zeros(3)) == 0


def test_colour_and_contrast_have_the_signs_they_say() -> None:
    rgb, mask = painted(lattice(5))
    found = texture(rgb, np.ones((60, 60), bool), mask, GSD_M)
    assert found.bluer > 10
    assert found.darker > 10
    assert found.blueness > 0
    assert found.contrast > 20
    assert found.edge > 3
    assert found.pixels == 1600


def test_pixels_without_data_do_not_count() -> None:
    rgb, mask = painted(lattice(5))
    valid = np.ones((60, 60), bool)
    valid[:, 30:] = False
    spoiled = rgb.copy()
    spoiled[:, :, 30:] = 255
    spoiled_found, found = texture(spoiled, valid, mask, GSD_M), texture(rgb, valid, mask, GSD_M)
    assert spoiled_found.lightness == found.lightness
    assert spoiled_found.pixels == found.pixels == 800


def test_the_edge_of_the_imagery_is_no_outline() -> None:
    rgb, mask = painted(np.full((60, 60), 90.0, np.float32), outside=(72, 81, 126))
    valid = np.ones((60, 60), bool)
    valid[:, 30:] = False
    cut = np.where(valid, rgb, 0).astype(np.uint8)
    assert texture(rgb, np.ones((60, 60), bool), mask, GSD_M).edge < 1
    assert texture(cut, valid, mask, GSD_M).edge < 1


def test_surroundings_without_data_are_not_compared_with() -> None:
    rgb, mask = painted(lattice(5))
    alone = texture(np.where(mask, rgb, 0).astype(np.uint8), mask, mask, GSD_M)
    assert (alone.contrast, alone.darker, alone.bluer, alone.edge) == (None, None, None, None)
    assert alone.lightness == texture(rgb, np.ones((60, 60), bool), mask, GSD_M).lightness


def test_likeness_forgives_exposure_and_not_another_thing() -> None:
    rgb, mask = painted(lattice(5))
    darker = (rgb * 0.8).astype(np.uint8)
    other = np.random.default_rng(0).integers(0, 255, rgb.shape).astype(np.uint8)
    near = grown(mask, 3)
    assert likeness(rgb, darker, near) > 0.98
    assert abs(likeness(rgb, other, near)) < 0.2
    assert likeness(rgb, np.full_like(rgb, 90), near) is None
