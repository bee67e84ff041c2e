"""Generations of masks through the command line: the same prompts, other options, nothing else touched."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import rasterio
import shapely

from dataflows import drivers, report
from dataflows.__main__ import main
from dataflows.config import from_mapping
from dataflows.generation_plan import plan_generation
from store import generations, lance_io
from store.calibration_files import calibration_at, write_calibration
from support import mini_region
from support.kill_points import Kill, Point
from support.killed_runs import moved, settings_file, small_region
from support.run_process import RunProcess
from utils.geo import reproject
from utils.mask_comparison import mask_pair
from utils.quality import iou

CHANGED = ("--backend", "classical", "--set", "mask_options={bias: 3, smooth_m: 0.6}")
WRITE = "CommitBuffer.flush > write masks"
MERGE = "write_chosen masks > MergeInsertBuilder.execute"
MASKS = [
    "mask_id",
    "prompt_id",
    "uuid",
    "generation",
    "backend",
    "mask_recipe",
    "verdict",
    "score",
    "quality",
    "mask",
    "scores",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A region of a dozen partitions, built once."""
    root = tmp_path_factory.mktemp("generations")
    region = small_region(root / "region")
    assert main(["run", "--config", str(settings_file(region)), "--json"]) == 0
    return region


@pytest.fixture
def region(built, tmp_path):
    """The built region with a store of its own."""
    store = tmp_path / "store"
    shutil.copytree(built.settings["store"], store)
    return mini_region.MiniRegion(built.root, {**built.settings, "store": str(store)})


@pytest.fixture(scope="module")
def second(built, tmp_path_factory):
    """The built region with a second generation, to look at."""
    store = tmp_path_factory.mktemp("second") / "store"
    shutil.copytree(built.settings["store"], store)
    region = mini_region.MiniRegion(built.root, {**built.settings, "store": str(store)})
    assert main(command(region, *CHANGED, "--json")) == 0
    return region


def command(region, *more, name="masks"):
    return [name, "--config", str(region.root / "flow.json"), "--store", region.settings["store"], *more]


def made(region, capsys, *more, code=0):
    """What ``masks --json`` printed."""
    capsys.readouterr()
    assert main(command(region, *more, "--json")) == code
    return json.loads(capsys.readouterr().out)


def masks(region, where=None):
    return lance_io.scan(region.settings["store"], "masks", MASKS, where).sort_by("mask_id").to_pylist()


def versions(region, *tables):
    return [lance_io.open_table(region.settings["store"], table).version for table in tables]


def pixels(data):
    return np.zeros(64 * 64, bool) if data is None else np.frombuffer(data, np.uint8) > 0


