"""Rows of several partitions, committed together: what a chip rests on first, the chip itself last."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid5

import pyarrow as pa

from store import lance_io
from store.schemas import ERRORS
from store.sql import literals
from utils.failures import Failure
from utils.types import ChipProfile

_NAMESPACE = UUID("0d7c2c3e-6c5e-5d0b-8f43-5b1f6b6f7f11")

MOST_ROWS = 1024
"""Chips held before a commit, whatever the number of partitions: about 400 MB of the default profile."""


class CommitBuffer:
    """Collects the tables of finished partitions and commits them every ``commit_every`` partitions.

    ``training_data`` is written last: a row there says that its prompts, masks and errors are stored. A run killed
    between two writes makes the same rows again, with the same keys.
    """

    def __init__(
        self, uri: str | Path, profile: ChipProfile, *, run_id: str, build_config: str, commit_every: int
    ) -> None:
        """Point the buffer at a store; nothing is written yet."""
        self._uri, self._profile = uri, profile
        self._run_id, self._build_config = run_id, build_config
        self._commit_every = commit_every
        self._tables: dict[str, list[pa.Table]] = {"prompts": [], "masks": [], "training_data": []}
        self._failures: list[Failure] = []
        self._partitions = 0
        self.written = 0
        """Rows of ``training_data`` committed so far."""

    @property
    def full(self) -> bool:
        """Whether ``commit_every`` partitions, or :data:`MOST_ROWS` chips, wait to be committed."""
        rows = sum(len(table) for table in self._tables["training_data"])
        return self._partitions >= self._commit_every or rows >= MOST_ROWS

    def add(
        self,
        *,
        partition: int,
        samples: pa.Table,
        masks: pa.Table,
        prompts: pa.Table,
        failures: Sequence[Failure],
    ) -> None:
        """Take over one finished partition's rows."""
        self._tables["training_data"].append(samples)
        self._tables["masks"].append(masks)
        self._tables["prompts"].append(prompts)
        self.fail(failures, partition=partition)
        self._partitions += 1

    def fail(self, failures: Sequence[Failure], *, partition: int | None = None) -> None:
        """Take over failures; they are committed with the next flush."""
        for failure in failures:
            at = failure.partition if failure.partition is not None else partition
            self._failures.append(Failure(**{**vars(failure), "partition": at}))

    def known(self, failures: Sequence[Failure]) -> list[bool]:
        """Whether each failure was met before under these settings."""
        keys = [self._error_id(failure) for failure in failures]
        met = self._attempts(keys)
        return [key in met for key in keys]

    def flush(self) -> None:
        """Commit what waits.

        Raises:
            SchemaError: rows do not fit; nothing of their table was written.
            StoreNotWritableError: the store cannot be written.
        """
        if self._failures:
            lance_io.write(self._uri, "errors", self._error_rows())
            self._failures = []
        for name, parts in self._tables.items():
            if parts:
                receipt = lance_io.write(self._uri, name, pa.concat_tables(parts), profile=self._profile)
                if name == "training_data":
                    self.written += receipt.inserted + receipt.updated
                self._tables[name] = []
        self._partitions = 0

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
