"""Upkeep of tables: fragments merged to a size that suits their rows, indexes brought up to date.

Every step is a commit of its own, safe beside writers and readers: rows, their ids and earlier versions stay. A step
that loses a race is planned anew; one that is killed leaves files that ``store.cleaning`` removes later.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

import lance
import pyarrow as pa
from lance.optimize import Compaction, CompactionOptions, CompactionPlan

from store import lance_io
from store.conflicts import committed
from store.table_state import TableState, row_bytes, state_of, whole_tables

FRAGMENT_BYTES: Final = 256 << 20
"""Size that compaction gives a fragment, bytes."""
DUE_FRAGMENTS: Final = 100
"""Fragments too many from which upkeep pays: a commit and a filtered read take about 0.3 ms longer for each."""
_BATCH_BYTES = 64 << 20
_MOST_ROWS = 1 << 20
_MOST_DELETED = 0.1


@dataclass(frozen=True, kw_only=True)
class Optimized:
    """What upkeep did to one table, or would do."""

    table: str
    """Table name."""
    dry_run: bool
    """Whether nothing was changed; ``after`` then tells what would be: versions and bytes are those of now."""
    target_rows: int
    """Rows per fragment that compaction aims at."""
    indexes_made: tuple[str, ...]
    """Columns that got their missing index."""
    indexes_updated: tuple[str, ...]
    """Columns whose index lacked rows."""
    before: TableState
    """The table before."""
    after: TableState
    """The table after."""


def optimize(uri: str | Path, table: str, *, dry_run: bool = False) -> Optimized:
    """Merge small fragments and bring indexes up to date; a second call finds nothing to do.

    Raises:
        TableNotFoundError: the table does not exist.
        StoreConflictError: writers committed first every time; what was merged so far stays.
        StoreNotWritableError: the store cannot be written.
        StoreError: a file cannot be read or written.
    """
    dataset = lance_io.open_table(uri, table)
    before, target = state_of(dataset), target_rows(dataset.schema)
    missing, behind = index_work(dataset, table)
    if dry_run:
        after = TableState(**{**vars(before), "fragments": len(merged_sizes(fragment_rows(dataset), target))})
    else:
        lance_io.check_writable(uri)
        if missing or behind:
            # Lance never merges rows that an index holds with rows it lacks
            committed(lambda: lance_io.bring_indexes_up(uri, table), what=f"the indexes of {table!r}")
        _compact(uri, table, target)
        after = state_of(lance_io.open_table(uri, table))
    return Optimized(
        table=table,
        dry_run=dry_run,
        target_rows=target,
        indexes_made=missing,
        indexes_updated=behind,
        before=before,
        after=after,
    )


def due(uri: str | Path) -> list[str]:
    """Tables that upkeep would rid of :data:`DUE_FRAGMENTS` fragments or more; reads what tables say of themselves.

    Raises:
        StoreError: a table cannot be read.
    """
    tables = ((name, lance_io.open_table(uri, name)) for name in whole_tables(uri))
    return [
        name
        for name, dataset in tables
        if len(now := fragment_rows(dataset)) - len(merged_sizes(now, target_rows(dataset.schema))) >= DUE_FRAGMENTS
    ]


def target_rows(schema: pa.Schema) -> int:
    """Rows of one fragment: :data:`FRAGMENT_BYTES` by the nominal width of a row, at most 2^20.

    The width comes from the schema, never from files, so that the target stays the same once fragments are merged:
    a target that moves would merge them again and again.
    """
    return max(1, min(_MOST_ROWS, FRAGMENT_BYTES // row_bytes(schema, stored=True)))


def index_work(dataset: lance.LanceDataset, table: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns whose index is missing, and columns whose index lacks rows."""
    if not dataset.count_rows():
        return (), ()
    indexes = {index.field_names[0]: index.name for index in dataset.describe_indices() if len(index.field_names) == 1}
    missing = tuple(column for column in lance_io.indexed_columns(table) if column not in indexes)
    behind = tuple(
        column
        for column, name in sorted(indexes.items())
        if dataset.stats.index_stats(name).get("num_unindexed_rows", 0)
    )
    return missing, behind


def merged_sizes(fragments: Iterable[tuple[int, int]], target: int) -> list[int]:
    """Rows of each fragment after compaction; see :func:`merged_fragments`."""
    return [rows for rows, _ in merged_fragments(fragments, target)]


def merged_fragments(fragments: Iterable[tuple[int, int]], target: int) -> list[tuple[int, int]]:
    """Rows left and rows deleted of each fragment after compaction, in table order, as Lance merges group by group.

    A group are neighbours below the target, or with more than a tenth of their rows deleted, until it reaches the
    target; what is too little for another group goes to the last one. Its rows are shared out over as many files as
    reach the target, which move to the end of the table.

    Args:
        fragments: rows left and rows deleted of each fragment, in table order.
        target: rows per fragment.
    """
    now = list(fragments)
    while group := _first_group(now, target):
        merged = sum(rows for rows, _ in now[group])
        del now[group]
        now += [(rows, 0) for rows in _files(merged, target)]
    return now


def _first_group(fragments: Sequence[tuple[int, int]], target: int) -> slice | None:
    start = 0
    for end, (rows, deleted) in enumerate((*fragments, (target, 0))):
        if rows + deleted < target or _mostly_deleted(rows, deleted):
            continue
        if end - start > 1 or (end - start == 1 and _mostly_deleted(*fragments[start])):
            return slice(start, _group_end([size for size, _ in fragments[start:end]], target) + start)
        start = end + 1
    return None


def _files(rows: int, target: int) -> list[int]:
    """Rows per file of one merged group: as many files as the target fits in whole, of equal size."""
    files = max(1, rows // target)
    least, more = divmod(rows, files)
    return [least + (k < more) for k in range(files)] if rows else []


def _mostly_deleted(rows: int, deleted: int) -> bool:
    return deleted > _MOST_DELETED * (rows + deleted)


def _group_end(sizes: Sequence[int], target: int) -> int:
    until = list(accumulate(sizes))
    full = next((k for k, rows in enumerate(until, 1) if rows >= target), len(sizes))
    return full if until[-1] - until[full - 1] >= target else len(sizes)


def fragment_rows(dataset: lance.LanceDataset) -> list[tuple[int, int]]:
    """Rows left and rows deleted of each fragment, in table order."""
    found = [fragment.metadata for fragment in dataset.get_fragments()]
    return [(int(one.num_rows), int(one.num_deletions)) for one in found]


def _compact(uri: str | Path, table: str, target: int) -> None:
    """Merge group by group, each in a commit of its own, at most as often as there are fragments now.

    Every merge leaves fewer, so that the end is reached unless writers keep adding: theirs wait for the next call.
    """
    for _ in range(len(lance_io.open_table(uri, table).get_fragments())):
        if not committed(lambda: _merge_one_group(uri, table, target), what=f"compaction of {table!r}"):
            break


def _merge_one_group(uri: str | Path, table: str, target: int) -> bool:
    dataset = lance_io.open_table(uri, table)
    plan = _plan(dataset, target)
    if plan.num_tasks():
        Compaction.commit(dataset, [plan.tasks[0].execute(dataset)])
    return bool(plan.num_tasks())


def _plan(dataset: lance.LanceDataset, target: int) -> CompactionPlan:
    options: CompactionOptions = {
        "target_rows_per_fragment": target,
        "batch_size": max(1, _BATCH_BYTES // row_bytes(dataset.schema, stored=False)),
        "materialize_deletions_threshold": _MOST_DELETED,
    }
    return Compaction.plan(dataset, options=options)