class TestNewGeneration:
    def test_it_is_appended_and_nothing_else_is_touched(self, region, capsys):
        before, tables = masks(region), versions(region, "training_data", "prompts", "scenes", "splits")
        done = made(region, capsys, *CHANGED)
        assert (done["status"], done["generation"], done["backend"]) == ("done", 1, "classical")
        assert versions(region, "training_data", "prompts", "scenes", "splits") == tables
        assert masks(region, "generation = 0") == before
        new = masks(region, "generation = 1")
        assert sorted((row["prompt_id"], row["uuid"]) for row in new) == sorted(
            (row["prompt_id"], row["uuid"]) for row in before
        )
        assert done["masks_written"] == len(new) == sum(done["masks"].values()) > 10
        assert {row["mask_recipe"] for row in new} == {done["mask_recipe"]}
        assert {row["mask_recipe"] for row in before} != {done["mask_recipe"]}

    def test_agreement_is_the_iou_with_the_first_mask(self, second, capsys):
        first = {(row["prompt_id"], row["uuid"]): row for row in masks(second, "generation = 0")}
        found = []
        for row in masks(second, "generation = 1"):
            other = first[row["prompt_id"], row["uuid"]]
            wanted = iou(pixels(row["mask"]), pixels(other["mask"]))
            found.append(dict(row["scores"])["agreement"])
            assert found[-1] == pytest.approx(wanted, abs=1e-6)
        assert min(found) < 0.9 < max(found)
        assert all("agreement" not in dict(row["scores"]) for row in first.values())

    def test_the_same_again_makes_nothing(self, region, capsys):
        made(region, capsys, *CHANGED)
        before, tables = masks(region), versions(region, "masks", "runs")
        again = made(region, capsys, *CHANGED)
        assert (again["generation"], again["chips_pending"], again["masks_written"]) == (1, 0, 0)
        assert again["chips_skipped"] == again["chips"] > 5
        assert masks(region) == before
        assert versions(region, "masks", "runs") == tables

    def test_the_settings_of_the_build_have_their_masks_already(self, region, capsys):
        before = masks(region)
        done = made(region, capsys)
        assert (done["chips_pending"], done["chips_skipped"]) == (0, done["chips"])
        assert masks(region) == before

    def test_each_recipe_has_its_number(self, region, capsys):
        assert made(region, capsys, *CHANGED)["generation"] == 1
        assert made(region, capsys, "--set", "thresholds={accept: 0.9}")["generation"] == 2
        assert made(region, capsys, *CHANGED)["generation"] == 1
        stated = {row.generation: row for row in generations.generations(region.settings["store"])}
        assert sorted(stated) == [0, 1, 2]

    def test_only_chips_that_are_asked_for(self, region, capsys):
        one = masks(region)[0]["uuid"]
        done = made(region, capsys, *CHANGED, "--where", f"uuid = '{one}'")
        assert (done["chips"], {row["uuid"] for row in masks(region, "generation = 1")}) == (1, {one})
        rest = made(region, capsys, *CHANGED)
        assert (rest["generation"], rest["chips_skipped"]) == (1, 1)
        assert len(masks(region, "generation = 1")) == len(masks(region, "generation = 0"))

    def test_the_run_says_what_it_was(self, region, capsys):
        done = made(region, capsys, *CHANGED)
        where = f"run_id = '{done['run_id']}'"
        [run] = lance_io.scan(
            region.settings["store"], "runs", ["flow", "status", "inputs", "recipes", "config", "counts"], where
        ).to_pylist()
        inputs = json.loads(run["inputs"])
        assert (run["flow"], run["status"], inputs["generation"], inputs["weights"]) == ("masks", "done", 1, None)
        assert set(inputs["scenes"]["vhr"]) == {"east", "west"}
        assert json.loads(run["recipes"])["mask"] == done["mask_recipe"]
        assert json.loads(run["config"])["mask_options"] == {"bias": 3, "smooth_m": 0.6}
        assert json.loads(run["counts"])["masks_written"] == done["masks_written"]

    def test_explain_knows_a_mask_of_it(self, second, capsys):
        one, first = (masks(second, f"generation = {number}")[0] for number in (1, 0))
        store = second.settings["store"]
        assert main(["explain", one["mask_id"], "--store", store, "--json"]) == 0
        chain = json.loads(capsys.readouterr().out)
        assert (chain["mask"]["generation"], chain["run"]["flow"], len(chain["prompts"])) == (1, "masks", 1)
        assert [scene["kind"] for scene in chain["scenes"] if scene["kind"] == "vhr"]
        assert chain["datasets"] == {"pv": chain["datasets"]["pv"]}
        assert chain["stale"]["stages"] == {"mask": False}
        assert main(["explain", one["mask_id"], "--store", store]) == 0
        assert "generation 1" in capsys.readouterr().out
        # a chip's own chain is that of the generation its mask was made from
        assert main(["explain", first["uuid"], "--store", store, "--json"]) == 0
        chip = json.loads(capsys.readouterr().out)
        assert {mask["generation"] for mask in chip["masks"]} == {0}
        assert main(["explain", first["mask_id"], one["mask_id"], "--store", store, "--json"]) == 0
        causes = {found["what"] for found in json.loads(capsys.readouterr().out)["differences"]}
        assert {"settings", "generation"} <= causes

    def test_the_report_against_truth_is_that_of_the_build(self, region, capsys, tmp_path):
        truth = written_truth(tmp_path, mini_region.pv_boxes())
        before = report.truth_scores(region.settings["store"], truth)
        made(region, capsys, *CHANGED)
        assert report.truth_scores(region.settings["store"], truth) == before

    def test_the_list(self, second, capsys):
        assert main(["masks", "--list", "--store", second.settings["store"], "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [row["generation"] for row in found] == [0, 1]
        for row in found:
            rows = masks(second, f"generation = {row['generation']}")
            assert row["masks"] == len(rows) == sum(row["verdicts"].values())
            assert row["mean_score"] == pytest.approx(np.mean([mask["score"] for mask in rows]))
            assert row["mean_quality"] == pytest.approx(np.mean([mask["quality"] for mask in rows]))
            assert row["calibrations"] == []
        assert main(["masks", "--list", "--store", second.settings["store"]]) == 0
        text = capsys.readouterr().out
        assert all(row["mask_recipe"] in text for row in found)


class TestSameImage:
    def test_chips_and_prompts_are_to_the_last_bit_those_of_the_build(self, tmp_path):
        """Three tiles of one day that overlap: pixels with halo, order of scenes and prompts in UTM, all equal."""
        region = mini_region.make(tmp_path / "region", chip_px=64, halo_px=16, msi_px=16, margin_share=0.07)
        _overlapping(region)
        config = from_mapping(region.settings)
        build = drivers.plan_build(config)
        assert drivers.run("build", region.settings).chips_failed == 0
        driver = drivers.build_driver("masks", config)
        scenes = driver.execute(["vhr_scenes"])["vhr_scenes"]
        plan = plan_generation(config, scenes, mask_recipe="other", generation=1)
        labelled = build.chips.filter(pa.compute.equal(build.chips["chip_role"], "labelled")).sort_by("uuid")
        assert plan.pending["uuid"].to_pylist() != []
        assert sorted(plan.pending["uuid"].to_pylist()) == labelled["uuid"].to_pylist()
        for name in ("prompt_id", "utm_geometry", "geometry", "kind", "clipped"):
            both = [table.sort_by("prompt_id")[name].to_pylist() for table in (plan.prompts, build.prompts)]
            assert both[0] == both[1], name
        assert plan.prompts.column_names == build.prompts.column_names
        again = driver.execute(["vhr_chips"], inputs={"chip_plan": plan.pending})["vhr_chips"]
        was = drivers.build_driver("build", config).execute(
            ["vhr_chips"], inputs={"since_snapshot": None}, overrides={"chip_plan": labelled}
        )["vhr_chips"]
        assert set(again) == set(was)
        several = 0
        for uuid, chip in again.items():
            np.testing.assert_array_equal(chip.data, was[uuid].data)
            np.testing.assert_array_equal(chip.valid, was[uuid].valid)
            assert chip.grid == was[uuid].grid
            several += len(chip.scene_ids) > 1
        assert several >= 2

    def test_prompts_the_settings_no_longer_lead_to_are_those_of_the_store(self, built):
        """Another margin in the settings does not move what was asked; longitude and latitude lead to 10 nm."""
        config = from_mapping({**built.settings, "margin_share": 0.2})
        scenes = drivers.build_driver("masks", config).execute(["vhr_scenes"])["vhr_scenes"]
        found = plan_generation(config, scenes, mask_recipe="other", generation=1).prompts.sort_by("prompt_id")
        same = drivers.build_driver("masks", from_mapping(built.settings)).execute(["vhr_scenes"])["vhr_scenes"]
        wanted = plan_generation(from_mapping(built.settings), same, mask_recipe="other", generation=1).prompts
        for one, two in zip(found.to_pylist(), wanted.sort_by("prompt_id").to_pylist(), strict=True):
            both = [shapely.get_coordinates(shapely.from_wkb(row["utm_geometry"])) for row in (one, two)]
            np.testing.assert_allclose(both[0], both[1], rtol=0, atol=1e-8)

    def test_imagery_that_changed_is_an_error_and_no_mask(self, region, built, capsys, tmp_path):
        moved_root = tmp_path / "imagery"
        shutil.copytree(built.root / "vhr", moved_root)
        _shifted(moved_root / "east.tif")
        vhr = json.dumps({**region.settings["vhr"], "root": str(moved_root)})
        done = made(region, capsys, *CHANGED, "--set", f"vhr={vhr}", code=3)
        assert (done["status"], done["chips_failed"] > 0, done["chips_made"] > 0) == ("failed", True, True)
        rows = lance_io.scan(region.settings["store"], "errors", ["error_type", "node", "uuid", "message"]).to_pylist()
        assert {(row["error_type"], row["node"]) for row in rows} == {("ImageryChangedError", "changed_imagery")}
        assert len(rows) == done["chips_failed"]
        assert "pixels than when it was made" in rows[0]["message"]
        assert not {row["uuid"] for row in rows} & {row["uuid"] for row in masks(region, "generation = 1")}
        again = made(region, capsys, *CHANGED, "--set", f"vhr={vhr}", code=3)
        assert (again["chips_failed_before"], again["chips_pending"]) == (done["chips_failed"], 0)
        healed = made(region, capsys, *CHANGED, "--retry-errors")
        assert (healed["chips_failed"], healed["chips_made"]) == (0, done["chips_failed"])
        assert len(masks(region, "generation = 1")) == len(masks(region, "generation = 0"))

    def test_scenes_that_are_gone_are_errors(self, region, built, capsys, tmp_path):
        folder = tmp_path / "imagery"
        folder.mkdir()
        shutil.copy(built.root / "vhr" / "west.tif", folder)
        vhr = json.dumps({**region.settings["vhr"], "root": str(folder)})
        done = made(region, capsys, *CHANGED, "--set", f"vhr={vhr}", code=3)
        rows = lance_io.scan(region.settings["store"], "errors", ["error_type", "input_ids", "uuid"]).to_pylist()
        assert {(row["error_type"], *row["input_ids"]) for row in rows} == {("NoImageryError", "east")}
        assert done["chips_failed"] == len(rows) > 0
        assert len({row["uuid"] for row in masks(region, "generation = 1")}) == done["chips_made"]


class TestLabelsThatGo:
    def test_later_generations_are_retired_with_their_label(self, tmp_path, capsys):
        region = small_region(tmp_path / "region")
        settings_file(region)
        assert main(command(region, "--json", name="run")) == 0
        made(region, capsys, *CHANGED)
        asked = {
            row["label_id"]: row["prompt_id"]
            for row in lance_io.scan(region.settings["store"], "prompts", ["label_id", "prompt_id"]).to_pylist()
        }
        mini_region.change(
            region, "DELETE FROM lake.pv WHERE id = '0'", moved("1", mini_region.pv_boxes()[1].buffer(3))
        )
        assert main(command(region, "--json", name="run")) == 0
        gone = masks(region, "retired_at IS NOT NULL")
        assert {row["generation"] for row in gone} == {0, 1}
        assert asked["pv/0"] in {row["prompt_id"] for row in gone}
        capsys.readouterr()
        again = made(region, capsys, *CHANGED)
        # the label that grew is another prompt on the same ids: its earlier answers no longer count
        assert (again["generation"], again["chips_made"] > 0) == (1, True)
        live = {row["prompt_id"] for row in masks(region, "generation = 1 AND retired_at IS NULL")}
        now = lance_io.scan(region.settings["store"], "prompts", ["prompt_id"], "retired_at IS NULL")
        assert live == set(now["prompt_id"].to_pylist())
        assert made(region, capsys, *CHANGED)["chips_pending"] == 0

    def test_a_label_that_went_while_masks_were_made(self, region, capsys):
        made(region, capsys, *CHANGED)
        store = region.settings["store"]
        one = masks(region, "generation = 1")[0]["prompt_id"]
        lance_io.mark(store, "prompts", [one], {"retired_at": "now()", "retired_snapshot": "7"})
        assert generations.retire_late(store) == 1
        assert generations.retire_late(store) == 0
        [row] = lance_io.scan(
            store, "masks", ["prompt_id", "generation", "retired_snapshot"], "retired_at IS NOT NULL"
        ).to_pylist()
        assert row == {"prompt_id": one, "generation": 1, "retired_snapshot": 7}


class TestRefused:
    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (("--backend", "nosuch"), "classical"),
            (("--where", "no_such_column = 1"), "no_such_column"),
            (("--set", "chip_px=32"), "profile"),
            (("--set", "mask_options={nosuch: 1}"), "nosuch"),
            (("--backend", "classical", "--set", "mask_backend=sam"), "--backend"),
        ],
    )
    def test_before_anything_is_written(self, region, capsys, more, words):
        tables = versions(region, "masks", "runs")
        assert main(command(region, *more)) == 2
        assert words in capsys.readouterr().err
        assert versions(region, "masks", "runs") == tables

    def test_without_a_store(self, region, capsys, tmp_path):
        assert main(["masks", "--config", str(region.root / "flow.json"), "--store", str(tmp_path / "none")]) == 2
        assert "TableNotFoundError" in capsys.readouterr().err
        assert main(["masks", "--list", "--store", str(tmp_path / "none")]) == 2
        assert not (tmp_path / "none").exists()


