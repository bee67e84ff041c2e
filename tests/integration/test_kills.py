"""Runs killed at every point where something is committed, and at random ones: nothing is lost, doubled or half.

``make test`` kills at chosen points, ``make test-slow`` at some forty, ``make test-nightly`` at two hundred and more:
``KILLS`` says how many, ``KILL_SEED`` repeats a draw, ``KILL_ARGS`` adds arguments of the command line, such as
``--engine processes``.
"""

import os
import random
import secrets
import time
from collections import Counter

import pytest

from support import killed_runs, store_comparison
from support.killed_runs import SCENARIOS, Stop, attack, kill_at, kills_at_points, kills_at_random, series

SHARES = {"new store": 0.45, "changed labels": 0.25, "failing chips": 0.15, "context flow": 0.15}
"""Scenario → its part of all kills."""
AT_RANDOM = 0.3
"""Part of the kills that come at random times."""


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    """Makes each scenario once."""
    root, made = tmp_path_factory.mktemp("kills"), {}

    def one(name):
        if name not in made:
            made[name] = SCENARIOS[name](root)
        return made[name]

    return one


def test_a_first_run_killed_where_it_commits(scenario, tmp_path):
    case = scenario("new store")
    assert len(case.partitions) >= 8
    attacks = [
        [
            kill_at(case, "SIGKILL", "scenes > LanceDataset.commit", "after"),
            kill_at(case, "SIGTERM", "write runs", "after"),
        ],
        [kill_at(case, "exit", "write masks", "after", 2), kill_at(case, "Ctrl-C", "write prompts", "before", 2)],
        [kill_at(case, "SIGKILL", "commit training_data > LanceDataset.commit", "before", 3)],
        [kill_at(case, "Ctrl-C twice", "commit training_data", "after", 2)],
        [Stop(case.seconds * 0.7, "SIGTERM"), Stop(case.seconds * 0.5, "SIGKILL"), Stop(case.seconds * 0.6, "Ctrl-C")],
    ]
    judged(case, attacked(case, attacks, tmp_path))


def test_a_run_after_labels_changed_killed_between_marking_and_deleting(scenario, tmp_path):
    case = scenario("changed labels")
    attacks = [
        [kill_at(case, "SIGKILL", "mark prompts", "before"), kill_at(case, "exit", "delete training_data", "before")],
        [kill_at(case, "Ctrl-C", "mark masks", "after")],
    ]
    judged(case, attacked(case, attacks, tmp_path))


@pytest.mark.slow
def test_an_interrupt_between_two_lines_of_the_hand_over(scenario, tmp_path):
    """A unit of work is handed to the buffer in several statements; what is flushed after half of them is whole."""
    case = scenario("new store")
    door = "CommitBuffer.take"
    lines = sorted({p.moment for p in case.points if p.what == door and p.moment.startswith("line")})
    assert lines
    attacks = [[kill_at(case, "Ctrl-C", door, line, 3)] for line in lines]
    judged(case, attacked(case, attacks, tmp_path))


@pytest.mark.slow
def test_an_interrupt_while_the_end_is_written(scenario, tmp_path):
    """A run that is through says so, and ends as if nobody had interrupted it; a second interrupt ends it at once."""
    case = scenario("changed labels")
    attacks = [
        [kill_at(case, manner, "write runs > MergeInsertBuilder.execute", "before", 2)]
        for manner in ("SIGTERM", "Ctrl-C", "Ctrl-C twice")
    ]
    attacks.append([kill_at(case, "SIGTERM", "Run.record > write runs", "after", 2)])
    judged(case, attacked(case, attacks, tmp_path))


def test_what_a_kill_leaves_is_removed_when_it_is_old_and_not_before(scenario, tmp_path):
    cleaning = pytest.importorskip("store.cleaning", reason="this version cleans nothing yet")
    case, store = scenario("new store"), tmp_path / "lancedb"
    killed = case.start_run(
        store, tmp_path / "killed", kill_at(case, "SIGKILL", "masks > MergeInsertBuilder.execute", "within", 2)
    )
    assert killed.wait() == -9
    left = store_comparison.orphans(store)
    assert left
    resumed = case.start_run(store, tmp_path / "resumed")
    assert resumed.wait() == 0, resumed.output

    def clean():
        for name in store_comparison.tables_of(store):
            cleaning.clean(store, name)

    clean()
    assert store_comparison.orphans(store) == left
    long_ago = time.time() - 8 * 86400
    for path in left[:1]:
        os.utime(path, (long_ago, long_ago))
    clean()
    assert store_comparison.orphans(store) == left[1:]
    assert store_comparison.differences(store, case.reference) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SCENARIOS))
def test_killed_anywhere_at_any_time(scenario, tmp_path, name):
    seed = int(os.environ.get("KILL_SEED") or secrets.randbelow(1 << 31))
    print(f"\nKILL_SEED={seed}")
    rng = random.Random(f"{seed} {name}")  # noqa: S311
    case = scenario(name)
    count = max(4, round(int(os.environ.get("KILLS") or 40) * SHARES[name]))
    at_random = round(count * AT_RANDOM)
    kills = [*kills_at_points(case, count - at_random, rng), *kills_at_random(case, at_random, rng)]
    rng.shuffle(kills)
    verdicts = attacked(case, series(kills, rng), tmp_path)
    # in a row, a point may not be passed any more; kills that did not take place are made up for
    for turn in range(count):
        missing = count - sum(len(verdict.kills) for verdict in verdicts)
        if missing <= 0:
            break
        verdicts += attacked(case, [[kill] for kill in kills_at_random(case, missing, rng)], tmp_path / f"more-{turn}")
    assert sum(len(verdict.kills) for verdict in verdicts) >= count
    judged(case, verdicts)


def attacked(case, attacks, folder):
    """A verdict for each row of kills."""
    verdicts = []
    for number, kills in enumerate(attacks):
        verdict = attack(case, folder / f"attack-{number}", kills)
        verdicts.append(verdict)
        for told in verdict.kills:
            print(f"{'BAD ' if verdict.problems else 'good'} {case.name}: {told}", flush=True)
        for problem in verdict.problems:
            print(f"     {problem}", flush=True)
    return verdicts


def judged(case, verdicts):
    _print_table(case, verdicts)
    bad = [(verdict.kills, verdict.problems) for verdict in verdicts if verdict.problems]
    assert not bad, "\n".join(f"{kills}: {problems}" for kills, problems in bad)


def _print_table(case, verdicts):
    counts = Counter()
    for verdict in verdicts:
        for told in verdict.kills:
            manner, _, where = told.partition(" of the " if " of the " in told else " at ")
            counts[manner, "any time" if " of the " in told else where.partition(" #")[0], not verdict.problems] += 1
    for (manner, where, good), number in sorted(counts.items()):
        print(f"{case.name:15} {manner:13} {where:70} {'good' if good else 'BAD'} {number}")
    kills = sum(len(verdict.kills) for verdict in verdicts)
    print(
        f"{case.name}: {kills} kills, {len(verdicts)} stores, {sum(bool(v.problems) for v in verdicts)} of them wrong, "
        f"at most {max(v.redone for v in verdicts)} partitions redone (k = {killed_runs.COMMIT_EVERY}), "
        f"{sum(v.orphans for v in verdicts)} orphan files",
        flush=True,
    )
