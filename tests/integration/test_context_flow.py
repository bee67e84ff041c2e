"""The context flow: lake tables to rows of ``context``, by partition, resumable, beside brute force."""

import json

import lance
import numpy as np
import pyarrow as pa
import pytest
import shapely
import yaml

from dataflows import config, drivers, ingest_context
from dataflows.__main__ import EXIT_REFUSED, main
from dataflows.context_config import from_mapping
from store import ducklake, lance_io
from store.schemas import CONTEXT
from support.all_pairs import all_pairs, differences
from utils.errors import AegirError, ConfigError, LabelTableError, SchemaError, TableNotFoundError
from utils.geo import s2_cells

BUILDINGS = {"name": "buildings", "table": "buildings", "id": "building_id", "columns": ["kind", "height_m"]}
LAND_COVER = {
    "name": "land_cover",
    "table": "landcover",
    "id": "patch_id",
    "kind": "classes",
    "class_column": "class",
    "search_m": 50.0,
}


@pytest.fixture(scope="module")
def built(sample_root, tmp_path_factory):
    """Settings over a store with the sample region's chips."""
    store = tmp_path_factory.mktemp("context") / "lancedb"
    assert drivers.run("build", config.load(sample_root / "flow.yaml", store=str(store))).exit_code == 0
    return {
        "catalog": str(sample_root / "lake/catalog.ducklake"),
        "store": str(store),
        "context": [BUILDINGS, LAND_COVER],
        "partition_level": 15,
    }


@pytest.fixture
def lake(tmp_path):
    """A lake of 60 houses in a row, a store of 30 detections over them, and settings for both."""
    catalog = tmp_path / "c.ducklake"
    with ducklake.connect(catalog, data_path=tmp_path / "files", create=True) as connection:
        connection.execute("CREATE TABLE lake.houses (id VARCHAR, geometry GEOMETRY, height DOUBLE)")
        row = "'h' || k, ST_MakeEnvelope(8 + k / 1000, 47, 8 + k / 1000 + 1e-4, 47.0001), k"
        connection.execute(f"INSERT INTO lake.houses SELECT {row} FROM range(60) t(k)")
        connection.execute("CREATE TABLE lake.labels (id INTEGER)")
    write_detections(tmp_path / "store", [(f"d{k}", 8 + k / 500 + 2e-4, 47.00005) for k in range(30)])
    return {
        "catalog": str(catalog),
        "store": str(tmp_path / "store"),
        "context": [{"name": "houses", "table": "houses", "columns": ["height"]}],
        "targets": {"table": "detections", "id": "detection_id", "lon": "lon", "lat": "lat"},
        "partition_level": 13,
        "commit_every": 1,
    }


def write_detections(store, rows):
    names, lons, lats = zip(*rows, strict=True)
    lance.write_dataset(
        pa.table({"detection_id": names, "lon": lons, "lat": lats}),
        lance_io.table_uri(store, "detections"),
        mode="overwrite",
    )


def change(settings, sql):
    with ducklake.connect(settings["catalog"], create=True) as connection:
        connection.execute(sql)


def rows_of(settings, name=None):
    where = f"name = '{name}'" if name else None
    rows = lance_io.scan(settings["store"], "context", CONTEXT.names, where).to_pylist()
    return {(row["target_id"], row["name"]): row for row in rows}


def errors_of(settings):
    return lance_io.scan(settings["store"], "errors", ["node", "message", "input_ids", "partition"]).to_pylist()


def lake_table(settings, table, key, columns):
    with ducklake.connect(settings["catalog"]) as connection:
        names = "".join(f", {name}" for name in columns)
        sql = f"SELECT CAST({key} AS VARCHAR) AS id, ST_AsWKB(geometry)::BLOB AS wkb{names} FROM lake.{table}"
        rows = ducklake.query(connection, sql)
    return rows, list(shapely.from_wkb(rows["wkb"].to_numpy()))


