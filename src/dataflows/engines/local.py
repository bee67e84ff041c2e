"""Partitions one after another in the run's own process."""

from collections.abc import Iterator
from typing import Self

from dataflows.engines.base import EngineOptions, WorkerSpec
from dataflows.partition_task import PartitionOutcome, PartitionTask, run_partition


class LocalEngine:
    """The default: no other process, rows stay in memory until they are committed."""

    def __init__(self, spec: WorkerSpec, options: EngineOptions) -> None:
        """Use the driver and the results of the plan."""
        self._spec, self._own = spec, options.own

    def outcomes(self, tasks: Iterator[PartitionTask]) -> Iterator[PartitionOutcome]:
        """Outcomes in the order of ``tasks``."""
        for task in tasks:
            yield run_partition(
                self._own["driver"], self._own["made_once"], task, self._spec.provenance, self._spec.policy
            )

    def __enter__(self) -> Self:
        """Nothing to start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to stop."""
