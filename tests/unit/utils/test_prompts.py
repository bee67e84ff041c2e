import math

import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from shapely import LineString, MultiPoint, MultiPolygon, Point, Polygon, affinity

from utils.errors import ConfigError, GeometryError
from utils.prompts import clip_state, jittered_box, label_kind, perturbed, pixel_box, prompt_geometry, to_pixels
from utils.types import ChipGrid, Prompt

X, Y = 500_000.0, 5_200_000.0
sizes = st.floats(0.5, 60)
offsets = st.floats(-80, 80)


def north_up(height: int = 100, width: int = 120, gsd_m: float = 0.3) -> ChipGrid:
    return ChipGrid.around(X, Y, epsg=32632, gsd_m=gsd_m, height=height, width=width)


def rotated(degrees: float, height: int = 100, width: int = 120) -> ChipGrid:
    turned = Affine.translation(X, Y) @ Affine.rotation(degrees) @ Affine.scale(0.3, -0.3)
    return ChipGrid(epsg=32632, transform=tuple(turned)[:6], height=height, width=width)


def prompt(geometry: shapely.Geometry, kind: str = "box") -> Prompt:
    return Prompt(prompt_id="p", label_id="l", kind=kind, geometry=geometry)


class TestLabelKind:
    @pytest.mark.parametrize(
        ("geometry", "kind"),
        [
            (Point(6.1, 46.2), "point"),
            (MultiPoint([(6.1, 46.2), (6.2, 46.2)]), "point"),
            (shapely.box(6.1, 46.2, 6.1001, 46.2001), "box"),
            (shapely.box(X, Y, X + 20, Y + 3), "box"),
            (MultiPolygon([shapely.box(X, Y, X + 20, Y + 3)]), "box"),
            (affinity.rotate(shapely.box(X, Y, X + 20, Y + 3), 20), "polygon"),
            (Polygon([(0, 0), (10, 0), (10, 4), (4, 4), (4, 10), (0, 10)]), "polygon"),
        ],
    )
    def test_follows_from_the_shape(self, geometry: shapely.Geometry, kind: str) -> None:
        assert label_kind(geometry) == kind

    def test_rounded_corners_within_tolerance_are_a_box(self) -> None:
        assert label_kind(Polygon([(0.02, 0), (20, 0.01), (20, 9.99), (0, 10)])) == "box"

    @pytest.mark.parametrize(
        "geometry",
        [
            LineString([(0, 0), (1, 1)]),
            shapely.GeometryCollection([Point(0, 0)]),
            Point(),
            Polygon(),
            Point(math.nan, 1),
            Polygon([(0, 0), (1, 1), (2, 2)]),
        ],
    )
    def test_refuses_what_is_no_label(self, geometry: shapely.Geometry) -> None:
        with pytest.raises(GeometryError):
            label_kind(geometry)


