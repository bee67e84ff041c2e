"""Stores of earlier schema versions become this one in place: honest values, the same rows and ids, killed or not."""

import shutil
from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from store import lance_io, upgrade
from store.schema_steps import NOT_RECORDED, STEPS, Added, Step
from store.schemas import SCHEMA_VERSION, TABLES, profile_of, schema_for
from store.upgrade import check, outdated
from support.store_rows import SMALL, rows_for
from utils.errors import StoreConflictError, StoreError, StoreNotWritableError, TableNotFoundError, UpgradeError

DATA = Path(__file__).parents[2] / "data"
FROZEN = DATA / "store_v1"
NAMES = sorted(path.stem for path in FROZEN.glob("*.lance"))
STATISTICS = ("ndvi_chip", "ndvi_inside", "ndvi_ring", "br_chip", "br_inside", "br_ring")


@pytest.fixture
def old(tmp_path):
    return Path(shutil.copytree(FROZEN, tmp_path / "store"))


@pytest.fixture(params=[1, 2])
def any_old(request, tmp_path):
    """A store of each earlier version, and that version."""
    return Path(shutil.copytree(DATA / f"store_v{request.param}", tmp_path / "store")), request.param


def everything(uri, table):
    return lance_io.open_table(uri, table).scanner(with_row_id=True).to_table().sort_by("_rowid")


def upgraded(uri, names=NAMES):
    return [upgrade.upgrade(uri, table) for table in names]


def tables_of(uri):
    return sorted(path.stem for path in uri.glob("*.lance"))


def cloudy(uri):
    """Give four chips of the old store clouds, shadow, unclassified pixels, and no classification at all."""
    dataset = lance_io.open_table(uri, "training_data")
    rows = dataset.to_table(columns=["uuid", "msi_scl", *STATISTICS]).slice(0, 4)
    scl = np.full((4, 4, 4), 4, np.uint8)
    scl[0, :2], scl[0, 2] = 9, 3
    scl[1, 0, 0] = 0
    scl[2] = 0
    kind = rows.schema.field("msi_scl").type
    array = pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(pa.array(scl.ravel()), 16))
    rows = rows.set_column(1, rows.schema.field("msi_scl"), array)
    dataset.merge_insert("uuid").when_matched_update_all().execute(rows)
    return rows["uuid"].to_pylist(), scl


def test_every_table_reaches_this_version(any_old):
    old, version = any_old
    names = tables_of(old)
    assert outdated(old, names) == names
    before = {table: everything(old, table) for table in names}
    done = {one.table: one for one in upgraded(old, names)}
    assert outdated(old, names) == []
    for table in names:
        found = lance_io.open_table(old, table).schema
        profile = profile_of(found) if b"profile" in found.metadata else None
        wanted = schema_for(table, profile)
        lance_io.check_schema(old, table, found, wanted)
        assert found.metadata == wanted.metadata
        assert {field.name: field.metadata for field in found} == {field.name: field.metadata for field in wanted}
        assert (done[table].found, done[table].reached) == (version, SCHEMA_VERSION)
        assert set(done[table].columns_added) == set(wanted.names) - set(before[table].column_names)


def test_rows_ids_and_unchanged_columns_stay(old):
    before = {table: everything(old, table) for table in NAMES}
    upgraded(old)
    recomputed = set(STEPS[1].recomputed["training_data"].writes)
    for table in NAMES:
        after = everything(old, table)
        kept = [name for name in before[table].column_names if name not in recomputed]
        assert after.select(kept).cast(before[table].select(kept).schema).equals(before[table].select(kept))
    indexes = lance_io.open_table(old, "training_data").describe_indices()
    assert sorted((index.name, index.num_rows_indexed) for index in indexes) == [("s2_cell_idx", 60), ("uuid_idx", 60)]


