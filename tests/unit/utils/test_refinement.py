import cv2
import numpy as np
import pytest
import rasterio.features
import shapely
import shapely.geometry
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from shapely import MultiPolygon, get_num_coordinates

from utils.errors import ConfigError, CRSError
from utils.quality import iou, rectangularity
from utils.refinement import RefinementSteps, area_m2, outline, pixel_area_m2, refine, require_metres
from utils.types import ChipGrid, Mask

OFF = dict.fromkeys(vars(RefinementSteps()), 0.0)
pixels = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))


def grid_for(shape: tuple[int, int], gsd_m: float = 0.3, degrees: float = 0.0, epsg: int = 32632) -> ChipGrid:
    turned = Affine.translation(500_000, 5_200_000) @ Affine.rotation(degrees) @ Affine.scale(gsd_m, -gsd_m)
    return ChipGrid(epsg=epsg, transform=tuple(turned)[:6], height=shape[0], width=shape[1])


def mask_of(data: NDArray[np.bool_], **grid: float) -> Mask:
    return Mask(
        data=data, grid=grid_for(data.shape, **grid), prompt_id="p", scores={"stability": 0.5}, flags=("small",)
    )


def square(side: int = 20, canvas: int = 40) -> NDArray[np.bool_]:
    data = np.zeros((canvas, canvas), dtype=np.bool_)
    low = (canvas - side) // 2
    data[low : low + side, low : low + side] = True
    return data


def degraded_arrays(count: int) -> list[tuple[Mask, NDArray[np.bool_]]]:
    """Rotated rectangles at 0.3 m beside what a colour rule leaves of them: wavy edges, holes, crumbs outside."""
    rng = np.random.default_rng(7)

    def field(sigma: float) -> NDArray[np.float32]:
        noise = cv2.GaussianBlur(rng.normal(size=(128, 128)).astype(np.float32), (0, 0), sigma)
        return noise / noise.std()

    pairs = []
    for _ in range(count):
        truth = np.zeros((128, 128), dtype=np.uint8)
        size, angle = (rng.uniform(10, 70), rng.uniform(8, 40)), float(rng.uniform(0, 90))
        cv2.fillPoly(truth, [cv2.boxPoints(((64.0, 64.0), size, angle)).round().astype(np.int32)], 1)
        signed = cv2.distanceTransform(truth, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - truth, cv2.DIST_L2, 5)
        crumbs = field(1.0)
        seen = ((signed + 1.5 * field(1.5) > 0) & (crumbs < 2.0)) | (crumbs > 2.6)
        pairs.append((mask_of(seen), truth > 0))
    return pairs


