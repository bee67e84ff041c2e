"""From prompts to judged masks: who is asked, what is cut, and what a failing backend costs."""

import numpy as np
import pyarrow as pa
import pytest
import shapely
from hamilton import driver

from dataflows import sam_mask_factory as module
from dataflows.mask_calibration import MaskCalibration
from support.node_inputs import EPSG, HALO, LEFT, TOP, block, plan_of, prompt, prompts_of, vhr_chip
from utils.calibration import Calibration, Entry
from utils.errors import CalibrationError, ConfigError, MaskError, UnknownNameError
from utils.geo import reproject
from utils.quality import Thresholds
from utils.refinement import RefinementSteps
from utils.types import Mask

DRIVER = driver.Builder().with_modules(module).build()
SIDE = 40 + 2 * HALO
GOOD = {"stability": 0.9, "rectangularity": 0.9, "box_agreement": 0.9}


class Backend:
    """Masks are the prompts' boxes, with scores by prompt; some chips fail."""

    name = "boxes"

    def __init__(self, scores=None, error=None, broken=(), missing=0):
        self.scores, self.error, self.broken, self.missing, self.asked = scores or {}, error, broken, missing, []

    def segment(self, chip, prompts):
        self.asked.append((chip, [one.prompt_id for one in prompts]))
        if self.error is not None and any(one.prompt_id in self.broken for one in prompts):
            raise self.error
        masks = []
        for one in prompts[self.missing :]:
            data = np.zeros((chip.grid.height, chip.grid.width), bool)
            left, top = ~chip.grid.affine @ (one.bounds[0], one.bounds[3])
            right, bottom = ~chip.grid.affine @ (one.bounds[2], one.bounds[1])
            data[max(0, round(top)) : max(0, round(bottom)), max(0, round(left)) : max(0, round(right))] = True
            scores = dict.fromkeys(GOOD, self.scores.get(one.prompt_id, 0.9))
            masks.append(Mask(data=data, grid=chip.grid, prompt_id=one.prompt_id, scores=scores))
        return masks


def calibration_of(*, backend="boxes", kind="box", recipe="made", knots=((0.0, 0.0), (1.0, 1.0))):
    """Quality that rests on the backend's stability alone; with the default knots it is the stability."""
    entry = Entry(
        backend=backend,
        kind=kind,
        settings_recipe=recipe,
        weights=(("stability", 1.0),),
        knots=knots,
        n=30,
        mean_iou=0.3,
        rank_correlation=0.5,
    )
    calibration = Calibration(entries=(entry,), data=("made",), protocol="made")
    return MaskCalibration(calibration=calibration, backend="boxes", settings_recipe="made")


NO_CALIBRATION = MaskCalibration(calibration=None, backend="boxes", settings_recipe="")
OFF = RefinementSteps(close_m=0, open_m=0, smooth_m=0, max_hole_m2=0, min_area_m2=0)


def run(nodes, asked, backend, *, thresholds=None, **overrides):
    chips = {uuid: vhr_chip() for uuid in asked}
    return DRIVER.execute(
        nodes,
        inputs={"vhr_chips": chips, "prompts": prompts_of(asked), "chip_plan": plan_of(*asked), "halo_px": HALO},
        overrides={
            "mask_segmenter": backend,
            "refinement_steps": OFF,
            "verdict_thresholds": thresholds or Thresholds(),
            "quality_calibration": calibration_of(),
        }
        | overrides,
    )


def test_a_backend_sees_the_chip_with_halo_and_its_own_prompts_in_order():
    asked = {
        "one": [prompt("b", (4, 10), (4, 12)), prompt("a", (20, 30), (20, 30))],
        "two": [prompt("c", (1, 9), (1, 9))],
    }
    backend = Backend()
    masks = run(["raw_masks"], asked, backend)["raw_masks"]
    assert [names for _, names in backend.asked] == [["a", "b"], ["c"]]
    assert all(chip.grid.height == SIDE for chip, _ in backend.asked)
    assert {uuid: [mask.prompt_id for mask in found] for uuid, found in masks.items()} == {
        "one": ["a", "b"],
        "two": ["c"],
    }


