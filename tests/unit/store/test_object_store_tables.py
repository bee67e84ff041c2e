"""Tables in an object store: found, missing, refused, unreachable, and two writers at once."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import rasterio

from store import lance_io, listing, rasters
from store.__main__ import main
from support.object_store import MARKED
from support.store_rows import SMALL, rows_for
from utils import errors
from utils.types import ChipGrid


@pytest.fixture
def store(told):
    return f"{told.bucket()}/deep/tables"


@pytest.mark.parametrize("table", ["training_data", "runs"])
def test_rows_come_back_as_they_were_written(store, table):
    rows = rows_for(table, 5)
    receipt = lance_io.write(store, table, rows, profile=SMALL)
    assert (receipt.inserted, receipt.updated) == (5, 0)
    assert lance_io.write(store, table, rows, profile=SMALL).updated == 5
    stored = lance_io.open_table(store, table).to_table()
    assert stored.sort_by(stored.schema.names[0]).equals(rows.sort_by(rows.schema.names[0]))
    assert lance_io.table_names(store) == [table]
    assert listing.tables(store)[0].rows == 5


def test_one_store_by_any_spelling(store, told):
    lance_io.write(store, "splits", rows_for("splits"))
    for spelling in (f"{store}/", store.replace("s3://", "S3://"), f"{store}//"):
        assert lance_io.table_exists(spelling, "splits")
        assert lance_io.table_names(spelling) == ["splits"]
    assert lance_io.table_names(store.removesuffix("/deep/tables")) == []


@pytest.mark.parametrize("prefix", ["", "/a key/with spaces", "/é/日本", "/a+b&c=d", "/a.lance"])
def test_prefixes(told, prefix):
    store = told.bucket() + prefix
    assert lance_io.table_names(store) == []
    assert not lance_io.table_exists(store, "splits")
    lance_io.write(store, "splits", rows_for("splits"))
    assert lance_io.table_names(store) == ["splits"]
    assert all(f"{key}/".startswith(f"{prefix}/".lstrip("/").replace("&", "&amp;")) for key in told.keys(store))


def test_nothing_but_tables_is_left_behind(store, told):
    lance_io.check_writable(store)
    assert told.keys(store) == []
    lance_io.write(store, "splits", rows_for("splits"))
    assert all("/splits.lance/" in key for key in told.keys(store))


TROUBLE = {
    "unreachable": ({"kind": "cut"}, errors.StoreUnreachableError),
    "too busy": ({"kind": "status", "status": 503}, errors.StoreUnreachableError),
    "denied": ({"kind": "status", "status": 403}, errors.StoreDeniedError),
}


ASKED = {
    "exists": lambda store: lance_io.table_exists(store, "splits"),
    "write": lambda store: lance_io.write(store, "splits", rows_for("splits")),
    "names": lance_io.table_names,
    "exists not": lambda store: lance_io.table_exists(store, "masks"),
    "open": lambda store: lance_io.open_table(store, "splits", 1),
    "scan": lambda store: lance_io.scan(store, "masks", ["uuid"]),
    "delete": lambda store: lance_io.delete(store, "splits", ["key-0"]),
    "indexes": lambda store: lance_io.refresh_indexes(store, "splits"),
    "tables": listing.tables,
}


def refused_alike(store, told, trouble, asked):
    fault, error = TROUBLE[trouble]
    lance_io.write(store, "splits", rows_for("splits"))
    for ask in asked:
        with told.faults(fault), pytest.raises(error, match=r"s3://") as caught:
            ASKED[ask](store)
        assert not any(secret in f"{caught.value!r} {caught.value.__cause__!r}" for secret in MARKED)
    assert len(lance_io.scan(store, "splits", ["split_rule"])) == 3


@pytest.mark.parametrize("trouble", ["unreachable", "denied"])
def test_trouble_is_never_a_missing_table(store, told, trouble):
    refused_alike(store, told, trouble, ["exists", "write"])


@pytest.mark.slow
@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_is_never_a_missing_table_whatever_is_asked(store, told, trouble):
    refused_alike(store, told, trouble, ASKED)


def test_a_missing_bucket_is_not_an_empty_store(told):
    for ask in (lance_io.table_names, lance_io.check_writable, lambda uri: lance_io.table_exists(uri, "splits")):
        with pytest.raises(errors.BucketNotFoundError, match="does not exist"):
            ask("s3://bucket-nobody-made/x")


def test_no_endpoint_at_all(told, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(errors.StoreUnreachableError):
        lance_io.check_writable("s3://bucket/x")


def test_without_credentials_it_is_said_so(told, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(errors.StoreDeniedError, match="credentials"):
        lance_io.table_exists(told.bucket(), "splits")


def test_a_store_that_may_only_be_read(store, told):
    lance_io.write(store, "splits", rows_for("splits"))
    with told.read_only():
        assert len(lance_io.scan(store, "splits", ["split_rule"])) == 3
        with pytest.raises(errors.StoreNotWritableError, match="refuses"):
            lance_io.check_writable(f"{store}/another")
        with pytest.raises(errors.StoreNotWritableError, match="refuses"):
            lance_io.write(store, "splits", rows_for("splits", first=7))
    assert len(lance_io.scan(store, "splits", ["split_rule"])) == 3


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 503, "times": 2},
        {"kind": "cut", "times": 2},
        {"kind": "drop", "after": 40, "times": 2, "methods": ["GET"]},
        {"kind": "lost", "times": 1, "methods": ["PUT"], "path": "_versions"},
        {"kind": "lost", "times": 2, "methods": ["PUT"]},
        {"kind": "delay", "seconds": 1, "times": 1},
    ],
)
def test_what_passes_changes_nothing(store, told, fault):
    rows = rows_for("splits", 4)
    lance_io.write(store, "splits", rows[:2])
    with told.faults(fault):
        lance_io.write(store, "splits", rows)
    keys = lance_io.scan(store, "splits", ["split_rule"])["split_rule"].to_pylist()
    assert sorted(keys) == rows["split_rule"].to_pylist()


WRITER = """
import sys
from store import lance_io
from support.store_rows import rows_for
store, first = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for k in range(first, first + 4):
    lance_io.write(store, "splits", rows_for("splits", 6, first=k))
