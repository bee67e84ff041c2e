"""What cleaning removes, what it never does, and what a dry run promises."""

import os
import time
from datetime import timedelta

import lance
import pytest

from store import cleaning, lance_io, maintenance
from store.cleaning import clean, clean_leftovers, parse_age
from support.store_rows import rows_for
from utils.errors import ConfigError, StoreError, StoreNotWritableError, TableNotFoundError

ALL = {"older_than": timedelta(0), "no_writers": True}
DAY = timedelta(days=1)


@pytest.fixture
def store(tmp_path):
    """Five versions of ``prompts``."""
    for turn in range(4):
        lance_io.write(tmp_path, "prompts", rows_for("prompts", 3, first=3 * turn))
    return tmp_path


def versions(uri):
    return [int(entry["version"]) for entry in lance_io.open_table(uri, "prompts").versions()]


def orphan(uri, age, name="orphan"):
    """A data file that a killed writer left ``age`` ago."""
    path = uri / "prompts.lance" / "data" / f"{name}.lance"
    path.write_bytes(b"x" * 1000)
    return aged(path, age)


def aged(path, age):
    stamp = time.time() - age.total_seconds()
    for one in (*path.rglob("*"), path):
        os.utime(one, (stamp, stamp))
    return path


@pytest.fixture
def later(monkeypatch):
    """Let ``later(days)`` pass for the age of versions."""

    def pass_time(span):
        real = cleaning.datetime

        class Later(real):
            @classmethod
            def now(cls, tz=None):
                return real.now(tz) + span

        monkeypatch.setattr(cleaning, "datetime", Later)

    return pass_time


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("7d", timedelta(days=7)),
        ("12h", timedelta(hours=12)),
        ("30m", timedelta(minutes=30)),
        (" 1.5D ", timedelta(hours=36)),
        ("2w", timedelta(weeks=2)),
        ("90s", timedelta(seconds=90)),
        ("0", timedelta(0)),
        ("0d", timedelta(0)),
    ],
)
def test_ages(text, age):
    assert parse_age(text) == age


@pytest.mark.parametrize("text", ["", "7", "-1d", "d", "7 days", "7y", "1d12h", "nan", "infd", "99999999999999d"])
def test_no_ages(text):
    with pytest.raises(ConfigError, match="age"):
        parse_age(text)


@pytest.mark.parametrize("age", [timedelta(0), timedelta(minutes=9), timedelta(days=-1)])
def test_short_ages_need_to_know_that_nobody_writes(store, age):
    for action in (lambda: clean(store, "prompts", older_than=age), lambda: clean_leftovers(store, older_than=age)):
        with pytest.raises(ConfigError, match=r"--no-writers|negative"):
            action()
    assert versions(store) == [1, 2, 3, 4, 5]


def test_nothing_young_is_removed(store):
    young = orphan(store, timedelta(minutes=1))
    done = clean(store, "prompts")
    assert (done.versions_removed, done.bytes_removed) == ((), 0)
    assert done.before == done.after
    assert young.exists()


def test_old_versions_go_and_the_newest_stays(store, later):
    rows = lance_io.open_table(store, "prompts").to_table()
    later(timedelta(days=8))
    done = clean(store, "prompts")
    assert done.versions_removed == (1, 2, 3, 4)
    assert (done.before.versions, done.after.versions) == (5, 1)
    assert done.bytes_removed == done.before.bytes_stored - done.after.bytes_stored > 0
    assert versions(store) == [5]
    assert lance_io.open_table(store, "prompts").to_table().equals(rows)
    with pytest.raises(TableNotFoundError, match="version 3"):
        lance_io.scan(store, "prompts", ["uuid"], version=3)


def test_a_version_is_old_from_when_it_was_replaced(store, monkeypatch):
    """A reader that opened the newest version of an idle table a moment ago keeps it when a writer comes."""
    listed, idle = lance.LanceDataset.versions, timedelta(days=30)

    def versions_of_an_idle_table(dataset):
        return [
            entry if entry["version"] == 6 else entry | {"timestamp": entry["timestamp"] - idle}
            for entry in listed(dataset)
        ]

    monkeypatch.setattr(lance.LanceDataset, "versions", versions_of_an_idle_table)
    pinned = lance_io.open_table(store, "prompts")
    lance_io.write(store, "prompts", rows_for("prompts", 2, first=50))
    assert clean(store, "prompts").versions_removed == (1, 2, 3, 4)
    assert len(pinned.to_table()) == 12
    assert versions(store) == [5, 6]


def test_tagged_versions_stay_and_are_told(store, later):
    tags = lance_io.open_table(store, "prompts").tags
    tags.create("train-v1", 2)
    tags.create("also", 2)
    tags.create("newest", 5)
    maintenance.optimize(store, "prompts")
    later(timedelta(days=8))
    done = clean(store, "prompts")
    assert done.versions_kept == {2: ("also", "train-v1"), 5: ("newest",)}
    assert {2, 5} <= set(versions(store))
    assert len(lance_io.open_table(store, "prompts", "train-v1").to_table()) == 3
    assert len(lance_io.open_table(store, "prompts", "newest").to_table()) == 12
    assert clean(store, "prompts", **ALL).versions_kept == done.versions_kept
    assert len(lance_io.open_table(store, "prompts", "train-v1").to_table()) == 3