class TestComparison:
    def test_two_generations_against_the_measures_by_hand(self, region, capsys):
        made(region, capsys, *CHANGED)
        dropped = masks(region, "generation = 0")[0]
        lance_io.delete(region.settings["store"], "masks", [dropped["mask_id"]])
        found = compared(region, capsys, "0", "1", "--by", "size,gsd,kind,backend")
        sides = [
            {(row["prompt_id"], row["uuid"]): pixels(row["mask"]).reshape(64, 64) for row in masks(region, where)}
            for where in ("generation = 0", "generation = 1")
        ]
        both = sides[0].keys() & sides[1].keys()
        pairs = [mask_pair(sides[0][key], sides[1][key], pixel_m2=0.09) for key in both]
        kept = [pair for pair in pairs if not pair.both_empty]
        overall = found["overall"]
        assert (overall["pairs"], overall["only_first"], overall["only_second"]) == (len(kept), 0, 1)
        assert overall["iou"] == pytest.approx(np.mean([pair.iou for pair in kept]))
        assert overall["boundary_f1"] == pytest.approx(np.mean([pair.boundary.f1 for pair in kept]))
        assert overall["area_ratio"] == pytest.approx(
            sum(pair.first_m2 for pair in kept) / sum(pair.second_m2 for pair in kept)
        )
        assert 0.1 < overall["iou"] < 0.99
        counts = ("pairs", "one_empty", "both_empty", "only_first", "only_second")
        for groups in found["by"].values():
            for name in counts:
                assert sum(group[name] for group in groups.values()) == overall[name]
        assert list(found["by"]["gsd"]) == ["0.3 m"]
        assert set(found["by"]["backend"]) == {"classical / classical", "– / classical"}
        turned = compared(region, capsys, "1", "0")["overall"]
        assert turned["boundary_precision"] == pytest.approx(overall["boundary_recall"])
        assert (turned["only_first"], turned["iou"]) == (1, pytest.approx(overall["iou"]))

    def test_against_truth_every_mask_and_object_is_counted(self, second, capsys, tmp_path):
        background = lance_io.scan(
            second.settings["store"], "training_data", ["vhr_transform"], "chip_role != 'labelled'"
        ).to_pylist()
        left, top = (background[0]["vhr_transform"][number] for number in (2, 5))
        truth = written_truth(tmp_path, [shapely.box(left + 5, top - 12, left + 11, top - 6), *mini_region.pv_boxes()])
        found = compared(second, capsys, "0", "--truth", str(truth))
        rows = masks(second, "generation = 0")
        overall = found["overall"]
        assert overall["pairs"] + overall["both_empty"] + overall["only_first"] == len(rows)
        # labels of which the imagery shows nothing have no truth; a true object without a label has no mask
        assert overall["only_first"] >= 6
        lone = compared(second, capsys, "0", "--truth", str(written_truth(tmp_path, mini_region.pv_boxes())))
        assert overall["only_second"] == lone["overall"]["only_second"] + 1
        assert overall["iou"] == pytest.approx(lone["overall"]["iou"])
        assert overall["iou"] > 0.8
        accepted = compared(second, capsys, "classical", "--truth", str(truth), "--verdict", "accept")
        assert accepted["first"].startswith("generation 1")
        counted = accepted["overall"]
        assert counted["pairs"] + counted["only_first"] + counted["both_empty"] == len(
            masks(second, "generation = 1 AND verdict = 'accept'")
        )

    def test_its_mean_iou_of_accepted_masks_is_that_of_the_report(self, second, capsys, tmp_path):
        truth = written_truth(tmp_path, mini_region.pv_boxes())
        found = compared(second, capsys, "0", "--truth", str(truth), "--verdict", "accept")["overall"]
        scores = report.truth_scores(second.settings["store"], truth)
        assert found["pairs"] + found["only_first"] == scores.masks
        assert found["only_first"] == scores.false_accepts
        assert found["iou"] == pytest.approx(scores.mask_iou)

    def test_the_table(self, second, capsys):
        for unit, stated in (("px", "3 px"), ("m", "3 m")):
            assert (
                main(["compare-masks", "0", "1", "--store", second.settings["store"], f"--tolerance-{unit}", "3"]) == 0
            )
            text = capsys.readouterr().out
            assert "generation 0 (classical) against generation 1 (classical)" in text
            assert f"boundary tolerance {stated}" in text
            assert "< 20 m²" in text

    def test_masks_of_a_chip_that_was_made_again_are_outdated(self, region, capsys):
        made(region, capsys, *CHANGED)
        one = masks(region, "generation = 1")[0]["prompt_id"]
        store = region.settings["store"]
        lance_io.mark(store, "prompts", [one], {"created_at": "now()", "run_id": "'another'"})
        lance_io.mark(
            store,
            "masks",
            [row["mask_id"] for row in masks(region, f"generation = 0 AND prompt_id = '{one}'")],
            {"created_at": "now()", "run_id": "'another'"},
        )
        found = compared(region, capsys, "0", "1")
        assert (found["outdated_first"], found["outdated_second"], found["overall"]["only_first"]) == (0, 1, 1)
        assert made(region, capsys, *CHANGED)["chips_made"] == 1
        again = compared(region, capsys, "0", "1")
        assert (again["outdated_second"], again["overall"]["only_first"]) == (0, 0)

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (("0",), "--truth"),
            (("0", "7"), "known: 0, 1, classical"),
            (("0", "0"), "both generation 0"),
            (("0", "1", "--by", "colour"), "size"),
            (("0", "1", "--verdict", "fine"), "accept"),
            (("0", "1", "--tolerance-px", "-1"), "tolerance"),
            (("0", "--truth", "/nowhere.geojson"), "nowhere"),
        ],
    )
    def test_refused(self, second, capsys, more, words):
        assert main(["compare-masks", *more, "--store", second.settings["store"]]) == 2
        assert words in capsys.readouterr().err


