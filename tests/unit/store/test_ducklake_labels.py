"""Label tables of any make under one shape: names, types, areas, snapshots."""

import re

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from store import ducklake
from store.ducklake_labels import LAKE_LABELS, LabelTable, label_query, read_labels
from utils.errors import AegirError, CatalogEmptyError, ConfigError, CRSError, LabelTableError
from utils.geo import reproject, reproject_points

WEST, SOUTH, EAST, NORTH = AOI = (8.0, 47.0, 9.0, 48.0)
POINTS = {
    "inside": (8.5, 47.5),
    "on the edge": (8.0, 47.5),
    "corner": (9.0, 48.0),
    "north": (8.5, 48.1),
    "east": (9.1, 47.5),
    "far": (-70.0, -33.0),
}
INSIDE = {"inside", "on the edge", "corner"}
UNPLACED = {"null", "empty"}


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A catalogue whose tables hold the same labels in every form."""
    root = tmp_path_factory.mktemp("lake")
    catalog = root / "labels.ducklake"
    with ducklake.connect(catalog, data_path=root / "files", create=True) as connection:
        run = connection.execute
        run("CREATE SCHEMA lake.solar")
        for table, kind in (("geo", "GEOMETRY"), ("wkb", "BLOB"), ("wkt", "VARCHAR"), ("solar.roofs", "GEOMETRY")):
            run(f"CREATE TABLE lake.{table} (id VARCHAR, shape {kind}, survey VARCHAR)")
            wrap = {"GEOMETRY": "ST_GeomFromText(?)", "BLOB": "?", "VARCHAR": "?"}[kind]
            for name, (x, y) in POINTS.items():
                point = shapely.Point(x, y)
                value = point.wkb if kind == "BLOB" else point.wkt
                run(f"INSERT INTO lake.{table} VALUES (?, {wrap}, ?)", [name, value, "2023"])
            run(f"INSERT INTO lake.{table} VALUES ('null', NULL, NULL)")
            empty = shapely.Polygon()
            run(
                f"INSERT INTO lake.{table} VALUES ('empty', {wrap}, '2024')",
                [empty.wkb if kind == "BLOB" else empty.wkt],
            )
        for kind in ("DOUBLE", "FLOAT", "DECIMAL(9,6)", "INTEGER"):
            name = kind.split("(")[0].lower()
            run(f"CREATE TABLE lake.xy_{name} (id BIGINT, x {kind}, y {kind})")
            run(f"INSERT INTO lake.xy_{name} VALUES (1, 8, 47), (2, 70, 47), (3, 8, -20), (4, NULL, 47), (5, 8, NULL)")
        run("INSERT INTO lake.xy_double VALUES (6, 'NaN', 47.5), (7, 8.25, 47.125)")
        run("CREATE TABLE lake.utm (id INTEGER, shape GEOMETRY)")
        for number, (lon, lat) in enumerate(POINTS.values()):
            if abs(lon) < 20:
                [(x, y)] = reproject_points(np.array([[lon, lat]]), 4326, 32632)
                run("INSERT INTO lake.utm VALUES (?, ST_Point(?, ?))", [number, float(x), float(y)])
        run('CREATE TABLE lake."odd ""table"" name" ("the id" INTEGER, "select" GEOMETRY, "da\'ta" VARCHAR)')
        run('INSERT INTO lake."odd ""table"" name" VALUES (1, ST_Point(8.5, 47.5), \'a\')')
        run('CREATE TABLE lake.dotted ("label.id" INTEGER, "pos.x" DOUBLE, "pos.y" DOUBLE)')
        run("INSERT INTO lake.dotted VALUES (1, 8.5, 47.5)")
        run("CREATE TABLE lake.wrong (id INTEGER, shape INTEGER, x VARCHAR, y VARCHAR)")
        run("INSERT INTO lake.wrong VALUES (1, 2, '8.5', 'forty-seven')")
        run("CREATE TABLE lake.nothing (id INTEGER, shape GEOMETRY)")
    with ducklake.connect(catalog) as connection:
        yield connection


@pytest.fixture(scope="module")
def newest(lake):
    return ducklake.latest_snapshot(lake)


def table(name, **options):
    return LabelTable(**({"table": name, "id": "id", "geometry": "shape"} | options))


def found(labels):
    return set(labels["label_id"].to_pylist())


def shapes(labels):
    """Label id → geometry, whichever column it came in."""
    return {
        row["label_id"]: shapely.from_wkb(row["geometry_wkb"])
        if row["geometry_wkb"] is not None
        else shapely.from_wkt(row["geometry_wkt"])
        for row in labels.to_pylist()
    }


@pytest.mark.parametrize("name", ["geo", "wkb", "wkt", "solar.roofs"])
def test_every_form_of_geometry_says_the_same(lake, newest, name):
    labels = read_labels(lake, [table(name)], newest)
    assert labels.schema.equals(LAKE_LABELS)
    assert found(labels) == set(POINTS) | UNPLACED
    held = shapes(labels)
    assert held["null"] is None
    assert held["empty"].is_empty
    assert {key: (held[key].x, held[key].y) for key in POINTS} == POINTS
    assert set(labels["label_table"].to_pylist()) == set(labels["dataset"].to_pylist()) == {name}
    assert set(labels["crs"].to_pylist()) == {"EPSG:4326"}


@pytest.mark.parametrize("name", ["geo", "solar.roofs", "wkb", "wkt"])
def test_the_area_keeps_what_touches_it_and_what_has_no_place(lake, newest, name):
    labels = read_labels(lake, [table(name)], newest, aoi_bbox_lonlat=AOI)
    assert found(labels) == INSIDE | UNPLACED


@pytest.mark.parametrize("kind", ["double", "float", "decimal", "integer"])
def test_coordinate_columns_of_any_number_type(lake, newest, kind):
    mapping = LabelTable(table=f"xy_{kind}", id="id", lon="x", lat="y")
    everything, inside = (read_labels(lake, [mapping], newest, aoi_bbox_lonlat=area) for area in (None, AOI))
    extra = {"6", "7"} if kind == "double" else set()
    assert found(everything) == {"1", "2", "3", "4", "5"} | extra
    assert found(inside) == {"1", "4", "5"} | extra
    held = shapes(everything)
    assert (held["1"].x, held["1"].y) == (8, 47)
    assert held["4"] is held["5"] is None
    if kind == "double":
        assert (held["7"].x, held["7"].y) == (8.25, 47.125)
        assert np.isnan(held["6"].x)


def test_an_area_in_another_crs_is_not_cut_short(lake, newest):
    mapping = table("utm", crs="EPSG:32632")
    labels = read_labels(lake, [mapping], newest, aoi_bbox_lonlat=AOI)
    names = [name for name, (lon, _) in POINTS.items() if abs(lon) < 20]
    kept = {names[int(key)] for key in found(labels)}
    assert kept >= INSIDE
    assert "far" not in kept
    assert set(labels["crs"].to_pylist()) == {"EPSG:32632"}


@settings(max_examples=25, deadline=None)
@given(lon=st.floats(5, 13), lat=st.floats(44, 50), width=st.floats(0.1, 3), height=st.floats(0.1, 3), data=st.data())
def test_no_label_of_an_area_is_lost_by_the_push_down(lake, newest, lon, lat, width, height, data):
    """The box of the area in the table's CRS holds the whole area, edges and all."""
    x = lon + width * data.draw(st.sampled_from([0, 0.25, 0.5, 1]))
    y = lat + height * data.draw(st.sampled_from([0, 0.5, 0.75, 1]))
    area = (lon, lat, lon + width, lat + height)
    sql, _ = label_query(lake, table("utm", crs="EPSG:32632"), newest, area)
    sides = re.search(r"ST_MakeEnvelope\(([^)]*)\)", sql)[1]
    placed = reproject(shapely.Point(x, y), 4326, 32632)
    assert shapely.box(*map(float, sides.split(","))).buffer(1).covers(placed)


