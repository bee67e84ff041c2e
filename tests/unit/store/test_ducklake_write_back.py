"""The lake's table of detections: one transaction is one snapshot, and nothing is doubled or lost."""

import json
import multiprocessing
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import shapely

from store import ducklake
from store import ducklake_write_back as back
from store.ducklake_detections import ROWS, lake_row
from store.ducklake_files import adopt_files
from support.postgres import new_database
from utils.errors import CatalogBusyError, CatalogNotFoundError, LabelTableError, LakeWriteError

EARLY = datetime(2026, 1, 1, tzinfo=UTC)
TABLE = "pv_detections"


def told(detection_id, place=0.0, *, verdict="accept", search="s1", age=0, **changes):
    """A judged detection: a box of one unit at ``place``."""
    values = {
        "detection_id": detection_id, "geometry": shapely.to_wkb(shapely.box(place, 0, place + 1, 1)),
        "verdict": verdict, "confidence": 0.9, "score": 0.8, "area_m2": 20.0, "acquired_at": EARLY,
        "scene_ids": ["a", "b"], "match": "new", "label_id": None, "reasons": ["because"],
        "evidence": json.dumps({"ndvi": {"verdict": "for"}}), "search_id": search, "model_id": "m", "model": "m.ckpt",
        "found_run_id": "r0", "found_at": EARLY + timedelta(hours=age), "validation_recipe": "v", "validated_at": EARLY,
        "store": "here",
    }  # fmt: skip
    return values | changes


def written(catalog, rows, *, search="s1", run_id="run1", verdicts=("accept",), table=TABLE):
    return back.write_detections(
        catalog, table, pa.Table.from_pylist(rows, schema=ROWS), search_id=search, store="here",
        verdicts=verdicts, run_id=run_id,
    )  # fmt: skip


def in_lake(catalog, columns="detection_id, verdict, superseded_by", *, version=None):
    at = f" AT (VERSION => {version})" if version else ""
    with ducklake.connect(catalog) as connection:
        return connection.execute(f"SELECT {columns} FROM lake.{TABLE}{at} ORDER BY 1").fetchall()


def snapshots(catalog):
    with ducklake.connect(catalog) as connection:
        return connection.execute("SELECT max(snapshot_id) FROM ducklake_snapshots('lake')").fetchone()[0]


@pytest.fixture
def catalog(tmp_path, request):
    place = tmp_path / "lake" / "catalog.ducklake"
    place.parent.mkdir()
    text = f"{getattr(request, 'param', '')}{place}"
    with ducklake.connect(text, data_path=place.parent / "files", create=True) as connection:
        connection.execute("CREATE TABLE lake.pv_labels AS SELECT 1 AS id")
    return text


either = pytest.mark.parametrize("catalog", ["", "sqlite:"], indirect=True, ids=["duckdb", "sqlite"])


@either
def test_one_write_is_one_snapshot_and_the_same_again_is_none(catalog):
    before = snapshots(catalog)
    first = written(catalog, [told("a"), told("b", 5, verdict="reject"), told("c", 9, verdict="review")])
    assert (first.inserted, first.updated, first.unchanged) == (1, 0, 0)
    assert first.snapshot_before == before
    assert first.snapshot_after == snapshots(catalog) == before + 1
    again = written(catalog, [told("a"), told("b", 5, verdict="reject")], run_id="run2")
    assert (again.inserted, again.updated, again.unchanged) == (0, 0, 1)
    assert again.snapshot_after == snapshots(catalog) == before + 1
    [(_, text, evidence, run)] = in_lake(catalog, "detection_id, ST_AsText(geometry), evidence, written_run_id")
    assert shapely.from_wkt(text).equals(shapely.box(0, 0, 1, 1))
    assert json.loads(evidence) == {"ndvi": {"verdict": "for"}}
    assert run == "run1"


def test_a_detection_in_the_lake_follows_its_verdict(catalog):
    first = written(catalog, [told("a"), told("b", 5)])
    second = written(catalog, [told("a", verdict="reject"), told("b", 5)], run_id="run2")
    assert (second.inserted, second.updated, second.unchanged) == (0, 1, 1)
    assert in_lake(catalog) == [("a", "reject", None), ("b", "accept", None)]
    assert in_lake(catalog, version=first.snapshot_after) == [("a", "accept", None), ("b", "accept", None)]


