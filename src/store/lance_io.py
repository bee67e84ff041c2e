"""Lance tables: open, scan and the one write door (cast, validate, ``merge_insert`` on the primary key)."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import lance
import pyarrow as pa

from store.conflicts import is_conflict, retried
from store.conformity import conform
from store.places import is_remote, normalised
from store.remote_errors import remote_errors, store_error, typed_errors
from store.schemas import primary_key, schema_for
from store.sql import literals
from store.storage_options import storage_options
from utils.errors import (
    LeaseLostError,
    SchemaError,
    StoreConflictError,
    StoreDeniedError,
    StoreError,
    StoreNotWritableError,
    TableNotFoundError,
)
from utils.types import ChipProfile

STORAGE_VERSION: Final = "2.2"
"""Storage format of new tables: what Lance calls stable. Commits take no other; a test holds the two together."""
DEFAULT_STORE = "data/lancedb"
_RETRIES = 20
_INDEX_ATTEMPTS = 5
_KEYS_PER_STATEMENT = 2000
_INDEXED = {
    "training_data": ("uuid", "s2_cell"),
    "masks": ("mask_id", "uuid"),
    "prompts": ("prompt_id", "uuid"),
    "context": ("context_id", "target_id"),
}


@dataclass(frozen=True, kw_only=True)
class WriteReceipt:
    """What one write did."""

    table: str
    """Table name."""
    version: int
    """Table version that holds the rows."""
    inserted: int
    """Rows that were new."""
    updated: int
    """Rows that replaced one with the same key."""

    @property
    def rows(self) -> int:
        """Rows written, new or not."""
        return self.inserted + self.updated


def table_uri(uri: str | Path, name: str) -> str:
    """Place of table ``name`` in the store at ``uri``.

    Raises:
        ConfigError: the store is a URI nothing here can open.
    """
    return f"{normalised(uri).rstrip('/')}/{name}.lance"


def table_exists(uri: str | Path, name: str) -> bool:
    """Whether the store holds a committed version of the table.

    Raises:
        StoreError: that cannot be told: the store does not answer, refuses the credentials, or has no such bucket.
    """
    try:
        open_table(uri, name)
    except TableNotFoundError:
        return False
    return True


@typed_errors
def open_table(uri: str | Path, name: str, version: int | str | None = None) -> lance.LanceDataset:
    """Table ``name`` at its newest version, or pinned to a version number or tag.

    Raises:
        TableNotFoundError: the store, the table or the version does not exist.
        StoreUnreachableError: the object store does not answer.
        StoreDeniedError: the object store refuses the credentials.
        BucketNotFoundError: the bucket does not exist.
        StoreError: the table is there and cannot be read.
    """
    place = table_uri(uri, name)
    try:
        with remote_errors(uri):
            return lance.dataset(place, version=version, storage_options=storage_options(place))
    except (ValueError, OSError) as error:
        if not any(words in str(error) for words in ("was not found", "Ref not found")):
            raise StoreError(f"table {name!r} in {uri} cannot be read: {error}") from error
        what = f"version {version!r} of table {name!r}" if version is not None else f"table {name!r}"
        raise TableNotFoundError(
            f"no {what} in the store {uri}; `python -m store tables --store {uri}` lists what it holds"
        ) from error


@typed_errors
def table_names(uri: str | Path) -> list[str]:
    """Names of the tables in the store, sorted; empty when the store does not exist.

    Raises:
        StoreError: that cannot be told: the store does not answer, refuses the credentials, or has no such bucket.
    """
    place = normalised(uri)
    if not is_remote(place) and not Path(place).is_dir():
        return []
    import lancedb  # noqa: PLC0415 - slow to import, needed for listing alone

    with remote_errors(uri):
        listed = lancedb.connect(place, storage_options=storage_options(place)).list_tables()
    return sorted(str(name) for name in getattr(listed, "tables", listed))


@typed_errors
def scan(
    uri: str | Path, name: str, columns: Sequence[str], where: str | None = None, version: int | str | None = None
) -> pa.Table:
    """Some columns of the rows that satisfy ``where`` (Lance SQL); empty with the right schema for a missing table."""
    try:
        dataset = open_table(uri, name, version)
    except TableNotFoundError:
        if version is not None:
            raise
        schema = schema_for(name)
        return pa.schema([schema.field(column) for column in columns]).empty_table()
    try:
        with remote_errors(uri):
            return dataset.scanner(
                columns=list(columns), filter=where, batch_size=256, batch_readahead=2, io_buffer_size=64 << 20
            ).to_table()
    except (ValueError, OSError) as error:
        raise StoreError(f"table {name!r} cannot be scanned for {list(columns)} where {where!r}: {error}") from error


@typed_errors
def write(
    uri: str | Path,
    name: str,
    data: pa.Table,
    *,
    profile: ChipProfile | None = None,
    planned_at: datetime | None = None,
    fence: Callable[[], bool] | None = None,
) -> WriteReceipt:
    """Upsert ``data`` into table ``name`` by primary key, creating store and table on first use.

    Racing writers of the same keys leave one row per key; a lost race is retried with back-off.

    Args:
        uri: the store.
        name: the table.
        data: rows with all columns of the table.
        profile: chip profile, for tables that have one.
        planned_at: when the writer looked at what is missing. A row whose run looked later, and one retired later, is
            another writer's newer answer and stays as it is; None replaces every row with the same key.
        fence: whether the writer may still write, asked before each attempt, and afterwards where others committed
            meanwhile; None is always.

    Raises:
        SchemaError: ``data`` does not fit the table's schema, or the table on disk has another one.
        StoreConflictError: other writers came first in every attempt.
        StoreNotWritableError: the place cannot be written.
        LeaseLostError: the fence is shut; no new row was left behind.
    """
    schema = schema_for(name, profile)
    rows = conform(data, schema)
    if planned_at is not None:
        return write_chosen(
            uri, name, lambda dataset: _without_newer(uri, dataset, rows, planned_at), profile=profile, fence=fence
        )
    return retried(
        lambda: _merged(uri, name, ensure_table(uri, name, profile=profile), rows, retries=_RETRIES),
        what=f"a write of {len(rows)} rows to {name!r}",
    )


@typed_errors
def write_chosen(
    uri: str | Path,
    name: str,
    chosen: Callable[[lance.LanceDataset], pa.Table],
    *,
    profile: ChipProfile | None = None,
    fence: Callable[[], bool] | None = None,
) -> WriteReceipt:
    """Upsert rows chosen by a look at the table, as one step: where another writer touched them, look again.

    Args:
        uri: the store.
        name: the table; it is created on first use.
        chosen: called with the table at its newest version; returns rows of its schema, perhaps none.
        profile: chip profile, for tables that have one.
        fence: see :func:`write`.

    Raises:
        SchemaError: the table on disk has another schema.
        StoreConflictError: other writers came first in every attempt.
        StoreNotWritableError: the place cannot be written.
        LeaseLostError: the fence is shut; no new row was left behind.
    """

    def attempt() -> WriteReceipt:
        dataset = ensure_table(uri, name, profile=profile)
        seen, rows = dataset.version, chosen(dataset)
        check_fence(fence)
        receipt = _merged(uri, name, dataset, rows, retries=0)
        if fence is not None and receipt.inserted and receipt.version > seen + 1 and not fence():
            _take_back(uri, name, rows, seen)
        return receipt

    return retried(attempt, what=f"a write to {name!r}")


def _merged(uri: str | Path, name: str, dataset: lance.LanceDataset, rows: pa.Table, *, retries: int) -> WriteReceipt:
    if not len(rows):
        return WriteReceipt(table=name, version=dataset.version, inserted=0, updated=0)
    # joined through the key's index, Lance does not see the new keys of a racing writer, and both insert them
    merge = dataset.merge_insert(primary_key(rows.schema)).use_index(False)
    upsert = merge.when_matched_update_all().when_not_matched_insert_all().conflict_retries(retries)
    try:
        # an upgraded table keeps its old columns first
        stats: dict[str, Any] = upsert.execute(rows.select(dataset.schema.names))
    except OSError as error:
        raise error if is_conflict(error) else not_writable(uri, error) from error
    return WriteReceipt(
        table=name,
        version=dataset.version,
        inserted=int(stats["num_inserted_rows"]),
        updated=int(stats["num_updated_rows"]),
    )


def check_fence(fence: Callable[[], bool] | None) -> None:
    """Refuse a writer that was overtaken.

    Raises:
        LeaseLostError: the fence is shut.
    """
    if fence is not None and not fence():
        raise LeaseLostError("another run took this work over; what was made of it is dropped")


def _take_back(uri: str | Path, name: str, rows: pa.Table, seen: int) -> None:
    """Delete rows that an overtaken writer inserted after version ``seen``; those that were there before stay."""
    key = primary_key(rows.schema)
    keys = rows[key].to_pylist()
    there: set[str] = set()
    for start in range(0, len(keys), _KEYS_PER_STATEMENT):
        where = f"{key} IN ({literals(keys[start : start + _KEYS_PER_STATEMENT])})"
        there |= set(open_table(uri, name, seen).to_table(columns=[key], filter=where)[key].to_pylist())
    mine = literals({str(run) for run in rows["run_id"].to_pylist()}) if "run_id" in rows.column_names else "''"
    delete(uri, name, [value for value in keys if value not in there], where=f"run_id IN ({mine})")
    raise LeaseLostError("another run took this work over while it was committed; its new rows were taken back")


def _without_newer(uri: str | Path, dataset: lance.LanceDataset, rows: pa.Table, moment: datetime) -> pa.Table:
    """Rows whose stored row, where there is one, rests on a look at the store no later than ``moment``."""
    key, names = primary_key(dataset.schema), set(dataset.schema.names)
    columns = [name for name in ("run_id", "created_at", "retired_at") if name in names]
    keys, stored = rows[key].to_pylist(), list[dict[str, Any]]()
    for start in range(0, len(keys), _KEYS_PER_STATEMENT):
        where = f"{key} IN ({literals(keys[start : start + _KEYS_PER_STATEMENT])})"
        stored += dataset.to_table(columns=[key, *columns], filter=where).to_pylist()
    if not stored:
        return rows
    looked = _looks(uri, {row["run_id"] for row in stored})
    newer = {
        row[key]
        for row in stored
        if looked.get(row["run_id"], row["created_at"]) > moment
        or (row.get("retired_at") is not None and row["retired_at"] > moment)
    }
    return rows.filter(pa.array([value not in newer for value in keys], pa.bool_())) if newer else rows


def _looks(uri: str | Path, run_ids: set[str]) -> dict[str, datetime]:
    """Run → when it looked at what is missing (its start), for the runs the store knows."""
    rows = scan(uri, "runs", ["run_id", "started_at"], f"run_id IN ({literals(sorted(run_ids))})").to_pylist()
    return {row["run_id"]: row["started_at"] for row in rows}


def ensure_table(uri: str | Path, name: str, *, profile: ChipProfile | None = None) -> lance.LanceDataset:
    """The table at its newest version, created where it is missing.

    Raises:
        SchemaError: the table on disk has another schema.
        StoreNotWritableError: the place cannot be written.
    """
    schema = schema_for(name, profile)
    dataset = _open_or_create(uri, name, schema)
    check_schema(uri, name, dataset.schema, schema)
    return dataset


def check_schema(uri: str | Path, name: str, found: pa.Schema, wanted: pa.Schema) -> None:
    """Refuse a table on disk that this version, or this chip profile, cannot write to.

    Raises:
        SchemaError: the message says what differs.
    """
    if same_shape(found, wanted):
        return
    versions = [(schema.metadata or {}).get(b"schema_version", b"unknown").decode() for schema in (found, wanted)]
    if versions[0] != versions[1]:
        what = (
            f"was written with schema version {versions[0]}, this is version {versions[1]}: it can be read, not written"
        )
        older = versions[0].isdecimal() and int(versions[0]) < int(versions[1])
        todo = f"bring it up with `python -m store upgrade --store {uri}`, or " if older else ""
    else:
        what, todo = "has another chip profile, or other columns", ""
    raise SchemaError(f"table {name!r} in {uri} {what}; {todo}set `store` to another place")


@typed_errors
def delete(uri: str | Path, name: str, keys: Sequence[str], *, where: str | None = None) -> int:
    """Delete the rows with these primary keys from the newest version; earlier versions keep them. Returns how many.

    Args:
        uri: the store.
        name: the table.
        keys: primary keys.
        where: delete only those that satisfy this too (Lance SQL), also where other writers come between.

    Raises:
        TableNotFoundError: the table does not exist.
        StoreConflictError: other writers came first in every attempt.
        StoreNotWritableError: the place cannot be written.
    """
    return _by_key(
        uri, name, keys, lambda dataset, these: dataset.delete(these, conflict_retries=_RETRIES), where=where
    )


@typed_errors
def mark(
    uri: str | Path, name: str, keys: Sequence[str], values: Mapping[str, str], *, where: str | None = None
) -> int:
    """Set columns of the rows with these primary keys; ``values`` are SQL expressions. Returns how many rows.

    Args:
        uri: the store.
        name: the table.
        keys: primary keys.
        values: column → SQL expression.
        where: set them only in rows that satisfy this too (Lance SQL), also where other writers come between.

    Raises:
        TableNotFoundError: the table does not exist.
        StoreConflictError: other writers came first in every attempt.
        StoreNotWritableError: the place cannot be written.
    """
    return _by_key(
        uri,
        name,
        keys,
        lambda dataset, these: dataset.update(dict(values), these, conflict_retries=_RETRIES),
        where=where,
    )


def _by_key(
    uri: str | Path,
    name: str,
    keys: Sequence[str],
    change: Callable[[lance.LanceDataset, str], object],
    *,
    where: str | None,
) -> int:
    key, done, also = primary_key(schema_for(name)), 0, f" AND ({where})" if where else ""
    for start in range(0, len(keys), _KEYS_PER_STATEMENT):
        these = f"{key} IN ({literals(keys[start : start + _KEYS_PER_STATEMENT])}){also}"
        done += retried(partial(_change, uri, name, these, change), what=f"a change of rows of {name!r}")
    return done


def _change(uri: str | Path, name: str, where: str, change: Callable[[lance.LanceDataset, str], object]) -> int:
    dataset = open_table(uri, name)
    with remote_errors(uri):
        found = int(dataset.count_rows(where))
    if found:
        try:
            change(dataset, where)
        except OSError as error:
            raise error if is_conflict(error) else not_writable(uri, error) from error
    return found


def same_shape(found: pa.Schema, wanted: pa.Schema) -> bool:
    """Whether two schemas have equal columns, in whatever order, schema version and chip profile."""
    keys = (b"profile", b"schema_version")
    both = [[(schema.metadata or {}).get(key) for key in keys] for schema in (found, wanted)]
    ordered = [sorted(schema, key=lambda field: str(field.name)) for schema in (found, wanted)]
    return ordered[0] == ordered[1] and both[0] == both[1]


def indexed_columns(name: str) -> tuple[str, ...]:
    """Columns of table ``name`` that carry a BTREE index."""
    return _INDEXED.get(name, ())


@typed_errors
def refresh_indexes(uri: str | Path, name: str) -> bool:
    """Bring the table's BTREE indexes up to its rows, making those that are missing.

    Rows without an index are found all the same, only slower; so where other writers commit first every time, this is
    left to the next call. Returns whether the indexes are up to date.

    Raises:
        TableNotFoundError: the table does not exist.
    """
    try:
        retried(lambda: bring_indexes_up(uri, name), what=f"the indexes of {name!r}", attempts=_INDEX_ATTEMPTS)
    except StoreConflictError:
        return False
    return True


def bring_indexes_up(uri: str | Path, name: str) -> None:
    """One attempt at what :func:`refresh_indexes` does; a lost race is an ``OSError`` of Lance."""
    dataset = open_table(uri, name)
    present = {column for index in dataset.describe_indices() for column in index.field_names}
    for column in indexed_columns(name):
        if column not in present and dataset.count_rows():
            dataset.create_scalar_index(column, "BTREE")
    dataset.optimize.optimize_indices()


def check_writable(uri: str | Path) -> None:
    """Refuse a store that cannot be written, before any work starts.

    An object store is asked: an empty object is written below ``uri`` and deleted again, once in some minutes.

    Raises:
        StoreNotWritableError: the folder, or the nearest existing one above it, is no folder or is read-only; the
            object store refuses to write or to delete.
        BucketNotFoundError: the bucket does not exist.
        StoreUnreachableError: the object store does not answer.
    """
    if is_remote(uri):
        _probe(uri)
        return
    place = Path(normalised(uri)).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise not_writable(uri, NotADirectoryError(place) if not place.is_dir() else PermissionError(place))


def _open_or_create(uri: str | Path, name: str, schema: pa.Schema) -> lance.LanceDataset:
    check_writable(uri)
    try:
        return open_table(uri, name)
    except TableNotFoundError:
        return create_table(uri, name, schema)


def create_table(uri: str | Path, name: str, schema: pa.Schema) -> lance.LanceDataset:
    """Make an empty table, or open the one that another writer made first.

    ``write_dataset(mode="create")`` that loses a race can still commit, as an overwrite of what is there. This commit
    is strict: it succeeds for one writer only, as version 1.

    Raises:
        StoreNotWritableError: the place cannot be written.
    """
    empty = lance.LanceOperation.Overwrite(schema, [])
    try:
        return lance.LanceDataset.commit(
            table_uri(uri, name),
            empty,
            read_version=0,
            max_retries=0,
            enable_stable_row_ids=True,
            storage_options=storage_options(table_uri(uri, name)),
        )
    except OSError as error:
        if table_exists(uri, name):
            return open_table(uri, name)
        raise error if is_conflict(error) else not_writable(uri, error) from error


def _probe(uri: str | Path) -> None:
    from store.object_store import probe_writable  # noqa: PLC0415 - Arrow's file systems, not needed for folders

    try:
        probe_writable(normalised(uri))
    except (OSError, ValueError, RuntimeError) as error:
        failed = not_writable(uri, error)
    else:
        return
    raise failed


def not_writable(uri: str | Path, error: Exception) -> StoreError:
    """What a refused write says of the store, as one of our errors."""
    if is_remote(uri):
        found = store_error(uri, error)
        if isinstance(found, StoreDeniedError):
            return StoreNotWritableError(f"the store cannot be written: {found}")
        if found is not None:
            return found
    return StoreNotWritableError(
        f"the store {uri} cannot be written ({type(error).__name__}: {error}); "
        "check the path, its permissions and free space"
    )
