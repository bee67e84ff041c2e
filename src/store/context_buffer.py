"""Context rows of several partitions, committed together; failures go first."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from store import lance_io
from store.commit_buffer import CommitBuffer
from utils.failures import Failure
from utils.types import ChipProfile

MOST_ROWS = 200_000
"""Rows held before a commit, whatever the number of partitions."""


class ContextBuffer:
    """Collects rows of ``context`` and commits them every ``commit_every`` partitions.

    A run killed between two commits makes the same rows again, with the same keys.
    """

    def __init__(self, uri: str | Path, *, run_id: str, context_config: str, commit_every: int) -> None:
        """Point the buffer at a store; nothing is written yet."""
        self._uri, self._commit_every = uri, commit_every
        # the default profile stands in: no table with chips is written through it
        self._errors = CommitBuffer(
            uri, ChipProfile(), run_id=run_id, build_config=context_config, commit_every=commit_every
        )
        self._rows: list[pa.Table] = []
        self._met: set[tuple[str, tuple[str, ...]]] = set()
        self.written = 0
        """Rows committed so far."""
        self.failed = 0
        """Failures met for the first time under these settings."""
        self.failed_before = 0
        """Failures known from an earlier run."""

    @property
    def full(self) -> bool:
        """Whether enough waits to be committed."""
        return len(self._rows) >= self._commit_every or sum(map(len, self._rows)) >= MOST_ROWS

    def add(self, rows: pa.Table, failures: Sequence[Failure]) -> None:
        """Take over one partition's rows and failures."""
        self._rows.append(rows)
        self.fail(failures)

    def fail(self, failures: Sequence[Failure]) -> None:
        """Take over failures, each thing once: a feature on the edge of two partitions fails in both."""
        new = []
        for failure in failures:
            what = (failure.node, failure.input_ids or (str(failure.partition),))
            if what not in self._met:
                self._met.add(what)
                new.append(failure)
        known = sum(self._errors.known(new)) if new else 0
        self.failed += len(new) - known
        self.failed_before += known
        self._errors.fail(new)

    def flush(self) -> None:
        """Commit what waits.

        Raises:
            SchemaError: rows do not fit; nothing of their table was written.
            StoreNotWritableError: the store cannot be written.
        """
        self._errors.flush()
        if self._rows:
            receipt = lance_io.write(self._uri, "context", pa.concat_tables(self._rows))
            # in one line, so that rows whose flush was interrupted are counted once
            self._rows, self.written = [], self.written + receipt.rows
