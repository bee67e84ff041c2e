"""The engine that stays in the run's process: in order, the next task's pixels read during the model's work."""

import threading
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from dataflows.engines.base import EngineOptions
from dataflows.engines.local import LocalEngine
from dataflows.partition_task import READS, PartitionTask
from utils.errors import RasterReadError, RasterUnreachableError
from utils.retry import RetryPolicy

WAIT_S = 20.0


class Model:
    def load(self) -> None: ...
    def unload(self) -> None: ...


class Driver:
    """Reads and segments; notes who does what when, and can be told to fail."""

    def __init__(self, *, overlap: int = 0) -> None:
        self.log: list[tuple[str, int]] = []
        self.threads: set[str] = set()
        self.errors: dict[tuple[str, int], Exception] = {}
        self.read = [threading.Event() for _ in range(10)]
        self.overlap = overlap

    def execute(self, nodes: list[str], inputs: dict[str, Any] | None = None, overrides: Any = None) -> dict[str, Any]:
        number = overrides["chip_plan"]["number"][0].as_py()
        kind = "read" if nodes == list(READS) else "make"
        if kind == "make" and not set(READS) <= overrides.keys():
            self._reads(number)
        if kind == "read":
            self.threads.add(threading.current_thread().name)
            self._reads(number)
            return {"vhr_reads": number, "msi_reads": number}
        if number < self.overlap:
            # the model is at work until the next task's pixels are there
            assert self.read[number + 1].wait(WAIT_S)
        self.log.append(("make", number))
        assert overrides.get("vhr_reads", number) == number
        inputs["commit_buffer"].samples.append(overrides["chip_plan"])
        return {"sample_write": {"partition": number, "chips": 1, "failed": 0}}

    def _reads(self, number: int) -> None:
        self.log.append(("read", number))
        if error := self.errors.pop(("read", number), None):
            raise error
        self.read[number].set()


def tasks(count: int) -> list[PartitionTask]:
    return [
        PartitionTask(
            partition=n,
            part=0,
            parts=1,
            chips=pa.table({"uuid": [str(n)], "number": [n]}),
            prompts=pa.table({"uuid": []}),
        )
        for n in range(count)
    ]


def engine_of(driver: Driver, segmenter: object) -> LocalEngine:
    spec: Any = SimpleNamespace(provenance=None, policy=RetryPolicy(retries=2, first_wait_s=0.0))
    return LocalEngine(spec, EngineOptions(own={"driver": driver, "made_once": {"mask_segmenter": segmenter}}))


def test_pixels_are_read_while_the_model_works() -> None:
    driver = Driver(overlap=3)
    with engine_of(driver, Model()) as engine:
        found = [outcome.partition for outcome in engine.outcomes(iter(tasks(4)))]
    assert found == [0, 1, 2, 3]
    assert [number for what, number in driver.log if what == "read"] == [0, 1, 2, 3]
    assert all(name.startswith("read-ahead") for name in driver.threads)


def test_without_a_model_nothing_is_read_ahead() -> None:
    driver = Driver()
    with engine_of(driver, object()) as engine:
        assert [outcome.partition for outcome in engine.outcomes(iter(tasks(3)))] == [0, 1, 2]
    assert driver.threads == set()


def test_a_task_more_than_is_made_is_drawn_and_no_further() -> None:
    drawn: list[int] = []

    def drawing() -> Any:
        for task in tasks(5):
            drawn.append(task.partition)
            yield task

    with engine_of(Driver(), Model()) as engine:
        outcomes = engine.outcomes(drawing())
        next(outcomes)
        assert drawn == [0, 1]
        outcomes.close()


@pytest.mark.parametrize(
    ("error", "failed", "reads"), [(RasterUnreachableError("503"), False, 2), (RasterReadError("broken"), True, 1)]
)
def test_a_read_that_fails_ahead_fails_or_is_tried_again_as_ever(error: Exception, failed: bool, reads: int) -> None:
    driver = Driver()
    driver.errors["read", 1] = error
    with engine_of(driver, Model()) as engine:
        found = list(engine.outcomes(iter(tasks(3))))
    assert [outcome.failed for outcome in found] == [False, failed, False]
    assert driver.log.count(("read", 1)) == reads


def test_no_tasks_no_outcomes() -> None:
    with engine_of(Driver(), Model()) as engine:
        assert list(engine.outcomes(iter([]))) == []
