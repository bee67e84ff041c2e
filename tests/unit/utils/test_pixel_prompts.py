"""Prompts in pixels of a chip."""

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.warp import transform_bounds
from shapely import affinity

from utils.errors import CRSError, GeometryError
from utils.geo import utm_epsg
from utils.pixel_prompts import interior, on_grid, pixel_prompt, prompt_in
from utils.types import ChipGrid, Mask, Prompt

X, Y = 500_000.0, 5_200_000.0


def turned(degrees: float, size: int = 50, gsd_m: float = 0.5) -> ChipGrid:
    centre = Affine.translation(X, Y) @ Affine.rotation(degrees) @ Affine.scale(gsd_m, -gsd_m)
    moved = centre @ Affine.translation(-size / 2, -size / 2)
    return ChipGrid(epsg=32632, transform=tuple(moved)[:6], height=size, width=size)


def prompt_of(geometry, kind="box", **more):
    return Prompt(prompt_id="p", label_id="p", kind=kind, geometry=geometry, **more)


@given(degrees=st.floats(-180, 180), x=st.floats(-5, 5), y=st.floats(-5, 5), side=st.floats(0.5, 6))
def test_a_box_holds_all_its_corners_on_any_grid(degrees, x, y, side):
    grid = turned(degrees)
    box = shapely.box(X + x - side / 2, Y + y - side / 2, X + x + side / 2, Y + y + side / 2)
    told = pixel_prompt(prompt_of(box), grid)
    corners = np.array([~grid.affine @ corner for corner in box.exterior.coords])
    assert told.state == "inside"
    assert told.box == pytest.approx((*corners.min(axis=0), *corners.max(axis=0)), abs=1e-6)


def test_a_box_is_cut_at_the_chip_and_points_off_it_are_left_out():
    grid = turned(0)
    told = pixel_prompt(
        prompt_of(
            shapely.box(X, Y, X + 100, Y + 5), positive=((X + 1, Y + 1), (X + 50, Y + 1)), negative=((X, Y - 3),)
        ),
        grid,
    )
    assert told.state == "clipped"
    assert told.box == (25.0, 15.0, 50.0, 25.0)
    assert told.points.tolist() == [[27.0, 23.0], [25.0, 31.0]]
    assert told.point_labels.tolist() == [1, 0]


def test_a_bare_point_is_its_centre_and_several_points_are_themselves():
    grid = turned(0)
    search = shapely.Point(X + 2, Y).buffer(5).envelope
    assert pixel_prompt(prompt_of(search, "point"), grid).points.tolist() == [[29.0, 25.0]]
    several = pixel_prompt(prompt_of(search, "point", positive=((X, Y), (X + 4, Y))), grid)
    assert several.box is None
    assert several.points.tolist() == [[25.0, 25.0], [33.0, 25.0]]


def test_nothing_of_a_prompt_off_the_chip_is_told():
    told = pixel_prompt(prompt_of(shapely.box(X + 40, Y, X + 50, Y + 5)), turned(0))
    assert (told.state, told.box, len(told.points)) == ("not_in_chip", None, 0)


def test_an_l_shape_gets_points_inside_and_not_at_its_envelopes_middle():
    shape = affinity.translate(shapely.Polygon([(0, 0), (10, 0), (10, 3), (3, 3), (3, 10), (0, 10)]), X - 5, Y - 5)
    grid = turned(20)
    told = pixel_prompt(prompt_of(shape, "polygon"), grid, interior_points=3)
    assert told.box is not None
    assert len(told.points) == 3
    for point in told.points:
        assert shape.buffer(-0.5).contains(shapely.Point(grid.affine @ tuple(point.astype(float))))


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)), min_size=3, max_size=12), st.integers(0, 5))
def test_interior_points_lie_inside(corners, count):
    polygon = shapely.MultiPoint(corners).convex_hull
    if polygon.area < 1:
        return
    found = interior(polygon, count)
    assert len(found) <= count
    assert len(found) >= min(count, 1)
    assert all(polygon.buffer(1e-9).contains(shapely.Point(point)) for point in found)


@given(degrees=st.floats(-180, 180))
def test_a_mask_keeps_its_place_on_another_grid(degrees):
    grid, other = turned(0), turned(degrees, size=40, gsd_m=0.4)
    disc = shapely.Point(X + 1, Y - 2).buffer(4)
    inside = np.array(
        [[disc.contains(shapely.Point(grid.affine @ (c + 0.5, r + 0.5))) for c in range(50)] for r in range(50)]
    )
    moved = on_grid(Mask(data=inside, grid=grid, prompt_id="p"), other)
    area = moved.sum() * 0.4**2
    assert area == pytest.approx(disc.area, rel=0.08)
    rows, cols = np.nonzero(moved)
    assert ((cols + 0.5).mean(), (rows + 0.5).mean()) == pytest.approx(~other.affine @ (X + 1, Y - 2), abs=0.4)


@given(lon=st.floats(-3, 3), lat=st.floats(-75, 75), size=st.floats(1e-4, 0.3), degrees=st.floats(-180, 180))
def test_prompts_of_any_crs_cover_what_rasterio_says_they_cover(lon, lat, size, degrees):
    epsg = utm_epsg(lon, lat)
    box = shapely.box(lon, lat, lon + size, lat + size / 2)
    moved = prompt_in(prompt_of(box, positive=((lon + size / 3, lat + size / 5),)), 4326, epsg)
    wanted = transform_bounds("EPSG:4326", f"EPSG:{epsg}", *box.bounds, densify_pts=21)
    span = max(wanted[2] - wanted[0], wanted[3] - wanted[1])
    assert moved.bounds == pytest.approx(wanted, abs=2e-3 * span)
    assert moved.geometry.contains(shapely.Point(moved.positive[0]))
    x, y = moved.geometry.centroid.coords[0]
    turn = Affine.translation(x, y) @ Affine.rotation(degrees) @ Affine.scale(span / 40, -span / 40)
    grid = ChipGrid(epsg=epsg, transform=tuple(turn @ Affine.translation(-50, -50))[:6], height=100, width=100)
    told = pixel_prompt(moved, grid)
    assert told.state == "inside"
    cols, rows = (~grid.affine @ np.array(moved.geometry.exterior.coords).T)[:2]
    assert told.box == pytest.approx((cols.min(), rows.min(), cols.max(), rows.max()), abs=1e-6)


def test_prompts_without_a_place_in_the_other_crs_are_refused():
    with pytest.raises(GeometryError):
        prompt_in(prompt_of(shapely.box(0, 0, 1, np.inf)), 4326, 32632)


def test_masks_of_another_crs_are_refused():
    grid = turned(0)
    mask = Mask(data=np.zeros((50, 50), np.bool_), grid=grid, prompt_id="p")
    with pytest.raises(CRSError, match="EPSG:32632"):
        on_grid(mask, ChipGrid(epsg=32633, transform=grid.transform, height=50, width=50))
