"""Some columns of some rows replaced in place: pixels, and all other columns, stay in the files they are in."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from store import lance_io
from store.conflicts import is_conflict, retried
from store.schemas import primary_key
from utils.errors import SchemaError


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """What a rewrite of columns did."""

    version: int
    """Version that holds the rows."""
    rows: int
    """Rows whose columns were written."""
    bytes_written: int
    """Size of all files the table gained, its manifest among them; those of other writers at the time count too."""


def rewrite_columns(
    uri: str | Path, table: str, chosen: Callable[[lance.LanceDataset], pa.Table]
) -> tuple[Rewritten, int]:
    """Replace columns of rows chosen by a look at the table, in one commit: where others commit first, look again.

    Args:
        uri: the store.
        table: the table.
        chosen: called with the table at its newest version; returns the key and the columns to write, perhaps no row.

    Returns:
        What was done, and the version the rows were chosen at.

    Raises:
        TableNotFoundError: the table does not exist.
        SchemaError: a column is not in the table, or of another type.
        StoreConflictError: other writers came first in every attempt; nothing was committed.
        StoreNotWritableError: the place cannot be written.
    """

    def attempt() -> tuple[Rewritten, int]:
        dataset = lance_io.open_table(uri, table)
        rows, seen = chosen(dataset), int(dataset.version)
        if not len(rows):
            return Rewritten(version=seen, rows=0, bytes_written=0), seen
        before = files_of(dataset)
        _merge(uri, dataset, _conformed(rows, dataset.schema))
        after = files_of(dataset)
        return Rewritten(version=int(dataset.version), rows=len(rows), bytes_written=gained(before, after)), seen

    return retried(attempt, what=f"a rewrite of columns of {table!r}")


def gained(before: dict[str, int], after: dict[str, int]) -> int:
    """Bytes of the files that are new, of two looks by :func:`files_of`."""
    return sum(after[path] for path in after.keys() - before.keys())


def _merge(uri: str | Path, dataset: lance.LanceDataset, rows: pa.Table) -> None:
    merge = dataset.merge_insert(primary_key(dataset.schema)).use_index(False)
    try:
        merge.when_matched_update_all().write_mode("rewrite_columns").conflict_retries(0).execute(rows)
    except OSError as error:
        raise error if is_conflict(error) else lance_io.not_writable(uri, error) from error


def _conformed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    missing = [name for name in rows.column_names if name not in schema.names]
    if missing:
        raise SchemaError(f"the table has no column {', '.join(missing)}")
    try:
        return rows.cast(pa.schema([schema.field(name) for name in rows.column_names]))
    except (pa.ArrowInvalid, ValueError) as error:
        raise SchemaError(f"columns do not fit the table: {error}") from error


def files_of(dataset: lance.LanceDataset) -> dict[str, int]:
    """Path → size in bytes of every file of all versions of a table, its manifests and indexes among them."""
    found: dict[str, Any] = dataset.all_files().read_all().to_pydict()
    return {str(path): int(size or 0) for path, size in zip(found["path"], found["size_bytes"], strict=True)}
