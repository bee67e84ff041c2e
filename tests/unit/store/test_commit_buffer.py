"""What waits, in which order it is written, and what a crash between two tables leaves behind."""

import shutil
import sys
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from store import commit_buffer, fragments, lance_io
from store.commit_buffer import CommitBuffer
from store.partition_rows import PartitionRows
from support.store_rows import HIGH, SMALL, replaced, rows_for
from utils.errors import SchemaError, StoreError
from utils.failures import Failure

ORDER = ["errors", "prompts", "masks", "training_data"]


def buffer(place, *, run_id="run", build_config="settings", commit_every=2):
    return CommitBuffer(place, SMALL, run_id=run_id, build_config=build_config, commit_every=commit_every)


def failure(node="read", **changes):
    known = {"node": node, "error_type": "RasterReadError", "message": "broken", "traceback_hash": "0"}
    return Failure(**(known | changes))


def part(first, count=2):
    names = {"samples": "training_data", "masks": "masks", "prompts": "prompts"}
    return {key: rows_for(table, count, first=first) for key, table in names.items()}


def hand_over(waiting, **unit):
    rows = PartitionRows()
    rows.add(**unit)
    waiting.take(rows)


def counts(place):
    return {name: lance_io.open_table(place, name).count_rows() for name in lance_io.table_names(place)}


def errors(place):
    columns = ["node", "uuid", "partition", "attempt", "run_id", "message", "input_ids"]
    return sorted(lance_io.scan(place, "errors", columns).to_pylist(), key=lambda row: (row["node"], row["uuid"] or ""))


@pytest.fixture
def writes(monkeypatch):
    """Names of tables in the order they are written; a name in ``broken`` fails."""
    done, broken = [], set()

    def recorded(owner, door):
        inner = getattr(owner, door)

        def write(uri, name, data, **options):
            if name in broken:
                raise StoreError(f"{name}: the disk is full")
            done.append(name)
            return inner(uri, name, data, **options)

        monkeypatch.setattr(owner, door, write)

    recorded(lance_io, "write")
    recorded(fragments, "stage")
    return type("Writes", (), {"done": done, "broken": broken})


def test_nothing_is_written_before_a_flush(tmp_path):
    waiting = buffer(tmp_path)
    hand_over(waiting, partition=1, **part(0), failures=[failure()])
    assert counts(tmp_path) == {}
    assert not waiting.full
    hand_over(waiting, partition=2, **part(2), failures=[])
    assert waiting.full
    waiting.flush()
    assert counts(tmp_path) == {"errors": 1, "masks": 4, "prompts": 4, "training_data": 4}
    assert waiting.written == 4
    assert not waiting.full


def test_a_chip_is_written_after_all_it_rests_on(tmp_path, writes):
    waiting = buffer(tmp_path)
    hand_over(waiting, partition=1, **part(0), failures=[failure()])
    waiting.flush()
    assert writes.done == ORDER


@pytest.mark.parametrize("table", ORDER)
def test_a_crash_before_any_table_leaves_no_chip_without_its_masks(tmp_path, writes, table):
    writes.broken.add(table)
    waiting = buffer(tmp_path)
    hand_over(waiting, partition=1, **part(0), failures=[failure(uuid="x")])
    with pytest.raises(StoreError, match="disk is full"):
        waiting.flush()
    assert "training_data" not in counts(tmp_path)
    assert writes.done == ORDER[: ORDER.index(table)]
    writes.broken.clear()
    again = buffer(tmp_path, run_id="next")
    hand_over(again, partition=1, **part(0), failures=[failure(uuid="x")])
    again.flush()
    assert counts(tmp_path) == {"errors": 1, "masks": 2, "prompts": 2, "training_data": 2}
    assert [row["attempt"] for row in errors(tmp_path)] == [1 if table == "errors" else 2]


@pytest.mark.parametrize("table", ORDER)
def test_a_second_flush_after_a_failed_one_writes_the_rest_once(tmp_path, writes, table):
    writes.broken.add(table)
    waiting = buffer(tmp_path)
    hand_over(waiting, partition=1, **part(0), failures=[failure(uuid="x")])
    with pytest.raises(StoreError):
        waiting.flush()
    writes.broken.clear()
    waiting.flush()
    assert writes.done == ORDER
    assert counts(tmp_path) == {"errors": 1, "masks": 2, "prompts": 2, "training_data": 2}
    assert (waiting.written, errors(tmp_path)[0]["attempt"]) == (2, 1)


