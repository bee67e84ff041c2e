"""`python -m store optimize|clean|tag|restore|copy|upgrade`: what it prints, refuses, and promises in a dry run."""

import json
import shutil
from pathlib import Path

import pytest

from store import lance_io
from store.__main__ import main
from store.schemas import SCHEMA_VERSION
from support.store_rows import SMALL, rows_for

FROZEN = Path(__file__).parents[2] / "data" / "store_v1"


@pytest.fixture
def store(tmp_path, monkeypatch):
    uri = tmp_path / "store"
    for turn in range(3):
        for table in ("training_data", "splits"):
            lance_io.write(uri, table, rows_for(table, 4, first=4 * turn), profile=SMALL)
    monkeypatch.setenv("AEGIR_STORE", str(uri))
    return uri


def answer(capsys, *argv):
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *argv):
    assert main(list(argv)) == 2
    return capsys.readouterr().err


def test_optimize(store, capsys):
    promised = answer(capsys, "optimize", "--dry-run")
    assert [one["table"] for one in promised] == ["splits", "training_data"]
    assert [one["after"]["fragments"] for one in promised] == [1, 1]
    assert main(["optimize", "training_data"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("training_data", "uuid made", "s2_cell made", "3 → 1"))
    assert "splits" not in out
    assert main(["optimize", "--dry-run"]) == 0
    assert "dry run: nothing was changed" in capsys.readouterr().out
    assert [one["after"]["fragments"] for one in answer(capsys, "optimize")] == [1, 1]


def test_clean(store, capsys):
    (store / "half.lance").mkdir()
    assert answer(capsys, "tag", "create", "splits", "kept", "--version", "2")["version"] == 2
    every = ("clean", "--older-than", "0", "--no-writers")
    promised = answer(capsys, *every, "--dry-run")
    assert promised["leftovers"]["unfinished_tables"] == ["half.lance"]
    assert [one["versions_removed"] for one in promised["tables"]] == [[1, 3], [1, 2, 3]]
    assert main([*every, "splits", "--dry-run"]) == 0
    assert "2 (kept)" in capsys.readouterr().out
    assert main(list(every)) == 0
    out = capsys.readouterr().out
    assert "unfinished work removed: half.lance" in out
    assert not (store / "half.lance").exists()
    again = answer(capsys, *every)
    assert [one["versions_kept"] for one in again["tables"]] == [{"2": ["kept"]}, {}]
    assert [one["bytes_removed"] for one in again["tables"]] == [0, 0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--older-than", "0"], "ConfigError: cleaning what is older than 0s can remove files"),
        (["--older-than", "5m"], "ConfigError: cleaning what is older than 5m can remove"),
        (["--older-than", "soon"], "ConfigError: 'soon' is no age"),
        (["nope"], "TableNotFoundError: no table 'nope'"),
    ],
)
def test_what_clean_refuses(store, capsys, argv, message):
    assert refused(capsys, "clean", *argv).startswith(message)
    assert lance_io.open_table(store, "splits", 1).version == 1


def test_tags(store, capsys):
    assert main(["tag", "create", "splits", "v1", "--version", "3"]) == 0
    assert capsys.readouterr().out == "tag v1 created: version 3 of splits\n"
    assert answer(capsys, "tag", "move", "splits", "v1", "--dry-run") == {"tag": "v1", "version": 4, "dry_run": True}
    assert main(["tag", "move", "splits", "v1", "--dry-run"]) == 0
    assert capsys.readouterr().out == "tag v1 would be moved: version 4 of splits\n"
    assert answer(capsys, "tag", "move", "splits", "v1")["version"] == 4
    assert [(one["tag"], one["version"]) for one in answer(capsys, "tag", "list", "splits")] == [("v1", 4)]
    assert main(["tag", "list", "splits"]) == 0
    assert "v1" in capsys.readouterr().out
    assert main(["tag", "delete", "splits", "v1"]) == 0
    assert capsys.readouterr().out == "tag v1 deleted: version 4 of splits\n"
    assert answer(capsys, "tag", "list", "splits") == []


