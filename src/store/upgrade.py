"""Tables of an earlier schema version, brought to this one in place.

Columns are added beside the ones that are there: pixels are not rewritten, rows keep their ids, earlier versions and
tags stay and read as before. Every commit can be repeated and the version number changes last, so an upgrade that was
killed goes on when it is run again. No writer may be at work meanwhile.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.compute as pc

from store import lance_io
from store.columns import SCHEMA_VERSION
from store.conflicts import committed
from store.schema_steps import STEPS, Added, Recomputed, Step
from store.schemas import TABLES, primary_key, profile_of, schema_for
from utils.errors import UpgradeError

_ROWS_AT_ONCE = 8192
_KEY_METADATA = "lance-schema:"


@dataclass(frozen=True, kw_only=True)
class Upgraded:
    """What an upgrade did to one table, or would do."""

    table: str
    """Table name."""
    dry_run: bool
    """Whether nothing was changed."""
    found: int
    """Schema version before."""
    reached: int
    """Schema version after, or the one that would be reached."""
    rows: int
    """Rows of the table."""
    columns_added: tuple[str, ...]
    """Columns that were missing."""
    rows_changed: int
    """Rows in which a column whose meaning changed was computed anew."""


def outdated(uri: str | Path, tables: Iterable[str]) -> list[str]:
    """Those of ``tables`` that were written with an earlier schema version.

    Raises:
        TableNotFoundError: a table does not exist.
        UpgradeError: a table is of a newer version, or no table of this project.
    """
    return [table for table in tables if _version_of(uri, table, lance_io.open_table(uri, table)) < SCHEMA_VERSION]


def check(uri: str | Path, tables: Iterable[str]) -> None:
    """Refuse tables that cannot be upgraded, before any of them is changed.

    Raises:
        TableNotFoundError: a table does not exist.
        UpgradeError: a table is of a newer version, no table of this project, or no step leads from its version.
    """
    for table in tables:
        dataset = lance_io.open_table(uri, table)
        for version in range(_version_of(uri, table, dataset), SCHEMA_VERSION):
            if version not in STEPS:
                raise UpgradeError(
                    f"table {table!r} in {uri} has schema version {version}, from which no step leads on"
                )


def upgrade(uri: str | Path, table: str, *, dry_run: bool = False) -> Upgraded:
    """Bring one table to this schema version; a table that has it already is left alone.

    Raises:
        TableNotFoundError: the table does not exist.
        UpgradeError: the table is of a newer version, no table of this project, or did not reach this version's schema.
        StoreConflictError: other writers committed first every time; run it again.
        StoreNotWritableError: the store cannot be written.
    """
    check(uri, [table])
    if not dry_run:
        lance_io.check_writable(uri)
    dataset = lance_io.open_table(uri, table)
    found, before = _version_of(uri, table, dataset), set(dataset.schema.names)
    added, changed = [], 0
    for version in range(found, SCHEMA_VERSION):
        step = STEPS[version]
        added += [one.field.name for one in _missing(step.added.get(table, ()), before)]
        if not dry_run:
            _change_columns(uri, table, step)
        changed += _recompute(uri, table, step, dry_run=dry_run)
        if not dry_run:
            _reach(uri, table, version + 1)
    return Upgraded(
        table=table,
        dry_run=dry_run,
        found=found,
        reached=SCHEMA_VERSION,
        rows=int(dataset.count_rows()),
        columns_added=tuple(added),
        rows_changed=changed,
    )


def _version_of(uri: str | Path, table: str, dataset: lance.LanceDataset) -> int:
    metadata = dataset.schema.metadata or {}
    stated = metadata.get(b"schema_version", b"").decode()
    if table not in TABLES or metadata.get(b"table", b"").decode() != table or not stated.isdecimal():
        raise UpgradeError(f"table {table!r} in {uri} was not written by this project; it cannot be upgraded")
    if int(stated) > SCHEMA_VERSION:
        raise UpgradeError(
            f"table {table!r} in {uri} has schema version {stated}, newer than {SCHEMA_VERSION}: "
            "it was written by a later release; install that one"
        )
    return int(stated)


def _missing(added: Iterable[Added], columns: set[str]) -> list[Added]:
    return [one for one in added if one.field.name not in columns and (one.beside is None or one.beside in columns)]


def _change_columns(uri: str | Path, table: str, step: Step) -> None:
    def commit() -> None:
        dataset = lance_io.open_table(uri, table)
        strict = [name for name in step.nullable.get(table, ()) if not dataset.schema.field(name).nullable]
        if strict:
            dataset.alter_columns(*({"path": name, "nullable": True} for name in strict))  # type: ignore[arg-type]
        missing = _missing(step.added.get(table, ()), set(dataset.schema.names))
        if missing:
            _add(dataset, missing, primary_key(schema_for(table)))

    _committed(table, commit)


def _add(dataset: lance.LanceDataset, missing: Sequence[Added], key: str) -> None:
    schema = pa.schema([one.field for one in missing])

    @lance.batch_udf(output_schema=schema)
    def values(batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = [pa.array([one.value] * len(batch), one.field.type) for one in missing]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    dataset.add_columns(values, read_columns=[key])


def _recompute(uri: str | Path, table: str, step: Step, *, dry_run: bool) -> int:
    """Compute anew what changed its meaning; writes only rows that differ and returns how many."""
    dataset, work = lance_io.open_table(uri, table), step.recomputed.get(table)
    if work is None or not set(work.reads) <= set(dataset.schema.names):
        return 0
    key, changed = primary_key(schema_for(table)), 0
    for rows in _differing(dataset, work, key):
        changed += len(rows)
        if not dry_run:
            _committed(table, partial(_update, uri, table, key, rows))
    return changed


def _differing(dataset: lance.LanceDataset, work: Recomputed, key: str) -> Iterator[pa.Table]:
    """Key and new values of the rows that change, block by block."""
    there = [name for name in work.writes if name in dataset.schema.names]
    columns = list(dict.fromkeys([key, *work.reads, *there]))
    for batch in dataset.scanner(columns=columns, batch_size=_ROWS_AT_ONCE).to_batches():
        rows = pa.Table.from_batches([batch])
        values = work.values(rows)
        differs = pa.chunked_array([pa.repeat(False, len(rows))])
        for name, new in values.items():
            old = rows[name] if name in there else pa.chunked_array([pa.nulls(len(rows), new.type)])
            same = pc.or_(pc.fill_null(pc.equal(old, new), False), pc.and_(pc.is_null(old), pc.is_null(new)))
            differs = pc.or_(differs, pc.invert(same))
        found = pa.table({key: rows[key], **values}).filter(differs)
        if len(found):
            yield found


def _update(uri: str | Path, table: str, key: str, rows: pa.Table) -> None:
    dataset = lance_io.open_table(uri, table)
    typed = rows.cast(pa.schema([dataset.schema.field(name) for name in rows.column_names]))
    dataset.merge_insert(key).when_matched_update_all().write_mode("rewrite_columns").execute(typed)


def _reach(uri: str | Path, table: str, version: int) -> None:
    """Write the version, and with the last one what this release says about the table and its columns."""
    if version < SCHEMA_VERSION:
        number: dict[str, str | None] = {"schema_version": str(version)}
        _committed(table, lambda: lance_io.open_table(uri, table).update_schema_metadata(number))
        return
    found = lance_io.open_table(uri, table).schema
    wanted = schema_for(table, profile_of(found) if b"profile" in found.metadata else None)
    _committed(table, lambda: _tell(uri, table, wanted))
    stated: dict[str, str | None] = {**_text(wanted.metadata)}
    if not lance_io.same_shape(found.with_metadata(wanted.metadata), wanted):
        raise UpgradeError(
            f"table {table!r} in {uri} has other columns than schema version {version}; {_names(found, wanted)}"
        )
    _committed(table, lambda: lance_io.open_table(uri, table).update_schema_metadata(stated, replace=True))


def _tell(uri: str | Path, table: str, wanted: pa.Schema) -> None:
    """Docs and units of the columns, which readers find in field metadata."""
    dataset = lance_io.open_table(uri, table)
    updates = {}
    for field in wanted:
        if field.name not in dataset.schema.names:
            continue
        old, new = _text(dataset.schema.field(field.name).metadata), _text(field.metadata)
        changes = {key: new.get(key) for key in old | new if old.get(key) != new.get(key)}
        changes = {key: value for key, value in changes.items() if not key.startswith(_KEY_METADATA)}
        if changes:
            updates[field.name] = changes
    if updates:
        dataset.update_field_metadata(updates)


def _text(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (metadata or {}).items()}


def _names(found: pa.Schema, wanted: pa.Schema) -> str:
    fields = {field.name: field for field in found}
    missing = [field.name for field in wanted if field.name not in fields]
    other = [field.name for field in wanted if field.name in fields and field != fields[field.name]]
    return f"missing: {missing}, unknown: {sorted(set(fields) - set(wanted.names))}, of another type: {other}"


def _committed(table: str, commit: Callable[[], object]) -> None:
    committed(commit, what=f"the upgrade of {table!r}")