def test_staged_files_wait_for_the_next_flush_where_their_commit_fails(tmp_path, monkeypatch):
    waiting = buffer(tmp_path)
    hand_over(waiting, partition=1, **part(0), failures=[])
    with monkeypatch.context() as broken:
        broken.setattr(fragments, "_merged", lambda *_: (_ for _ in ()).throw(StoreError("no answer")))
        with pytest.raises(StoreError):
            waiting.flush()
    assert (counts(tmp_path)["training_data"], waiting.written) == (0, 0)
    waiting.flush()
    waiting.flush()
    assert (counts(tmp_path)["training_data"], waiting.written) == (2, 2)


def test_rows_that_are_there_are_replaced_and_new_ones_added(tmp_path):
    for first, count in ((0, 2), (1, 3)):
        waiting = buffer(tmp_path, run_id=f"run {first}")
        rows = part(first, count)
        column = pa.array([f"made by {first}"] * count)
        at = rows["samples"].schema.get_field_index("run_id")
        field = rows["samples"].schema.field("run_id")
        hand_over(
            waiting, partition=1, **rows | {"samples": rows["samples"].set_column(at, field, column)}, failures=[]
        )
        waiting.flush()
        assert waiting.written == count
    found = lance_io.scan(tmp_path, "training_data", ["uuid", "run_id"]).to_pylist()
    assert len({row["uuid"] for row in found}) == len(found) == 4
    assert sorted(row["run_id"] for row in found) == ["made by 0", *["made by 1"] * 3]


def test_waiting_bytes_make_it_full(tmp_path):
    rows = part(0)
    size = sum(table.nbytes for table in rows.values())
    for most_bytes, is_full in ((size, True), (size + 1, False)):
        waiting = CommitBuffer(
            tmp_path, SMALL, run_id="run", build_config="settings", commit_every=2, most_bytes=most_bytes
        )
        hand_over(waiting, partition=1, **rows, failures=[])
        assert waiting.full is is_full
        waiting.flush()
        assert not waiting.full


def test_rows_of_another_profile_are_refused_and_no_chip_is_written(tmp_path):
    waiting = buffer(tmp_path)
    rows = part(0)
    hand_over(waiting, partition=1, **rows | {"masks": replaced(rows["masks"], mask=[b"short", None])}, failures=[])
    with pytest.raises(SchemaError, match="masks have"):
        waiting.flush()
    assert "training_data" not in counts(tmp_path)


def test_an_empty_flush_does_nothing(tmp_path, writes):
    buffer(tmp_path).flush()
    assert writes.done == []
    assert not list(tmp_path.iterdir())


def test_a_partition_without_chips_is_no_harm(tmp_path):
    waiting = buffer(tmp_path, commit_every=1)
    hand_over(waiting, partition=1, **part(0, count=0), failures=[failure(uuid="x")])
    assert waiting.full
    waiting.flush()
    assert counts(tmp_path)["errors"] == 1
    assert waiting.written == 0


