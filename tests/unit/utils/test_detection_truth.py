"""Detections charged to truth and confusers, counted by hand."""

import numpy as np
import pytest
from shapely import box

from utils.detection_truth import charged, scored

ARRAYS = np.array([box(0, 0, 10, 10), box(100, 0, 110, 10), box(200, 0, 210, 10)], object)
CONFUSERS = np.array([box(20, 0, 60, 10), box(5, 0, 20, 10)], object)
DETECTIONS = np.array(
    [
        box(0, 0, 10, 10),  # the first array
        box(100, 0, 104, 10),  # inside the second, two fifths of it
        box(8, 0, 30, 10),  # a tenth on an array, most on the second confuser
        box(300, 0, 310, 10),  # on nothing
        box(102, 0, 118, 10),  # half on an array, and a third beyond
    ],
    object,
)
AREAS = np.array([100.0, 100.0, 100.0])


def test_each_detection_is_charged_once() -> None:
    assert charged(DETECTIONS, ARRAYS, CONFUSERS, ["water", "car_park"]).kinds == [
        "pv",
        "pv",
        "car_park",
        "other",
        "pv",
    ]


def test_precision_and_recall_by_hand() -> None:
    found = charged(DETECTIONS, ARRAYS, CONFUSERS, ["water", "car_park"])
    every = scored(found, np.ones(5, bool), AREAS)
    assert (every.detections, every.true, every.precision) == (5, 3, 0.6)
    assert every.recall == pytest.approx(2 / 3)
    assert every.area_recall == pytest.approx(200 / 300)
    assert every.per_confuser == {"car_park": 0.75, "other": 0.75}
    few = scored(found, np.array([False, True, False, False, False]), AREAS)
    assert (few.precision, few.recall, few.area_recall) == (1.0, 0.0, pytest.approx(40 / 300))
    assert scored(found, np.zeros(5, bool), AREAS).precision is None


def test_truth_that_overlaps_covers_its_ground_once() -> None:
    third = np.array([box(7, 0, 17, 10)], object)
    twice = np.array([ARRAYS[0], ARRAYS[0]], object)
    assert charged(third, twice, np.empty(0, object), []).kinds == ["other"]


def test_nothing_is_no_error() -> None:
    none = np.empty(0, object)
    found = charged(DETECTIONS, none, none, [])
    assert set(found.kinds) == {"other"}
    assert scored(found, np.ones(5, bool), np.empty(0)).recall is None
