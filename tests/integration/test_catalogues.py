"""One lake in a DuckDB file, a SQLite file and a PostgreSQL database: the same labels, snapshots and refusals."""

import dataclasses
import json
import logging
from uuid import uuid4

import duckdb
import pytest
import shapely

from dataflows import drivers
from dataflows.__main__ import main
from dataflows.config import from_mapping
from store import ducklake, lance_io
from store.catalogue_place import HIDDEN, place_of, redacted, secret_target
from store.ducklake_labels import LabelTable, read_labels
from support import mini_region
from support.postgres import new_database
from utils.errors import (
    AegirError,
    CatalogEmptyError,
    CatalogNotFoundError,
    CatalogUnreachableError,
    ConfigError,
    LabelTableError,
)

PV = LabelTable(table="pv", id="id", geometry="geometry")


def filled(catalog, files):
    """A lake of one table that gets a label in each of three snapshots."""
    with ducklake.connect(catalog, data_path=files, create=True) as connection:
        connection.execute("CREATE TABLE lake.pv (id VARCHAR, geometry GEOMETRY)")
        for number in range(3):
            connection.execute("INSERT INTO lake.pv VALUES (?, ST_Point(?, 47))", [str(number), 8 + number])
        newest = ducklake.latest_snapshot(connection)
    return str(catalog), newest


def copied(catalog, connection):
    """Copy the labels of a region's lake."""
    connection.execute("CREATE TABLE lake.pv (id VARCHAR, geometry GEOMETRY)")
    with ducklake.connect(catalog) as source:
        for row in source.execute("SELECT id, ST_AsText(geometry) FROM lake.pv").fetchall():
            connection.execute("INSERT INTO lake.pv VALUES (?, ST_GeomFromText(?))", row)


@pytest.fixture(params=["duckdb", "sqlite", "sqlite by its first bytes", "postgres", "postgres url"])
def lake(request, tmp_path):
    if request.param.startswith("postgres"):
        text = new_database(request.getfixturevalue("postgres_server"))
        parts = dict(part.split("=", 1) for part in text.split())
        url = f"postgresql://{parts['user']}@{parts['host']}:{parts['port']}/{parts['dbname']}"
        return filled(url if request.param.endswith("url") else f"postgres:{text}", tmp_path / "files")
    if request.param == "duckdb":
        return filled(tmp_path / "labels.ducklake", tmp_path / "files")
    made = filled(f"sqlite:{tmp_path / 'labels.lake'}", tmp_path / "files")
    return made if request.param == "sqlite" else (str(tmp_path / "labels.lake"), made[1])


def test_labels_and_snapshots_are_the_same_everywhere(lake):
    catalog, newest = lake
    with ducklake.connect(catalog) as connection:
        assert ducklake.latest_snapshot(connection) == newest == 4
        ids = [set(read_labels(connection, [PV], n)["label_id"].to_pylist()) for n in (2, 3, 4)]
        assert ids == [{"0"}, {"0", "1"}, {"0", "1", "2"}]
        inside = read_labels(connection, [PV], newest, aoi_bbox_lonlat=(7.5, 46, 8.5, 48))
        assert inside["label_id"].to_pylist() == ["0"]
        with pytest.raises(LabelTableError, match="it has: pv"):
            read_labels(connection, [dataclasses.replace(PV, table="vp")], newest)


def test_reading_is_read_only(lake):
    with (
        ducklake.connect(lake[0]) as connection,
        pytest.raises(duckdb.Error, match=r"(?i)read.only"),
    ):
        connection.execute("INSERT INTO lake.pv VALUES ('9', NULL)")


def test_a_fingerprint_follows_the_content(lake, tmp_path):
    catalog, _ = lake
    before = ducklake.catalog_fingerprint(catalog)
    assert before == ducklake.catalog_fingerprint(catalog)
    with ducklake.connect(catalog, data_path=tmp_path / "files", create=True) as connection:
        connection.execute("INSERT INTO lake.pv VALUES ('7', NULL)")
    assert ducklake.catalog_fingerprint(catalog) != before