def test_version_two_gains_weight_quality_and_points_and_nothing_else(tmp_path):
    """The weight is 1 and the others are null in every old row; all that was there, row ids included, is as it was."""
    old = Path(shutil.copytree(DATA / "store_v2", tmp_path / "store"))
    names = tables_of(old)
    before = {table: everything(old, table) for table in names}
    added = {one.table: one.columns_added for one in upgraded(old, names)}
    points = ("positive_points", "negative_points")
    gained = {"masks": ("quality", "calibration"), "prompts": points, "training_data": ("weight",)}
    assert added == dict.fromkeys(names, ()) | gained
    for table in names:
        after = everything(old, table)
        kept = before[table].column_names
        assert after.select(kept).cast(before[table].schema).equals(before[table])
        assert all(set(after[name].to_pylist()) == {1.0 if name == "weight" else None} for name in added[table])
    assert {one.rows for one in upgraded(old, ["masks", "prompts"])} == {18}


def test_pixels_are_not_written_again(old):
    files = {path.name for path in (old / "training_data.lance" / "data").iterdir()}
    upgraded(old)
    new = [path for path in (old / "training_data.lance" / "data").iterdir() if path.name not in files]
    assert sum(path.stat().st_size for path in new) < 0.2 * 137_560


def test_earlier_versions_and_tags_read_as_before(old):
    dataset = lance_io.open_table(old, "prompts")
    dataset.tags.create("train-v1", dataset.version)
    rows, schema = dataset.to_table(), dataset.schema
    upgraded(old)
    pinned = lance_io.open_table(old, "prompts", "train-v1")
    assert pinned.schema.equals(schema, check_metadata=True)
    assert pinned.to_table().equals(rows)


def test_prompts_say_what_was_not_recorded(old):
    upgraded(old)
    rows = lance_io.open_table(old, "prompts").to_table()
    assert set(map(tuple, rows["repairs"].to_pylist())) == {(NOT_RECORDED,)}
    assert rows["merged"].to_pylist() == [[]] * 50
    for name in ("installed_on", "label_area_m2", "capacity_mw", "retired_at", "retired_snapshot"):
        assert rows[name].null_count == 50
    assert rows["label_snapshot"].null_count == 0


def test_cloud_and_shadow_come_apart(old):
    """Against shares counted by hand: row 0 has 8 cloud and 4 shadow pixels of 16, row 1 one unclassified of 16."""
    uuids, _ = cloudy(old)
    upgraded(old)
    rows = {row["uuid"]: row for row in everything(old, "training_data").drop_columns(["vhr_image_chip"]).to_pylist()}
    shares = [(rows[uuid]["cloud_fraction"], rows[uuid]["shadow_fraction"]) for uuid in uuids]
    assert shares == [(0.5, 0.25), (0.0, 0.0), (None, None), (0.0, 0.0)]
    assert {row["index_inside_px"] for row in rows.values()} == {None}


def test_index_means_over_other_pixels_than_today_are_null(old):
    uuids, _ = cloudy(old)
    columns = ["uuid", "index_recipe", *STATISTICS]
    before = {row["uuid"]: row for row in everything(old, "training_data").select(columns).to_pylist()}
    upgraded(old)
    after = {row["uuid"]: row for row in everything(old, "training_data").select(columns).to_pylist()}
    for uuid, row in after.items():
        hidden = uuid in uuids[:2]
        assert [row[name] for name in STATISTICS] == [None if hidden else before[uuid][name] for name in STATISTICS]
        assert row["index_recipe"] == f"{before[uuid]['index_recipe']}+schema2"
    assert any(before[uuid]["ndvi_chip"] is not None for uuid in uuids[:2])


def test_a_second_upgrade_does_nothing(old):
    cloudy(old)
    upgraded(old)
    numbers = {table: lance_io.open_table(old, table).version for table in NAMES}
    nothing = (SCHEMA_VERSION, (), 0)
    again = {one.table: (one.found, one.columns_added, one.rows_changed) for one in upgraded(old)}
    assert again == dict.fromkeys(NAMES, nothing)
    assert {table: lance_io.open_table(old, table).version for table in NAMES} == numbers


