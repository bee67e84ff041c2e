"""Staged files and their fenced commit: unseen before, one row per key after, whoever else commits meanwhile."""

import multiprocessing
import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from store import fragments, lance_io
from store.conformity import conform
from store.fragments import StagedRows
from store.lance_io import open_table, refresh_indexes
from store.schemas import schema_for
from support.store_rows import SMALL, race_to_be_first, race_to_commit, replaced, rows_for
from utils.errors import SchemaError, StoreConflictError, StoreNotWritableError
from utils.types import ChipProfile

TABLE = "training_data"


def stage(uri: Path, *keys: int, run: str = "run", **columns: list[Any]) -> StagedRows:
    return fragments.stage(uri, TABLE, rows(*keys, run=run, **columns), profile=SMALL)


def rows(*keys: int, run: str = "run", **columns: list[Any]) -> pa.Table:
    made = pa.concat_tables([rows_for(TABLE, 1, first=key) for key in keys])
    return replaced(made, run_id=[run] * len(keys), **columns)


def commit(uri: Path, *staged: StagedRows, planned_at: datetime | None = None) -> tuple[int, int]:
    receipt = fragments.commit(uri, TABLE, staged, profile=SMALL, planned_at=planned_at)
    assert receipt.version == open_table(uri, TABLE).version
    return receipt.inserted, receipt.updated


def runs(uri: Path) -> dict[str, str]:
    """Key → run of every row; a key that is there twice is an error."""
    found = open_table(uri, TABLE).to_table(columns=["uuid", "run_id"]).to_pylist()
    assert len({row["uuid"] for row in found}) == len(found)
    return {row["uuid"]: row["run_id"] for row in found}


def found_by_key(uri: Path, *keys: int) -> list[int]:
    """Rows that a filter on the indexed key finds, per key."""
    dataset = open_table(uri, TABLE)
    return [dataset.count_rows(f"uuid = 'key-{key}'") for key in keys]


def test_staged_rows_are_unseen_until_they_are_committed_together(tmp_path: Path) -> None:
    first, second = stage(tmp_path, 0, 1, 2), stage(tmp_path, 3)
    assert (len(first), len(second)) == (3, 1)
    assert len(first.fragments) == 1
    assert (runs(tmp_path), open_table(tmp_path, TABLE).version) == ({}, 1)
    assert commit(tmp_path, first, second) == (4, 0)
    assert set(runs(tmp_path)) == {f"key-{k}" for k in range(4)}
    assert open_table(tmp_path, TABLE).version == 2


def test_pixels_masks_and_nulls_come_back_to_the_byte(tmp_path: Path) -> None:
    data = rows_for(TABLE, 9)
    assert data["generated_mask"].null_count == 4
    commit(tmp_path, fragments.stage(tmp_path, TABLE, data, profile=SMALL))
    found = open_table(tmp_path, TABLE).to_table()
    assert found.schema.equals(data.schema, check_metadata=True)
    assert found.combine_chunks().equals(data.combine_chunks())


def test_rows_of_known_keys_come_back_to_the_byte(tmp_path: Path) -> None:
    lance_io.write(tmp_path, TABLE, rows_for(TABLE, 4), profile=SMALL)
    data = rows_for(TABLE, 6, first=2)
    assert commit(tmp_path, fragments.stage(tmp_path, TABLE, data, profile=SMALL)) == (4, 2)
    found = open_table(tmp_path, TABLE).to_table().sort_by("uuid")
    assert found.slice(2).combine_chunks().equals(data.combine_chunks())


