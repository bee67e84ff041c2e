"""Compaction that ends, keeps every value and row id, and leaves writers alone; indexes; what a dry run promises."""

import threading
from dataclasses import replace
from datetime import timedelta

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from store import cleaning, lance_io, maintenance
from store.schemas import TABLES, schema_for
from store.table_state import row_bytes
from support.store_rows import SMALL, rows_for
from utils.errors import StoreConflictError, StoreNotWritableError, TableNotFoundError
from utils.types import ChipProfile

TABLE = "training_data"


def filled(uri, commits=8, rows=5, table=TABLE):
    for turn in range(commits):
        lance_io.write(uri, table, rows_for(table, rows, first=rows * turn), profile=SMALL)
    return uri


@pytest.fixture
def small_fragments(monkeypatch):
    """Compaction aims at twelve rows, so that a few rows make several fragments."""
    monkeypatch.setattr(maintenance, "target_rows", lambda schema: 12)


def content(uri, table=TABLE):
    dataset = lance_io.open_table(uri, table)
    return dataset.scanner(with_row_id=True).to_table().sort_by("_rowid")


def test_fragments_are_merged_and_nothing_else_changes(tmp_path):
    filled(tmp_path)
    before = content(tmp_path)
    done = maintenance.optimize(tmp_path, TABLE)
    assert (done.before.fragments, done.after.fragments) == (8, 1)
    assert done.indexes_made == ("uuid", "s2_cell")
    assert done.after.version == lance_io.open_table(tmp_path, TABLE).version
    assert content(tmp_path).equals(before)
    schema = lance_io.open_table(tmp_path, TABLE).schema
    assert schema.equals(schema_for(TABLE, SMALL), check_metadata=True)


def test_null_masks_stay_null_and_others_keep_their_bytes(tmp_path):
    """Compaction once corrupted binary columns with nulls (lance#7955)."""
    filled(tmp_path, commits=6, rows=7, table=TABLE)
    filled(tmp_path, commits=6, rows=7, table="masks")
    columns = {TABLE: ["generated_mask", "msi_mask", "prompt_geometry"], "masks": ["mask", "outline"]}
    for table, names in columns.items():
        before = content(tmp_path, table)
        assert 0 < before[names[0]].null_count < len(before)
        maintenance.optimize(tmp_path, table)
        after = content(tmp_path, table)
        for name in names:
            assert after[name].to_pylist() == before[name].to_pylist()


@pytest.mark.parametrize("table", [TABLE, "masks", "runs"])
@pytest.mark.usefixtures("small_fragments")
def test_a_second_call_does_nothing(tmp_path, table):
    filled(tmp_path, table=table)
    lance_io.delete(tmp_path, table, [f"key-{k}" for k in range(9, 13)])
    lance_io.write(tmp_path, table, rows_for(table, 6, first=3), profile=SMALL)
    first = maintenance.optimize(tmp_path, table)
    again = maintenance.optimize(tmp_path, table)
    assert again.before == again.after == first.after
    assert (again.indexes_made, again.indexes_updated) == ((), ())


def test_indexes_are_made_once_then_brought_up(tmp_path):
    filled(tmp_path)
    assert maintenance.optimize(tmp_path, TABLE).indexes_made == ("uuid", "s2_cell")
    lance_io.write(tmp_path, TABLE, rows_for(TABLE, 4, first=100), profile=SMALL)
    done = maintenance.optimize(tmp_path, TABLE)
    assert (done.indexes_made, done.indexes_updated) == ((), ("s2_cell", "uuid"))
    dataset = lance_io.open_table(tmp_path, TABLE)
    assert len(dataset.get_fragments()) == 1
    assert {index.num_rows_indexed for index in dataset.describe_indices()} == {44}


