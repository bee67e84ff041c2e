"""The chip lattice: every point on one chip, no gap between chips, ids that never change."""

import math
from datetime import UTC, date, datetime

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import GeometryCollection, LineString, MultiPoint, MultiPolygon, Point, Polygon, box

from utils.errors import GeometryError
from utils.geo import ChipLattice

LATTICE = ChipLattice(epsg=32632, gsd_m=0.3, height=256, width=256)
METRES = st.floats(-2e5, 9.9e6)
LATTICES = st.builds(
    ChipLattice,
    epsg=st.just(32632),
    gsd_m=st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.31, 0.5, 1 / 3, 10.0]),
    height=st.integers(1, 700),
    width=st.integers(1, 700),
)
ON_EDGES = st.tuples(st.integers(-100, 130_000), st.integers(-3, 3))


@given(LATTICES, METRES, METRES)
def test_every_point_is_on_exactly_one_chip(lattice: ChipLattice, x: float, y: float) -> None:
    (ix,), (iy,) = lattice.index_of(x, y)
    holding = []
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            west, south, east, north = lattice.footprints(ix + dx, iy + dy)[0].bounds
            if west <= x < east and south <= y < north:
                holding.append((dx, dy))
    assert holding == [(0, 0)]


@given(LATTICES, ON_EDGES)
def test_points_on_or_an_ulp_beside_an_edge(lattice: ChipLattice, edge: tuple[int, int]) -> None:
    index, ulps = edge
    x = index * lattice.width_m
    for _ in range(abs(ulps)):
        x = math.nextafter(x, math.copysign(math.inf, ulps))
    (ix,), _ = lattice.index_of(x, 0.0)
    assert ix * lattice.width_m <= x < (ix + 1) * lattice.width_m


@given(LATTICES, st.integers(0, 13_000), st.integers(0, 120_000))
def test_grids_tile_without_gap(lattice: ChipLattice, ix: int, iy: int) -> None:
    grid, east, north = lattice.grid(ix, iy), lattice.grid(ix + 1, iy), lattice.grid(ix, iy + 1)
    assert grid.affine @ (grid.width, 0) == pytest.approx(east.affine @ (0, 0), abs=1e-6)
    assert grid.affine @ (0, 0) == pytest.approx(north.affine @ (0, north.height), abs=1e-6)
    assert grid.centre == pytest.approx(tuple(lattice.centres(ix, iy)[0]), abs=1e-6)
    assert shapely.equals_exact(grid.footprint.normalize(), lattice.footprints(ix, iy)[0].normalize(), 1e-6)
    (back_x,), (back_y,) = lattice.index_of(*grid.centre)
    assert (back_x, back_y) == (ix, iy)


def test_footprints_of_neighbours_share_edges_exactly() -> None:
    iy, ix = (axis.ravel() for axis in np.mgrid[70_000:70_012, 5_000:5_012])
    boxes = LATTICE.footprints(ix, iy)
    whole = shapely.union_all(boxes)
    assert isinstance(whole, Polygon)
    assert not whole.interiors
    assert whole.area == pytest.approx(shapely.area(boxes).sum(), rel=1e-12)


def test_a_chip_touches_only_itself_and_points_have_one_chip() -> None:
    chip = LATTICE.footprints(10, 20)[0]
    assert [axis.tolist() for axis in LATTICE.touching(chip)] == [[10], [20]]
    assert [axis.tolist() for axis in LATTICE.touching(chip.bounds)] == [[10], [20]]
    corner = Point(10 * LATTICE.width_m, 20 * LATTICE.height_m)
    assert [axis.tolist() for axis in LATTICE.touching(corner)] == [[10], [20]]


@given(
    st.lists(st.tuples(st.floats(0, 900), st.floats(0, 900)), min_size=3, max_size=8),
    st.sampled_from([(0.0, 0.0), (500_000.0, 5_200_000.0)]),
)
def test_touching_polygons_equals_intersection_area(
    corners: list[tuple[float, float]], shift: tuple[float, float]
) -> None:
    hull = shapely.convex_hull(MultiPoint(np.array(corners) + shift))
    if hull.geom_type != "Polygon" or hull.area < 1e-3:
        return
    touched = set(zip(*(axis.tolist() for axis in LATTICE.touching(hull)), strict=True))
    (x0, x1), (y0, y1) = LATTICE.index_of(np.array(hull.bounds)[[0, 2]], np.array(hull.bounds)[[1, 3]])
    iy, ix = (axis.ravel() for axis in np.mgrid[y0 - 1 : y1 + 2, x0 - 1 : x1 + 2])
    areas = shapely.area(shapely.intersection(LATTICE.footprints(ix, iy), hull))
    for x, y, area in zip(ix.tolist(), iy.tolist(), areas.tolist(), strict=True):
        # slivers below rounding may go either way
        if area > 1e-6:
            assert (x, y) in touched
        if area == 0:
            assert (x, y) not in touched