class TestKilled:
    @pytest.mark.parametrize(
        ("call", "moment"), [(WRITE, "before"), (MERGE, "within"), pytest.param(WRITE, "after", marks=pytest.mark.slow)]
    )
    def test_it_goes_on_where_it_was(self, region, capsys, tmp_path, call, moment):
        """Killed hard around the second commit of masks: in the end the rows of a run that was left alone."""
        calm = _calm(region, capsys, tmp_path)
        run = RunProcess(
            command(region, *CHANGED, "--json"), tmp_path / "killed", Kill(Point(call, 2, moment), "SIGKILL")
        )
        assert run.wait() == -9, run.output
        partly = len(masks(region, "generation = 1"))
        assert 0 < partly < len(calm)
        [killed] = _runs(region)
        assert killed["status"] == "running"
        done = made(region, capsys, *CHANGED)
        assert (done["generation"], done["chips_skipped"] > 0, done["status"]) == (1, True, "done")
        assert _answers(region) == calm
        assert sorted(row["status"] for row in _runs(region)) == ["done", "killed"]

    def test_an_interrupt_commits_what_is_done(self, region, capsys, tmp_path):
        calm = _calm(region, capsys, tmp_path)
        kill = Kill(Point(WRITE, 1, "after"), "SIGTERM")
        run = RunProcess(command(region, *CHANGED, "--json"), tmp_path / "stopped", kill)
        assert run.wait() == 130, run.output
        assert [row["status"] for row in _runs(region)] == ["interrupted"]
        assert masks(region, "generation = 1")
        made(region, capsys, *CHANGED)
        assert _answers(region) == calm

    def test_two_at_once(self, region, capsys, tmp_path):
        """Two runs of one recipe and one of another: no row twice, a number each."""
        calm = _calm(region, capsys, tmp_path)
        other = ("--set", "thresholds={accept: 0.9}")
        runs = [
            RunProcess(command(region, *more, "--json"), tmp_path / f"run-{number}")
            for number, more in enumerate([CHANGED, CHANGED, other])
        ]
        assert [run.wait() for run in runs] == [0, 0, 0], [run.output for run in runs]
        numbers = [run.summary["generation"] for run in runs]
        assert numbers[0] == numbers[1] != numbers[2]
        assert sorted({*numbers}) == [1, 2]
        found = masks(region, f"generation = {numbers[0]}")
        assert len({row["mask_id"] for row in found}) == len(found) == len(calm)
        assert [(row["prompt_id"], row["mask"], row["verdict"]) for row in sorted(found, key=_prompt)] == calm
        assert len(masks(region, f"generation = {numbers[2]}")) == len(calm)