@pytest.mark.parametrize("known", [[], [0, 5]])
def test_an_upgraded_table_keeps_its_order_of_columns(tmp_path: Path, known: list[int]) -> None:
    schema = schema_for(TABLE, SMALL)
    names = [*reversed(schema.names)]
    reordered = pa.schema([schema.field(name) for name in names], metadata=schema.metadata)
    lance_io.create_table(tmp_path, TABLE, reordered)
    if known:
        lance_io.write(tmp_path, TABLE, rows(*known), profile=SMALL)
    data = rows_for(TABLE, 6)
    commit(tmp_path, fragments.stage(tmp_path, TABLE, data, profile=SMALL))
    found = open_table(tmp_path, TABLE).to_table().sort_by("uuid")
    assert found.schema.names == names
    assert found.select(schema.names).combine_chunks().equals(data.combine_chunks())


def test_fresh_and_known_keys_mix(tmp_path: Path) -> None:
    commit(tmp_path, stage(tmp_path, 0, 1, 2, run="old"))
    mixed, fresh, known = stage(tmp_path, 2, 3), stage(tmp_path, 4, 5), stage(tmp_path, 0)
    assert commit(tmp_path, mixed, fresh, known) == (3, 2)
    assert runs(tmp_path) == {f"key-{k}": "old" if k == 1 else "run" for k in range(6)}


def test_the_same_files_again_change_nothing(tmp_path: Path) -> None:
    staged = stage(tmp_path, 0, 1)
    commit(tmp_path, staged)
    assert commit(tmp_path, staged) == (0, 2)
    assert set(runs(tmp_path)) == {"key-0", "key-1"}


@pytest.mark.parametrize("parts", [[], [()], [(), ()]])
def test_nothing_to_commit_is_no_version(tmp_path: Path, parts: list[tuple[int, ...]]) -> None:
    empty = [fragments.stage(tmp_path, TABLE, rows_for(TABLE, 0), profile=SMALL) for _ in parts]
    lance_io.ensure_table(tmp_path, TABLE, profile=SMALL)
    assert commit(tmp_path, *empty) == (0, 0)
    assert open_table(tmp_path, TABLE).version == 1


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError):
        fragments.stage(tmp_path, TABLE, rows_for(TABLE, 2).drop_columns(["split"]), profile=SMALL)
    stage(tmp_path, 0)
    with pytest.raises(SchemaError):
        fragments.stage(tmp_path, TABLE, rows_for(TABLE, 1, profile=ChipProfile()), profile=ChipProfile())
    twice = pa.concat_tables([rows_for(TABLE, 1), rows_for(TABLE, 1)])
    with pytest.raises(SchemaError):
        fragments.stage(tmp_path, TABLE, twice, profile=SMALL)


def test_a_key_staged_twice_is_refused_and_nothing_is_committed(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="key-1"):
        commit(tmp_path, stage(tmp_path, 0, 1), stage(tmp_path, 1, 2))
    assert runs(tmp_path) == {}


def test_a_table_that_changed_since_is_refused(tmp_path: Path) -> None:
    staged = stage(tmp_path, 0)
    open_table(tmp_path, TABLE).add_columns({"extra": "1"})
    with pytest.raises(SchemaError):
        commit(tmp_path, staged)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreNotWritableError):
        stage(tmp_path / "file", 0)
    stage(tmp_path, 0)
    files = Path(lance_io.table_uri(tmp_path, TABLE)) / "data"
    shutil.rmtree(files)
    files.write_text("no folder")
    with pytest.raises(StoreNotWritableError):
        stage(tmp_path, 1)


def test_a_refused_commit_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = stage(tmp_path, 0)

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError("No space left on device (os error 28)")

    monkeypatch.setattr(lance.LanceDataset, "commit", refused)
    with pytest.raises(StoreNotWritableError, match="No space left"):
        commit(tmp_path, staged)
    with pytest.raises(StoreNotWritableError, match="No space left"):
        fragments.commit_if_empty(tmp_path, TABLE, rows(1), profile=SMALL)