def test_a_dry_run_promises_what_then_happens(old):
    cloudy(old)
    files = sorted(old.rglob("*"))
    promised = [upgrade.upgrade(old, table, dry_run=True) for table in NAMES]
    assert sorted(old.rglob("*")) == files
    assert [replace(one, dry_run=False) for one in promised] == upgraded(old)


@pytest.mark.parametrize("table", ["prompts", "masks", "training_data"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_commit_it_goes_on(old, tmp_path, monkeypatch, table, when):
    """Killed around each commit in turn; in the end the table equals one that was upgraded without a kill."""
    if table == "training_data":
        cloudy(old)
    calm = Path(shutil.copytree(old, tmp_path / "calm"))
    upgrade.upgrade(calm, table)
    monkeypatch.setattr(upgrade, "_ROWS_AT_ONCE", 16)
    committed, kills = upgrade._committed, 0
    for number in range(1, 30):
        calls = []

        def dying(name, commit, *, number=number, calls=calls):
            calls.append(commit)
            if when == "after":
                committed(name, commit)
            if len(calls) == number:
                raise KeyboardInterrupt
            if when == "before":
                committed(name, commit)

        monkeypatch.setattr(upgrade, "_committed", dying)
        fresh = Path(shutil.copytree(old, tmp_path / f"killed-{number}"))
        try:
            upgrade.upgrade(fresh, table)
        except KeyboardInterrupt:
            kills += 1
            monkeypatch.setattr(upgrade, "_committed", committed)
            upgrade.upgrade(fresh, table)
        else:
            break
        both = [everything(uri, table) for uri in (calm, fresh)]
        assert both[1].select(both[0].column_names).equals(both[0])
        schemas = [lance_io.open_table(uri, table).schema for uri in (calm, fresh)]
        assert schemas[1].metadata == schemas[0].metadata
    assert kills >= 3


def test_a_half_upgraded_table_is_not_written_to(old, monkeypatch):
    def dying(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(upgrade, "_reach", dying)
    with pytest.raises(KeyboardInterrupt):
        upgrade.upgrade(old, "prompts")
    with pytest.raises(
        StoreError, match=rf"schema version 1, this is version {SCHEMA_VERSION}.*python -m store upgrade"
    ):
        lance_io.write(old, "prompts", rows_for("prompts"))


@pytest.mark.parametrize("table", NAMES)
def test_rows_can_be_written_afterwards(old, table):
    upgraded(old)
    schema = lance_io.open_table(old, table).schema
    profile = profile_of(schema) if b"profile" in schema.metadata else None
    before = lance_io.open_table(old, table).count_rows()
    new = rows_for(table, 3, profile=profile) if profile else rows_for(table, 3)
    assert lance_io.write(old, table, new, profile=profile).inserted == 3
    found = everything(old, table)
    assert len(found) == before + 3
    key = new.column_names[0]
    written = found.filter(pa.compute.is_in(found[key], new[key].combine_chunks())).select(new.column_names)
    assert written.cast(new.schema).sort_by(key).equals(new)
    assert lance_io.write(old, table, new, profile=profile).updated == 3


def test_a_store_without_multispectral_chips(tmp_path):
    profile = replace(SMALL, msi_bands=())
    rows = rows_for("training_data", profile=profile)
    _as_version(tmp_path, "training_data", rows, 1)
    done = upgrade.upgrade(tmp_path, "training_data")
    assert (done.columns_added, done.rows_changed) == ((), 0)
    assert lance_io.write(tmp_path, "training_data", rows, profile=profile).updated == 3


def test_an_empty_table(tmp_path):
    schema = lance.dataset(str(FROZEN / "prompts.lance")).schema
    lance_io.create_table(tmp_path, "prompts", schema)
    done = upgrade.upgrade(tmp_path, "prompts")
    assert (done.rows, done.rows_changed) == (0, 0)
    assert lance_io.write(tmp_path, "prompts", rows_for("prompts")).inserted == 3


def _as_version(uri, table, rows, version):
    metadata = rows.schema.metadata | {b"schema_version": str(version).encode()}
    lance.write_dataset(rows.replace_schema_metadata(metadata), str(uri / f"{table}.lance"), enable_stable_row_ids=True)


def test_a_newer_store_is_refused_before_anything_changes(old):
    _as_version(old, "errors", rows_for("errors"), SCHEMA_VERSION + 1)
    with pytest.raises(UpgradeError, match=rf"schema version {SCHEMA_VERSION + 1}, newer than {SCHEMA_VERSION}"):
        check(old, [*NAMES, "errors"])
    with pytest.raises(UpgradeError, match="later release"):
        upgrade.upgrade(old, "errors")
    with pytest.raises(StoreError, match="it can be read, not written; set `store`"):
        lance_io.write(old, "errors", rows_for("errors"))
    assert outdated(old, NAMES) == NAMES


def test_tables_of_others_and_versions_without_a_step_are_refused(tmp_path):
    lance.write_dataset(pa.table({"n": [1]}), str(tmp_path / "other.lance"))
    _as_version(tmp_path, "runs", rows_for("runs"), 0)
    with pytest.raises(UpgradeError, match="not written by this project"):
        upgrade.upgrade(tmp_path, "other")
    with pytest.raises(UpgradeError, match="from which no step leads on"):
        upgrade.upgrade(tmp_path, "runs")
    with pytest.raises(TableNotFoundError):
        upgrade.upgrade(tmp_path, "masks")


def test_a_step_that_does_not_lead_to_the_schema_is_told(old, monkeypatch):
    wrong = Step(added={"masks": (Added(field=pa.field("retired_at", pa.string())),)})
    monkeypatch.setattr(upgrade, "STEPS", {**STEPS, 1: wrong})
    with pytest.raises(UpgradeError, match=r"missing: \['retired_snapshot'\].*of another type: \['retired_at'\]"):
        upgrade.upgrade(old, "masks")
    assert outdated(old, ["masks"]) == ["masks"]


def test_the_next_version_is_one_more_step(old, monkeypatch):
    """All steps in a row, with a toy next version of ``splits``."""
    new = SCHEMA_VERSION + 1
    later = schema_for("splits").append(pa.field("note", pa.string(), nullable=False))
    later = later.with_metadata(later.metadata | {b"schema_version": str(new).encode()})
    steps = {**STEPS, SCHEMA_VERSION: Step(added={"splits": (Added(field=later.field("note"), value="none"),)})}
    monkeypatch.setattr(upgrade, "STEPS", steps)
    monkeypatch.setattr(upgrade, "SCHEMA_VERSION", new)
    monkeypatch.setattr(upgrade, "schema_for", lambda table, profile=None: later)
    done = upgrade.upgrade(old, "splits")
    assert (done.found, done.reached, done.columns_added) == (1, new, ("note",))
    assert lance_io.open_table(old, "splits").to_table()["note"].to_pylist() == ["none"]


def test_every_version_has_its_step():
    assert sorted(STEPS) == list(range(1, SCHEMA_VERSION))
    assert {table for step in STEPS.values() for table in (*step.added, *step.recomputed, *step.nullable)} <= set(
        TABLES
    )


def test_what_cannot_be_written_is_typed(old, monkeypatch):
    monkeypatch.setattr("store.conflicts.time.sleep", lambda _: None)

    def lost(*_, **__):
        raise OSError("Retryable commit conflict for version 5: This Merge transaction was preempted")

    with monkeypatch.context() as patched:
        patched.setattr(lance.LanceDataset, "add_columns", lost)
        with pytest.raises(StoreConflictError, match="upgrade of 'masks'"):
            upgrade.upgrade(old, "masks")
    monkeypatch.setattr("os.access", lambda *_: False)
    upgrade.upgrade(old, "masks", dry_run=True)
    with pytest.raises(StoreNotWritableError):
        upgrade.upgrade(old, "masks")
