"""Coverings against Google's RegionCoverer on lon/lat boxes, and against positions and outlines by brute force."""

import h3.api.basic_int as h3
import numpy as np
import pytest
import s2geometry as s2
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from shapely import Geometry
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from utils.cells import h3_cells, s2_cells, s2_children, s2_levels, s2_parents, s2_ranges
from utils.coverings import h3_covering, s2_covering
from utils.errors import GeometryError
from utils.outlines import h3_outlines, s2_outlines

WORLD = box(-180, -90, 180, 90)
ACROSS = MultiPolygon([box(179.2, -17.3, 180, -16.4), box(-180, -17.3, -179.5, -16.4)])
ROUND_NORTH = box(-180, 88.7, 180, 90)


@st.composite
def quadrilaterals(draw: st.DrawFn) -> Polygon:
    """Convex hulls of four positions around a centre, from metres to tens of degrees wide."""
    lon, lat = draw(st.floats(-180, 180)), draw(st.floats(-90, 90))
    size = 10 ** draw(st.floats(-4, 1.5))
    offsets = draw(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=4, max_size=4))
    corners = np.clip(np.array(offsets) * size + (lon, lat), (-180, -90), (180, 90))
    return shapely.convex_hull(shapely.multipoints(corners))


def positions(geometry: Geometry, count: int, seed: int = 0) -> NDArray[np.float64]:
    """Vertices of a geometry and random positions on it, shape (n, 2)."""
    west, south, east, north = geometry.bounds
    inside = np.random.default_rng(seed).uniform((west, south), (east, north), (count, 2))
    along = shapely.get_coordinates(shapely.segmentize(geometry, max(east - west, north - south) / 50 + 1e-9))
    return np.concatenate([along, inside[shapely.intersects_xy(geometry, inside)]])


def level_for(geometry: Geometry) -> int:
    """S2 level whose cells are about an eighth of the geometry."""
    west, south, east, north = geometry.bounds
    return int(np.clip(np.log2(720 / max(east - west, north - south, 1e-6)), 0, 30))


@given(st.floats(-180, 179), st.floats(-85, 84), st.floats(0.001, 40), st.floats(0.001, 30))
@settings(max_examples=40, deadline=None)
def test_boxes_are_covered_as_google_does(west: float, south: float, wide: float, high: float) -> None:
    area = box(west, south, min(west + wide, 180), min(south + high, 89))
    level = level_for(area)
    west, south, east, north = area.bounds
    corners = (s2.S2LatLng.FromDegrees(south, west), s2.S2LatLng.FromDegrees(north, east))
    rect = s2.S2LatLngRect(*corners)
    coverer = s2.S2RegionCoverer()
    coverer.set_fixed_level(level)
    coverer.set_max_cells(1_000_000)
    # Google's coverer takes every cell whose bounding rectangle meets the box: more than meet it
    candidates = {cell.id() for cell in coverer.GetCovering(rect)}
    theirs = {cell for cell in candidates if rect.Intersects(s2.S2Cell(s2.S2CellId(cell)))}
    ours = set(s2_covering(area, level=level).tolist())
    assert theirs <= ours
    # what is more comes within the stated margin of the box
    shapes, margins = s2_outlines(np.array(sorted(ours - theirs), np.uint64))
    turns = [shapely.transform(shapes, lambda xy, turn=turn: xy + np.array((turn, 0.0))) for turn in (-360, 0, 360)]
    assert (np.min([shapely.distance(area, turned) for turned in turns], axis=0) <= margins).all()


@given(quadrilaterals())
@settings(max_examples=60, deadline=None)
def test_no_position_of_a_geometry_lies_outside_its_covering(area: Polygon) -> None:
    level = level_for(area)
    lon, lat = positions(area, 300).T
    assert np.isin(s2_cells(lon, lat, level), s2_covering(area, level=level)).all()
    resolution = int(np.clip(level / 1.4 - 1, 0, 15))
    assert np.isin(h3_cells(lon, lat, resolution), h3_covering(area, resolution=resolution)).all()


@pytest.mark.parametrize("area", [ACROSS, ROUND_NORTH, Point(180, 0), Point(12, -90), LineString([(179, 5), (180, 6)])])
def test_poles_and_antimeridian(area: Geometry) -> None:
    lon, lat = positions(area, 2000).T
    assert np.isin(s2_cells(lon, lat, 9), s2_covering(area, level=9)).all()
    assert np.isin(h3_cells(lon, lat, 4), h3_covering(area, resolution=4)).all()