def test_labels_check_reads_every_kind(lake, tmp_path, capsys):
    settings = {"catalog": lake[0], "labels": [dataclasses.asdict(PV)]}
    (tmp_path / "flow.yaml").write_text(json.dumps(settings))
    assert main(["labels", "check", "--config", str(tmp_path / "flow.yaml"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["snapshot"], report["sources"][0]["kept"]) == (4, 3)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_build_from_another_catalogue_makes_the_same_chips(kind, tmp_path, request):
    region = mini_region.make(tmp_path / "region")
    catalog = f"sqlite:{tmp_path / 'other.sqlite'}"
    if kind == "postgres":
        catalog = "postgres:" + new_database(request.getfixturevalue("postgres_server"))
    with ducklake.connect(catalog, data_path=tmp_path / "other", create=True) as connection:
        copied(region.settings["catalog"], connection)
    first = drivers.run("build", region.settings)
    second = drivers.run("build", region.settings | {"catalog": catalog, "store": str(tmp_path / "second")})
    assert second.exit_code == 0
    assert second.chips_written == first.chips_written > 0
    [run] = lance_io.scan(str(tmp_path / "second"), "runs", ["inputs"]).to_pylist()
    inputs = json.loads(run["inputs"])
    assert inputs["catalog"] == redacted(catalog)
    assert inputs["catalog_checksum"] == ducklake.catalog_fingerprint(catalog)


SECRET = "hunter2-s3cr€t"  # noqa: S105
SERVERS = [
    f"postgres:host=127.0.0.1 port=1 user=postgres password={SECRET} dbname=lakes",
    f"postgres:host=127.0.0.1 port=1 user=postgres password = '{SECRET}' dbname=lakes",
    f"postgresql://postgres:{SECRET}@127.0.0.1:1/lakes",
    f"ducklake:postgres:postgresql://postgres:{SECRET}@127.0.0.1:1/lakes?sslpassword={SECRET}",
    f"postgres://postgres@127.0.0.1:1/lakes?password={SECRET}&sslmode=disable",
]


class TestSecrets:
    """Passwords are in no setting, message, log or representation."""

    @pytest.mark.parametrize("catalog", SERVERS)
    def test_redacted_text_holds_none_and_connecting_uses_it(self, catalog):
        config = from_mapping(
            {"catalog": catalog, "labels": [dataclasses.asdict(PV)], "vhr": {"source": "local", "root": "x"}}
        )
        shown = [repr(config), str(dataclasses.asdict(config)), redacted(catalog), repr(place_of(catalog))]
        shown.append(str(drivers.build_inputs(config)))
        assert not [text for text in shown if SECRET in text]
        assert HIDDEN in config.catalog
        assert SECRET in secret_target(config.catalog)[0]

    @pytest.mark.parametrize("catalog", SERVERS)
    def test_errors_and_logs_hold_none(self, catalog, tmp_path, capsys, caplog):
        caplog.set_level(logging.DEBUG)
        settings = {"catalog": catalog, "labels": [dataclasses.asdict(PV)], "vhr": {"source": "local", "root": "x"}}
        with pytest.raises(CatalogUnreachableError, match="cannot be reached") as found:
            drivers.plan_build(from_mapping(settings | {"store": str(tmp_path / "store")}))
        error = found.value
        assert error.__cause__ is error.__context__ is None
        (tmp_path / "flow.yaml").write_text(json.dumps(settings))
        assert main(["plan", "--config", str(tmp_path / "flow.yaml"), "--store", str(tmp_path / "s")]) == 2
        assert main(["labels", "check", "--config", str(tmp_path / "flow.yaml")]) == 2
        out, err = capsys.readouterr()
        for text in (str(error), repr(error), out, err, caplog.text):
            assert SECRET not in text
        assert ".pgpass" in err

    def test_tables_hold_none(self, postgres_server, tmp_path):
        region = mini_region.make(tmp_path / "region")
        catalog = f"postgres:{new_database(postgres_server)} password={SECRET}"
        with ducklake.connect(catalog, data_path=tmp_path / "other", create=True) as connection:
            copied(region.settings["catalog"], connection)
        drivers.run("build", region.settings | {"catalog": catalog})
        files = [path for path in (region.root / "lancedb").rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if SECRET.encode() in path.read_bytes()]
        held = lance_io.scan(region.settings["store"], "prompts", ["label_catalog"]).to_pylist()
        assert {row["label_catalog"] for row in held} == {redacted(catalog)}

    def test_a_redacted_place_of_a_record_says_what_to_do(self):
        with pytest.raises(CatalogUnreachableError, match=r"\.pgpass"):
            ducklake.connect(f"postgres:host=127.0.0.1 dbname=other{uuid4().hex} password={HIDDEN}")


class TestRefusals:
    """Each says what was found and what to do."""

    def test_no_such_file(self, tmp_path):
        for catalog in (f"sqlite:{tmp_path / 'no.sqlite'}", f"duckdb:{tmp_path / 'no.db'}", tmp_path / "no"):
            with pytest.raises(CatalogNotFoundError, match="no DuckLake catalogue at"):
                ducklake.connect(catalog)
        assert not list(tmp_path.iterdir())

    def test_a_sqlite_file_that_is_no_lake(self, tmp_path):
        import sqlite3

        with sqlite3.connect(tmp_path / "plain.sqlite") as plain:
            plain.execute("CREATE TABLE pv (id INT)")
        with pytest.raises(CatalogNotFoundError, match="not a DuckLake"):
            ducklake.connect(tmp_path / "plain.sqlite")

    def test_no_place(self):
        with pytest.raises(ConfigError, match="names no place"):
            ducklake.connect("postgres:")

    def test_a_server_without_a_lake(self, postgres_server):
        with pytest.raises(CatalogNotFoundError, match="cannot be attached"):
            ducklake.connect("postgres:" + new_database(postgres_server))

    def test_a_database_that_is_not_there(self, postgres_server):
        with pytest.raises(CatalogUnreachableError, match="does not exist"):
            ducklake.connect("postgres:" + postgres_server.replace("dbname=postgres", "dbname=nowhere"))

    def test_an_empty_lake(self, tmp_path):
        ducklake.connect(f"sqlite:{tmp_path / 'l'}", data_path=tmp_path / "f", create=True).close()
        with ducklake.connect(tmp_path / "l") as connection, pytest.raises(CatalogEmptyError):
            ducklake.latest_snapshot(connection)

    def test_a_missing_extension(self, tmp_path, monkeypatch):
        def absent(name, con):
            raise ImportError(name)

        monkeypatch.setattr(ducklake, "import_extension", absent)
        with pytest.raises(AegirError, match=r"pip install duckdb-extension-spatial==1\.5"):
            ducklake.connect(None)

    def test_a_moved_sqlite_lake_finds_its_files(self, tmp_path):
        (tmp_path / "a").mkdir()
        filled(f"sqlite:{tmp_path / 'a' / 'l.sqlite'}", tmp_path / "a" / "files")
        (tmp_path / "a").rename(tmp_path / "b")
        with ducklake.connect(tmp_path / "b" / "l.sqlite") as connection:
            assert len(read_labels(connection, [PV], 4)) == 3


def test_shapes_survive(lake):
    with ducklake.connect(lake[0]) as connection:
        labels = read_labels(connection, [PV], lake[1])
    assert {shapely.from_wkb(wkb).y for wkb in labels["geometry_wkb"].to_pylist()} == {47.0}
