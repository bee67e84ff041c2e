"""Recipes change with what shapes rows and with nothing else; explain finds one chip or says why not."""

import json
import platform
from datetime import UTC, datetime

import pytest

from store import lance_io
from store.fingerprint import digest
from store.lineage import Run, explain, package_versions, recipe, table_versions
from store.schemas import RUNS, SCHEMA_VERSION
from support.store_rows import SMALL, replaced, rows_for
from utils.errors import AegirError, TableNotFoundError

CODE = {"utils.area": {"area_fractions": "1"}}


def test_a_recipe_is_its_code_settings_and_upstream():
    base = recipe(CODE, {"a": 1, "b": 2})
    assert base == recipe(CODE, {"b": 2, "a": 1})
    other = {"utils.area": {"area_fractions": "2"}}
    assert len({base, recipe(CODE, {"a": 1, "b": 3}), recipe(other, {"a": 1, "b": 2})}) == 3
    assert len({base, recipe(CODE, {"a": 1, "b": 2}, "x"), recipe(CODE, {"a": 1, "b": 2}, "x", "y")}) == 3
    assert recipe(CODE, {}, "x", "y") != recipe(CODE, {}, "y", "x")
    assert base == digest([SCHEMA_VERSION, CODE, {"a": 1, "b": 2}, []])
    assert recipe(CODE, {"bands": ("a", "b")}) == recipe(CODE, {"bands": ["a", "b"]})


def test_versions_name_what_shapes_rows():
    from importlib.metadata import version

    found = package_versions()
    assert found["numpy"] == version("numpy")
    assert found["rasterio"] == version("rasterio")
    assert found["python"] == platform.python_version()
    assert "not installed" not in set(found.values()) - {found.get("apache-hamilton")}


def test_the_dataflow_engine_is_named_by_what_is_installed():
    """A recipe that reads "not installed" for the engine that ran it says nothing."""
    assert "not installed" not in package_versions().values()


class TestRun:
    """Rows of the table ``runs``."""

    def run(self, **changes):
        return Run(
            **(
                {
                    "flow": "build",
                    "build_config": "abc",
                    "config": {"store": "x", "vhr_acquired": "latest"},
                    "recipes": {"image": "1"},
                    "code": {"image": {"m": "2"}},
                    "inputs": {"when": datetime(2023, 1, 1, tzinfo=UTC)},
                }
                | changes
            )
        )

    def test_one_row_from_start_to_end(self, tmp_path):
        run = self.run()
        run.record(tmp_path, "running")
        [row] = lance_io.scan(tmp_path, "runs", RUNS.names).to_pylist()
        assert (row["status"], row["finished_at"]) == ("running", None)
        run.record(tmp_path, "done", {"chips": 3})
        [row] = lance_io.scan(tmp_path, "runs", RUNS.names).to_pylist()
        assert (row["status"], json.loads(row["counts"])) == ("done", {"chips": 3})
        assert row["finished_at"] >= row["started_at"] == run.started_at
        assert json.loads(row["config"]) == {"store": "x", "vhr_acquired": "latest"}
        assert json.loads(row["packages"])["numpy"]

    def test_ids_differ(self):
        assert len({self.run().run_id for _ in range(50)}) == 50