def test_the_sample_regions_chips_beside_brute_force(built):
    summary = drivers.run("context", built)
    assert (summary.status, summary.exit_code) == ("done", 0)
    chips = lance_io.scan(built["store"], "training_data", ["uuid", "footprint"])
    assert summary.rows_written == summary.rows_pending == 2 * len(chips) > 0
    assert summary.partitions > 1
    targets = list(shapely.from_wkb(chips["footprint"].to_numpy()))
    wide = drivers.build_driver("context", built).execute(["chip_context"])["chip_context"]
    assert wide["uuid"].equals(chips["uuid"])
    total = wrong = 0
    for table in (BUILDINGS, LAND_COVER):
        columns = ["class"] if table is LAND_COVER else ["kind", "height_m"]
        rows, features = lake_table(built, table["table"], table["id"], columns)
        classes = rows["class"].to_pylist() if table is LAND_COVER else None
        ids = rows["id"].to_pylist()
        wanted = all_pairs(targets, features, ids, table.get("search_m", 100.0), classes)
        n, different = differences(wide.to_pylist(), wanted, table["name"])
        total, wrong = total + n, wrong + different
        stored = rows_of(built, table["name"])
        for uuid, row, truth in zip(chips["uuid"].to_pylist(), wide.to_pylist(), wanted, strict=True):
            kept = stored[uuid, table["name"]]
            for column in ("distance_m", "count", "area_fraction", "nearest_id"):
                assert kept[column] == pytest.approx(row[f"{table['name']}_{column}"], abs=1e-6)
            if table is BUILDINGS and truth["nearest_id"] is not None:
                near = rows.slice(ids.index(truth["nearest_id"]), 1).to_pylist()[0]
                assert json.loads(kept["attributes"]) == {name: near[name] for name in columns}
            if table is LAND_COVER:
                assert kept["class_name"] == row["land_cover_class"]
                assert dict(kept["class_fractions"]) == dict(row["land_cover_class_fractions"])
    print(f"{total} compared, {wrong} different")
    assert total == 12 * len(chips)
    assert wrong == 0


def test_a_second_run_makes_nothing_and_says_so(built):
    drivers.run("context", built)
    version = lance_io.open_table(built["store"], "context").version
    again = drivers.run("context", built)
    assert (again.rows_pending, again.rows_written, again.exit_code) == (0, 0, 0)
    assert again.rows_skipped == len(rows_of(built))
    assert lance_io.open_table(built["store"], "context").version == version


def test_rows_say_where_they_come_from(lake):
    summary = drivers.run("context", lake)
    row = rows_of(lake)["d3", "houses"]
    assert (row["target_table"], row["lake_table"], row["lake_catalog"]) == ("detections", "houses", lake["catalog"])
    assert (row["run_id"], row["kind"], row["search_m"]) == (summary.run_id, "features", 100.0)
    assert row["partition"] == s2_cells(8 + 3 / 500 + 2e-4, 47.00005, 13)[0]
    [run] = lance_io.scan(
        lake["store"], "runs", ["run_id", "flow", "status", "recipes", "inputs", "counts"]
    ).to_pylist()
    assert (run["run_id"], run["flow"], run["status"]) == (summary.run_id, "context", "done")
    assert json.loads(run["recipes"])["context"] == row["context_recipe"]
    assert json.loads(run["inputs"])["snapshots"]["houses"] == row["lake_snapshot"]
    assert json.loads(run["counts"])["rows_written"] == 30
    # d3 stands at 8.0062, 14.9 m east of house 6, which ends at 8.0061
    assert row["nearest_id"] == "h6"
    assert row["distance_m"] == pytest.approx(7.6, abs=0.1)
    assert (row["count"], row["area_fraction"], json.loads(row["attributes"])) == (0, None, {"height": 6.0})


def test_only_what_changed_is_made_again(lake):
    assert drivers.run("context", lake).rows_written == 30
    change(lake, "INSERT INTO lake.labels VALUES (1)")
    assert drivers.run("context", lake).rows_written == 0
    more = lake | {"context": [*lake["context"], {"name": "tall", "table": "houses", "search_m": 20}]}
    summary = drivers.run("context", more)
    assert (summary.rows_skipped, summary.rows_written) == (30, 30)
    write_detections(lake["store"], [(f"d{k}", 8 + k / 500 + 2e-4, 47.00005) for k in range(33)])
    assert drivers.run("context", more).rows_written == 6
    change(lake, "UPDATE lake.houses SET height = 99 WHERE id = 'h6'")
    assert drivers.run("context", lake).rows_written == 33
    assert json.loads(rows_of(lake)["d3", "houses"]["attributes"]) == {"height": 99.0}
    assert len(rows_of(lake)) == 66
    pinned = lake | {"snapshot": rows_of(lake)["d3", "tall"]["lake_snapshot"]}
    assert drivers.run("context", pinned).rows_written == 33
    assert json.loads(rows_of(lake)["d3", "houses"]["attributes"]) == {"height": 6.0}


