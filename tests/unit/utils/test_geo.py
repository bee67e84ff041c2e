"""CRS, reprojection and UTM zones against pyproj's own answers."""

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Geod, Transformer
from pyproj.aoi import AreaOfInterest
from pyproj.database import query_utm_crs_info
from shapely.geometry import LineString, MultiPolygon, Point, box

from utils import geo
from utils.errors import CRSError, GeometryError


@pytest.mark.parametrize("definition", [32632, "EPSG:32632", "+proj=utm +zone=32 +datum=WGS84", CRS.from_epsg(32632)])
def test_crs_takes_codes_text_and_crs(definition: str | int | CRS) -> None:
    assert geo.crs(definition).to_authority(min_confidence=20) == ("EPSG", "32632")


@pytest.mark.parametrize("definition", [999999, "EPSG:0", "mercator please", ""])
def test_unknown_crs_is_a_typed_error_that_helps(definition: str | int) -> None:
    with pytest.raises(CRSError, match="give an EPSG code"):
        geo.crs(definition)
    with pytest.raises(CRSError, match="unknown CRS"):
        geo.transformer(4326, definition)


def test_transformers_are_made_once_and_take_lon_first() -> None:
    first = geo.transformer(4326, 32632)
    assert geo.transformer(4326, 32632) is first
    x, y = first.transform(9.0, 0.0)
    assert (x, y) == pytest.approx((500_000.0, 0.0), abs=1e-6)


@given(st.floats(6.0, 11.99), st.floats(0.0, 55.9))
@settings(max_examples=25, deadline=None)
def test_utm_zone_is_the_one_whose_area_of_use_holds_the_point(lon: float, lat: float) -> None:
    area = AreaOfInterest(lon, lat, lon, lat)
    listed = {int(info.code) for info in query_utm_crs_info(datum_name="WGS 84", area_of_interest=area)}
    assert geo.utm_epsg(lon, lat) in listed