@pytest.mark.parametrize(
    "area", [ACROSS, box(10, 50, 25, 58), Polygon([(0, 0), (60, 40), (20, 60)]), box(-30, 70, 30, 85)]
)
def test_every_cell_of_the_earth_that_meets_an_area_and_no_other(area: Geometry) -> None:
    every = s2_covering(WORLD, level=5)
    assert len(every) == 6 * 4**5
    hexagons = h3_covering(WORLD, resolution=2)
    assert len(hexagons) == h3.get_num_cells(2)
    for cells, outlines, covering in (
        (every, s2_outlines, s2_covering(area, level=5)),
        (hexagons, h3_outlines, h3_covering(area, resolution=2)),
    ):
        shapes, margins = outlines(cells)
        turns = [shapely.transform(shapes, lambda xy, turn=turn: xy + np.array((turn, 0.0))) for turn in (-360, 0, 360)]
        apart = np.min([shapely.distance(area, turned) for turned in turns], axis=0)
        chosen = np.isin(cells, covering)
        assert chosen[apart == 0].all()
        assert (apart[chosen] <= margins[chosen]).all()
        assert np.median(margins) < 0.05


def test_a_point_on_a_cell_corner_meets_all_cells_there() -> None:
    assert len(s2_covering(Point(0, 0), level=12)) == 4
    corner = np.degrees(np.arctan(1 / np.sqrt(2)))
    assert len(s2_covering(Point(45, corner), level=12)) == 3
    assert len(s2_covering(Point(77, 90), level=12)) >= 4


def test_mixed_levels_hold_the_same_ground() -> None:
    area = Polygon([(8, 47), (9, 47.2), (8.6, 48), (8.1, 47.7)], [[(8.4, 47.3), (8.6, 47.3), (8.5, 47.5)]])
    fixed = s2_covering(area, level=12)
    mixed = s2_covering(area, min_level=4, max_level=12)
    assert len(mixed) < len(fixed) / 4
    assert s2_levels(mixed).min() >= 4
    opened = [mixed[s2_levels(mixed) == 12]]
    for level in range(4, 12):
        cells = mixed[s2_levels(mixed) == level]
        for _ in range(12 - level):
            cells = s2_children(cells).ravel()
        opened.append(cells)
    assert np.array_equal(np.sort(np.concatenate(opened)), fixed)


def test_the_whole_earth_is_six_faces() -> None:
    assert len(s2_covering(WORLD, min_level=0, max_level=6)) == 6


@given(st.floats(-180, 180), st.floats(-90, 90), st.integers(0, 30))
def test_ranges_hold_exactly_the_leaves_of_a_cell(lon: float, lat: float, level: int) -> None:
    cell = s2_cells(lon, lat, level)
    google = s2.S2CellId(int(cell[0]))
    first, last = s2_ranges(cell)
    assert first.dtype == last.dtype == np.uint64
    assert (first[0], last[0]) == (google.range_min().id(), google.range_max().id())
    assert first <= s2_cells(lon, lat, 30) <= last
    if level < 30:
        assert s2_children(cell)[0].tolist() == [google.child(k).id() for k in range(4)]
        assert (s2_parents(s2_children(cell)[0], level) == cell).all()


def test_leaves_have_no_children() -> None:
    with pytest.raises(GeometryError, match="no children"):
        s2_children(s2_cells(1.0, 1.0, 30))


@pytest.mark.parametrize(
    ("area", "message"),
    [
        (Point(), "empty"),
        (None, "empty"),
        (Point(np.nan, 1), "not finite"),
        (box(170, 0, 190, 1), "antimeridian"),
        (box(500_000, 5_000_000, 500_100, 5_000_100), "CRS"),
        (Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]), "invalid"),
    ],
)
def test_what_cannot_be_covered(area: Geometry, message: str) -> None:
    for cover in (lambda: s2_covering(area, level=5), lambda: h3_covering(area, resolution=2)):
        with pytest.raises(GeometryError, match=message):
            cover()


@pytest.mark.parametrize(
    "levels", [{}, {"level": 31}, {"level": 3, "min_level": 2}, {"min_level": 5, "max_level": 4}, {"min_level": 3}]
)
def test_levels_that_contradict(levels: dict[str, int]) -> None:
    with pytest.raises(GeometryError, match="level"):
        s2_covering(Point(0, 0), **levels)


def test_too_many_cells_are_refused_before_memory_goes() -> None:
    for cover in (
        lambda: s2_covering(WORLD, level=30, max_cells=2000),
        lambda: h3_covering(WORLD, resolution=15, max_cells=2000),
    ):
        with pytest.raises(GeometryError, match="take coarser cells"):
            cover()
    with pytest.raises(GeometryError, match="resolutions"):
        h3_covering(WORLD, resolution=16)
