"""Rows get provenance and ids, fit their schemas, and reach the buffer as one receipt."""

import json
from uuid import UUID

import numpy as np
import pytest
from hamilton import driver

from dataflows import lance_writer, s2_indexing, sam_mask_factory, spectral_indices, training_sample_builder
from dataflows.lance_writer import Provenance
from store import lance_io
from store.commit_buffer import CommitBuffer
from store.partition_rows import PartitionRows
from store.schemas import PROMPTS, masks, training_data
from support.node_inputs import HALO, PROFILE, block, judged, msi_chip, plan_of, prompt, prompts_of, vhr_chip
from utils.failures import Failure

MODULES = (s2_indexing, spectral_indices, sam_mask_factory, training_sample_builder, lance_writer)
DRIVER = driver.Builder().with_modules(*MODULES).build()
JUDGED = {
    "one": [judged("a", "accept", block((4, 12), (6, 20))), judged("b", "reject", block((20, 24), (6, 20)), score=0.1)],
    "two": [judged("c", "review", block((4, 12), (6, 20)), score=0.5)],
    "none": [],
}
ASKED = {
    "one": [prompt("a", (4, 12), (6, 20)), prompt("b", (20, 24), (6, 20))],
    "two": [prompt("c", (4, 12), (6, 20))],
    "none": [],
    "failed": [prompt("d", (4, 12), (6, 20))],
}


def provenance(**changes):
    known = {
        "run_id": "run",
        "build_config": "settings",
        "recipes": {"image": "i", "mask": "m", "index": "x"},
        "mask_backend": "classical",
        "label_catalog": "labels.ducklake",
        "label_snapshot": 6,
        "margin_share": 0.1,
    }
    return Provenance(**(known | changes))


def run(nodes, *, made=None, **changes):
    found = JUDGED if made is None else made
    inputs = {
        "vhr_chips": {uuid: vhr_chip() for uuid in found},
        "msi_chips": {uuid: msi_chip() for uuid in found},
        "prompts": prompts_of(ASKED),
        "chip_plan": plan_of(*ASKED),
        "halo_px": HALO,
        "h3_resolution": 10,
        "chip_profile": PROFILE,
        "provenance": provenance(),
        "partition": 7,
        "chip_failures": [],
        "commit_buffer": None,
    } | changes
    overrides = {"judged_masks": found, "mask_failures": changes.get("mask_failures", [])}
    return DRIVER.execute(nodes, inputs=inputs, overrides=overrides)


TABLES = ["sample_table", "mask_table", "prompt_table"]


def test_tables_fit_their_schemas():
    found = run(TABLES)
    assert found["sample_table"].schema.equals(training_data(PROFILE))
    assert found["mask_table"].schema.equals(masks(PROFILE))
    assert found["prompt_table"].schema.equals(PROMPTS)
    assert [len(found[name]) for name in TABLES] == [3, 3, 3]


def test_pixels_arrive_as_they_were():
    table = run(["sample_table"])["sample_table"]
    chips = table["vhr_image_chip"].combine_chunks().to_numpy_ndarray()
    np.testing.assert_array_equal(chips[0], vhr_chip().data[:, HALO:-HALO, HALO:-HALO])
    np.testing.assert_array_equal(table["msi_image_chip"].combine_chunks().to_numpy_ndarray()[1], msi_chip().data)
    assert set(np.frombuffer(table["generated_mask"][0].as_py(), np.uint8).tolist()) == {0, 1, 255}


def test_every_row_says_where_it_comes_from():
    found = run(TABLES)
    for row in found["sample_table"].drop_columns(["vhr_image_chip", "msi_image_chip", "msi_scl"]).to_pylist():
        assert (row["image_recipe"], row["mask_recipe"], row["index_recipe"]) == ("i", "m", "x")
        assert (row["build_config"], row["run_id"], row["mask_source"], row["generation"]) == (
            "settings",
            "run",
            "machine",
            0,
        )
        assert row["created_at"].tzinfo is not None
    assert set(found["mask_table"]["backend"].to_pylist()) == {"classical"}
    for row in found["prompt_table"].to_pylist():
        assert (row["label_catalog"], row["label_snapshot"], row["label_table"]) == ("labels.ducklake", 6, "pv")
        assert row["margin_share"] == pytest.approx(0.1)


def test_prompts_of_chips_that_were_not_made_are_not_written():
    assert set(run(["prompt_table"])["prompt_table"]["prompt_id"].to_pylist()) == {"a", "b", "c"}


def ids(**changes):
    return run(["mask_table"], provenance=provenance(**changes))["mask_table"]["mask_id"].to_pylist()


def test_mask_ids_follow_prompt_generation_and_recipe_but_not_the_run():
    first = ids()
    assert len(set(first)) == 3
    assert all(UUID(one).version == 5 for one in first)
    assert ids(run_id="another") == first
    others = [ids(generation=1), ids(recipes={"image": "i", "mask": "other", "index": "x"})]
    assert not set(first) & set(others[0])
    assert not set(first) & set(others[1])
    assert not set(others[0]) & set(others[1])


def test_a_partition_without_chips_makes_empty_tables():
    found = run(TABLES, made={})
    assert [len(found[name]) for name in TABLES] == [0, 0, 0]
    assert found["sample_table"].schema.equals(training_data(PROFILE))


def test_a_row_that_lacks_a_column_is_not_papered_over():
    with pytest.raises(KeyError, match="prompt_geometry"):
        DRIVER.execute(
            ["sample_table"],
            inputs={"provenance": provenance(), "chip_profile": PROFILE},
            overrides={"training_samples": [{"uuid": "x"}]},
        )


def failure(uuid, node="vhr_reads"):
    return Failure(node=node, error_type="NodataError", message="dark", traceback_hash="0", uuid=uuid)


def test_the_receipt_counts_and_holds_no_pixels(tmp_path):
    buffer = CommitBuffer(tmp_path, PROFILE, run_id="run", build_config="settings", commit_every=1)
    rows = PartitionRows()
    receipt = run(
        ["sample_write"],
        commit_buffer=rows,
        chip_failures=[failure("x"), failure("x", "msi_reads"), failure("y")],
        mask_failures=[failure("failed", "segmentation")],
    )["sample_write"]
    expected = {"partition": 7, "chips": 3, "failed": 3, "accept": 1, "review": 1, "reject": 1, "not_in_chip": 0}
    assert {name: receipt[name] for name in expected} == expected
    assert len(json.dumps(receipt, default=str)) < 2000
    buffer.take(rows)
    assert buffer.full
    buffer.flush()
    counts = {name: lance_io.open_table(tmp_path, name).count_rows() for name in lance_io.table_names(tmp_path)}
    assert counts == {"training_data": 3, "masks": 3, "prompts": 3, "errors": 4}
    stored = lance_io.scan(tmp_path, "training_data", ["uuid", "prompt_geometry"]).to_pylist()
    assert {row["uuid"] for row in stored if row["prompt_geometry"] is None} == {"none"}


def test_writing_the_same_partition_twice_changes_no_count(tmp_path):
    for number in (1, 2):
        buffer = CommitBuffer(tmp_path, PROFILE, run_id=f"run{number}", build_config="settings", commit_every=1)
        made = PartitionRows()
        run(["sample_write"], commit_buffer=made, provenance=provenance(run_id=f"run{number}"))
        buffer.take(made)
        buffer.flush()
    assert lance_io.open_table(tmp_path, "masks").count_rows() == 3
    rows = lance_io.scan(tmp_path, "training_data", ["run_id"])["run_id"].to_pylist()
    assert rows == ["run2"] * 3
