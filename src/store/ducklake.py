"""The label lakehouse: attach a DuckLake catalogue, read it at a pinned snapshot as Arrow."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from duckdb_extensions import import_extension

from store.catalogue_place import HIDDEN, CatalogueKind, CataloguePlace, place_of, secret_target
from store.fingerprint import checksum, digest
from store.sql import literal, quoted
from utils.errors import (
    CatalogBusyError,
    CatalogEmptyError,
    CatalogNotFoundError,
    CatalogUnreachableError,
    ExtensionMissingError,
    LabelTableError,
)

_SCANNERS: dict[CatalogueKind, tuple[str, ...]] = {
    "duckdb": (),
    "sqlite": ("sqlite_scanner",),
    "postgres": ("postgres_scanner",),
}
LAKE = "lake"
"""Name a catalogue is attached under."""


def connect(
    catalog: str | Path | None,
    *,
    data_path: str | Path | None = None,
    create: bool = False,
    write: bool = False,
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with ``spatial`` loaded and the catalogue attached as ``lake``.

    Args:
        catalog: the DuckLake catalogue, in any form :func:`store.catalogue_place.place_of` knows; None attaches none.
        data_path: folder of its Parquet files; by default what the catalogue says, or, where that folder has moved
            with the catalogue's file, the folder of the same name beside it.
        create: make a new catalogue and attach it for writing.
        write: attach an existing catalogue for writing; without either it is attached read-only.

    Raises:
        CatalogBusyError: another process writes to the catalogue's file.
        CatalogNotFoundError: there is no such file, or it is no DuckLake catalogue.
        CatalogUnreachableError: the database server does not answer, or refuses.
        ExtensionMissingError: a DuckDB extension is not installed.
    """
    if catalog is None:
        return _with_extensions("spatial")
    place = place_of(catalog)
    if not create and place.path is not None and not place.path.is_file():
        raise CatalogNotFoundError(
            f"no DuckLake catalogue at {place.name}; make the sample with `python -m dataflows sample`, "
            "or point `catalog` at yours"
        )
    connection = _with_extensions("ducklake", "spatial", *_SCANNERS[place.kind])
    options = [] if create or write else ["READ_ONLY"]
    folder = Path(data_path) if data_path else (None if create else _moved_data_path(connection, place))
    if folder is not None:
        options += [f"DATA_PATH {literal(str(folder))}"] + ([] if create else ["OVERRIDE_DATA_PATH true"])
    clause = f" ({', '.join(options)})" if options else ""
    prefix = "" if place.kind == "duckdb" else f"{place.kind}:"
    target, secrets = secret_target(catalog) if place.kind == "postgres" else (place.target, [])
    refusal = _refusal(connection, f"ATTACH {literal(f'ducklake:{prefix}{target}')} AS {LAKE}{clause}", secrets)
    # raised outside the handler: the original error holds the connection text, and must not travel along
    if refusal is not None:
        connection.close()
        raise _attach_error(place, refusal)
    return connection


def _refusal(connection: duckdb.DuckDBPyConnection, statement: str, secrets: list[str]) -> str | None:
    """What DuckDB says against a statement, without secrets; None when it ran."""
    try:
        connection.execute(statement)
    except duckdb.Error as error:
        text = str(error)
        for secret in secrets:
            text = text.replace(secret, HIDDEN)
        return text
    return None


def _attach_error(place: CataloguePlace, refusal: str) -> CatalogNotFoundError:
    if is_locked(refusal):
        return CatalogBusyError(f"another process writes to {place.name}, or holds it open; try again later: {refusal}")
    if place.kind == "postgres" and "Unable to connect" in refusal:
        reason = refusal.rpartition("Unable to connect to Postgres at ")[2]
        return CatalogUnreachableError(
            f"{place.name} cannot be reached: {reason}; check host, port, dbname and user, "
            "and the password in ~/.pgpass or $PGPASSWORD"
        )
    newer = "; the catalogue may be of another DuckLake version than this one" if "version" in refusal.lower() else ""
    return CatalogNotFoundError(f"{place.name} cannot be attached as a DuckLake catalogue: {refusal}{newer}")


def is_locked(refusal: str) -> bool:
    """Whether DuckDB refuses a catalogue because another process holds its file."""
    return "Could not set lock" in refusal or "database is locked" in refusal


def _with_extensions(*names: str) -> duckdb.DuckDBPyConnection:
    """A connection with packaged extensions loaded and times in UTC.

    Raises:
        ExtensionMissingError: a package is not installed, or holds an extension for another DuckDB.
    """
    connection = duckdb.connect()
    for name in names:
        try:
            import_extension(name, con=connection)
            connection.load_extension(name)
        except (ImportError, duckdb.Error) as error:
            connection.close()
            package = f"duckdb-extension-{name.replace('_', '-')}"
            raise ExtensionMissingError(
                f"the DuckDB extension {name} cannot be loaded; install it with "
                f"`pip install {package}=={duckdb.__version__}`: {error}"
            ) from error
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _moved_data_path(connection: duckdb.DuckDBPyConnection, place: CataloguePlace) -> Path | None:
    """The data folder beside the catalogue's file, when the recorded one is gone."""
    if place.path is None:
        return None
    try:
        kind = "" if place.kind == "duckdb" else f"TYPE {place.kind}, "
        connection.execute(f"ATTACH {literal(str(place.path))} AS recorded ({kind}READ_ONLY)")
        try:
            row = connection.execute("SELECT value FROM recorded.ducklake_metadata WHERE key = 'data_path'").fetchone()
        finally:
            connection.execute("DETACH recorded")
    except duckdb.Error as error:
        connection.close()
        if is_locked(str(error)):
            raise _attach_error(place, str(error)) from error
        raise CatalogNotFoundError(f"{place.name} is not a DuckLake catalogue: {error}") from error
    if row is None or Path(row[0]).exists():
        return None
    beside = place.path.parent / Path(row[0]).name
    return beside if beside.exists() else None


def catalog_fingerprint(catalog: str | Path) -> str:
    """Cheap fingerprint of a catalogue: of its file, or of a server's redacted name and newest snapshot.

    Raises:
        CatalogNotFoundError: there is no such catalogue.
    """
    place = place_of(catalog)
    if place.path is not None:
        try:
            return checksum(place.path)
        except OSError as error:
            raise CatalogNotFoundError(f"no DuckLake catalogue at {place.name}: {error}") from error
    with connect(catalog) as connection:
        newest = connection.execute(
            f"SELECT snapshot_id, epoch_us(snapshot_time) FROM ducklake_snapshots('{LAKE}') "
            "ORDER BY snapshot_id DESC LIMIT 1"
        ).fetchone()
    return digest([place.name, *(newest or ())])


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