class TestPromptGeometry:
    @given(offsets, offsets, sizes, sizes, st.floats(0, 0.5))
    def test_box_edges_move_out_by_the_share_of_the_side(
        self, dx: float, dy: float, width: float, height: float, share: float
    ) -> None:
        label = shapely.box(X + dx, Y + dy, X + dx + width, Y + dy + height)
        west, south, east, north = prompt_geometry(label, "box", margin_share=share, point_box_m=12).bounds
        assert [west, south] == pytest.approx([X + dx - share * width, Y + dy - share * height], abs=1e-6)
        assert [east, north] == pytest.approx([X + dx + (1 + share) * width, Y + dy + (1 + share) * height], abs=1e-6)

    def test_box_without_margin_is_the_label(self) -> None:
        label = shapely.box(X, Y, X + 8, Y + 5)
        assert prompt_geometry(label, "box", margin_share=0, point_box_m=12).equals(label)

    def test_tilted_box_becomes_its_envelope(self) -> None:
        label = affinity.rotate(shapely.box(X, Y, X + 8, Y + 5), 2)
        assert prompt_geometry(label, "box", margin_share=0, point_box_m=12).equals(label.envelope)

    def test_point_becomes_its_search_box(self) -> None:
        found = prompt_geometry(Point(X, Y), "point", margin_share=0.2, point_box_m=12)
        assert found.bounds == (X - 6, Y - 6, X + 6, Y + 6)
        assert found.centroid.equals(Point(X, Y))

    def test_multi_point_keeps_every_point_inside(self) -> None:
        points = MultiPoint([(X, Y), (X + 10, Y + 4)])
        found = prompt_geometry(points, "point", margin_share=0, point_box_m=6)
        assert found.bounds == (X - 3, Y - 3, X + 13, Y + 7)

    def test_polygon_is_kept_and_its_envelope_is_the_box(self) -> None:
        label = Polygon([(X, Y), (X + 10, Y), (X + 3, Y + 8)])
        found = prompt_geometry(label, "polygon", margin_share=0.3, point_box_m=12)
        assert found.equals(label)
        assert prompt(found, "polygon").box.equals(label.envelope)

    def test_crossing_outline_is_mended(self) -> None:
        bow_tie = Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
        found = prompt_geometry(bow_tie, "polygon", margin_share=0, point_box_m=12)
        assert found.is_valid
        assert found.area == pytest.approx(50)
        assert found.bounds == bow_tie.bounds

    def test_kind_must_fit_the_shape(self) -> None:
        with pytest.raises(GeometryError, match="Point"):
            prompt_geometry(Point(X, Y), "box", margin_share=0, point_box_m=12)

    def test_empty_label_is_refused(self) -> None:
        with pytest.raises(GeometryError):
            prompt_geometry(Polygon(), "polygon", margin_share=0, point_box_m=12)

    @pytest.mark.parametrize(("margin", "width"), [(-0.5, 12), (0.1, 0), (0.1, -3)])
    def test_settings_that_leave_nothing_are_refused(self, margin: float, width: float) -> None:
        with pytest.raises(ConfigError):
            prompt_geometry(Point(X, Y), "point", margin_share=margin, point_box_m=width)


class TestPixelBox:
    @given(offsets, offsets, sizes, sizes)
    def test_north_up_agrees_with_rasterio(self, dx: float, dy: float, width: float, height: float) -> None:
        grid = north_up()
        shape = shapely.box(X + dx, Y + dy, X + dx + width, Y + dy + height)
        window = rasterio.windows.from_bounds(*shape.bounds, transform=grid.affine)
        col0, row0, col1, row1 = pixel_box(prompt(shape), grid)
        assert (col0, row0) == pytest.approx((window.col_off, window.row_off), abs=1e-4)
        assert (col1 - col0, row1 - row0) == pytest.approx((window.width, window.height), abs=1e-4)

    @given(st.floats(-180, 180), offsets, offsets, sizes, sizes)
    def test_rotated_grid_takes_all_four_corners(
        self, degrees: float, dx: float, dy: float, width: float, height: float
    ) -> None:
        grid = rotated(degrees)
        shape = shapely.box(X + dx, Y + dy, X + dx + width, Y + dy + height)
        corners = np.array([~grid.affine @ corner for corner in shape.exterior.coords])
        expected = (*corners.min(axis=0), *corners.max(axis=0))
        assert pixel_box(prompt(shape), grid) == pytest.approx(expected, abs=1e-4)

    def test_degenerate_box_has_a_place(self) -> None:
        col0, row0, col1, row1 = pixel_box(prompt(Point(X, Y), "point"), north_up())
        assert (col0, row0, col1, row1) == pytest.approx((60, 50, 60, 50))