def compared(region, capsys, *more):
    """What ``compare-masks --json`` printed."""
    capsys.readouterr()
    assert main(["compare-masks", *more, "--store", region.settings["store"], "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def written_truth(folder, boxes):
    """GeoJSON of boxes in UTM metres."""
    path = folder / "truth.geojson"
    shapes = [reproject(box, mini_region.EPSG, 4326) for box in boxes]
    features = [{"type": "Feature", "properties": {}, "geometry": shape.__geo_interface__} for shape in shapes]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def _prompt(row):
    return row["prompt_id"]


def _answers(region):
    rows = masks(region, "generation = 1")
    assert len({row["mask_id"] for row in rows}) == len(rows)
    return [(row["prompt_id"], row["mask"], row["verdict"]) for row in sorted(rows, key=_prompt)]


def _calm(region, capsys, tmp_path):
    """Rows of a run that nobody disturbed, in a store of its own."""
    store = shutil.copytree(region.settings["store"], tmp_path / "calm")
    alone = mini_region.MiniRegion(region.root, {**region.settings, "store": str(store)})
    made(alone, capsys, *CHANGED)
    return _answers(alone)


def _runs(region):
    return lance_io.scan(region.settings["store"], "runs", ["run_id", "status"], "flow = 'masks'").to_pylist()


def _overlapping(region):
    """A third tile over the middle of the region, with other pixels."""
    rng = np.random.default_rng(5)
    data = rng.integers(20, 240, (3, 600, 500)).astype(np.uint8)
    left, top = mini_region.LEFT + 25.05, mini_region.BOTTOM + 215.0
    mini_region.write_raster(region.root / "vhr" / "middle.tif", data, left, top, 0.3, nodata=0)


def _shifted(path: Path):
    with rasterio.open(path) as raster:
        data, profile = raster.read(), raster.profile
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(np.where(data == 0, 0, np.clip(data.astype(int) + 1, 1, 255)).astype(data.dtype))


def test_the_calibration_is_read_once_and_recorded(region, tmp_path):
    place = tmp_path / "calibration.json"
    known = calibration_at("default")
    write_calibration(known, place)
    config = from_mapping(region.settings | {"calibration": str(place), "thresholds": {"accept": 0.71}})

    def lose(summary):
        if summary.chips_made:
            place.unlink(missing_ok=True)

    done = drivers.run_masks(config, progress=lose)
    assert (done.status, done.partitions_failed) == ("done", 0)
    rows = lance_io.scan(config.store, "masks", ["calibration"], f"generation = {done.generation}").to_pylist()
    assert {row["calibration"] for row in rows} == {known.version}
    (run,) = lance_io.scan(config.store, "runs", ["inputs"], f"run_id = '{done.run_id}'").to_pylist()
    assert json.loads(run["inputs"])["calibration"] == known.version