def test_a_background_chip_costs_no_call():
    backend = Backend()
    results = run(["raw_masks", "judged_masks", "mask_rows"], {"empty": []}, backend)
    assert backend.asked == []
    assert (results["raw_masks"], results["judged_masks"], results["mask_rows"]) == ({"empty": []}, {"empty": []}, [])


def test_a_failing_chip_is_recorded_with_its_prompts_and_the_others_go_on():
    asked = {
        "bad": [prompt("a", (4, 10), (4, 12)), prompt("b", (20, 30), (4, 12))],
        "good": [prompt("c", (4, 10), (4, 12))],
    }
    results = run(["raw_masks", "mask_failures"], asked, Backend(error=MaskError("no luck"), broken={"b"}))
    assert set(results["raw_masks"]) == {"good"}
    [failure] = results["mask_failures"]
    assert (failure.uuid, failure.error_type, failure.input_ids) == ("bad", "MaskError", ("a", "b"))
    assert (failure.node, failure.input_set) == ("segmentation", "inputs of bad")


def test_a_backend_that_loses_a_mask_breaks_its_contract():
    asked = {"bad": [prompt("a", (4, 10), (4, 12)), prompt("b", (20, 30), (4, 12))], "good": []}
    results = run(["raw_masks", "mask_failures"], asked, Backend(missing=1))
    assert [failure.error_type for failure in results["mask_failures"]] == ["MaskError"]
    assert set(results["raw_masks"]) == {"good"}


def test_masks_are_cut_to_the_chip_and_lie_where_they_were():
    asked = {"chip": [prompt("a", (4, 12), (6, 20))]}
    [found] = run(["judged_masks"], asked, Backend())["judged_masks"]["chip"]
    np.testing.assert_array_equal(found.mask.data, block((4, 12), (6, 20)))
    assert found.mask.grid.transform == pytest.approx((0.5, 0, LEFT, 0, -0.5, TOP))
    assert (found.verdict, found.reasons) == ("accept", ())
    assert found.area_m2 == pytest.approx(8 * 14 * 0.25)
    assert found.quality == pytest.approx(0.9)


def test_the_part_in_the_halo_counts_for_the_area_alone():
    asked = {"chip": [prompt("a", (-6, 10), (6, 20))]}
    [found] = run(["judged_masks"], asked, Backend())["judged_masks"]["chip"]
    np.testing.assert_array_equal(found.mask.data, block((0, 10), (6, 20)))
    assert found.area_m2 == pytest.approx(16 * 14 * 0.25)


def test_a_mask_in_the_halo_alone_is_not_in_the_chip():
    asked = {"chip": [prompt("a", (-7, -1), (6, 20))]}
    results = run(["judged_masks", "mask_rows"], asked, Backend())
    [found] = results["judged_masks"]["chip"]
    assert (found.verdict, found.score) == ("not_in_chip", 0.0)
    assert "not_in_chip" in found.mask.flags
    [row] = results["mask_rows"]
    assert (row["mask"], row["outline"], row["verdict"]) == (None, None, "not_in_chip")


def test_without_halo_nothing_is_cut():
    asked = {"chip": [prompt("a", (0, 12), (0, 20))]}
    results = DRIVER.execute(
        ["judged_masks"],
        inputs={
            "vhr_chips": {"chip": vhr_chip(halo=0)},
            "prompts": prompts_of(asked),
            "chip_plan": plan_of("chip"),
            "halo_px": 0,
        },
        overrides={
            "mask_segmenter": Backend(),
            "refinement_steps": OFF,
            "verdict_thresholds": Thresholds(),
            "quality_calibration": NO_CALIBRATION,
        },
    )
    np.testing.assert_array_equal(results["judged_masks"]["chip"][0].mask.data, block((0, 12), (0, 20)))


