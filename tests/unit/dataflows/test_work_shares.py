"""Which partitions a run makes: its leases', without what others made since its plan."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from dataflows import work_shares
from dataflows.build_plan import BuildPlan, still_missing
from dataflows.work_shares import WorkShares, run_lease_id
from store import lance_io, leases
from support.store_rows import SMALL, replaced, rows_for
from utils.errors import StoreConflictError, StoreUnreachableError

PLANNED = datetime(2026, 7, 1, tzinfo=UTC)
PARTITIONS = [11, 12, 13, 14, 15]


def plan(chips: dict[int, int]) -> BuildPlan:
    """``chips`` per partition; chip k has the key ``key-k`` of the store's rows."""
    places = [partition for partition, count in chips.items() for _ in range(count)]
    uuids = [f"key-{number}" for number in range(len(places))]
    pending = pa.table(
        {
            "uuid": pa.array(uuids, pa.string()),
            "partition": pa.array(places, pa.uint64()),
            "input_set": pa.array([f"inputs {uuid}" for uuid in uuids], pa.string()),
        }
    )
    nothing: dict[str, Any] = dict.fromkeys(BuildPlan.__dataclass_fields__)
    return BuildPlan(**nothing | {"pending": pending, "prompts": pending.select(["uuid"]), "planned_at": PLANNED})


@pytest.fixture
def shares(tmp_path: Path) -> Callable[..., WorkShares]:
    def make(run_id: str, *, lease_s: float = 60.0, commit_every: int = 2, most_chips: int = 100) -> WorkShares:
        config: Any = SimpleNamespace(
            store=str(tmp_path),
            lease_s=lease_s,
            commit_every=commit_every,
            build_config="config",
            network_retries=2,
            network_wait_s=0.01,
        )
        return WorkShares(config, plan(dict.fromkeys(PARTITIONS, 2)), run_id, most_chips=most_chips)

    return make


def made_by_another(uri: Path, *numbers: int, at: timedelta = timedelta(hours=1), **changes: str) -> None:
    """Rows of chips, as another run with the same settings commits them."""
    data = pa.concat_tables([rows_for("training_data", 1, first=number) for number in numbers])
    columns = {"build_config": "config"} | changes
    values: dict[str, list[Any]] = {name: [value] * len(data) for name, value in columns.items()}
    if "input_set" not in changes:
        values["input_set"] = [f"inputs key-{number}" for number in numbers]
    lance_io.write(uri, "training_data", replaced(data, created_at=[PLANNED + at] * len(data), **values), profile=SMALL)


def held(uri: Path) -> dict[str, str]:
    now = datetime.now(UTC)
    rows = lance_io.open_table(uri, "leases").to_table().to_pylist()
    return {row["lease_id"]: row["run_id"] for row in rows if row["expires_at"] > now}


def places(tasks: Any) -> list[int]:
    return [task.partition for task in tasks]


def test_a_run_holds_the_lease_that_says_it_lives(tmp_path: Path, shares: Callable[..., WorkShares]) -> None:
    run = shares("me")
    assert held(tmp_path) == {run_lease_id("me"): "me"}
    run.release()
    assert held(tmp_path) == {}


def test_leases_are_taken_as_tasks_are_drawn(tmp_path: Path, shares: Callable[..., WorkShares]) -> None:
    run = shares("me")
    tasks = run.tasks(PARTITIONS)
    assert next(tasks).partition == 11
    assert set(held(tmp_path)) == {"run/me", "build/b", "build/c"}
    assert places(tasks) == PARTITIONS[1:]
    assert (run.elsewhere, run.made_elsewhere) == ([], {})


def test_finished_partitions_go_back_with_the_next_claim(tmp_path: Path, shares: Callable[..., WorkShares]) -> None:
    run = shares("me")
    tasks = run.tasks(PARTITIONS)
    next(tasks), next(tasks)
    run.finished(11)
    next(tasks)
    assert set(held(tmp_path)) == {"run/me", "build/c", "build/d", "build/e"}


