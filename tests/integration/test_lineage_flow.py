"""``stale``, ``run --only-stale`` and ``explain`` through the command line, on a region of a few chips."""

import json
import re
import shutil
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pytest
import rasterio
import shapely
import yaml

from dataflows import drivers, mask_backends
from dataflows.__main__ import EXIT_REFUSED, main
from dataflows.mask_backends.classical import ClassicalBackend
from store import code_hash, lance_io
from store.code_hash import CodeBase
from store.imagery.local import LocalImagery
from store.schemas import ERRORS, profile_of
from support import mini_region
from utils.geo import reproject

FROZEN = Path(__file__).parents[1] / "data" / "store_v1"
STALE = 3


class Lineage:
    """A region, a store and a settings file of its own, and the command line."""

    def __init__(self, region, folder, capsys):
        self.region, self.settings = region, region.settings | {"store": str(folder / "lancedb")}
        self.store = self.settings["store"]
        self.config = folder / "flow.yaml"
        self.config.write_text(yaml.safe_dump(self.settings))
        self._capsys = capsys

    def main(self, *arguments, code=0):
        self._capsys.readouterr()
        found = main([str(argument) for argument in arguments])
        out, err = self._capsys.readouterr()
        assert found == code, (out, err)
        assert "Traceback" not in err
        return out if found != EXIT_REFUSED else err

    def json(self, *arguments, code=0):
        return json.loads(self.main(*arguments, "--json", code=code))

    def run(self, *more, code=0):
        return self.json("run", "--config", self.config, *more, code=code)

    def stale(self, *more, code=0):
        return self.json("stale", "--config", self.config, *more, code=code)

    def rows(self, *columns, where=None):
        return lance_io.scan(self.store, "training_data", ["uuid", *columns], where).to_pylist()


def new_region(root):
    return mini_region.make(root, background_near_ratio=0.0, background_far_ratio=0.0)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A region whose store is built once and copied for every test."""
    region = new_region(tmp_path_factory.mktemp("lineage") / "region")
    drivers.run("build", region.settings)
    return region


@pytest.fixture
def lineage(built, tmp_path, capsys):
    shutil.copytree(built.settings["store"], tmp_path / "lancedb")
    return Lineage(built, tmp_path, capsys)


@pytest.fixture
def edited(monkeypatch):
    """Replaces a piece of one module's source, as recipes see it."""
    real = CodeBase.source

    def change(module, old, new):
        assert old in real(CodeBase(), module)
        monkeypatch.setattr(
            CodeBase,
            "source",
            lambda self, name: real(self, name).replace(old, new) if name == module else real(self, name),
        )
        code_hash.forget()

    yield change
    monkeypatch.undo()
    code_hash.forget()


def test_nothing_is_stale_after_a_run(lineage):
    found = lineage.stale()
    assert (found["stale"], found["kept"], found["groups"]) == (0, 0, [])
    assert found["rows"] == len(lineage.rows())
    assert "0 of" in lineage.main("stale", "--config", lineage.config)


def test_a_helper_makes_a_stage_and_those_after_it_stale_and_only_stale_mends_it(lineage, edited):
    before = {row["uuid"]: row["created_at"] for row in lineage.rows("created_at")}
    edited("utils.quality", "def mask_score(", "def mask_score(*_nothing: object, ")
    found = lineage.stale("--limit", "2", code=STALE)
    assert found["stages"] == {"image": 0, "mask": len(before), "index": len(before)}
    [group] = found["groups"]
    [mask, index] = group["stages"]
    assert mask["code"] == [["utils.quality.mask_score", "changed"]]
    assert index["code"] == []
    assert index["reasons"] == ["it builds on the stage mask, which is stale"]
    assert [row["stages"] for row in found["uuids"]] == [["mask", "index"]] * 2
    text = lineage.main("stale", "--config", lineage.config, code=STALE)
    assert "code utils.quality.mask_score: changed" in text
    assert "run --only-stale" in text
    assert lineage.run()["chips_written"] == 0, "a run without --only-stale skips rows whatever their recipe"
    plan = lineage.json("plan", "--config", lineage.config, "--only-stale")
    assert (plan["pending"], plan["stale"]) == (len(before), {"kept": 0, "not_planned": 0})
    done = lineage.run("--only-stale")
    assert (done["chips_written"], done["stale"], done["stale_kept"]) == (len(before), 0, 0)
    assert lineage.stale()["stale"] == 0
    after = {row["uuid"]: row["created_at"] for row in lineage.rows("created_at")}
    assert after.keys() == before.keys()
    assert all(after[uuid] > before[uuid] for uuid in before)
    assert lineage.run("--only-stale")["chips_written"] == 0