IDS = ("aaaa1111-0000", "aaaa2222-0000", "bbbb3333-0000")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three chips, one with a scene whose id needs quoting and with leftovers of an earlier run."""
    place = tmp_path_factory.mktemp("store")
    scenes = [["it's a scene"], ["b", "gone"], ["b"]]
    chips = replaced(rows_for("training_data", 3), uuid=list(IDS), vhr_scene_ids=scenes, msi_scene_ids=[["b"]] * 3)
    chips = replaced(chips, input_set=["it's 1", "2", "3"], mask_recipe=["recipe"] * 3)
    lance_io.write(place, "training_data", replaced(chips, run_id=["run'1", "run2", "none"]), profile=SMALL)
    both = {"uuid": [IDS[0], IDS[0], IDS[1], "other", IDS[0]], "prompt_id": [f"prompt{k}" for k in range(5)]}
    both |= {"run_id": ["run'1", "run'1", "run2", "run'1", "an earlier run"]}
    prompts = replaced(rows_for("prompts", 5), **both, input_set=["it's 1", "it's 1", "2", "it's 1", "before"])
    lance_io.write(place, "prompts", prompts)
    masks = replaced(rows_for("masks", 5), **both, mask_recipe=[*["recipe"] * 4, "before"], generation=[0] * 5)
    lance_io.write(place, "masks", replaced(masks, mask_id=[f"mask{k}" for k in range(5)]), profile=SMALL)
    later = {"uuid": [IDS[0]], "prompt_id": ["prompt0"], "mask_recipe": ["recipe"], "generation": [1]}
    lance_io.write(place, "masks", replaced(rows_for("masks", 1), mask_id=["later"], **later), profile=SMALL)
    lance_io.write(place, "scenes", replaced(rows_for("scenes", 2), scene_id=["it's a scene", "b"]))
    texts = {name: ['{"k": 1}', "{}"] for name in ("config", "recipes", "code", "inputs", "packages", "counts")}
    lance_io.write(place, "runs", replaced(rows_for("runs", 2), run_id=["run'1", "run2"], **texts))
    return place


@pytest.mark.parametrize("asked", [IDS[0], "aaaa1", "aaaa1111-"])
def test_explain_gathers_the_chain_of_one_chip(store, asked):
    chain = explain(store, asked)
    assert chain["chip"]["uuid"] == IDS[0]
    assert {row["prompt_id"] for row in chain["prompts"]} == {"prompt0", "prompt1"}
    assert {row["mask_id"] for row in chain["masks"]} == {"mask0", "mask1"}
    assert {row["scene_id"] for row in chain["scenes"]} == {"it's a scene", "b"}
    assert chain["run"]["run_id"] == "run'1"
    assert chain["run"]["config"] == {"k": 1}
    assert not {"vhr_image_chip", "generated_mask", "footprint"} & set(chain["chip"])
    assert json.dumps(chain, default=str)


def test_explain_says_what_is_missing_rather_than_failing(store):
    chain = explain(store, "bbbb")
    assert (chain["run"], chain["prompts"], chain["masks"]) == (None, [], [])
    assert [row["scene_id"] for row in chain["scenes"]] == ["b"]
    assert {row["scene_id"] for row in explain(store, "aaaa2")["scenes"]} == {"b"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("aaaa", "more than one chip"),
        ("a", "more than one chip"),
        ("cccc", "no chip"),
        ("aaaa1111-0000-0000", "no chip"),
        ("mask", "is no chip id"),
        ("aaaa1111@", "names no version"),
        ("@3", "is no chip id"),
        ("", "is no chip id"),
        ("%", "is no chip id"),
        ("aaaa_111", "is no chip id"),
        ("a' OR '1'='1", "is no chip id"),
        ("aaaa1111'; DROP TABLE training_data; --", "is no chip id"),
        ("AAAA1111", "is no chip id"),
        ("../..", "is no chip id"),
        ("aaaa1111\n", "is no chip id"),
        ("ａａａａ", "is no chip id"),
    ],
)
def test_explain_refuses_what_names_no_single_chip(store, asked, words):
    with pytest.raises(AegirError, match=words):
        explain(store, asked)


def test_explain_at_a_version_that_is_not_there(store):
    assert explain(store, f"{IDS[0]}@2")["version"] == 2
    with pytest.raises(TableNotFoundError, match="version 99"):
        explain(store, f"{IDS[0]}@99")
    with pytest.raises(TableNotFoundError, match="version 'nosuch'"):
        explain(store, f"{IDS[0]}@nosuch")


def test_versions_of_the_tables_a_store_holds(store, tmp_path):
    found = table_versions(store)
    assert set(found) == {"training_data", "prompts", "masks", "scenes", "runs"}
    assert found["prompts"] == lance_io.open_table(store, "prompts").version
    assert table_versions(tmp_path) == {}


def test_explain_an_empty_place(tmp_path):
    with pytest.raises(TableNotFoundError, match="training_data"):
        explain(tmp_path, "abc")


def test_explain_a_store_without_multispectral_columns(tmp_path):
    from dataclasses import replace

    plain = replace(SMALL, msi_bands=())
    rows = replaced(rows_for("training_data", 1, profile=plain), uuid=["abcd"])
    lance_io.write(tmp_path, "training_data", rows, profile=plain)
    chain = explain(tmp_path, "abcd")
    assert (chain["chip"]["uuid"], chain["prompts"], chain["masks"], chain["scenes"]) == ("abcd", [], [], [])


def test_an_interrupt_while_the_end_is_recorded_leaves_it_recorded(tmp_path, monkeypatch):
    run = Run(flow="build", build_config="c", config={}, recipes={}, code={}, inputs={})
    write, met = lance_io.write, []

    def interrupted_once(*arguments, **options):
        if not met:
            met.append(True)
            raise ValueError("External error: KeyboardInterrupt: ")
        return write(*arguments, **options)

    monkeypatch.setattr(lance_io, "write", interrupted_once)
    run.settle(tmp_path, "done", {})
    assert lance_io.scan(tmp_path, "runs", ["status"])["status"].to_pylist() == ["done"]
