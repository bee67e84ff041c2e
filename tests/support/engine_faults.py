"""Faults in an engine's workers. The environment says which task meets which one: it reaches every process."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from dataflows.engines import base, processes
from utils.errors import StoreNotWritableError

_NAME = "AEGIR_TEST_FAULT"
_begin, _run_task, _run, _worker_of = processes._begin, base.run_task, base.Worker.run, base._worker_of


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to the tasks of one partition, after their files are staged and before they are handed over."""

    kind: str
    """kill: the process ends; sleep: it never does; store, setup: exceptions of these places."""
    partition: int
    """The partition that meets it."""
    marker: str
    """File that is made when the fault is met."""
    once: bool = False
    """Whether it is met only once."""


@contextmanager
def met(fault: Fault, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside the block, workers that start meet the fault."""
    with patch.context() as inside:
        inside.setenv(_NAME, json.dumps(asdict(fault)))
        inside.setattr(processes, "_begin", begin)
        # Ray's workers do not get the paths that pytest adds
        inside.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
        if find_spec("ray"):
            inside.setattr("dataflows.engines.ray_tasks.run_task", run_task)
        yield


def begin(spec: base.WorkerSpec) -> None:
    """What a worker process of a pool begins with."""
    _begin(spec)
    _arm()


def run_task(spec: base.WorkerSpec, task: Any) -> Any:
    """What a Ray worker runs."""
    _arm()
    return _run_task(spec, task)


def _arm() -> None:
    fault = Fault(**json.loads(os.environ[_NAME]))
    if fault.kind == "setup":
        base._worker_of = _no_worker
    base.Worker.run = _faulty  # type: ignore[method-assign]


def _no_worker(spec: base.WorkerSpec) -> base.Worker:
    raise ConnectionResetError("the weights are not here")


def _faulty(worker: base.Worker, task: Any) -> Any:
    outcome, fault = _run(worker, task), Fault(**json.loads(os.environ[_NAME]))
    met_before = Path(fault.marker).exists()
    if task.partition != fault.partition or (fault.once and met_before):
        return outcome
    with Path(fault.marker).open("a") as marker:
        marker.write(f"{os.getpid()}\n")
    if fault.kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault.kind == "sleep":
        time.sleep(3600)
    raise StoreNotWritableError("no space left on the worker")


def toy(task: Any) -> Any:
    """A task of a pool without a flow: ``task.chips`` is what happens."""
    happens = task.chips
    if happens == "kill" or (
        happens.startswith("kill once ") and not Path(happens.removeprefix("kill once ")).exists()
    ):
        if happens != "kill":
            Path(happens.removeprefix("kill once ")).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if happens == "raise":
        raise StoreNotWritableError("no space left on the worker")
    if happens == "slow":
        time.sleep(0.5)
    return (task.partition, task.part, os.getpid())


def torn(task: Any) -> Any:
    """As :func:`toy`; ``torn FILE`` is a worker killed, the first time, when half of its result is written."""
    what, _, marker = task.chips.partition(" ")
    if what == "torn" and not Path(marker).exists():
        Path(marker).touch()
        Connection._send = _half  # type: ignore[attr-defined]
    return task.partition, task.part, os.getpid()


def _half(self: Any, message: Any, *_: Any) -> None:
    os.write(self.fileno(), bytes(message)[: len(message) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
