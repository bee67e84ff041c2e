"""Leases: who works on what right now, so that runs on one store share work instead of doing it twice.

Nothing rests on a lease. A holder that outlives its lease writes rows that ``store.lance_io.write`` compares with what
others wrote meanwhile; see its ``planned_at``.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from store import lance_io
from store.remote_errors import typed_errors
from store.schemas import LEASES
from store.sql import instant, literal, literals


@cache
def process_space() -> str:
    """Name of the place where a process id means one process: host, and on Linux this boot and the PID namespace.

    Machines of one image may share a host name, and so do containers on the host's network.
    """
    names = [socket.gethostname()]
    with suppress(OSError):
        names.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        names.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(names)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A run that takes leases: where it is, and for how long it takes them."""

    run_id: str
    """Id of the run."""
    lease_s: float
    """Seconds a lease lasts unless it is renewed."""
    host: str = field(default_factory=process_space)
    """Where it runs, see :func:`process_space`."""
    pid: int = field(default_factory=os.getpid)
    """Its process id."""


@typed_errors
def claim(
    uri: str | Path,
    holder: Holder,
    lease_ids: Sequence[str],
    *,
    renew: Sequence[str] = (),
    give_back: Sequence[str] = (),
) -> set[str]:
    """Take leases, renew some and give others back, in one commit; returns which ``holder`` has of the first two.

    A lease is free when nobody has it, it has expired, or its holder was on this machine and is dead. One that expired
    is renewed all the same, unless another run took it meanwhile.

    Args:
        uri: the store.
        holder: the run.
        lease_ids: leases to take.
        renew: leases the run took before and has not given back.
        give_back: likewise.

    Raises:
        StoreNotWritableError: the store cannot be written.
    """
    granted: set[str] = set()

    def rows(dataset: lance.LanceDataset) -> pa.Table:
        now = datetime.now(UTC)
        known = _known(dataset, [*lease_ids, *renew, *give_back])
        granted.clear()
        granted.update(key for key in lease_ids if _is_free(known.get(key), holder, now))
        granted.update(key for key in renew if key in known and known[key]["run_id"] == holder.run_id)
        expiry = now + timedelta(seconds=holder.lease_s)
        taken = [_row(key, known.get(key), holder, expiry) for key in sorted(granted)]
        mine = (known[key] for key in give_back if key in known and known[key]["run_id"] == holder.run_id)
        return pa.Table.from_pylist([*taken, *(row | {"expires_at": now} for row in mine)], schema=LEASES)

    lance_io.write_chosen(uri, "leases", rows)
    return granted


@typed_errors
def forget(uri: str | Path, holder: Holder, lease_ids: Sequence[str]) -> None:
    """Delete leases that ``holder`` gave back: each claim leaves a fragment, which lasts as long as a row in it.

    Raises:
        StoreConflictError: other writers came first in every attempt.
        StoreNotWritableError: the store cannot be written.
    """
    returned = f"run_id = {literal(holder.run_id)} AND expires_at <= {instant(datetime.now(UTC))}"
    lance_io.delete(uri, "leases", lease_ids, where=returned)


@typed_errors
def release(uri: str | Path, holder: Holder) -> None:
    """Give back whatever ``holder`` has.

    Raises:
        StoreNotWritableError: the store cannot be written.
    """
    mine = f"run_id = {literal(holder.run_id)}"
    rows = lance_io.scan(uri, "leases", ["lease_id"], mine)
    # one that expired may have another holder by now
    lance_io.delete(uri, "leases", rows["lease_id"].to_pylist(), where=mine)


@typed_errors
def living(uri: str | Path, lease_ids: Sequence[str]) -> set[str]:
    """Those of the leases that somebody holds: not expired, and not by a dead process of this machine."""
    if not lance_io.table_exists(uri, "leases"):
        return set()
    now = datetime.now(UTC)
    return {key for key, row in _known(lance_io.open_table(uri, "leases"), lease_ids).items() if _is_held(row, now)}


def _known(dataset: lance.LanceDataset, lease_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    if not lease_ids:
        return {}
    rows = dataset.to_table(filter=f"lease_id IN ({literals(lease_ids)})").to_pylist()
    return {row["lease_id"]: row for row in rows}


def _row(key: str, known: Mapping[str, Any] | None, holder: Holder, expiry: datetime) -> dict[str, Any]:
    taken_over = known is not None and known["run_id"] != holder.run_id
    return {
        "lease_id": key,
        "run_id": holder.run_id,
        "host": holder.host,
        "pid": holder.pid,
        "epoch": (known["epoch"] if known else 0) + taken_over,
        "expires_at": expiry,
    }


def _is_free(row: Mapping[str, Any] | None, holder: Holder, now: datetime) -> bool:
    return row is None or row["run_id"] == holder.run_id or not _is_held(row, now)


def _is_held(row: Mapping[str, Any], now: datetime) -> bool:
    if row["expires_at"] <= now:
        return False
    return row["host"] != process_space() or _is_alive(row["pid"])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
