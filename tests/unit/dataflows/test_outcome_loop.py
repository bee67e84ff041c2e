"""What an outcome counts for."""

from types import SimpleNamespace
from typing import Any

import pytest

from dataflows.outcome_loop import OutcomeLoop
from dataflows.partition_task import PartitionOutcome
from dataflows.run_summary import RunSummary
from store.partition_rows import PartitionRows


class Once:
    """An engine whose outcomes are known."""

    def __init__(self, *found: PartitionOutcome) -> None:
        self._found = found

    def outcomes(self, _: Any) -> Any:
        yield from self._found


@pytest.fixture
def loop() -> OutcomeLoop:
    config: Any = SimpleNamespace(network_retries=0, network_wait_s=0.0, store="nowhere")
    build: Any = SimpleNamespace(partitions=[1, 2])
    buffer: Any = SimpleNamespace(take=lambda _: None, full=False, written=0, flush=lambda **_: None)
    shares: Any = SimpleNamespace(
        tasks=lambda _: iter(()),
        renew=lambda: None,
        finished=lambda _: None,
        is_overtaken=lambda: False,
        made_elsewhere={},
        elsewhere=[],
    )
    summary = RunSummary(flow="build", partitions=2, chips_pending=8)
    return OutcomeLoop(config, build, buffer, shares, summary, lambda _: None, fail_fast=False)


def summary_of(loop: OutcomeLoop) -> RunSummary:
    return loop._summary


def test_a_task_that_failed_after_some_of_its_chips_settled_counts_each_chip_once(loop: OutcomeLoop) -> None:
    counts = {"chips": 2, "failed": 0, "not_taken": 1}
    half = PartitionOutcome(partition=1, parts=1, chips=4, rows=PartitionRows(), counts=counts, failed=True)
    loop.run(Once(half))
    found = summary_of(loop)
    assert (found.chips_made, found.chips_not_taken, found.chips_failed, found.chips_settled) == (2, 1, 1, 4)
    assert (found.partitions_done, found.partitions_failed) == (1, 1)


def test_a_partition_is_done_with_its_last_part_and_nothing_is_kept_of_it(loop: OutcomeLoop) -> None:
    part = {"chips": 2, "failed": 0, "not_taken": 0}
    tasks = [PartitionOutcome(partition=1, parts=2, chips=2, rows=PartitionRows(), counts=part) for _ in range(2)]
    loop.run(Once(tasks[0]))
    assert (summary_of(loop).partitions_done, loop._parts_left) == (0, {1: 1})
    loop.run(Once(tasks[1]))
    assert (summary_of(loop).partitions_done, loop._parts_left) == (1, {})