class TestRefine:
    @given(pixels)
    def test_keeps_type_shape_and_input(self, data: NDArray[np.bool_]) -> None:
        data.setflags(write=False)
        before = mask_of(data)
        after = refine(before)
        assert after.data.dtype == np.bool_
        assert after.data.shape == data.shape
        assert (after.grid, after.prompt_id, after.scores) == (before.grid, before.prompt_id, before.scores)
        assert not np.shares_memory(after.data, data)

    @settings(deadline=None)
    @given(pixels)
    def test_adds_nothing_beyond_the_filled_and_grown_mask(self, data: NDArray[np.bool_]) -> None:
        steps = RefinementSteps(close_m=0.6, open_m=0.3, smooth_m=0.3, max_hole_m2=4.0)
        reach = 2 * round(0.6 / 0.3) + 5
        grown = cv2.dilate(data.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), dtype=np.uint8)) > 0
        assert not (refine(mask_of(data), steps=steps).data & ~grown).any()

    @given(pixels)
    def test_all_steps_off_changes_nothing(self, data: NDArray[np.bool_]) -> None:
        assert (refine(mask_of(data), steps=RefinementSteps(**OFF)).data == data).all()

    @pytest.mark.parametrize("gsd_m", [0.1, 0.3, 1.0])
    def test_empty_stays_empty_and_says_so_once(self, gsd_m: float) -> None:
        once = refine(mask_of(np.zeros((9, 7), dtype=np.bool_), gsd_m=gsd_m))
        assert not once.data.any()
        assert refine(once).flags == ("small", "empty")

    def test_a_mask_that_vanishes_is_flagged_empty(self) -> None:
        data = np.zeros((20, 20), dtype=np.bool_)
        data[4, 5] = True
        assert refine(mask_of(data)).flags == ("small", "empty")

    def test_a_second_pass_changes_next_to_nothing(self) -> None:
        for seen, _ in degraded_arrays(10):
            once = refine(seen)
            assert iou(once.data, refine(once).data) > 0.97

    def test_mends_degraded_masks(self) -> None:
        pairs = degraded_arrays(40)
        before = np.array([iou(seen.data, truth) for seen, truth in pairs])
        after = np.array([iou(refine(seen).data, truth) for seen, truth in pairs])
        assert after.mean() > before.mean() + 0.05
        assert (after < before - 0.01).mean() <= 0.05

    @pytest.mark.parametrize("gsd_m", [0.1, 0.2, 0.45, 0.6])
    def test_lowers_no_mean_iou_at_the_resolutions_of_real_imagery(self, gsd_m: float) -> None:
        pairs = [(mask_of(seen.data, gsd_m=gsd_m), truth) for seen, truth in degraded_arrays(25)]
        before = np.array([iou(seen.data, truth) for seen, truth in pairs])
        after = np.array([iou(refine(seen).data, truth) for seen, truth in pairs])
        print(f"{gsd_m} m: {before.mean():.3f} raw, {after.mean():.3f} refined")
        assert after.mean() >= before.mean()

    def test_arrays_cut_by_the_chip_edge_are_not_eaten(self) -> None:
        data = np.zeros((40, 40), dtype=np.bool_)
        data[:20, :] = True
        assert (refine(mask_of(data)).data == data).all()


class TestSteps:
    """Each step alone, with lengths and areas in ground units."""

    @staticmethod
    def only(data: NDArray[np.bool_], *, gsd_m: float = 0.3, **step: float) -> NDArray[np.bool_]:
        return refine(mask_of(data, gsd_m=gsd_m), steps=RefinementSteps(**OFF | step)).data

    def test_closing_bridges_gaps_up_to_twice_its_radius(self) -> None:
        data = square()
        data[:, 19:21] = False
        assert self.only(data, close_m=0.6)[11:29, 18:22].all()
        assert not self.only(data, close_m=0.6, gsd_m=2.0)[10:30, 19:21].any()

    def test_opening_cuts_threads(self) -> None:
        data = square()
        data[20, 30:40] = True
        assert (self.only(data, open_m=0.3)[:, 31:]).sum() == 0

    def test_small_holes_go_and_large_holes_stay(self) -> None:
        data = square()
        data[12:14, 12:14] = False
        data[18:28, 18:28] = False
        found = self.only(data, max_hole_m2=4 * 0.09 + 1e-9)
        assert found[12:14, 12:14].all()
        assert not found[18:28, 18:28].any()

    def test_background_at_the_edge_is_no_hole(self) -> None:
        data = np.ones((10, 10), dtype=np.bool_)
        data[0, 4] = False
        assert not self.only(data, max_hole_m2=100)[0, 4]

    def test_specks_go_by_area_on_the_ground(self) -> None:
        data = square()
        data[2:4, 2:4] = True
        assert not self.only(data, min_area_m2=0.5)[2, 2]
        assert self.only(data, min_area_m2=0.5, gsd_m=0.5)[2, 2]

    def test_smoothing_rounds_burrs(self) -> None:
        data = square()
        data[15, 30] = True
        found = self.only(data, smooth_m=0.3)
        assert not found[15, 30]
        assert iou(found, square()) > 0.98

    @pytest.mark.parametrize("size", [-1.0, np.nan, np.inf])
    def test_sizes_without_a_meaning_are_refused(self, size: float) -> None:
        with pytest.raises(ConfigError, match="open_m"):
            RefinementSteps(open_m=size)
        with pytest.raises(ConfigError, match="rectangle_share"):
            RefinementSteps(rectangle_share=1.5)