def test_two_runs_share_no_partition(tmp_path: Path, shares: Callable[..., WorkShares]) -> None:
    first, second = shares("first"), shares("second")
    one, two = first.tasks(PARTITIONS), second.tasks(PARTITIONS)
    drawn: dict[str, list[int]] = {"first": [next(one).partition], "second": []}
    drawn["second"] += places(two)
    drawn["first"] += places(one)
    assert drawn == {"first": [11, 12], "second": [13, 14, 15]}
    assert (first.elsewhere, second.elsewhere) == ([13, 14, 15], [11, 12])
    second.release()
    assert places(first.tasks(first.elsewhere)) == [13, 14, 15]


def test_what_others_made_since_the_plan_is_left_out_and_counted(
    tmp_path: Path, shares: Callable[..., WorkShares]
) -> None:
    made_by_another(tmp_path, 0, 1, 2)
    run = shares("me")
    tasks = [*run.tasks(PARTITIONS)]
    assert places(tasks) == PARTITIONS[1:]
    assert tasks[0].chips["uuid"].to_pylist() == ["key-3"]
    assert run.made_elsewhere == {11: 2, 12: 1}
    run._claim([])
    assert "build/b" not in held(tmp_path), "a partition without work left goes back"


@pytest.mark.parametrize(
    ("at", "changes"),
    [
        (timedelta(hours=-1), {}),
        (timedelta(hours=1), {"input_set": "others"}),
        (timedelta(hours=1), {"build_config": "another"}),
    ],
)
def test_rows_of_before_or_of_other_inputs_do_not_count(tmp_path: Path, at: timedelta, changes: dict[str, str]) -> None:
    made_by_another(tmp_path, 0, 1, at=at, **changes)
    config: Any = SimpleNamespace(store=str(tmp_path), build_config="config")
    chips = plan({11: 3}).pending
    assert still_missing(config, chips, PLANNED).equals(chips)
    assert len(still_missing(config, chips.slice(0, 0), PLANNED)) == 0


def test_parts_of_a_partition_too_large(shares: Callable[..., WorkShares]) -> None:
    tasks = [*shares("me", most_chips=1).tasks(PARTITIONS[:2])]
    assert [(task.partition, task.part, task.parts) for task in tasks] == [
        (11, 0, 2),
        (11, 1, 2),
        (12, 0, 2),
        (12, 1, 2),
    ]


