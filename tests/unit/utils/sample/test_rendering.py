from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import rasterio.features
import shapely
from numpy.typing import NDArray

from utils.sample import (
    ACQUISITIONS,
    BAND_GSD_M,
    EPSG,
    Landscape,
    compile_scene,
    make_landscape,
    msi_grid,
    render_msi,
    render_vhr_tile,
    vhr_tiles,
)
from utils.sample.features import Layer
from utils.sample.msi import surface_reflectance
from utils.sample.spectra import MATERIALS, RGB_BANDS
from utils.sample.vhr import GAMMA
from utils.types import S2_L2A_BANDS

LATEST = ACQUISITIONS[1]


@pytest.fixture(scope="module")
def land() -> Landscape:
    return make_landscape("test", 0)


@pytest.fixture(scope="module")
def bare(land: Landscape) -> Landscape:
    """The same land without modules and without their shadows."""
    return replace(land, surfaces=tuple(s for s in land.surfaces if s.layer != Layer.MODULES))


def _mosaic(land: Landscape, epoch: int = 1) -> NDArray[np.uint8]:
    acquisition = ACQUISITIONS[epoch]
    scene = compile_scene(land, acquisition, acquisition.vhr_sun_deg)
    side = land.size.tile_px
    mosaic = np.zeros((3, side * land.size.tiles, side * land.size.tiles), np.uint8)
    for tile in vhr_tiles(land.size, EPSG):
        part = np.s_[:, tile.row * side : (tile.row + 1) * side, tile.column * side : (tile.column + 1) * side]
        mosaic[part] = render_vhr_tile(land, scene, tile)
    return mosaic


def _truth(land: Landscape, gsd_m: float = 0.3, bounds: tuple[float, ...] | None = None) -> NDArray[np.bool_]:
    west, south, east, north = bounds or land.size.vhr_bounds
    shape = (round((north - south) / gsd_m), round((east - west) / gsd_m))
    transform = rasterio.Affine(gsd_m, 0, west, 0, -gsd_m, north)
    mask = rasterio.features.rasterize([array.outline for array in land.arrays], shape, transform=transform)
    return np.asarray(mask, np.bool_)


def _rasterised(outline: shapely.Polygon, shape: tuple[int, ...], transform: rasterio.Affine) -> NDArray[np.bool_]:
    return np.asarray(rasterio.features.rasterize([outline], shape, transform=transform), np.bool_)


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_tiles_are_the_same_bytes_every_time_and_hold_no_nodata(land: Landscape) -> None:
    again = make_landscape("test", 0)
    tile = next(vhr_tiles(land.size, EPSG))
    pixels = [render_vhr_tile(one, compile_scene(one, LATEST, LATEST.vhr_sun_deg), tile) for one in (land, again)]
    assert pixels[0].tobytes() == pixels[1].tobytes()
    assert pixels[0].shape == (3, 600, 600)
    assert pixels[0].min() >= 1


def test_neighbouring_tiles_continue_each_other(land: Landscape) -> None:
    mosaic = _mosaic(land).astype(np.float64)
    seam = land.size.tile_px
    grey = cv2.blur(mosaic.mean(axis=0), (1, 9))
    steps = np.abs(np.diff(grey, axis=1)).mean(axis=0)
    # illumination differs by a few percent from tile to tile; objects do not break
    assert np.abs(steps[seam - 1]) < np.median(steps) + 10
    across = np.corrcoef(grey[:, seam - 1], grey[:, seam])[0, 1]
    inside = np.corrcoef(grey[:, seam - 2], grey[:, seam - 1])[0, 1]
    assert across > inside - 0.1


def test_truth_lies_on_the_modules_to_a_fraction_of_a_pixel(land: Landscape) -> None:
    shades = [
        tuple(
            replace(s, spectrum=np.full(12, level, np.float32), modules=None) if s.layer == Layer.MODULES else s
            for s in land.surfaces
        )
        for level in (0.0, 0.4)
    ]
    # brightness is linear in covered area only without the tone curve
    black, white = ((_mosaic(replace(land, surfaces=one)) / 255.0) ** (1 / GAMMA) for one in shades)
    difference = (white - black).mean(axis=0)
    seen = difference > np.median(difference[_truth(land)]) / 2
    west, _, _, north = land.size.vhr_bounds
    transform = rasterio.Affine(0.3, 0, west, 0, -0.3, north)
    for array in land.arrays:
        # across a ridge the next array is only 0.4 m away
        around = _rasterised(array.outline.buffer(0.3), seen.shape, transform)
        here, window = _rasterised(array.outline, seen.shape, transform), seen & around
        assert _iou(window, here) > 0.9
        moves = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        scores = {move: _iou(seen & around, np.roll(here, move, (0, 1))) for move in moves}
        assert max(scores, key=lambda move: scores[move]) == (0, 0)
        # a quarter of a pixel all around is more than the rasteriser's own error
        assert abs(window.sum() * 0.09 - array.outline.area) < 0.3 / 4 * array.outline.length


