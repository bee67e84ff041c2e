"""Upkeep beside readers and writers of other processes, and killed by SIGKILL: nothing vanishes, nothing is lost."""

import multiprocessing
import time
from datetime import timedelta
from pathlib import Path

import pytest

from store import cleaning, copies, lance_io, listing, maintenance, tags
from support import upkeep
from support.store_rows import SMALL, rows_for
from support.upkeep import TABLE
from utils.errors import TableNotFoundError

SPAWN = multiprocessing.get_context("spawn")
ALL = {"older_than": timedelta(0), "no_writers": True}


@pytest.fixture
def store(tmp_path):
    uri = str(tmp_path / "store")
    for turn in range(6):
        lance_io.write(uri, TABLE, rows_for(TABLE, 5, first=5 * turn), profile=SMALL)
    return uri


def test_a_pinned_reader_never_sees_its_version_vanish(store):
    tags.create_tag(store, TABLE, "train-v1")
    untagged = lance_io.open_table(store, TABLE, 3).version
    wanted = upkeep.digest(store, "train-v1")
    reading, stop, told = SPAWN.Event(), SPAWN.Event(), SPAWN.Queue()
    reader = SPAWN.Process(target=upkeep.read_tag, args=(store, "train-v1", reading, stop, told))
    reader.start()
    assert reading.wait(60)
    for turn in range(8):
        lance_io.write(store, TABLE, rows_for(TABLE, 7, first=3 * turn), profile=SMALL)
        maintenance.optimize(store, TABLE)
        done = cleaning.clean(store, TABLE, **ALL)
        assert done.versions_kept == {7: ("train-v1",)}
        time.sleep(0.2)
    stop.set()
    seen, reads = told.get(timeout=60)
    reader.join(60)
    assert (reader.exitcode, seen) == (0, [wanted])
    assert reads > 1
    with pytest.raises(TableNotFoundError, match=f"no version {untagged}"):
        lance_io.scan(store, TABLE, ["uuid"], version=untagged)


def test_writers_lose_nothing_to_optimising_and_cleaning(store):
    """Two writers at work; the shortest age that needs no word that nobody writes."""
    writers = [SPAWN.Process(target=upkeep.write_rows, args=(store, number, 12)) for number in range(2)]
    for writer in writers:
        writer.start()
    rounds = 0
    while any(writer.is_alive() for writer in writers):
        maintenance.optimize(store, TABLE)
        cleaning.clean(store, TABLE, older_than=cleaning.SHORTEST_AGE)
        cleaning.clean_leftovers(store, older_than=cleaning.SHORTEST_AGE)
        rounds += 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert rounds > 1
    found = lance_io.open_table(store, TABLE).to_table(columns=["uuid", "vhr_image_chip"])
    wanted = {f"key-{k}" for k in range(30)} | {f"key-{1000 * n + k}" for n in (1, 2) for k in range(36)}
    assert sorted(found["uuid"].to_pylist()) == sorted(wanted)


@pytest.mark.parametrize("wait_s", [0.6, pytest.param(1.1, marks=pytest.mark.slow)])
def test_killed_while_optimising_it_keeps_every_row_and_leaves_what_clean_removes(store, wait_s):
    worker = SPAWN.Process(target=upkeep.optimise_for_ever, args=(store,))
    worker.start()
    first = lance_io.open_table(store, TABLE).version
    while lance_io.open_table(store, TABLE).version < first + 2:
        time.sleep(0.05)
    time.sleep(wait_s)
    worker.kill()
    worker.join(60)
    table = lance_io.open_table(store, TABLE)
    keys = table.to_table(columns=["uuid", "generated_mask"])["uuid"].to_pylist()
    assert len(keys) == len(set(keys)) >= 30
    maintenance.optimize(store, TABLE)
    cleaning.clean(store, TABLE, **ALL)
    after = lance_io.open_table(store, TABLE)
    assert sorted(after.to_table(columns=["uuid"])["uuid"].to_pylist()) == sorted(keys)
    files = {fragment.metadata.files[0].path for fragment in after.get_fragments()}
    assert {path.name for path in Path(store, f"{TABLE}.lance", "data").iterdir()} == files


@pytest.mark.slow
def test_killed_while_copying_no_half_table_is_a_table(store, tmp_path):
    worker = SPAWN.Process(target=upkeep.copy_for_ever, args=(store, str(tmp_path / "copies")))
    worker.start()
    while not (tmp_path / "copies" / "3").exists():
        time.sleep(0.005)
    worker.kill()
    worker.join(60)
    wanted = lance_io.open_table(store, TABLE).to_table()
    for copy in sorted((tmp_path / "copies").iterdir()):
        for info in listing.tables(copy):
            assert info.rows == 30
        copies.copy(store, copy)
        assert lance_io.open_table(copy, TABLE).to_table().equals(wanted)


def test_a_reader_of_an_untagged_version_is_told_what_is_gone(store):
    held = lance_io.open_table(store, TABLE, 2)
    maintenance.optimize(store, TABLE)
    cleaning.clean(store, TABLE, **ALL)
    with pytest.raises(TableNotFoundError, match="no version 2 of table 'training_data'"):
        lance_io.open_table(store, TABLE, int(held.version))
