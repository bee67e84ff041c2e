from dataclasses import replace

import cv2
import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from shapely import affinity

from utils.errors import ConfigError
from utils.quality import iou
from utils.segmentation import (
    ColourRatio,
    Regions,
    colour_ratio,
    filled,
    has_context,
    lab_image,
    largest_pieces,
    morphed,
    piece_at,
    pixel_centres,
    regions,
    surrounding_colours,
)
from utils.types import ChipGrid

X, Y = 500_000.0, 5_200_000.0
SETTINGS = ColourRatio()
images = arrays(np.bool_, (9, 11))


def grid_of(side: int = 100, degrees: float = 0.0, gsd_m: float = 0.3) -> ChipGrid:
    centre = Affine.translation(X, Y) @ Affine.rotation(degrees) @ Affine.scale(gsd_m, -gsd_m)
    turned = centre @ Affine.translation(-side / 2, -side / 2)
    return ChipGrid(epsg=32632, transform=tuple(turned)[:6], height=side, width=side)


def burnt(shape: shapely.Geometry, grid: ChipGrid) -> NDArray[np.bool_]:
    image = rasterio.features.rasterize(
        [shape], out_shape=(grid.height, grid.width), transform=grid.affine, dtype="uint8"
    )
    return image > 0


def painted(inside: NDArray[np.bool_], seed: int = 0) -> NDArray[np.uint8]:
    """A dark blue object on a noisy two-coloured ground, RGB uint8."""
    rng = np.random.default_rng(seed)
    ground = np.where(np.arange(inside.shape[1]) < inside.shape[1] // 2, 1.0, 0.0)
    rgb = np.empty((3, *inside.shape))
    for plane, (pv, left, right) in enumerate(((35, 170, 95), (45, 160, 120), (80, 150, 70))):
        rgb[plane] = np.where(inside, pv, left * ground + right * (1 - ground))
    return np.clip(rgb + rng.normal(0, 8, rgb.shape), 0, 255).astype(np.uint8)


def found_in(rgb: NDArray[np.uint8], grid: ChipGrid, box: shapely.Geometry, kind: str = "box") -> NDArray[np.bool_]:
    valid = np.ones(rgb.shape[1:], dtype=np.bool_)
    region = regions(box, kind, valid, grid, SETTINGS)
    return colour_ratio(lab_image(rgb, SETTINGS.median_px), region, grid, SETTINGS)


class TestColourRatio:
    @pytest.mark.parametrize("degrees", [0.0, 25.0, -70.0, 180.0])
    def test_finds_the_object_on_any_grid(self, degrees: float) -> None:
        grid = grid_of(degrees=degrees)
        panel = affinity.rotate(shapely.box(X - 5, Y - 3, X + 5, Y + 3), 20)
        truth = burnt(panel, grid)
        found = found_in(painted(truth), grid, panel.envelope)
        assert iou(found, truth) > 0.9
        assert iou(burnt(panel.envelope, grid), truth) < 0.75

    def test_keeps_several_arrays_in_one_box(self) -> None:
        grid = grid_of()
        arrays_ = shapely.union_all([shapely.box(X - 6, Y - 2, X + 2, Y + 2), shapely.box(X + 5, Y - 2, X + 8, Y + 2)])
        truth = burnt(arrays_, grid)
        assert iou(found_in(painted(truth), grid, arrays_.envelope), truth) > 0.9

    def test_a_point_finds_the_piece_under_it(self) -> None:
        grid = grid_of()
        panel, other = shapely.box(X - 2, Y - 2, X + 2, Y + 2), shapely.box(X + 4.9, Y - 2, X + 5.9, Y + 2)
        rgb = painted(burnt(panel.union(other), grid))
        found = found_in(rgb, grid, shapely.Point(X, Y).buffer(6).envelope, "point")
        assert iou(found, burnt(panel, grid)) > 0.9

    def test_a_polygon_gives_the_object_not_its_envelope(self) -> None:
        grid = grid_of()
        panel = shapely.Polygon(
            [(X - 6, Y - 6), (X + 6, Y - 6), (X + 6, Y - 2), (X - 2, Y - 2), (X - 2, Y + 6), (X - 6, Y + 6)]
        )
        truth = burnt(panel, grid)
        label = affinity.translate(panel, 0.6, -0.6)
        found = found_in(painted(truth), grid, label, "polygon")
        assert iou(found, truth) > max(0.8, iou(burnt(label, grid), truth))

    def test_stays_within_the_limit(self) -> None:
        grid = grid_of()
        box = shapely.box(X - 4, Y - 4, X + 4, Y + 4)
        rgb = painted(burnt(shapely.box(X - 5, Y - 5, X + 5, Y + 5), grid))
        region = regions(box, "box", np.ones((100, 100), dtype=np.bool_), grid, SETTINGS)
        found = colour_ratio(lab_image(rgb, 5), region, grid, SETTINGS)
        assert not (found & ~region.limit).any()

    def test_invalid_pixels_are_never_the_object(self) -> None:
        grid = grid_of()
        panel = shapely.box(X - 5, Y - 3, X + 5, Y + 3)
        rgb, valid = painted(burnt(panel, grid)), np.ones((100, 100), dtype=np.bool_)
        valid[:, 48:] = False
        rgb[:, ~valid] = 0
        region = regions(panel, "box", valid, grid, SETTINGS)
        found = colour_ratio(lab_image(rgb, 5), region, grid, SETTINGS)
        assert not (found & ~valid).any()
        assert iou(found, burnt(panel, grid) & valid) > 0.85


class TestRegions:
    @given(st.floats(-180, 180), st.floats(-20, 20), st.floats(-20, 20), st.floats(0.05, 25), st.floats(0.05, 25))
    def test_box_pixels_are_those_whose_centre_lies_in_it(
        self, degrees: float, dx: float, dy: float, width: float, height: float
    ) -> None:
        grid = grid_of(40, degrees)
        box = shapely.box(X + dx, Y + dy, X + dx + width, Y + dy + height)
        region = regions(box, "box", np.ones((40, 40), dtype=np.bool_), grid, SETTINGS)
        x, y = pixel_centres(grid)
        core_or_box = shapely.intersects_xy(box, x, y)
        extra = region.box & ~core_or_box
        assert not (core_or_box & ~shapely.intersects_xy(box.buffer(1e-6), x, y)).any()
        assert extra.sum() <= 1 + shapely.intersects_xy(box.exterior.buffer(1e-6), x, y).sum()
        assert not (region.context & region.limit).any()
        assert not (region.box & ~region.limit).any()

    def test_an_object_under_a_pixel_keeps_one_pixel(self) -> None:
        speck = shapely.box(X + 0.01, Y + 0.01, X + 0.05, Y + 0.05)
        region = regions(speck, "box", np.ones((100, 100), dtype=np.bool_), grid_of(), SETTINGS)
        assert region.core.sum() == region.box.sum() == region.limit.sum() == 1

    def test_a_polygon_between_pixel_centres_keeps_one_pixel(self) -> None:
        speck = shapely.Point(X + 0.02, Y + 0.02).buffer(0.02)
        region = regions(speck, "polygon", np.ones((100, 100), dtype=np.bool_), grid_of(), SETTINGS)
        assert region.core.sum() == region.box.sum() == 1

    def test_surroundings_have_the_stated_width(self) -> None:
        box = shapely.box(X - 1.5, Y - 1.5, X + 1.5, Y + 1.5)
        region = regions(box, "box", np.ones((100, 100), dtype=np.bool_), grid_of(), SETTINGS)
        cols = np.flatnonzero(region.context.any(axis=0))
        assert (cols[-1] - cols[0] + 1) * 0.3 == pytest.approx(3 + 2 * 3.6, abs=0.31)

    def test_context_is_missed_when_the_box_fills_the_window(self) -> None:
        grid = grid_of()
        valid = np.ones((100, 100), dtype=np.bool_)
        assert not has_context(regions(grid.footprint, "box", valid, grid, SETTINGS), SETTINGS)
        assert has_context(regions(shapely.box(X - 5, Y - 5, X + 5, Y + 5), "box", valid, grid, SETTINGS), SETTINGS)

    def test_nodata_is_no_context(self) -> None:
        grid = grid_of()
        box = shapely.box(X - 5, Y - 5, X + 5, Y + 5)
        region = regions(box, "box", burnt(box, grid), grid, SETTINGS)
        assert not region.context.any()
        assert not has_context(region, SETTINGS)


class TestColours:
    def test_lab_agrees_with_opencv_pixel_by_pixel(self) -> None:
        rgb = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
        found = lab_image(rgb, 1)
        pixel = cv2.cvtColor(rgb[:, 2, 3].reshape(1, 1, 3), cv2.COLOR_RGB2LAB)[0, 0]
        assert found.shape == (5, 7, 3)
        assert (found[2, 3] == pixel).all()

    def test_clusters_are_found(self) -> None:
        rng = np.random.default_rng(0)
        truth = np.array([[20, 120, 120], [90, 140, 110], [160, 128, 128], [230, 100, 150]], dtype=np.float32)
        samples = (truth[rng.integers(0, 4, 9000)] + rng.normal(0, 2, (9000, 3))).astype(np.float32)
        found = surrounding_colours(samples, 4)
        assert np.abs(found[np.argsort(found[:, 0])] - truth).max() < 1.0

    @given(st.integers(1, 12), st.integers(1, 6))
    def test_few_samples_give_few_colours(self, count: int, colours: int) -> None:
        samples = np.random.default_rng(count).uniform(0, 255, (count, 3)).astype(np.float32)
        found = surrounding_colours(samples, colours)
        assert found.shape == (min(count, colours), 3)
        assert np.isfinite(found).all()

    def test_one_colour_everywhere_is_no_trouble(self) -> None:
        found = surrounding_colours(np.full((500, 3), 7, dtype=np.float32), 4)
        assert np.isfinite(found).all()

    def test_opencv_random_state_is_left_alone_and_unused(self) -> None:
        samples = np.random.default_rng(0).uniform(0, 255, (3000, 3)).astype(np.float32)
        cv2.setRNGSeed(1)
        first = surrounding_colours(samples, 4)
        cv2.setRNGSeed(2)
        assert (surrounding_colours(samples, 4) == first).all()


class TestTidying:
    @given(images)
    def test_filling_leaves_what_the_outer_rings_enclose(self, data: NDArray[np.bool_]) -> None:
        found = rasterio.features.shapes(data.astype(np.uint8), mask=data, connectivity=8)
        shells = [shapely.Polygon(shape["coordinates"][0]) for shape, _ in found]
        burnt_shells = rasterio.features.rasterize(shells, out_shape=data.shape) if shells else np.zeros(data.shape)
        assert (filled(data.astype(np.uint8)) == (burnt_shells > 0)).all()

    @given(images, st.floats(0, 1))
    def test_pieces_are_kept_whole_by_size(self, data: NDArray[np.bool_], share: float) -> None:
        kept = largest_pieces(data, share)
        found = rasterio.features.shapes(data.astype(np.uint8), mask=data, connectivity=8)
        pieces = [rasterio.features.rasterize([shape], out_shape=data.shape) > 0 for shape, _ in found]
        largest = max((piece.sum() for piece in pieces), default=0)
        for piece in pieces:
            assert (kept[piece] == (piece.sum() >= share * largest)).all()
        assert not (kept & ~data).any()

    def test_piece_at_takes_the_one_under_the_core(self) -> None:
        data = np.zeros((6, 12), dtype=np.bool_)
        data[:, :5] = data[2:4, 8:10] = True
        core = np.zeros_like(data)
        core[3, 7:10] = True
        assert (piece_at(data, core) == (data & (np.arange(12) >= 8))).all()
        assert not piece_at(data, np.zeros_like(data)).any()

    def test_radius_is_ground_size_per_axis(self) -> None:
        grid = replace(grid_of(21), transform=(0.5, 0.0, X, 0.0, -1.0, Y))
        dot = np.zeros((21, 21), dtype=np.uint8)
        dot[10, 10] = 1
        grown = morphed(dot, cv2.MORPH_DILATE, 2.0, grid)
        assert grown.any(axis=0).sum() == 9
        assert grown.any(axis=1).sum() == 5


def test_has_context_counts_against_the_limit() -> None:
    mask = np.zeros((10, 10), dtype=np.bool_)
    limit, context = mask.copy(), mask.copy()
    limit[:8], context[8:] = True, True
    region = Regions(core=limit, box=limit, limit=limit, context=context, one_piece=False)
    assert has_context(region, replace(SETTINGS, min_context_ratio=0.25))
    assert not has_context(region, replace(SETTINGS, min_context_ratio=0.26))


@pytest.mark.parametrize(
    "settings", [{"median_px": 4}, {"n_colours": 0}, {"n_colours": 1.5}, {"close_m": -1.0}, {"core_share": 0.0}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        ColourRatio(**settings)