def test_rows_others_made_since_the_plan_stay(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for key, age in ((0, timedelta(hours=-1)), (1, timedelta(hours=1))):
        commit(tmp_path, stage(tmp_path, key, run="other", created_at=[now + age]))
    assert commit(tmp_path, stage(tmp_path, 0, 1, 2), planned_at=now) == (1, 1)
    assert runs(tmp_path) == {"key-0": "run", "key-1": "other", "key-2": "run"}


def test_row_ids_are_given_once(tmp_path: Path) -> None:
    seen: set[int] = set()
    for key in range(4):
        commit(tmp_path, stage(tmp_path, 2 * key, 2 * key + 1))
        lance_io.write(tmp_path, TABLE, rows(100 + key), profile=SMALL)
    dataset = open_table(tmp_path, TABLE)
    ids = dataset.to_table(columns=["uuid"], with_row_id=True)
    seen |= set(ids["_rowid"].to_pylist())
    assert len(seen) == len(ids) == 12


def test_rows_are_found_after_a_whole_indexed_fragment_went(tmp_path: Path) -> None:
    """An index goes on naming fragments that are gone; a new one with such an id would be hidden behind it."""
    commit(tmp_path, stage(tmp_path, 0, 1))
    commit(tmp_path, stage(tmp_path, 2, 3))
    refresh_indexes(tmp_path, TABLE)
    given = {fragment.fragment_id for fragment in open_table(tmp_path, TABLE).get_fragments()}
    for turn in range(3):
        last = open_table(tmp_path, TABLE).get_fragments()[-1]
        lance_io.delete(tmp_path, TABLE, last.to_table(columns=["uuid"])["uuid"].to_pylist())
        commit(tmp_path, stage(tmp_path, 10 + turn))
        (new,) = {fragment.fragment_id for fragment in open_table(tmp_path, TABLE).get_fragments()} - {
            fragment.fragment_id for fragment in open_table(tmp_path, TABLE, 1 + 1).get_fragments()
        }
        assert new not in given
        given.add(new)
        assert found_by_key(tmp_path, 10 + turn) == [1]
        refresh_indexes(tmp_path, TABLE)


def test_ids_of_more_files_than_a_version_has_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "_IDS_PER_VERSION", 2)
    given: set[int] = set()
    for turn in range(3):
        commit(tmp_path, *(stage(tmp_path, 10 * turn + k) for k in range(7)))
        refresh_indexes(tmp_path, TABLE)
        new = {fragment.fragment_id for fragment in open_table(tmp_path, TABLE).get_fragments()}
        assert new.isdisjoint(given)
        given |= new
        assert found_by_key(tmp_path, *(10 * turn + k for k in range(7))) == [1] * 7
        lance_io.delete(tmp_path, TABLE, sorted(runs(tmp_path)))


def _append(uri: Path) -> None:
    lance.write_dataset(
        conform(rows(50, run="other"), schema_for(TABLE, SMALL)), lance_io.table_uri(uri, TABLE), mode="append"
    )


