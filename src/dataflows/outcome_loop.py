"""Outcomes of an engine's tasks, as they come: counted, committed every k partitions, shown."""

import gc
import time
from collections.abc import Callable

from dataflows.build_plan import BuildPlan
from dataflows.config import BuildConfig
from dataflows.engines import Engine
from dataflows.memory import settled_heap
from dataflows.partition_task import PartitionOutcome
from dataflows.run_summary import RunSummary
from dataflows.work_shares import WorkShares
from store import lance_io
from store.commit_buffer import CommitBuffer
from utils.errors import LeaseLostError, StoreError
from utils.retry import RetryPolicy, is_transient

Progress = Callable[[RunSummary], None]

INDEXED = ("training_data", "masks", "prompts")
"""Tables whose indexes a build keeps up."""

INDEX_EVERY = 256
"""Partitions after which the indexes are brought up: a look for keys opens every file that no index covers."""


class OutcomeLoop:
    """Outcomes of an engine's tasks, counted and committed."""

    def __init__(
        self,
        config: BuildConfig,
        build: BuildPlan,
        buffer: CommitBuffer,
        shares: WorkShares,
        summary: RunSummary,
        report: Progress,
        *,
        fail_fast: bool,
    ) -> None:
        self._config, self._build, self._buffer, self._shares = config, build, buffer, shares
        self._summary, self._report, self._fail_fast = summary, report, fail_fast
        self._parts_left: dict[int, int] = {}
        self._uncommitted: list[int] = []
        self._failed: set[int] = set()
        self._unindexed = 0

    def run(self, engine: Engine) -> None:
        """Make all partitions: those whose lease is free, then what other runs leave undone."""
        with settled_heap():
            self._run(engine)

    def _run(self, engine: Engine) -> None:
        partitions = self._build.partitions
        while partitions:
            for outcome in engine.outcomes(self._shares.tasks(partitions)):
                self._take(outcome)
                if self._fail_fast and self._summary.chips_failed:
                    return
            self.flush()
            self._count_elsewhere()
            partitions, self._shares.elsewhere = self._shares.elsewhere, []
            self._summary.partitions_waiting = len(partitions)
            self._report(self._summary)
            if partitions:
                self._shares.wait()

    def flush(self) -> None:
        """Commit what waits; what the network fails is tried again.

        Raises:
            LeaseLostError: another run took over; what waited is dropped.
        """
        waits = retry_policy(self._config).waits()
        while True:
            try:
                self._buffer.flush(fence=lambda: not self._shares.is_overtaken())
                break
            except LeaseLostError:
                self._buffer.drop()
                raise
            except StoreError as error:
                wait = next(waits, None)
                if wait is None or not is_transient(error):
                    raise
                self._summary.retried += 1
                time.sleep(wait)
        self._summary.chips_written = self._buffer.written
        for partition in self._uncommitted:
            self._shares.finished(partition)
        self._unindexed += len(self._uncommitted)
        self._uncommitted = []
        if self._unindexed >= INDEX_EVERY:
            self._refresh_indexes()

    def finish(self) -> None:
        """Commit what waits and bring the indexes up to date."""
        self.flush()
        if self._summary.chips_written:
            self._refresh_indexes()

    def _refresh_indexes(self) -> None:
        for name in INDEXED:
            if lance_io.table_exists(self._config.store, name):
                self._refresh_index(name)
        self._unindexed = 0

    def _refresh_index(self, name: str) -> None:
        try:
            lance_io.refresh_indexes(self._config.store, name)
        except StoreError as error:
            # the rows are there; a look without an index is slower, and the next run makes it
            if not is_transient(error):
                raise

    def _take(self, outcome: PartitionOutcome) -> None:
        summary = self._summary
        self._buffer.take(outcome.rows)
        summary.retried += outcome.retried
        made, not_taken = outcome.counts.get("chips", 0), outcome.counts.get("not_taken", 0)
        summary.chips_made += made
        summary.chips_not_taken += not_taken
        # of a task that failed as a whole, whatever is neither made nor left out
        summary.chips_failed += outcome.chips - made - not_taken if outcome.failed else outcome.counts["failed"]
        for verdict in summary.masks:
            summary.masks[verdict] += outcome.counts.get(verdict, 0)
        left = self._parts_left.pop(outcome.partition, outcome.parts) - 1
        if outcome.failed:
            self._failed.add(outcome.partition)
        if not summary.partitions_done:
            # what the first task loaded stays: a collection need not look at it again
            gc.freeze()
        if left:
            self._parts_left[outcome.partition] = left
        else:
            summary.partitions_done += 1
            self._uncommitted.append(outcome.partition)
        summary.partitions_failed = len(self._failed)
        if self._buffer.full:
            self.flush()
        self._shares.renew()
        self._count_elsewhere()
        self._report(summary)

    def _count_elsewhere(self) -> None:
        """Chips that other runs made since the plan are no longer this run's."""
        made = self._shares.made_elsewhere
        self._summary.chips_made_elsewhere = sum(made.values())
        self._summary.partitions_elsewhere = len(made)


def retry_policy(config: BuildConfig) -> RetryPolicy:
    """How the network's failures are tried again."""
    return RetryPolicy(retries=config.network_retries, first_wait_s=config.network_wait_s)
