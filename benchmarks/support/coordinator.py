"""A run's coordinator and its workers as events: who waits for whom, for any number of workers."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store.commit_buffer import MOST_ROWS


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds the coordinator takes for what it does alone."""

    outcome_s: float
    """One outcome, its tables taken over."""
    claim_s: float
    """Leases of one batch of partitions, and the look for rows of others."""
    commit_s: float
    """One commit of all tables, whatever is in it."""
    commit_chip_s: float
    """What each chip adds to a commit."""


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What became of it."""

    seconds: float
    """From the first claim to the last commit."""
    busy: float
    """Share of the workers' time spent on tasks."""
    coordinator: float
    """Share of the time the coordinator worked."""


def simulate(
    tasks: NDArray[np.float64], chips: Sequence[int], costs: Costs, *, workers: int, commit_every: int, out: int
) -> Simulated:
    """Replay tasks through one coordinator, as ``dataflows.partition_loop`` and the engines order things.

    Args:
        tasks: seconds of each task, (tasks,).
        chips: chips of each task.
        costs: what the coordinator's steps take.
        workers: number of workers; they take tasks in the order given out.
        commit_every: partitions per commit and per claim; one task is one partition.
        out: most tasks given out and not yet taken back.
    """
    free, ends = [0.0] * workers, list[tuple[float, int]]()
    now = worked = 0.0
    given, since, waiting = 0, 0, 0
    while given < len(tasks) or ends:
        while given < len(tasks) and len(ends) < out:
            if given % commit_every == 0:
                now, worked = now + costs.claim_s, worked + costs.claim_s
            end = max(heapq.heappop(free), now) + tasks[given]
            heapq.heappush(free, end)
            heapq.heappush(ends, (end, chips[given]))
            given += 1
        end, made = heapq.heappop(ends)
        since, waiting, spent = since + 1, waiting + made, costs.outcome_s
        if since >= commit_every or waiting >= MOST_ROWS or not (ends or given < len(tasks)):
            spent += costs.commit_s + waiting * costs.commit_chip_s
            since = waiting = 0
        now, worked = max(now, end) + spent, worked + spent
    return Simulated(seconds=now, busy=float(tasks.sum()) / (workers * now), coordinator=worked / now)
