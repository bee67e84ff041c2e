"""Two runs on one store at once, beside compaction and readers: one row per key, none lost, one split rule.

Runs are brought to the same point and let go together, so that they meet where they commit.
"""

import random
import shutil
import threading
import time
from collections import Counter
from dataclasses import fields

import pytest

from dataflows.config import BuildConfig
from store import lance_io
from store.schemas import SPLITS, primary_key
from support import killed_runs, mini_region, store_comparison
from support.run_process import RunProcess
from utils.split import SPLITS as NAMES
from utils.split import SplitRule, split_of_cells

MEETING_POINTS = {
    "the first table": ("scenes > LanceDataset.commit", "before"),
    "the split rule": ("commit_if_empty splits", "before"),
    "the table of chips": ("stage training_data > LanceDataset.commit", "before"),
    "the first chips": ("commit training_data > LanceDataset.commit", "before"),
    "the indexes": ("refresh_indexes training_data", "before"),
}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return killed_runs.new_store(tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    return killed_runs.failing_chips(tmp_path_factory.mktemp("failing"))


def together(case, store, folder, *, at=None, options=((), ())):
    """Both runs from start to end; they wait for each other ``at`` a point. Returns them with their exit codes."""
    hold = None if at is None else killed_runs.kill_at(case, "SIGSTOP", *MEETING_POINTS[at])
    runs = []
    for number, more in enumerate(options):
        arguments = [*case.arguments, *killed_runs.EXTRA_ARGUMENTS, *more, "--store", str(store), "--json"]
        runs.append(RunProcess(arguments, folder / f"run-{number}", hold))
    try:
        if hold is not None:
            for run in runs:
                run.wait_until_held()
            for run in runs:
                run.resume()
        return runs, [run.wait() for run in runs]
    finally:
        for run in runs:
            run.end()


def told(runs):
    return "\n".join(run.output for run in runs)


def wrong(store, reference):
    return [
        *store_comparison.differences(store, reference),
        *store_comparison.duplicates(store),
        *store_comparison.half_rows(store, settled=True),
        *store_comparison.engines_disagree(store),
    ]


def statuses(store):
    return sorted(lance_io.scan(store, "runs", ["status"])["status"].to_pylist())


@pytest.mark.parametrize(
    "at",
    [
        "the first table",
        "the table of chips",
        *(
            pytest.param(at, marks=pytest.mark.slow)
            for at in (None, "the split rule", "the first chips", "the indexes")
        ),
    ],
)
def test_two_first_runs_over_the_same_area(case, tmp_path, at):
    runs, codes = together(case, tmp_path / "lancedb", tmp_path, at=at)
    assert codes == [0, 0], told(runs)
    assert wrong(tmp_path / "lancedb", case.reference) == []
    assert statuses(tmp_path / "lancedb") == ["done", "done"]


def area(share_from, share_to):
    """Option for a part of the region, from west to east."""
    box = mini_region.shapely.box(
        mini_region.LEFT + share_from * mini_region.SIDE_M,
        mini_region.BOTTOM,
        mini_region.LEFT + share_to * mini_region.SIDE_M,
        mini_region.BOTTOM + mini_region.SIDE_M,
    )
    bounds = mini_region.reproject(box, mini_region.EPSG, 4326).bounds
    return ("--set", f"aoi_bbox_lonlat={list(bounds)}")


WEST, EAST = area(0.0, 0.65), area(0.35, 1.0)


def one_after_the_other(case, store, folder, *options):
    for number, more in enumerate(options):
        arguments = [*case.arguments, *more, "--store", str(store), "--json"]
        run = RunProcess(arguments, folder / f"{store.name}-{number}")
        assert run.wait() == 0, run.output


def rules_of(store):
    rows = lance_io.scan(store, "splits", SPLITS.names).to_pylist()
    return [
        SplitRule(
            level=row["level"],
            salt=row["salt"],
            fractions=tuple(dict(row["fractions"])[name] for name in NAMES),
            guard_m=row["guard_m"],
        )
        for row in rows
    ]


def test_two_first_runs_over_overlapping_areas_follow_one_split_rule(case, tmp_path):
    one_after_the_other(case, tmp_path / "west-first", tmp_path, WEST, EAST)
    one_after_the_other(case, tmp_path / "east-first", tmp_path, EAST, WEST)
    alone = [rules_of(tmp_path / name) for name in ("west-first", "east-first")]
    # the areas choose different rules, or this test shows nothing
    assert len(alone[0]) == len(alone[1]) == 1
    assert alone[0] != alone[1]
    store = tmp_path / "lancedb"
    runs, codes = together(case, store, tmp_path, at="the split rule", options=(WEST, EAST))
    assert codes == [0, 0], told(runs)
    rules = rules_of(store)
    assert len(rules) == 1, f"two rules: {rules}"
    chips = lance_io.scan(store, "training_data", ["split_cell", "split"])
    assert split_of_cells(chips["split_cell"].to_numpy(), rules[0]).tolist() == chips["split"].to_pylist()
    reference = tmp_path / ("west-first" if rules == alone[0] else "east-first")
    assert wrong(store, reference) == []


@pytest.mark.slow
def test_two_runs_retry_what_failed(failing, tmp_path):
    store = tmp_path / "lancedb"
    shutil.copytree(failing.reference, store)
    retry = ("--retry-errors",)
    runs, codes = together(failing, store, tmp_path, options=(retry, retry))
    assert codes == [3, 3], told(runs)
    assert wrong(store, failing.reference) == []
    attempts = lance_io.scan(store, "errors", ["attempt"])["attempt"].to_pylist()
    assert set(attempts) <= {2, 3}, "each failure was met two or three times"


@pytest.mark.slow
def test_two_first_runs_of_which_both_fail_in_part(failing, tmp_path):
    retry = ("--retry-errors",)
    runs, codes = together(failing, tmp_path / "lancedb", tmp_path, at="the first table", options=(retry, retry))
    assert codes == [3, 3], told(runs)
    assert wrong(tmp_path / "lancedb", failing.reference) == []


class Loop:
    """A function called again and again in a thread, beside the runs; its first error ends it."""

    def __init__(self, work):
        self.turns, self.error, self._stop = 0, None, threading.Event()
        self._thread = threading.Thread(target=self._loop, args=(work,))

    def _loop(self, work):
        while not self._stop.is_set():
            try:
                work()
            except Exception as error:  # noqa: BLE001 - the test shows it
                self.error = error
                return
            self.turns += 1
            time.sleep(0.01)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def compacting(store, conflicts):
    """One round of compaction; a conflict with a writer is the compaction's to bear."""

    def work():
        for name in ("training_data", "masks", "prompts", "runs"):
            try:
                lance_io.open_table(store, name).optimize.compact_files(target_rows_per_fragment=64, batch_size=64)
            except OSError as error:
                if "conflict" not in str(error).lower():
                    raise
                conflicts.append(name)

    return work


def reading(store, version, check):
    """One scan and one take of every table; ``check`` judges the chips."""
    rng = random.Random(1)  # noqa: S311

    def work():
        for name in ("training_data", "masks", "prompts"):
            dataset = lance_io.open_table(store, name, version)
            rows = dataset.count_rows()
            key = primary_key(dataset.schema)
            keys = dataset.to_table(columns=[key])[key].to_pylist()
            assert len(keys) == len(set(keys)) == rows
            places = rng.sample(range(rows), min(4, rows))
            assert dataset.take(places)[key].to_pylist() == [keys[place] for place in places]
            check(name, dataset)

    return work


@pytest.mark.slow
def test_two_runs_beside_compaction_and_readers(case, tmp_path):
    store, alone = tmp_path / "lancedb", tmp_path / "alone"
    one_after_the_other(case, store, tmp_path, WEST)
    shutil.copytree(store, alone)
    one_after_the_other(case, alone, tmp_path, ())
    pinned = {}
    for name in ("training_data", "masks", "prompts"):
        dataset = lance_io.open_table(store, name)
        dataset.tags.create("train-v1", dataset.version)
        pinned[name] = store_comparison.rows_of(store, name)
    seen, conflicts = Counter(), []

    def as_pinned(name, dataset):
        assert dataset.to_table().num_rows == len(pinned[name])
        key = primary_key(dataset.schema)
        assert sorted(dataset.to_table(columns=[key])[key].to_pylist()) == pinned[name][key].to_pylist()

    def never_fewer(name, dataset):
        rows = dataset.count_rows()
        assert rows >= seen[name]
        seen[name] = rows

    with (
        Loop(reading(store, "train-v1", as_pinned)) as pinned_reader,
        Loop(reading(store, None, never_fewer)) as newest_reader,
        Loop(compacting(store, conflicts)) as compaction,
    ):
        runs, codes = together(case, store, tmp_path)
    assert codes == [0, 0], told(runs)
    for loop in (pinned_reader, newest_reader, compaction):
        assert loop.error is None, repr(loop.error)
        assert loop.turns >= 2
    print(
        f"\n{pinned_reader.turns} + {newest_reader.turns} rounds of readers, {compaction.turns} of compaction, "
        f"{len(conflicts)} of its commits came too late"
    )
    assert wrong(store, alone) == []


# ---- a run that stands still while another one goes past it

STANDS = {
    "before its chips": ("commit training_data", "before", 2),
    "before its prompts": ("write prompts", "before", 2),
    "between files and commit": ("commit training_data > LanceDataset.commit", "before", 2),
}


SHORT_LEASE = ("--set", "lease_s=1") if any(field.name == "lease_s" for field in fields(BuildConfig)) else ()
"""A run that stands still soon holds nothing any more, where runs hold leases at all."""


def change_labels(region):
    """Labels deleted, moved and added, and one drawn anew where it was."""
    mini_region.change(
        region,
        "DELETE FROM lake.pv WHERE id = '0'",
        killed_runs.moved("1", killed_runs.box(120, 55)),
        killed_runs.moved("2", killed_runs.box(192, 141)),
        *(
            killed_runs.insert(f"new-{k}", killed_runs.box(*place))
            for k, place in enumerate([(25, 34), (66, 236), (255, 255)])
        ),
    )


def held_and_overtaken(case, store, folder, stands, *, between=lambda: None):
    """A is held, B runs to its end, A goes on; returns A's exit code and the tables as B left them."""
    hold = killed_runs.kill_at(case, "SIGSTOP", *STANDS[stands])
    slow = case.start_run(store, folder / "slow", hold, SHORT_LEASE)
    try:
        slow.wait_until_held()
        between()
        quick = case.start_run(store, folder / "quick", None, SHORT_LEASE)
        code = quick.wait()
        assert code == 0, quick.output
        left = {name: store_comparison.rows_of(store, name) for name in ("training_data", "masks", "prompts")}
        slow.resume()
        return slow.wait(), left, slow
    finally:
        slow.end()


def changed_rows(before, after):
    """Keys of ``before`` that ``after`` lacks, key → columns with other content, and keys it has more."""
    key = before.column_names[0]
    compared = [name for name in before.column_names if name not in store_comparison.NOT_COMPARED]
    old, new = ({row[key]: row for row in table.select(compared).to_pylist()} for table in (before, after))
    other = {k: [c for c in compared if row[c] != new[k][c]] for k, row in old.items() if k in new and row != new[k]}
    return sorted(old.keys() - new.keys()), other, sorted(new.keys() - old.keys())


@pytest.mark.parametrize(
    "stands", ["before its chips", pytest.param("between files and commit", marks=pytest.mark.slow)]
)
def test_a_slow_run_with_the_same_labels_changes_no_content(case, tmp_path, stands):
    code, _, slow = held_and_overtaken(case, tmp_path / "lancedb", tmp_path, stands)
    assert code == 0, slow.output
    assert wrong(tmp_path / "lancedb", case.reference) == []


@pytest.mark.parametrize(
    "stands", ["before its chips", *(pytest.param(s, marks=pytest.mark.slow) for s in list(STANDS)[1:])]
)
def test_a_slow_run_with_older_labels_replaces_nothing_newer(tmp_path, stands):
    region = killed_runs.small_region(tmp_path / "region")
    arguments = ("run", "--config", str(killed_runs.settings_file(region)))
    watched = killed_runs.scenario("older labels", arguments, None, tmp_path / "region")
    store = tmp_path / "lancedb"
    code, left, slow = held_and_overtaken(watched, store, tmp_path, stands, between=lambda: change_labels(region))
    assert code in (0, 3), slow.output
    found = {name: changed_rows(left[name], store_comparison.rows_of(store, name)) for name in left}
    lost, other, more = ({name: f[k] for name, f in found.items() if f[k]} for k in range(3))
    print(f"\nslow run: exit code {code}; lost {lost}; older content {other}; rows nobody asks for {more}")
    assert (lost, other, more) == ({}, {}, {})
    # and one more run has nothing to put right
    last = watched.start_run(store, tmp_path / "last")
    assert last.wait() == 0, last.output
    assert (last.summary["chips_written"], last.summary["chips_retired"], last.summary["prompts_retired"]) == (0, 0, 0)
    assert store_comparison.half_rows(store, settled=True) == []
    assert store_comparison.duplicates(store) == []


def test_rows_made_late_from_older_labels_do_not_stand_in_the_way_of_newer_ones(tmp_path):
    """The older plan makes and commits its rows after the newer plan was made, and before that one commits."""
    region = killed_runs.small_region(tmp_path / "region")
    arguments = ("run", "--config", str(killed_runs.settings_file(region)))
    watched = killed_runs.scenario("older labels", arguments, None, tmp_path / "region")
    store, alone = tmp_path / "lancedb", tmp_path / "alone"
    hold = killed_runs.kill_at(watched, "SIGSTOP", "Run.record", "before", 1)
    older = watched.start_run(store, tmp_path / "older", hold, SHORT_LEASE)
    try:
        older.wait_until_held()
        change_labels(region)
        shutil.copytree(store, alone)
        newer = watched.start_run(store, tmp_path / "newer", hold, SHORT_LEASE)
        try:
            newer.wait_until_held()
            older.resume()
            assert older.wait() == 0, older.output
            newer.resume()
            assert newer.wait() == 0, newer.output
        finally:
            newer.end()
    finally:
        older.end()
    # the same labels and split rule, and nobody else at work
    assert watched.start_run(alone, tmp_path / "by-itself").wait() == 0
    wanted, found = (store_comparison.rows_of(uri, "training_data") for uri in (alone, store))
    lost, other, _ = changed_rows(wanted, found)
    assert (lost, other) == ([], {})