def test_touching_follows_the_shape_and_not_its_box() -> None:
    bend = Polygon([(1, 1), (700, 1), (700, 20), (20, 20), (20, 700), (1, 700)])
    ix, iy = LATTICE.touching(bend)
    assert len(ix) == 19
    assert set(zip(ix.tolist(), iy.tolist(), strict=True)) == {(k, 0) for k in range(10)} | {(0, k) for k in range(10)}


def test_collections_are_the_union_of_their_parts_sorted() -> None:
    mixed = GeometryCollection(
        [Point(1000, 1000), MultiPolygon([box(0, 0, 10, 10), box(200, 0, 210, 10)]), MultiPoint([(1, 1), (1000, 1001)])]
    )
    ix, iy = LATTICE.touching(mixed)
    assert list(zip(iy.tolist(), ix.tolist(), strict=True)) == [(0, 0), (0, 2), (13, 13)]


def test_a_large_area_is_walked_in_blocks() -> None:
    wide = box(0, 0, 1100 * LATTICE.width_m, 500 * LATTICE.height_m)
    ix, iy = LATTICE.touching(wide)
    assert len(ix) == 1100 * 500
    assert (ix.max(), iy.max()) == (1099, 499)


@pytest.mark.parametrize(
    "geometry",
    [
        Point(),
        Polygon(),
        Point(math.nan, 0),
        Point(math.inf, 0),
        LineString([(0, 0), (1, 1)]),
        box(0, 0, 0, 5),
        Polygon([(0, 0), (10, 10), (10, 0), (0, 10)]),
        GeometryCollection(),
        GeometryCollection([Point(0, 0), LineString([(0, 0), (5, 5)])]),
        Polygon([(0, 0), (math.nan, 1), (1, 1)]),
    ],
)
def test_unusable_areas_are_refused(geometry: shapely.Geometry) -> None:
    with pytest.raises(GeometryError):
        LATTICE.touching(geometry)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_positions_must_be_finite(value: float) -> None:
    with pytest.raises(GeometryError, match="not finite"):
        LATTICE.index_of([0.0, value], [0.0, 0.0])


@pytest.mark.parametrize("change", [{"gsd_m": 0.0}, {"gsd_m": math.nan}, {"height": 0}, {"width": -1}])
def test_a_lattice_has_area(change: dict[str, float]) -> None:
    with pytest.raises(GeometryError, match="no area"):
        ChipLattice(**{"epsg": 32632, "gsd_m": 0.3, "height": 256, "width": 256, **change})


def test_chip_ids_are_frozen() -> None:
    """Stored tables carry these ids: this value must never change."""
    assert LATTICE.chip_uuid(3657, 66_600, date(2026, 7, 1)) == "ac69ec0a-673e-5eff-8372-b2e5d4d2fcfc"


def test_chip_ids_differ_by_everything_that_names_a_chip() -> None:
    day = date(2026, 7, 1)
    others = [
        ChipLattice(epsg=32633, gsd_m=0.3, height=256, width=256),
        ChipLattice(epsg=32632, gsd_m=0.5, height=256, width=256),
        ChipLattice(epsg=32632, gsd_m=0.3, height=512, width=256),
        ChipLattice(epsg=32632, gsd_m=0.3, height=256, width=512),
    ]
    ids = [LATTICE.chip_uuid(1, 2, day), LATTICE.chip_uuid(2, 1, day), LATTICE.chip_uuid(1, 2, date(2026, 7, 2))]
    ids += [lattice.chip_uuid(1, 2, day) for lattice in others]
    assert len(set(ids)) == len(ids)
    assert LATTICE.chip_uuid(int(np.int64(1)), int(np.int64(2)), day) == ids[0]


def test_chip_ids_take_no_datetime() -> None:
    with pytest.raises(TypeError, match="UTC"):
        LATTICE.chip_uuid(1, 2, datetime(2026, 7, 1, 23, tzinfo=UTC))
