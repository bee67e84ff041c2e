"""The write door and what may not pass it; pinned reads; racing writers."""

import importlib
import multiprocessing
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import lance_io
from store.schemas import SPLITS, TABLES, schema_for
from support.store_rows import SMALL, race, race_in_turns, race_to_create, replaced, rows_for
from utils.errors import (
    AegirError,
    SchemaError,
    StoreConflictError,
    StoreError,
    StoreNotWritableError,
    TableNotFoundError,
    UnknownNameError,
)
from utils.types import ChipProfile

ROWS = rows_for("training_data")


def changed(name: str, values: pa.Array, data: pa.Table = ROWS) -> pa.Table:
    return data.set_column(data.column_names.index(name), pa.field(name, values.type), values)


def tensors(pixels: np.ndarray[Any, Any]) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)


def test_first_write_makes_store_and_table(tmp_path: Path) -> None:
    uri = tmp_path / "deep" / "store"
    receipt = lance_io.write(uri, "training_data", ROWS, profile=SMALL)
    assert (receipt.table, receipt.inserted, receipt.updated) == ("training_data", 3, 0)
    dataset = lance.dataset(lance_io.table_uri(uri, "training_data"))
    assert dataset.data_storage_version == lance_io.STORAGE_VERSION
    assert dataset.has_stable_row_ids
    assert dataset.schema.equals(schema_for("training_data", SMALL), check_metadata=True)
    assert dataset.version == receipt.version
    assert dataset.to_table().equals(ROWS)


def test_writing_twice_changes_nothing_and_new_values_replace_old(tmp_path: Path) -> None:
    lance_io.write(tmp_path, "training_data", ROWS, profile=SMALL)
    again = lance_io.write(tmp_path, "training_data", ROWS, profile=SMALL)
    assert (again.inserted, again.updated) == (0, 3)
    reviewed = changed("mask_source", pa.array(["reviewed"] * 2), rows_for("training_data", 2, first=2))
    mixed = lance_io.write(tmp_path, "training_data", reviewed, profile=SMALL)
    assert (mixed.inserted, mixed.updated) == (1, 1)
    found = lance_io.scan(tmp_path, "training_data", ["uuid", "mask_source"]).to_pylist()
    assert {row["uuid"]: row["mask_source"] for row in found} == {
        "key-0": "mask_source 0",
        "key-1": "mask_source 1",
        "key-2": "reviewed",
        "key-3": "reviewed",
    }


@given(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=6, unique=True), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_any_order_of_upserts_ends_like_a_dict(batches: list[list[int]]) -> None:
    import tempfile

    expected = {}
    with tempfile.TemporaryDirectory() as uri:
        for turn, keys in enumerate(batches):
            data = pa.concat_tables([rows_for("splits", 1, first=key) for key in keys])
            salts = pa.array([turn * 100 + key for key in keys], pa.int64())
            lance_io.write(uri, "splits", changed("salt", salts, data))
            expected |= {f"key-{key}": turn * 100 + key for key in keys}
        found = lance_io.scan(uri, "splits", ["split_rule", "salt"]).to_pylist()
    assert len(found) == len(expected)
    assert {row["split_rule"]: row["salt"] for row in found} == expected


def test_no_rows_make_the_table_and_no_version(tmp_path: Path) -> None:
    receipt = lance_io.write(tmp_path, "runs", rows_for("runs", 0))
    assert (receipt.inserted, receipt.updated) == (0, 0)
    assert lance_io.table_names(tmp_path) == ["runs"]
    assert lance_io.open_table(tmp_path, "runs").version == receipt.version == 1