class TestRectangles:
    """Rectangularisation: shape, area, gate, and what it leaves alone."""

    @pytest.mark.parametrize("degrees", [0.0, 17.0, 45.0, 80.0])
    @pytest.mark.parametrize("grid_degrees", [0.0, 33.0])
    def test_area_stays_and_the_piece_is_a_rectangle(self, degrees: float, grid_degrees: float) -> None:
        image = np.zeros((64, 64), dtype=np.uint8)
        cv2.ellipse(image, (32, 32), (24, 12), degrees, 0, 360, 1, -1)
        steps = RefinementSteps(**OFF | {"rectangle_share": 0.7})
        found = refine(mask_of(image > 0, degrees=grid_degrees), steps=steps).data
        assert found.sum() == pytest.approx(image.sum(), rel=0.03)
        assert rectangularity(found) > 0.9 > rectangularity(image > 0)

    def test_the_ground_is_measured_not_the_pixels(self) -> None:
        """On pixels twice as wide as high a square array stays upright and square on the ground."""
        grid = ChipGrid(epsg=32632, transform=(0.6, 0, 500_000, 0, -0.3, 5_200_000), height=60, width=30)
        data = np.zeros((60, 30), dtype=np.bool_)
        data[20:40, 10:20] = True
        mask = Mask(data=data, grid=grid, prompt_id="p")
        assert (refine(mask, steps=RefinementSteps(**OFF | {"rectangle_share": 0.7})).data == data).all()

    def test_shapes_under_the_gate_stay(self) -> None:
        data = square()
        data[10:22, 10:22] = False
        steps = RefinementSteps(**OFF | {"rectangle_share": 0.8})
        assert (refine(mask_of(data), steps=steps).data == data).all()

    def test_pieces_cut_by_the_chip_stay_and_holes_stay(self) -> None:
        data = np.zeros((60, 60), dtype=np.bool_)
        data[:9, 5:40] = True
        data[8, 5:20] = False
        data[25:55, 15:50] = True
        data[35:40, 30:35] = False
        found = refine(mask_of(data), steps=RefinementSteps(**OFF | {"rectangle_share": 0.7})).data
        assert (found[:20] == data[:20]).all()
        assert not found[35:40, 30:35].any()

    @settings(deadline=None)
    @given(pixels, st.sampled_from([0.0, 25.0]), st.floats(0.05, 1.0))
    def test_nothing_is_lost_and_nothing_leaves_the_surroundings(
        self, data: NDArray[np.bool_], degrees: float, share: float
    ) -> None:
        found = refine(mask_of(data, degrees=degrees), steps=RefinementSteps(**OFF | {"rectangle_share": share})).data
        assert found.shape == data.shape
        assert found.any() == data.any()
        if data.any():
            count = lambda image: cv2.connectedComponents(image.astype(np.uint8), connectivity=8)[0]  # noqa: E731
            assert count(found) <= count(data) + data.sum()
            assert found.sum() <= 3 * data.sum() + 4


class TestMetres:
    @pytest.mark.parametrize("epsg", [32632, 32733, 2056, 21781, 3035])
    def test_metric_grids_pass(self, epsg: int) -> None:
        require_metres(epsg)

    @pytest.mark.parametrize("epsg", [4326, 3857, 2263, 999999])
    def test_others_are_refused_by_name(self, epsg: int) -> None:
        with pytest.raises(CRSError, match=str(epsg)):
            refine(mask_of(square(), epsg=epsg))

    @given(st.floats(-180, 180), st.floats(0.05, 2))
    def test_area_is_rotation_free(self, degrees: float, gsd_m: float) -> None:
        mask = mask_of(square(), degrees=degrees, gsd_m=gsd_m)
        assert pixel_area_m2(mask.grid) == pytest.approx(gsd_m**2)
        assert area_m2(mask) == pytest.approx(400 * gsd_m**2)


SPECIAL = {
    "diagonal touch": ["10", "01"],
    "both diagonals": ["1010", "0101", "1010"],
    "hole": ["11111", "10001", "10001", "11111"],
    "hole with island": ["1111111", "1000001", "1001001", "1000001", "1111111"],
    "hole touching a corner": ["1111", "1101", "1011", "1111"],
    "chip's edge": ["1100", "1100", "0000", "0011"],
    "everything": ["111", "111"],
    "one pixel": ["1"],
}


