"""Tags are made, moved and deleted by name; restoring makes a new version and destroys none."""

import lance
import pytest

from store import cleaning, lance_io, tags
from support.store_rows import rows_for
from utils.errors import StoreNotWritableError, TableNotFoundError, TagError


@pytest.fixture
def store(tmp_path):
    for turn in range(3):
        lance_io.write(tmp_path, "splits", rows_for("splits", 2, first=2 * turn))
    return tmp_path


def listed(uri):
    return {tag.tag: tag.version for tag in tags.list_tags(uri, "splits")}


def test_a_tags_life(store):
    assert listed(store) == {}
    assert tags.create_tag(store, "splits", "train-v1", 2).version == 2
    assert tags.create_tag(store, "splits", "newest").version == 4
    assert tags.create_tag(store, "splits", "same", "train-v1").version == 2
    assert listed(store) == {"newest": 4, "same": 2, "train-v1": 2}
    assert tags.move_tag(store, "splits", "train-v1", 3).version == 3
    assert lance_io.open_table(store, "splits", "train-v1").count_rows() == 4
    assert tags.delete_tag(store, "splits", "same").version == 2
    assert listed(store) == {"newest": 4, "train-v1": 3}


def test_a_dry_run_changes_nothing_and_refuses_the_same(store):
    tags.create_tag(store, "splits", "a", 2)
    assert tags.create_tag(store, "splits", "b", 3, dry_run=True).version == 3
    assert tags.move_tag(store, "splits", "a", dry_run=True).version == 4
    assert tags.delete_tag(store, "splits", "a", dry_run=True).version == 2
    assert listed(store) == {"a": 2}
    for action in (
        lambda: tags.create_tag(store, "splits", "a", dry_run=True),
        lambda: tags.move_tag(store, "splits", "b", dry_run=True),
        lambda: tags.delete_tag(store, "splits", "b", dry_run=True),
    ):
        with pytest.raises(TagError):
            action()


def test_a_tag_is_never_made_twice_nor_moved_by_creating_it(store):
    tags.create_tag(store, "splits", "a", 2)
    with pytest.raises(TagError, match=r"has a tag 'a' at version 2 already; move it"):
        tags.create_tag(store, "splits", "a", 3)
    assert listed(store) == {"a": 2}


@pytest.mark.parametrize("action", [tags.move_tag, tags.delete_tag])
def test_a_missing_tag_is_told_with_those_there_are(store, action):
    tags.create_tag(store, "splits", "here")
    with pytest.raises(TagError, match=r"has no tag 'there'; it has: here"):
        action(store, "splits", "there")


@pytest.mark.parametrize("name", ["", "12", "a/b", "a b", "ä", "..", "a..b", "x.lock", "../../etc"])
def test_names_that_are_none(store, name):
    with pytest.raises(TagError, match="cannot be a tag"):
        tags.create_tag(store, "splits", name)
    assert listed(store) == {}


@pytest.mark.parametrize("version", [99, "never"])
def test_missing_versions_and_tables(store, version):
    for action in (
        lambda: tags.create_tag(store, "splits", "a", version),
        lambda: tags.create_tag(store, "nope", "a"),
        lambda: tags.list_tags(store, "nope"),
        lambda: tags.restore(store, "splits", version),
        lambda: tags.restore(store, "nope", 1),
    ):
        with pytest.raises(TableNotFoundError):
            action()


def test_two_that_create_one_tag_at_once(store, monkeypatch):
    """The second finds it taken although it was free when it looked."""
    known = tags._known
    monkeypatch.setattr(tags, "_known", lambda *_: None)
    lance_io.open_table(store, "splits").tags.create("a", 2)
    calls = []

    def looked(*arguments):
        calls.append(arguments)
        return None if len(calls) == 1 else known(*arguments)

    monkeypatch.setattr(tags, "_known", looked)
    with pytest.raises(TagError, match="already"):
        tags.create_tag(store, "splits", "a", 3)


def test_restoring_makes_a_new_version(store):
    schema = lance_io.open_table(store, "splits").schema
    done = tags.restore(store, "splits", 2)
    assert (done.restored, done.replaced, done.version, done.rows) == (2, 4, 5, 2)
    table = lance_io.open_table(store, "splits")
    assert table.version == 5
    assert table.to_table().equals(lance_io.open_table(store, "splits", 2).to_table())
    assert table.schema.equals(schema, check_metadata=True)
    assert lance_io.open_table(store, "splits", 4).count_rows() == 6
    back = tags.restore(store, "splits", 4)
    assert lance_io.open_table(store, "splits").count_rows() == 6
    assert back.version == 6


def test_rows_go_in_again_after_restoring(store):
    tags.restore(store, "splits", 2)
    lance_io.write(store, "splits", rows_for("splits", 4, first=1))
    found = lance_io.open_table(store, "splits").to_table(columns=["split_rule"], with_row_id=True)
    assert sorted(found["split_rule"].to_pylist()) == [f"key-{k}" for k in range(5)]
    assert len(set(found["_rowid"].to_pylist())) == 5


def test_restoring_by_tag_and_in_a_dry_run(store):
    tags.create_tag(store, "splits", "a", 3)
    done = tags.restore(store, "splits", "a", dry_run=True)
    assert (done.restored, done.rows, done.version) == (3, 4, 4)
    assert lance_io.open_table(store, "splits").version == 4
    assert tags.restore(store, "splits", "a").version == 5


def test_restoring_the_newest_does_nothing(store):
    assert tags.restore(store, "splits", 4).version == 4
    assert lance_io.open_table(store, "splits").version == 4


def test_a_version_that_was_cleaned_cannot_be_restored(store):
    cleaning.clean(store, "splits", older_than=cleaning.timedelta(0), no_writers=True)
    with pytest.raises(TableNotFoundError, match="no version 2"):
        tags.restore(store, "splits", 2)


def test_a_store_that_cannot_be_written(store, monkeypatch):
    tags.create_tag(store, "splits", "a", 2)
    monkeypatch.setattr("os.access", lambda *_: False)
    for action in (
        lambda: tags.create_tag(store, "splits", "b"),
        lambda: tags.move_tag(store, "splits", "a"),
        lambda: tags.delete_tag(store, "splits", "a"),
        lambda: tags.restore(store, "splits", 2),
    ):
        with pytest.raises(StoreNotWritableError):
            action()
    assert listed(store) == {"a": 2}
    assert lance.dataset(str(store / "splits.lance")).version == 4
