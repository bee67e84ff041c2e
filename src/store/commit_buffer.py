"""Rows of several partitions, committed together: what a chip rests on first, the chip itself last."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid5

import pyarrow as pa
import pyarrow.compute as pc

from store import fragments, lance_io
from store.lance_io import WriteReceipt
from store.partition_rows import PartitionRows
from store.schemas import ERRORS
from store.sql import literals
from utils.failures import Failure
from utils.types import ChipProfile

_NAMESPACE = UUID("0d7c2c3e-6c5e-5d0b-8f43-5b1f6b6f7f11")

MOST_ROWS = 1024
"""Chips held before a commit, whatever the number of partitions."""


class CommitBuffer:
    """Collects the tables of finished partitions and commits them every ``commit_every`` partitions.

    ``training_data`` is written last: a row there says that its prompts, masks, candidates and errors are stored. A run
    killed between two writes makes the same rows again, with the same keys.
    """

    def __init__(
        self,
        uri: str | Path,
        profile: ChipProfile,
        *,
        run_id: str,
        build_config: str,
        commit_every: int,
        most_bytes: int = 512 << 20,
        planned_at: datetime | None = None,
    ) -> None:
        """Point the buffer at a store; nothing is written yet.

        Args:
            uri: the store.
            profile: chip profile of its tables.
            run_id: the run.
            build_config: hash of its settings.
            commit_every: partitions per commit.
            most_bytes: bytes of rows held before a commit, whatever the number of partitions.
            planned_at: when the run looked at what is missing; newer rows of others stay.
        """
        self._uri, self._profile = uri, profile
        self._run_id, self._build_config = run_id, build_config
        self._commit_every, self._most_bytes, self._planned_at = commit_every, most_bytes, planned_at
        self._waiting: list[PartitionRows] = []
        self._failures: list[Failure] = []
        self.written = 0
        """Rows of ``training_data`` committed so far."""
        self.masks_written = 0
        """Rows of ``masks`` committed so far."""

    @property
    def full(self) -> bool:
        """Whether ``commit_every`` partitions, :data:`MOST_ROWS` chips, or too many bytes wait to be committed."""
        waiting = self._waiting
        chips = sum(len(part) for rows in waiting for part in (*rows.samples, *rows.staged))
        size = sum(rows.nbytes for rows in waiting)
        return len(waiting) >= self._commit_every or chips >= MOST_ROWS or size >= self._most_bytes

    def take(self, rows: PartitionRows) -> None:
        """Take over one finished unit of work, in one step: an interrupt leaves all of it or nothing."""
        self._waiting.append(rows)

    def drop(self) -> None:
        """Forget what waits: another run took it over."""
        self._waiting, self._failures = [], []

    def fail(self, failures: Sequence[Failure], *, partition: int | None = None) -> None:
        """Take over failures; they are committed with the next flush."""
        for failure in failures:
            at = failure.partition if failure.partition is not None else partition
            self._failures.append(replace(failure, partition=at))

    def known(self, failures: Sequence[Failure]) -> list[bool]:
        """Whether each failure was met before under these settings."""
        keys = [self._error_id(failure) for failure in failures]
        met = self._attempts(keys)
        return [key in met for key in keys]

    def flush(self, *, fence: Callable[[], bool] | None = None) -> None:
        """Commit what waits.

        Args:
            fence: whether the run may still write what waits, see :func:`store.lance_io.write`.

        Raises:
            SchemaError: rows do not fit; nothing of their table was written.
            StoreNotWritableError: the store cannot be written.
            LeaseLostError: the fence is shut; what waited still waits.
        """
        joined = self._joined()
        self._failures += joined.failures
        joined.failures = []
        if self._failures:
            lance_io.write(self._uri, "errors", self._error_rows())
            self._failures = []
        # rows leave what waits in the line that counts them: whenever an interrupt comes, none is counted twice
        if joined.prompts:
            self._write("prompts", pa.concat_tables(joined.prompts), fence)
            joined.prompts = []
        if joined.masks:
            receipt = self._write("masks", pa.concat_tables(joined.masks), fence)
            joined.masks, self.masks_written = [], self.masks_written + receipt.rows
        if joined.candidates:
            self._write("candidates", pa.concat_tables(joined.candidates), fence)
            joined.candidates = []
        if joined.samples:
            self._replace_known(joined, fence)
        if joined.samples:
            staged = fragments.stage(
                self._uri, "training_data", pa.concat_tables(joined.samples), profile=self._profile
            )
            joined.samples, joined.staged = [], [*joined.staged, staged]
        if joined.staged:
            receipt = fragments.commit(
                self._uri,
                "training_data",
                joined.staged,
                profile=self._profile,
                planned_at=self._planned_at,
                fence=fence,
            )
            joined.staged, self.written = [], self.written + receipt.rows
        self._waiting = [rows for rows in self._waiting if rows is not joined]

    def _joined(self) -> PartitionRows:
        """What waits as one unit, in one step put in its place: an interrupt neither loses nor doubles a row."""
        joined = PartitionRows()
        for rows in self._waiting:
            for name, values in vars(rows).items():
                getattr(joined, name).extend(values)
        self._waiting[:] = [joined]
        return joined

    def _replace_known(self, joined: PartitionRows, fence: Callable[[], bool] | None) -> None:
        """Merge rows whose key the table has; the others are left, and are staged a few times faster than merged."""
        samples = pa.concat_tables(joined.samples)
        keys = samples["uuid"].to_pylist()
        known = fragments.known_keys(self._uri, "training_data", keys)
        fresh = pa.array([key not in known for key in keys], pa.bool_())
        if known:
            receipt = self._write("training_data", samples.filter(pc.invert(fresh)), fence)
            left = samples.filter(fresh)
            joined.samples, self.written = [left] if len(left) else [], self.written + receipt.rows

    def _write(self, name: str, rows: pa.Table, fence: Callable[[], bool] | None) -> WriteReceipt:
        return lance_io.write(self._uri, name, rows, profile=self._profile, planned_at=self._planned_at, fence=fence)

    def _error_rows(self) -> pa.Table:
        now = datetime.now(UTC)
        rows = {
            self._error_id(failure): {
                "run_id": self._run_id,
                "build_config": self._build_config,
                **vars(failure),
                "input_ids": list(failure.input_ids),
                "occurred_at": now,
            }
            for failure in self._failures
        }
        attempts = self._attempts(list(rows))
        return pa.Table.from_pylist(
            [row | {"error_id": key, "attempt": attempts.get(key, 0) + 1} for key, row in rows.items()], schema=ERRORS
        )

    def _error_id(self, failure: Failure) -> str:
        parts = (
            self._build_config,
            failure.node,
            failure.error_type,
            failure.uuid,
            failure.partition,
            failure.input_ids,
            failure.input_set,
        )
        return str(uuid5(_NAMESPACE, repr(parts)))

    def _attempts(self, keys: list[str]) -> dict[str, int]:
        """Error id → runs before this one that met it."""
        if not keys:
            return {}
        known = lance_io.scan(self._uri, "errors", ["error_id", "attempt", "run_id"], f"error_id IN ({literals(keys)})")
        return {row["error_id"]: row["attempt"] - (row["run_id"] == self._run_id) for row in known.to_pylist()}
