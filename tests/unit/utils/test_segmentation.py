from dataclasses import replace

import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely import affinity

from utils.errors import ConfigError
from utils.object_priors import Hint
from utils.quality import iou
from utils.segmentation import Outline, colour_features, outlined
from utils.segmentation_settings import ClassicalSettings, Window
from utils.types import ChipGrid

X, Y = 500_000.0, 5_200_000.0
SETTINGS = ClassicalSettings()
PV, ROOF, FIELD = (35, 45, 80), (165, 155, 150), (90, 130, 70)


def grid_of(side: int = 100, degrees: float = 0.0, gsd_m: float = 0.3) -> ChipGrid:
    centre = Affine.translation(X, Y) @ Affine.rotation(degrees) @ Affine.scale(gsd_m, -gsd_m)
    turned = centre @ Affine.translation(-side / 2, -side / 2)
    return ChipGrid(epsg=32632, transform=tuple(turned)[:6], height=side, width=side)


def burnt(shape: shapely.Geometry, grid: ChipGrid) -> NDArray[np.bool_]:
    image = rasterio.features.rasterize(
        [shape], out_shape=(grid.height, grid.width), transform=grid.affine, dtype="uint8"
    )
    return image > 0


def painted(
    inside: NDArray[np.bool_], *, pv: tuple[int, ...] = PV, roof: tuple[int, ...] = ROOF, seed: int = 0
) -> NDArray[np.uint8]:
    """An object on a noisy ground of roof on the left and field on the right, RGB uint8."""
    rng = np.random.default_rng(seed)
    left = np.arange(inside.shape[1]) < inside.shape[1] // 2
    rgb = np.where(left, np.array(roof)[:, None, None], np.array(FIELD)[:, None, None])
    rgb = np.where(inside, np.array(pv)[:, None, None], rgb)
    return np.clip(rgb + rng.normal(0, 8, rgb.shape), 0, 255).astype(np.uint8)


def found_in(rgb: NDArray[np.uint8], grid: ChipGrid, hint: Hint, valid: NDArray[np.bool_] | None = None) -> Outline:
    valid = np.ones(rgb.shape[1:], dtype=np.bool_) if valid is None else valid
    window = Window(colours=colour_features(rgb, valid, grid, SETTINGS), valid=valid, grid=grid)
    return outlined(window, hint, SETTINGS)


def box_of(shape: shapely.Geometry) -> Hint:
    return Hint(geometry=shape.envelope, kind="box")


@pytest.mark.parametrize("degrees", [0.0, 25.0, -70.0, 180.0])
def test_finds_the_object_on_any_grid(degrees: float) -> None:
    grid = grid_of(degrees=degrees)
    panel = affinity.rotate(shapely.box(X - 5, Y - 3, X + 5, Y + 3), 20)
    truth = burnt(panel, grid)
    assert iou(found_in(painted(truth), grid, box_of(panel)).mask, truth) > 0.9
    assert iou(burnt(panel.envelope, grid), truth) < 0.75


def test_keeps_several_arrays_in_one_box() -> None:
    grid = grid_of()
    arrays = shapely.union_all([shapely.box(X - 6, Y - 2, X + 2, Y + 2), shapely.box(X + 5, Y - 2, X + 8, Y + 2)])
    truth = burnt(arrays, grid)
    found = found_in(painted(truth), grid, box_of(arrays)).mask
    assert iou(found, truth) > 0.85
    assert iou(found, truth) > iou(burnt(arrays.envelope, grid), truth) + 0.05


def test_an_l_shape_keeps_its_notch() -> None:
    grid = grid_of()
    ell = shapely.box(X - 6, Y - 6, X + 6, Y - 1).union(shapely.box(X - 6, Y - 6, X - 1, Y + 6))
    truth = burnt(ell, grid)
    assert iou(found_in(painted(truth), grid, box_of(ell)).mask, truth) > 0.85


