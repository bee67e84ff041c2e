"""The sample's label lake: a DuckLake catalogue whose two transactions leave two states to pin."""

from pathlib import Path

import duckdb
import pyarrow as pa

from store import ducklake
from store.sql import quoted
from utils import sample
from utils.sample import Landscape, WeakLabels

CATALOG = Path("lake/catalog.ducklake")
"""The catalogue's file inside a sample folder."""

FIRST_SNAPSHOT, SECOND_SNAPSHOT = 1, 2
"""Snapshots after the first transaction (all tables) and after the second (labels revised)."""


def write_lake(catalog: Path, landscape: Landscape, labels: WeakLabels, *, final_folder: Path | None = None) -> None:
    """Create the DuckLake catalogue: one transaction with all tables, a second one that revises the labels.

    Args:
        catalog: file of the new catalogue; its Parquet files go to ``files`` beside it.
        landscape: where the context tables come from.
        labels: both states of the labels.
        final_folder: where the Parquet files will lie in the end, recorded in the catalogue.
    """
    catalog.parent.mkdir(parents=True, exist_ok=True)
    folder = catalog.parent / "files"
    with ducklake.connect(catalog, data_path=folder, create=True) as connection:
        connection.execute("BEGIN")
        _create(connection, "pv_labels", sample.pv_label_table(labels.first), geometry=True)
        _create(connection, "registry_points", sample.registry_table(labels.first), geometry=False)
        _create(connection, "buildings", sample.building_table(landscape), geometry=True)
        _create(connection, "landcover", sample.landcover_table(landscape), geometry=True)
        connection.execute("COMMIT")
        connection.execute("BEGIN")
        first, second = sample.pv_label_table(labels.first), sample.pv_label_table(labels.second)
        _revise(connection, "pv_labels", "unified_id", (first, second))
        first, second = sample.registry_table(labels.first), sample.registry_table(labels.second)
        _revise(connection, "registry_points", "registry_id", (first, second))
        connection.execute("COMMIT")
    if final_folder is not None:
        with duckdb.connect(str(catalog)) as plain:
            recorded = f"{final_folder}/"
            plain.execute("UPDATE ducklake_metadata SET value = ? WHERE key = 'data_path'", [recorded])


def _selected(geometry: bool, relation: str) -> str:
    columns = "* REPLACE (ST_GeomFromWKB(geometry) AS geometry)" if geometry else "*"
    return f"SELECT {columns} FROM {relation}"  # noqa: S608 - names are constants of this module


def _create(connection: duckdb.DuckDBPyConnection, table: str, rows: pa.Table, *, geometry: bool) -> None:
    connection.register("incoming", rows)
    name = f"{ducklake.LAKE}.{quoted(table)}"
    connection.execute(f"CREATE TABLE {name} AS {_selected(geometry, 'incoming')}")
    connection.unregister("incoming")


def _revise(connection: duckdb.DuckDBPyConnection, table: str, key: str, states: tuple[pa.Table, pa.Table]) -> None:
    """Turn the rows of the first state into those of the second: deletes, updates and inserts."""
    before, after = ({row[key]: row for row in state.to_pylist()} for state in states)
    changed = [k for k in before.keys() & after.keys() if before[k] != after[k]]
    gone, new = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    name = f"{ducklake.LAKE}.{quoted(table)}"
    connection.register("gone", pa.table({key: pa.array([*gone, *sorted(changed)], states[0].schema.field(key).type)}))
    connection.execute(f"DELETE FROM {name} WHERE {key} IN (SELECT {key} FROM gone)")  # noqa: S608
    incoming = pa.Table.from_pylist([after[k] for k in [*sorted(changed), *new]], schema=states[1].schema)
    connection.register("incoming", incoming)
    geometry = "geometry" in states[0].column_names
    connection.execute(f"INSERT INTO {name} {_selected(geometry, 'incoming')}")
    connection.unregister("gone")
    connection.unregister("incoming")
