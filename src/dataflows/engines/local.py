"""Partitions one after another in the run's own process."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from dataflows.engines.base import EngineOptions, WorkerSpec
from dataflows.partition_task import PartitionOutcome, PartitionTask, read_ahead, run_partition
from utils.types import LoadableBackend


class LocalEngine:
    """The default: no other process, rows stay in memory until they are committed.

    Where masks come from a model, the next task's pixels are read while the model works on this one's.
    """

    def __init__(self, spec: WorkerSpec, options: EngineOptions) -> None:
        """Use the driver and the results of the plan."""
        self._spec, self._driver, self._made_once = spec, options.own["driver"], options.own["made_once"]

    def outcomes(self, tasks: Iterator[PartitionTask]) -> Iterator[PartitionOutcome]:
        """Outcomes in the order of ``tasks``."""
        if isinstance(self._made_once["mask_segmenter"], LoadableBackend):
            yield from self._overlapped(tasks)
            return
        for task in tasks:
            yield run_partition(self._driver, self._made_once, task, self._spec.provenance, self._spec.policy)

    def _overlapped(self, tasks: Iterator[PartitionTask]) -> Iterator[PartitionOutcome]:
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:

            def begun(task: PartitionTask | None) -> Future[Any] | None:
                return None if task is None else reader.submit(read_ahead, self._driver, self._made_once, task)

            task = next(tasks, None)
            reads = begun(task)
            while task is not None and reads is not None:
                following = next(tasks, None)
                ahead = begun(following)
                yield run_partition(
                    self._driver,
                    self._made_once,
                    task,
                    self._spec.provenance,
                    self._spec.policy,
                    reads=reads.result,
                )
                task, reads = following, ahead

    def __enter__(self) -> Self:
        """Nothing to start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to stop."""
