"""The label lakehouse: attach a DuckLake catalogue, read it at a pinned snapshot as Arrow."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from duckdb_extensions import import_extension

from utils.errors import CatalogEmptyError, CatalogNotFoundError, LabelTableError

LAKE = "lake"
"""Name a catalogue is attached under."""


def quoted(name: str) -> str:
    """``name`` as one SQL identifier, or ``schema.name`` as two."""
    return ".".join(quoted_column(part) for part in name.split("."))


def quoted_column(name: str) -> str:
    """``name`` as one SQL identifier, dots and all."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def connect(
    catalog: str | Path, *, data_path: str | Path | None = None, create: bool = False
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with the catalogue attached as ``lake`` and ``spatial`` loaded.

    Args:
        catalog: file of the DuckLake catalogue (a DuckDB file).
        data_path: folder of its Parquet files; by default what the catalogue says, or, where that folder has moved
            with the catalogue, the folder of the same name beside it.
        create: make a new catalogue and attach it for writing; otherwise it is attached read-only.

    Raises:
        CatalogNotFoundError: there is no such file, or it is no DuckLake catalogue.
    """
    path = Path(catalog)
    if not create and not path.is_file():
        raise CatalogNotFoundError(
            f"no DuckLake catalogue at {path}; make the sample with `python -m dataflows sample`, "
            "or point `catalog` at yours"
        )
    connection = duckdb.connect()
    for extension in ("ducklake", "spatial"):
        import_extension(extension, con=connection)
        connection.load_extension(extension)
    connection.execute("SET TimeZone = 'UTC'")
    options = [] if create else ["READ_ONLY"]
    folder = Path(data_path) if data_path else (None if create else _moved_data_path(connection, path))
    if folder is not None:
        options += [f"DATA_PATH {_literal(str(folder))}"] + ([] if create else ["OVERRIDE_DATA_PATH true"])
    clause = f" ({', '.join(options)})" if options else ""
    try:
        connection.execute(f"ATTACH {_literal(f'ducklake:{path}')} AS {LAKE}{clause}")
    except duckdb.Error as error:
        connection.close()
        raise CatalogNotFoundError(f"{path} cannot be attached as a DuckLake catalogue: {error}") from error
    return connection


def _moved_data_path(connection: duckdb.DuckDBPyConnection, catalog: Path) -> Path | None:
    """The data folder beside the catalogue, when the recorded one is gone."""
    try:
        connection.execute(f"ATTACH {_literal(str(catalog))} AS recorded (READ_ONLY)")
        try:
            row = connection.execute("SELECT value FROM recorded.ducklake_metadata WHERE key = 'data_path'").fetchone()
        finally:
            connection.execute("DETACH recorded")
    except duckdb.Error as error:
        connection.close()
        raise CatalogNotFoundError(f"{catalog} is not a DuckLake catalogue: {error}") from error
    if row is None or Path(row[0]).exists():
        return None
    beside = catalog.parent / Path(row[0]).name
    return beside if beside.exists() else None


def latest_snapshot(connection: duckdb.DuckDBPyConnection) -> int:
    """Id of the newest snapshot.

    Raises:
        CatalogEmptyError: the catalogue has no table in any snapshot.
    """
    row = connection.execute(f"SELECT max(snapshot_id) FROM ducklake_snapshots('{LAKE}')").fetchone()
    if row is None or not row[0]:
        raise CatalogEmptyError("the DuckLake catalogue has no snapshot with data; load labels into it first")
    return int(row[0])


def table_columns(connection: duckdb.DuckDBPyConnection, table: str, snapshot: int) -> dict[str, str]:
    """Column name → DuckDB type of a lake table at a snapshot.

    Raises:
        LabelTableError: the table does not exist in that snapshot; the message lists those that do.
    """
    try:
        rows = connection.execute(
            f"DESCRIBE SELECT * FROM {LAKE}.{quoted(table)} AT (VERSION => {int(snapshot)})"
        ).fetchall()
    except duckdb.Error as error:
        known = sorted(
            name
            for (name,) in connection.execute(
                "SELECT CASE schema_name WHEN 'main' THEN '' ELSE schema_name || '.' END || table_name "
                "FROM duckdb_tables() WHERE database_name = ?",
                [LAKE],
            ).fetchall()
        )
        raise LabelTableError(
            f"the lake has no table {table!r} at snapshot {snapshot}; it has: {', '.join(known) or '(none)'}"
        ) from error
    return {str(name): str(kind) for name, kind, *_ in rows}


def query(connection: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any] | None = None) -> pa.Table:
    """Result of ``sql`` as an Arrow table."""
    return connection.execute(sql, parameters or []).to_arrow_table()
