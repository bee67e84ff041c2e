"""Lance tables: open, scan and the one write door (cast, validate, ``merge_insert`` on the primary key)."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lance
import pyarrow as pa

from store.conformity import conform
from store.places import is_remote, normalised
from store.remote_errors import remote_errors, store_error, typed_errors
from store.schemas import primary_key, schema_for
from store.sql import literals
from store.storage_options import storage_options
from utils.errors import SchemaError, StoreDeniedError, StoreError, StoreNotWritableError, TableNotFoundError
from utils.types import ChipProfile

STORAGE_VERSION: Final = "2.2"
DEFAULT_STORE = "data/lancedb"
_RETRIES = 20
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
def write(uri: str | Path, name: str, data: pa.Table, *, profile: ChipProfile | None = None) -> WriteReceipt:
    """Upsert ``data`` into table ``name`` by primary key, creating store and table on first use.

    Racing writers of the same keys leave one row per key; a lost race is retried with back-off.

    Raises:
        SchemaError: ``data`` does not fit the table's schema, or the table on disk has another one.
        StoreNotWritableError: the place cannot be written.
    """
    schema = schema_for(name, profile)
    rows = conform(data, schema)
    dataset = _open_or_create(uri, name, schema)
    check_schema(uri, name, dataset.schema, schema)
    if not len(rows):
        return WriteReceipt(table=name, version=dataset.version, inserted=0, updated=0)
    merge = dataset.merge_insert(primary_key(schema)).when_matched_update_all().when_not_matched_insert_all()
    try:
        stats: dict[str, Any] = merge.conflict_retries(_RETRIES).execute(rows)
    except OSError as error:
        raise _not_writable(uri, error) from error
    return WriteReceipt(
        table=name,
        version=dataset.version,
        inserted=int(stats["num_inserted_rows"]),
        updated=int(stats["num_updated_rows"]),
    )


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
    else:
        what = "has another chip profile, or other columns"
    raise SchemaError(f"table {name!r} in {uri} {what}; set `store` to another place")


@typed_errors
def delete(uri: str | Path, name: str, keys: Sequence[str]) -> int:
    """Delete the rows with these primary keys from the newest version; earlier versions keep them. Returns how many.

    Raises:
        TableNotFoundError: the table does not exist.
        StoreNotWritableError: the place cannot be written.
    """
    return _by_key(uri, name, keys, lambda dataset, where: dataset.delete(where, conflict_retries=_RETRIES))


@typed_errors
def mark(uri: str | Path, name: str, keys: Sequence[str], values: Mapping[str, str]) -> int:
    """Set columns of the rows with these primary keys; ``values`` are SQL expressions. Returns how many rows.

    Raises:
        TableNotFoundError: the table does not exist.
        StoreNotWritableError: the place cannot be written.
    """
    return _by_key(
        uri, name, keys, lambda dataset, where: dataset.update(dict(values), where, conflict_retries=_RETRIES)
    )


def _by_key(
    uri: str | Path, name: str, keys: Sequence[str], change: Callable[[lance.LanceDataset, str], object]
) -> int:
    done = 0
    key = primary_key(schema_for(name))
    for start in range(0, len(keys), _KEYS_PER_STATEMENT):
        listed = literals(keys[start : start + _KEYS_PER_STATEMENT])
        dataset, where = open_table(uri, name), f"{key} IN ({listed})"
        with remote_errors(uri):
            found = dataset.count_rows(where)
        if found:
            try:
                change(dataset, where)
            except OSError as error:
                raise _not_writable(uri, error) from error
        done += found
    return done


def same_shape(found: pa.Schema, wanted: pa.Schema) -> bool:
    """Whether two schemas have equal columns, schema version and chip profile."""
    keys = (b"profile", b"schema_version")
    both = [[(schema.metadata or {}).get(key) for key in keys] for schema in (found, wanted)]
    return bool(found.equals(wanted)) and both[0] == both[1]


@typed_errors
def refresh_indexes(uri: str | Path, name: str) -> None:
    """Bring the table's BTREE indexes up to its rows, making those that are missing."""
    dataset = open_table(uri, name)
    present = {column for index in dataset.describe_indices() for column in index.field_names}
    for column in _INDEXED.get(name, ()):
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
        raise _not_writable(uri, NotADirectoryError(place) if not place.is_dir() else PermissionError(place))


def _open_or_create(uri: str | Path, name: str, schema: pa.Schema) -> lance.LanceDataset:
    check_writable(uri)
    if table_exists(uri, name):
        return open_table(uri, name)
    try:
        return lance.write_dataset(
            schema.empty_table(),
            table_uri(uri, name),
            mode="create",
            data_storage_version=STORAGE_VERSION,
            enable_stable_row_ids=True,
            storage_options=storage_options(table_uri(uri, name)),
        )
    except OSError as error:
        # another writer made it first
        if table_exists(uri, name):
            return open_table(uri, name)
        raise _not_writable(uri, error) from error


def _probe(uri: str | Path) -> None:
    from store.object_store import probe_writable  # noqa: PLC0415 - Arrow's file systems, not needed for folders

    try:
        probe_writable(normalised(uri))
    except (OSError, ValueError, RuntimeError) as error:
        failed = _not_writable(uri, error)
    else:
        return
    raise failed


def _not_writable(uri: str | Path, error: Exception) -> StoreError:
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
