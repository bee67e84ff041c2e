"""Files that are whole or not there: what a writer that fails, or is killed, leaves."""

import os
import time

import pytest

from store._durable_files import LEFTOVER_AGE_S, drop_leftovers, whole_file


def test_a_file_has_its_name_once_it_is_whole(tmp_path):
    target = tmp_path / "new" / "a.json"
    with whole_file(target) as part:
        part.write_text("new")
        assert part.parent == target.parent
        assert not target.exists()
    assert {file.name: file.read_text() for file in target.parent.iterdir()} == {"a.json": "new"}


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    target = tmp_path / "[a].json"
    target.write_text("old")

    def write():
        with whole_file(target) as part:
            part.write_text("half")
            part.with_name(f"{part.name}.vrt").touch()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"[a].json": "old"}


def test_two_writers_of_one_place_do_not_meet(tmp_path):
    target = tmp_path / "a.json"
    with whole_file(target) as first, whole_file(target) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.json": "first"}


def test_what_killed_writers_left_goes_with_the_files_beside_it(tmp_path):
    with whole_file(tmp_path / "a.tif") as part:
        part.write_text("whole")
    names = [part.name, f"{part.name}.vrt", f"{part.name}.ovr.tmp"]
    killed = time.time() - LEFTOVER_AGE_S - 1
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (killed, killed))
    (tmp_path / ".b.tif.1.ab.part").touch()
    drop_leftovers(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"a.tif", ".b.tif.1.ab.part"}
