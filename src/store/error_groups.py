"""What failed, grouped by cause: rows of ``errors`` whose node, error class and traceback are equal."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from store import lance_io
from store.remote_errors import typed_errors
from store.sql import literal
from utils.errors import StoreError
from utils.retry import is_transient_type

_COLUMNS = [
    "node", "error_type", "traceback_hash", "message", "partition", "uuid", "input_ids", "attempt", "run_id",
    "build_config", "occurred_at",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ErrorGroup:
    """Failures with one cause."""

    node: str
    """Node that met them."""
    error_type: str
    """Exception class."""
    traceback_hash: str
    """Hash of the traceback's frames."""
    failures: int
    """Rows."""
    chips: int
    """Different chips among them."""
    partitions: int
    """Different partitions among them."""
    attempts: int
    """Most runs that met one of them."""
    passes: bool
    """Whether it is the network's, and may be gone the next time."""
    latest: datetime
    """When one of them last happened."""
    message: str
    """Text of the latest one."""
    examples: tuple[str, ...]
    """Some of what went in: chips, else labels, scenes or partitions."""


@typed_errors
def error_groups(
    uri: str | Path, *, run_id: str | None = None, node: str | None = None, examples: int = 3
) -> list[ErrorGroup]:
    """Failures of the store by cause, most frequent first; empty where nothing failed.

    Args:
        uri: the store.
        run_id: only what this run met last; None is all.
        node: only what this node met; None is all.
        examples: how many inputs each group names.

    Raises:
        StoreError: there is no store at ``uri``.
    """
    if not lance_io.table_names(uri):
        raise StoreError(f"no store at {uri}; name one with --store, or make one with `python -m dataflows run build`")
    wanted = {"run_id": run_id, "node": node}
    where = " AND ".join(f"{name} = {literal(value)}" for name, value in wanted.items() if value is not None) or None
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in lance_io.scan(uri, "errors", _COLUMNS, where).to_pylist():
        groups.setdefault((row["node"], row["error_type"], row["traceback_hash"]), []).append(row)
    found = [_group(rows, examples) for rows in groups.values()]
    return sorted(found, key=lambda group: (-group.failures, group.node, group.error_type, group.traceback_hash))


def _group(rows: Sequence[dict[str, Any]], examples: int) -> ErrorGroup:
    latest = max(rows, key=lambda row: (row["occurred_at"], row["message"]))
    named = [row["uuid"] or next(iter(row["input_ids"]), None) or f"{row['partition'] or 0:x}" for row in rows]
    return ErrorGroup(
        node=latest["node"],
        error_type=latest["error_type"],
        traceback_hash=latest["traceback_hash"],
        failures=len(rows),
        chips=len({row["uuid"] for row in rows} - {None}),
        partitions=len({row["partition"] for row in rows} - {None}),
        attempts=max(row["attempt"] for row in rows),
        passes=is_transient_type(latest["error_type"]),
        latest=latest["occurred_at"],
        message=latest["message"],
        examples=tuple(sorted(set(named))[:examples]),
    )
