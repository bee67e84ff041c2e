"""Outlines in longitude and latitude: cut at the antimeridian, bent edges, poles."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from utils.errors import GeometryError
from utils.footprints import cut_at_antimeridian, outline_lonlat
from utils.geo import reproject_points, utm_epsg
from utils.types import ChipGrid

GEOD = Geod(ellps="WGS84")


def ground_m2(shape: shapely.Geometry) -> float:
    return sum(abs(GEOD.geometry_area_perimeter(part)[0]) for part in shapely.get_parts(shape))


@settings(max_examples=60, deadline=None)
@given(
    lon=st.floats(-180, 179.999999),
    lat=st.floats(-79, 83),
    size=st.integers(8, 4000),
    turned=st.sampled_from([0.0, 33.0]),
)
def test_any_chip_keeps_its_ground_and_holds_its_centre(lon, lat, size, turned):
    epsg = utm_epsg(lon, lat)
    [(x, y)] = reproject_points([[lon, lat]], 4326, epsg)
    chip = shapely.affinity.rotate(
        ChipGrid.around(x, y, epsg=epsg, gsd_m=0.3, height=size, width=size).footprint, turned
    )
    outline = outline_lonlat(chip, epsg)
    west, _, east, _ = outline.bounds
    assert outline.is_valid
    assert -180 <= west <= east <= 180
    assert ground_m2(outline) == pytest.approx(chip.area, rel=3e-3)
    nearer = [shapely.Point(lon + turn, lat) for turn in (-360, 0, 360)]
    assert min(outline.distance(point) for point in nearer) < 1e-9


BOX = shapely.box(179, -18, 181, -16)
SAME = {
    "beyond 180": BOX,
    "below -180": shapely.transform(BOX, lambda xy: xy - (360, 0)),
    "a jump": shapely.Polygon([(179, -18), (-179, -18), (-179, -16), (179, -16)]),
    "a turn further": shapely.transform(BOX, lambda xy: xy - (-360, 0)),
    "the other direction": shapely.Polygon([(179, -18), (179, -16), (-179, -16), (-179, -18)]),
}
HALVES = shapely.union_all([shapely.box(179, -18, 180, -16), shapely.box(-180, -18, -179, -16)])


@pytest.mark.parametrize("how", SAME)
def test_every_way_to_write_it_is_one_place(how):
    cut = cut_at_antimeridian(SAME[how])
    assert cut.geom_type == "MultiPolygon"
    assert cut.equals(HALVES)
    assert cut_at_antimeridian(cut).equals(HALVES)


def test_a_hole_is_cut_with_its_shell():
    ring = shapely.Polygon(
        [(179, -18), (-179, -18), (-179, -16), (179, -16)], [[(-179.5, -17.5), (179.5, -17.5), (179.5, -16.5)]]
    )
    assert cut_at_antimeridian(ring).area == pytest.approx(4 - 0.5)


@pytest.mark.parametrize(
    "shape", [shapely.box(5, 46, 6, 47), shapely.box(-180, -90, 180, 90), shapely.box(170, 0, 180, 5)]
)
def test_what_does_not_cross_stays(shape):
    assert cut_at_antimeridian(shape) is shape


def test_a_wide_outline_is_bent_like_its_edges():
    wide = shapely.box(300_000, 5_150_000, 410_000, 5_260_000)
    straight, bent = outline_lonlat(wide, 32632), outline_lonlat(wide, 32632, densify=True)
    [(lon, lat)] = reproject_points([[355_000, 5_260_000 - 20]], 32632, 4326)
    assert bent.intersects(shapely.Point(lon, lat))
    assert not straight.intersects(shapely.Point(lon, lat))


def test_poles_are_refused():
    with pytest.raises(GeometryError, match="pole"):
        outline_lonlat(shapely.box(-900, -900, 800, 800), 3413, densify=True)
    assert outline_lonlat(shapely.box(1_000_000, -900, 1_001_000, 800), 3413).is_valid


def test_only_polygons_are_cut():
    with pytest.raises(GeometryError, match="LineString"):
        cut_at_antimeridian(shapely.LineString([(179, 0), (181, 0)]))


def test_positions_off_the_globe():
    with pytest.raises(GeometryError):
        outline_lonlat(shapely.box(0, 0, np.inf, 1), 32632)