@pytest.mark.parametrize(
    ("score", "size", "verdict", "reason"),
    [
        (0.9, (8, 14), "accept", None),
        (0.6, (8, 14), "review", "below_accept_score"),
        (0.2, (8, 14), "reject", "below_review_score"),
        (0.9, (1, 3), "reject", "below_min_area"),
        (0.9, (40, 40), "review", "above_max_area"),
        (0.9, (0, 0), "reject", "empty"),
    ],
)
def test_verdicts_and_rows(score, size, verdict, reason):
    limits = Thresholds(min_area_m2=1.0, max_area_m2=300.0)
    asked = {"chip": [prompt("a", (0, max(size[0], 1)), (0, max(size[1], 1)))]}
    backend = Backend(scores={"a": score})
    if size == (0, 0):
        backend.segment = lambda chip, prompts: [
            Mask(data=np.zeros((SIDE, SIDE), bool), grid=chip.grid, prompt_id="a", scores=GOOD, flags=("empty",))
        ]
    [row] = run(["mask_rows"], asked, backend, thresholds=limits)["mask_rows"]
    assert row["verdict"] == verdict
    assert set(row["flags"]) == ({reason} if reason else set())
    assert (row["uuid"], row["prompt_id"], row["epsg"]) == ("chip", "a", EPSG)
    if size[0] > 1:
        assert np.frombuffer(row["mask"], np.uint8).sum() == size[0] * size[1]
        outline = reproject(shapely.from_wkb(row["outline"]), 4326, EPSG)
        assert outline.area == pytest.approx(size[0] * size[1] * 0.25, rel=0.02)
        assert row["transform"] == pytest.approx([0.5, 0, LEFT, 0, -0.5, TOP])
        assert dict(row["scores"])["stability"] == pytest.approx(score)


def test_refinement_runs_before_the_verdict():
    """A mask of specks that refinement drops is empty, whatever its scores."""
    asked = {"chip": [prompt("a", (10, 12), (10, 11))]}
    steps = RefinementSteps(close_m=0, open_m=0, smooth_m=0, max_hole_m2=0, min_area_m2=1.0)
    [found] = run(["judged_masks"], asked, Backend(), refinement_steps=steps)["judged_masks"]["chip"]
    assert found.verdict == "reject"
    assert "empty" in found.mask.flags


def settings(node, **values):
    return DRIVER.execute([node], inputs=values)[node]


def test_settings_become_values():
    assert settings("refinement_steps", refinement={"close_m": 2.0}).close_m == 2.0
    assert settings("verdict_thresholds", thresholds={"accept": 0.9}).accept == 0.9
    assert settings("mask_segmenter", mask_backend="classical", mask_options={}).name == "classical"


@pytest.mark.parametrize(
    ("node", "values", "error", "words"),
    [
        ("refinement_steps", {"refinement": {"polish": 1}}, ConfigError, "polish.*known: close_m"),
        ("refinement_steps", {"refinement": {"close_m": -1.0}}, ConfigError, "close_m"),
        ("refinement_steps", {"refinement": {"close_m": "1 m"}}, ConfigError, "refinement"),
        ("verdict_thresholds", {"thresholds": {"sure": 1}}, ConfigError, "sure.*known: accept"),
        ("verdict_thresholds", {"thresholds": {"accept": "high"}}, ConfigError, "accept"),
        ("verdict_thresholds", {"thresholds": {"accept": 0.3, "review": 0.6}}, ConfigError, "review"),
        ("mask_segmenter", {"mask_backend": "clasical", "mask_options": {}}, UnknownNameError, "known: classical"),
        ("mask_segmenter", {"mask_backend": "classical", "mask_options": {"colour": 1}}, ConfigError, "colour"),
    ],
)
def test_settings_nobody_can_follow(node, values, error, words):
    with pytest.raises(error, match=words):
        settings(node, **values)


