"""How far two models differ on the same ground, beyond what the choice of that ground explains."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A measure of two models and the difference of the second from the first."""

    first: float
    """Measure of the first model, 0 to 1; NaN where no PV is known or found."""
    second: float
    """Measure of the second."""
    low: float
    """Lower end of the interval of ``second - first``."""
    high: float
    """Upper end."""

    @property
    def value(self) -> float:
        """``second - first``."""
        return self.second - self.first

    @property
    def noise(self) -> float:
        """Half the width of the interval: a difference below it may come from the choice of cells."""
        return (self.high - self.low) / 2


def iou_and_f1(counts: Counts) -> dict[str, NDArray[np.float64]]:
    """IoU and F1 of the PV class from pooled pixels.

    Args:
        counts: true positives, false positives and false negatives, shape (…, 3).
    """
    tp, fp, fn = (counts[..., column].astype(np.float64) for column in range(3))
    with np.errstate(invalid="ignore"):
        return {"iou": tp / (tp + fp + fn), "f1": 2 * tp / (2 * tp + fp + fn)}


def paired_differences(
    first: Counts, second: Counts, cells: NDArray[np.uint64], *, draws: int, level: float, seed: int
) -> Mapping[str, Difference]:
    """IoU and F1 of two models on the same chips, with the interval of their difference.

    Whole cells are drawn with replacement, the same for both models, because chips of a cell resemble one another
    (block bootstrap: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", ch. 8; percentile interval, ch.
    13). With one cell there is nothing to draw, and the interval has no width.

    Args:
        first: true positives, false positives, false negatives of the first model, shape (chips, 3).
        second: likewise of the second.
        cells: cell of each chip, shape (chips,).
        draws: number of draws.
        level: share of the draws within the interval.
        seed: seed of the draws.
    """
    names, at = np.unique(cells, return_inverse=True)
    sums = np.zeros((2, len(names), 3), np.int64)
    for side, counts in enumerate((first, second)):
        np.add.at(sums[side], at, counts)
    chosen = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    drawn = [iou_and_f1(chosen @ side) for side in sums]
    whole = [iou_and_f1(side.sum(axis=0)) for side in sums]
    tails = [(1 - level) / 2, (1 + level) / 2]
    found = {}
    for name in ("iou", "f1"):
        spread = drawn[1][name] - drawn[0][name]
        spread = spread[np.isfinite(spread)]
        low, high = np.quantile(spread, tails) if len(spread) else (np.nan, np.nan)
        found[name] = Difference(
            first=float(whole[0][name]), second=float(whole[1][name]), low=float(low), high=float(high)
        )
    return found
