"""Every table opens with lancedb, with pylance and, read-only, with DuckDB's lance extension: three engine versions."""

from pathlib import Path
from typing import Any

import duckdb
import lance
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from duckdb_extensions import import_extension

from store import lance_io
from store.schemas import TABLES, primary_key, schema_for
from support.store_rows import HIGH, SMALL, rows_for

ROWS = 3
EVERY_TABLE = pytest.mark.parametrize("table", list(TABLES))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two writes per table, the second replacing a row: more than one fragment and a deletion file."""
    uri = tmp_path_factory.mktemp("three_engines")
    for table in TABLES:
        lance_io.write(uri, table, rows_for(table, ROWS), profile=SMALL)
        lance_io.write(uri, table, rows_for(table, 1, first=1), profile=SMALL)
    lance_io.refresh_indexes(uri, "training_data")
    return uri


@pytest.fixture(scope="module")
def duck(store: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    import_extension("lance", con=connection)
    connection.load_extension("lance")
    connection.execute(f"ATTACH '{store}' AS ns (TYPE LANCE)")
    return connection


def expected(table: str) -> dict[str, dict[str, Any]]:
    """Key → row of what was written last, in plain Python values."""
    schema = schema_for(table, SMALL)
    both = pa.concat_tables([rows_for(table, ROWS), rows_for(table, 1, first=1)])
    return {row[primary_key(schema)]: row for row in plain(both)}


def plain(data: pa.Table) -> list[dict[str, Any]]:
    columns = {}
    for name in data.column_names:
        column = data[name]
        if isinstance(column.type, pa.FixedShapeTensorType):
            column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
        columns[name] = column.to_pylist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@EVERY_TABLE
def test_pylance(store: Path, table: str) -> None:
    dataset = lance.dataset(str(store / f"{table}.lance"))
    assert dataset.schema.equals(schema_for(table, SMALL), check_metadata=True)
    key = primary_key(dataset.schema)
    assert {row[key]: row for row in plain(dataset.to_table())} == expected(table)


@EVERY_TABLE
def test_lancedb(store: Path, table: str) -> None:
    opened = lancedb.connect(str(store)).open_table(table)
    assert opened.count_rows() == ROWS
    data = opened.to_arrow()
    key = primary_key(schema_for(table, SMALL))
    assert {row[key]: row for row in plain(data)} == expected(table)
    found = opened.search().where(f"{key} = 'key-1'").limit(5).to_arrow()
    assert found[key].to_pylist() == ["key-1"]


@EVERY_TABLE
def test_duckdb(duck: duckdb.DuckDBPyConnection, table: str) -> None:
    schema = schema_for(table, SMALL)
    key, wanted = primary_key(schema), expected(table)
    described = duck.execute(f"DESCRIBE SELECT * FROM ns.main.{table}").fetchall()
    assert [name for name, *_ in described] == schema.names
    assert duck.execute(f"SELECT count(*) FROM ns.main.{table}").fetchone() == (ROWS,)
    scalar = [field.name for field in schema if not pa.types.is_nested(field.type) and not is_tensor(field)]
    data = duck.execute(f"SELECT {', '.join(scalar)} FROM ns.main.{table}").to_arrow_table()
    for row in data.to_pylist():
        assert row == {name: wanted[row[key]][name] for name in scalar}
    # filter push-down
    assert duck.execute(f"SELECT {key} FROM ns.main.{table} WHERE {key} = 'key-2'").fetchall() == [("key-2",)]


def is_tensor(field: pa.Field) -> bool:
    return isinstance(field.type, pa.FixedShapeTensorType)


def test_cells_above_int64_are_found_by_all(store: Path, duck: duckdb.DuckDBPyConnection) -> None:
    where = f"s2_cell BETWEEN {HIGH + 1} AND {HIGH + 2}"
    wanted = {"key-1": HIGH + 1, "key-2": HIGH + 2}
    by_lance = lance_io.scan(store, "training_data", ["uuid", "s2_cell"], where)
    by_lancedb = lancedb.connect(str(store)).open_table("training_data").search().where(where).limit(9).to_arrow()
    by_duckdb = duck.execute(f"SELECT uuid, s2_cell FROM ns.main.training_data WHERE {where}").to_arrow_table()
    for data in (by_lance, by_lancedb, by_duckdb):
        assert dict(zip(data["uuid"].to_pylist(), data["s2_cell"].to_pylist(), strict=True)) == wanted
        assert data["s2_cell"].type == pa.uint64()


def test_pixels_are_the_same_in_all(store: Path, duck: duckdb.DuckDBPyConnection) -> None:
    rows = {row["uuid"]: row for row in plain(rows_for("training_data", ROWS))}
    rows |= {row["uuid"]: row for row in plain(rows_for("training_data", 1, first=1))}
    for name, dtype in (("vhr_image_chip", np.uint8), ("msi_image_chip", np.uint16), ("msi_scl", np.uint8)):
        by_lance = lance_io.scan(store, "training_data", ["uuid", name])
        by_lancedb = lancedb.connect(str(store)).open_table("training_data").to_arrow().select(["uuid", name])
        by_duckdb = duck.execute(f"SELECT uuid, {name} FROM ns.main.training_data").to_arrow_table()
        for data in (by_lance, by_lancedb, by_duckdb):
            for row in plain(data):
                assert np.array_equal(np.asarray(row[name], dtype), np.asarray(rows[row["uuid"]][name], dtype))
        chunk = by_lance[name].combine_chunks()
        shape = schema_for("training_data", SMALL).field(name).type.shape
        assert chunk.to_numpy_ndarray().shape == (ROWS, *shape)


def test_duckdb_reads_a_table_by_its_path_and_joins(store: Path, duck: duckdb.DuckDBPyConnection) -> None:
    counted = duck.execute(f"SELECT count(*) FROM '{store}/masks.lance'").fetchone()
    assert counted == (ROWS,)
    joined = duck.execute(
        "SELECT count(*) FROM ns.main.training_data t JOIN ns.main.splits s ON t.n_prompts = s.level"
    ).fetchone()
    assert joined == (ROWS,)


def test_tensor_nulls_are_nowhere(store: Path) -> None:
    for table in ("training_data", "masks"):
        data = lance.dataset(str(store / f"{table}.lance")).to_table()
        for field in data.schema:
            if not field.nullable:
                assert pc.sum(pc.is_null(data[field.name])).as_py() == 0
