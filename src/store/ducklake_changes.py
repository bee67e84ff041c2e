"""What changed in label tables between two snapshots of a DuckLake catalogue."""

from collections.abc import Sequence
from dataclasses import replace

import duckdb
import pyarrow as pa

from store.ducklake import LAKE
from store.ducklake_label_sql import Wanted
from store.ducklake_labels import LAKE_LABELS, label_batches, label_source, source_query
from store.label_mapping import LabelTable
from utils.errors import ConfigError, LabelTableError

_METADATA = f"__ducklake_metadata_{LAKE}"


def read_changes(
    connection: duckdb.DuckDBPyConnection, tables: Sequence[LabelTable], since: int, until: int
) -> pa.Table:
    """Every state, before and after, of labels that were added, changed or deleted after ``since``, up to ``until``.

    Schema ``store.ducklake_labels.LAKE_LABELS``; ids repeat.

    Args:
        connection: from :func:`store.ducklake.connect`.
        tables: label tables.
        since: snapshot whose labels are known.
        until: snapshot to compare with.

    Raises:
        ConfigError: labels are in a file, which has no snapshots, or ``since`` is not before ``until``.
        LabelTableError: a snapshot in between was expired, or a table was dropped and made again, so that not every
            change is on record.
    """
    files = [table.name for table in tables if table.file is not None]
    if files:
        raise ConfigError(f"{', '.join(files)} has no snapshots; plan without --since-snapshot")
    _check_span(connection, since, until)
    batches: list[pa.RecordBatch] = []
    for mapping in tables:
        _check_identity(connection, mapping, since, until)
        source = label_source(connection, mapping, until)
        schema, _, name = str(mapping.table).rpartition(".")
        # the function wants its first snapshot to exist, and counts that one's own changes in
        changes = (
            f"(SELECT * FROM ducklake_table_changes('{LAKE}', {_text(schema or 'main')}, {_text(name)}, "
            f"{int(since)}, {int(until)}) WHERE snapshot_id > {int(since)}) AS changes"
        )
        batches += label_batches(connection, replace(source, relation=replace(source.relation, sql=changes)))
    return pa.Table.from_batches(batches, LAKE_LABELS)


def read_namesakes(
    connection: duckdb.DuckDBPyConnection, tables: Sequence[LabelTable], until: int, changes: pa.Table
) -> pa.Table:
    """Labels that share their id with a changed one, or with each other: which of them counts, the others decide.

    Schema ``store.ducklake_labels.LAKE_LABELS``. An id that is used once and did not change brings nothing.

    Args:
        connection: from :func:`store.ducklake.connect`.
        tables: label tables.
        until: snapshot that is read.
        changes: from :func:`read_changes`.

    Raises:
        LabelTableError: a table cannot be read.
    """
    queries = [source_query(label_source(connection, mapping, until), Wanted()) for mapping in tables]
    every = " UNION ALL ".join(f"(SELECT *, coalesce(dataset, label_table) AS own FROM ({sql}))" for sql, _ in queries)
    changed = changes.select(["dataset", "label_table", "label_id"])
    connection.register("changed_labels", changed)
    sql = (
        f"WITH every AS NOT MATERIALIZED ({every}), "
        "again AS (SELECT own, label_id FROM every GROUP BY ALL HAVING count(*) > 1 "
        "UNION SELECT coalesce(dataset, label_table), label_id FROM changed_labels) "
        "SELECT every.* EXCLUDE (own) FROM every SEMI JOIN again USING (own, label_id)"
    )
    try:
        found = connection.execute(sql, [value for _, parameters in queries for value in parameters])
        return found.to_arrow_table().cast(LAKE_LABELS)
    except duckdb.Error as error:
        raise LabelTableError(f"labels that share an id cannot be read: {error}") from error


def _check_span(connection: duckdb.DuckDBPyConnection, since: int, until: int) -> None:
    if since >= until:
        raise ConfigError(f"--since-snapshot {since} is not before the snapshot that is read, {until}")
    rows = connection.execute(f"SELECT snapshot_id FROM ducklake_snapshots('{LAKE}')").fetchall()
    gone = sorted(set(range(since, until + 1)) - {row[0] for row in rows})
    if gone:
        listed = ", ".join(map(str, gone[:5])) + (", …" if len(gone) > 5 else "")
        raise LabelTableError(
            f"snapshots {listed} between {since} and {until} do not exist or were expired, so that not every change is "
            "on record; plan without --since-snapshot"
        )


def _check_identity(connection: duckdb.DuckDBPyConnection, mapping: LabelTable, since: int, until: int) -> None:
    """Refuse a table that is not the one it was."""
    schema, _, name = str(mapping.table).rpartition(".")
    then, now = (
        connection.execute(
            f"SELECT t.table_id FROM {_METADATA}.ducklake_table t JOIN {_METADATA}.ducklake_schema s USING (schema_id) "
            "WHERE t.table_name = ? AND s.schema_name = ? "
            "AND t.begin_snapshot <= ? AND (t.end_snapshot IS NULL OR t.end_snapshot > ?)",
            [name, schema or "main", snapshot, snapshot],
        ).fetchone()
        for snapshot in (since, until)
    )
    if then is not None and now is not None and then != now:
        raise LabelTableError(
            f"label table {mapping.table} was dropped and made again after snapshot {since}; "
            "plan without --since-snapshot"
        )


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