@pytest.mark.parametrize("indexed", [0, 3, 8])
@pytest.mark.usefixtures("small_fragments")
def test_a_dry_run_promises_what_then_happens(tmp_path, indexed):
    for turn in range(8):
        filled(tmp_path, commits=1, rows=5)
        lance_io.write(tmp_path, TABLE, rows_for(TABLE, 5, first=5 * turn), profile=SMALL)
        if turn == indexed:
            lance_io.refresh_indexes(tmp_path, TABLE)
    lance_io.delete(tmp_path, TABLE, ["key-11", "key-30"])
    files = sorted(tmp_path.rglob("*"))
    promised = maintenance.optimize(tmp_path, TABLE, dry_run=True)
    assert sorted(tmp_path.rglob("*")) == files
    done = maintenance.optimize(tmp_path, TABLE)
    assert promised.after.fragments == done.after.fragments
    assert promised.before == done.before
    assert (promised.indexes_made, promised.indexes_updated) == (done.indexes_made, done.indexes_updated)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), max_size=14), st.integers(1, 25))
@example(fragments=[(1, 0), (9, 1)], target=10)
@settings(max_examples=200, deadline=None)
def test_merging_keeps_rows_and_has_nothing_left_to_merge(fragments, target):
    fragments = [(rows, deleted) for rows, deleted in fragments if rows]
    merged = maintenance.merged_fragments(fragments, target)
    assert sum(rows for rows, _ in merged) == sum(rows for rows, _ in fragments)
    assert maintenance.merged_fragments(merged, target) == merged


@pytest.mark.parametrize("seed", range(6))
def test_the_simulated_merge_is_lances(tmp_path, monkeypatch, seed):
    """Sizes and order, not only their number, against what Lance makes of them."""
    random = np.random.default_rng(seed)
    sizes = random.choice([1, 2, 4, 7, 9, 11, 25, 33], 14).tolist()
    target = int(random.integers(3, 14))
    monkeypatch.setattr(maintenance, "target_rows", lambda schema: target)
    first = np.cumsum([0, *sizes])
    for start, size in zip(first, sizes, strict=False):
        lance_io.write(tmp_path, "splits", rows_for("splits", size, first=int(start)))
    lance_io.delete(tmp_path, "splits", [f"key-{k}" for k in random.choice(first[-1], 12, replace=False)])
    wanted = maintenance.merged_sizes(maintenance.fragment_rows(lance_io.open_table(tmp_path, "splits")), target)
    maintenance.optimize(tmp_path, "splits")
    found = [fragment.count_rows() for fragment in lance_io.open_table(tmp_path, "splits").get_fragments()]
    assert found == wanted


def test_an_empty_table_needs_nothing(tmp_path):
    lance_io.write(tmp_path, TABLE, rows_for(TABLE, 0), profile=SMALL)
    done = maintenance.optimize(tmp_path, TABLE)
    assert done.before == done.after
    assert done.indexes_made == ()


def test_a_table_whose_rows_are_all_deleted(tmp_path):
    filled(tmp_path, commits=2)
    lance_io.delete(tmp_path, TABLE, [f"key-{k}" for k in range(10)])
    maintenance.optimize(tmp_path, TABLE)
    assert maintenance.optimize(tmp_path, TABLE).after.rows == 0
    lance_io.write(tmp_path, TABLE, rows_for(TABLE), profile=SMALL)
    assert lance_io.open_table(tmp_path, TABLE).count_rows() == 3


def test_a_table_of_others_is_compacted_too(tmp_path):
    for k in range(3):
        lance.write_dataset(pa.table({"n": [k, k]}), str(tmp_path / "other.lance"), mode="append")
    done = maintenance.optimize(tmp_path, "other")
    assert (done.before.fragments, done.after.fragments, done.indexes_made) == (3, 1, ())


def test_what_cannot_be_done_is_typed(tmp_path, monkeypatch):
    with pytest.raises(TableNotFoundError):
        maintenance.optimize(tmp_path, TABLE)
    filled(tmp_path, commits=2)
    monkeypatch.setattr("os.access", lambda *_: False)
    maintenance.optimize(tmp_path, TABLE, dry_run=True)
    with pytest.raises(StoreNotWritableError):
        maintenance.optimize(tmp_path, TABLE)