def test_a_detection_that_is_gone_is_withdrawn_once(catalog):
    written(catalog, [told("a"), told("b", 5)])
    second = written(catalog, [told("b", 5)])
    assert (second.updated, second.withdrawn) == (1, 1)
    assert in_lake(catalog) == [("a", "withdrawn", None), ("b", "accept", None)]
    assert written(catalog, [told("b", 5)]).snapshot_after == second.snapshot_after
    assert written(catalog, [told("a"), told("b", 5)]).updated == 1


def test_an_object_of_two_searches_has_one_row_in_force_whichever_is_written_first(catalog):
    early, late = told("old"), told("new", 0.2, search="s2", age=1)
    written(catalog, [early, told("alone", 7)])
    second = written(catalog, [late], search="s2")
    assert (second.inserted, second.updated, second.superseded) == (1, 1, 1)
    wanted = [("alone", "accept", None), ("new", "accept", None), ("old", "accept", "new")]
    assert in_lake(catalog) == wanted
    # writing the first search again changes nothing
    assert written(catalog, [early, told("alone", 7)]).updated == 0
    # a third search over another part of the ground leaves the pair as it is
    written(catalog, [told("third", 1.1, search="s3", age=2)], search="s3")
    assert in_lake(catalog)[:3] == wanted
    # without the newer one, the older is in force again
    written(catalog, [], search="s2")
    assert ("old", "accept", None) in in_lake(catalog)


def in_force(catalog):
    return [row[0] for row in in_lake(catalog) if row[1:] == ("accept", None)]


@either
def test_a_newer_rejection_takes_the_older_row_out_of_force(catalog):
    first = written(catalog, [told("old"), told("alone", 7)])
    newer = told("new", 0.2, search="s2", age=1, verdict="reject")
    second = written(catalog, [newer, told("nothing", 20, search="s2", verdict="reject", age=1)], search="s2")
    assert (second.inserted, second.updated, second.superseded, second.overruled) == (1, 1, 1, 1)
    assert second.snapshot_after == first.snapshot_after + 1
    assert in_lake(catalog) == [("alone", "accept", None), ("new", "reject", None), ("old", "accept", "new")]
    assert ("old", "accept", None) in in_lake(catalog, version=first.snapshot_after)
    again = written(catalog, [newer], search="s2", run_id="run2")
    assert (again.snapshot_after, again.unchanged) == (second.snapshot_after, 1)
    assert lake_row(catalog, TABLE, "old")["superseding_verdict"] == "reject"
    # the older search, written again, does not bring it back
    assert written(catalog, [told("old"), told("alone", 7)]).updated == 0
    # a newer search still, which accepts it, does
    third = written(catalog, [told("third", 0.1, search="s3", age=2)], search="s3")
    assert (third.superseded, third.overruled) == (2, 0)
    assert in_force(catalog) == ["alone", "third"]
    assert lake_row(catalog, TABLE, "old")["superseding_verdict"] == "accept"


def test_a_rejection_counts_whichever_search_is_written_first(catalog):
    newer = told("new", 0.2, search="s2", age=1, verdict="reject")
    assert written(catalog, [newer], search="s2").inserted == 0
    # the store's rejections come along with every search
    receipt = written(catalog, [told("old"), newer])
    assert (receipt.inserted, receipt.overruled) == (2, 1)
    assert in_force(catalog) == []
    assert written(catalog, [told("old"), newer]).snapshot_after == receipt.snapshot_after


def test_a_row_rejudged_in_another_search_goes_with_the_next_write(catalog):
    written(catalog, [told("old"), told("kept", 7)])
    receipt = written(catalog, [told("far", 30, search="s2", age=1), told("old", verdict="reject")], search="s2")
    assert (receipt.inserted, receipt.updated, receipt.overruled) == (1, 1, 0)
    assert in_lake(catalog) == [("far", "accept", None), ("kept", "accept", None), ("old", "reject", None)]