def test_what_tags_refuse(store, capsys):
    main(["tag", "create", "splits", "v1"])
    assert "has a tag 'v1' at version 4 already" in refused(capsys, "tag", "create", "splits", "v1")
    assert "has no tag 'v2'; it has: v1" in refused(capsys, "tag", "move", "splits", "v2")
    assert "cannot be a tag" in refused(capsys, "tag", "create", "splits", "7")
    assert "no version 77" in refused(capsys, "tag", "create", "splits", "v2", "--version", "77")


def test_restore(store, capsys):
    assert main(["restore", "splits", "2", "--dry-run"]) == 0
    assert capsys.readouterr().out == (
        "version 2 of splits (4 rows) would be restored as a new version; version 4 stays\n"
    )
    assert main(["restore", "splits", "2"]) == 0
    assert capsys.readouterr().out == "version 2 of splits (4 rows) restored as version 5; version 4 stays\n"
    assert main(["restore", "splits", "5"]) == 0
    assert capsys.readouterr().out == "splits is at version 5 already\n"
    assert answer(capsys, "restore", "splits", "4")["version"] == 6
    assert "no version 9" in refused(capsys, "restore", "splits", "9")


def test_copy(store, capsys, tmp_path):
    main(["tag", "create", "splits", "v1"])
    capsys.readouterr()
    there = str(tmp_path / "copy")
    assert main(["copy", there, "--dry-run"]) == 0
    assert not Path(there).exists()
    assert main(["copy", there, "--tags", "--tables", "splits"]) == 0
    assert "v1" in capsys.readouterr().out
    done = answer(capsys, "copy", there)
    assert {one["table"]: one["already_there"] for one in done} == {"splits": True, "training_data": False}
    assert main(["copy", there]) == 0
    assert "there already" in capsys.readouterr().out
    assert "onto itself" in refused(capsys, "copy", str(store))


def test_upgrade(tmp_path, capsys):
    uri = str(shutil.copytree(FROZEN, tmp_path / "old"))
    promised = answer(capsys, "upgrade", "--store", uri, "--dry-run")
    done = answer(capsys, "upgrade", "--store", uri)
    assert [one | {"dry_run": False} for one in promised] == done
    assert {(one["found"], one["reached"]) for one in done} == {(1, SCHEMA_VERSION)}
    assert main(["upgrade", "--store", uri]) == 0
    assert "1 →" not in capsys.readouterr().out


def test_one_table_that_cannot_be_upgraded_leaves_all_as_they_are(tmp_path, capsys):
    uri = tmp_path / "old"
    shutil.copytree(FROZEN, uri)
    rows = rows_for("errors")
    newer = rows.schema.with_metadata(rows.schema.metadata | {b"schema_version": b"99"})
    lance_io.create_table(uri, "errors", newer)
    assert refused(capsys, "upgrade", "--store", str(uri)).startswith("UpgradeError: table 'errors'")
    assert lance_io.open_table(uri, "masks").schema.metadata[b"schema_version"] == b"1"


def test_what_was_done_is_told_where_a_later_table_fails(store, capsys, monkeypatch):
    from store import maintenance
    from utils.errors import StoreConflictError

    optimize = maintenance.optimize

    def failing(uri, table, **options):
        if table == "training_data":
            raise StoreConflictError("lost")
        return optimize(uri, table, **options)

    monkeypatch.setattr(maintenance, "optimize", failing)
    assert main(["optimize", "--json"]) == 2
    shown = capsys.readouterr()
    assert [one["table"] for one in json.loads(shown.out)] == ["splits"]
    assert shown.err == "StoreConflictError: lost\n"


@pytest.mark.parametrize(
    "argv", [["optimize"], ["clean"], ["upgrade"], ["copy", "elsewhere"], ["restore", "splits", "1"]]
)
def test_a_missing_store_is_told(tmp_path, capsys, argv, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = refused(capsys, *argv, "--store", str(tmp_path / "none"))
    assert error.startswith(("StoreError: no store at", "TableNotFoundError"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argv", [["tag"], ["tag", "sing", "splits"], ["restore", "splits"], ["copy"]])
def test_misuse_is_argparses_business(argv):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
