"""Leases: taken, renewed, given back, and taken over only from those who are gone."""

import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from store import lance_io, leases
from store.leases import Holder, claim, living, process_space, release
from support.store_rows import race_for_leases

KEYS = ["a", "b", "c"]
ME = Holder(run_id="me", lease_s=60.0)
OTHER = Holder(run_id="other", lease_s=60.0)


def held(uri: Path) -> dict[str, dict[str, Any]]:
    rows = lance_io.open_table(uri, "leases").to_table().to_pylist()
    assert len({row["lease_id"] for row in rows}) == len(rows)
    return {row["lease_id"]: row for row in rows}


def dead_pid() -> int:
    """Process id of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_a_free_lease_is_granted_and_says_who_has_it(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    assert claim(tmp_path, ME, KEYS) == set(KEYS)
    row = held(tmp_path)["a"]
    assert (row["run_id"], row["host"], row["pid"], row["epoch"]) == ("me", process_space(), os.getpid(), 0)
    assert 59 < (row["expires_at"] - before).total_seconds() < 90
    assert living(tmp_path, [*KEYS, "d"]) == set(KEYS)


def test_nobody_holds_anything_in_an_empty_store(tmp_path: Path) -> None:
    assert living(tmp_path, KEYS) == set()
    assert claim(tmp_path, ME, []) == set()
    release(tmp_path / "nowhere", ME)
    assert living(tmp_path, []) == set()


def test_what_another_run_holds_is_not_granted(tmp_path: Path) -> None:
    claim(tmp_path, ME, ["a", "b"])
    assert claim(tmp_path, OTHER, KEYS) == {"c"}
    assert {key: row["run_id"] for key, row in held(tmp_path).items()} == {"a": "me", "b": "me", "c": "other"}


def test_a_renewed_lease_lasts_longer_and_keeps_its_epoch(tmp_path: Path) -> None:
    claim(tmp_path, ME, KEYS)
    before = held(tmp_path)
    assert claim(tmp_path, ME, ["a"]) == {"a"}
    after = held(tmp_path)
    assert after["a"]["expires_at"] > before["a"]["expires_at"]
    assert after["a"]["epoch"] == 0
    assert after["b"] == before["b"]


def test_a_renewed_lease_is_not_lost_while_others_ask_for_it(tmp_path: Path) -> None:
    brief = Holder(run_id="me", lease_s=3.0)
    assert claim(tmp_path, brief, ["a"]) == {"a"}
    stop, taken = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            taken.extend(claim(tmp_path, OTHER, ["a"]))
            stop.wait(0.05)

    asker = threading.Thread(target=ask)
    asker.start()
    for _ in range(10):
        assert claim(tmp_path, brief, ["a"]) == {"a"}
        stop.wait(0.1)
    stop.set()
    asker.join()
    assert taken == []


def test_an_expired_lease_is_taken_over_and_its_epoch_grows(tmp_path: Path) -> None:
    claim(tmp_path, Holder(run_id="slow", lease_s=-1.0), ["a"])
    assert living(tmp_path, ["a"]) == set()
    assert claim(tmp_path, ME, ["a"]) == {"a"}
    assert (held(tmp_path)["a"]["run_id"], held(tmp_path)["a"]["epoch"]) == ("me", 1)
    assert claim(tmp_path, Holder(run_id="slow", lease_s=60.0), ["a"]) == set()


def test_the_dead_of_this_machine_hold_nothing(tmp_path: Path) -> None:
    claim(tmp_path, Holder(run_id="dead", lease_s=60.0, pid=dead_pid()), ["a"])
    assert living(tmp_path, ["a"]) == set()
    assert claim(tmp_path, ME, ["a"]) == {"a"}
    assert held(tmp_path)["a"]["epoch"] == 1


def test_of_other_machines_only_time_tells(tmp_path: Path) -> None:
    claim(tmp_path, Holder(run_id="far", lease_s=60.0, host="elsewhere", pid=dead_pid()), ["a"])
    claim(tmp_path, Holder(run_id="far", lease_s=-1.0, host="elsewhere", pid=os.getpid()), ["b"])
    assert living(tmp_path, ["a", "b"]) == {"a"}
    assert claim(tmp_path, ME, ["a", "b"]) == {"b"}


def test_a_host_name_alone_says_nothing_of_a_process(tmp_path: Path) -> None:
    space = process_space()
    assert space.split()[0] == socket.gethostname()
    if sys.platform == "linux":
        assert len(space.split()) == 3
    claim(tmp_path, Holder(run_id="container", lease_s=60.0, host=f"{space}0", pid=dead_pid()), ["a"])
    assert claim(tmp_path, ME, ["a"]) == set()


def test_a_process_of_another_user_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(tmp_path, Holder(run_id="root", lease_s=60.0, pid=1), ["a"])

    def refused(pid: int, signal: int) -> None:
        raise PermissionError(pid, signal)

    monkeypatch.setattr(os, "kill", refused)
    assert living(tmp_path, ["a"]) == {"a"}
    assert claim(tmp_path, ME, ["a"]) == set()


def test_given_back_and_taken_in_one_commit(tmp_path: Path) -> None:
    claim(tmp_path, ME, ["a", "b"])
    version = lance_io.open_table(tmp_path, "leases").version
    assert claim(tmp_path, ME, ["c"], give_back=["a", "unknown"]) == {"c"}
    assert lance_io.open_table(tmp_path, "leases").version == version + 1
    assert living(tmp_path, KEYS) == {"b", "c"}
    assert claim(tmp_path, OTHER, KEYS) == {"a"}


def test_only_the_holder_gives_back(tmp_path: Path) -> None:
    claim(tmp_path, ME, ["a"])
    claim(tmp_path, OTHER, ["b"], give_back=["a"])
    assert living(tmp_path, ["a", "b"]) == {"a", "b"}


def test_release_gives_back_everything_of_one_run(tmp_path: Path) -> None:
    claim(tmp_path, ME, ["a", "b"])
    claim(tmp_path, OTHER, ["c"])
    release(tmp_path, ME)
    assert set(held(tmp_path)) == {"c"}
    assert claim(tmp_path, OTHER, KEYS) == set(KEYS)


def test_release_leaves_what_was_taken_over_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(tmp_path, Holder(run_id="me", lease_s=-1.0), ["a", "b"])
    scan = lance_io.scan

    def scan_and_be_overtaken(*arguments: Any, **options: Any) -> Any:
        found = scan(*arguments, **options)
        claim(tmp_path, OTHER, ["a"])
        return found

    monkeypatch.setattr(lance_io, "scan", scan_and_be_overtaken)
    release(tmp_path, ME)
    claim(tmp_path, OTHER, ["a"])
    assert {key: row["run_id"] for key, row in held(tmp_path).items() if key == "a"} == {"a": "other"}
    assert held(tmp_path)["a"]["epoch"] == 1, "the lease was deleted under its new holder"


@pytest.mark.parametrize("first", ["nobody", "a dead run"])
def test_of_racing_claimers_one_gets_each_lease(tmp_path: Path, first: str) -> None:
    keys = [f"key {number}" for number in range(6)]
    if first == "a dead run":
        claim(tmp_path, Holder(run_id="dead", lease_s=-1.0), keys)
    start, granted = threading.Barrier(4), dict[int, set[str]]()

    def take(number: int) -> None:
        start.wait()
        granted[number] = claim(tmp_path, Holder(run_id=f"run {number}", lease_s=60.0), keys[number:] + keys[:number])

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key for keys in granted.values() for key in keys) == keys
    assert {key: row["run_id"] for key, row in held(tmp_path).items()} == {
        key: f"run {number}" for number, keys in granted.items() for key in keys
    }


def test_a_claim_looks_again_when_another_came_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look, turns = leases._known, []

    def look_and_be_overtaken(*arguments: Any) -> Any:
        found = look(*arguments)
        turns.append(found)
        if len(turns) == 1:
            claim(tmp_path, OTHER, ["a"])
        return found

    monkeypatch.setattr(leases, "_known", look_and_be_overtaken)
    assert claim(tmp_path, ME, ["a", "b"]) == {"b"}
    assert {key: row["run_id"] for key, row in held(tmp_path).items()} == {"a": "other", "b": "me"}


@pytest.mark.slow
def test_racing_processes_share_no_lease(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, granted = context.Barrier(3), context.Queue()
    workers = [context.Process(target=race_for_leases, args=(str(tmp_path), n, 30, start, granted)) for n in range(3)]
    for worker in workers:
        worker.start()
    taken = [granted.get(timeout=200) for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(key for keys in taken for key in keys) == sorted(f"key {n}" for n in range(30))


def test_forgotten_leases_take_their_fragments_along(tmp_path: Path) -> None:
    for number in range(4):
        back = [f"{number - 1}"] if number else []
        leases.claim(tmp_path, ME, ["run", f"{number}"], give_back=back)
    leases.claim(tmp_path, OTHER, ["0"])
    leases.forget(tmp_path, ME, ["0", "1", "2", "3"])
    assert {key: row["run_id"] for key, row in held(tmp_path).items()} == {"run": "me", "3": "me", "0": OTHER.run_id}
    assert len(lance_io.open_table(tmp_path, "leases").get_fragments()) == 2
