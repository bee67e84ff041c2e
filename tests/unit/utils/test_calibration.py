import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.calibration import (
    ANY_KIND,
    Calibration,
    Entry,
    MeasuredMask,
    fitted,
    from_json,
    held_out_quality,
    settings_recipe,
    to_json,
)
from utils.errors import CalibrationError
from utils.risk_coverage import calibration_error, spearman


def measured(count: int = 200, *, seed: int = 0, kind: str = "box", backend: str = "classical") -> list[MeasuredMask]:
    """Masks whose IoU follows stability and contrast, and not solidity."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        stability, contrast, solidity = rng.random(3)
        iou = float(np.clip(0.6 * stability + 0.3 * contrast**2 + rng.normal(0, 0.08), 0, 1))
        scores = {"stability": stability, "contrast": contrast, "solidity": solidity, "rectangularity": 1.0}
        found.append(
            MeasuredMask(
                backend=backend,
                settings_recipe="recipe",
                kind=kind,
                scores=scores,
                iou=iou,
                group=f"chip {number // 4}",
            )
        )
    return found


def calibration(masks: list[MeasuredMask] | None = None) -> Calibration:
    return fitted(measured() if masks is None else masks, data=["made"], protocol="made", seeds=[0])


class TestFit:
    def test_finds_what_iou_follows(self) -> None:
        [box, anything] = calibration().entries
        weights = dict(box.weights)
        assert (box.kind, box.n, anything.kind) == ("box", 200, ANY_KIND)
        assert weights["stability"] > weights["contrast"] > weights.get("solidity", 0.0) + 0.1
        assert sum(weights.values()) == pytest.approx(1.0, abs=1e-5)
        assert "rectangularity" not in weights

    def test_quality_is_the_iou_to_expect_of_masks_it_has_not_seen(self) -> None:
        made = calibration()
        others = measured(seed=1)
        quality = np.array([made.quality("classical", "box", "recipe", mask.scores) for mask in others])
        iou = np.array([mask.iou for mask in others])
        assert spearman(quality, iou) > 0.8
        assert calibration_error(quality, iou) < 0.04

    @settings(deadline=None, max_examples=30)
    @given(st.integers(0, 10_000), st.integers(30, 80), st.booleans())
    def test_quality_never_falls_as_the_combination_rises_and_stays_in_range(
        self, seed: int, count: int, rounded: bool
    ) -> None:
        rng = np.random.default_rng(seed)
        scores = rng.random(count).round(1) if rounded else rng.random(count)
        masks = [
            MeasuredMask(backend="b", settings_recipe="r", kind="box", scores={"stability": float(x)}, iou=float(y))
            for x, y in zip(scores, rng.random(count), strict=True)
        ]
        entry = fitted(masks, data=[], protocol="").entries[0]
        values = np.array([entry.quality({"stability": x}) for x in np.linspace(0, 1, 101)])
        assert (np.diff(values) >= -1e-12).all()
        assert ((values >= 0) & (values <= 1)).all()
        assert from_json(to_json(fitted(masks, data=[], protocol="")), "here").entries[0] == entry

    def test_does_not_depend_on_the_order_of_masks(self) -> None:
        masks = measured()
        assert calibration(masks[::-1]).version == calibration(masks).version

    def test_a_score_few_masks_have_stays_out(self) -> None:
        masks = [replace(m, scores={k: v for k, v in m.scores.items() if k != "contrast"}) for m in measured(40)]
        entry = calibration([*masks, *measured(10, seed=3)]).entries[0]
        assert "contrast" not in dict(entry.weights)

    def test_scores_that_say_nothing_are_level(self) -> None:
        masks = [replace(mask, iou=0.5) for mask in measured(60)]
        assert calibration(masks).quality("classical", "box", "recipe", masks[0].scores) == pytest.approx(0.5)

    def test_kinds_with_too_few_masks_fall_back_on_all(self) -> None:
        made = calibration([*measured(60), *measured(12, seed=2, kind="polygon")])
        assert [entry.kind for entry in made.entries] == ["box", ANY_KIND]
        found = made.entry("classical", "polygon", "recipe")
        assert found is not None
        assert found.kind == ANY_KIND

    @pytest.mark.parametrize("count", [0, 29])
    def test_too_few_masks_are_refused(self, count: int) -> None:
        with pytest.raises(CalibrationError, match=f"{count} masks with truth are too few.*30"):
            calibration(measured(count))

    def test_masks_of_two_backends_are_not_pooled(self) -> None:
        with pytest.raises(CalibrationError, match="too few"):
            calibration([*measured(20), *measured(20, backend="sam")])

    @pytest.mark.parametrize("iou", [np.nan, -0.1, 1.2])
    def test_values_out_of_range_are_refused(self, iou: float) -> None:
        with pytest.raises(CalibrationError, match="lie in 0 to 1"):
            calibration([replace(mask, iou=iou) for mask in measured(40)])
        with pytest.raises(CalibrationError, match="stability"):
            calibration([replace(mask, scores={"stability": iou}) for mask in measured(40)])

    def test_masks_without_a_usable_score_are_refused(self) -> None:
        with pytest.raises(CalibrationError, match="carry none of the scores"):
            calibration([replace(mask, scores={"rectangularity": 1.0}) for mask in measured(40)])


class TestLookup:
    def test_another_backend_or_other_settings_are_not_calibrated(self) -> None:
        made, scores = calibration(), measured()[0].scores
        assert made.quality("classical", "box", "recipe", scores) is not None
        assert made.quality("sam", "box", "recipe", scores) is None
        assert made.quality("classical", "box", "other", scores) is None

    def test_masks_without_pixels_have_none_and_prompts_given_back_are_not_judged(self) -> None:
        made = calibration()
        assert made.quality("classical", "box", "recipe", {}, ("empty",)) == 0.0
        assert made.quality("classical", "box", "recipe", {}, ("not_in_chip",)) == 0.0
        assert made.quality("classical", "box", "recipe", {"stability": 1.0}, ("no_context",)) is None

    def test_missing_scores_are_made_up_for_as_long_as_they_weigh_less_than_half(self) -> None:
        entry = Entry(
            backend="b",
            kind="box",
            settings_recipe="r",
            weights=(("contrast", 0.4), ("stability", 0.6)),
            knots=((0.0, 0.0), (1.0, 1.0)),
            n=30,
            mean_iou=0.5,
            rank_correlation=0.5,
        )
        assert entry.quality({"stability": 0.8}) == pytest.approx(0.8)
        assert entry.quality({"stability": 0.8, "contrast": 0.3}) == pytest.approx(0.6)
        assert entry.quality({"contrast": 0.3}) is None
        assert entry.quality({}) is None
        assert entry.quality({"stability": np.nan}) is None

    def test_settings_are_known_by_content(self) -> None:
        assert (
            settings_recipe({"a": 1, "b": 2}) == settings_recipe({"b": 2, "a": 1}) != settings_recipe({"a": 2, "b": 2})
        )


class TestHeldOut:
    def test_quality_comes_from_other_groups(self) -> None:
        masks = measured()
        quality = held_out_quality(masks)
        assert np.isfinite(quality).all()
        assert spearman(quality, np.array([mask.iou for mask in masks])) > 0.8

    def test_noise_gains_nothing(self) -> None:
        """Fitted and judged on the same masks, noise would seem to rank them."""
        rng = np.random.default_rng(5)
        masks = [replace(mask, iou=float(rng.random())) for mask in measured(300)]
        assert abs(spearman(held_out_quality(masks), np.array([mask.iou for mask in masks]))) < 0.2

    def test_where_the_others_are_too_few_nothing_is_said(self) -> None:
        assert np.isnan(held_out_quality(measured(20))).all()
        assert np.isnan(held_out_quality([replace(mask, group="one") for mask in measured(60)])).all()


class TestFile:
    def test_comes_back_as_it_was(self) -> None:
        made = calibration()
        again = from_json(to_json(made), "here")
        assert again == made
        assert again.version == made.version == json.loads(to_json(made))["version"]

    def test_another_fit_is_another_version(self) -> None:
        assert calibration().version != calibration(measured(seed=9)).version

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"format": 2}, "format 1 .found 2"),
            ({"version": "0" * 16}, "changed by hand"),
            ({"protocol": "another"}, "changed by hand"),
            ({"entries": []}, "holds no entry"),
            ({"entries": None}, "missing or of the wrong kind"),
            ({"entries": [{}]}, "missing or of the wrong kind"),
            ({"seeds": "abc"}, "missing or of the wrong kind"),
        ],
    )
    def test_what_is_no_calibration_is_refused(self, change: dict[str, object], words: str) -> None:
        values = json.loads(to_json(calibration())) | change
        with pytest.raises(CalibrationError, match=words):
            from_json(json.dumps(values), "here")

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", "null"])
    def test_other_texts_are_refused(self, text: str) -> None:
        with pytest.raises(CalibrationError, match="here"):
            from_json(text, "here")

    @pytest.mark.parametrize(
        "change",
        [
            {"weights": {}},
            {"weights": {"stability": -1.0}},
            {"knots": []},
            {"knots": [[0.5, 0.5], [0.4, 0.6]]},
            {"knots": [[0.1, 0.9], [0.5, 0.2]]},
            {"knots": [[0.1, 0.9], [0.5, 1.2]]},
            {"knots": [[0.1, None]]},
        ],
    )
    def test_entries_no_fit_can_make_are_refused(self, change: dict[str, object]) -> None:
        values = json.loads(to_json(calibration()))
        values["entries"][0] |= change
        with pytest.raises(CalibrationError):
            from_json(json.dumps(values), "here")
