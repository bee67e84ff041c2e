"""The lakehouse door: attach, snapshots, moved folders, names that need quoting."""

import shutil
import subprocess
import sys

import duckdb
import pytest

from store import ducklake
from utils.errors import CatalogEmptyError, CatalogNotFoundError, LabelTableError


def made(root):
    """A catalogue with a table of three rows, each in its own snapshot."""
    catalog = root / "region" / "labels.ducklake"
    catalog.parent.mkdir()
    with ducklake.connect(catalog, data_path=root / "region" / "files", create=True) as connection:
        connection.execute("CALL lake.set_option('data_inlining_row_limit', 0)")
        connection.execute("CREATE TABLE lake.pv (id INTEGER)")
        for number in (1, 2, 3):
            connection.execute("INSERT INTO lake.pv VALUES (?)", [number])
    assert list((root / "region" / "files").rglob("*.parquet"))
    return catalog


@pytest.fixture
def lake(tmp_path):
    """A catalogue to change."""
    return made(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A catalogue to read."""
    return made(tmp_path_factory.mktemp("shared"))


def ids(connection, snapshot=None):
    at = f" AT (VERSION => {snapshot})" if snapshot is not None else ""
    return ducklake.query(connection, f"SELECT id FROM lake.pv{at} ORDER BY id")["id"].to_pylist()


def test_a_pinned_snapshot_does_not_see_later_rows(shared):
    with ducklake.connect(shared) as connection:
        newest = ducklake.latest_snapshot(connection)
        assert ids(connection) == ids(connection, newest) == [1, 2, 3]
        assert ids(connection, newest - 1) == [1, 2]
        assert ids(connection, newest - 2) == [1]
        assert ducklake.table_columns(connection, "pv", newest) == {"id": "INTEGER"}


def test_a_new_snapshot_is_the_latest(lake):
    with ducklake.connect(lake) as connection:
        before = ducklake.latest_snapshot(connection)
    with ducklake.connect(lake, create=True) as connection:
        connection.execute("DELETE FROM lake.pv WHERE id = 2")
        assert ducklake.latest_snapshot(connection) == before + 1
        assert ids(connection) == [1, 3]
        assert ids(connection, before) == [1, 2, 3]


def test_reading_cannot_change_the_catalogue(shared):
    content = shared.read_bytes()
    with ducklake.connect(shared) as connection:
        for statement in ("INSERT INTO lake.pv VALUES (9)", "DROP TABLE lake.pv", "CREATE TABLE lake.more (id INT)"):
            with pytest.raises(duckdb.Error, match=r"(?i)read.only"):
                connection.execute(statement)
    assert shared.read_bytes() == content


def test_two_readers_at_once(shared):
    with ducklake.connect(shared) as first, ducklake.connect(shared) as second:
        assert ids(first) == ids(second) == [1, 2, 3]


def test_a_reader_in_another_process(shared):
    script = (
        "import sys; from store import ducklake\n"
        "with ducklake.connect(sys.argv[1]) as c: print(ducklake.query(c, 'SELECT count(*) n FROM lake.pv')['n'][0])"
    )
    with ducklake.connect(shared) as connection:
        found = subprocess.run([sys.executable, "-c", script, str(shared)], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "3"
        assert ids(connection) == [1, 2, 3]


def test_a_moved_region_finds_its_files_beside_the_catalogue(lake, tmp_path):
    moved = tmp_path / "else where's"
    shutil.move(lake.parent, moved)
    with ducklake.connect(moved / lake.name) as connection:
        assert ids(connection) == [1, 2, 3]
        assert ids(connection, ducklake.latest_snapshot(connection) - 1) == [1, 2]


def test_files_that_stayed_are_read_where_they_are(shared, tmp_path):
    shutil.copy(shared, tmp_path / "copy.ducklake")
    with ducklake.connect(tmp_path / "copy.ducklake") as connection:
        assert ids(connection) == [1, 2, 3]


def test_the_data_folder_can_be_named(lake, tmp_path):
    shutil.move(lake.parent / "files", tmp_path / "other name")
    with ducklake.connect(lake, data_path=tmp_path / "other name") as connection:
        assert ids(connection) == [1, 2, 3]


def test_odd_places(tmp_path):
    catalog = tmp_path / 'it\'s a "lake"; really' / "über labels.ducklake"
    catalog.parent.mkdir()
    with ducklake.connect(catalog, data_path=catalog.parent / "fi'les", create=True) as connection:
        connection.execute("CREATE TABLE lake.pv AS SELECT 5 AS id")
    with ducklake.connect(catalog) as connection:
        assert ids(connection) == [5]


@pytest.mark.parametrize("content", [None, b"", b"junk" * 4000])
def test_no_catalogue(tmp_path, content):
    path = tmp_path / "labels.ducklake"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CatalogNotFoundError, match=r"labels\.ducklake"):
        ducklake.connect(path)


def test_reading_makes_no_catalogue(tmp_path):
    for place in (tmp_path / "new.ducklake", tmp_path):
        with pytest.raises(CatalogNotFoundError):
            ducklake.connect(place)
    assert not list(tmp_path.iterdir())


def test_a_catalogue_in_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CatalogNotFoundError, match="cannot be attached"):
        ducklake.connect(tmp_path / "no" / "lake", data_path=tmp_path, create=True)


def test_a_catalogue_without_tables_is_empty(tmp_path):
    ducklake.connect(tmp_path / "a.ducklake", data_path=tmp_path / "files", create=True).close()
    with ducklake.connect(tmp_path / "a.ducklake") as connection, pytest.raises(CatalogEmptyError, match="load labels"):
        ducklake.latest_snapshot(connection)


def test_unknown_tables_and_snapshots_list_what_there_is(shared):
    with ducklake.connect(shared) as connection:
        newest = ducklake.latest_snapshot(connection)
        for table, snapshot in (("vp", newest), ("other.pv", newest), ("pv", 99), ('pv"; DROP TABLE pv; --', newest)):
            with pytest.raises(LabelTableError, match="it has: pv"):
                ducklake.table_columns(connection, table, snapshot)
        with pytest.raises(LabelTableError):
            ducklake.table_columns(connection, "pv", 0)


def test_tables_of_a_schema_are_listed_under_their_full_name(lake):
    with ducklake.connect(lake, create=True) as connection:
        connection.execute("CREATE SCHEMA lake.solar")
        connection.execute("CREATE TABLE lake.solar.roofs (id INTEGER)")
        newest = ducklake.latest_snapshot(connection)
        assert ducklake.table_columns(connection, "solar.roofs", newest) == {"id": "INTEGER"}
        with pytest.raises(LabelTableError, match=r"solar\.roofs"):
            ducklake.table_columns(connection, "roofs", newest)


def test_times_come_back_in_utc(shared):
    with ducklake.connect(shared) as connection:
        [row] = ducklake.query(connection, "SELECT TIMESTAMPTZ '2023-06-14 12:00:00+02' AS t").to_pylist()
    assert row["t"].isoformat() == "2023-06-14T10:00:00+00:00"
