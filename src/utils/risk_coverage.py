"""How well a quality ranks masks: risk–coverage curves, their area, reliability, rank correlation, with intervals.

Masks of one object or tile are not independent: intervals come from a bootstrap that draws whole groups (the cluster
bootstrap; Davison & Hinkley 1997, §3.8).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats, Floats], float]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and the central part of its bootstrap distribution."""

    value: float
    """On the data as they are; NaN where it is not defined."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""

    def __str__(self) -> str:
        """Three digits and the interval in brackets."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Masks of similar quality."""

    low: float
    """Least quality."""
    high: float
    """Largest quality."""
    n: int
    """Masks."""
    quality: float
    """Their mean quality."""
    iou: float
    """Their mean IoU: that of a calibrated quality is the same."""
    half: float
    """Share with IoU of ½ and more."""


def curve(quality: Floats, iou: Floats) -> tuple[Floats, Floats]:
    """Coverage and the mean IoU of the best masks by quality.

    Masks of equal quality enter together, so that their order means nothing (Geifman & El-Yaniv 2017 draw 1 − IoU).

    Args:
        quality: shape (n,), higher is better.
        iou: shape (n,).

    Returns:
        Coverage, shape (k,), rising from above 0 to 1; mean IoU of the masks kept at each.

    Raises:
        ValueError: the arrays are empty, differ in length or hold NaN.
    """
    quality, iou = _checked(quality, iou)
    order = np.argsort(-quality, kind="stable")
    last = np.append(np.flatnonzero(np.diff(quality[order])), len(order) - 1)
    counts = last + 1.0
    return counts / len(order), np.cumsum(iou[order])[last] / counts


def area_under_curve(quality: Floats, iou: Floats) -> float:
    """Mean over all coverages of the mean IoU kept: the area under :func:`curve`, held level within ties."""
    coverage, kept = curve(quality, iou)
    return float(np.sum(kept * np.diff(coverage, prepend=0.0)))


def kept_and_rest(quality: Floats, iou: Floats, share: float = 0.7) -> tuple[float, float]:
    """Mean IoU of the best ``share`` of the masks and of the others; masks tied at the border count in proportion.

    Raises:
        ValueError: as :func:`curve`, or ``share`` is not between 0 and 1.
    """
    quality, iou = _checked(quality, iou)
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; between 0 and 1 is needed")
    wanted = share * len(iou)
    border = np.sort(quality)[::-1][min(len(iou) - 1, int(np.ceil(wanted)) - 1)]
    above, tied = quality > border, quality == border
    weight = above + tied * (wanted - above.sum()) / tied.sum()
    return float(np.average(iou, weights=weight)), float(np.average(iou, weights=1 - weight))


def spearman(x: Floats, y: Floats) -> float:
    """Rank correlation, −1 to 1, equal values sharing the mean of their ranks; 0 where one of them is constant."""
    a, b = _ranks(x), _ranks(y)
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def bootstrap(
    statistic: Statistic,
    quality: Floats,
    iou: Floats,
    groups: Sequence[str] | NDArray[np.str_],
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """``statistic(quality, iou)`` with a percentile interval; whole groups are drawn with replacement.

    Args:
        statistic: a figure of the masks.
        quality: shape (n,).
        iou: shape (n,).
        groups: of each mask: its object, tile or chip.
        draws: bootstrap samples.
        level: of the interval.
        seed: of the draws.
    """
    quality, iou = _checked(quality, iou)
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rows = [np.flatnonzero(member == k) for k in range(len(names))]
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        chosen = np.concatenate([rows[k] for k in rng.integers(0, len(rows), len(rows))])
        found.append(statistic(quality[chosen], iou[chosen]))
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=statistic(quality, iou), low=float(low), high=float(high))


def reliability(quality: Floats, iou: Floats, bins: int = 5) -> list[ReliabilityBin]:
    """Bins of equally many masks by quality, the worst first; equal qualities stay in one bin."""
    quality, iou = _checked(quality, iou)
    edges = np.quantile(quality, np.linspace(0, 1, bins + 1)[1:-1])
    place = np.searchsorted(edges, quality, side="left")
    found = []
    for k in np.unique(place):
        q, y = quality[place == k], iou[place == k]
        found.append(
            ReliabilityBin(
                low=float(q.min()),
                high=float(q.max()),
                n=len(q),
                quality=float(q.mean()),
                iou=float(y.mean()),
                half=float((y >= 0.5).mean()),
            )
        )
    return found


def calibration_error(quality: Floats, iou: Floats, bins: int = 5) -> float:
    """Mean absolute difference of quality and IoU over the bins of :func:`reliability`, weighted by their masks."""
    found = reliability(quality, iou, bins)
    return float(np.average([abs(one.quality - one.iou) for one in found], weights=[one.n for one in found]))


def _checked(quality: Floats, iou: Floats) -> tuple[Floats, Floats]:
    quality, iou = np.asarray(quality, np.float64), np.asarray(iou, np.float64)
    if quality.shape != iou.shape or quality.ndim != 1 or not len(quality):
        raise ValueError(f"quality {quality.shape} and iou {iou.shape} are one value per mask, of one mask or more")
    if not (np.isfinite(quality).all() and np.isfinite(iou).all()):
        raise ValueError("quality or iou holds values that are not finite")
    return quality, iou


def _ranks(values: Floats) -> Floats:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place], np.float64)