@pytest.mark.parametrize(
    ("age", "limit", "gone"),
    [
        (timedelta(hours=13), timedelta(hours=12), True),
        (timedelta(hours=11), timedelta(hours=12), False),
        (timedelta(days=8), timedelta(days=7), True),
        (timedelta(days=6), timedelta(days=7), False),
    ],
)
def test_files_of_killed_writers_go_by_age(store, age, limit, gone):
    path = orphan(store, age)
    promised = clean(store, "prompts", older_than=limit, dry_run=True)
    assert path.exists()
    done = clean(store, "prompts", older_than=limit)
    assert path.exists() is not gone
    assert promised.bytes_removed == done.bytes_removed == 1000 * gone
    assert len(lance_io.open_table(store, "prompts").to_table()) == 12


def test_without_writers_every_leftover_goes(store):
    young = orphan(store, timedelta(seconds=1))
    promised = clean(store, "prompts", dry_run=True, **ALL)
    assert young.exists()
    assert versions(store) == [1, 2, 3, 4, 5]
    done = clean(store, "prompts", **ALL)
    assert not young.exists()
    assert promised.versions_removed == done.versions_removed == (1, 2, 3, 4)
    assert promised.bytes_removed == done.bytes_removed
    assert promised.after == done.after


def test_old_files_that_a_version_needs_stay(store):
    for path in (store / "prompts.lance").rglob("*.*"):
        aged(path, timedelta(days=400))
    clean(store, "prompts", older_than=timedelta(days=2))
    assert len(lance_io.open_table(store, "prompts").to_table()) == 12
    assert lance_io.open_table(store, "prompts", 2).count_rows() == 3


def test_folders_of_unfinished_tables_and_runs(store):
    """What creation, copies and runs leave when they are killed."""
    half, new, run, fresh = (store / name for name in ("half.lance", "new.lance", "_staging/r1", "_staging/r2"))
    for path in (half / "_transactions", new / "data", run / "masks", fresh):
        path.mkdir(parents=True)
        (path / "file").write_bytes(b"x" * 10)
    for path in (half, run):
        aged(path, timedelta(days=8))
    promised = clean_leftovers(store, dry_run=True)
    assert half.exists()
    done = clean_leftovers(store)
    assert (done.unfinished_tables, done.staging) == (("half.lance",), ("r1",))
    assert (promised.unfinished_tables, promised.staging) == (done.unfinished_tables, done.staging)
    assert [path.exists() for path in (half, new, run, fresh)] == [False, True, False, True]
    assert len(lance_io.open_table(store, "prompts").to_table()) == 12
    done = clean_leftovers(store, **ALL)
    assert (done.unfinished_tables, done.staging) == (("new.lance",), ("r2",))


def test_one_new_file_keeps_a_folder_alive(store):
    run = store / "_staging" / "r1"
    (run / "deep").mkdir(parents=True)
    (run / "deep" / "old").write_text("")
    aged(run, timedelta(days=30))
    (run / "deep" / "new").write_text("")
    assert clean_leftovers(store).staging == ()


def test_a_file_named_like_a_table_is_left_alone(store):
    aged_file = store / "notes.lance"
    aged_file.write_text("mine")
    aged(aged_file, timedelta(days=30))
    assert clean_leftovers(store).unfinished_tables == ()
    assert aged_file.read_text() == "mine"


def test_an_empty_table(tmp_path, later):
    lance_io.write(tmp_path, "prompts", rows_for("prompts", 0))
    later(timedelta(days=8))
    assert clean(tmp_path, "prompts").versions_removed == ()
    assert lance_io.open_table(tmp_path, "prompts").count_rows() == 0


def test_what_cannot_be_done_is_typed(store, tmp_path_factory, monkeypatch):
    nowhere = tmp_path_factory.mktemp("x") / "none"
    with pytest.raises(TableNotFoundError):
        clean(store, "nope")
    with pytest.raises(StoreError, match="no store"):
        clean_leftovers(nowhere)
    monkeypatch.setattr("os.access", lambda *_: False)
    for action in (lambda: clean(store, "prompts"), lambda: clean_leftovers(store)):
        with pytest.raises(StoreNotWritableError):
            action()
    clean(store, "prompts", dry_run=True)


def test_a_folder_that_cannot_be_removed_is_told(store, monkeypatch):
    (store / "half.lance").mkdir()
    aged(store / "half.lance", timedelta(days=8))

    def denied(path):
        raise PermissionError(path)

    monkeypatch.setattr("shutil.rmtree", denied)
    with pytest.raises(StoreError, match=r"half\.lance cannot be removed"):
        clean_leftovers(store)