class TestQuality:
    """Scores become quality where a calibration holds, and verdicts rest on it."""

    def judged(self, calibration, asked=None, **overrides):
        results = run(
            ["judged_masks", "mask_rows"],
            {"chip": asked or [prompt("a", (4, 12), (6, 20))]},
            Backend(),
            quality_calibration=calibration,
            **overrides,
        )
        return results["judged_masks"]["chip"][0], results["mask_rows"][0]

    def test_a_calibrated_mask_carries_quality_and_version(self):
        calibration = calibration_of(knots=((0.0, 0.1), (1.0, 0.5)))
        found, row = self.judged(calibration)
        assert found.quality == pytest.approx(0.1 + 0.4 * 0.9)
        assert (found.verdict, found.reasons) == ("review", ("below_accept_score",))
        assert row["calibration"] == found.calibration == calibration.calibration.version
        assert row["quality"] == found.quality
        assert row["score"] == found.score > found.quality
        assert "uncalibrated" not in row["flags"]

    @pytest.mark.parametrize("change", [{"backend": "sam"}, {"kind": "point"}, {"recipe": "other"}])
    def test_a_calibration_of_something_else_holds_for_nothing(self, change):
        found, row = self.judged(calibration_of(**change))
        assert (row["calibration"], found.quality) == (None, found.score)
        assert "uncalibrated" in row["flags"]
        assert found.verdict == "accept"

    def test_without_a_calibration_the_score_decides(self):
        found, row = self.judged(NO_CALIBRATION)
        assert (row["quality"], row["calibration"]) == (found.score, None)
        assert "uncalibrated" in row["flags"]

    def test_masks_read_from_the_chip_get_its_scores(self):
        found, _ = self.judged(NO_CALIBRATION)
        assert {
            "ring_contrast",
            "solidity",
            "valid_share",
            "box_agreement",
            "rectangularity",
        } <= found.mask.scores.keys()
        assert found.mask.scores["box_agreement"] == pytest.approx(1.0)

    def test_the_area_a_label_states_counts(self):
        asked = {"chip": [prompt("a", (4, 12), (6, 20))]}
        table = prompts_of(asked)
        stated = table.set_column(table.schema.get_field_index("area_m2"), "area_m2", pa.array([1000.0]))
        found = DRIVER.execute(
            ["judged_masks"],
            inputs={
                "vhr_chips": {"chip": vhr_chip()},
                "prompts": stated,
                "chip_plan": plan_of("chip"),
                "halo_px": HALO,
            },
            overrides={
                "mask_segmenter": Backend(),
                "refinement_steps": OFF,
                "verdict_thresholds": Thresholds(),
                "quality_calibration": NO_CALIBRATION,
            },
        )["judged_masks"]["chip"][0]
        assert found.mask.scores["area_agreement"] == pytest.approx(28 / 1000)
        assert (found.verdict, found.reasons) == ("review", ("unlike_stated_area",))

    def test_the_node_reads_the_settings_calibration(self, tmp_path):
        def node(place, **changes):
            return DRIVER.execute(
                ["quality_calibration"],
                inputs={"calibration": place, "mask_backend": "classical", "mask_options": {}, "refinement": {}}
                | changes,
            )["quality_calibration"]

        default = node("default")
        assert default.calibration.entry("classical", "box", default.settings_recipe), (
            "the default calibration was fitted under other settings: python benchmarks/default_calibration.py --write"
        )
        assert node(None).calibration is None
        other = node("default", refinement={"close_m": 5})
        assert other.calibration.entry("classical", "box", other.settings_recipe) is None
        same = node("default", refinement={"max_hole_m2": 4})
        assert same.settings_recipe == default.settings_recipe
        with pytest.raises(CalibrationError, match="nothing"):
            node(str(tmp_path / "nothing.json"))
