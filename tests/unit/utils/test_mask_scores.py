from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from utils.mask_scores import mask_scores, ring_contrast, solidity, valid_share, visible
from utils.types import ChipGrid, Mask, Prompt, PromptKind, RasterChip

SIDE = 40
GRID = ChipGrid(epsg=32632, transform=(0.5, 0.0, 500_000.0, 0.0, -0.5, 5_200_020.0), height=SIDE, width=SIDE)
masks = arrays(np.bool_, (SIDE, SIDE))


def chip(rgb: NDArray[np.uint8] | None = None, valid: NDArray[np.bool_] | None = None) -> RasterChip:
    pixels = np.full((3, SIDE, SIDE), 120, np.uint8) if rgb is None else rgb
    return RasterChip(
        data=pixels,
        valid=np.ones((SIDE, SIDE), np.bool_) if valid is None else valid,
        grid=GRID,
        bands=("red", "green", "blue"),
        source="made",
        scene_ids=("one",),
        sensor="none",
        acquired_at=datetime(2023, 6, 14, tzinfo=UTC),
    )


def square(low: int = 10, high: int = 30) -> NDArray[np.bool_]:
    data = np.zeros((SIDE, SIDE), np.bool_)
    data[low:high, low:high] = True
    return data


def panel_on_roof() -> NDArray[np.uint8]:
    rgb = np.full((3, SIDE, SIDE), 0, np.uint8)
    rgb[:] = np.array([180, 120, 90], np.uint8)[:, None, None]
    rgb[:, square()] = np.array([40, 45, 80], np.uint8)[:, None]
    return rgb


def prompt(kind: PromptKind = "box", low: int = 10, high: int = 30) -> Prompt:
    west, north = GRID.affine @ (low, low)
    east, south = GRID.affine @ (high, high)
    return Prompt(prompt_id="p", label_id="l", kind=kind, geometry=shapely.box(west, south, east, north))


def mask(data: NDArray[np.bool_], *flags: str) -> Mask:
    return Mask(data=data, grid=GRID, prompt_id="p", flags=flags)


class TestMaskScores:
    def test_a_clean_array_scores_one_throughout(self) -> None:
        found = mask_scores(mask(square()), chip(panel_on_roof()), prompt(), stated_m2=100.0)
        assert found == pytest.approx(
            dict.fromkeys(
                ("box_agreement", "rectangularity", "solidity", "ring_contrast", "valid_share", "area_agreement"), 1.0
            )
        )

    def test_what_a_prompt_cannot_tell_is_left_out(self) -> None:
        point = mask_scores(mask(square()), chip(), prompt("point"))
        polygon = mask_scores(mask(square()), chip(), prompt("polygon"))
        assert "box_agreement" not in point
        assert "rectangularity" not in polygon
        assert "area_agreement" not in polygon

    def test_a_mask_that_is_its_prompt_agrees_with_nothing(self) -> None:
        assert (
            not {"box_agreement", "rectangularity"} & mask_scores(mask(square(), "no_context"), chip(), prompt()).keys()
        )

    def test_the_area_of_a_clipped_mask_is_not_compared(self) -> None:
        assert "area_agreement" not in mask_scores(mask(square(), "clipped"), chip(), prompt(), stated_m2=100.0)

    def test_an_empty_mask_has_no_scores(self) -> None:
        assert mask_scores(mask(square(0, 0)), chip(), prompt()) == {}

    def test_colours_of_other_imagery_are_not_compared(self) -> None:
        other = replace(chip(), data=np.full((3, SIDE, SIDE), 900, np.uint16))
        assert "ring_contrast" not in mask_scores(mask(square()), other, prompt())

    @settings(deadline=None, max_examples=60)
    @given(
        masks, masks, st.sampled_from(["box", "point", "polygon"]), st.floats(allow_nan=True), st.integers(0, 2**32 - 1)
    )
    def test_every_score_lies_in_range(
        self, data: NDArray[np.bool_], valid: NDArray[np.bool_], kind: PromptKind, stated: float, seed: int
    ) -> None:
        rgb = np.random.default_rng(seed).integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)
        found = mask_scores(mask(data), chip(rgb, valid), prompt(kind), stated_m2=stated)
        assert all(0.0 <= value <= 1.0 for value in found.values()), found


class TestContrast:
    def test_alike_is_nothing_and_unlike_is_one(self) -> None:
        everything = np.ones((SIDE, SIDE), np.bool_)
        assert ring_contrast(chip().data, square(), everything, 4.0) == pytest.approx(0.0)
        assert ring_contrast(panel_on_roof(), square(), everything, 4.0) == pytest.approx(1.0)

    def test_a_mask_off_its_object_stands_out_less(self) -> None:
        everything = np.ones((SIDE, SIDE), np.bool_)
        assert ring_contrast(panel_on_roof(), np.roll(square(), 8, axis=1), everything, 4.0) < 0.8  # type: ignore[operator]

    def test_nothing_around_is_no_answer(self) -> None:
        assert ring_contrast(chip().data, np.ones((SIDE, SIDE), np.bool_), np.ones((SIDE, SIDE), np.bool_), 4.0) is None
        assert ring_contrast(chip().data, square(), square(), 4.0) is None


class TestShape:
    @given(masks)
    def test_solidity_is_area_over_that_of_shapelys_hull(self, data: NDArray[np.bool_]) -> None:
        if not data.any():
            assert solidity(data) == 0.0
            return
        rows, cols = np.nonzero(data)
        hull = shapely.box(cols, rows, cols + 1, rows + 1)
        expected = data.sum() / shapely.convex_hull(shapely.union_all(hull)).area
        assert solidity(data) == pytest.approx(expected, rel=1e-6)

    def test_valid_share_counts_in_and_around_the_mask_alone(self) -> None:
        valid = np.ones((SIDE, SIDE), np.bool_)
        valid[:, :4] = False
        assert valid_share(square(), valid, 4.0) == 1.0
        valid[:, :10] = False
        share = valid_share(square(), valid, 4.0)
        assert 0.8 < share < 1.0
        assert valid_share(square(0, 0), np.zeros((SIDE, SIDE), np.bool_), 4.0) == 0.0

    @pytest.mark.parametrize("degrees", [0.0, 33.0])
    def test_visible_pixels_are_those_rasterio_burns(self, degrees: float) -> None:
        shape = shapely.affinity.rotate(prompt().geometry, degrees)
        burnt = rasterio.features.rasterize([shape], out_shape=(SIDE, SIDE), transform=GRID.affine) > 0
        found = visible(replace(prompt("polygon"), geometry=shape), chip())
        assert (found != burnt).sum() <= 1

    def test_nothing_of_a_prompt_elsewhere_is_visible(self) -> None:
        assert not visible(prompt(low=100, high=120), chip()).any()