class TestAttempts:
    """How often a failure was met, and which failures are one."""

    def meet(self, place, *failures, **options):
        waiting = buffer(place, **options)
        waiting.fail(failures)
        waiting.flush()

    def test_every_run_counts_once(self, tmp_path):
        for number in (1, 2, 3):
            self.meet(tmp_path, failure(uuid="x"), run_id=f"run {number}")
            [row] = errors(tmp_path)
            assert (row["attempt"], row["run_id"]) == (number, f"run {number}")

    def test_a_failure_met_twice_in_one_run_is_one_attempt(self, tmp_path):
        self.meet(tmp_path, failure(uuid="x", message="first"), failure(uuid="x", message="second"))
        [row] = errors(tmp_path)
        assert (row["attempt"], row["message"]) == (1, "second")

    def test_two_flushes_of_one_run_are_one_attempt(self, tmp_path):
        waiting = buffer(tmp_path)
        for _ in range(2):
            waiting.fail([failure(uuid="x")])
            waiting.flush()
        assert errors(tmp_path)[0]["attempt"] == 1

    def test_what_differs_is_another_failure(self, tmp_path):
        self.meet(
            tmp_path,
            failure(),
            failure(uuid="a"),
            failure(uuid="b"),
            failure(node="mask"),
            failure(error_type="BandError"),
            failure(partition=HIGH),
            failure(input_ids=("s",)),
            failure(input_ids=("s", "t")),
            failure(message="worded otherwise"),
        )
        assert len(errors(tmp_path)) == 8
        self.meet(tmp_path, failure(), build_config="other settings")
        assert len(errors(tmp_path)) == 9

    def test_the_partition_is_filled_in_where_the_failure_has_none(self, tmp_path):
        waiting = buffer(tmp_path)
        hand_over(waiting, partition=HIGH, **part(0), failures=[failure(uuid="a"), failure(uuid="b", partition=5)])
        waiting.flush()
        assert [row["partition"] for row in errors(tmp_path)] == [HIGH, 5]

    def test_known_failures_are_those_of_the_same_settings(self, tmp_path):
        old, new = failure(uuid="it's old"), failure(uuid="new")
        assert buffer(tmp_path).known([old, new]) == [False, False]
        self.meet(tmp_path, old)
        assert buffer(tmp_path).known([new, old, old]) == [False, True, True]
        assert buffer(tmp_path, build_config="other").known([old]) == [False]
        assert buffer(tmp_path).known([]) == []

    def test_ten_thousand_refused_labels(self, tmp_path):
        refused = [failure(input_ids=(f"pv/{number}",)) for number in range(10_000)]
        self.meet(tmp_path, *refused)
        assert all(buffer(tmp_path).known(refused))
        self.meet(tmp_path, *refused[:5000], run_id="next")
        found = lance_io.scan(tmp_path, "errors", ["attempt"])["attempt"].value_counts().to_pylist()
        assert sorted((row["values"], row["counts"]) for row in found) == [(1, 5000), (2, 5000)]


def work(place, first, *, staged, count=2, failures=()):
    """A finished unit of work, its pixels in memory or in files."""
    rows = PartitionRows()
    rows.add(partition=7, **part(first, count), failures=failures)
    if staged:
        rows.stage(place, SMALL)
        assert (rows.samples, [len(files) for files in rows.staged]) == ([], [count])
    return rows


def test_staged_and_waiting_rows_are_committed_alike(tmp_path):
    waiting = buffer(tmp_path, commit_every=3)
    waiting.take(work(tmp_path, 0, staged=True, failures=[failure(uuid="x")]))
    waiting.take(work(tmp_path, 2, staged=False))
    assert counts(tmp_path) == {"training_data": 0}
    assert not waiting.full
    waiting.take(work(tmp_path, 4, staged=True))
    assert waiting.full
    waiting.flush()
    assert counts(tmp_path) == {"errors": 1, "masks": 6, "prompts": 6, "training_data": 6}
    assert (waiting.written, waiting.full) == (6, False)
    assert errors(tmp_path)[0]["partition"] == 7
    found = lance_io.open_table(tmp_path, "training_data").to_table().sort_by("uuid")
    wanted = pa.concat_tables([rows_for("training_data", 2, first=first) for first in (0, 2, 4)])
    assert found.combine_chunks().equals(wanted.combine_chunks())


def test_staged_rows_are_committed_after_all_they_rest_on(tmp_path, writes, monkeypatch):
    commit = fragments.commit

    def recorded(uri, name, *arguments, **options):
        writes.done.append(name)
        return commit(uri, name, *arguments, **options)

    monkeypatch.setattr(fragments, "commit", recorded)
    writes.broken.add("masks")
    waiting = buffer(tmp_path)
    waiting.take(work(tmp_path, 0, staged=True, failures=[failure(uuid="x")]))
    writes.done.clear()
    with pytest.raises(StoreError, match="disk is full"):
        waiting.flush()
    assert counts(tmp_path)["training_data"] == 0
    writes.broken.clear()
    waiting.flush()
    waiting.flush()
    assert writes.done == ORDER
    assert (waiting.written, counts(tmp_path)["training_data"]) == (2, 2)


