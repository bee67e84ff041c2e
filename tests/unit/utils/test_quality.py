import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional.classification import binary_jaccard_index

from utils.errors import ConfigError
from utils.quality import (
    SCORE_PARTS,
    Thresholds,
    agreement,
    area_agreement,
    edge_band,
    iou,
    mask_score,
    predicted_iou,
    rectangularity,
    stability_from_logits,
    verdict,
)

torch.set_num_threads(1)
images = arrays(np.bool_, (8, 9))
shares = st.floats(0, 1)


class TestIoU:
    @given(images, images)
    def test_agrees_with_torchmetrics(self, a: np.ndarray, b: np.ndarray) -> None:
        if (a | b).any():
            expected = float(binary_jaccard_index(torch.tensor(a), torch.tensor(b)))
            assert iou(a, b) == pytest.approx(expected, abs=1e-6)

    @given(images, images, images)
    def test_ignored_pixels_do_not_count(self, a: np.ndarray, b: np.ndarray, ignore: np.ndarray) -> None:
        assert iou(a, b, ignore) == iou(a & ~ignore, b & ~ignore)

    def test_two_empty_masks_agree(self) -> None:
        nothing = np.zeros((3, 3), dtype=np.bool_)
        assert iou(nothing, nothing) == 1.0
        assert iou(nothing, ~nothing) == 0.0


class TestEdgeBand:
    def test_covers_both_sides_of_the_outline_only(self) -> None:
        data = np.zeros((30, 30), dtype=np.bool_)
        data[10:20, 10:20] = True
        band = edge_band(data, 2)
        assert band[15, 8:12].all()
        assert not band[15, 7]
        assert not band[15, 12]
        assert not band[15, 15]

    def test_the_window_edge_is_no_outline(self) -> None:
        data = np.zeros((30, 30), dtype=np.bool_)
        data[:, :10] = True
        band = edge_band(data, 2)
        assert not band[:, :8].any()
        assert band[:, 8:12].all()

    def test_no_width_no_band(self) -> None:
        assert not edge_band(np.eye(4, dtype=np.bool_), 0).any()


class TestRectangularity:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 3), (20, 20)])
    def test_an_upright_rectangle_is_one(self, shape: tuple[int, int]) -> None:
        data = np.zeros((30, 30), dtype=np.bool_)
        data[3 : 3 + shape[0], 4 : 4 + shape[1]] = True
        assert rectangularity(data) == pytest.approx(1.0)

    @pytest.mark.parametrize("angle", [10.0, 30.0, 45.0, 77.0])
    def test_rotation_hardly_matters(self, angle: float) -> None:
        image = np.zeros((200, 200), dtype=np.uint8)
        cv2.fillPoly(image, [cv2.boxPoints(((100.0, 100.0), (110.0, 60.0), angle)).round().astype(np.int32)], 1)
        assert rectangularity(image > 0) > 0.95

    def test_a_triangle_is_half(self) -> None:
        assert rectangularity(np.tri(100, dtype=np.bool_)) == pytest.approx(0.5, abs=0.02)

    def test_nothing_is_zero(self) -> None:
        assert rectangularity(np.zeros((4, 4), dtype=np.bool_)) == 0.0

    @given(images)
    def test_stays_in_range(self, data: np.ndarray) -> None:
        assert 0.0 <= rectangularity(data) <= 1.0