def test_columns_in_any_order_and_types_that_fit_are_cast(tmp_path: Path) -> None:
    data = ROWS.select(ROWS.column_names[::-1])
    data = changed("n_prompts", pa.array([1, 2, 3], pa.uint8()), data)
    data = changed("vhr_image_chip", tensors(np.ones((3, 3, 8, 6), np.uint8)), data)
    data = changed(
        "created_at", pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 3, pa.timestamp("ns", "Asia/Tokyo")), data
    )
    lance_io.write(tmp_path, "training_data", data, profile=SMALL)
    found = lance_io.open_table(tmp_path, "training_data").to_table()
    assert found.schema.names == ROWS.schema.names
    assert found["n_prompts"].to_pylist() == [1, 2, 3]
    assert found["created_at"].to_pylist() == [datetime(2026, 1, 1, tzinfo=UTC)] * 3
    assert found["vhr_image_chip"].combine_chunks().to_numpy_ndarray().sum() == 3 * 3 * 8 * 6


REFUSED = {
    "a column is missing": ROWS.drop_columns(["split"]),
    "a column is unknown": ROWS.append_column("extra", pa.array([1, 2, 3])),
    "a column comes twice": ROWS.append_column("uuid", ROWS["uuid"]),
    "the key is null": changed("uuid", pa.array(["a", None, "b"])),
    "the key repeats": changed("uuid", pa.array(["a", "b", "a"])),
    "a required value is null": changed("split", pa.array(["train", None, "val"])),
    "a required tensor is null": changed(
        "vhr_image_chip", pa.array([None] * 3, schema_for("training_data", SMALL).field("vhr_image_chip").type)
    ),
    "a number is fractional": changed("n_prompts", pa.array([1.5, 2.0, 3.0])),
    "a number is too large": changed("n_prompts", pa.array([1, 2, 1 << 40])),
    "a cell is negative": changed("s2_cell", pa.array([-1, 2, 3])),
    "a number is text": changed("n_prompts", pa.array(["1", "2", "3"])),
    "text is a number": changed("split", pa.array([1, 2, 3])),
    "a time has no zone": changed("created_at", pa.array([datetime(2026, 1, 1)] * 3)),  # noqa: DTZ001
    "a transform has five values": changed("vhr_transform", pa.array([[1.0] * 5] * 3)),
    "a transform holds a null": changed("vhr_transform", pa.array([[None] * 6] * 3, pa.list_(pa.float64(), 6))),
    "pixels are row, column, band": changed("vhr_image_chip", tensors(np.zeros((3, 8, 6, 3), np.uint8))),
    "rows and columns are swapped": changed("vhr_image_chip", tensors(np.zeros((3, 3, 6, 8), np.uint8))),
    "the array is a permuted view": changed(
        "vhr_image_chip", tensors(np.zeros((3, 8, 6, 3), np.uint8).transpose(0, 3, 1, 2))
    ),
    "pixels are of another type": changed("vhr_image_chip", tensors(np.zeros((3, 3, 8, 6), np.uint16))),
    "a mask is too short": changed("generated_mask", pa.array([b"x" * 47, None, None], pa.large_binary())),
    "an msi mask has the vhr size": changed("msi_mask", pa.array([b"x" * 48, None, None], pa.large_binary())),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_refused_rows_leave_nothing_behind(tmp_path: Path, what: str) -> None:
    with pytest.raises(SchemaError, match=r"training_data"):
        lance_io.write(tmp_path / "store", "training_data", REFUSED[what], profile=SMALL)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("table", ["training_data", "masks"])
@pytest.mark.parametrize(
    "change",
    [
        {"gsd_m": 0.5},
        {"msi_gsd_m": 20.0},
        {"msi_bands": ("B02", "B03", "B04", "B8A")},
        {"msi_bands": ()},
        {"height": 6, "width": 8},
        {"height": 16},
        {"msi_height": 9},
    ],
)
def test_a_table_keeps_its_profile(tmp_path: Path, table: str, change: dict[str, Any]) -> None:
    other = replace(SMALL, **change)
    lance_io.write(tmp_path, table, rows_for(table), profile=SMALL)
    with pytest.raises(SchemaError, match="profile"):
        lance_io.write(tmp_path, table, rows_for(table, profile=other), profile=other)
    assert lance_io.open_table(tmp_path, table).count_rows() == 3


def test_profile_may_change_between_stores(tmp_path: Path) -> None:
    no_msi = replace(SMALL, msi_bands=())
    lance_io.write(tmp_path / "a", "training_data", rows_for("training_data"), profile=SMALL)
    lance_io.write(tmp_path / "b", "training_data", rows_for("training_data", profile=no_msi), profile=no_msi)
    assert "msi_image_chip" not in lance_io.open_table(tmp_path / "b", "training_data").schema.names


def test_unknown_table(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="training_data"):
        lance_io.write(tmp_path, "chips", ROWS)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    for action in (lance_io.check_writable, lambda uri: lance_io.write(uri, "runs", rows_for("runs"))):
        with pytest.raises(StoreNotWritableError, match="cannot be written"):
            action(tmp_path / place)


def test_read_only_folder_is_refused_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(StoreNotWritableError, match="PermissionError"):
        lance_io.check_writable(tmp_path / "store")


def test_reads_are_pinned_by_number_and_tag(tmp_path: Path) -> None:
    first = lance_io.write(tmp_path, "splits", rows_for("splits", 2))
    lance_io.write(tmp_path, "splits", rows_for("splits", 2, first=5))
    lance_io.open_table(tmp_path, "splits").tags.create("train-v1", first.version)
    assert lance_io.open_table(tmp_path, "splits").count_rows() == 4
    assert lance_io.open_table(tmp_path, "splits", first.version).count_rows() == 2
    assert lance_io.scan(tmp_path, "splits", ["salt"], version="train-v1")["salt"].to_pylist() == [0, 1]
    assert lance_io.scan(tmp_path, "splits", ["salt"], "salt > 0", version=first.version)["salt"].to_pylist() == [1]


@pytest.mark.parametrize("version", [99, "never"])
def test_missing_tables_and_versions(tmp_path: Path, version: int | str) -> None:
    with pytest.raises(TableNotFoundError, match="store tables"):
        lance_io.open_table(tmp_path, "runs")
    assert not lance_io.table_exists(tmp_path, "runs")
    lance_io.write(tmp_path, "runs", rows_for("runs"))
    assert lance_io.table_exists(tmp_path, "runs")
    for read in (lance_io.open_table, lambda uri, name, v: lance_io.scan(uri, name, ["run_id"], version=v)):
        with pytest.raises(TableNotFoundError, match=str(version)):
            read(tmp_path, "runs", version)


def test_scan_of_a_missing_table_is_empty_with_the_right_types(tmp_path: Path) -> None:
    found = lance_io.scan(tmp_path, "splits", ["salt", "fractions"])
    assert len(found) == 0
    assert found.schema.types == [SPLITS.field("salt").type, SPLITS.field("fractions").type]


def test_a_broken_table_is_not_an_empty_one(tmp_path: Path) -> None:
    lance_io.write(tmp_path, "runs", rows_for("runs"))
    for manifest in (tmp_path / "runs.lance" / "_versions").iterdir():
        manifest.write_bytes(b"xx")
    for action in (
        lambda: lance_io.open_table(tmp_path, "runs"),
        lambda: lance_io.scan(tmp_path, "runs", ["run_id"]),
        lambda: lance_io.write(tmp_path, "runs", rows_for("runs")),
    ):
        with pytest.raises(StoreError, match="runs") as caught:
            action()
        assert not isinstance(caught.value, TableNotFoundError)


@pytest.mark.parametrize(
    ("columns", "where"), [(["nope"], None), (["run_id"], "nope = 1"), (["run_id"], "run_id = = 1")]
)
def test_scans_that_cannot_be_answered(tmp_path: Path, columns: list[str], where: str | None) -> None:
    lance_io.write(tmp_path, "runs", rows_for("runs"))
    with pytest.raises(AegirError, match=r"nope|run_id"):
        lance_io.scan(tmp_path, "runs", columns, where)


def test_table_names(tmp_path: Path) -> None:
    assert lance_io.table_names(tmp_path / "none") == []
    for table in TABLES:
        lance_io.write(tmp_path, table, rows_for(table, 1), profile=SMALL)
    assert lance_io.table_names(tmp_path) == sorted(TABLES)


def test_indexes_are_made_once_and_kept_up(tmp_path: Path) -> None:
    lance_io.write(tmp_path, "training_data", rows_for("training_data", 0), profile=SMALL)
    lance_io.refresh_indexes(tmp_path, "training_data")
    lance_io.write(tmp_path, "training_data", ROWS, profile=SMALL)
    lance_io.refresh_indexes(tmp_path, "training_data")
    lance_io.write(tmp_path, "training_data", rows_for("training_data", 2, first=7), profile=SMALL)
    lance_io.refresh_indexes(tmp_path, "training_data")
    indexes = lance_io.open_table(tmp_path, "training_data").describe_indices()
    assert sorted(name for index in indexes for name in index.field_names) == ["s2_cell", "uuid"]
    assert [index.num_rows_indexed for index in indexes] == [5, 5]
    found = lance_io.scan(tmp_path, "training_data", ["uuid"], "uuid IN ('key-8', 'key-1')")
    assert sorted(found["uuid"].to_pylist()) == ["key-1", "key-8"]


def at_once(target: Any, arguments: list[tuple[Any, ...]]) -> None:
    """Run ``target`` in one spawned process per tuple, each with a barrier as last argument; all must end well."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(len(arguments))
    workers = [context.Process(target=target, args=(*some, start)) for some in arguments]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * len(workers)


def test_racing_creation_has_one_winner_and_loses_no_row(tmp_path: Path) -> None:
    at_once(race_to_create, [(str(tmp_path), 12, writer) for writer in range(3)])
    for turn in range(12):
        dataset = lance_io.open_table(tmp_path / str(turn), "prompts")
        assert sorted(dataset.to_table(columns=["prompt_id"])["prompt_id"].to_pylist()) == ["key-0", "key-1", "key-2"]
        assert [lance_io.open_table(tmp_path / str(turn), "prompts", 1).count_rows(), dataset.version] == [0, 4]


def test_racing_upserts_of_new_keys_leave_one_row_per_key_where_the_key_is_indexed(tmp_path: Path) -> None:
    """Lance's join through the index lets both writers insert the same key."""
    lance_io.write(tmp_path, "prompts", rows_for("prompts", 50))
    lance_io.refresh_indexes(tmp_path, "prompts")
    at_once(race_in_turns, [(str(tmp_path), "prompts", 8)] * 3)
    found = lance_io.scan(tmp_path, "prompts", ["prompt_id"])["prompt_id"].to_pylist()
    assert len(found) == len(set(found)) == 50 + 8 * 20


def test_a_write_that_loses_every_race_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lance_io.write(tmp_path, "prompts", rows_for("prompts"))
    monkeypatch.setattr("store.conflicts.time.sleep", lambda _: None)

    def lost(*_: object) -> None:
        raise OSError("Retryable commit conflict for version 3: This Update transaction was preempted")

    monkeypatch.setattr(importlib.import_module("lance.dataset").MergeInsertBuilder, "execute", lost)
    with pytest.raises(StoreConflictError, match="a write of 3 rows to 'prompts'"):
        lance_io.write(tmp_path, "prompts", rows_for("prompts"))


def test_indexes_that_lose_every_race_are_left_to_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lance_io.write(tmp_path, "prompts", rows_for("prompts"))
    monkeypatch.setattr("store.conflicts.time.sleep", lambda _: None)

    def lost(*_: object, **__: object) -> None:
        raise OSError("Retryable commit conflict for version 3: This CreateIndex transaction was preempted")

    with monkeypatch.context() as patched:
        patched.setattr(lance.LanceDataset, "create_scalar_index", lost)
        assert not lance_io.refresh_indexes(tmp_path, "prompts")
    assert lance_io.refresh_indexes(tmp_path, "prompts")
    with pytest.raises(TableNotFoundError):
        lance_io.refresh_indexes(tmp_path, "masks")


def test_racing_processes_leave_one_row_per_key(tmp_path: Path) -> None:
    """Two processes make the same new store and upsert the same keys at the same time."""
    keys, writes = 25, 4
    at_once(race, [(str(tmp_path), "prompts", keys, writes, writer) for writer in (0, 1)])
    found = lance_io.scan(tmp_path, "prompts", ["prompt_id", "run_id"]).to_pylist()
    assert sorted(row["prompt_id"] for row in found) == sorted(f"key-{k}" for k in range(keys))
    # whoever came last wrote every row in one commit
    assert {row["run_id"] for row in found} <= {f"writer {writer} turn {writes - 1}" for writer in (0, 1)}
    assert len({row["run_id"] for row in found}) == 1


def test_default_profile_is_the_declared_one(tmp_path: Path) -> None:
    data = rows_for("masks", 1, profile=ChipProfile())
    assert lance_io.write(tmp_path, "masks", data).inserted == 1


NOW = datetime(2026, 7, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)


def stamped(table: str, run: str, made: list[datetime], retired: list[datetime | None] | None = None) -> pa.Table:
    data = replaced(rows_for(table, len(made)), run_id=[run] * len(made), created_at=made)
    if "retired_at" in data.column_names:
        data = replaced(data, retired_at=retired or [None] * len(made))
    return data


def run_ids(uri: Path, table: str) -> dict[str, str]:
    key = {"training_data": "uuid", "masks": "mask_id"}[table]
    found = lance_io.scan(uri, table, [key, "run_id"]).to_pylist()
    assert len({row[key] for row in found}) == len(found)
    return {row[key]: row["run_id"] for row in found}


def test_rows_made_since_the_plan_stay_and_older_ones_are_replaced(tmp_path: Path) -> None:
    lance_io.write(
        tmp_path, "training_data", stamped("training_data", "old", [NOW - HOUR, NOW, NOW + HOUR]), profile=SMALL
    )
    mine = stamped("training_data", "mine", [NOW + 2 * HOUR] * 4)
    receipt = lance_io.write(tmp_path, "training_data", mine, profile=SMALL, planned_at=NOW)
    assert (receipt.inserted, receipt.updated) == (1, 2)
    expected = {"key-0": "mine", "key-1": "mine", "key-2": "old", "key-3": "mine"}
    assert run_ids(tmp_path, "training_data") == expected
    again = lance_io.write(tmp_path, "training_data", mine, profile=SMALL, planned_at=NOW)
    assert (again.inserted, again.updated) == (0, 0)
    assert again.version == lance_io.open_table(tmp_path, "training_data").version
    lance_io.write(tmp_path, "training_data", mine, profile=SMALL)
    assert set(run_ids(tmp_path, "training_data").values()) == {"mine"}


def test_rows_retired_since_the_plan_stay_retired(tmp_path: Path) -> None:
    old = stamped("masks", "old", [NOW - 2 * HOUR] * 3, [None, NOW - HOUR, NOW + HOUR])
    lance_io.write(tmp_path, "masks", old, profile=SMALL)
    lance_io.write(tmp_path, "masks", stamped("masks", "mine", [NOW] * 3), profile=SMALL, planned_at=NOW)
    assert run_ids(tmp_path, "masks") == {"key-0": "mine", "key-1": "mine", "key-2": "old"}
    retired = lance_io.scan(tmp_path, "masks", ["mask_id", "retired_at"]).to_pylist()
    assert {row["mask_id"] for row in retired if row["retired_at"]} == {"key-2"}


@pytest.mark.parametrize("change", ["made", "retired"])
def test_a_newer_row_that_comes_between_look_and_write_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    lance_io.write(tmp_path, "masks", stamped("masks", "old", [NOW - HOUR] * 2), profile=SMALL)
    look, turns = lance_io._without_newer, []

    def look_and_be_overtaken(*arguments: Any) -> pa.Table:
        found = look(*arguments)
        turns.append(len(found))
        if len(turns) == 1 and change == "made":
            lance_io.write(tmp_path, "masks", stamped("masks", "newer", [NOW + HOUR]), profile=SMALL)
        elif len(turns) == 1:
            lance_io.mark(tmp_path, "masks", ["key-0"], {"retired_at": "now()", "run_id": "'retired'"})
        return found

    monkeypatch.setattr(lance_io, "_without_newer", look_and_be_overtaken)
    lance_io.write(tmp_path, "masks", stamped("masks", "mine", [NOW] * 3), profile=SMALL, planned_at=NOW)
    assert turns == [3, 2]
    first = {"made": "newer", "retired": "retired"}[change]
    assert run_ids(tmp_path, "masks") == {"key-0": first, "key-1": "mine", "key-2": "mine"}


def test_a_new_key_that_comes_between_look_and_write_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lance_io.ensure_table(tmp_path, "masks", profile=SMALL)
    look, turns = lance_io._without_newer, []

    def look_and_be_overtaken(*arguments: Any) -> pa.Table:
        found = look(*arguments)
        turns.append(len(found))
        if len(turns) == 1:
            lance_io.write(tmp_path, "masks", stamped("masks", "newer", [NOW + HOUR]), profile=SMALL)
        return found

    monkeypatch.setattr(lance_io, "_without_newer", look_and_be_overtaken)
    lance_io.write(tmp_path, "masks", stamped("masks", "mine", [NOW] * 2), profile=SMALL, planned_at=NOW)
    assert turns == [2, 1]
    assert run_ids(tmp_path, "masks") == {"key-0": "newer", "key-1": "mine"}


def test_chosen_rows_are_chosen_from_the_newest_version(tmp_path: Path) -> None:
    def next_salt(dataset: lance.LanceDataset) -> pa.Table:
        salts = dataset.to_table(columns=["salt"])["salt"].to_pylist()
        return replaced(rows_for("splits", 1), salt=[max(salts, default=0) + 1])

    for turn in range(1, 4):
        receipt = lance_io.write_chosen(tmp_path, "splits", next_salt)
        assert (receipt.inserted, receipt.updated) == ((1, 0) if turn == 1 else (0, 1))
        assert lance_io.scan(tmp_path, "splits", ["salt"])["salt"].to_pylist() == [turn]
    nothing = lance_io.write_chosen(tmp_path, "splits", lambda _: rows_for("splits", 0))
    assert (nothing.inserted, nothing.updated, nothing.version) == (0, 0, receipt.version)


def test_racing_choices_lose_no_step(tmp_path: Path) -> None:
    """Each adds one to what it sees: a choice that rests on an old look would lose another's step."""
    lance_io.write(tmp_path, "splits", replaced(rows_for("splits", 1), salt=[0]))

    def add_one(dataset: lance.LanceDataset) -> pa.Table:
        return replaced(rows_for("splits", 1), salt=[dataset.to_table(columns=["salt"])["salt"][0].as_py() + 1])

    def steps() -> None:
        for _ in range(3):
            lance_io.write_chosen(tmp_path, "splits", add_one)

    threads = [threading.Thread(target=steps) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lance_io.scan(tmp_path, "splits", ["salt"])["salt"].to_pylist() == [9]


def test_delete_with_a_condition_leaves_other_rows_of_its_keys(tmp_path: Path) -> None:
    lance_io.write(tmp_path, "splits", replaced(rows_for("splits", 3), salt=[1, 2, 1]))
    assert lance_io.delete(tmp_path, "splits", ["key-0", "key-1"], where="salt = 1 OR salt = 7") == 1
    assert lance_io.scan(tmp_path, "splits", ["split_rule"])["split_rule"].to_pylist() == ["key-1", "key-2"]


def test_ensured_tables_are_made_once_and_checked(tmp_path: Path) -> None:
    made = lance_io.ensure_table(tmp_path, "training_data", profile=SMALL)
    assert (made.version, made.count_rows()) == (1, 0)
    assert lance_io.ensure_table(tmp_path, "training_data", profile=SMALL).version == 1
    with pytest.raises(SchemaError, match="another chip profile"):
        lance_io.ensure_table(tmp_path, "training_data", profile=ChipProfile())
