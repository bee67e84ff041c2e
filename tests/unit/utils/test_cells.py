"""Cells against Google's C++ library (s2geometry) and against h3."""

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import h3
import numpy as np
import pyarrow as pa
import pytest
import s2geometry as s2
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from shapely.geometry import Point

from utils import cells as cells_module
from utils.cells import compile_kernel
from utils.errors import GeometryError
from utils.geo import h3_cells, s2_cell_polygon, s2_cells, s2_levels, s2_parents

LONS, LATS = st.floats(-180, 180), st.floats(-90, 90)


def cpp_leaf(lon: float, lat: float) -> s2.S2CellId:
    return s2.S2CellId(s2.S2LatLng.FromDegrees(lat, lon))


def cpp_leaves(lon: ArrayLike, lat: ArrayLike) -> NDArray[np.uint64]:
    pairs = zip(np.asarray(lon).tolist(), np.asarray(lat).tolist(), strict=True)
    return np.array([cpp_leaf(*pair).id() for pair in pairs], np.uint64)


def vertices(cell: s2.S2CellId) -> list[tuple[float, float]]:
    points = [s2.S2LatLng(s2.S2Cell(cell).GetVertex(k)) for k in range(4)]
    return [(p.lng().degrees(), p.lat().degrees()) for p in points]


@pytest.fixture(scope="module")
def world() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    random = np.random.default_rng(2026)
    return random.uniform(-180, 180, 100_000), np.degrees(np.arcsin(random.uniform(-1, 1, 100_000)))