def test_text_and_unrelated_code_make_nothing_stale(lineage, edited):
    edited(
        "utils.quality",
        "def mask_score(",
        "\n\n# a comment\ndef _unrelated() -> int:\n    return 1\n\n\ndef mask_score(",
    )
    assert lineage.stale()["stale"] == 0


def test_a_setting_is_named_with_both_values(lineage):
    found = lineage.stale("--set", "point_box_m=20", code=STALE)
    assert found["groups"][0]["stages"][0]["settings"] == {"point_box_m": [15.0, 20.0]}
    assert lineage.stale("--set", "commit_every=5", "--set", "vhr_acquired=2023-06-14")["stale"] == 0
    done = lineage.run("--only-stale", "--set", "point_box_m=20")
    assert (done["chips_written"], done["stale"]) == (done["chips_planned"], 0)
    assert lineage.stale(code=STALE)["stale"] == found["stale"]


def test_nothing_new_is_made(lineage, edited):
    one, *others = lineage.rows()
    lance_io.delete(lineage.store, "training_data", [one["uuid"]])
    assert lineage.run("--only-stale")["chips_written"] == 0
    edited("utils.quality", "def mask_score(", "def mask_score(*_nothing: object, ")
    done = lineage.run("--only-stale")
    assert (done["chips_written"], done["chips_planned"]) == (len(others), len(others))
    assert {row["uuid"] for row in lineage.rows()} == {row["uuid"] for row in others}
    assert lineage.run()["chips_written"] == 1


def test_masks_a_person_saw_are_kept_and_counted(lineage, edited):
    seen = [row["uuid"] for row in lineage.rows()][:2]
    for uuid, source in zip(seen, ("gold", "reviewed"), strict=True):
        lance_io.mark(lineage.store, "training_data", [uuid], {"mask_source": f"'{source}'"})
    before = {row["uuid"]: row["mask_recipe"] for row in lineage.rows("mask_recipe")}
    edited("utils.quality", "def mask_score(", "def mask_score(*_nothing: object, ")
    found = lineage.stale(code=STALE)
    assert (found["stale"], found["kept"]) == (len(before) - 2, 2)
    text = lineage.main("run", "--config", lineage.config, "--only-stale")
    assert "nothing is stale any more" in text
    assert "2 rows of other recipes keep their mask" in text
    after = {row["uuid"]: row["mask_recipe"] for row in lineage.rows("mask_recipe")}
    assert {uuid for uuid in before if before[uuid] == after[uuid]} == set(seen)
    assert lineage.stale()["kept"] == 2


def test_rows_the_plan_does_not_ask_for_stay_stale_and_are_counted(lineage, edited):
    edited("utils.quality", "def mask_score(", "def mask_score(*_nothing: object, ")
    row = lineage.rows("footprint")[0]
    west, south, east, north = shapely.from_wkb(row["footprint"]).buffer(-1e-5).bounds
    area = ["--set", f"aoi_bbox_lonlat=[{west}, {south}, {east}, {north}]"]
    planned = lineage.json("plan", "--config", lineage.config, "--only-stale", *area)
    assert 0 < planned["pending"] < len(lineage.rows())
    assert planned["stale"]["not_planned"] == len(lineage.rows()) - planned["pending"]
    done = lineage.run("--only-stale", *area)
    assert done["stale"] == planned["stale"]["not_planned"]
    assert lineage.run("--only-stale")["stale"] == 0


def test_a_killed_run_goes_on(lineage, edited, monkeypatch):
    edited("utils.quality", "def mask_score(", "def mask_score(*_nothing: object, ")
    real, reads, rows = LocalImagery.read, [], len(lineage.rows())

    def stopped(*arguments, **more):
        reads.append(1)
        # each chip is read twice; this is the last of all
        if len(reads) == 2 * rows:
            raise KeyboardInterrupt
        return real(*arguments, **more)

    monkeypatch.setattr(LocalImagery, "read", stopped)
    first = lineage.run("--only-stale", code=130)
    monkeypatch.setattr(LocalImagery, "read", real)
    assert 0 < first["chips_written"] < rows
    second = lineage.run("--only-stale")
    assert first["chips_written"] + second["chips_written"] == rows
    assert lineage.stale()["stale"] == 0