@pytest.mark.parametrize("staged", [False, True])
def test_many_chips_fill_the_buffer_whatever_the_partitions(tmp_path, monkeypatch, staged):
    monkeypatch.setattr(commit_buffer, "MOST_ROWS", 5)
    waiting = buffer(tmp_path, commit_every=100)
    waiting.take(work(tmp_path, 0, staged=staged, count=4))
    assert not waiting.full
    waiting.take(work(tmp_path, 4, staged=staged, count=1))
    assert waiting.full


def test_bytes_in_memory_fill_the_buffer_and_files_do_not(tmp_path):
    size = work(tmp_path, 0, staged=False).nbytes
    waiting = CommitBuffer(tmp_path, SMALL, run_id="run", build_config="b", commit_every=100, most_bytes=2 * size)
    waiting.take(work(tmp_path, 0, staged=False))
    waiting.take(work(tmp_path, 2, staged=True))
    assert not waiting.full
    waiting.take(work(tmp_path, 4, staged=False))
    assert waiting.full


@pytest.mark.parametrize("staged", [False, True])
def test_what_others_made_since_the_plan_stays_in_every_table(tmp_path, staged):
    """Of two runs with one plan the slower one changes nothing."""
    now = datetime(2026, 7, 20, tzinfo=UTC)

    def of(run, at):
        rows = work(tmp_path, 0, staged=False)
        for name in ("samples", "masks", "prompts"):
            (table,) = getattr(rows, name)
            setattr(rows, name, [replaced(table, run_id=[run] * 2, created_at=[at] * 2)])
            if "retired_at" in table.column_names:
                setattr(rows, name, [replaced(getattr(rows, name)[0], retired_at=[None] * 2)])
        if staged:
            rows.stage(tmp_path, SMALL)
        return rows

    for run, hours in (("fast", 1), ("slow", 2)):
        waiting = CommitBuffer(tmp_path, SMALL, run_id=run, build_config="b", commit_every=9, planned_at=now)
        waiting.take(of(run, now + timedelta(hours=hours)))
        waiting.flush()
        assert waiting.written == (2 if run == "fast" else 0)
    for name in ("training_data", "masks", "prompts"):
        assert lance_io.scan(tmp_path, name, ["run_id"])["run_id"].to_pylist() == ["fast", "fast"]


def test_rows_replaced_before_a_failed_commit_are_counted_once_and_none_is_staged_again(tmp_path, writes, monkeypatch):
    lance_io.write(tmp_path, "training_data", rows_for("training_data", 2), profile=SMALL)
    waiting = buffer(tmp_path)
    hand_over(waiting, partition=1, **part(1, 3), failures=[])
    with monkeypatch.context() as broken:
        broken.setattr(fragments, "_merged", lambda *_: (_ for _ in ()).throw(StoreError("no answer")))
        with pytest.raises(StoreError):
            waiting.flush()
    once = list(writes.done)
    waiting.flush()
    assert writes.done == once
    assert (counts(tmp_path)["training_data"], waiting.written) == (4, 3)


def interrupted(flush, seen):
    """Whether ``flush`` was interrupted, before the first line of the buffer that is not among those ``seen``."""

    def trace(frame, event, _):
        if frame.f_code.co_filename != commit_buffer.__file__:
            return None
        if event == "line" and frame.f_lineno not in seen:
            seen.add(frame.f_lineno)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        flush()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_rows_are_counted_once_wherever_an_interrupt_comes(tmp_path):
    """What an interrupted run says it wrote is what bears its name."""
    start, seen, stopped = tmp_path / "start", set(), True
    for name in ("training_data", "masks"):
        lance_io.write(start, name, rows_for(name, 2), profile=SMALL)
    while stopped:
        place = tmp_path / str(len(seen))
        shutil.copytree(start, place)
        waiting = buffer(place)
        hand_over(waiting, partition=1, **part(1, 3), failures=[])
        waiting.take(work(place, 6, staged=True))
        stopped = interrupted(waiting.flush, seen)
        waiting.flush()
        assert (waiting.written, waiting.masks_written) == (5, 5), seen
        assert counts(place) == {"masks": 6, "prompts": 5, "training_data": 6}, seen
    assert len(seen) > 20