class TestAgreement:
    @given(images, images, images)
    def test_is_the_mean_iou_and_lies_in_range(self, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        found = agreement(a, [b, c])
        assert 0.0 <= found <= 1.0
        assert found == (pytest.approx((iou(a, b) + iou(a, c)) / 2) if a.any() else 0.0)

    def test_nothing_to_agree_with_is_no_agreement(self) -> None:
        assert agreement(np.ones((2, 2), np.bool_), []) == 0.0


class TestStabilityFromLogits:
    maps = arrays(np.float32, (3, 5, 6), elements=st.floats(-8, 8, width=32))

    @given(maps, st.sampled_from([0.0, 0.5, 1.0, 2.0]))
    def test_is_the_iou_of_the_two_masks(self, logits: np.ndarray, offset: float) -> None:
        found = stability_from_logits(logits, offset=offset)
        assert found.shape == (3,)
        for one, value in zip(logits, found, strict=True):
            strict, lax = one > offset, one > -offset
            assert value == pytest.approx(iou(strict, lax) if lax.any() else 0.0)

    @given(maps)
    def test_agrees_with_segment_anything(self, logits: np.ndarray) -> None:
        amg = pytest.importorskip("segment_anything.utils.amg")
        expected = amg.calculate_stability_score(torch.tensor(logits), 0.0, 1.0).numpy()
        assert stability_from_logits(logits) == pytest.approx(np.nan_to_num(expected, nan=0.0))

    def test_nan_is_outside(self) -> None:
        assert stability_from_logits(np.full((4, 4), np.nan)) == 0.0
        assert stability_from_logits(np.full((4, 4), 9.0)) == 1.0


class TestPredictedIoU:
    @pytest.mark.parametrize(
        ("value", "expected"), [(0.4, 0.4), (-0.3, 0.0), (1.2, 1.0), (np.nan, 0.0), (np.inf, 0.0), (-np.inf, 0.0)]
    )
    def test_is_cut_to_its_range(self, value: float, expected: float) -> None:
        assert predicted_iou(value) == expected


class TestAreaAgreement:
    @given(st.floats(0.01, 1e6), st.floats(0.01, 1e6))
    def test_does_not_care_which_is_larger(self, area: float, stated: float) -> None:
        found = area_agreement(area, stated)
        assert found == area_agreement(stated, area)
        assert found is not None
        assert 0 < found <= 1

    @pytest.mark.parametrize("stated", [None, 0.0, -5.0, np.nan, np.inf])
    def test_what_is_not_stated_is_not_compared(self, stated: float | None) -> None:
        assert area_agreement(10.0, stated) is None


class TestMaskScore:
    def test_is_the_mean_of_the_known_parts(self) -> None:
        scores = {"stability": 0.9, "box_agreement": 0.6, "rectangularity": 0.1}
        assert mask_score(scores) == pytest.approx(0.75)
        assert mask_score(scores | {"ring_contrast": 0.3}) == pytest.approx(0.6)
        assert mask_score(scores | {"predicted_iou": 0.3}) == pytest.approx(0.6)

    def test_a_score_that_is_no_number_is_not_known(self) -> None:
        assert mask_score({"stability": float("nan"), "box_agreement": 0.6}) == pytest.approx(0.6)

    def test_nothing_known_is_zero(self) -> None:
        assert mask_score({"rectangularity": 0.9}) == 0.0

    def test_a_point_has_no_box_to_agree_with(self) -> None:
        scores = {"stability": 0.9, "ring_contrast": 0.6}
        assert mask_score(scores, ("point_only",)) == pytest.approx(0.5)

    @pytest.mark.parametrize("flag", ["empty", "not_in_chip", "no_context"])
    def test_a_mask_nobody_judged_is_zero(self, flag: str) -> None:
        assert mask_score({"stability": 1.0}, (flag,)) == 0.0

    @given(st.dictionaries(st.sampled_from(SCORE_PARTS), shares), st.booleans())
    def test_stays_in_range(self, scores: dict[str, float], point: bool) -> None:
        assert 0.0 <= mask_score(scores, ("point_only",) if point else ()) <= 1.0


class TestVerdict:
    @pytest.mark.parametrize(
        ("score", "flags", "area_m2", "expected", "reason"),
        [
            (0.9, (), 30.0, "accept", None),
            (0.9, ("clipped", "small"), 30.0, "accept", None),
            (0.6, (), 30.0, "review", "below_accept_score"),
            (0.3, (), 30.0, "reject", "below_review_score"),
            (0.9, (), 0.5, "reject", "below_min_area"),
            (0.9, (), 9000.0, "review", "above_max_area"),
            (0.9, ("point_only",), 30.0, "review", "point_only"),
            (0.3, ("point_only",), 30.0, "reject", "below_review_score"),
            (0.0, ("no_context",), 3000.0, "review", "no_context"),
            (0.0, ("empty",), 0.0, "reject", "empty"),
            (0.9, (), 0.0, "reject", "empty"),
            (0.0, ("not_in_chip",), 0.0, "not_in_chip", "not_in_chip"),
        ],
    )
    def test_cases(
        self, score: float, flags: tuple[str, ...], area_m2: float, expected: str, reason: str | None
    ) -> None:
        found, reasons = verdict(score, flags, area_m2)
        assert found == expected
        assert (reason in reasons) if reason else (reasons == ())

    def test_points_may_be_accepted_by_setting(self) -> None:
        limits = Thresholds(review_flags=())
        assert verdict(0.9, ("point_only",), 30.0, limits) == ("accept", ())

    @given(shares, shares, st.floats(0, 1e4))
    def test_a_better_score_never_earns_a_worse_verdict(self, a: float, b: float, area_m2: float) -> None:
        rank = {"reject": 0, "review": 1, "accept": 2}
        low, high = (rank[verdict(score, (), area_m2)[0]] for score in sorted((a, b)))
        assert low <= high

    def test_scores_are_held_against_their_thresholds(self) -> None:
        assert verdict(0.9, (), 30.0, scores={"valid_share": 0.5, "area_agreement": 0.1}) == (
            "review",
            ("nodata_around", "unlike_stated_area"),
        )
        limits = Thresholds(min_valid_share=0.0, min_area_agreement=0.0)
        assert verdict(0.9, (), 30.0, limits, scores={"valid_share": 0.5, "area_agreement": 0.1}) == ("accept", ())

    def test_a_quality_that_is_no_number_is_no_good(self) -> None:
        assert verdict(float("nan"), (), 30.0) == ("reject", ("below_review_score",))

    @pytest.mark.parametrize(
        "limits",
        [
            {"accept": 0.4},
            {"min_area_m2": 9.0, "max_area_m2": 1.0},
            {"min_valid_share": 1.1},
            {"min_area_agreement": -1},
        ],
    )
    def test_limits_nobody_can_follow_are_refused(self, limits: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match="thresholds"):
            Thresholds(**limits)