class TestClipState:
    @given(st.floats(-180, 180), st.floats(-30, 150), st.floats(-30, 130), st.floats(1, 60), st.floats(1, 60))
    def test_agrees_with_the_footprint(
        self, degrees: float, col: float, row: float, width: float, height: float
    ) -> None:
        grid = rotated(degrees)
        x, y = grid.affine @ (col, row)
        shape = shapely.box(x, y, x + 0.3 * width, y + 0.3 * height)
        state = clip_state(prompt(shape), grid)
        if state == "inside":
            assert grid.footprint.buffer(1e-4).covers(shape)
        else:
            assert not grid.footprint.buffer(-1e-4).covers(shape)
        if shape.intersection(grid.footprint).area > 1e-5:
            assert state != "not_in_chip"
        if shape.distance(grid.footprint) > 1e-5:
            assert state == "not_in_chip"

    @pytest.mark.parametrize(
        ("west", "state"),
        [(0, "inside"), (-1, "clipped"), (-6, "not_in_chip"), (-5, "not_in_chip"), (200, "not_in_chip")],
    )
    def test_along_the_western_edge(self, west: float, state: str) -> None:
        grid = north_up()
        left = X - 60 * 0.3
        shape = shapely.box(left + west, Y - 2, left + west + 5, Y + 2)
        assert clip_state(prompt(shape), grid) == state

    def test_the_whole_chip_is_inside(self) -> None:
        grid = rotated(30)
        assert clip_state(prompt(grid.footprint, "polygon"), grid) == "inside"

    def test_a_point_counts_where_its_centre_lies(self) -> None:
        grid = north_up()
        inside, outside = Point(X - 17, Y), Point(X - 19, Y)
        assert clip_state(prompt(inside.buffer(6).envelope, "point"), grid) == "clipped"
        assert clip_state(prompt(outside.buffer(6).envelope, "point"), grid) == "not_in_chip"
        assert clip_state(prompt(inside, "point"), grid) == "inside"
        assert clip_state(prompt(outside, "point"), grid) == "not_in_chip"

    def test_crossing_outline_does_not_break_it(self) -> None:
        bow_tie = affinity.translate(Polygon([(0, 0), (10, 10), (10, 0), (0, 10)]), X - 23, Y)
        assert clip_state(prompt(bow_tie, "polygon"), north_up()) == "clipped"


def test_jitter_moves_edges_by_the_stated_share() -> None:
    rng = np.random.default_rng(0)
    shape = shapely.box(0, 0, 20, 5)
    bounds = np.array([jittered_box(shape, 0.08, rng).bounds for _ in range(4000)])
    spread = (bounds - shape.bounds).std(axis=0)
    assert spread == pytest.approx([1.6, 0.4, 1.6, 0.4], rel=0.06)
    assert (bounds - shape.bounds).mean(axis=0) == pytest.approx([0, 0, 0, 0], abs=0.1)


def test_to_pixels_inverts_the_grid() -> None:
    grid = rotated(17)
    assert to_pixels(grid.footprint, grid).equals_exact(Polygon([(0, 0), (120, 0), (120, 100), (0, 100)]), 1e-4)


class TestPerturbed:
    def test_every_edge_moves_by_the_share_of_its_side(self) -> None:
        asked = prompt(shapely.box(X, Y, X + 40, Y + 10))
        for one in perturbed(asked, 0.05):
            moves = np.abs(np.subtract(one.bounds, asked.bounds))
            assert moves == pytest.approx([2.0, 0.5, 2.0, 0.5])

    @given(sizes, sizes, st.floats(0, 0.49))
    def test_moves_balance_out_and_the_prompt_stays_itself(self, width: float, height: float, share: float) -> None:
        asked = prompt(Polygon([(X, Y), (X + width, Y), (X, Y + height)]), "polygon")
        found = perturbed(asked, share)
        assert np.mean([one.bounds for one in found], axis=0) == pytest.approx(asked.bounds)
        assert {(one.prompt_id, one.label_id, one.kind) for one in found} == {("p", "l", "polygon")}
        assert all(one.geometry.is_valid for one in found)
        assert asked.bounds == pytest.approx((X, Y, X + width, Y + height))

    def test_points_move_with_the_box(self) -> None:
        asked = Prompt(
            prompt_id="p",
            label_id="l",
            kind="box",
            geometry=shapely.box(X, Y, X + 10, Y + 20),
            positive=((X + 5, Y + 10), (X + 10, Y + 20)),
            negative=((X, Y),),
        )
        grown, shrunk, forth, back = perturbed(asked, 0.1)
        assert np.array(grown.positive) == pytest.approx(np.array([(X + 5, Y + 10), (X + 11, Y + 22)]))
        assert shrunk.negative[0] == pytest.approx((X + 1, Y + 2))
        assert forth.negative[0] == pytest.approx((X + 1, Y + 2))
        assert back.positive[0] == pytest.approx((X + 4, Y + 8))

    def test_a_bare_point_stays(self) -> None:
        assert {one.geometry for one in perturbed(prompt(Point(X, Y), "point"))} == {Point(X, Y)}

    @pytest.mark.parametrize("share", [-0.1, 0.5, math.nan])
    def test_larger_moves_are_refused(self, share: float) -> None:
        with pytest.raises(ConfigError, match="share"):
            perturbed(prompt(shapely.box(X, Y, X + 1, Y + 1)), share)
