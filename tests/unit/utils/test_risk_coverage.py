import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from utils.risk_coverage import (
    area_under_curve,
    bootstrap,
    calibration_error,
    curve,
    kept_and_rest,
    reliability,
    spearman,
)

pairs = st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.9]), st.floats(0, 1)), min_size=2, max_size=40)


def split(found: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    quality, iou = zip(*found, strict=True)
    return np.array(quality), np.array(iou)


class TestCurve:
    def test_counted_by_hand(self) -> None:
        coverage, kept = curve(np.array([0.9, 0.1, 0.5, 0.5]), np.array([1.0, 0.0, 0.6, 0.2]))
        assert coverage.tolist() == [0.25, 0.75, 1.0]
        assert kept.tolist() == pytest.approx([1.0, 0.6, 0.45])
        assert area_under_curve(np.array([0.9, 0.1, 0.5, 0.5]), np.array([1.0, 0.0, 0.6, 0.2])) == pytest.approx(
            0.25 * 1.0 + 0.5 * 0.6 + 0.25 * 0.45
        )

    @given(pairs, st.randoms())
    def test_the_order_of_rows_means_nothing(self, found: list[tuple[float, float]], random: object) -> None:
        mixed = list(found)
        random.shuffle(mixed)  # type: ignore[attr-defined]
        for one, other in zip(curve(*split(found)), curve(*split(mixed)), strict=True):
            assert one == pytest.approx(other)
        assert kept_and_rest(*split(found)) == pytest.approx(kept_and_rest(*split(mixed)))

    @given(pairs)
    def test_all_masks_have_the_mean(self, found: list[tuple[float, float]]) -> None:
        quality, iou = split(found)
        coverage, kept = curve(quality, iou)
        assert coverage[-1] == 1.0
        assert kept[-1] == pytest.approx(iou.mean())
        best, rest = kept_and_rest(quality, iou)
        assert 0.7 * best + 0.3 * rest == pytest.approx(iou.mean())

    @pytest.mark.parametrize(
        ("quality", "iou"), [([], []), ([0.5], [0.5, 0.6]), ([np.nan], [0.5]), ([0.5], [np.inf]), ([[0.5]], [[0.5]])]
    )
    def test_what_has_no_curve_is_refused(self, quality: list[float], iou: list[float]) -> None:
        with pytest.raises(ValueError, match="quality"):
            curve(np.array(quality), np.array(iou))
        with pytest.raises(ValueError, match="share"):
            kept_and_rest(np.array([0.5]), np.array([0.5]), share=1.0)


class TestSpearman:
    @given(pairs)
    def test_agrees_with_scipy(self, found: list[tuple[float, float]]) -> None:
        quality, iou = split(found)
        if len(set(quality)) > 1 and len(set(iou)) > 1:
            assert spearman(quality, iou) == pytest.approx(stats.spearmanr(quality, iou).statistic, abs=1e-9)
        else:
            assert spearman(quality, iou) == 0.0


class TestBootstrap:
    @settings(deadline=None, max_examples=20)
    @given(st.integers(0, 1000))
    def test_copies_of_a_mask_are_no_more_certain(self, seed: int) -> None:
        """What a bootstrap by rows gets wrong: the same objects twenty times over are not twenty times the data."""
        rng = np.random.default_rng(seed)
        quality, iou = rng.random(12), rng.random(12)
        names = np.array([f"object {k}" for k in range(12)])

        def mean(_: np.ndarray, y: np.ndarray) -> float:
            return float(y.mean())

        once = bootstrap(mean, quality, iou, names, draws=300, seed=seed)
        often = bootstrap(mean, *(np.tile(values, 20) for values in (quality, iou, names)), draws=300, seed=seed)
        assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high))

    def test_covers_the_mean_about_as_often_as_it_says(self) -> None:
        rng = np.random.default_rng(3)
        hits = 0
        for _ in range(120):
            effect = np.repeat(rng.normal(0.5, 0.1, 25), 4)
            iou = effect + rng.normal(0, 0.02, 100)
            found = bootstrap(
                lambda _, y: float(y.mean()), iou, iou, np.repeat(np.arange(25), 4).astype(str), draws=150
            )
            hits += found.low <= 0.5 <= found.high
        assert 0.86 <= hits / 120 <= 1.0

    def test_is_the_same_every_time(self) -> None:
        values = np.linspace(0, 1, 20)
        first, second = (bootstrap(spearman, values, values**2, values.astype(str), draws=50) for _ in range(2))
        assert first == second
        assert str(first).startswith("1.000 [")


class TestReliability:
    def test_bins_hold_every_mask_once(self) -> None:
        rng = np.random.default_rng(0)
        quality = rng.random(103)
        found = reliability(quality, quality, bins=5)
        assert sum(one.n for one in found) == 103
        assert all(one.low <= one.quality <= one.high for one in found)
        assert calibration_error(quality, quality) == pytest.approx(0.0)
        assert calibration_error(quality, np.zeros(103)) == pytest.approx(quality.mean())

    def test_ties_stay_together(self) -> None:
        assert [one.n for one in reliability(np.full(9, 0.4), np.linspace(0, 1, 9))] == [9]
