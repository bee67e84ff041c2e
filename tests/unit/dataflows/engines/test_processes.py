"""The pool: every task has one outcome, whichever worker dies; only a task that kills each time is given up."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dataflows.engines import processes
from dataflows.engines.base import EngineOptions
from dataflows.engines.processes import ProcessEngine
from dataflows.partition_task import PartitionTask
from support import engine_faults
from utils.errors import StoreNotWritableError


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_run", engine_faults.toy)
    monkeypatch.setattr(processes, "lost", lambda task, error: (task.partition, task.part, error))


def engine(workers: int) -> ProcessEngine:
    spec: Any = SimpleNamespace()
    return ProcessEngine(spec, EngineOptions(workers=workers))


def tasks(*happens: str) -> list[PartitionTask]:
    made: list[Any] = [
        PartitionTask(partition=number // 2, part=number % 2, parts=2, chips=what, prompts=None)  # type: ignore[arg-type]
        for number, what in enumerate(happens)
    ]
    return made


def keys(found: list[Any]) -> list[tuple[int, int]]:
    return sorted(outcome[:2] for outcome in found)


@pytest.mark.slow
def test_workers_die_and_every_task_has_one_outcome(tmp_path: Path) -> None:
    """One that dies once, one that kills each worker it gets, and innocents out at the same time."""
    given = tasks("slow", f"kill once {tmp_path / 'a'}", "slow", "kill", f"kill once {tmp_path / 'b'}", *["fine"] * 5)
    with engine(2) as pool:
        found: list[Any] = [*pool.outcomes(iter(given))]
    assert keys(found) == [(task.partition, task.part) for task in given]
    lost = [outcome for outcome in found if isinstance(outcome[2], Exception)]
    assert [(outcome[0], outcome[1], type(outcome[2]).__name__) for outcome in lost] == [(1, 1, "WorkerLostError")]
    assert "died 3 times" in str(lost[0][2])
    assert os.getpid() not in {outcome[2] for outcome in found}


def test_tasks_are_drawn_as_workers_get_free_and_leaving_stops_them() -> None:
    drawn: list[int] = []

    def source() -> Iterator[PartitionTask]:
        for number, task in enumerate(tasks(*["fine"] * 20)):
            drawn.append(number)
            yield task

    with engine(1) as pool:
        outcomes = pool.outcomes(source())
        first: Any = next(outcomes)
        assert drawn == [0, 1]
        next(outcomes)
        assert len(drawn) <= 3
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(first[2], 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the worker outlives its pool")


def test_what_a_worker_raises_ends_the_run() -> None:
    with engine(1) as pool, pytest.raises(StoreNotWritableError, match="no space left") as raised:
        _ = [*pool.outcomes(iter(tasks("fine", "raise", "fine")))]
    assert "engine_faults.py" in str(raised.value.__cause__)


def test_no_task_starts_no_process() -> None:
    with engine(2) as pool:
        assert [*pool.outcomes(iter([]))] == []
        assert pool._pool is None


def test_a_worker_killed_while_it_writes_its_result_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_run", engine_faults.torn)
    monkeypatch.setattr(processes, "_LOOK_S", 0.2)
    given = tasks("fine", f"torn {tmp_path / 'met'}", "fine")
    before = set(threading.enumerate())
    with engine(1) as pool:
        assert keys([*pool.outcomes(iter(given))]) == [(0, 0), (0, 1), (1, 0)]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and set(threading.enumerate()) - before:
        time.sleep(0.05)
    assert set(threading.enumerate()) <= before, "the interpreter waits for a pool's thread"
