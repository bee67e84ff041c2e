"""A run that another one went past: what it may still write, and what it may not."""

from datetime import UTC, datetime, timedelta

import pytest

from store import fragments, lance_io
from support.store_rows import SMALL, replaced, rows_for
from utils.errors import LeaseLostError

NOW = datetime(2026, 7, 1, tzinfo=UTC)


def run(place, run_id, started_at):
    row = replaced(rows_for("runs", 1), run_id=[run_id], started_at=[started_at])
    lance_io.write(place, "runs", row)


def rows(table, run_id, *, count=3, first=0, created_at=NOW):
    return replaced(rows_for(table, count, first=first), run_id=[run_id] * count, created_at=[created_at] * count)


def owners(place, table):
    key = {"masks": "mask_id", "training_data": "uuid"}[table]
    return {row[key]: row["run_id"] for row in lance_io.scan(place, table, [key, "run_id"]).to_pylist()}


@pytest.mark.parametrize("staged", [False, True])
def test_rows_made_late_under_an_older_plan_give_way(tmp_path, staged):
    run(tmp_path, "older", NOW)
    run(tmp_path, "newer", NOW + timedelta(minutes=1))
    table = "training_data"
    late = rows(table, "older", created_at=NOW + timedelta(hours=1))
    lance_io.write(tmp_path, table, late, profile=SMALL, planned_at=NOW)
    mine, planned_at = rows(table, "newer"), NOW + timedelta(minutes=1)
    if staged:
        parts = [fragments.stage(tmp_path, table, mine, profile=SMALL)]
        fragments.commit(tmp_path, table, parts, profile=SMALL, planned_at=planned_at)
    else:
        lance_io.write(tmp_path, table, mine, profile=SMALL, planned_at=planned_at)
    assert set(owners(tmp_path, table).values()) == {"newer"}
    lance_io.write(tmp_path, table, late, profile=SMALL, planned_at=NOW)
    assert set(owners(tmp_path, table).values()) == {"newer"}


@pytest.mark.parametrize("table", ["masks", "training_data"])
def test_nothing_is_written_behind_a_shut_fence(tmp_path, table):
    lance_io.ensure_table(tmp_path, table, profile=SMALL)
    options = {"profile": SMALL, "planned_at": NOW, "fence": lambda: False}
    with pytest.raises(LeaseLostError):
        lance_io.write(tmp_path, table, rows(table, "mine"), **options)
    parts = [fragments.stage(tmp_path, table, rows(table, "mine"), profile=SMALL)]
    with pytest.raises(LeaseLostError):
        fragments.commit(tmp_path, table, parts, **options)
    assert owners(tmp_path, table) == {}


def test_what_is_committed_while_the_fence_shuts_is_taken_back(tmp_path, monkeypatch):
    """Another run takes over and commits between the look and the merge; rows that were there before stay."""
    lance_io.write(tmp_path, "masks", rows("masks", "before", count=2), profile=SMALL)
    merged, is_open = lance_io._merged, [True]

    def overtaken(uri, name, dataset, data, *, retries):
        if is_open[0] and name == "masks":
            is_open[0] = False
            lance_io.write(uri, name, rows("masks", "other", count=2, first=10), profile=SMALL)
        return merged(uri, name, dataset, data, retries=retries)

    monkeypatch.setattr(lance_io, "_merged", overtaken)
    with pytest.raises(LeaseLostError, match="taken back"):
        lance_io.write(
            tmp_path, "masks", rows("masks", "mine", count=4), profile=SMALL, planned_at=NOW, fence=lambda: is_open[0]
        )
    found = owners(tmp_path, "masks")
    assert found.keys() == {"key-0", "key-1", "key-10", "key-11"}
    assert (found["key-10"], found["key-11"]) == ("other", "other")


def test_an_open_fence_changes_nothing(tmp_path):
    receipt = lance_io.write(
        tmp_path, "masks", rows("masks", "mine"), profile=SMALL, planned_at=NOW, fence=lambda: True
    )
    assert (receipt.inserted, receipt.updated) == (3, 0)
