"""Rows staged by workers as data files of a table, and the one fenced commit that makes them rows.

A worker writes whole files and hands over their metadata; nothing is visible before the coordinator commits. The
commit takes in files whose keys are new by a ``Merge`` transaction, which Lance refuses whenever another commit came
between the look at the keys and itself. Files with a key that is there already go through ``merge_insert``. So two
coordinators, or one that was replaced, never leave two rows per key.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import lance
import pyarrow as pa
from lance.commit import CommitConflictError
from lance.file import LanceFileReader
from lance.fragment import FragmentMetadata, write_fragments

from store import lance_io
from store.conflicts import is_conflict
from store.conformity import conform
from store.lance_io import WriteReceipt
from store.remote_errors import typed_errors
from store.schemas import primary_key, schema_for
from store.sql import literals
from utils.errors import SchemaError
from utils.types import ChipProfile

_ATTEMPTS = 20
_LONGEST_WAIT_S = 2.0
_IDS_PER_VERSION = 1024
"""Fragment ids, and so files, of one commit; row addresses hold 32 bits of id: enough for four million versions."""
_KEYS_PER_STATEMENT = 2000


@dataclass(frozen=True, kw_only=True)
class StagedRows:
    """Files written beside a table and not yet part of it."""

    table: str
    """Table they are for."""
    fragments: tuple[str, ...]
    """Fragment metadata, JSON, one per file."""
    keys: tuple[str, ...]
    """Primary keys of the rows in them."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.keys)


@typed_errors
def stage(uri: str | Path, name: str, data: pa.Table, *, profile: ChipProfile | None = None) -> StagedRows:
    """Write ``data`` as files of table ``name``, created on first use; no reader sees them before :func:`commit`.

    Raises:
        SchemaError: ``data`` does not fit the table's schema.
        StoreNotWritableError: the place cannot be written.
    """
    schema = schema_for(name, profile)
    rows = conform(data, schema)
    dataset = lance_io.ensure_table(uri, name, profile=profile)
    found: list[FragmentMetadata] = []
    if len(rows):
        with _typed_refusals(uri):
            found = write_fragments(
                rows.select(dataset.schema.names),
                dataset,
                mode="append",
                max_rows_per_file=len(rows),
                data_storage_version=lance_io.STORAGE_VERSION,
            )
    return StagedRows(
        table=name,
        fragments=tuple(json.dumps(fragment.to_json()) for fragment in found),
        keys=tuple(rows[primary_key(schema)].to_pylist()),
    )


@typed_errors
def commit(
    uri: str | Path,
    name: str,
    staged: Sequence[StagedRows],
    *,
    profile: ChipProfile | None = None,
    planned_at: datetime | None = None,
    fence: Callable[[], bool] | None = None,
) -> WriteReceipt:
    """Make staged files rows of table ``name``, each key once.

    Args:
        uri: the store.
        name: the table.
        staged: what workers staged, each key at most once.
        profile: chip profile of the table.
        planned_at: newer rows of others stay as they are, see :func:`store.lance_io.write`.
        fence: whether the writer may still write, likewise.

    Raises:
        LeaseLostError: the fence is shut; no new row was left behind.
        StoreConflictError: other writers came first again and again.
        SchemaError: the table has another schema, or a key was staged twice; nothing was committed.
        StoreNotWritableError: the place cannot be written.
    """
    waiting = [part for part in staged if len(part)]
    _check_keys(name, waiting)
    inserted, updated = 0, 0
    version = lance_io.ensure_table(uri, name, profile=profile).version
    for attempt in range(_ATTEMPTS):
        dataset = lance_io.ensure_table(uri, name, profile=profile)
        # the commit below is on exactly this version: whoever takes this work over and commits comes in between
        lance_io.check_fence(fence)
        fresh, known = _parted(dataset, waiting)
        # the last attempt needs no luck: merge_insert brings its own retries
        if attempt == _ATTEMPTS - 1:
            fresh, known = [], waiting
        if known:
            receipt = lance_io.write(
                uri, name, _read(dataset, known), profile=profile, planned_at=planned_at, fence=fence
            )
            inserted, updated, version = inserted + receipt.inserted, updated + receipt.updated, receipt.version
            waiting = fresh
            if not waiting:
                break
            continue
        if not fresh:
            break
        try:
            with _typed_refusals(uri):
                version = _merged(dataset, fresh[:_IDS_PER_VERSION]).version
        except CommitConflictError:
            time.sleep(random.uniform(0, min(_LONGEST_WAIT_S, 0.02 * 2**attempt)))  # noqa: S311 - no secret
            continue
        inserted += sum(map(len, fresh[:_IDS_PER_VERSION]))
        waiting = fresh[_IDS_PER_VERSION:]
        if not waiting:
            break
    return WriteReceipt(table=name, version=version, inserted=inserted, updated=updated)


