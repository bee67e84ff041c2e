"""The unit of work: chips of one S2 cell, from pixels to rows. The same function runs it on every engine."""

import gc
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hamilton.driver import Driver
from numpy.typing import NDArray

from dataflows.lance_writer import Provenance
from dataflows.memory import chip_shares
from store.partition_rows import PartitionRows
from utils.failures import Failure, interrupted
from utils.retry import RetryPolicy, is_transient, is_transient_type

READS = ("vhr_reads", "msi_reads")
"""Nodes that read pixels, and nothing else."""


class Pending(Protocol):
    """Part of a plan that tasks are cut from."""

    @property
    def pending(self) -> pa.Table:
        """Chips to make, schema ``dataflows.chip_plan.CHIP_PLAN``."""
        ...

    @property
    def prompts(self) -> pa.Table:
        """Their prompts, schema ``dataflows.chip_plan.PROMPT_PLAN``."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class PartitionTask:
    """Chips of one partition that are made together; a partition too large for the memory budget has several."""

    partition: int
    """S2 cell."""
    part: int
    """Number of this part, from 0."""
    parts: int
    """Parts of the partition."""
    chips: pa.Table
    """Planned chips, schema ``dataflows.chip_plan.CHIP_PLAN``."""
    prompts: pa.Table
    """Their prompts, schema ``dataflows.chip_plan.PROMPT_PLAN``."""

    def only(self, uuids: set[str]) -> "PartitionTask":
        """The task for some of its chips."""
        wanted = pa.array(sorted(uuids), pa.string())
        return replace(
            self,
            chips=self.chips.filter(pc.is_in(self.chips["uuid"], wanted)),
            prompts=self.prompts.filter(pc.is_in(self.prompts["uuid"], wanted)),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class PartitionOutcome:
    """What became of one task."""

    partition: int
    """S2 cell."""
    parts: int
    """Tasks of the partition."""
    chips: int
    """Chips the task set out to make."""
    rows: PartitionRows
    """Rows and failures."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Chips made, failed and not taken, and masks per verdict; empty where the task failed as a whole."""
    failed: bool = False
    """Whether the task failed as a whole."""
    retried: int = 0
    """Times something was tried again because the network failed."""
    seconds: float = 0.0
    """Time it took, waits included."""


def partition_tasks(build: Pending, partition: int, *, most_chips: int) -> list[PartitionTask]:
    """The tasks of one partition: at most ``most_chips`` chips each, fewer with many prompts, in order of their ids."""
    chips = build.pending.filter(pc.equal(build.pending["partition"], pa.scalar(partition, pa.uint64())))
    chips = chips.sort_by("uuid").combine_chunks()
    prompts = build.prompts.filter(pc.is_in(build.prompts["uuid"], chips["uuid"].combine_chunks()))
    counts = Counter(prompts["uuid"].to_pylist())
    per_chip = np.array([counts[uuid] for uuid in chips["uuid"].to_pylist()], np.int64)
    bounds = _bounds(chip_shares(per_chip), most_chips)
    tasks = []
    for part, (start, end) in enumerate(pairwise(bounds)):
        own = chips.slice(start, end - start).combine_chunks()
        asked = prompts.filter(pc.is_in(prompts["uuid"], own["uuid"].combine_chunks()))
        tasks.append(PartitionTask(partition=partition, part=part, parts=len(bounds) - 1, chips=own, prompts=asked))
    return tasks


def _bounds(shares: NDArray[np.float64], most: int) -> list[int]:
    """Where parts begin, and the end: as many as possible up to ``most`` in each, at least one."""
    bounds, held = [0], 0.0
    for number, share in enumerate(shares):
        if held and held + share > most:
            bounds.append(number)
            held = 0.0
        held += share
    return [*bounds, len(shares)]


