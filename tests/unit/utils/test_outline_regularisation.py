"""Outlines as a person would draw them: valid, near their pixels, rectangles where they are."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize

from dataflows._polygonisation import label_polygons
from utils.errors import ConfigError
from utils.outline_regularisation import OutlineRule, equal_rectangle, regularised, valid_outline

RASTER = shapely.box(0, 0, 80, 80)


def traced(truth: shapely.Geometry, side: int = 80) -> shapely.Geometry:
    burnt = rasterize([truth], (side, side)).astype(np.int32)
    return shapely.union_all(label_polygons(burnt, 0, 0)[1])


@settings(max_examples=40)
@given(width=st.floats(6, 40), height=st.floats(6, 40), angle=st.floats(0, 180))
def test_a_slanted_rectangle_comes_back(width, height, angle) -> None:
    truth = shapely.affinity.rotate(
        shapely.box(40 - width / 2, 40 - height / 2, 40 + width / 2, 40 + height / 2), angle
    )
    outline = traced(truth)
    drawn = regularised(outline, OutlineRule(), RASTER)
    assert drawn.is_valid
    before, after = (truth.intersection(each).area / truth.union(each).area for each in (outline, drawn))
    assert after > before - 0.06


def test_a_rectangle_keeps_area_and_centre() -> None:
    outline = traced(shapely.box(10, 10, 40, 25).union(shapely.box(38, 12, 43, 14)))
    rectangle = equal_rectangle(outline)
    assert rectangle.area == pytest.approx(outline.area)
    assert rectangle.centroid.distance(outline.centroid) < 1e-9


@settings(max_examples=40)
@given(width=st.floats(6, 40), height=st.floats(6, 40), angle=st.floats(0, 180), left=st.floats(-10, 10))
def test_what_the_edge_of_the_raster_cuts_stays_inside(width, height, angle, left) -> None:
    slanted = shapely.affinity.rotate(shapely.box(left, 20, left + width, 20 + height), angle)
    if traced(slanted).is_empty:
        return
    drawn = regularised(traced(slanted), OutlineRule(), RASTER)
    assert drawn.is_valid
    assert RASTER.covers(drawn)


def test_holes_and_shapes_that_are_no_rectangle_stay() -> None:
    ring = shapely.box(10, 10, 40, 40) - shapely.box(20, 20, 30, 30)
    assert regularised(ring, OutlineRule(), RASTER).equals(ring)
    angle = shapely.box(10, 10, 40, 20) | shapely.box(10, 10, 20, 40)
    assert regularised(angle, OutlineRule(), RASTER).equals(angle)
    assert regularised(angle, OutlineRule(simplify_px=0, rectangularise=False), RASTER).equals(angle)


def test_what_came_to_overlap_is_one() -> None:
    two = shapely.MultiPolygon([shapely.box(0, 0, 10, 10), shapely.box(9, 0, 20, 10)])
    assert not two.is_valid
    assert valid_outline(two).equals(shapely.box(0, 0, 20, 10))


@pytest.mark.parametrize("wrong", [{"simplify_px": -0.1}, {"simplify_px": 1.1}, {"rectangle_iou": 0.4}])
def test_rules_that_would_leave_the_object_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        OutlineRule(**wrong)