def test_leases_are_renewed_when_a_third_has_passed(
    tmp_path: Path, shares: Callable[..., WorkShares], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shares("me")
    next(run.tasks(PARTITIONS))
    version = lance_io.open_table(tmp_path, "leases").version
    run.renew()
    assert lance_io.open_table(tmp_path, "leases").version == version
    before = {
        row["lease_id"]: row["expires_at"] for row in lance_io.open_table(tmp_path, "leases").to_table().to_pylist()
    }
    real = work_shares.time.monotonic
    monkeypatch.setattr(work_shares.time, "monotonic", lambda: real() + 21)
    run.renew()
    after = {
        row["lease_id"]: row["expires_at"] for row in lance_io.open_table(tmp_path, "leases").to_table().to_pylist()
    }
    assert all(after[key] > before[key] for key in before)


def test_a_lease_lost_while_too_slow_is_no_longer_held(tmp_path: Path, shares: Callable[..., WorkShares]) -> None:
    slow = shares("slow", lease_s=1e-3)
    next(slow.tasks(PARTITIONS))
    other = shares("other")
    assert next(other.tasks(PARTITIONS)).partition == 11
    slow.renew()
    assert held(tmp_path)["build/b"] == "other"
    assert 11 not in slow._held


def test_waiting_is_short(shares: Callable[..., WorkShares], monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(work_shares.time, "sleep", waited.append)
    shares("me", lease_s=300.0).wait()
    shares("you", lease_s=0.3).wait()
    assert waited == [2.0, pytest.approx(0.1)]


def test_release_leaves_the_leases_of_others(tmp_path: Path, shares: Callable[..., WorkShares]) -> None:
    me, other = shares("me"), shares("other")
    next(me.tasks(PARTITIONS))
    next(other.tasks(PARTITIONS[2:]))
    me.release()
    assert set(held(tmp_path)) == {"run/other", "build/d", "build/e"}
    assert leases.living(str(tmp_path), ["run/me", "run/other"]) == {"run/other"}


def test_leases_are_kept_while_one_task_takes_long(tmp_path: Path, shares: Callable[..., WorkShares]) -> None:
    me, other = shares("me", lease_s=1.5), shares("other")
    tasks = me.tasks(PARTITIONS[:2])
    with me.kept():
        next(tasks)
        end = time.monotonic() + 4.0
        while time.monotonic() < end:
            assert [*other.tasks(PARTITIONS[:2])] == []
            time.sleep(0.2)
        assert leases.living(str(tmp_path), ["run/me", "build/b", "build/c"]) == {"run/me", "build/b", "build/c"}
    threads = [thread.name for thread in threading.enumerate()]
    assert "leases" not in threads


def test_nobody_keeps_the_leases_of_a_run_that_broke_off(shares: Callable[..., WorkShares]) -> None:
    with pytest.raises(ZeroDivisionError), shares("me", lease_s=0.3).kept():
        raise ZeroDivisionError
    assert "leases" not in [thread.name for thread in threading.enumerate()]


def test_a_renewal_that_fails_is_left_to_the_next(
    tmp_path: Path, shares: Callable[..., WorkShares], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shares("me", lease_s=1e-3)
    next(run.tasks(PARTITIONS))
    run.finished(11)
    claim, left = leases.claim, [StoreConflictError("others came first"), StoreUnreachableError("503")]

    def unreliable(*arguments: Any, **options: Any) -> set[str]:
        if left:
            raise left.pop()
        return claim(*arguments, **options)

    monkeypatch.setattr(leases, "claim", unreliable)
    for _ in range(3):
        time.sleep(0.01)
        run.renew()
    assert left == []
    assert run._held == {12}
    rows = lance_io.open_table(tmp_path, "leases").to_table().to_pylist()
    assert {row["lease_id"] for row in rows} == {"run/me", "build/b", "build/c"}


def test_claims_and_looks_the_network_failed_are_tried_again(
    tmp_path: Path, shares: Callable[..., WorkShares], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, failed = shares("me"), dict[str, int]()

    def once(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def unreliable(*arguments: Any, **options: Any) -> Any:
            failed[name] = failed.get(name, 0) + 1
            if failed[name] == 1:
                raise StoreUnreachableError("503")
            return real(*arguments, **options)

        return unreliable

    monkeypatch.setattr(leases, "claim", once("claim", leases.claim))
    monkeypatch.setattr(work_shares, "still_missing", once("look", still_missing))
    assert places(run.tasks(PARTITIONS[:2])) == PARTITIONS[:2]
    assert failed == {"claim": 2, "look": 2}


def test_a_run_learns_that_it_was_overtaken(tmp_path, shares):
    slow = shares("slow", lease_s=0.2)
    assert len(list(slow.tasks(PARTITIONS[:2]))) == 2
    assert not slow.is_overtaken()
    time.sleep(0.3)
    quick = shares("quick")
    assert [task.partition for task in quick.tasks(PARTITIONS[:1])] == PARTITIONS[:1]
    quick.finished(PARTITIONS[0])
    quick.release()
    assert slow.is_overtaken()


def test_a_lease_that_expired_and_nobody_wanted_is_still_held(shares):
    slow = shares("slow", lease_s=0.1)
    assert len(list(slow.tasks(PARTITIONS[:2]))) == 2
    time.sleep(0.2)
    assert not slow.is_overtaken()


def test_leases_that_went_back_do_not_pile_up(
    tmp_path: Path, shares: Callable[..., WorkShares], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_shares, "_FORGOTTEN_AT_ONCE", 2)
    run = shares("me", commit_every=1)
    for task in run.tasks(PARTITIONS):
        run.finished(task.partition)
    assert lance_io.open_table(tmp_path, "leases").count_rows() <= 3
    assert set(held(tmp_path)) == {"run/me", "build/f"}