def test_an_unknown_crs_is_refused(lake, newest):
    with pytest.raises(CRSError, match="999999"):
        read_labels(lake, [table("utm", crs="EPSG:999999")], newest, aoi_bbox_lonlat=AOI)


def test_datasets_by_column_by_name_or_by_table(lake, newest):
    by_column = read_labels(lake, [table("geo", dataset="survey")], newest)
    assert dict(zip(by_column["label_id"].to_pylist(), by_column["dataset"].to_pylist(), strict=True)) == {
        **dict.fromkeys(POINTS, "2023"),
        "null": None,
        "empty": "2024",
    }
    named = read_labels(lake, [table("geo", dataset_name="it's ours")], newest)
    assert set(named["dataset"].to_pylist()) == {"it's ours"}


def test_several_tables_are_one(lake, newest):
    labels = read_labels(
        lake, [table("geo"), LabelTable(table="xy_double", id="id", lon="x", lat="y"), table("wkt")], newest
    )
    assert len(labels) == 2 * len(POINTS) + 4 + 7
    assert labels["label_table"].value_counts().to_pylist() == [
        {"values": "geo", "counts": 8},
        {"values": "xy_double", "counts": 7},
        {"values": "wkt", "counts": 8},
    ]


def test_odd_names_are_names(lake, newest):
    mapping = LabelTable(table='odd "table" name', id="the id", geometry="select", dataset="da'ta")
    [row] = read_labels(lake, [mapping], newest, aoi_bbox_lonlat=AOI).to_pylist()
    assert (row["label_id"], row["dataset"], row["label_table"]) == ("1", "a", 'odd "table" name')


