"""Coverings hold every cell their geometry meets, Google's S2 library being the judge."""

import numpy as np
import pytest
import s2geometry as s2
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.cells import s2_cells, s2_levels, s2_parents
from utils.context_cells import Covering, covering, greatest_diagonal_m, join_level, least_width_m, shared_cells
from utils.errors import GeometryError


def array(*geometries):
    made = np.empty(len(geometries), object)
    made[:] = geometries
    return made


def points_in(geometry, count, rng):
    """Places in a geometry, its vertices and edges among them."""
    west, south, east, north = geometry.bounds
    inside = shapely.points(rng.uniform([west, south], [east, north], (count, 2)))
    inside = shapely.get_coordinates(inside[shapely.intersects(geometry, inside)])
    along = shapely.line_interpolate_point(geometry.boundary, rng.uniform(0, 1, count), normalized=True)
    return np.vstack([inside, shapely.get_coordinates(along), shapely.get_coordinates(geometry)])


@settings(max_examples=80, deadline=None)
@given(
    lon=st.floats(-179, 179),
    lat=st.floats(-84, 84),
    size=st.floats(1e-6, 2),
    ratio=st.floats(0.1, 10),
    level=st.integers(5, 15),
)
def test_every_cell_of_a_place_in_the_geometry_is_there(lon, lat, size, ratio, level):
    rng = np.random.default_rng(0)
    box = shapely.box(lon, lat, min(lon + size * ratio, 180), min(lat + size, 90))
    level = min(level, join_level(size * ratio * 111_000 / 30))
    found = covering(array(box), level)
    places = points_in(box, 300, rng)
    assert set(s2_cells(places[:, 0], places[:, 1], level).tolist()) <= set(found.cells.tolist())
    assert (found.levels == level).all()
    own = covering(array(box), level, adaptive=True)
    cells = set(own.cells.tolist())
    [wanted] = np.unique(own.levels)
    assert set(s2_cells(places[:, 0], places[:, 1], int(wanted)).tolist()) <= cells
    assert (s2_levels(own.cells) == own.levels).all()


@pytest.mark.parametrize(
    ("lon", "lat"),
    [
        (8.5, 47.3),
        (45.0, 20.0),
        (45.0, 35.264),
        (-135.0, -35.264),
        (179.9999, 5.0),
        (-180.0, 60.0),
        (0.0, 89.9),
        (10.0, 0.0),
    ],
)
@pytest.mark.parametrize("grow_m", [0.0, 100.0, 3000.0])
def test_googles_library_meets_no_cell_that_is_missing(lon, lat, grow_m):
    """All cells a cap of the radius meets are in the covering of its centre, grown; also across faces and ±180."""
    level = 13
    found = set(covering(array(shapely.Point(lon, lat)), level, grow_m=grow_m).cells.tolist())
    centre = s2.S2LatLng.FromDegrees(lat, lon).ToPoint()
    # the sphere of the library is a little larger than the ellipsoid somewhere: take the least ground for the metres
    cap = s2.S2Cap(centre, s2.S1Angle.Radians(grow_m / 6_400_000))
    coverer = s2.S2RegionCoverer()
    coverer.set_fixed_level(level)
    coverer.set_max_cells(100_000)
    wanted = {cell.id() for cell in coverer.GetCovering(cap)}
    assert wanted <= found
    assert len(found) <= 4 * len(wanted) + 8


def test_large_geometries_have_few_large_cells():
    star = shapely.Point(8, 47).buffer(3)
    found = covering(array(star, shapely.Point(8, 47)), 15, adaptive=True)
    assert len(found.lists(2)[0]) < 60
    assert found.levels[found.owners == 1].tolist() == [15]
    places = points_in(star, 3000, np.random.default_rng(0))
    level = int(found.levels[0])
    assert set(s2_cells(places[:, 0], places[:, 1], level).tolist()) <= set(found.lists(2)[0].tolist())


def test_the_whole_globe_and_the_poles():
    found = covering(array(shapely.box(-180, -90, 180, 90), shapely.box(-180, 85, 180, 90)), 15, adaptive=True)
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-180, 180, 500), np.concatenate([rng.uniform(-90, 90, 250), rng.uniform(85, 90, 250)])
    for owner, south in ((0, -90), (1, 85)):
        cells = found.cells[found.owners == owner]
        level = int(s2_levels(cells)[0])
        assert set(s2_cells(lon[lat >= south], lat[lat >= south], level).tolist()) <= set(cells.tolist())


def test_pairs_are_those_of_a_double_loop():
    rng = np.random.default_rng(4)
    x, y = rng.uniform(8, 8.05, (2, 80))
    some = np.array(shapely.box(x, y + 39, x + 0.003, y + 39.002), object)
    sizes = rng.choice([1e-4, 0.004, 0.05, 0.4], 80)
    others = np.array(shapely.box(x[::-1], y + 39, x[::-1] + sizes, y + 39 + sizes), object)
    targets, features = covering(some, 15, grow_m=50), covering(others, 15, adaptive=True)
    found = list(zip(*(values.tolist() for values in shared_cells(targets, features)), strict=True))
    assert len(set(features.levels.tolist())) > 2
    wanted = set()
    for t, mine in enumerate(targets.lists(80)):
        for f in range(80):
            theirs = features.cells[features.owners == f]
            level = int(s2_levels(theirs)[0])
            if set(s2_parents(mine, level).tolist()) & set(theirs.tolist()):
                wanted.add((t, f))
    assert len(found) == len(set(found))
    assert set(found) == wanted


def test_nothing_has_no_cells():
    empty = covering(array(), 13)
    assert len(empty.cells) == len(empty.owners) == 0
    assert all(len(values) == 0 for values in shared_cells(empty, empty))
    assert isinstance(empty, Covering)


@pytest.mark.parametrize(
    "geometry", [None, shapely.Polygon(), shapely.Point(181, 0), shapely.Point(0, 91), shapely.Point(float("nan"), 0)]
)
def test_what_has_no_place_is_refused(geometry):
    with pytest.raises(GeometryError, match="finite longitudes"):
        covering(array(shapely.Point(0, 0), geometry), 13)


@pytest.mark.parametrize("level", [6, 10, 14, 18])
def test_widths_and_diagonals_bound_those_of_real_cells(level):
    rng = np.random.default_rng(level)
    lon, lat = rng.uniform(-180, 180, 300), np.degrees(np.arcsin(rng.uniform(-1, 1, 300)))
    for cell in s2_cells(lon, lat, level).tolist():
        corners = [s2.S2Cell(s2.S2CellId(cell)).GetVertex(k) for k in range(4)]
        diagonal = max(s2.S1Angle(corners[k], corners[k + 2]).radians() for k in (0, 1))
        edge = min(s2.S1Angle(corners[k], corners[(k + 1) % 4]).radians() for k in range(4))
        assert diagonal * 6_400_000 <= greatest_diagonal_m(level) * 1.001
        assert edge * 6_335_000 >= least_width_m(level) * 0.999