"""


def test_two_writers_of_the_same_keys_leave_one_row_per_key(store, told):
    from pathlib import Path

    tests = str(Path(__file__).parents[2])
    program = f"import sys; sys.path.insert(0, {tests!r})\n{WRITER}"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", program, store, str(first)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in (0, 2)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, said = writer.communicate(timeout=120)
        assert writer.returncode == 0, said
    keys = lance_io.scan(store, "splits", ["split_rule"])["split_rule"].to_pylist()
    print(f"{len(keys)} rows, {len(set(keys))} keys, version {lance_io.open_table(store, 'splits').version}")
    assert sorted(keys) == sorted(f"key-{k}" for k in range(11))


def test_the_command_line_reads_a_bucket_and_refuses_in_words(store, told, capsys):
    lance_io.write(store, "splits", rows_for("splits"))
    assert main(["tables", "--store", store, "--json"]) == 0
    assert '"splits"' in capsys.readouterr().out
    with told.faults({"kind": "status", "status": 403}):
        assert main(["show", "splits", "--store", store]) == 2
    said = capsys.readouterr().err
    assert said.startswith("StoreDeniedError: ")
    assert not any(secret in said for secret in MARKED)


def test_a_raster_is_written_to_a_bucket(store, told):
    grid = ChipGrid(epsg=32632, transform=(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_300_000.0), height=300, width=280)
    plane = np.random.default_rng(0).random((300, 280), np.float32)
    place = rasters.write_raster(f"{store}/change map.tif", {"ndvi": plane}, grid, tags={"BEFORE": "x"})
    assert place == f"{store}/change map.tif"
    with rasterio.MemoryFile(told.content(place)) as memory, memory.open() as raster:
        np.testing.assert_array_equal(raster.read(1), plane)
        assert raster.tags()["BEFORE"] == "x"
    with told.read_only(), pytest.raises(errors.ConfigError, match="cannot be written"):
        rasters.write_raster(place, {"ndvi": plane}, grid)


def test_the_schema_survives(store):
    lance_io.write(store, "training_data", rows_for("training_data"), profile=SMALL)
    with pytest.raises(errors.SchemaError):
        lance_io.write(store, "training_data", rows_for("training_data", profile=None))
    assert isinstance(lance_io.open_table(store, "training_data").schema, pa.Schema)
