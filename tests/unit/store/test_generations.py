"""Generations of masks as the store holds them: counts by hand, numbers that no two recipes share."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from store import generations, lance_io
from store.mask_runs import claimed_numbers, dataset_keys, mark_killed
from support.store_rows import SMALL, replaced, rows_for
from utils.errors import TableNotFoundError

START = datetime(2026, 7, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    """Six masks: two of a build, three of generation 1 (one retired), one of generation 3."""
    rows = replaced(
        rows_for("masks", 6, profile=SMALL),
        prompt_id=["a", "b", "a", "b", "c", "a"],
        uuid=["u", "u", "u", "u", "v", "u"],
        generation=[0, 0, 1, 1, 1, 3],
        backend=["classical", "classical", "sam", "sam", "sam", "classical"],
        mask_recipe=["r0", "r0", "r1", "r1", "r1", "r3"],
        verdict=["accept", "review", "accept", "accept", "reject", "accept"],
        score=[0.5, 0.25, 1.0, 0.75, 0.5, 0.0],
        quality=[None, None, 0.5, None, 1.0, None],
        calibration=[None, None, "c1", None, "c1", None],
        retired_at=[None, None, None, START, None, None],
        retired_snapshot=[None, None, None, 4, None, None],
        created_at=[START + timedelta(hours=k) for k in range(6)],
        run_id=[f"run{k}" for k in range(6)],
    )
    lance_io.write(tmp_path, "masks", rows, profile=SMALL)
    return tmp_path


def runs(store, *entries):
    """Runs of (flow, status, recipe, generation)."""
    rows = replaced(
        rows_for("runs", len(entries)),
        flow=[flow for flow, *_ in entries],
        status=[status for _, status, *_ in entries],
        recipes=[json.dumps({"mask": recipe}) for *_, recipe, _ in entries],
        inputs=[json.dumps({} if number is None else {"generation": number}) for *_, number in entries],
    )
    lance_io.write(store, "runs", rows)


def test_counts_are_those_by_hand(store):
    first, second, third = generations.generations(store)
    assert (first.generation, first.backend, first.mask_recipe) == (0, "classical", "r0")
    assert (first.masks, first.retired, first.verdicts) == (2, 0, {"accept": 1, "review": 1})
    assert (first.mean_score, first.mean_quality, first.calibrations) == (0.375, None, ())
    assert (second.masks, second.retired, second.verdicts) == (2, 1, {"accept": 1, "reject": 1})
    assert (second.mean_score, second.mean_quality, second.calibrations) == (0.75, 0.75, ("c1",))
    assert second.last_made == START + timedelta(hours=4)
    assert (third.generation, third.masks) == (3, 1)


def test_a_store_without_masks(tmp_path):
    with pytest.raises(TableNotFoundError):
        generations.generations(tmp_path)
    assert generations.number_for(tmp_path, "new", {}) == 1
    assert generations.answered(tmp_path, "new", 1) == {}
    assert generations.first_masks(tmp_path, ["u"]) == {}
    assert generations.retire_late(tmp_path) == 0


@pytest.mark.parametrize(
    ("recipe", "claimed", "wanted"),
    [
        ("r1", {}, 1),
        ("r3", {}, 3),
        ("new", {}, 4),
        # what a build made is no generation of its own: its recipe gets a number only for what it lacks
        ("r0", {}, 4),
        ("new", {"other": 4}, 5),
        ("new", {"new": 7}, 7),
    ],
)
def test_a_recipe_keeps_its_number_and_no_other_gets_it(store, recipe, claimed, wanted):
    assert generations.number_for(store, recipe, claimed) == wanted


def test_answers_in_force_of_a_generation_or_a_build(store):
    assert generations.answered(store, "r1", 1) == {
        "a": (START + timedelta(hours=2), "run2"),
        "c": (START + timedelta(hours=4), "run4"),
    }
    assert set(generations.answered(store, "r0", 4)) == {"a", "b"}
    asked = (store, ["a", "b", "c"], "r1", 1)
    assert generations.answered_since(*asked, START) == {"a", "c"}
    assert generations.answered_since(*asked, START + timedelta(hours=3)) == {"c"}


def test_the_first_mask_is_the_latest_of_generation_0(store):
    again = replaced(
        lance_io.open_table(store, "masks").to_table(filter="mask_id = 'key-0'"),
        mask_id=["again"],
        created_at=[START + timedelta(days=1)],
        mask=[None],
    )
    before = generations.first_masks(store, ["u", "v"])
    assert set(before) == {("a", "u"), ("b", "u")}
    assert before["a", "u"] is not None
    lance_io.write(store, "masks", again, profile=SMALL)
    assert generations.first_masks(store, ["u"])["a", "u"] is None


def test_masks_of_retired_prompts_are_retired_with_them(store):
    prompts = replaced(
        rows_for("prompts", 2), prompt_id=["a", "c"], retired_at=[START, None], retired_snapshot=[9, None]
    )
    lance_io.write(store, "prompts", prompts)
    assert generations.retire_late(store) == 2
    gone = lance_io.scan(store, "masks", ["mask_id", "retired_at", "retired_snapshot"], "retired_snapshot = 9")
    assert sorted(gone["mask_id"].to_pylist()) == ["key-2", "key-5"]
    assert set(gone["retired_at"].to_pylist()) == {START}


def test_numbers_runs_took(store):
    runs(store, ("masks", "killed", "x", 4), ("masks", "done", "y", 5), ("build", "done", "z", None))
    assert claimed_numbers(store) == {"x": 4, "y": 5}


def test_runs_nobody_holds_a_lease_of_were_killed(store):
    runs(store, ("masks", "running", "x", 4), ("masks", "done", "y", 5), ("build", "running", "z", None))
    assert mark_killed(store, "masks", lambda run_id: f"run/{run_id}") == 1
    rows = lance_io.scan(store, "runs", ["flow", "status"]).to_pylist()
    assert sorted((row["flow"], row["status"]) for row in rows) == [
        ("build", "running"),
        ("masks", "done"),
        ("masks", "killed"),
    ]


def test_the_newest_manifest_of_each_dataset(store):
    rows = replaced(
        rows_for("datasets", 3), dataset=["d", "d", "e"], recorded_at=[START, START + timedelta(days=1), START]
    )
    lance_io.write(store, "datasets", rows)
    assert dataset_keys(store) == {"d": "key-1", "e": "key-2"}
