"""The path of worker processes inside the run's own process, so that everything can be timed there."""

import time
from collections.abc import Callable, Iterator
from typing import Final

from dataflows import engines
from dataflows.engines.base import Worker
from dataflows.engines.local import LocalEngine
from dataflows.partition_task import PartitionOutcome, PartitionTask

NAME: Final = "staged"
CLOCK: list[Callable[[], float]] = [time.perf_counter]
"""What is counted."""
TASKS: list[tuple[int, float]] = []
"""Chips and seconds of every task, its files included, since the list was last cleared."""


class StagedEngine(LocalEngine):
    """Pixels go to files where they are made; the loop gets metadata."""

    def outcomes(self, tasks: Iterator[PartitionTask]) -> Iterator[PartitionOutcome]:
        """Outcomes in the order of ``tasks``."""
        worker = Worker(driver=self._own["driver"], made_once=self._own["made_once"], spec=self._spec)
        for task in tasks:
            start = CLOCK[0]()
            outcome = worker.run(task)
            TASKS.append((len(task.chips), CLOCK[0]() - start))
            yield outcome


def register() -> None:
    """Make the engine known by its name."""
    engines._ENGINES[NAME] = f"{__name__}:StagedEngine"  # noqa: SLF001 - an engine of the benchmarks' own
