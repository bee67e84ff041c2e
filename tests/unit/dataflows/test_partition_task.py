"""The unit of work: chips are made once, what the network failed is read again, bad data is not."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows import partition_task
from dataflows.build_plan import BuildPlan
from dataflows.partition_task import PartitionOutcome, PartitionTask, lost, partition_tasks, run_partition
from utils.errors import NodataError, RasterReadError, RasterUnreachableError, WorkerLostError
from utils.failures import Failure
from utils.retry import RetryPolicy

PARTITION = 0xB0000000_00000000
POLICY = RetryPolicy(retries=3, first_wait_s=1.0)


def table(**columns: list[Any]) -> pa.Table:
    return pa.table(
        {
            name: pa.array(values, pa.uint64() if name == "partition" else pa.string())
            for name, values in columns.items()
        }
    )


def task(*uuids: str) -> PartitionTask:
    chips = table(uuid=list(uuids), partition=[PARTITION] * len(uuids))
    prompts = table(uuid=[uuid for uuid in uuids for _ in range(2)])
    return PartitionTask(partition=PARTITION, part=0, parts=1, chips=chips, prompts=prompts)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(partition_task.time, "sleep", found.append)
    return found


class Driver:
    """Makes a row per chip, except where ``meets`` has an exception: for a chip a failure, for ``None`` the whole."""

    def __init__(self, meets: Callable[[int, str | None], Exception | None] | None = None) -> None:
        self.meets = meets or (lambda _, __: None)
        self.asked: list[list[str]] = []

    def execute(self, nodes: list[str], *, inputs: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
        assert nodes == ["sample_write"]
        uuids = overrides["chip_plan"]["uuid"].to_pylist()
        assert set(overrides["prompts"]["uuid"].to_pylist()) == set(uuids)
        assert overrides["shared"] == "yes"
        self.asked.append(uuids)
        whole = self.meets(len(self.asked), None)
        if whole is not None:
            raise whole
        errors = {uuid: error for uuid in uuids if (error := self.meets(len(self.asked), uuid)) is not None}
        failures = [Failure.of("vhr_reads", error, uuid=uuid) for uuid, error in errors.items()]
        made = table(uuid=[uuid for uuid in uuids if uuid not in errors])
        inputs["commit_buffer"].add(
            partition=inputs["partition"], samples=made, masks=made, prompts=made, failures=failures
        )
        counts = {"partition": inputs["partition"], "chips": len(made), "failed": len(errors), "not_taken": 0}
        return {"sample_write": counts | {"accept": len(made)}}


def run(driver: Driver, *uuids: str, policy: RetryPolicy = POLICY) -> PartitionOutcome:
    made_once = {"shared": "yes"}
    return run_partition(driver, made_once, task(*uuids), provenance=None, policy=policy)  # type: ignore[arg-type]


def made(outcome: PartitionOutcome) -> list[str]:
    return [uuid for part in outcome.rows.samples for uuid in part["uuid"].to_pylist()]


def test_all_chips_at_once(waits: list[float]) -> None:
    driver = Driver()
    outcome = run(driver, "a", "b", "c")
    assert (made(outcome), driver.asked, waits) == (["a", "b", "c"], [["a", "b", "c"]], [])
    assert outcome.counts == {"chips": 3, "failed": 0, "not_taken": 0, "accept": 3}
    assert (outcome.partition, outcome.chips, outcome.failed, outcome.retried) == (PARTITION, 3, False, 0)


def test_only_the_chip_the_network_failed_is_read_again(waits: list[float]) -> None:
    def meets(turn: int, uuid: str | None) -> Exception | None:
        return RasterUnreachableError("503") if uuid == "b" and turn <= 2 else None

    driver = Driver(meets)
    outcome = run(driver, "a", "b", "c")
    assert driver.asked == [["a", "b", "c"], ["b"], ["b"]]
    assert sorted(made(outcome)) == ["a", "b", "c"]
    assert outcome.counts == {"chips": 3, "failed": 0, "not_taken": 0, "accept": 3}
    assert (outcome.rows.failures, outcome.retried, outcome.failed) == ([], 2, False)
    assert len(waits) == 2
    assert waits[0] <= 1.0 <= waits[1]


def test_bad_data_is_never_read_again(waits: list[float]) -> None:
    def meets(turn: int, uuid: str | None) -> Exception | None:
        return {"a": RasterReadError("truncated"), "c": NodataError("empty")}.get(uuid or "")

    driver = Driver(meets)
    outcome = run(driver, "a", "b", "c")
    assert (made(outcome), len(driver.asked), waits, outcome.retried) == (["b"], 1, [], 0)
    assert {(f.uuid, f.error_type, f.partition) for f in outcome.rows.failures} == {
        ("a", "RasterReadError", PARTITION),
        ("c", "NodataError", PARTITION),
    }


def test_a_network_that_stays_away_is_a_failure_of_its_chip(waits: list[float]) -> None:
    def meets(turn: int, uuid: str | None) -> Exception | None:
        return RasterUnreachableError(f"turn {turn}") if uuid == "b" else None

    driver = Driver(meets)
    outcome = run(driver, "a", "b")
    assert driver.asked == [["a", "b"], ["b"], ["b"], ["b"]]
    assert outcome.counts == {"chips": 1, "failed": 1, "not_taken": 0, "accept": 1}
    assert [(f.uuid, f.message) for f in outcome.rows.failures] == [("b", "turn 4")]
    assert (outcome.retried, len(waits), outcome.failed) == (3, 3, False)


def test_bad_data_met_on_the_second_look_is_kept(waits: list[float]) -> None:
    def meets(turn: int, uuid: str | None) -> Exception | None:
        if uuid != "b":
            return None
        return RasterUnreachableError("503") if turn == 1 else RasterReadError("truncated")

    outcome = run(Driver(meets), "a", "b")
    assert [f.error_type for f in outcome.rows.failures] == ["RasterReadError"]
    assert (outcome.counts["chips"], outcome.counts["failed"], outcome.retried) == (1, 1, 1)


def test_a_task_the_network_failed_as_a_whole_is_done_again() -> None:
    def meets(turn: int, uuid: str | None) -> Exception | None:
        return ConnectionResetError("reset") if uuid is None and turn == 1 else None

    driver = Driver(meets)
    outcome = run(driver, "a", "b")
    assert driver.asked == [["a", "b"], ["a", "b"]]
    assert (made(outcome), outcome.retried, outcome.failed) == (["a", "b"], 1, False)


@pytest.mark.parametrize(("error", "tries"), [(ConnectionResetError("reset"), 4), (ZeroDivisionError("a bug"), 1)])
def test_a_task_that_fails_as_a_whole_is_one_failure(error: Exception, tries: int) -> None:
    driver = Driver(lambda _, uuid: error if uuid is None else None)
    outcome = run(driver, "a", "b")
    assert len(driver.asked) == tries
    assert (outcome.failed, outcome.chips, dict(outcome.counts), made(outcome)) == (True, 2, {}, [])
    (failure,) = outcome.rows.failures
    assert (failure.node, failure.error_type, failure.partition) == (
        "run_partition",
        type(error).__name__,
        PARTITION,
    )


def test_what_was_made_before_the_whole_failed_is_kept() -> None:
    def meets(turn: int, uuid: str | None) -> Exception | None:
        if turn == 1:
            return RasterUnreachableError("503") if uuid == "b" else None
        return ZeroDivisionError("a bug") if uuid is None else None

    outcome = run(Driver(meets), "a", "b")
    assert (outcome.failed, made(outcome), outcome.counts["chips"]) == (True, ["a"], 1)
    assert [f.error_type for f in outcome.rows.failures] == ["ZeroDivisionError"]


def test_no_retries_means_none(waits: list[float]) -> None:
    driver = Driver(lambda _, uuid: RasterUnreachableError("503") if uuid == "a" else None)
    outcome = run(driver, "a", policy=RetryPolicy(retries=0))
    assert (len(driver.asked), waits, outcome.counts["failed"]) == (1, [], 1)


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_interruption_passes_through(wrapped: bool) -> None:
    class Interrupted(Driver):
        def execute(self, *_: Any, **__: Any) -> Any:
            if wrapped:
                raise RuntimeError("Query interrupted") from KeyboardInterrupt()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), "a")


def test_a_lost_task_names_its_partition() -> None:
    outcome = lost(task("a", "b"), WorkerLostError("died 3 times"))
    assert (outcome.failed, outcome.chips, outcome.partition) == (True, 2, PARTITION)
    (failure,) = outcome.rows.failures
    assert (failure.error_type, failure.partition, failure.uuid) == ("WorkerLostError", PARTITION, None)


def test_only_keeps_the_prompts_of_its_chips() -> None:
    some = task("a", "b", "c").only({"c", "a", "unknown"})
    assert some.chips["uuid"].to_pylist() == ["a", "c"]
    assert some.prompts["uuid"].to_pylist() == ["a", "a", "c", "c"]
    assert (some.partition, some.part, some.parts) == (PARTITION, 0, 1)


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(1, 3), min_size=1, max_size=25),
    st.integers(1, 9),
)
def test_parts_cover_the_chips_of_the_partition_once(placed: dict[str, int], most: int) -> None:
    pending = table(uuid=list(placed), partition=list(placed.values()))
    prompts = table(uuid=[uuid for uuid in placed for _ in range(len(uuid))])
    build = replace(_NO_PLAN, pending=pending, prompts=prompts)
    for partition in set(placed.values()):
        wanted = sorted(uuid for uuid, place in placed.items() if place == partition)
        tasks = partition_tasks(build, partition, most_chips=most)
        assert [uuid for part in tasks for uuid in part.chips["uuid"].to_pylist()] == wanted
        assert {len(part.chips) for part in tasks[:-1]} <= set(range(1, most + 1))
        assert 1 <= len(tasks[-1].chips) <= most
        assert [(part.partition, part.part, part.parts) for part in tasks] == [
            (partition, number, len(tasks)) for number in range(len(tasks))
        ]
        for part in tasks:
            expected = [uuid for uuid in part.chips["uuid"].to_pylist() for _ in range(len(uuid))]
            assert sorted(part.prompts["uuid"].to_pylist()) == expected


_NO_PLAN = BuildPlan(
    **dict.fromkeys(BuildPlan.__dataclass_fields__)  # type: ignore[arg-type]
)
