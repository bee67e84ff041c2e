"""What Ray says of a task, as an outcome or an error of ours; no cluster is started."""

import socket
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from dataflows.engines.base import EngineOptions
from dataflows.partition_task import PartitionTask
from utils.errors import ConfigError, StoreNotWritableError

ray_exceptions = pytest.importorskip("ray.exceptions")

from dataflows.engines import ray_tasks  # noqa: E402 - needs Ray
from dataflows.engines.ray_tasks import RayEngine  # noqa: E402


class Cluster:
    """Ray in this process: a task is done when it is asked for, and ``says`` raises for some."""

    exceptions = ray_exceptions

    def __init__(self, says: dict[int, Exception], cpus: int = 2) -> None:
        self.says, self.cpus, self.options = says, cpus, dict[str, Any]()
        self.out: list[int] = []
        self.most = 0

    def remote(self, **options: Any) -> Any:
        self.options = options
        return lambda _: SimpleNamespace(remote=self._remote)

    def _remote(self, _: Any, task: PartitionTask) -> int:
        self.out.append(task.partition)
        self.most = max(self.most, len(self.out))
        return task.partition

    def put(self, value: Any) -> Any:
        return value

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.cpus)}

    def wait(self, references: list[int], *, num_returns: int) -> tuple[list[int], list[int]]:
        return references[-num_returns:], references[:-num_returns]

    def get(self, reference: int) -> Any:
        self.out.remove(reference)
        if reference in self.says:
            raise self.says[reference]
        return reference


def outcomes(cluster: Cluster, count: int, *, workers: int | None = None) -> list[Any]:
    spec: Any = SimpleNamespace()
    engine = RayEngine(spec, EngineOptions(workers=workers))
    engine._ray = cluster
    chips = pa.table({"uuid": ["a"]})
    tasks = [PartitionTask(partition=n, part=0, parts=1, chips=chips, prompts=chips) for n in range(count)]
    return [*engine.outcomes(iter(tasks))]


def task_error(cause: Exception) -> Exception:
    error: Exception = ray_exceptions.RayTaskError("run_task", "Traceback: …", cause).as_instanceof_cause()
    return error


def test_every_task_has_one_outcome_and_few_are_out() -> None:
    cluster = Cluster({})
    assert sorted(outcomes(cluster, 20)) == list(range(20))
    assert cluster.most == 3
    assert cluster.options == {"max_retries": 2, "num_cpus": 1}
    few = Cluster({}, cpus=64)
    outcomes(few, 20, workers=1)
    assert few.most == 2


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (ray_exceptions.WorkerCrashedError(), "died 3 times"),
        (ray_exceptions.OutOfMemoryError("memory\nlong report"), "died 3 times: memory"),
        (ray_exceptions.RaySystemError("the raylet is gone"), "gave the task up"),
    ],
)
def test_what_ray_gives_up_is_an_error_of_its_task(said: Exception, words: str) -> None:
    found = outcomes(Cluster({1: said}), 3)
    (lost,) = [outcome for outcome in found if not isinstance(outcome, int)]
    (failure,) = lost.rows.failures
    assert (lost.failed, lost.partition, failure.error_type) == (True, 1, "WorkerLostError")
    assert words in failure.message
    assert "long report" not in failure.message
    assert len(found) == 3


def test_an_error_of_ours_ends_the_run_as_itself() -> None:
    with pytest.raises(StoreNotWritableError, match=r"^disk full$") as raised:
        outcomes(Cluster({1: task_error(StoreNotWritableError("disk full"))}), 3)
    assert type(raised.value) is StoreNotWritableError


def test_another_error_is_one_of_its_task() -> None:
    found = outcomes(Cluster({0: task_error(ZeroDivisionError("a bug"))}), 2)
    (lost,) = [outcome for outcome in found if not isinstance(outcome, int)]
    (failure,) = lost.rows.failures
    assert (failure.error_type, failure.message) == ("ZeroDivisionError", "a bug")


@pytest.mark.parametrize("address", [None, "auto", "local", "nonsense"])
def test_words_are_left_to_ray(address: str | None) -> None:
    ray_tasks._check_answers(address)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_is_tried_before_ray_is(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
        ray_tasks._check_answers(address)
    with pytest.raises(ConfigError, match="ray start --head"):
        ray_tasks._check_answers(address)


def test_a_node_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")  # noqa: TRY002 - as Ray does

    stopped: list[int] = []
    spec: Any = SimpleNamespace()
    engine = RayEngine(spec, EngineOptions(workers=1))
    engine._ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: stopped.append(1))
    with pytest.raises(ConfigError, match="Ray does not start here: The current node timed out"):
        engine.__enter__()
    assert stopped == [1]