@pytest.mark.parametrize(("year", "held_back"), [(2001, 0), (2100, 1)])
def test_a_failure_the_row_has_overcome_does_not_hold_it_back(lineage, edited, year, held_back):
    """Rows of ``errors`` with the same inputs, from before the row was made and from after."""
    row = lineage.rows("input_set", "build_config", "run_id")[0]
    error = row | {
        "error_id": "e1", "partition": None, "node": "n", "error_type": "MaskError", "message": "m",
        "traceback_hash": "", "input_ids": [], "attempt": 1, "occurred_at": datetime(year, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    lance_io.write(lineage.store, "errors", pa.Table.from_pylist([error], schema=ERRORS))
    plan = ["plan", "--config", lineage.config, "--only-stale"]
    assert lineage.json(*plan)["failed_before"] == 0
    edited("utils.quality", "def mask_score(", "def mask_score(*_nothing: object, ")
    planned = lineage.json(*plan)
    assert (planned["failed_before"], planned["pending"]) == (held_back, len(lineage.rows()) - held_back)
    assert lineage.json(*plan, "--retry-errors")["pending"] == len(lineage.rows())


class Weighted(ClassicalBackend):
    """The classical backend with a file it says it loads."""

    def __init__(self, checkpoint, **options):
        super().__init__(**options)

    @classmethod
    def weights_files(cls, **options):
        return {"checkpoint": str(options["checkpoint"])}


def test_other_weights_make_masks_stale(tmp_path, capsys, monkeypatch):
    real = mask_backends._class
    monkeypatch.setattr(mask_backends, "_class", lambda name: Weighted if name == "weighted" else real(name))
    monkeypatch.setitem(mask_backends._BACKENDS, "weighted", "dataflows.mask_backends.classical:ClassicalBackend")
    file = tmp_path / "weights.pt"
    file.write_bytes(b"one")
    made = Lineage(new_region(tmp_path / "region"), tmp_path, capsys)
    options = ["--set", "mask_backend=weighted", "--set", f"mask_options={{checkpoint: {file}}}"]
    made.run(*options)
    assert made.stale(*options)["stale"] == 0
    chain = made.json("explain", made.rows()[0]["uuid"], "--store", made.store)
    assert chain["run"]["inputs"]["weights"] == {"checkpoint": sha256(b"one").hexdigest()}
    file.write_bytes(b"another")
    found = made.stale(*options, code=STALE)
    assert found["stages"]["image"] == 0
    assert "weights: checkpoint" in found["groups"][0]["stages"][0]["reasons"][0]
    assert made.run(*options, "--only-stale")["stale"] == 0
    assert made.stale(*options)["stale"] == 0
    file.unlink()
    assert "weights of the mask backend" in made.main("stale", "--config", made.config, *options, code=EXIT_REFUSED)


class TestStaleElsewhere:
    """Stores and settings that are not as expected get an answer."""

    def test_settings_of_the_newest_run(self, lineage, edited, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        found = lineage.json("stale", "--store", lineage.store)
        assert (found["stale"], found["settings_of"].startswith("run ")) == (0, True)
        edited("utils.scl", "def clear_pixels(", "def clear_pixels(*_nothing: object, ")
        found = lineage.json("stale", "--store", lineage.store, code=STALE)
        assert found["stages"] == {"image": 0, "mask": 0, "index": found["rows"]}
        assert "--config" in lineage.main("stale", "--store", lineage.store, "--set", "gsd_m=1", code=EXIT_REFUSED)

    def test_a_store_of_the_first_schema_version(self, lineage, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        store = shutil.copytree(FROZEN, tmp_path / "v1")
        found = lineage.json("stale", "--store", store, "--limit", "1", code=STALE)
        assert (found["stale"], found["rows"], found["schema_version"]) == (60, 60, 1)
        assert found["groups"][0]["stages"][0]["code"]
        text = lineage.main("stale", "--store", store, code=STALE)
        assert "schema version 1" in text
        assert "recorded by module" in text
        refused = lineage.main("run", "--config", lineage.config, "--store", store, "--only-stale", code=EXIT_REFUSED)
        assert "SchemaError" in refused
        uuid = found["uuids"][0]["uuid"]
        chain = lineage.json("explain", uuid, "--store", store)
        assert chain["stale"]["stages"] == {"image": True, "mask": True, "index": True}
        assert lineage.main("explain", uuid, "--store", store)

    def test_an_empty_place(self, lineage, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert "--config" in lineage.main("stale", "--store", tmp_path / "no", code=EXIT_REFUSED)
        assert lineage.stale("--store", tmp_path / "no")["rows"] == 0
        assert lineage.run("--store", tmp_path / "no", "--only-stale")["chips_planned"] == 0

    def test_a_run_whose_row_is_gone(self, lineage, edited, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        [run_id] = {row["run_id"] for row in lineage.rows("run_id")}
        lance_io.delete(lineage.store, "runs", [run_id])
        edited("utils.scl", "def clear_pixels(", "def clear_pixels(*_nothing: object, ")
        [group] = lineage.stale(code=STALE)["groups"]
        assert group["started_at"] is None
        assert "no row in `runs`" in group["stages"][0]["reasons"][0]
        uuid = lineage.rows()[0]["uuid"]
        text = lineage.main("explain", uuid, "--store", lineage.store)
        assert "no row in `runs`" in text
        assert "stale today: unknown" in text
        known = lineage.json("explain", uuid, "--store", lineage.store, "--config", lineage.config)
        assert known["stale"]["stages"] == {"image": False, "mask": False, "index": True}
        assert "run unknown" in lineage.main("explain", uuid, "--store", lineage.store, "--format", "mermaid")
        other = lineage.json("explain", uuid, lineage.rows()[1]["uuid"], "--store", lineage.store)
        assert len(other["unknown"]) == 2


NODE = re.compile(r'(\w+)(\(\["|\[\("|\[\["|\{\{"|\[")([^"]*)("\]\)|"\)\]|"\]\]|"\}\}|"\]):::(\w+)')
EDGE = re.compile(r"(\w+) --> (\w+)")
CLASS = re.compile(r"classDef (\w+) [\w:#,\- ]+")
CLOSING = {'(["': '"])', '[("': '")]', '[["': '"]]', '{{"': '"}}', '["': '"]'}
RESERVED = {"end", "graph", "flowchart", "subgraph", "class", "click", "style", "default", "call", "href", "linkStyle"}


def parsed(text):
    """Nodes and edges of the Mermaid we write; anything else is refused."""
    first, *lines = text.splitlines()
    assert first == "flowchart LR"
    nodes, edges, classes, styles = {}, [], set(), set()
    for line in (line.strip() for line in lines):
        if node := NODE.fullmatch(line):
            name, left, words, right, style = node.groups()
            assert CLOSING[left] == right
            assert name not in nodes
            assert name not in RESERVED
            assert not set(re.sub(r"<br/>", "", words)) & set('<>"`\\')
            assert re.fullmatch(r"(?:[^#&;]|#(?:\w+|\d+);|;)*", words), words
            nodes[name] = words
            styles.add(style)
        elif edge := EDGE.fullmatch(line):
            edges.append(edge.groups())
        else:
            found = CLASS.fullmatch(line)
            assert found, line
            classes.add(found.group(1))
    assert styles <= classes
    assert {name for edge in edges for name in edge} <= nodes.keys()
    return nodes, edges


def test_explain_as_mermaid_leads_from_label_and_scene_to_the_chip(lineage):
    uuid = lineage.rows(where="n_accepted > 0")[0]["uuid"]
    nodes, edges = parsed(lineage.main("explain", uuid, "--store", lineage.store, "--format", "mermaid"))
    assert {"chip", "label0", "prompt0", "mask0", "scene0", "run", "image", "mask", "index"} <= nodes.keys()
    path = [("label0", "prompt0"), ("prompt0", "mask0"), ("mask0", "chip"), ("scene0", "chip"), ("index", "chip")]
    assert {*path, ("run", "image"), ("image", "mask"), ("mask", "index")} <= set(edges)


@pytest.mark.parametrize(
    "name", ['a "quoted" <b>name</b>', "x#y;z`&amp;", "end", "ключ → 面", "a\nb\\n", "]) --> chip"]
)
def test_mermaid_holds_any_text(lineage, name):
    from dataflows.chain_mermaid import mermaid_chain
    from store.chains import explain

    chain = explain(lineage.store, lineage.rows(where="n_accepted > 0")[0]["uuid"])
    for prompt in chain["prompts"]:
        prompt["label_id"] = name
    for scene in chain["scenes"]:
        scene["scene_id"] = name
    nodes, _ = parsed(mermaid_chain(chain))
    assert nodes["label0"].startswith("label ")


class TestExplain:
    """One chip or mask, and why two differ."""

    def test_text_says_inputs_and_staleness(self, lineage, edited):
        uuid = lineage.rows(where="n_accepted > 0")[0]["uuid"]
        text = lineage.main("explain", uuid[:12], "--store", lineage.store)
        assert "stale today, under the settings of its run" in text
        assert "weights: none" in text
        assert "definitions in" in text
        assert all(f"{stage}: no" in text for stage in ("image", "mask", "index"))
        edited("utils.scl", "def clear_pixels(", "def clear_pixels(*_nothing: object, ")
        chain = lineage.json("explain", uuid, "--store", lineage.store)
        assert chain["stale"]["stages"] == {"image": False, "mask": False, "index": True}
        assert "code utils.scl.clear_pixels: changed" in chain["stale"]["why"]["index"]
        assert chain["run"]["inputs"]["tables"] == {}
        assert chain["run"]["inputs"]["weights"] is None

    def test_table_versions_are_those_the_run_found(self, lineage):
        found = {name: lance_io.open_table(lineage.store, name).version for name in lance_io.table_names(lineage.store)}
        lineage.run("--set", "point_box_m=20")
        chain = lineage.json("explain", lineage.rows()[0]["uuid"], "--store", lineage.store)
        assert chain["run"]["inputs"]["tables"] == found

    def test_the_same_chip_at_two_versions(self, lineage):
        uuid = lineage.rows(where="n_accepted > 0")[0]["uuid"]
        version = lance_io.open_table(lineage.store, "training_data").version
        lineage.run("--set", "thresholds={max_area_m2: 2.0}")
        asked = [f"{uuid}@{version}", uuid, "--store", lineage.store]
        found = lineage.json("explain", *asked)
        kinds = {row["what"] for row in found["differences"]}
        assert found["pixels_differ"] > 0
        assert {"settings", "recipe", "masks"} <= kinds
        assert not kinds & {"labels", "scenes", "code", "packages", "weights", "generation", "backend", "chip"}
        [setting] = [row for row in found["differences"] if row["what"] == "settings"]
        assert (setting["name"], setting["first"], setting["second"]) == ("thresholds", {}, {"max_area_m2": 2.0})
        text = lineage.main("explain", *asked)
        assert text.index("pixels:") < text.index("settings") < text.index("masks")
        # the older side is as it stood: its own prompts and masks
        old = lineage.json("explain", asked[0], "--store", lineage.store)
        assert (len(old["prompts"]), old["masks"][0]["verdict"]) == (1, "accept")

    def test_nothing_recorded_differs(self, lineage):
        uuid = lineage.rows(where="n_accepted > 0")[0]["uuid"]
        text = lineage.main("explain", uuid, uuid[:10], "--store", lineage.store)
        assert text.index("are equal") < text.index("nothing recorded differs")

    def test_code_that_changed_between_two_versions(self, lineage, edited):
        uuid = lineage.rows(where="n_accepted > 0")[0]["uuid"]
        version = lance_io.open_table(lineage.store, "training_data").version
        edited("utils.quality", "def mask_score(", "def mask_score(*_nothing: object, ")
        lineage.run("--only-stale")
        text = lineage.main("explain", f"{uuid}@{version}", uuid, "--store", lineage.store)
        assert "pixels: all 65536 are equal" in text
        assert "mask: utils.quality.mask_score: changed" in text

    def test_two_masks_of_one_prompt(self, lineage):
        lineage.run("--set", "mask_options={own_colours: 3}")
        rows = lance_io.scan(lineage.store, "masks", ["mask_id", "prompt_id", "run_id"]).to_pylist()
        prompt = rows[0]["prompt_id"]
        one, two = sorted(row["mask_id"] for row in rows if row["prompt_id"] == prompt)
        found = lineage.json("explain", one, two, "--store", lineage.store)
        assert {row["what"] for row in found["differences"]} <= {"settings", "masks"}
        assert "settings" in {row["what"] for row in found["differences"]}
        chain = lineage.json("explain", one, "--store", lineage.store)
        assert chain["stale"]["stages"].keys() == {"mask"}
        parsed(lineage.main("explain", one, "--store", lineage.store, "--format", "mermaid"))

    def test_two_chips_and_two_stores(self, lineage, tmp_path):
        one, two = (row["uuid"] for row in lineage.rows()[:2])
        kinds = {row["what"] for row in lineage.json("explain", one, two, "--store", lineage.store)["differences"]}
        assert "chip" in kinds
        lineage.run("--store", tmp_path / "second")
        both = ["explain", one, one, "--store", lineage.store, "--other-store", tmp_path / "second"]
        found = lineage.json(*both)
        assert (found["pixels_differ"], found["differences"], found["unknown"]) == (0, [], [])

    def test_scenes_and_labels_that_changed(self, tmp_path, capsys):
        made = Lineage(new_region(tmp_path / "region"), tmp_path, capsys)
        made.run()
        version = lance_io.open_table(made.store, "training_data").version
        x, y, w, h = mini_region.PV[0]
        box = shapely.box(x + 1, y + 1, x + w, y + h)
        moved = reproject(shapely.affinity.translate(box, mini_region.LEFT, mini_region.BOTTOM), mini_region.EPSG, 4326)
        mini_region.change(made.region, f"UPDATE lake.pv SET geometry = ST_GeomFromText('{moved.wkt}') WHERE id = '0'")
        for path in made.region.vhr_tiles:
            with rasterio.open(path, "r+") as raster:
                raster.write(255 - raster.read())
        made.run()
        found = {}
        for row in made.rows():
            answer = made.json("explain", f"{row['uuid']}@{version}", row["uuid"], "--store", made.store)
            for difference in answer["differences"]:
                found.setdefault(difference["what"], set()).add(difference["name"])
        assert {"vhr west", "vhr east"} <= found["scenes"]
        assert found["labels"] == {"pv/0"}
        assert found["snapshot"]
        assert "code" not in found

    def test_labels_from_files(self, built, tmp_path, capsys):
        from store import ducklake

        made = Lineage(built, tmp_path, capsys)
        file = tmp_path / "labels.parquet"
        with ducklake.connect(made.region.settings["catalog"]) as connection:
            connection.execute(f"COPY (SELECT id, ST_AsText(geometry) AS geometry FROM lake.pv) TO '{file}'")
        settings = made.settings | {"labels": [{"file": str(file), "id": "id", "geometry": "geometry"}]}
        del settings["catalog"]
        made.config.write_text(yaml.safe_dump(settings))
        made.run()
        assert made.stale()["stale"] == 0
        uuid = made.rows(where="n_accepted > 0")[0]["uuid"]
        assert "labels.parquet" in made.main("explain", uuid, "--store", made.store)
        parsed(made.main("explain", uuid, "--store", made.store, "--format", "mermaid"))
        assert made.json("explain", uuid, uuid, "--store", made.store)["differences"] == []

    def test_a_run_that_was_killed(self, lineage):
        [run_id] = {row["run_id"] for row in lineage.rows("run_id")}
        lance_io.mark(lineage.store, "runs", [run_id], {"status": "'running'", "counts": "NULL", "finished_at": "NULL"})
        uuid = lineage.rows()[0]["uuid"]
        assert "or killed: no end is recorded" in lineage.main("explain", uuid, "--store", lineage.store)
        assert lineage.stale()["stale"] == 0

    def test_refused(self, lineage):
        store = ["--store", lineage.store]
        uuid = lineage.rows()[0]["uuid"]
        refused = {"code": EXIT_REFUSED}
        assert "version 999" in lineage.main("explain", f"{uuid}@999", *store, **refused)
        assert "'gone'" in lineage.main("explain", f"{uuid}@gone", *store, **refused)
        assert "no chip, no mask and no detection" in lineage.main("explain", uuid, "ffffffffffff", *store, **refused)
        assert "compared as text" in lineage.main("explain", uuid, uuid, *store, "--format", "mermaid", **refused)
        assert "--other-store" in lineage.main("explain", uuid, *store, "--other-store", "x", **refused)
        assert "no settings at" in lineage.main("explain", uuid, *store, "--config", "nowhere.yaml", **refused)

    def test_an_id_that_begins_a_chip_and_a_mask(self, lineage):
        chip = lineage.rows()[0]["uuid"]
        masks = lance_io.open_table(lineage.store, "masks").to_table().slice(0, 1)
        same = masks.set_column(0, masks.schema.field(0), pa.array([f"{chip[:20]}-mask"]))
        lance_io.write(
            lineage.store, "masks", same, profile=profile_of(lance_io.open_table(lineage.store, "training_data").schema)
        )
        refused = lineage.main("explain", chip[:18], "--store", lineage.store, code=EXIT_REFUSED)
        assert "a chip and a mask" in refused
        assert json.loads(lineage.main("explain", chip, "--store", lineage.store, "--json"))["chip"]["uuid"] == chip
