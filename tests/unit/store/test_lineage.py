"""Recipes change with what shapes rows and with nothing else; explain finds one chip or says why not."""

import json
import sys
from datetime import UTC, datetime
from itertools import count

import pytest

from store import lance_io, lineage
from store.fingerprint import digest
from store.lineage import Run, explain, module_code, package_versions, recipe, stage_code
from store.schemas import RUNS, SCHEMA_VERSION
from support.store_rows import SMALL, replaced, rows_for
from utils.errors import AegirError, ConfigError, TableNotFoundError

NUMBERS = count()
BASE = '''"""A module."""

import math

LIMIT = 3


def helper(x: float) -> float:
    """Half of it."""
    return x / 2


class Thing:
    """A thing."""

    def size(self) -> float:
        """Its size."""
        return helper(LIMIT) + math.pi
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes source as a fresh module and returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(source: str) -> str:
        name = f"lineage_case_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return made


SAME = {
    "comments": BASE.replace("LIMIT = 3", "# how many\nLIMIT = 3  # three"),
    "docstrings": BASE.replace('"""A module."""', '"""Another text\n\nover lines.\n"""')
    .replace('"""Half of it."""', '"""x / 2."""')
    .replace('    """A thing."""\n', ""),
    "layout": BASE.replace("    return x / 2", "    return (\n        x\n        / 2\n    )").replace(
        "\n\n\n", "\n\n\n\n\n"
    ),
    "quotes and number bases": BASE.replace("LIMIT = 3", "LIMIT = 0x3"),
}
OTHER = {
    "a helper": BASE.replace("x / 2", "x / 4"),
    "a constant": BASE.replace("LIMIT = 3", "LIMIT = 4"),
    "an int that becomes a float": BASE.replace("LIMIT = 3", "LIMIT = 3.0"),
    "a default": BASE.replace("x: float)", "x: float = 1.0)"),
    "a decorator": BASE.replace("def helper", "@staticmethod\ndef helper"),
    "a name": BASE.replace("helper", "halved"),
    "a method": BASE.replace("+ math.pi", "- math.pi"),
    "a string that is no docstring": BASE.replace("LIMIT = 3", 'LIMIT = "3"'),
    "an import": BASE.replace("import math", "import cmath as math"),
}


@pytest.mark.parametrize("what", SAME)
def test_text_and_layout_do_not_count(module, what):
    assert SAME[what] != BASE
    assert module_code(module(SAME[what])) == module_code(module(BASE))


@pytest.mark.parametrize("what", OTHER)
def test_whatever_computes_counts(module, what):
    assert OTHER[what] != BASE
    assert module_code(module(OTHER[what])) != module_code(module(BASE))


def test_docstrings_of_async_functions_do_not_count_either(module):
    with_text = 'async def f():\n    """Text."""\n    return 1\n'
    assert module_code(module(with_text)) == module_code(module("async def f():\n    return 1\n"))


def test_a_function_of_text_alone_is_not_lost(module):
    assert module_code(module('def f():\n    """Text."""\n')) != module_code(module("x = 1\n"))


def test_an_unknown_module_is_refused():
    with pytest.raises(ConfigError, match="no_such_module"):
        module_code("no_such_module")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Modules under names the recipe counts as ours."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(lineage, "OURS", (*lineage.OURS, "toypkg"))
    folder = tmp_path / "toypkg"

    def made(**sources: str) -> None:
        folder.mkdir(exist_ok=True)
        for name, text in ({"__init__": ""} | sources).items():
            (folder / f"{name}.py").write_text(text)
        for name in [name for name in sys.modules if name.split(".")[0] == "toypkg"]:
            del sys.modules[name]
        for cached in (module_code, stage_code, lineage._is_module):
            cached.cache_clear()

    yield made
    for name in [name for name in sys.modules if name.split(".")[0] == "toypkg"]:
        del sys.modules[name]
    for cached in (module_code, stage_code, lineage._is_module):
        cached.cache_clear()


CHAIN = {
    "top": "from toypkg.middle import f\n\n\ndef g():\n    return f()\n",
    "middle": "def f():\n    from toypkg import deep\n    return deep.VALUE\n",
    "deep": "import toypkg.loop\nVALUE = 1\n",
    "loop": "import toypkg.deep\n",
    "apart": "VALUE = 9\n",
}


def test_imports_are_followed_to_the_end_even_in_circles(package):
    package(**CHAIN)
    assert set(stage_code(("toypkg.top",))) == {"toypkg", "toypkg.top", "toypkg.middle", "toypkg.deep", "toypkg.loop"}


def test_a_constant_far_down_changes_the_recipe(package):
    package(**CHAIN)
    before = recipe(["toypkg.top"], {})
    package(**CHAIN | {"deep": CHAIN["deep"].replace("VALUE = 1", "VALUE = 2")})
    changed = recipe(["toypkg.top"], {})
    package(**CHAIN | {"apart": "VALUE = 10\n"})
    untouched = recipe(["toypkg.top"], {})
    assert before != changed
    assert before == untouched


@pytest.mark.parametrize("how", ["from . import deep", "from .deep import VALUE", "from toypkg import deep"])
def test_relative_imports_are_imports(package, how):
    package(top=f"{how}\n", deep="VALUE = 1\n")
    assert "toypkg.deep" in stage_code(("toypkg.top",))


def test_the_build_stages_see_their_helpers():
    found = set(stage_code(("dataflows.sam_mask_factory", "dataflows.chip_plan")))
    wanted = {
        "utils.refinement", "utils.quality", "utils.geo", "utils.lattice", "utils.cells", "utils.split",
        "utils.prompts", "dataflows._coverage", "dataflows._chips",
    }  # fmt: skip
    assert found >= wanted
    assert not found & {"store.schemas", "store.lance_io", "utils.errors", "utils", "dataflows"}
    assert not {name.split(".")[0] for name in found} - {"utils", "store", "dataflows"}


def test_a_recipe_is_its_code_settings_and_upstream():
    modules = ("utils.indices",)
    base = recipe(modules, {"a": 1, "b": 2})
    assert base == recipe(list(modules), {"b": 2, "a": 1})
    assert len({base, recipe(modules, {"a": 1, "b": 3}), recipe(("utils.area",), {"a": 1, "b": 2})}) == 3
    assert len({base, recipe(modules, {"a": 1, "b": 2}, "x"), recipe(modules, {"a": 1, "b": 2}, "x", "y")}) == 3
    assert recipe(modules, {}, "x", "y") != recipe(modules, {}, "y", "x")
    assert base == digest([SCHEMA_VERSION, stage_code(modules), {"a": 1, "b": 2}, []])


def test_versions_name_what_shapes_rows():
    from importlib.metadata import version

    found = package_versions()
    assert found["numpy"] == version("numpy")
    assert found["rasterio"] == version("rasterio")
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
    masks = replaced(rows_for("masks", 5), **both, mask_recipe=[*["recipe"] * 4, "before"])
    lance_io.write(place, "masks", replaced(masks, mask_id=[f"mask{k}" for k in range(5)]), profile=SMALL)
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