def test_a_row_of_another_store_is_not_rejudged(catalog):
    written(catalog, [told("old")])
    there = told("old", verdict="reject", store="elsewhere")
    pa_rows = pa.Table.from_pylist([there], schema=ROWS)
    back.write_detections(catalog, TABLE, pa_rows, search_id="s2", store="elsewhere", verdicts=("accept",), run_id="r")
    assert in_force(catalog) == ["old"]


@pytest.mark.parametrize(
    "newer",
    [
        {"verdict": "review"},
        {"verdict": "unverifiable"},
        {"verdict": "reject", "age": -1},
        {"verdict": "reject", "search": "s1"},
        {"verdict": "reject", "geometry": shapely.to_wkb(shapely.box(0, 0, 0.3, 1))},
        {"verdict": "reject", "geometry": shapely.to_wkb(shapely.box(-3, -3, 4, 4))},
        {"verdict": "reject", "geometry": shapely.to_wkb(shapely.box(0.6, 0, 1.6, 1))},
    ],
    ids=["review", "unverifiable", "older", "same search", "a part", "a heap", "a neighbour"],
)
def test_what_does_not_reject_the_object_leaves_it_in_force(catalog, newer):
    written(catalog, [told("old")])
    row = told("new", **({"search": "s2", "age": 1} | newer))
    rows = [row, told("old")] if row["search_id"] == "s1" else [row]
    assert written(catalog, rows, search=row["search_id"]).updated == 0
    assert in_force(catalog) == ["old"]


def test_the_snapshot_says_who_wrote_and_a_row_says_which_snapshot(catalog):
    first = written(catalog, [told("a")])
    second = written(catalog, [told("a"), told("b", 5)], run_id="run2")
    row = lake_row(catalog, TABLE, "a")
    assert (row["snapshot"], row["written_run_id"], row["scene_ids"]) == (first.snapshot_after, "run1", ["a", "b"])
    assert lake_row(catalog, TABLE, "b")["snapshot"] == second.snapshot_after
    assert lake_row(catalog, TABLE, "c") is None
    assert lake_row(catalog, "other", "a") is None
    with pytest.raises(LabelTableError, match=r"pv_labels.*other columns"):
        lake_row(catalog, "pv_labels", "a")
    with ducklake.connect(catalog) as connection:
        [(extra,)] = connection.execute(
            "SELECT commit_extra_info FROM ducklake_snapshots('lake') WHERE snapshot_id = ?", [second.snapshot_after]
        ).fetchall()
    assert json.loads(extra)["run_id"] == "run2"


def test_nothing_accepted_leaves_no_table(catalog):
    before = snapshots(catalog)
    receipt = written(catalog, [told("a", verdict="reject")])
    assert receipt.snapshot_after == before == snapshots(catalog)
    with ducklake.connect(catalog) as connection:
        assert connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake'").fetchall() == [
            ("pv_labels",)
        ]


class TestRefusals:
    """Each leaves the lake as it was."""

    def test_a_table_of_other_columns(self, catalog):
        before = snapshots(catalog)
        with pytest.raises(LakeWriteError, match="write_back_table"):
            written(catalog, [told("a")], table="pv_labels")
        assert snapshots(catalog) == before

    def test_no_catalogue(self, tmp_path):
        with pytest.raises(CatalogNotFoundError, match="no DuckLake catalogue"):
            written(tmp_path / "none.ducklake", [told("a")])

    def test_a_folder_of_files_that_cannot_be_written(self, catalog, tmp_path):
        shutil.rmtree(tmp_path / "lake" / "files", ignore_errors=True)
        (tmp_path / "lake" / "files").write_text("no folder")
        before = snapshots(catalog)
        rows = [told(f"a{n}", n * 3.0) for n in range(40)]
        with pytest.raises(LakeWriteError, match="nothing was"):
            written(catalog, rows)
        assert snapshots(catalog) == before

    def test_a_catalogue_that_can_only_be_read(self, catalog, monkeypatch):
        connect = ducklake.connect

        def refused(place, *, write=False, **options):
            if write:
                raise CatalogNotFoundError("Cannot open file: Permission denied")
            return connect(place, **options)

        monkeypatch.setattr(ducklake, "connect", refused)
        with pytest.raises(LakeWriteError, match=r"can be read, but not written.*Permission denied"):
            written(catalog, [told("a")])

    @either
    def test_a_copied_lake_until_it_adopts_its_files(self, catalog, tmp_path):
        written(catalog, [told("a")])
        shutil.copytree(tmp_path / "lake", tmp_path / "copy")
        place = tmp_path / "copy" / "catalog.ducklake"
        copy = str(place) if ":" not in catalog else f"sqlite:{place}"
        with pytest.raises(LakeWriteError, match="adopt-files"):
            written(copy, [told("a"), told("b", 5)])
        assert adopt_files(copy) == tmp_path / "copy" / "files"
        assert written(copy, [told("a"), told("b", 5)]).inserted == 1
        assert [row[0] for row in in_lake(copy)] == ["a", "b"]
        assert [row[0] for row in in_lake(catalog)] == ["a"]

    def test_a_moved_lake_is_written_where_it_is(self, catalog, tmp_path):
        written(catalog, [told("a")])
        (tmp_path / "lake").rename(tmp_path / "moved")
        moved = catalog.replace(str(tmp_path / "lake"), str(tmp_path / "moved"))
        assert written(moved, [told("a"), told("b", 5)]).inserted == 1
        assert [row[0] for row in in_lake(moved)] == ["a", "b"]