@given(st.floats(-180, 180), st.floats(-80, 84))
def test_zone_centre_meridian_is_near(lon: float, lat: float) -> None:
    epsg = geo.utm_epsg(lon, lat)
    zone = epsg % 100
    away = abs((lon - (zone * 6 - 183) + 180) % 360 - 180)
    assert 1 <= zone <= 60
    assert (epsg // 100 == 326) == (lat >= 0)
    # the widened Norwegian and Svalbard zones reach furthest
    assert away <= (3 if lat < 56 else 9) + 1e-9


@pytest.mark.parametrize(
    ("lon", "lat", "epsg"),
    [
        (6.14, 46.2, 32632),
        (5.99, 46.2, 32631),
        (-58.4, -34.6, 32721),
        (180.0, 10.0, 32601),
        (-180.0, 10.0, 32601),
        (179.999, -10.0, 32760),
        (9.0, 0.0, 32632),
        (5.32, 60.39, 32632),  # Bergen
        (2.99, 60.0, 32631),
        (15.6, 78.2, 32633),  # Longyearbyen
        (8.9, 75.0, 32631),
        (9.0, 75.0, 32633),
        (20.99, 75.0, 32633),
        (21.0, 75.0, 32635),
        (33.0, 75.0, 32637),
        (42.0, 75.0, 32638),
    ],
)
def test_known_zones(lon: float, lat: float, epsg: int) -> None:
    assert geo.utm_epsg(lon, lat) == epsg
    assert geo.utm_epsgs([lon, lon], [lat, lat]).tolist() == [epsg, epsg]


@pytest.mark.parametrize("lat", [84.01, 90.0, -80.01, -90.0])
def test_no_utm_at_the_poles(lat: float) -> None:
    with pytest.raises(CRSError, match="where UTM ends"):
        geo.utm_epsg(0.0, lat)


@given(st.lists(st.tuples(st.floats(3, 12), st.floats(40, 60)), min_size=1, max_size=20))
def test_points_go_there_and_back(lonlat: list[tuple[float, float]]) -> None:
    moved = geo.reproject_points(lonlat, 4326, 32632)
    expected = Transformer.from_crs(4326, 32632, always_xy=True).transform(*np.array(lonlat).T)
    assert np.array_equal(moved, np.column_stack(expected))
    assert np.allclose(geo.reproject_points(moved, 32632, 4326), lonlat, atol=1e-9)


def test_geometries_go_one_by_one_or_all_at_once() -> None:
    shapes = [Point(7.4, 46.9), box(7.4, 46.9, 7.5, 47.0), MultiPolygon([box(6.1, 46.1, 6.2, 46.2)])]
    together = geo.reproject(np.array(shapes, object), "EPSG:4326", 21781)
    for shape, moved in zip(shapes, together, strict=True):
        assert shapely.equals(geo.reproject(shape, 4326, 21781), moved)
        x, y = Transformer.from_crs(4326, 21781, always_xy=True).transform(*shapely.get_coordinates(shape).T)
        assert np.allclose(shapely.get_coordinates(moved), np.column_stack([x, y]))


@pytest.mark.parametrize(
    "geometry", [None, Point(), Point(math.nan, 1.0), LineString([(0, 0), (math.inf, 1)]), Point(7e6, 4.6e6)]
)
def test_unusable_geometry_is_a_typed_error(geometry: shapely.Geometry) -> None:
    with pytest.raises(GeometryError):
        geo.reproject(geometry, 4326, 32632)


@given(st.floats(-170, 160), st.floats(-70, 60), st.floats(0.01, 8), st.floats(0.01, 8))
def test_reprojected_bounds_hold_the_whole_edge(west: float, south: float, wide: float, high: float) -> None:
    bounds = (west, south, west + wide, south + high)
    moved = geo.reproject_bounds(bounds, 4326, 3035 if 0 < west < 20 and south > 40 else 3857)
    epsg = 3035 if 0 < west < 20 and south > 40 else 3857
    edge = shapely.segmentize(box(*bounds), 0.05)
    xy = geo.reproject_points(shapely.get_coordinates(edge), 4326, epsg)
    slack = 1e-3 * max(moved[2] - moved[0], moved[3] - moved[1])
    assert (xy.min(axis=0) >= np.array(moved[:2]) - slack).all()
    assert (xy.max(axis=0) <= np.array(moved[2:]) + slack).all()


def test_bounds_are_more_than_two_corners() -> None:
    bounds = (0.0, 45.0, 12.0, 55.0)
    corners = geo.reproject_points([bounds[:2], bounds[2:]], 4326, 32632)
    moved = geo.reproject_bounds(bounds, 4326, 32632)
    assert moved[1] < corners[:, 1].min() - 10_000


@pytest.mark.parametrize("bounds", [(1, 0, 0, 1), (0, 1, 1, 0), (0, 0, math.nan, 1), (0, 0, math.inf, 1)])
def test_bad_bounds_are_refused(bounds: tuple[float, float, float, float]) -> None:
    with pytest.raises(GeometryError):
        geo.reproject_bounds(bounds, 4326, 32632)


def test_bounds_across_the_antimeridian_say_so() -> None:
    box_utm = (-200_000.0, 0.0, 400_000.0, 100_000.0)
    west, south, east, north = geo.reproject_bounds(box_utm, 32601, 4326)
    assert west > east
    assert south < north


def test_utm_metres_are_metres() -> None:
    xy = geo.reproject_points([(6.14, 46.2), (6.15, 46.2)], 4326, 32632)
    _, _, metres = Geod(ellps="WGS84").inv(6.14, 46.2, 6.15, 46.2)
    assert np.hypot(*(xy[1] - xy[0])) == pytest.approx(metres, rel=1e-3)


def test_public_names_come_from_one_place() -> None:
    assert {"s2_cells", "s2_parents", "h3_cells", "ChipLattice"} <= set(geo.__all__)
    assert all(hasattr(geo, name) for name in geo.__all__)