def test_rows_on_the_ground_stay_apart() -> None:
    grid = grid_of(140)
    rows = shapely.union_all([shapely.box(X - 12, Y - 9 + 6 * row, X + 12, Y - 6 + 6 * row) for row in range(3)])
    truth = burnt(rows, grid)
    found = found_in(painted(truth), grid, box_of(rows)).mask
    assert iou(found, truth) > 0.85
    assert iou(burnt(rows.envelope, grid), truth) < 0.65


def test_an_array_cut_by_the_chip_is_no_whole_rectangle() -> None:
    """What a chip's corner leaves of a rotated array is a triangle whose envelope is the box."""
    grid = grid_of()
    west, south, _, _ = grid.footprint.bounds
    corner = shapely.Polygon([(west, south), (west + 18, south), (west, south + 14)])
    truth = burnt(corner, grid)
    assert iou(burnt(corner.envelope, grid), truth) < 0.75
    assert iou(found_in(painted(truth), grid, box_of(corner)).mask, truth) > 0.85


def test_a_dark_roof_is_told_from_a_darker_array() -> None:
    grid = grid_of()
    panel = affinity.rotate(shapely.box(X - 6, Y - 3, X + 6, Y + 3), 30)
    truth = burnt(panel, grid)
    rgb = painted(truth, pv=(45, 50, 70), roof=(75, 74, 76))
    assert iou(found_in(rgb, grid, box_of(panel)).mask, truth) > 0.85


def test_a_point_finds_the_piece_under_it() -> None:
    grid = grid_of()
    panel, other = shapely.box(X - 2, Y - 2, X + 2, Y + 2), shapely.box(X + 4.9, Y - 2, X + 5.9, Y + 2)
    hint = Hint(geometry=shapely.Point(X, Y).buffer(6).envelope, kind="point")
    found = found_in(painted(burnt(panel.union(other), grid)), grid, hint).mask
    assert iou(found, burnt(panel, grid)) > 0.85


def test_a_polygon_gives_the_object_not_its_envelope() -> None:
    grid = grid_of()
    panel = shapely.Polygon(
        [(X - 6, Y - 6), (X + 6, Y - 6), (X + 6, Y - 2), (X - 2, Y - 2), (X - 2, Y + 6), (X - 6, Y + 6)]
    )
    truth = burnt(panel, grid)
    label = affinity.translate(panel, 0.6, -0.6)
    found = found_in(painted(truth), grid, Hint(geometry=label, kind="polygon")).mask
    assert iou(found, truth) > max(0.8, iou(burnt(label, grid), truth))


def test_stays_within_the_limit() -> None:
    grid = grid_of()
    box = shapely.box(X - 4, Y - 4, X + 4, Y + 4)
    found = found_in(painted(burnt(box.buffer(9), grid)), grid, Hint(geometry=box, kind="box")).mask
    assert not (found & ~burnt(box.buffer(8 * SETTINGS.growth_share + 0.3, join_style="mitre"), grid)).any()


def test_invalid_pixels_are_never_the_object() -> None:
    grid = grid_of()
    panel = shapely.box(X - 5, Y - 3, X + 5, Y + 3)
    rgb, valid = painted(burnt(panel, grid)), np.ones((100, 100), dtype=np.bool_)
    valid[:, 48:] = False
    rgb[:, ~valid] = 0
    found = found_in(rgb, grid, box_of(panel), valid).mask
    assert not (found & ~valid).any()
    assert iou(found, burnt(panel, grid) & valid) > 0.8


def test_a_negative_point_takes_a_twin_out_of_the_mask() -> None:
    grid = grid_of()
    left, right = shapely.box(X - 7, Y - 3, X - 1, Y + 3), shapely.box(X + 3, Y - 3, X + 7, Y + 3)
    rgb = painted(burnt(left, grid) | burnt(right, grid), pv=PV)
    rgb[:, burnt(right, grid)] = np.array([[120], [40], [40]])
    box = left.union(right).envelope
    spot = (X + 5.0, Y)
    found = found_in(rgb, grid, Hint(geometry=box, kind="box", negative=(spot,))).mask
    disc = burnt(shapely.Point(spot).buffer(SETTINGS.point_core_m), grid)
    assert not (found & disc).any()
    assert iou(found, burnt(left, grid)) > 0.85