def test_multispectral_pixels_show_the_modules_where_the_truth_has_them(land: Landscape, bare: Landscape) -> None:
    sun = LATEST.msi_sun_deg
    with_pv, _ = surface_reflectance(land, compile_scene(land, LATEST, sun))
    without, _ = surface_reflectance(bare, compile_scene(bare, LATEST, sun))
    fine = _truth(land, 0.5, land.size.msi_bounds).astype(np.float32)
    fraction = cv2.resize(fine, with_pv.shape[1::-1], interpolation=cv2.INTER_AREA)
    near_infrared = S2_L2A_BANDS.index("B08")
    full = fraction > 0.97
    if full.any():
        expected = np.array([MATERIALS["pv_poly"][near_infrared], MATERIALS["pv_mono"][near_infrared]])
        assert with_pv[full, near_infrared].mean() < 2.2 * expected.max()
    change = np.abs(with_pv - without).sum(axis=2)
    near = cv2.dilate(fraction, np.ones((3, 3), np.uint8)) > 0
    assert change[~near].max() == 0
    assert change[fraction > 0.2].min() > 0.02
    # a shift by one pixel would show
    scores = {
        (dy, dx): np.corrcoef(np.roll(fraction, (dy, dx), (0, 1)).ravel(), change.ravel())[0, 1]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    }
    assert max(scores, key=lambda shift: scores[shift]) == (0, 0)


def test_both_baselines_carry_the_same_reflectance(land: Landscape) -> None:
    scenes = []
    for offset in (0, 1000):
        acquisition = replace(LATEST, boa_offset_dn=offset, cloudy=False)
        scenes.append(render_msi(land, compile_scene(land, acquisition, LATEST.msi_sun_deg)))
    for band in S2_L2A_BANDS:
        plain, shifted = (scene.bands[band].astype(int) for scene in scenes)
        assert np.array_equal(plain, shifted - 1000)


def test_bands_have_their_grids_and_the_cloud_its_classes(land: Landscape) -> None:
    clear, cloudy = (render_msi(land, compile_scene(land, a, a.msi_sun_deg)) for a in ACQUISITIONS)
    for band, plane in cloudy.bands.items():
        grid = msi_grid(land.size, BAND_GSD_M[band], EPSG)
        assert plane.shape == (grid.height, grid.width)
        assert plane.dtype == np.uint16
        assert plane.min() > 0
    assert clear.cloud_percent == 0
    assert 1 < cloudy.cloud_percent < 30
    assert {3, 8, 9, 10} <= set(np.unique(cloudy.scl))
    assert {4, 5, 6} <= set(np.unique(clear.scl)) <= {2, 4, 5, 6}
    blue = (cloudy.bands["B02"].astype(float) - 1000) / 10_000
    high = np.kron(cloudy.scl == 9, np.ones((2, 2), bool))
    assert blue[high].mean() > 0.4


def test_photovoltaics_are_dark_in_the_near_infrared_with_a_peak_in_the_blue_and_mild_in_the_swir() -> None:
    for cell in ("pv_mono", "pv_poly"):
        spectrum = dict(zip(S2_L2A_BANDS, MATERIALS[cell], strict=True))
        assert max(spectrum[band] for band in S2_L2A_BANDS[:8]) < 0.1
        assert spectrum["B02"] > spectrum["B03"] > spectrum["B04"]
        assert spectrum["B08"] < spectrum["B12"] < spectrum["B11"] < 0.2
        assert spectrum["B11"] > 2 * spectrum["B08"]


def _best_rectangle(x: NDArray[np.generic], y: NDArray[np.generic], truth: NDArray[np.bool_]) -> float:
    """Largest IoU of any rule ``x0 <= x < x1 and y0 <= y < y1`` on two features, thresholds at quantiles."""
    edges = [np.append(np.quantile(feature[truth], np.linspace(0, 0.98, 40)), np.inf) for feature in (x, y)]
    inside, everything = (
        np.pad(np.histogram2d(x[w], y[w], edges)[0].cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        for w in (truth, np.ones_like(truth))
    )
    best = 0.0
    for i in range(len(inside) - 1):
        hit, called = inside[i + 1 :] - inside[i], everything[i + 1 :] - everything[i]
        hit, called = hit[:, None] - hit[:, :, None], called[:, None] - called[:, :, None]
        iou = hit / np.maximum(called + truth.sum() - hit, 1)
        best = max(best, float(iou.max()))
    return best


def test_no_global_colour_threshold_finds_the_modules(record_property: Callable[[str, object], None]) -> None:
    land = make_landscape("demo", 0)
    image = _mosaic(land).transpose(1, 2, 0)
    truth = _truth(land).ravel()
    red, green, blue = image.reshape(-1, 3).astype(np.float32).T
    total = red + green + blue + 1
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV).reshape(-1, 3)
    lab = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2LAB).reshape(-1, 3)
    rules = {
        "excess blue × brightness": ((2 * blue - red - green) / total, total),
        "blue over red × brightness": (blue - red, total),
        "hue × value": (hsv[:, 0], hsv[:, 2]),
        "saturation × value": (hsv[:, 1], hsv[:, 2]),
        "Lab b × lightness": (lab[:, 2], lab[:, 0]),
    }
    found = {name: _best_rectangle(x, y, truth) for name, (x, y) in rules.items()}
    record_property("colour_threshold_iou", found)
    assert max(found.values()) <= 0.45, found
    assert RGB_BANDS == (3, 2, 1)