OTHERS: dict[str, Callable[[Path], object]] = {
    "append": _append,
    "merge_insert of another key": lambda uri: lance_io.write(uri, TABLE, rows(51, run="other"), profile=SMALL),
    "merge_insert of the same key": lambda uri: lance_io.write(uri, TABLE, rows(10, run="other"), profile=SMALL),
    "the same files": lambda uri: fragments.commit(uri, TABLE, [stage(uri, 10, 11, run="other")], profile=SMALL),
    "delete": lambda uri: lance_io.delete(uri, TABLE, ["key-0"]),
    "delete of a whole fragment": lambda uri: lance_io.delete(uri, TABLE, ["key-0", "key-1"]),
    "update": lambda uri: lance_io.mark(uri, TABLE, ["key-1"], {"run_id": "'marked'"}),
    "compaction": lambda uri: open_table(uri, TABLE).optimize.compact_files(),
    "index": lambda uri: refresh_indexes(uri, TABLE),
    "schema": lambda uri: open_table(uri, TABLE).update_schema_metadata({"note": "new"}),
    "restore": lambda uri: open_table(uri, TABLE, 2).restore(),
    "tag": lambda uri: open_table(uri, TABLE).tags.create("safe", 2),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_commit_between_look_and_commit_is_never_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    commit(tmp_path, stage(tmp_path, 0, 1, run="old"))
    commit(tmp_path, stage(tmp_path, 2, 3, run="old"))
    look, done = fragments._parted, []

    def look_and_be_overtaken(*arguments: Any) -> Any:
        found = look(*arguments)
        if not done:
            monkeypatch.setattr(fragments, "_parted", look)
            OTHERS[other](tmp_path)
            done.append((runs(tmp_path), open_table(tmp_path, TABLE).describe_indices()))
        return found

    monkeypatch.setattr(fragments, "_parted", look_and_be_overtaken)
    staged = stage(tmp_path, 10, 11)
    fragments.commit(tmp_path, TABLE, [staged], profile=SMALL)
    expected, indexes = done[0]
    assert runs(tmp_path) == expected | {"key-10": "run", "key-11": "run"}
    assert {index.name for index in indexes} <= {index.name for index in open_table(tmp_path, TABLE).describe_indices()}
    every = [int(key.removeprefix("key-")) for key in runs(tmp_path)]
    assert found_by_key(tmp_path, *every) == [1] * len(every)


def test_overtaken_every_time_it_falls_back_to_merge_insert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(tmp_path, stage(tmp_path, 0))
    look, turn = fragments._parted, iter(range(1000, 2000))
    monkeypatch.setattr(fragments.time, "sleep", lambda _: None)

    def look_and_be_overtaken(*arguments: Any) -> Any:
        found = look(*arguments)
        lance_io.write(tmp_path, TABLE, rows(next(turn), run="other"), profile=SMALL)
        return found

    monkeypatch.setattr(fragments, "_parted", look_and_be_overtaken)
    assert fragments.commit(tmp_path, TABLE, [stage(tmp_path, 0, 1), stage(tmp_path, 2)], profile=SMALL).inserted == 2
    assert {key: run for key, run in runs(tmp_path).items() if run == "run"} == dict.fromkeys(
        ["key-0", "key-1", "key-2"], "run"
    )
    assert len(runs(tmp_path)) == 3 + next(turn) - 1000


def test_a_conflict_that_never_ends_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = stage(tmp_path, 0)
    monkeypatch.setattr("time.sleep", lambda _: None)

    def lost(*_: Any, **__: Any) -> Any:
        raise OSError("Retryable commit conflict for version 2: preempted by concurrent transaction")

    monkeypatch.setattr(lance.LanceDataset, "commit", lost)
    monkeypatch.setattr(lance_io, "_merged", lost)
    with pytest.raises(StoreConflictError):
        commit(tmp_path, staged)


def test_racing_threads_of_one_row_have_one_winner(tmp_path: Path) -> None:
    start, won = threading.Barrier(6), []

    def enter(number: int) -> None:
        start.wait()
        won.append(fragments.commit_if_empty(tmp_path, "splits", rows_for("splits", 1, first=number)))

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]
    assert open_table(tmp_path, "splits").count_rows() == 1


def test_only_an_empty_table_is_filled(tmp_path: Path) -> None:
    assert fragments.commit_if_empty(tmp_path, "splits", rows_for("splits", 1))
    assert not fragments.commit_if_empty(tmp_path, "splits", rows_for("splits", 1))
    assert not fragments.commit_if_empty(tmp_path, "splits", rows_for("splits", 1, first=1))
    files = Path(lance_io.table_uri(tmp_path, "splits")) / "data"
    assert len([*files.iterdir()]) == 1, "nothing is staged for a table that has rows"
    lance_io.delete(tmp_path, "splits", ["key-0"])
    assert fragments.commit_if_empty(tmp_path, "splits", rows_for("splits", 1, first=2))
    assert open_table(tmp_path, "splits").to_table()["split_rule"].to_pylist() == ["key-2"]