class TestOutline:
    @pytest.mark.parametrize("name", SPECIAL)
    @pytest.mark.parametrize("degrees", [0.0, 33.0, -120.0])
    @pytest.mark.parametrize("simplify_px", [0.0, 0.5])
    def test_awkward_masks(self, name: str, degrees: float, simplify_px: float) -> None:
        data = np.array([[cell == "1" for cell in row] for row in SPECIAL[name]])
        mask = mask_of(data, degrees=degrees)
        shape = outline(mask, simplify_px=simplify_px)
        assert shape.is_valid
        if simplify_px == 0:
            burnt = rasterio.features.rasterize(
                [shape], out_shape=data.shape, transform=mask.grid.affine, dtype="uint8"
            )
            assert ((burnt > 0) == data).all()
            oracle = rasterio.features.shapes(data.astype(np.uint8), mask=data, transform=mask.grid.affine)
            expected = shapely.union_all([shapely.geometry.shape(found) for found, _ in oracle])
            assert shape.symmetric_difference(expected).area == pytest.approx(0.0, abs=1e-6)

    @settings(deadline=None, max_examples=150)
    @given(pixels, st.sampled_from([0.0, 33.0, -120.0]), st.sampled_from([0.1, 0.25, 0.5]))
    def test_a_simplified_outline_is_valid_and_no_further_off_than_it_says(
        self, data: NDArray[np.bool_], degrees: float, simplify_px: float
    ) -> None:
        mask = mask_of(data, degrees=degrees)
        exact, simple = outline(mask), outline(mask, simplify_px=simplify_px)
        assert simple.is_valid
        assert len(simple.geoms) == len(exact.geoms)
        for before, after in zip(exact.geoms, simple.geoms, strict=True):
            assert len(after.interiors) == len(before.interiors)
            assert before.boundary.hausdorff_distance(after.boundary) <= simplify_px * 0.3 + 1e-9
            assert before.hausdorff_distance(after) <= simplify_px * 0.3 + 1e-9

    @settings(deadline=None, max_examples=200)
    @given(pixels, st.sampled_from([0.0, 33.0, 90.0, -120.0]))
    def test_burning_it_gives_the_mask_back(self, data: NDArray[np.bool_], degrees: float) -> None:
        mask = mask_of(data, degrees=degrees)
        shape = outline(mask)
        assert isinstance(shape, MultiPolygon)
        assert shape.is_valid
        assert shape.area == pytest.approx(area_m2(mask))
        burnt = np.zeros(data.shape, dtype=np.uint8)
        if not shape.is_empty:
            burnt = rasterio.features.rasterize(
                [shape], out_shape=data.shape, transform=mask.grid.affine, dtype="uint8"
            )
        assert ((burnt > 0) == data).all()

    @settings(deadline=None)
    @given(pixels)
    def test_agrees_with_rasterio_shapes(self, data: NDArray[np.bool_]) -> None:
        mask = mask_of(data)
        found = rasterio.features.shapes(data.astype(np.uint8), mask=data, transform=mask.grid.affine)
        assert len(outline(mask).geoms) == len(list(found))

    def test_holes_are_kept(self) -> None:
        data = square()
        data[18:22, 18:22] = False
        assert len(outline(mask_of(data)).geoms[0].interiors) == 1

    def test_straight_edges_carry_no_extra_vertices(self) -> None:
        assert len(outline(mask_of(square())).geoms[0].exterior.coords) == 5

    def test_simplified_outline_stays_within_half_a_pixel_and_saves_vertices(self) -> None:
        before, after = 0, 0
        for seen, _ in degraded_arrays(12):
            mask = refine(seen)
            exact, simple = outline(mask), outline(mask, simplify_px=0.5)
            assert simple.is_valid
            assert len(simple.geoms) == len(exact.geoms)
            assert exact.hausdorff_distance(simple) <= 0.5 * 0.3 + 1e-9
            before, after = before + get_num_coordinates(exact), after + get_num_coordinates(simple)
        assert after < 0.9 * before

    @pytest.mark.parametrize("tolerance", [-0.1, 0.6, np.nan])
    def test_larger_moves_are_refused(self, tolerance: float) -> None:
        with pytest.raises(ConfigError):
            outline(mask_of(square()), simplify_px=tolerance)
