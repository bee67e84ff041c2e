"""Context tables of a lake: settings, push-down, every form of geometry, snapshots, broken rows."""

import duckdb
import pyarrow as pa
import pytest
import shapely

from store import ducklake
from store.ducklake_context import (
    ContextTable,
    broken_features,
    content_snapshot,
    feature_query,
    raw_features,
    table_uuid,
)
from utils.context_features import usable_features
from utils.errors import ConfigError, CRSError, LabelTableError
from utils.geo import reproject

AREA = (8.0, 47.0, 8.1, 47.05)
FORMS = {"geo": "GEOMETRY", "wkb": "BLOB", "wkt": "VARCHAR"}


def boxes():
    """A grid of small buildings, 100 × 100 over a tenth of a degree around the area."""
    return {
        f"b{i}-{j}": shapely.box(x, y, x + 1e-4, y + 1e-4)
        for i in range(20)
        for j in range(20)
        for x, y in [(7.95 + i / 100, 46.95 + j / 100)]
    }


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A catalogue with the same buildings in every form, and broken rows."""
    root = tmp_path_factory.mktemp("lake")
    catalog = root / "context.ducklake"
    with ducklake.connect(catalog, data_path=root / "files", create=True) as connection:
        run = connection.execute
        run("CALL lake.set_option('data_inlining_row_limit', 0)")
        rows = pa.table(
            {
                "id": list(boxes()),
                "wkb": pa.array([shapely.to_wkb(b) for b in boxes().values()], pa.binary()),
                "xmin": [b.bounds[0] for b in boxes().values()],
                "ymin": [b.bounds[1] for b in boxes().values()],
                "xmax": [b.bounds[2] for b in boxes().values()],
                "ymax": [b.bounds[3] for b in boxes().values()],
            }
        )
        connection.register("incoming", rows)
        box = "{'xmin': xmin::FLOAT, 'xmax': xmax::FLOAT, 'ymin': ymin::FLOAT, 'ymax': ymax::FLOAT}"
        for table, kind in FORMS.items():
            value = {"GEOMETRY": "ST_GeomFromWKB(wkb)", "BLOB": "wkb", "VARCHAR": "ST_AsText(ST_GeomFromWKB(wkb))"}[
                kind
            ]
            names = "{'primary': 'A ' || id} AS names"
            columns = f"id, {value} AS geometry, 'house' AS class, 7.5 AS height, {box} AS bbox, {names}"
            run(f"CREATE TABLE lake.{table} AS SELECT {columns} FROM incoming ORDER BY random()")
            point = "{'xmin': 8, 'xmax': 8, 'ymin': 47, 'ymax': 47}"
            run(f"INSERT INTO lake.{table} VALUES ('null', NULL, 'house', 1, {point}, NULL)")
        run("INSERT INTO lake.geo VALUES ('empty', ST_GeomFromText('POLYGON EMPTY'), NULL, 1, NULL, NULL)")
        run("INSERT INTO lake.wkb VALUES ('garbage', '\\x01\\x02'::BLOB, NULL, 1, NULL, NULL)")
        run("INSERT INTO lake.wkt VALUES ('garbage', 'POLYGON((', NULL, 1, NULL, NULL)")
        moved = "ST_Transform(ST_GeomFromWKB(wkb), 'EPSG:4326', 'EPSG:32632', always_xy := true)"
        run(f"CREATE TABLE lake.utm AS SELECT id, {moved} AS geometry FROM incoming")
        run("CREATE TABLE lake.other (id INTEGER)")
        run("INSERT INTO lake.other VALUES (1)")
        run("CREATE TABLE lake.wrong (id INTEGER, geometry INTEGER, bbox STRUCT(xmin DOUBLE))")
    with ducklake.connect(catalog) as connection:
        yield connection


@pytest.fixture(scope="module")
def newest(lake):
    return ducklake.latest_snapshot(lake)


def table(name, **options):
    return ContextTable(**({"name": "buildings", "table": name} | options))


def inside():
    return {key for key, box in boxes().items() if box.intersects(shapely.box(*AREA))}


@pytest.mark.parametrize("bbox", [None, "bbox"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_geometry_gives_the_features_of_the_area(lake, newest, name, bbox):
    chosen = table(name, columns=("class", "height", "names"), bbox=bbox)
    raw = raw_features(lake, chosen, newest, [AREA]).read_all()
    features, failures = usable_features(raw, "EPSG:4326", name="b", level=15, area=shapely.box(*AREA))
    assert set(features["feature_id"].to_pylist()) == inside()
    # a bbox finds what its geometry cannot say
    assert {f.input_ids[0] for f in failures} == ({"b/null"} if bbox else set())
    held = {row["feature_id"]: row for row in features.to_pylist()}
    for key in inside():
        assert shapely.from_wkb(held[key]["geometry"]).equals(boxes()[key])
        assert (held[key]["class"], float(held[key]["height"])) == ("house", 7.5)
        assert held[key]["names"]["primary"] == f"A {key}"
        assert len(held[key]["s2_cells"]) >= 1
    assert features.column_names == ["feature_id", "geometry", "class", "height", "names", "s2_cells"]


@pytest.mark.parametrize("bbox", [None, "bbox"])
@pytest.mark.parametrize("name", FORMS)
def test_the_area_is_pushed_down_to_the_scan(lake, newest, name, bbox):
    sql, parameters = feature_query(lake, table(name, bbox=bbox), newest, [AREA])
    [(_, plan)] = lake.execute(f"EXPLAIN {sql}", parameters).fetchall()
    words = "".join(plan.replace("│", " ").split())
    scan = words[words.index("DUCKLAKE_SCAN") :]
    assert "Filters:" in scan
    assert ("xmin" if bbox else "&&") in scan.partition("Filters:")[2]
    assert "FILTER" not in words.partition("DUCKLAKE_SCAN")[0]


@pytest.mark.parametrize(("kind", "bbox"), [("GEOMETRY", None), ("BLOB", "bbox")])
def test_data_outside_the_area_are_not_read(tmp_path, kind, bbox):
    """A file whose statistics lie outside the area is opened and left: its pages may even be overwritten."""
    catalog = tmp_path / "c.ducklake"
    value = {"GEOMETRY": "ST_Point(x, 47)", "BLOB": "ST_AsWKB(ST_Point(x, 47))"}[kind]
    box = "{'xmin': x, 'ymin': 47, 'xmax': x, 'ymax': 47}"
    kinds = "xmin DOUBLE, ymin DOUBLE, xmax DOUBLE, ymax DOUBLE"
    with ducklake.connect(catalog, data_path=tmp_path / "files", create=True) as connection:
        connection.execute("CALL lake.set_option('data_inlining_row_limit', 0)")
        connection.execute(f"CREATE TABLE lake.b (id VARCHAR, geometry {kind}, bbox STRUCT({kinds}))")
        made = set()
        for name, x in (("near", 8.0), ("far", 60.0)):
            before = set((tmp_path / "files").rglob("*.parquet"))
            points = "SELECT i, ? + i / 1e5 AS x FROM range(1000) t(i)"
            connection.execute(f"INSERT INTO lake.b SELECT ? || i, {value}, {box} FROM ({points})", [name, x])
            made = set((tmp_path / "files").rglob("*.parquet")) - before
    [far] = made
    content = far.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    far.write_bytes(content[:4] + b"\xff" * (len(content) - 4 - footer) + content[-footer:])
    with ducklake.connect(catalog) as connection:
        newest = ducklake.latest_snapshot(connection)
        chosen = table("b", bbox=bbox)
        assert raw_features(connection, chosen, newest, [(7.9, 46.9, 8.2, 47.1)]).read_all().num_rows == 1000
        with pytest.raises((duckdb.Error, pa.ArrowException)):
            raw_features(connection, chosen, newest, None).read_all()


def test_features_come_in_batches(lake, newest, monkeypatch):
    monkeypatch.setattr("store.ducklake_context.BATCH_ROWS", 2048)
    lake.execute("CREATE OR REPLACE TEMP TABLE many AS SELECT 1")
    reader = raw_features(lake, table("geo"), newest, None)
    assert isinstance(reader, pa.RecordBatchReader)
    assert sum(batch.num_rows for batch in reader) == 402


@pytest.mark.parametrize("name", FORMS)
def test_rows_no_area_can_find_are_told(lake, newest, name):
    found = {row["feature_id"]: row["reason"] for row in broken_features(lake, table(name), newest).to_pylist()}
    second = {"geo": ("empty", "empty")}.get(name, ("garbage", "unreadable"))
    assert found == {"null": "the geometry is missing", second[0]: f"the geometry is {second[1]}"}
    with_bbox = broken_features(lake, table(name, bbox="bbox"), newest)
    assert set(with_bbox["feature_id"].to_pylist()) == set(found)


def test_an_area_in_another_crs_loses_nothing(lake, newest):
    chosen = table("utm", crs="EPSG:32632")
    raw = raw_features(lake, chosen, newest, [AREA]).read_all()
    assert len(raw) < 400
    features, _ = usable_features(raw, chosen.crs, name="b", level=15, area=shapely.box(*AREA))
    area = shapely.box(*AREA)
    on_edge = {
        key for key, box in boxes().items() if box.buffer(1e-9).intersects(area) != box.buffer(-1e-9).intersects(area)
    }
    assert set(features["feature_id"].to_pylist()) ^ inside() <= on_edge
    assert len(inside() - on_edge) > 30
    placed = dict(
        zip(features["feature_id"].to_pylist(), shapely.from_wkb(features["geometry"].to_numpy()), strict=True)
    )
    assert all(placed[key].hausdorff_distance(boxes()[key]) < 1e-8 for key in placed)


def test_what_lies_across_the_antimeridian_is_found_however_it_is_written(tmp_path):
    written = {
        "on beyond": shapely.box(179.9995, -17.001, 180.0005, -17),
        "all the way round": shapely.Polygon(
            [(179.9995, -17.001), (-179.9995, -17.001), (-179.9995, -17), (179.9995, -17)]
        ),
        "in two": shapely.MultiPolygon(
            [shapely.box(179.9995, -17.001, 180, -17), shapely.box(-180, -17.001, -179.9995, -17)]
        ),
        "beyond": shapely.box(180.0001, -17.001, 180.0002, -17),
    }
    catalog = tmp_path / "c.ducklake"
    with ducklake.connect(catalog, data_path=tmp_path / "files", create=True) as connection:
        connection.execute("CREATE TABLE lake.b (id VARCHAR, geometry GEOMETRY)")
        for key, shape in written.items():
            connection.execute("INSERT INTO lake.b VALUES (?, ST_GeomFromWKB(?))", [key, shape.wkb])
        newest = ducklake.latest_snapshot(connection)
        area = (-180.0, -17.01, -179.999, -16.99)
        raw = raw_features(connection, table("b"), newest, [area]).read_all()
    features, failures = usable_features(raw, "EPSG:4326", name="b", level=15, area=shapely.box(*area))
    assert not failures
    assert set(features["feature_id"].to_pylist()) == set(written)
    areas = shapely.area(shapely.from_wkb(features["geometry"].to_numpy()))
    assert sorted(areas) == pytest.approx([1e-7, 1e-6, 1e-6, 1e-6], rel=1e-6)


def test_classes_are_text_whatever_their_type(lake, newest):
    chosen = table("geo", kind="classes", class_column="height")
    assert set(raw_features(lake, chosen, newest, [AREA]).read_all()["feature_class"].to_pylist()) == {"7.5"}


def test_the_content_snapshot_moves_with_the_tables_own_changes(tmp_path):
    catalog = tmp_path / "c.ducklake"
    with ducklake.connect(catalog, data_path=tmp_path / "files", create=True) as connection:
        run = connection.execute
        run("CREATE TABLE lake.b (id INTEGER, geometry GEOMETRY)")
        run("CREATE TABLE lake.labels (id INTEGER)")
        chosen = table("b")
        seen = []
        for statement in (
            "INSERT INTO lake.b VALUES (1, ST_Point(8, 47))",
            "INSERT INTO lake.labels VALUES (1)",
            "DELETE FROM lake.labels",
            "UPDATE lake.b SET geometry = ST_Point(9, 47)",
            "INSERT INTO lake.labels VALUES (2)",
            "DELETE FROM lake.b",
            "ALTER TABLE lake.b ADD COLUMN height DOUBLE",
            "INSERT INTO lake.labels VALUES (3)",
        ):
            run(statement)
            newest = ducklake.latest_snapshot(connection)
            seen.append((newest, content_snapshot(connection, chosen, newest)))
    first = seen[0][0]
    assert seen == [(first + k, first + content) for k, content in enumerate((0, 0, 0, 3, 3, 5, 6, 6))]


def test_a_pinned_snapshot_before_the_table(lake, newest):
    with pytest.raises(LabelTableError, match="no table 'utm' at snapshot 1"):
        content_snapshot(lake, table("utm"), 1)
    assert content_snapshot(lake, table("other"), newest) < newest
    assert table_uuid(lake, table("geo")) != table_uuid(lake, table("wkb"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table": "lost"}, "no table 'lost' at snapshot .*; it has: geo, other"),
        ({"id": "key"}, "no column key; it has id, geometry, class, height, bbox, names"),
        ({"columns": ("roof",)}, "no column roof"),
        ({"table": "wrong"}, "geometry is INTEGER; geometry is GEOMETRY, BLOB"),
        ({"bbox": "height"}, "a bbox is STRUCT"),
    ],
)
def test_tables_and_columns_that_are_not_there(lake, newest, options, words):
    chosen = table(
        **({"name": "geo"} | {"name": options.get("table", "geo")} | {k: v for k, v in options.items() if k != "table"})
    )
    for attempt in (feature_query, lambda *a: broken_features(*a[:3])):
        with pytest.raises(LabelTableError, match=words):
            attempt(lake, chosen, newest, [AREA])


@pytest.mark.parametrize(
    "values",
    [
        {"table": "b"},
        {"name": "b"},
        {"name": "b", "table": "b", "colour": "red"},
        {"name": "two words", "table": "b"},
        {"name": "b", "table": "b", "kind": "classes"},
        {"name": "b", "table": "b", "class_column": "class"},
        {"name": "b", "table": "b", "kind": "roads"},
        {"name": "b", "table": "b", "search_m": "far"},
        {"name": "b", "table": "b", "search_m": -1},
        {"name": "b", "table": "b", "columns": "height"},
        {"name": "b", "table": "b", "columns": ["height", "height"]},
        {"name": "b", "table": "b", "columns": ["distance_m"]},
        {"name": "b", "table": "b", "kind": "classes", "class_column": "subtype", "columns": ["class"]},
        {"name": "b", "table": "b", "id": None},
        "buildings",
        None,
    ],
)
def test_mappings_that_say_too_little_or_too_much(values):
    with pytest.raises(ConfigError, match="context"):
        ContextTable.from_mapping(values)


def test_an_unknown_crs_is_refused_before_anything_is_read():
    with pytest.raises(CRSError, match="999999"):
        ContextTable.from_mapping({"name": "b", "table": "b", "crs": "EPSG:999999"})


def test_reprojected_features_that_have_no_place_are_failures():
    wkb = [
        shapely.to_wkb(reproject(shapely.Point(8.5, 47.2), 4326, 2056)),
        shapely.to_wkb(shapely.Point(float("inf"), 1)),
        shapely.to_wkb(shapely.Point(float("nan"), 1)),
    ]
    raw = pa.table(
        {
            "feature_id": ["good", "inf", "nan"],
            "geometry_wkb": pa.array(wkb, pa.binary()),
            "geometry_wkt": pa.nulls(3, pa.string()),
        }
    )
    features, failures = usable_features(raw, "EPSG:2056", name="b", level=15)
    assert features["feature_id"].to_pylist() == ["good"]
    assert {failure.input_ids[0] for failure in failures} == {"b/inf", "b/nan"}
    assert {failure.error_type for failure in failures} == {"GeometryError"}


def test_ids_that_are_missing_or_used_twice_are_failures():
    wkb = [shapely.to_wkb(shapely.Point(8, 47))] * 4
    raw = pa.table(
        {
            "feature_id": ["a", None, "a", "b"],
            "geometry_wkb": pa.array(wkb, pa.binary()),
            "geometry_wkt": pa.nulls(4, pa.string()),
        }
    )
    features, failures = usable_features(raw, "EPSG:4326", name="b", level=15)
    assert features["feature_id"].to_pylist() == ["a", "b"]
    assert [failure.error_type for failure in failures] == ["GeometryError", "LabelError"]