def test_columns_may_hold_dots(lake, newest):
    mapping = LabelTable(table="dotted", id="label.id", lon="pos.x", lat="pos.y")
    [row] = read_labels(lake, [mapping], newest, aoi_bbox_lonlat=AOI).to_pylist()
    assert row["label_id"] == "1"


@pytest.mark.parametrize("column", ['shape" FROM x; --', "1) OR (1=1", "geometry"])
def test_columns_that_are_not_there_name_those_that_are(lake, newest, column):
    with pytest.raises(LabelTableError, match="it has id, shape, survey"):
        read_labels(lake, [table("geo", geometry=column)], newest)


def test_columns_of_an_unusable_type(lake, newest):
    with pytest.raises(LabelTableError, match="shape is INTEGER; geometry is GEOMETRY, BLOB"):
        read_labels(lake, [table("wrong")], newest)


@pytest.mark.parametrize("area", [None, AOI])
def test_coordinates_that_are_no_numbers(lake, newest, area):
    mapping = LabelTable(table="wrong", id="id", lon="x", lat="y")
    with pytest.raises(AegirError, match="wrong"):
        read_labels(lake, [mapping], newest, aoi_bbox_lonlat=area)


def test_nothing_found_says_where(lake, newest):
    with pytest.raises(CatalogEmptyError, match=rf"no label in nothing at snapshot {newest}"):
        read_labels(lake, [table("nothing")], newest)
    with pytest.raises(CatalogEmptyError, match=r"no label in \(0, 0, 1, 1\) in nothing"):
        read_labels(lake, [table("nothing")], newest, aoi_bbox_lonlat=(0, 0, 1, 1))


def test_snapshots_before_the_table(lake):
    with pytest.raises(LabelTableError, match="no table 'geo' at snapshot 1"):
        read_labels(lake, [table("geo")], 1)


def test_a_pinned_snapshot_holds_what_was_there_then(lake, newest):
    sizes = []
    for snapshot in range(2, newest + 1):
        try:
            sizes.append(len(read_labels(lake, [table("geo")], snapshot)))
        except (LabelTableError, CatalogEmptyError):
            sizes.append(0)
    assert sizes == sorted(sizes)
    assert set(sizes) >= {0, 1, len(POINTS) + 2}


@pytest.mark.parametrize(
    "values",
    [
        {"table": "t", "id": "i"},
        {"table": "t", "id": "i", "lon": "x"},
        {"table": "t", "id": "i", "geometry": "g", "lon": "x", "lat": "y"},
        {"table": "t", "geometry": "g"},
        {"id": "i", "geometry": "g"},
        {"table": "t", "id": "i", "geometry": "g", "colour": "red"},
        "pv",
        None,
        ["table", "id", "geometry"],
    ],
)
def test_mappings_that_say_too_little_or_too_much(values):
    with pytest.raises(ConfigError, match="label table"):
        LabelTable.from_mapping(values)


def test_lon_beside_geometry_is_refused():
    with pytest.raises(ConfigError, match="either `geometry`"):
        LabelTable(table="t", id="i", geometry="g", lon="x")