@pytest.fixture(params=["numpy", "kernel"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to the same cells."""
    if request.param == "kernel":
        cells_module.compile_kernel()
    monkeypatch.setattr(cells_module, "_compiled", lambda count: request.param == "kernel")
    return str(request.param)


def adversarial() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Poles, ±180, face edges, cube corners, equator, signed zeros, denormals, and two float64 steps beside each."""
    corner = math.degrees(math.atan(1 / math.sqrt(2)))
    tiny = [0.0, -0.0, 5e-324, -5e-324, 2.2e-308, -2.2e-308, 1e-16, -1e-16]
    lon = np.array([*np.arange(-180, 181, 45.0), *tiny])
    lat = np.array([-90.0, -45, -corner, corner, 45, 90, 35.0, *tiny])
    for _ in range(2):
        lon = np.unique(np.concatenate([lon, np.nextafter(lon, 200), np.nextafter(lon, -200)]))
        lat = np.unique(np.concatenate([lat, np.nextafter(lat, 200), np.nextafter(lat, -200)]))
    lons, lats = np.meshgrid(np.clip(lon, -180, 180), np.clip(lat, -90, 90))
    return lons.ravel(), lats.ravel()


def test_adversarial_positions(way: str) -> None:
    lon, lat = adversarial()
    different = int((s2_cells(lon, lat, 30) != cpp_leaves(lon, lat)).sum())
    print(f"{way}: {len(lon)} compared, {different} different")
    assert len(lon) > 2000
    assert different == 0


def test_h3_of_100k_and_adversarial_positions(world: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    hard = adversarial()
    lon, lat = (np.concatenate([easy, hard]) for easy, hard in zip(world, hard, strict=True))
    for resolution in (0, 9, 15):
        expected = [
            h3.str_to_int(h3.latlng_to_cell(*pair, resolution)) for pair in zip(lat.tolist(), lon.tolist(), strict=True)
        ]
        assert np.array_equal(h3_cells(lon, lat, resolution), np.array(expected, np.uint64))


def test_threads_get_the_same_cells(world: tuple[NDArray[np.float64], NDArray[np.float64]], way: str) -> None:
    lon, lat = world
    expected = s2_cells(lon, lat, 21), h3_cells(lon, lat, 7)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: (s2_cells(lon, lat, 21), h3_cells(lon, lat, 7)), range(8)):
            assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def test_strided_integer_and_float32_positions(way: str) -> None:
    lon, lat = np.arange(-180, 180, 3), np.linspace(-90, 90, 120, dtype=np.float32)
    expected = cpp_leaves(lon.astype(float), lat.astype(float))
    assert np.array_equal(s2_cells(lon, lat, 30), expected)
    assert np.array_equal(s2_cells(np.asfortranarray(np.c_[lon, lat])[:, 0], lat[::-1][::-1], 30), expected)
    both = np.column_stack([lon, lat]).astype(float)
    assert np.array_equal(s2_cells(both[:, 0], both[:, 1], 30), expected)


def test_the_kernel_is_compiled_only_by_processes_that_map_many_positions() -> None:
    program = (
        "import sys, numpy as np; from utils import geo\n"
        "assert not {'numba', 'h3', 'h3ronpy'} & set(sys.modules), 'imported at start-up'\n"
        "lon = np.linspace(-180, 180, 600_000); a = geo.s2_cells(lon, lon / 2, 30)\n"
        "assert 'numba' not in sys.modules; geo.s2_cells(lon, lon / 2, 30); assert 'numba' not in sys.modules\n"
        "b = geo.s2_cells(lon, lon / 2, 30); assert 'numba' in sys.modules; assert (a == b).all()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("ids", [[1.0], [-1], [[1]], ["89c25"]])
def test_ids_that_are_no_unsigned_integers_are_refused(ids: ArrayLike) -> None:
    with pytest.raises(GeometryError, match="unsigned 64-bit"):
        s2_parents(ids, 0)


def test_100k_leaves_equal_the_cpp_library(way: str, world: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    cells = s2_cells(*world, 30)
    assert cells.dtype == np.uint64
    assert np.array_equal(cells, cpp_leaves(*world))


def test_poles_antimeridian_face_edges_and_cube_corners(way: str) -> None:
    corner = math.degrees(math.atan(1 / math.sqrt(2)))
    lon = np.concatenate([np.arange(-180.0, 180.1, 7.5), [-1e-13, 1e-13, 44.99999999999999, 45.00000000000001]])
    lon = np.concatenate([lon, np.nextafter(lon, 0)])
    lat = np.concatenate([np.arange(-90.0, 90.1, 7.5), [corner, -corner, 1e-13, -1e-13]])
    lat = np.concatenate([lat, np.nextafter(lat, 0), np.nextafter(lat, np.sign(lat) * 90)])
    lons, lats = (axis.ravel() for axis in np.meshgrid(lon, lat))
    assert np.array_equal(s2_cells(lons, lats, 30), cpp_leaves(lons, lats))


def test_points_on_cell_corners_fall_on_the_same_side(
    way: str, world: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> None:
    """Cell corners hit whole numbers of the grid, where the last bit of a sine decides."""
    random = np.random.default_rng(1)
    corners = []
    for lon, lat in zip(world[0][:3000].tolist(), world[1][:3000].tolist(), strict=True):
        corners += vertices(cpp_leaf(lon, lat).parent(int(random.integers(0, 31))))
    lons, lats = np.clip(np.array(corners).T, [[-180], [-90]], [[180], [90]])
    assert np.array_equal(s2_cells(lons, lats, 30), cpp_leaves(lons, lats))


@given(LONS, LATS, st.integers(0, 30))
def test_any_level_and_its_parents(lon: float, lat: float, level: int) -> None:
    expected = cpp_leaf(lon, lat).parent(level).id()
    (cell,) = s2_cells(lon, lat, level).tolist()
    assert cell == expected
    assert s2_parents(s2_cells(lon, lat, 30), level).tolist() == [expected]
    assert s2_levels(cell).tolist() == [level]
    assert s2_parents(cell, level).tolist() == [cell]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 200.0, -180.0000001])
def test_positions_off_the_globe_are_refused(bad: float) -> None:
    for lon, lat in ((bad, 0.0), (0.0, bad)):
        with pytest.raises(GeometryError, match=r"first at 1"):
            s2_cells([0.0, lon], [0.0, lat], 10)
        with pytest.raises(GeometryError, match=r"first at 1"):
            h3_cells([0.0, lon], [0.0, lat], 10)


@pytest.mark.parametrize("level", [-1, 31])
def test_levels_that_do_not_exist(level: int) -> None:
    with pytest.raises(GeometryError, match="levels 0 to 30"):
        s2_cells([0.0], [0.0], level)
    with pytest.raises(GeometryError, match="levels 0 to 30"):
        s2_parents(s2_cells([0.0], [0.0], 30), level)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(GeometryError, match="one length"):
        s2_cells([0.0, 1.0], [0.0], 10)


def test_no_positions_give_no_cells() -> None:
    assert s2_cells([], [], 10).shape == s2_parents([], 10).shape == h3_cells([], [], 5).shape == (0,)


@pytest.mark.parametrize("cell", [0, 1 << 63 | 1 << 62 | 1 << 61 | 1, 2, (1 << 64) - 1])
def test_ids_that_are_no_cells_are_refused(cell: int) -> None:
    assert not s2.S2CellId(cell).is_valid()
    with pytest.raises(GeometryError, match="no S2 cells"):
        s2_parents([cell], 0)
    with pytest.raises(GeometryError, match="no S2 cells"):
        s2_cell_polygon(cell)


def test_a_parent_cannot_be_finer_than_its_cell() -> None:
    with pytest.raises(GeometryError, match="coarser than level 14"):
        s2_parents(s2_cells([8.0], [47.0], 13), 14)


@given(LONS, LATS, st.integers(1, 28))
def test_polygon_has_the_cells_corners(lon: float, lat: float, level: int) -> None:
    cell = cpp_leaf(lon, lat).parent(level)
    outline = s2_cell_polygon(cell.id())
    assert outline.is_valid
    assert outline.exterior.is_ccw
    ring = np.array(outline.exterior.coords)[:-1]
    for vertex_lon, vertex_lat in vertices(cell):
        turn = np.abs((ring[:, 0] - vertex_lon + 180) % 360 - 180)
        turn[np.abs(ring[:, 1]) > 90 - 1e-9] = 0.0
        assert np.hypot(turn, ring[:, 1] - vertex_lat).min() < 1e-9


@given(LONS, st.floats(-80, 80), st.integers(10, 20))
def test_polygon_holds_the_cells_centre(lon: float, lat: float, level: int) -> None:
    cell = cpp_leaf(lon, lat).parent(level)
    middle = cell.ToLatLng()
    outline = s2_cell_polygon(cell.id())
    turn = round((outline.centroid.x - middle.lng().degrees()) / 360) * 360
    assert outline.contains(Point(middle.lng().degrees() + turn, middle.lat().degrees()))


def test_polygon_at_a_pole_reaches_it_along_both_meridians() -> None:
    outline = s2_cell_polygon(int(s2_cells(45.0, 89.9, 3)[0]))
    top = [lon for lon, lat in outline.exterior.coords if lat == pytest.approx(90)]
    assert max(top) - min(top) == pytest.approx(90)
    assert shapely.contains_xy(outline, 45.0, 89.9)


def test_polar_faces_have_no_polygon() -> None:
    for lat in (89.0, -89.0):
        with pytest.raises(GeometryError, match="polar faces"):
            s2_cell_polygon(int(s2_cells(0.0, lat, 0)[0]))


@given(st.lists(st.tuples(LONS, LATS), min_size=1, max_size=30), st.integers(0, 15))
def test_h3_cells_equal_h3(positions: list[tuple[float, float]], resolution: int) -> None:
    lon, lat = np.array(positions).T
    cells = h3_cells(lon, lat, resolution)
    assert cells.dtype == np.uint64
    assert [h3.int_to_str(cell) for cell in cells.tolist()] == [
        h3.latlng_to_cell(b, a, resolution) for a, b in positions
    ]


@pytest.mark.parametrize("resolution", [-1, 16])
def test_h3_resolutions_that_do_not_exist(resolution: int) -> None:
    with pytest.raises(GeometryError, match="resolutions 0 to 15"):
        h3_cells([0.0], [0.0], resolution)


def test_columns_of_arrow_tables_and_odd_layouts_are_taken():
    """Arrow's numpy views are read-only; the compiled kernel must take them, and strided or swapped ones too."""
    compile_kernel()
    lon, lat = np.linspace(-180, 180, 5000), np.linspace(-90, 90, 5000)
    expected = s2_cells(lon, lat, 30)
    table = pa.table({"lon": lon, "lat": lat})
    assert not table["lon"].to_numpy().flags.writeable
    assert np.array_equal(s2_cells(table["lon"].to_numpy(), table["lat"].to_numpy(), 30), expected)
    assert np.array_equal(s2_cells(np.repeat(lon, 2)[::2], np.repeat(lat, 2)[::2], 30), expected)
    assert np.array_equal(s2_cells(lon.astype(">f8"), lat.astype(">f8"), 30), expected)
    cells = pa.array(expected).to_numpy()
    assert np.array_equal(s2_parents(cells, 13), s2_parents(expected, 13))
    assert np.array_equal(h3_cells(table["lon"].to_numpy(), table["lat"].to_numpy(), 9), h3_cells(lon, lat, 9))
