"""Which kills the harness draws, and that a watched call dies where it was told to."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.kill_points import HARD, MANNERS, Point
from support.killed_runs import Scenario, kill_at, kills_at_points, kills_at_random, series
from support.run_process import workers_of

POINTS = tuple(
    Point(f"write {table}", nth, moment)
    for table in ("masks", "prompts", "training_data")
    for nth in range(1, 6)
    for moment in ("before", "after", "line 1", "line 2")
)
CASE = Scenario("made up", ("run",), None, Path("nowhere"), POINTS, (1, 2, 3), 2.0, 0)


def test_every_kind_of_point_comes_before_any_comes_twice():
    kills = kills_at_points(CASE, 12, random.Random(1))  # noqa: S311
    assert len({(kill.point.what, kill.point.moment) for kill in kills}) == 12
    assert {kill.manner for kill in kills} == set(MANNERS)


def test_all_points_can_be_drawn_and_none_twice():
    kills = kills_at_points(CASE, 1000, random.Random(2))  # noqa: S311
    assert sorted(kill.point for kill in kills) == sorted(POINTS)
    assert not [kill for kill in kills if kill.point.moment.startswith("line") and kill.manner in HARD]


def test_the_same_seed_draws_the_same():
    draws = [kills_at_points(CASE, 20, random.Random("7 new store")) for _ in range(2)]  # noqa: S311
    assert draws[0] == draws[1]


def test_random_times_lie_in_the_run_and_rows_hold_every_kill():
    rng = random.Random(3)  # noqa: S311
    kills = kills_at_random(CASE, 30, rng)
    assert all(0 <= kill.delay_s <= CASE.seconds for kill in kills)
    assert {kill.manner for kill in kills} == {"SIGKILL", "SIGTERM", "Ctrl-C"}
    rows = series(kills, rng)
    assert [kill for row in rows for kill in row] == kills
    assert {len(row) for row in rows} == {1, 2, 3}


def test_a_point_is_named_by_the_end_of_its_call():
    assert kill_at(CASE, "exit", "masks", "before", 2).point == Point("write masks", 2, "before")
    with pytest.raises(LookupError, match="5 points before masks"):
        kill_at(CASE, "exit", "masks", "before", 6)


@pytest.mark.parametrize(
    ("manner", "moment", "code"),
    [("exit", "before", 9), ("SIGKILL", "after", -9), ("Ctrl-C", "before", 130), ("SIGTERM", "line 3", 130)],
)
def test_a_watched_call_dies_where_it_was_told_to(tmp_path, manner, moment, code):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from support.kill_points import Kill, Point, Watch\n"
        "from support.store_rows import SMALL, rows_for\n"
        "from store import lance_io\n"
        "os.setsid()\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"Watch(Path(sys.argv[1]), Kill(Point('write prompts', 2, {moment!r}), {manner!r})).install()\n"
        "try:\n"
        "    for k in range(3):\n"
        "        lance_io.write(sys.argv[2], 'prompts', rows_for('prompts', 1, first=k))\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    done = subprocess.run(
        [sys.executable, script, tmp_path / "events", tmp_path / "store"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == code, done.stderr
    told = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert told[-1]["killed"] == {"what": "write prompts", "nth": 2, "moment": moment}


def test_workers_are_the_processes_a_run_started():
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as run:
        end = time.monotonic() + 30
        while not (workers := workers_of(run.pid)) and time.monotonic() < end:
            time.sleep(0.01)
        assert len(workers) == 1
        assert workers != [run.pid]
        run.communicate(b"\n")
    assert workers_of(run.pid) == []