def test_what_is_broken_is_told_and_the_rest_goes_on(lake):
    change(lake, "INSERT INTO lake.houses VALUES ('lost', NULL, 1), ('void', ST_GeomFromText('POLYGON EMPTY'), 1)")
    knot = "POLYGON((8 47.0002, 8.0001 47.0003, 8.0001 47.0002, 8 47.0003, 8 47.0002))"
    change(lake, f"INSERT INTO lake.houses VALUES ('knot', ST_GeomFromText('{knot}'), 1)")
    change(lake, "INSERT INTO lake.houses VALUES ('h5', ST_Point(8.005, 47), 1)")
    write_detections(lake["store"], [("good", 8.0002, 47.0), ("nan", float("nan"), 47.0), ("moon", 500.0, 47.0)])
    summary = drivers.run("context", lake | {"context": [{"name": "houses", "table": "houses", "search_m": 500}]})
    assert (summary.rows_written, summary.failed, summary.exit_code) == (1, 5, 3)
    told = {tuple(row["input_ids"]): row["message"] for row in errors_of(lake)}
    assert told.keys() == {("houses/lost",), ("houses/void",), ("houses/h5",), ("nan",), ("moon",)}
    assert "missing" in told["houses/lost",]
    assert "used twice" in told["houses/h5",]
    assert "500.0" in told["moon",]
    again = drivers.run("context", lake | {"context": [{"name": "houses", "table": "houses", "search_m": 500}]})
    assert (again.rows_written, again.failed, again.failed_before, again.exit_code) == (0, 0, 2, 3)


def failing(monkeypatch, error, after):
    """The join gives ``error`` from the call after so many."""
    calls = []
    real = ingest_context.context_by_cell

    def join(*arguments, **options):
        calls.append(1)
        if len(calls) == after + 1:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(ingest_context, "context_by_cell", join)


def test_a_partition_that_fails_does_not_stop_the_others(lake, monkeypatch):
    failing(monkeypatch, ValueError("boom"), 1)
    summary = drivers.run("context", lake)
    assert summary.partitions > 3
    assert (summary.partitions_failed, summary.exit_code, summary.status) == (1, 3, "failed")
    assert summary.rows_written + summary.rows_failed == 30
    [error] = errors_of(lake)
    assert (error["node"], "boom" in error["message"]) == ("run_unit", True)
    monkeypatch.undo()
    assert drivers.run("context", lake).rows_written == summary.rows_failed
    assert len(rows_of(lake)) == 30


def test_an_interrupt_during_a_query_ends_the_run(lake, monkeypatch):
    error = RuntimeError("Query interrupted")
    error.__cause__ = KeyboardInterrupt()
    failing(monkeypatch, error, 2)
    summary = drivers.run("context", lake)
    assert (summary.status, summary.exit_code, summary.partitions_failed) == ("interrupted", 130, 0)
    monkeypatch.undo()
    assert drivers.run("context", lake).rows_written == 30 - summary.rows_written


def test_an_interrupted_run_is_gone_on_with(lake, monkeypatch):
    failing(monkeypatch, KeyboardInterrupt(), 2)
    first = drivers.run("context", lake)
    assert (first.status, first.exit_code) == ("interrupted", 130)
    assert 0 < first.rows_written < 30
    monkeypatch.undo()
    second = drivers.run("context", lake)
    assert (second.rows_skipped, second.rows_written) == (first.rows_written, 30 - first.rows_written)
    interrupted = rows_of(lake)
    change(lake, "DELETE FROM lake.labels")
    once = {"distance_m", "count", "nearest_id", "attributes", "context_id"}
    lance_io.open_table(lake["store"], "context").delete("true")
    drivers.run("context", lake)
    assert {key: {n: row[n] for n in once} for key, row in rows_of(lake).items()} == {
        key: {n: row[n] for n in once} for key, row in interrupted.items()
    }


def test_memory_is_that_of_a_partition(lake, monkeypatch):
    """No partition's join ever sees the whole lake."""
    sizes = []
    real = ingest_context.context_by_cell

    def join(targets, features, *arguments, **options):
        sizes.append((len(targets), len(features)))
        return real(targets, features, *arguments, **options)

    monkeypatch.setattr(ingest_context, "context_by_cell", join)
    summary = drivers.run("context", lake)
    assert len(sizes) == summary.partitions
    assert max(features for _, features in sizes) < 45
    assert sum(targets for targets, _ in sizes) == 30


