"""Rows of ``detections``: what a search found is stored as a whole, and read with filters."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from store import lance_io
from store.discovery_schemas import DETECTIONS
from store.sql import literal, literals
from utils.errors import SchemaError

VERDICT_COLUMNS = ("verdict", "confidence", "reasons", "validation_recipe", "validated_at")
"""What validation writes."""
_RUN_COLUMNS = ("run_id", "created_at")
_KEYS_AT_ONCE = 2000


@dataclass(frozen=True, kw_only=True)
class StoredDetections:
    """What storing the detections of a search did."""

    inserted: int
    """Rows that were new."""
    updated: int
    """Rows that are other than before."""
    unchanged: int
    """Rows that were left alone."""
    deleted: int
    """Rows of the search that it does not find any more."""

    def counts(self) -> dict[str, int]:
        """The same, by name."""
        return dict(vars(self))


def store_detections(store: str | Path, table: pa.Table, search_id: str) -> StoredDetections:
    """Make the rows of one search those of ``table``; the same rows again change nothing.

    A row whose outline is that of the stored row keeps its verdict; one that is equal in all but run and time stays as
    it is. Rows the search does not find any more are deleted, with their evidence.

    Args:
        store: the store.
        table: schema of ``detections``, all of one search, not judged.
        search_id: the search.

    Raises:
        SchemaError: a row is of another search, or an id occurs twice.
        StoreNotWritableError: the store cannot be written.
    """
    ids = table["detection_id"].to_pylist()
    if len(set(ids)) < len(ids) or set(table["search_id"].to_pylist()) - {search_id}:
        raise SchemaError(f"detections to store are those of search {search_id}, each once")
    lance_io.ensure_table(store, "detections")
    stored = lance_io.scan(store, "detections", DETECTIONS.names, f"search_id = {literal(search_id)}")
    kept, changed = _compared(table, stored)
    written = table.filter(pa.array(changed, pa.bool_()))
    receipt = lance_io.write(store, "detections", _with_verdicts(written, stored)) if len(written) else None
    gone = sorted(set(stored["detection_id"].to_pylist()) - set(ids))
    deleted = lance_io.delete(store, "detections", gone, where=f"search_id = {literal(search_id)}") if gone else 0
    _delete_evidence(store, gone)
    return StoredDetections(
        inserted=receipt.inserted if receipt else 0,
        updated=receipt.updated if receipt else 0,
        unchanged=kept,
        deleted=deleted,
    )


def read_detections(
    store: str | Path,
    *,
    search_id: str | None = None,
    verdicts: Sequence[str] = (),
    where: str | None = None,
    columns: Sequence[str] = (),
) -> pa.Table:
    """Detections that satisfy all that is asked, sorted by search and id; empty where there are none.

    Args:
        store: the store.
        search_id: of this search only.
        verdicts: of these verdicts only; ``none`` stands for those not judged.
        where: a further condition (Lance SQL).
        columns: columns besides the key; none are all.

    Raises:
        StoreError: the store cannot be read, or the condition is none.
    """
    asked = []
    if search_id is not None:
        asked.append(f"search_id = {literal(search_id)}")
    if verdicts:
        named = [verdict for verdict in verdicts if verdict != "none"]
        either = [f"verdict IN ({literals(named)})"] if named else []
        asked.append(" OR ".join([*either, *(["verdict IS NULL"] if "none" in verdicts else [])]))
    if where:
        asked.append(where)
    condition = " AND ".join(f"({part})" for part in asked) or None
    wanted = [*dict.fromkeys(["detection_id", "search_id", *columns])] if columns else DETECTIONS.names
    rows = lance_io.scan(store, "detections", wanted, condition)
    return rows.sort_by([("search_id", "ascending"), ("detection_id", "ascending")])


def _compared(table: pa.Table, stored: pa.Table) -> tuple[int, list[bool]]:
    """How many rows are stored as they are, and whether each is not."""
    names = [name for name in DETECTIONS.names if name not in VERDICT_COLUMNS + _RUN_COLUMNS]
    before = {row["detection_id"]: row for row in stored.select(names).to_pylist()}
    changed = [row != before.get(row["detection_id"]) for row in table.select(names).to_pylist()]
    return changed.count(False), changed


def _with_verdicts(written: pa.Table, stored: pa.Table) -> pa.Table:
    """Rows with the verdict of the stored row of the same outline; null where there is none."""
    names = ["detection_id", "outline", *VERDICT_COLUMNS]
    before = {(row["detection_id"], row["outline"]): row for row in stored.select(names).to_pylist()}
    keys = zip(written["detection_id"].to_pylist(), written["outline"].to_pylist(), strict=True)
    rows = [before.get(key, {}) for key in keys]
    for name in VERDICT_COLUMNS:
        at = written.schema.get_field_index(name)
        field = written.schema.field(name)
        written = written.set_column(at, field, pa.array([row.get(name) for row in rows], field.type))
    return written


def _delete_evidence(store: str | Path, detection_ids: list[str]) -> None:
    """Take the evidence on detections that are gone out of the store."""
    for start in range(0, len(detection_ids), _KEYS_AT_ONCE):
        these = literals(detection_ids[start : start + _KEYS_AT_ONCE])
        rows = lance_io.scan(store, "evidence", ["evidence_id"], f"detection_id IN ({these})")
        if len(rows):
            lance_io.delete(store, "evidence", pc.unique(rows["evidence_id"]).to_pylist())