@pytest.mark.slow
def test_racing_processes_of_one_row_have_one_winner(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, won = context.Barrier(4), context.Queue()
    workers = [context.Process(target=race_to_be_first, args=(str(tmp_path), n, start, won)) for n in range(4)]
    for worker in workers:
        worker.start()
    assert sorted(won.get(timeout=120) for _ in workers) == [False] * 3 + [True]
    for worker in workers:
        worker.join()
    assert open_table(tmp_path, "splits").count_rows() == 1


@pytest.mark.slow
def test_racing_coordinators_leave_one_row_per_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    lance_io.ensure_table(tmp_path, TABLE, profile=SMALL)
    workers = [context.Process(target=race_to_commit, args=(str(tmp_path), 8, 5, n, start)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=240)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert set(runs(tmp_path)) == {f"key-{k}" for k in range(40)}


KEYS = st.sets(st.integers(0, 11), min_size=1, max_size=4)


class TableOfManyHands(RuleBasedStateMachine):
    """Any order of stage, commit, write, delete, compaction and index upkeep leaves what a dict would hold."""

    staged = Bundle("staged")

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.uri = Path(self.folder.name)
        self.expected: dict[str, str] = {}
        self.turn = 0
        lance_io.ensure_table(self.uri, TABLE, profile=SMALL)

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(target=staged, keys=KEYS)
    def stage_files(self, keys: set[int]) -> tuple[StagedRows, str]:
        self.turn += 1
        return stage(self.uri, *sorted(keys), run=f"turn {self.turn}"), f"turn {self.turn}"

    @rule(part=consumes(staged))
    def commit_files(self, part: tuple[StagedRows, str]) -> None:
        commit(self.uri, part[0])
        self.expected |= dict.fromkeys(part[0].keys, part[1])

    @rule(parts=st.lists(consumes(staged), min_size=2, max_size=3))
    def commit_several(self, parts: list[tuple[StagedRows, str]]) -> None:
        taken: set[str] = set()
        chosen = [part for part in parts if taken.isdisjoint(part[0].keys) and not taken.update(part[0].keys)]
        commit(self.uri, *(part[0] for part in chosen))
        for part, run in chosen:
            self.expected |= dict.fromkeys(part.keys, run)

    @rule(keys=KEYS)
    def write_rows(self, keys: set[int]) -> None:
        self.turn += 1
        lance_io.write(self.uri, TABLE, rows(*sorted(keys), run=f"turn {self.turn}"), profile=SMALL)
        self.expected |= dict.fromkeys([f"key-{key}" for key in keys], f"turn {self.turn}")

    @rule(keys=KEYS)
    def delete_rows(self, keys: set[int]) -> None:
        lance_io.delete(self.uri, TABLE, [f"key-{key}" for key in keys])
        for key in keys:
            self.expected.pop(f"key-{key}", None)

    @rule()
    def delete_a_fragment(self) -> None:
        parts = open_table(self.uri, TABLE).get_fragments()
        if parts:
            keys = parts[-1].to_table(columns=["uuid"])["uuid"].to_pylist()
            lance_io.delete(self.uri, TABLE, keys)
            for key in keys:
                self.expected.pop(key)

    @rule()
    def compact(self) -> None:
        open_table(self.uri, TABLE).optimize.compact_files(materialize_deletions_threshold=0.0)

    @rule()
    def refresh(self) -> None:
        refresh_indexes(self.uri, TABLE)

    @invariant()
    def rows_are_those_of_the_dict(self) -> None:
        assert runs(self.uri) == self.expected
        keys = [f"key-{key}" for key in range(12)]
        dataset = open_table(self.uri, TABLE)
        for key in keys:
            found = dataset.to_table(columns=["run_id"], filter=f"uuid = '{key}'")["run_id"].to_pylist()
            assert found == ([self.expected[key]] if key in self.expected else [])


TestTableOfManyHands = TableOfManyHands.TestCase
TestTableOfManyHands.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)