def test_positive_points_are_in_the_mask() -> None:
    grid = grid_of()
    left, right = shapely.box(X - 7, Y - 3, X - 1, Y + 3), shapely.box(X + 3, Y - 3, X + 7, Y + 3)
    rgb = painted(burnt(left, grid))
    rgb[:, burnt(right, grid)] = np.array([[60], [60], [60]])
    box = left.union(right).envelope
    truth = burnt(left.union(right), grid)
    hint = Hint(geometry=box, kind="box", positive=((X - 4.0, Y), (X + 5.0, Y)))
    found = found_in(rgb, grid, hint).mask
    assert (found & burnt(shapely.Point(X + 5, Y).buffer(0.7), grid)).any()
    assert iou(found, truth) > 0.8


def test_an_earlier_mask_pulls() -> None:
    grid = grid_of()
    left, right = shapely.box(X - 7, Y - 3, X - 1, Y + 3), shapely.box(X + 3, Y - 3, X + 7, Y + 3)
    rgb = painted(burnt(left.union(right), grid))
    box = left.union(right).envelope
    plain = found_in(rgb, grid, Hint(geometry=box, kind="box")).mask
    pulled = found_in(rgb, grid, Hint(geometry=box, kind="box", previous=burnt(left, grid))).mask
    assert (plain & burnt(right, grid)).any()
    assert iou(pulled, burnt(left, grid)) > iou(plain, burnt(left, grid))


def test_contrast_is_what_colours_can_tell() -> None:
    grid = grid_of()
    panel = shapely.box(X - 5, Y - 3, X + 5, Y + 3)
    clear = found_in(painted(burnt(panel, grid)), grid, box_of(panel)).contrast
    blurred = found_in(painted(burnt(panel, grid), pv=(150, 150, 135)), grid, box_of(panel)).contrast
    assert clear is not None
    assert blurred is not None
    assert clear > 0.95
    assert blurred < clear


def test_a_box_that_hides_everything_else_is_the_mask() -> None:
    grid = grid_of()
    found = found_in(painted(np.ones((100, 100), dtype=np.bool_)), grid, Hint(geometry=grid.footprint, kind="box"))
    assert found.contrast is None
    assert found.mask.all()


def test_an_array_that_fills_the_chip_loses_what_is_not_array() -> None:
    """No surroundings, but a bright walkway through the box."""
    grid = grid_of()
    truth = ~burnt(affinity.rotate(shapely.box(X - 40, Y - 2, X + 40, Y + 2), 30), grid)
    rgb = painted(truth)
    rgb[:, ~truth] = np.random.default_rng(0).normal(200, 8, (3, int((~truth).sum()))).astype(np.uint8)
    found = found_in(rgb, grid, Hint(geometry=grid.footprint, kind="box")).mask
    assert iou(found, truth) > 0.9


def test_colours_do_not_leak_from_nodata() -> None:
    grid = grid_of(40)
    rgb = np.full((3, 40, 40), 120, dtype=np.uint8)
    valid = np.ones((40, 40), dtype=np.bool_)
    valid[:, 20:] = False
    rgb[:, ~valid] = 0
    found = colour_features(rgb, valid, grid, replace(SETTINGS, median_px=1))
    assert np.allclose(found[:, :20, 3:], found[5, 2, 3:], atol=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        {"median_px": 4},
        {"own_colours": 0},
        {"other_colours": 1.5},
        {"close_m": -1.0},
        {"jitter_share": 0.0},
        {"shapeless_share": 1.5},
        {"blur_m": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        ClassicalSettings(**settings)
