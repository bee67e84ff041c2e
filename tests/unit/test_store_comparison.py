"""The judge of the kill tests sees what it is there to see."""

import shutil

import lance
import pyarrow as pa
import pytest

from store import lance_io
from support import store_comparison
from support.store_rows import SMALL, replaced, rows_for

TABLES = ("training_data", "masks", "prompts", "errors")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Three chips with one prompt and one mask each."""
    uri = tmp_path_factory.mktemp("reference") / "store"
    keys = [f"key-{k}" for k in range(3)]
    same = {"uuid": keys, "input_set": ["inputs"] * 3}
    tables = {
        "training_data": replaced(rows_for("training_data"), n_prompts=[1] * 3, input_set=["inputs"] * 3),
        "prompts": replaced(rows_for("prompts"), **same),
        "masks": replaced(rows_for("masks"), uuid=keys, prompt_id=keys),
        "errors": rows_for("errors"),
        "runs": replaced(rows_for("runs"), run_id=rows_for("training_data")["run_id"].to_pylist()),
    }
    for name, rows in tables.items():
        lance_io.write(uri, name, rows, profile=SMALL)
    return uri


@pytest.fixture
def store(reference, tmp_path):
    shutil.copytree(reference, tmp_path / "store")
    return tmp_path / "store"


def test_equal_stores_are_equal_and_whole(store, reference):
    assert store_comparison.differences(store, reference) == []
    assert store_comparison.duplicates(store) == []
    assert store_comparison.half_rows(store, settled=True) == []
    assert store_comparison.engines_disagree(store) == []
    assert store_comparison.orphans(store) == []
    assert store_comparison.listing_fails(store) == []


def test_one_byte_of_one_mask_and_one_pixel_count(store, reference):
    masks = lance_io.open_table(store, "masks").to_table()
    changed = [bytes([b"\0"[0] ^ 1]) + value[1:] if value else value for value in masks["mask"].to_pylist()]
    lance_io.write(store, "masks", replaced(masks, mask=changed), profile=SMALL)
    chips = lance_io.open_table(store, "training_data").to_table()
    pixels = chips["vhr_image_chip"].combine_chunks().to_numpy_ndarray().copy()
    pixels[1, 0, 0, 0] ^= 1
    tensor = chips.schema.field("vhr_image_chip")
    flat = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), pixels[0].size)
    at = chips.column_names.index("vhr_image_chip")
    chips = chips.set_column(at, tensor, pa.ExtensionArray.from_storage(tensor.type, flat))
    lance_io.write(store, "training_data", chips, profile=SMALL)
    found = store_comparison.differences(store, reference)
    assert [text.split(":")[0] for text in found] == ["masks.mask", "training_data.vhr_image_chip"]
    assert "1 of 3 differ, such as key-1" in found[1]


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_row_counts(store, reference, table):
    lance_io.delete(store, table, ["key-1"])
    assert store_comparison.differences(store, reference) == [f"{table}: 0 rows too many [], 1 missing ['key-1']"]


def test_a_chip_without_its_prompt_or_mask_is_half(store):
    lance_io.delete(store, "prompts", ["key-0"])
    lance_io.delete(store, "masks", ["key-2"])
    assert store_comparison.half_rows(store, settled=True) == [
        "chip key-0 has 1 prompts, the table 0",
        "chip key-2: no mask of prompts ['key-2']",
    ]


def test_a_prompt_of_other_inputs_counts_only_while_a_run_is_on_its_way(store):
    prompts = lance_io.open_table(store, "prompts").to_table()
    lance_io.write(store, "prompts", replaced(prompts, input_set=["inputs", "newer", "inputs"]))
    assert store_comparison.half_rows(store, settled=False) == []
    assert store_comparison.half_rows(store, settled=True) == ["chip key-1 has 1 prompts, the table 0"]


def test_a_key_that_stands_twice_is_found(store):
    rows = lance_io.open_table(store, "prompts").to_table().slice(0, 1)
    lance.write_dataset(rows, lance_io.table_uri(store, "prompts"), mode="append")
    assert store_comparison.duplicates(store) == ["prompts: 1 keys more than once, such as key-0"]


def test_files_of_no_version_are_orphans(store):
    dataset = lance_io.open_table(store, "prompts")
    dataset.merge_insert("prompt_id").when_matched_update_all().execute_uncommitted(dataset.to_table())
    assert len(store_comparison.orphans(store)) == 1


def test_a_folder_without_a_version_is_no_table(store):
    (store / "context.lance" / "_versions").mkdir(parents=True)
    assert "context" not in store_comparison.tables_of(store)
    assert store_comparison.engines_disagree(store) == []
    assert store_comparison.orphans(store) == []
