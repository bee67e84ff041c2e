"""A copy holds the same table at one version, or no table at all."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import lance
import pytest

from store import cleaning, copies, lance_io, listing, maintenance, tags
from support.store_rows import SMALL, rows_for
from utils.errors import ConfigError, StoreError, StoreNotWritableError, TableNotFoundError, TagError

TABLE = "training_data"


@pytest.fixture
def store(tmp_path):
    uri = tmp_path / "store"
    for turn in range(3):
        for table in (TABLE, "masks", "splits"):
            lance_io.write(uri, table, rows_for(table, 4, first=3 * turn), profile=SMALL)
    maintenance.optimize(uri, TABLE)
    lance_io.delete(uri, TABLE, ["key-1"])
    return uri


def test_a_store_is_copied_whole(store, tmp_path):
    done = copies.copy(store, tmp_path / "deep" / "copy")
    assert [one.table for one in done] == ["masks", "splits", TABLE]
    for one in done:
        old, new = (lance_io.open_table(uri, one.table) for uri in (store, tmp_path / "deep" / "copy"))
        assert new.version == old.version == one.version
        assert new.schema.equals(old.schema, check_metadata=True)
        assert new.has_stable_row_ids
        assert new.data_storage_version == old.data_storage_version
        both = [table.scanner(with_row_id=True).to_table() for table in (old, new)]
        assert both[0].equals(both[1])
        assert [index.name for index in new.describe_indices()] == [index.name for index in old.describe_indices()]
        assert one.rows == len(both[0])
        assert one.bytes_copied > 0


def test_a_copy_stands_on_its_own(store, tmp_path):
    copies.copy(store, tmp_path / "copy")
    rows = lance_io.open_table(store, TABLE).to_table()
    shutil.rmtree(store)
    assert lance_io.open_table(tmp_path / "copy", TABLE).to_table().equals(rows)
    assert lance_io.scan(tmp_path / "copy", TABLE, ["uuid"], "uuid = 'key-3'")["uuid"].to_pylist() == ["key-3"]
    lance_io.write(tmp_path / "copy", TABLE, rows_for(TABLE, 2, first=3), profile=SMALL)
    assert maintenance.optimize(tmp_path / "copy", TABLE).after.rows == len(rows)


def test_one_table_at_a_version_or_tag(store, tmp_path):
    tags.create_tag(store, "masks", "early", 2)
    by_number = copies.copy(store, tmp_path / "a", tables=["masks"], version=2)
    by_tag = copies.copy(store, tmp_path / "b", tables=["masks"], version="early", tags=True)
    assert [(one.table, one.version, one.rows) for one in by_number] == [("masks", 2, 4)]
    assert by_tag[0].tags == ("early",)
    for name in ("a", "b"):
        assert lance_io.table_names(tmp_path / name) == ["masks"]
        assert lance_io.open_table(tmp_path / name, "masks").count_rows() == 4
    assert lance_io.open_table(tmp_path / "b", "masks", "early").version == 2
    assert tags.list_tags(tmp_path / "a", "masks") == []


def test_tags_at_other_versions_are_told(store, tmp_path):
    newest = lance_io.open_table(store, "splits").version
    tags.create_tag(store, "splits", "now", newest)
    tags.create_tag(store, "splits", "before", 2)
    done = copies.copy(store, tmp_path / "copy", tables=["splits"], tags=True)[0]
    assert (done.tags, done.tags_left_out) == (("now",), ("before",))
    assert copies.copy(store, tmp_path / "other", tables=["splits"])[0].tags_left_out == ()


def test_again_copies_nothing(store, tmp_path):
    copies.copy(store, tmp_path / "copy")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "copy").rglob("*.*")}
    again = copies.copy(store, tmp_path / "copy")
    assert all(one.already_there for one in again)
    assert sum(one.bytes_copied for one in again) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "copy").rglob("*.*")} == files


def test_a_killed_copy_is_no_table_and_goes_on(store, tmp_path, monkeypatch):
    clone = lance.LanceDataset.deep_clone

    def dying(dataset, target, reference, **options):
        if "splits" in str(target):
            folder = Path(target) / "data"
            shutil.copytree(Path(dataset.uri) / "data", folder)
            next(folder.iterdir()).write_bytes(b"half")
            raise KeyboardInterrupt
        return clone(dataset, target, reference, **options)

    with monkeypatch.context() as patched:
        patched.setattr(lance.LanceDataset, "deep_clone", dying)
        with pytest.raises(KeyboardInterrupt):
            copies.copy(store, tmp_path / "copy")
    assert not lance_io.table_exists(tmp_path / "copy", "splits")
    assert [info.table for info in listing.tables(tmp_path / "copy")] == ["masks"]
    done = copies.copy(store, tmp_path / "copy")
    assert {one.table: one.already_there for one in done} == {"masks": True, "splits": False, TABLE: False}
    both = [lance_io.open_table(uri, "splits").to_table() for uri in (store, tmp_path / "copy")]
    assert both[0].equals(both[1])


def test_what_a_killed_copy_left_is_cleaned(store, tmp_path, monkeypatch):
    def dying(dataset, target, reference):
        (Path(target) / "data").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(lance.LanceDataset, "deep_clone", dying)
        with pytest.raises(KeyboardInterrupt):
            copies.copy(store, tmp_path / "copy")
    left = cleaning.clean_leftovers(tmp_path / "copy", older_than=timedelta(0), no_writers=True)
    assert [name[:5] for name in left.staging] == ["copy-"]
    assert list((tmp_path / "copy").rglob("data")) == []


def test_an_unfinished_table_in_the_way_is_told_before_work(store, tmp_path):
    (tmp_path / "copy" / "splits.lance" / "_transactions").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"unfinished table 'splits'.*store clean --store"):
        copies.copy(store, tmp_path / "copy")
    assert not lance_io.table_exists(tmp_path / "copy", "masks")


def test_two_copies_at_once_both_end_well(store, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: copies.copy(store, tmp_path / "copy"), range(2)))
    assert [one.table for one in done[0]] == [one.table for one in done[1]]
    both = [lance_io.open_table(uri, TABLE).to_table() for uri in (store, tmp_path / "copy")]
    assert both[0].equals(both[1])
    assert list((tmp_path / "copy" / cleaning.STAGING).iterdir()) == []
    assert [path.name for path in sorted((tmp_path / "copy").glob("*.lance"))] == [
        "masks.lance",
        "splits.lance",
        "training_data.lance",
    ]


def test_a_table_another_copy_makes_whole_meanwhile_is_not_unfinished(store, tmp_path, monkeypatch):
    seen = copies.whole_tables

    def late(destination):
        found = seen(destination)
        monkeypatch.undo()
        copies.copy(store, destination)
        return found

    # the other copy ends between the look for whole tables and what follows from it
    monkeypatch.setattr(copies, "whole_tables", late)
    copies.copy(store, tmp_path / "copy")
    both = [lance_io.open_table(uri, TABLE).to_table() for uri in (store, tmp_path / "copy")]
    assert both[0].equals(both[1])


def test_a_copy_that_fails_is_typed_and_says_why(store, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(lance.LanceDataset, "deep_clone", full)
    with pytest.raises(StoreNotWritableError, match=r"No space left.*it goes on where it stopped"):
        copies.copy(store, tmp_path / "copy")
    cleaning.clean(store, "masks", older_than=timedelta(0), no_writers=True)
    source = lance_io.open_table(store, "masks")

    def cleaned(*_):
        shutil.rmtree(store / "masks.lance" / "_versions")
        raise OSError("Not found")

    monkeypatch.setattr(lance.LanceDataset, "deep_clone", cleaned)
    with pytest.raises(TableNotFoundError, match=rf"version {source.version} of table 'masks' was cleaned away"):
        copies.copy(store, tmp_path / "copy", tables=["masks"])


def test_a_dry_run_writes_nothing(store, tmp_path):
    promised = copies.copy(store, tmp_path / "copy", dry_run=True)
    assert not (tmp_path / "copy").exists()
    done = copies.copy(store, tmp_path / "copy")
    assert [(one.table, one.version, one.rows, one.bytes_copied) for one in promised] == [
        (one.table, one.version, one.rows, one.bytes_copied) for one in done
    ]


def test_another_table_at_the_destination_is_refused_before_work(store, tmp_path):
    lance_io.write(tmp_path / "copy", "splits", rows_for("splits", 1))
    with pytest.raises(StoreError, match="holds another table 'splits'"):
        copies.copy(store, tmp_path / "copy")
    assert lance_io.table_names(tmp_path / "copy") == ["splits"]


def test_a_copy_that_was_written_to_since_is_another_table(store, tmp_path):
    copies.copy(store, tmp_path / "copy", tables=["splits"])
    lance_io.write(tmp_path / "copy", "splits", rows_for("splits", 1, first=90))
    with pytest.raises(StoreError, match="holds another table 'splits'"):
        copies.copy(store, tmp_path / "copy")


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/../store", "{}/."])
def test_a_store_onto_itself(store, form):
    with pytest.raises(ConfigError, match="onto itself"):
        copies.copy(store, form.format(store))


def test_a_tag_that_stands_elsewhere_at_the_destination(store, tmp_path):
    tags.create_tag(store, "splits", "t", 2)
    copies.copy(store, tmp_path / "copy", tables=["splits"], version=2)
    lance_io.open_table(tmp_path / "copy", "splits").tags.create("t", 2)
    done = copies.copy(store, tmp_path / "copy", tables=["splits"], version=2, tags=True)
    assert (done[0].already_there, done[0].tags) == (True, ("t",))


def test_what_cannot_be_copied_is_typed_before_work(store, tmp_path):
    with pytest.raises(StoreError, match="no store"):
        copies.copy(tmp_path / "none", tmp_path / "copy")
    with pytest.raises(TableNotFoundError):
        copies.copy(store, tmp_path / "copy", tables=["masks", "nope"])
    with pytest.raises(TableNotFoundError, match="99"):
        copies.copy(store, tmp_path / "copy", tables=["masks"], version=99)
    with pytest.raises(ConfigError, match="3 tables"):
        copies.copy(store, tmp_path / "copy", version=2)
    tags.create_tag(store, "masks", "some", 2)
    with pytest.raises(TableNotFoundError, match="some"):
        copies.copy(store, tmp_path / "copy", version="some")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreNotWritableError):
        copies.copy(store, tmp_path / "file")
    assert not (tmp_path / "copy").exists()
    assert issubclass(TagError, StoreError)


def test_an_empty_table_and_an_empty_store(tmp_path):
    lance_io.write(tmp_path / "a", "runs", rows_for("runs", 0))
    assert copies.copy(tmp_path / "a", tmp_path / "b")[0].rows == 0
    assert lance_io.open_table(tmp_path / "b", "runs").count_rows() == 0
    (tmp_path / "empty").mkdir()
    assert copies.copy(tmp_path / "empty", tmp_path / "c") == []