def run_partition(
    driver: Driver,
    made_once: Mapping[str, Any],
    task: PartitionTask,
    provenance: Provenance,
    policy: RetryPolicy,
    *,
    output: str = "sample_write",
    plans: bool = True,
    reads: Callable[[], Mapping[str, Any]] | None = None,
    told: Mapping[str, Any] | None = None,
) -> PartitionOutcome:
    """Make one task's rows; what fails, fails as rows of ``errors``.

    What the network failed is tried again after a wait: the whole task, or those of its chips that could not be read.

    Args:
        driver: of the flow.
        made_once: results all tasks share.
        task: what is to be made.
        provenance: what rows say of their origin.
        policy: how often to try again.
        output: node that hands the rows over and returns the receipt.
        plans: whether chips and prompts are nodes of the flow; else they are its inputs.
        reads: results of :data:`READS` for the task, where they were made ahead; further tries read anew.
        told: further inputs of the flow, the same for all tasks.

    Raises:
        KeyboardInterrupt: the run was interrupted.
    """
    start, retried = time.monotonic(), 0
    waits, rows, counts = policy.waits(), PartitionRows(), dict[str, int]()
    left: PartitionTask | None = task
    failed = False
    while left is not None:
        try:
            ahead, reads = reads, None
            shared = {**made_once, **(ahead() if ahead else {})}
            made, receipt = _executed(driver, shared, left, provenance, output=output, plans=plans, told=told or {})
        except Exception as error:  # whatever fails in one partition, the others go on
            if interrupted(error):
                raise KeyboardInterrupt from error
            wait = next(waits, None) if is_transient(error) else None
            if wait is None:
                rows.fail([Failure.of("run_partition", error, partition=task.partition)], partition=task.partition)
                failed = True
                break
        else:
            again = {f.uuid for f in made.failures if f.uuid is not None and is_transient_type(f.error_type)}
            wait = next(waits, None) if again else None
            if wait is None:
                left = None
            else:
                made.failures = [f for f in made.failures if f.uuid not in again]
                receipt["failed"] -= len(again)
                left = left.only(again)
            for name in ("samples", "masks", "prompts", "candidates", "failures"):
                getattr(rows, name).extend(getattr(made, name))
            counts = {name: counts.get(name, 0) + receipt[name] for name in receipt}
        if wait is not None:
            retried += 1
            time.sleep(wait)
    # every execute leaves its results in reference cycles
    gc.collect()
    return PartitionOutcome(
        partition=task.partition,
        parts=task.parts,
        chips=len(task.chips),
        rows=rows,
        counts=counts,
        failed=failed,
        retried=retried,
        seconds=time.monotonic() - start,
    )


def read_ahead(driver: Driver, made_once: Mapping[str, Any], task: PartitionTask) -> Mapping[str, Any]:
    """Results of :data:`READS` for a task.

    Raises:
        AegirError: an imagery source cannot be used.
    """
    overrides = {**made_once, "chip_plan": task.chips, "prompts": task.prompts}
    found: Mapping[str, Any] = driver.execute(list(READS), overrides=overrides)
    return found


def _executed(
    driver: Driver,
    made_once: Mapping[str, Any],
    task: PartitionTask,
    provenance: Provenance,
    *,
    output: str,
    plans: bool,
    told: Mapping[str, Any],
) -> tuple[PartitionRows, dict[str, int]]:
    rows = PartitionRows()
    work = {"chip_plan": task.chips, "prompts": task.prompts}
    inputs = {**told, "partition": task.partition, "provenance": provenance, "commit_buffer": rows}
    receipt: dict[str, int] = driver.execute(
        [output],
        inputs=inputs if plans else inputs | work,
        overrides={**made_once, **work} if plans else dict(made_once),
    )[output]
    return rows, {name: count for name, count in receipt.items() if name != "partition"}


def lost(task: PartitionTask, error: Exception) -> PartitionOutcome:
    """The outcome of a task that no worker lived to finish."""
    rows = PartitionRows()
    rows.fail([Failure.of("run_partition", error, partition=task.partition)], partition=task.partition)
    return PartitionOutcome(
        partition=task.partition,
        parts=task.parts,
        chips=len(task.chips),
        rows=rows,
        failed=True,
    )
