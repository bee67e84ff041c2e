"""A worker's own failures: errors of its task, unless they are the store's."""

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from dataflows.engines import base
from dataflows.engines.base import Worker, run_task
from dataflows.partition_task import PartitionOutcome, PartitionTask
from store import fragments
from store.partition_rows import PartitionRows
from utils import retry
from utils.errors import RasterReadError, SchemaError, StoreNotWritableError, StoreUnreachableError
from utils.retry import RetryPolicy

SPEC: Any = SimpleNamespace(
    policy=RetryPolicy(retries=2, first_wait_s=1.0),
    provenance=None,
    config=SimpleNamespace(store="store", profile=None),
)
TASK = PartitionTask(partition=7, part=0, parts=1, chips=pa.table({"uuid": ["a", "b"]}), prompts=pa.table({}))


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", found.append)
    return found


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Exceptions that staging meets, last first; the worker makes one row."""
    left: list[Exception] = []

    def stage(_: str, name: str, data: pa.Table, **__: Any) -> fragments.StagedRows:
        if left:
            raise left.pop()
        return fragments.StagedRows(table=name, fragments=("{}",), keys=tuple(data["uuid"].to_pylist()))

    def made(*_: Any) -> PartitionOutcome:
        rows = PartitionRows(samples=[TASK.chips])
        return PartitionOutcome(partition=7, parts=1, chips=2, rows=rows, counts={"chips": 2}, retried=1)

    monkeypatch.setattr(fragments, "stage", stage)
    monkeypatch.setattr(base, "run_partition", made)
    monkeypatch.setattr(base, "_worker_of", lambda spec: Worker(driver=None, made_once={}, spec=spec))  # type: ignore[arg-type]
    return left


def test_only_metadata_travels_back(staged: list[Exception]) -> None:
    outcome = run_task(SPEC, TASK)
    assert (outcome.rows.samples, outcome.rows.nbytes) == ([], 0)
    assert [part.keys for part in outcome.rows.staged] == [("a", "b")]
    assert (outcome.retried, outcome.failed) == (1, False)


def test_staging_is_tried_again_when_the_network_failed(staged: list[Exception], waits: list[float]) -> None:
    staged += [StoreUnreachableError("503"), StoreUnreachableError("503")]
    outcome = run_task(SPEC, TASK)
    assert [part.keys for part in outcome.rows.staged] == [("a", "b")]
    assert (outcome.retried, len(waits)) == (3, 2)


@pytest.mark.parametrize("error", [StoreNotWritableError("disk full"), SchemaError("no such column")])
def test_what_cannot_be_stored_ends_the_run(staged: list[Exception], error: Exception) -> None:
    staged.append(error)
    with pytest.raises(type(error)):
        run_task(SPEC, TASK)


def test_a_worker_that_cannot_be_made_fails_its_task(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    tries: list[int] = []

    def no_worker(_: Any) -> Worker:
        tries.append(1)
        raise ConnectionResetError("no weights") if len(tries) < 3 else RasterReadError("broken weights")

    monkeypatch.setattr(base, "_worker_of", no_worker)
    outcome = run_task(SPEC, TASK)
    assert (len(tries), len(waits)) == (3, 2)
    assert (outcome.failed, outcome.partition, outcome.chips) == (True, 7, 2)
    assert [f.error_type for f in outcome.rows.failures] == ["RasterReadError"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_interruption_passes_through(monkeypatch: pytest.MonkeyPatch, wrapped: bool) -> None:
    def interrupt(_: Any) -> Worker:
        if wrapped:
            raise RuntimeError("Query interrupted") from KeyboardInterrupt()
        raise KeyboardInterrupt

    monkeypatch.setattr(base, "_worker_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_task(SPEC, TASK)


def test_a_worker_is_made_once_per_run(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Driver:
        def execute(self, names: list[str], **_: Any) -> dict[str, Any]:
            return dict.fromkeys(names, "own")

    def build(flow: str, config: Any) -> Driver:
        made.append(config.name)
        return Driver()

    monkeypatch.setattr("dataflows.drivers.build_driver", build)
    base._worker.cache_clear()

    def spec(run: str) -> Any:
        shared = {"split_rule": "shared"}
        return SimpleNamespace(key=run, config=SimpleNamespace(name=run), shared=shared, raster_cache_bytes=1 << 20)

    one = base._worker_of(spec("one"))
    assert base._worker_of(spec("one")) is one
    assert one.made_once == {"split_rule": "shared"} | dict.fromkeys(base.WORKERS_OWN, "own")
    base._worker_of(spec("two"))
    base._worker_of(spec("one"))
    assert made == ["one", "two", "one"]
    base._worker.cache_clear()