def test_a_catalogue_another_process_holds_is_busy_and_not_lost(tmp_path, monkeypatch):
    place = tmp_path / "catalog.ducklake"
    ducklake.connect(place, data_path=tmp_path / "files", create=True).close()
    code = f"import duckdb, time; c = duckdb.connect({str(place)!r}); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CatalogBusyError, match="another process"):
            ducklake.connect(place)
        monkeypatch.setattr(back, "_BUSY", back.RetryPolicy(retries=1, first_wait_s=0.01))
        with pytest.raises(CatalogBusyError):
            written(place, [told("a")])
        holder.kill()
    assert written(place, [told("a")]).inserted == 1


def new_catalog(server, tmp_path, request):
    catalog = str(tmp_path / "catalog.ducklake")
    if server:
        catalog = f"postgres:{new_database(request.getfixturevalue('postgres_server'))}"
    ducklake.connect(catalog, data_path=tmp_path / "files", create=True).close()
    return catalog


def at_once(calls, function):
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=function, args=arguments) for arguments in calls]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0] * len(calls)


def _write_some(catalog, start, run_id):
    rows = [told(f"d{n}", n * 3.0, search=f"s{start}") for n in range(start, start + 20)]
    written(catalog, rows, run_id=run_id, search=f"s{start}")


@pytest.mark.parametrize("server", [False, True], ids=["file", "postgres"])
def test_two_writers_at_once_double_nothing(server, tmp_path, request):
    """Both write twenty detections, ten of which are the same."""
    catalog = new_catalog(server, tmp_path, request)
    at_once([(catalog, start, f"r{start}") for start in (0, 10)], _write_some)
    ids = [row[0] for row in in_lake(catalog)]
    assert len(ids) == len(set(ids)) == 30


def _reject_all(catalog, search, age):
    rows = [told(f"{search}-{n}", n * 3.0, search=search, age=age, verdict="reject") for n in range(10)]
    written(catalog, rows, search=search, run_id=search)


@pytest.mark.parametrize("server", [False, True], ids=["file", "postgres"])
def test_two_writers_at_once_reject_the_same_rows_once(server, tmp_path, request):
    catalog = new_catalog(server, tmp_path, request)
    written(catalog, [told(f"d{n}", n * 3.0) for n in range(10)])
    at_once([(catalog, "s2", 1), (catalog, "s3", 2)], _reject_all)
    rows = in_lake(catalog)
    assert len(rows) == len({row[0] for row in rows}) >= 20
    assert in_force(catalog) == []
    assert {by for name, _, by in rows if name.startswith("d")} == {f"s3-{n}" for n in range(10)}


def test_the_adopted_folder_must_be_there(catalog, tmp_path):
    shutil.rmtree(tmp_path / "lake" / "files", ignore_errors=True)
    with pytest.raises(LakeWriteError, match="no folder"):
        adopt_files(catalog)
    assert Path(tmp_path / "lake").exists()