def test_an_area_of_interest_leaves_the_others_for_later(lake):
    some = drivers.run("context", lake | {"aoi_bbox_lonlat": [7.9, 46.9, 8.0203, 47.1]})
    assert (some.targets, some.rows_written) == (11, 11)
    assert drivers.run("context", lake).rows_written == 19


def test_an_area_alone_gives_its_features_as_arrow(lake):
    flow = drivers.build_driver("context", lake)
    area = shapely.Polygon([(8, 46.9), (8.02, 46.9), (8, 47.2)])
    features = flow.execute(["context_features"], overrides={"context_area": area})["context_features"]["houses"]
    assert features.schema.names == ["feature_id", "geometry", "height", "s2_cells"]
    houses, shapes = lake_table(lake, "houses", "id", [])
    inside = {name for name, shape in zip(houses["id"].to_pylist(), shapes, strict=True) if shape.intersects(area)}
    assert set(features["feature_id"].to_pylist()) == inside
    assert 0 < len(inside) < 60
    everything = flow.execute(["context_features"], overrides={"context_area": None})["context_features"]["houses"]
    assert len(everything) == 60


def test_targets_of_ones_own(lake):
    mine = pa.table({"target_id": ["x"], "geometry": pa.array([shapely.box(8, 47, 8.0001, 47.0001).wkb], pa.binary())})
    found = drivers.build_driver("context", lake).execute(["chip_context"], overrides={"context_targets": mine})
    [row] = found["chip_context"].to_pylist()
    assert (row["detection_id"], row["houses_nearest_id"], row["houses_count"]) == ("x", "h0", 1)
    assert row["houses_area_fraction"] == pytest.approx(1, abs=1e-6)
    empty = drivers.build_driver("context", lake).execute(
        ["chip_context"], overrides={"context_targets": mine.slice(1)}
    )
    assert len(empty["chip_context"]) == 0


def test_refused_before_anything_is_written(lake):
    for changes, error in (
        ({"context": [{"name": "houses", "table": "lost"}]}, LabelTableError),
        ({"context": [{"name": "houses", "table": "houses", "columns": ["roof"]}]}, LabelTableError),
        ({"snapshot": 10_000}, LabelTableError),
        ({"catalog": lake["catalog"] + "x"}, AegirError),
        ({"targets": {"table": "chips"}}, TableNotFoundError),
        ({"targets": {"table": "detections", "id": "detection_id", "geometry": "outline"}}, SchemaError),
        ({"context": []}, ConfigError),
        ({"context": lake["context"] * 2}, ConfigError),
        ({"partition_level": 31}, ConfigError),
        ({"partition_level": 12.5}, ConfigError),
        ({"aoi_bbox_lonlat": [1, 2, 3]}, ConfigError),
        ({"colour": "red"}, ConfigError),
    ):
        with pytest.raises(error):
            drivers.run("context", lake | changes)
    assert lance_io.table_names(lake["store"]) == ["detections"]


def test_settings_of_another_flow_are_refused(lake):
    with pytest.raises(ConfigError, match="does not take a ContextConfig"):
        drivers.build_driver("build", from_mapping(lake))
    with pytest.raises(ConfigError, match="root, size and seed"):
        drivers.run("sample", from_mapping(lake))


def test_the_command_line(lake, tmp_path, capsys):
    path = tmp_path / "context.yaml"
    path.write_text(yaml.safe_dump({"flow": "context"} | lake | {"catalog": "c.ducklake"}))
    assert main(["context", "--config", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows_written"] == 30
    assert main(["context", "--config", str(path)]) == 0
    assert "30 already there" in capsys.readouterr().out
    assert main(["context", "--config", str(path), "--set", "snapshot=99"]) == EXIT_REFUSED
    assert "the settings pin 99" in capsys.readouterr().err
    assert main(["context", "--config", str(tmp_path / "none.yaml")]) == EXIT_REFUSED
    assert "docs/context.md" in capsys.readouterr().err
    path.write_text(yaml.safe_dump({"flow": "build"} | lake))
    assert main(["context", "--config", str(path)]) == EXIT_REFUSED
    assert "'build', not of `context`" in capsys.readouterr().err


def test_points_at_the_poles_are_failures(lake):
    write_detections(lake["store"], [("pole", 8.0, 89.0), ("good", 8.0002, 47.0)])
    summary = drivers.run("context", lake)
    assert (summary.rows_written, summary.failed) == (1, 1)
    assert "UTM ends" in errors_of(lake)[0]["message"]
    assert np.isfinite(rows_of(lake)["good", "houses"]["distance_m"])