@typed_errors
def known_keys(uri: str | Path, name: str, keys: Sequence[str]) -> set[str]:
    """Those of ``keys`` that rows of table ``name`` have; none where there is no such table."""
    if not lance_io.table_exists(uri, name):
        return set()
    return _known_keys(lance_io.open_table(uri, name), keys)


@typed_errors
def commit_if_empty(uri: str | Path, name: str, data: pa.Table, *, profile: ChipProfile | None = None) -> bool:
    """Commit ``data`` only if the table holds no row; of racing callers one succeeds. Returns whether it was this one.

    Raises:
        SchemaError: ``data`` does not fit the table's schema.
        StoreNotWritableError: the place cannot be written.
    """
    staged: StagedRows | None = None
    while not (dataset := lance_io.ensure_table(uri, name, profile=profile)).count_rows():
        staged = staged or stage(uri, name, data, profile=profile)
        with suppress(CommitConflictError), _typed_refusals(uri):
            _merged(dataset, [staged])
            return True
    return False


@contextmanager
def _typed_refusals(uri: str | Path) -> Iterator[None]:
    """Inside the block, a place that cannot be written is one of our errors, and a lost race is Lance's conflict."""
    try:
        yield
    except CommitConflictError:
        raise
    except OSError as error:
        if is_conflict(error):
            raise CommitConflictError(str(error)) from error
        raise lance_io.not_writable(uri, error) from error


def _check_keys(name: str, staged: Sequence[StagedRows]) -> None:
    counts = Counter(key for part in staged for key in part.keys)
    twice = sorted(key for key, count in counts.items() if count > 1)
    if twice:
        raise SchemaError(
            f"{len(twice)} keys of table {name!r} were staged twice, such as {', '.join(twice[:3])}; "
            "commit one of them, then the other"
        )


def _parted(dataset: lance.LanceDataset, staged: Sequence[StagedRows]) -> tuple[list[StagedRows], list[StagedRows]]:
    """What holds only new keys, and what holds a key the table has."""
    found = _known_keys(dataset, [value for part in staged for value in part.keys])
    fresh = [part for part in staged if found.isdisjoint(part.keys)]
    return fresh, [part for part in staged if not found.isdisjoint(part.keys)]


def _known_keys(dataset: lance.LanceDataset, keys: Sequence[str]) -> set[str]:
    key, found = primary_key(dataset.schema), set[str]()
    for start in range(0, len(keys), _KEYS_PER_STATEMENT):
        where = f"{key} IN ({literals(keys[start : start + _KEYS_PER_STATEMENT])})"
        found |= set(dataset.to_table(columns=[key], filter=where)[key].to_pylist())
    return found


def _merged(dataset: lance.LanceDataset, staged: Sequence[StagedRows]) -> lance.LanceDataset:
    """Commit files on exactly this version; a commit in between is a conflict."""
    present = [fragment.metadata for fragment in dataset.get_fragments()]
    texts = [text for part in staged for text in part.fragments]
    # an index may still name a fragment that is gone, and would hide the rows of another one with its id;
    # a version is committed on once, so ids from its own range were never given before
    first = max([_IDS_PER_VERSION * dataset.version, *(fragment.id + 1 for fragment in present)])
    new = [FragmentMetadata.from_json(json.dumps(json.loads(text) | {"id": first + i})) for i, text in enumerate(texts)]
    return lance.LanceDataset.commit(
        dataset, lance.LanceOperation.Merge([*present, *new], dataset.lance_schema), read_version=dataset.version
    )


def _read(dataset: lance.LanceDataset, staged: Sequence[StagedRows]) -> pa.Table:
    """The rows of staged files."""
    tables = []
    for part in staged:
        for text in part.fragments:
            for file in json.loads(text)["files"]:
                place = f"{dataset.uri}/data/{file['path']}"
                reader = LanceFileReader(place, storage_options=dataset.latest_storage_options())
                tables.append(reader.read_all().to_table())
    return pa.concat_tables(tables)
