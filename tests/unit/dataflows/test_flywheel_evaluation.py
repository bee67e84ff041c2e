"""Measures of a round against truth made by hand."""

from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from dataflows.flywheel_evaluation import mask_iou, object_scores, on_test_ground, round_scores, row_counts
from dataflows.truth import Truth
from utils.geo import reproject, s2_cells, s2_parents
from utils.split_rule import SplitRule, split_of_cells
from utils.types import ChipGrid

RULE = SplitRule(level=15, salt=924)
EAST, NORTH = 640_000.0, 5_339_000.0


def square(east, north, side=10.0):
    """A square in UTM zone 32, metres, as degrees."""
    return reproject(shapely.box(EAST + east, NORTH + north, EAST + east + side, NORTH + north + side), 32632, 4326)


def test_one_object_is_found_by_one_detection():
    truth = [square(0, 0), square(100, 0), square(200, 0)]
    found = [square(1, 0), square(1, 1), square(108, 0), square(400, 0)]
    scores = object_scores(found, truth)
    # the second lies on the first truth too, the third overlaps too little
    assert (scores.truth, scores.detections, scores.found) == (3, 4, 1)
    assert scores.recall == pytest.approx(1 / 3)
    assert scores.precision == pytest.approx(1 / 4)
    assert scores.f1 == pytest.approx(2 / 7)


def test_nothing_is_undefined_and_not_zero():
    none = object_scores([], [])
    assert np.isnan([none.recall, none.precision, none.f1]).all()
    assert object_scores([], [square(0, 0)]).recall == 0.0
    assert object_scores([square(0, 0)], []).precision == 0.0


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=8, unique=True), st.integers(0, 3))
def test_truth_itself_finds_all_of_itself(places, shift):
    truth = [square(20 * x, 20 * y) for x, y in places]
    scores = object_scores([square(20 * x + shift, 20 * y) for x, y in places], truth)
    assert scores.found == len(truth)


def test_only_test_ground_counts():
    places = [(40 * x, 40 * y) for x in range(40) for y in range(40)]
    shapes = [square(*place) for place in places]
    points = np.array([[shape.centroid.x, shape.centroid.y] for shape in shapes])
    inside = on_test_ground(points[:, 0], points[:, 1], RULE)
    parents = s2_parents(s2_cells(points[:, 0], points[:, 1], 30), 15)
    assert (inside == (split_of_cells(parents, RULE) == "test")).all()
    assert 0 < inside.sum() < len(inside)
    verdicts = ["accept" if i % 2 else "reject" for i in range(len(shapes))]
    detections = pa.table(
        {"outline": shapely.to_wkb(shapes), "lon": points[:, 0], "lat": points[:, 1], "verdict": verdicts}
    )
    scores = round_scores(detections, shapes, RULE)
    assert scores["all"].truth == scores["all"].detections == scores["all"].found == inside.sum()
    accepted = inside & (np.arange(len(shapes)) % 2 == 1)
    assert scores["accepted"].detections == scores["accepted"].found == accepted.sum()
    assert scores["accepted"].truth == inside.sum()


def test_masks_of_chips_against_truth_of_their_day():
    grid = ChipGrid(epsg=32632, transform=(1.0, 0.0, EAST, 0.0, -1.0, NORTH + 20), height=20, width=20)
    mask = np.zeros((20, 20), np.uint8)
    mask[10:20, :5] = 1
    mask[:2] = 255
    chip = {
        "generated_mask": mask.tobytes(), "footprint": shapely.to_wkb(reproject(grid.footprint, 32632, 4326)),
        "vhr_epsg": 32632, "vhr_transform": grid.transform, "vhr_acquired_at": datetime(2023, 6, 14, tzinfo=UTC),
    }  # fmt: skip
    truth = Truth([({"built": "2020-01-01"}, square(0, 0)), ({"built": "2024-01-01"}, square(0, 10))])
    # the mask has the left half of the one object that stood on the day
    assert mask_iou([chip], truth, (20, 20)) == pytest.approx(0.5, abs=0.02)
    assert np.isnan(mask_iou([], truth, (20, 20)))
    assert len(truth.standing(date(2023, 6, 14))) == 1
    assert len(truth.standing(date(2025, 6, 14))) == 2


def test_rows_by_split_role_and_truth():
    rows = pa.table(
        {
            "split": ["train", "train", "test", "test"], "chip_role": ["labelled", "hard_negative"] + ["labelled"] * 2,
            "mask_source": ["machine", "machine", "gold", "machine"],
        }
    )  # fmt: skip
    assert row_counts(rows) == {
        "rows": 4, "rows_train": 2, "rows_test": 2, "train_labelled": 1, "train_hard_negative": 1, "rows_test_gold": 1
    }  # fmt: skip