@pytest.mark.usefixtures("small_fragments")
def test_a_killed_compaction_keeps_what_it_committed_and_goes_on(tmp_path, monkeypatch):
    filled(tmp_path, commits=9)
    before, commit, commits = content(tmp_path), maintenance.Compaction.commit, []

    def dying(dataset, rewrites):
        if commits:
            raise KeyboardInterrupt
        commits.append(rewrites)
        return commit(dataset, rewrites)

    monkeypatch.setattr(maintenance.Compaction, "commit", dying)
    with pytest.raises(KeyboardInterrupt):
        maintenance.optimize(tmp_path, TABLE)
    half = lance_io.open_table(tmp_path, TABLE)
    assert 3 < len(half.get_fragments()) < 9
    assert content(tmp_path).equals(before)
    monkeypatch.setattr(maintenance.Compaction, "commit", commit)
    maintenance.optimize(tmp_path, TABLE)
    assert len(lance_io.open_table(tmp_path, TABLE).get_fragments()) == 3
    assert content(tmp_path).equals(before)


@pytest.mark.usefixtures("small_fragments")
def test_two_at_once_beside_a_writer_that_updates_the_same_rows(tmp_path):
    filled(tmp_path, commits=10)
    errors, stop = [], threading.Event()

    def work(action):
        try:
            action()
        except Exception as error:  # noqa: BLE001 - told by the assertion
            errors.append(error)

    def writing():
        for turn in range(12):
            lance_io.write(tmp_path, TABLE, rows_for(TABLE, 10, first=5 * turn), profile=SMALL)
        stop.set()

    def optimising():
        while not stop.is_set():
            maintenance.optimize(tmp_path, TABLE)

    threads = [threading.Thread(target=work, args=(action,)) for action in (writing, optimising, optimising)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert [error for error in errors if not isinstance(error, StoreConflictError)] == []
    found = lance_io.scan(tmp_path, TABLE, ["uuid"])["uuid"].to_pylist()
    assert sorted(found) == sorted(f"key-{k}" for k in range(65))


def test_row_widths_follow_the_pixels():
    schema = schema_for(TABLE, ChipProfile())
    pixels = 3 * 256 * 256 + 12 * 64 * 64 * 2 + 64 * 64
    assert pixels < row_bytes(schema, stored=True) < 1.1 * pixels
    assert row_bytes(schema, stored=False) > pixels + 256 * 256
    wide = schema_for(TABLE, replace(ChipProfile(), height=1024, width=1024))
    assert maintenance.target_rows(wide) < maintenance.target_rows(schema) < 1024
    assert all(1 <= maintenance.target_rows(schema) <= 1 << 20 for schema in TABLES.values())


def test_upkeep_is_due_where_many_fragments_would_go(tmp_path, monkeypatch):
    for table, commits in (("splits", 6), ("runs", 3)):
        filled(tmp_path, commits=commits, rows=1, table=table)
    assert maintenance.due(tmp_path) == []
    monkeypatch.setattr(maintenance, "DUE_FRAGMENTS", 5)
    assert maintenance.due(tmp_path) == ["splits"]
    maintenance.optimize(tmp_path, "splits")
    assert maintenance.due(tmp_path) == []


def test_a_hundred_commits_end_as_one_fragment(tmp_path):
    """The shape of the load benchmark: a fragment and a version per commit, then one fragment and few versions."""
    filled(tmp_path, commits=100, rows=2, table="splits")
    before = content(tmp_path, "splits")
    done = maintenance.optimize(tmp_path, "splits")
    assert (done.before.fragments, done.before.versions, done.before.rows) == (100, 101, 200)
    assert done.after.fragments == 1
    assert done.after.versions <= done.before.versions + 4
    cleaned = cleaning.clean(tmp_path, "splits", older_than=timedelta(0), no_writers=True)
    assert (cleaned.after.fragments, cleaned.after.versions, cleaned.after.rows) == (1, 1, 200)
    assert cleaned.after.bytes_stored < done.before.bytes_stored / 10
    assert content(tmp_path, "splits").equals(before)
