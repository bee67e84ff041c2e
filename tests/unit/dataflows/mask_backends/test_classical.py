from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from dataflows import mask_backends
from utils.quality import iou, mask_score, verdict
from utils.types import ChipGrid, Mask, Prompt, RasterChip

X, Y = 500_000.0, 5_200_000.0
GRID = ChipGrid.around(X, Y, epsg=32632, gsd_m=0.3, height=200, width=200)


def pixels(shape: shapely.Geometry) -> NDArray[np.bool_]:
    x = X - 30 + 0.3 * (np.arange(200) + 0.5)
    y = Y + 30 - 0.3 * (np.arange(200) + 0.5)
    return shapely.contains_xy(shape, *np.meshgrid(x, y))


def chip_with(panel: shapely.Geometry) -> RasterChip:
    rng = np.random.default_rng(3)
    rgb = np.where(pixels(panel), np.array([35, 45, 80])[:, None, None], np.array([165, 155, 150])[:, None, None])
    return RasterChip(
        data=np.clip(rgb + rng.normal(0, 10, rgb.shape), 1, 255).astype(np.uint8),
        valid=np.ones((200, 200), dtype=np.bool_),
        grid=GRID,
        bands=("red", "green", "blue"),
        source="test",
        scene_ids=("scene",),
        sensor="camera",
        acquired_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def mask_of(chip: RasterChip, geometry: shapely.Geometry, kind: str = "box", **options: float) -> Mask:
    prompt = Prompt(prompt_id="p", label_id="l", kind=kind, geometry=geometry)
    return mask_backends.get("classical", **options).segment(chip, [prompt])[0]


PANEL = shapely.box(X - 6, Y - 4, X + 6, Y + 4)
SKEW = shapely.Polygon([(X - 6, Y - 4), (X + 2, Y - 4), (X + 6, Y + 4), (X - 2, Y + 4)])


def test_scores_by_prompt_kind() -> None:
    chip = chip_with(PANEL)
    assert set(mask_of(chip, PANEL).scores) == {"stability", "contrast", "rectangularity", "box_agreement"}
    assert set(mask_of(chip, PANEL, "point").scores) == {"stability", "contrast", "rectangularity"}
    assert set(mask_of(chip, PANEL, "polygon").scores) == {"stability", "contrast", "box_agreement"}


def test_a_clear_rectangle_scores_high_and_is_accepted() -> None:
    mask = mask_of(chip_with(PANEL), PANEL)
    assert mask.flags == ()
    assert min(mask.scores.values()) > 0.9
    assert verdict(mask_score(mask.scores, mask.flags), mask.flags, 96.0)[0] == "accept"


def test_a_point_on_the_same_object_scores_lower_and_is_reviewed() -> None:
    chip = chip_with(PANEL)
    by_box, by_point = mask_of(chip, PANEL), mask_of(chip, PANEL, "point")
    assert mask_score(by_point.scores, by_point.flags) < mask_score(by_box.scores, by_box.flags) - 0.1
    assert verdict(mask_score(by_point.scores, by_point.flags), by_point.flags, 96.0)[0] == "review"


def test_agreement_is_the_overlap_with_the_prompt() -> None:
    mask = mask_of(chip_with(SKEW), SKEW.envelope)
    assert mask.scores["box_agreement"] == pytest.approx(iou(mask.data, pixels(SKEW.envelope)))
    assert mask.scores["rectangularity"] < 0.95


def test_an_array_that_hides_its_surroundings_is_left_to_review() -> None:
    mask = mask_of(chip_with(GRID.footprint), GRID.footprint)
    assert mask.flags == ("no_context",)
    assert mask.data.all()
    assert mask.scores == {}
    assert verdict(mask_score(mask.scores, mask.flags), mask.flags, 3600.0)[0] == "review"


def test_a_point_without_surroundings_outlines_nothing() -> None:
    mask = mask_of(chip_with(PANEL), GRID.footprint, "point")
    assert mask.flags == ("point_only", "no_context", "empty")
    assert not mask.data.any()


def test_a_prompt_whose_middle_is_nodata_uses_what_is_visible() -> None:
    chip = chip_with(PANEL)
    valid = chip.valid.copy()
    valid[85:115, 70:130] = False
    mask = mask_of(replace(chip, valid=valid), shapely.box(X - 6, Y - 8, X + 6, Y + 8))
    assert mask.data.any() or "empty" in mask.flags
    assert not (mask.data & ~valid).any()


def test_stability_falls_where_the_box_decides() -> None:
    """A box in the middle of one colour has no edge to hold on to."""
    held = mask_of(chip_with(PANEL), PANEL)
    adrift = mask_of(chip_with(shapely.box(X - 28, Y - 28, X + 28, Y + 28)), PANEL)
    assert adrift.scores.get("stability", 0.0) < held.scores["stability"]


def test_options_reach_the_method() -> None:
    chip = chip_with(shapely.union_all([PANEL, shapely.box(X + 9, Y - 1, X + 11, Y + 1)]))
    prompt = shapely.box(X - 6, Y - 4, X + 11, Y + 4)
    assert mask_of(chip, prompt, piece_share=0.01).data.sum() > mask_of(chip, prompt, piece_share=0.5).data.sum()


def test_points_off_the_object_are_never_in_the_mask() -> None:
    prompt = Prompt(
        prompt_id="p", label_id="l", kind="box", geometry=PANEL, positive=((X - 3, Y),), negative=((X + 4, Y),)
    )
    (mask,) = mask_backends.get("classical").segment(chip_with(PANEL), [prompt])
    assert not (mask.data & pixels(shapely.Point(X + 4, Y).buffer(0.75))).any()
    assert mask.data[pixels(shapely.Point(X - 3, Y).buffer(0.5))].all()


def test_an_earlier_mask_on_another_grid_is_heeded() -> None:
    chip = chip_with(shapely.box(X - 6, Y - 4, X - 1, Y + 4).union(shapely.box(X + 2, Y - 4, X + 6, Y + 4)))
    grid = ChipGrid.around(X - 10, Y, epsg=32632, gsd_m=0.5, height=60, width=36)
    x = X - 19 + 0.5 * (np.arange(36) + 0.5)
    earlier = Mask(data=np.broadcast_to(x < X, (60, 36)).copy(), grid=grid, prompt_id="p")
    prompt = Prompt(prompt_id="p", label_id="l", kind="box", geometry=PANEL, previous=earlier)
    right = pixels(shapely.box(X + 2, Y - 4, X + 6, Y + 4))
    assert mask_of(chip, PANEL).data[right].mean() > 0.8
    (mask,) = mask_backends.get("classical").segment(chip, [prompt])
    assert mask.data[right].mean() < 0.5


@pytest.mark.parametrize("side", [1e-3, 1e4])
def test_boxes_of_any_size_are_answered(side: float) -> None:
    mask = mask_of(chip_with(PANEL), shapely.box(X - side, Y - side, X + side, Y + side))
    assert mask.data.any() or "empty" in mask.flags
