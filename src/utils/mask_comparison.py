"""How two masks of one object compare: overlap, boundary and area; and sums of many comparisons.

The boundary measure is the F-measure of Martin et al. (TPAMI 2004) in the form of Csurka et al., "What is a good
evaluation measure for semantic segmentation?" (BMVC 2013) and Perazzi et al. (DAVIS, CVPR 2016): precision is the share
of the first mask's boundary pixels within a tolerance of the second's boundary, recall the other way round, F1 their
harmonic mean. Distances are Euclidean, between pixel centres.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.quality import iou

Bools = NDArray[np.bool_]

SIZE_EDGES_M2 = (20.0, 100.0, 1000.0)
"""Where size classes part, square metres."""
SIZE_CLASSES = ("< 20 m²", "20–100 m²", "100–1000 m²", "≥ 1000 m²")
"""Names of the size classes, smallest first."""
TOLERANCE_PX = 2.0
"""Default tolerance of the boundary measure, pixels: how well outlines drawn by hand are known."""

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
# distances are float32; squared ones are whole numbers, so that neighbours differ by far more
_ROUNDING = 1e-4


@dataclass(frozen=True, kw_only=True)
class BoundaryScore:
    """How well two boundaries match, 0 to 1."""

    precision: float
    """Share of the first boundary that lies near the second."""
    recall: float
    """Share of the second boundary that lies near the first."""

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 when both are."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


@dataclass(frozen=True, kw_only=True)
class MaskPair:
    """Measures of one pair of masks."""

    iou: float
    """Intersection over union, 0 to 1; 1 when both are empty."""
    boundary: BoundaryScore
    """Boundary precision and recall."""
    first_m2: float
    """Area of the first mask, square metres."""
    second_m2: float
    """Area of the second mask, square metres."""

    @property
    def both_empty(self) -> bool:
        """Whether there is nothing to compare."""
        return self.first_m2 == 0 and self.second_m2 == 0

    @property
    def log_ratio(self) -> float | None:
        """Natural logarithm of first area over second; None where one is empty."""
        return math.log(self.first_m2 / self.second_m2) if self.first_m2 > 0 and self.second_m2 > 0 else None


def boundary(mask: Bools) -> Bools:
    """Pixels of the mask with one of their four neighbours outside of it; shape (rows, columns).

    The window's own edge is no boundary: the mask may go on behind it.
    """
    image = mask.astype(np.uint8)
    return np.asarray((image - cv2.erode(image, _CROSS)) > 0)


def boundary_score(first: Bools, second: Bools, tolerance_px: float = TOLERANCE_PX) -> BoundaryScore:
    """Boundary precision and recall of two masks of one shape.

    Masks without any boundary in the window, empty or filling it, match fully when they are equal and not at all
    otherwise; where only one has a boundary there is no match.

    Args:
        first: boolean mask, shape (rows, columns).
        second: boolean mask of the same shape.
        tolerance_px: how far apart boundary pixels may lie to match, pixels.

    Raises:
        ValueError: the shapes differ, or the tolerance is negative or no number.
    """
    if first.shape != second.shape:
        raise ValueError(f"masks of shapes {first.shape} and {second.shape} cannot be compared")
    if not tolerance_px >= 0:
        raise ValueError(f"the tolerance is {tolerance_px}; give pixels, 0 or more")
    one, two = boundary(first), boundary(second)
    if not one.any() and not two.any():
        equal = float(np.array_equal(first, second))
        return BoundaryScore(precision=equal, recall=equal)
    return BoundaryScore(precision=_near(one, two, tolerance_px), recall=_near(two, one, tolerance_px))


def mask_pair(first: Bools, second: Bools, *, pixel_m2: float, tolerance_px: float = TOLERANCE_PX) -> MaskPair:
    """Measures of two masks on one grid.

    Args:
        first: boolean mask, shape (rows, columns).
        second: boolean mask of the same shape.
        pixel_m2: area of a pixel, square metres.
        tolerance_px: tolerance of the boundary measure, pixels.

    Raises:
        ValueError: the shapes differ, or the tolerance is negative or no number.
    """
    return MaskPair(
        boundary=boundary_score(first, second, tolerance_px),
        iou=iou(first, second),
        first_m2=float(first.sum()) * pixel_m2,
        second_m2=float(second.sum()) * pixel_m2,
    )


def size_class(area_m2: float) -> str:
    """The size class of an area in square metres."""
    return SIZE_CLASSES[int(np.searchsorted(SIZE_EDGES_M2, area_m2, side="right"))]


def _near(one: Bools, two: Bools, tolerance_px: float) -> float:
    """Share of boundary ``one`` within the tolerance of boundary ``two``; 0 where one of them is empty."""
    if not one.any() or not two.any():
        return 0.0
    distance = cv2.distanceTransform((~two).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((distance[one] <= tolerance_px + _ROUNDING).mean())


@dataclass(kw_only=True)
class ComparisonTally:
    """Sums over pairs of masks, and what had no counterpart; nothing is kept of single pairs."""

    pairs: int = 0
    """Pairs with pixels in at least one mask: what the means are over."""
    both_empty: int = 0
    """Pairs of two empty masks, which are in no mean."""
    only_first: int = 0
    """Masks of the first side without a counterpart."""
    only_second: int = 0
    """Masks, or true objects, of the second side without a counterpart."""
    one_empty: int = 0
    """Pairs with one empty mask: overlap 0, and in no mean of log-ratios."""
    _iou: float = 0.0
    _precision: float = 0.0
    _recall: float = 0.0
    _f1: float = 0.0
    _first_m2: float = 0.0
    _second_m2: float = 0.0
    _log_ratio: float = 0.0

    def add(self, pair: MaskPair) -> None:
        """Count one pair."""
        if pair.both_empty:
            self.both_empty += 1
            return
        self.pairs += 1
        self._iou += pair.iou
        self._precision += pair.boundary.precision
        self._recall += pair.boundary.recall
        self._f1 += pair.boundary.f1
        self._first_m2 += pair.first_m2
        self._second_m2 += pair.second_m2
        if pair.log_ratio is None:
            self.one_empty += 1
        else:
            self._log_ratio += pair.log_ratio

    def summary(self) -> dict[str, float | int | None]:
        """Counts and means; None where there is nothing to take a mean of.

        Means over pairs are ``iou``, ``boundary_f1``, ``boundary_precision``, ``boundary_recall`` and
        ``mean_log_area_ratio``; ``area_ratio`` is the sum of first areas over that of second ones.
        """
        both = self.pairs - self.one_empty
        return {
            "pairs": self.pairs,
            "iou": self._mean(self._iou),
            "boundary_f1": self._mean(self._f1),
            "boundary_precision": self._mean(self._precision),
            "boundary_recall": self._mean(self._recall),
            "area_ratio": self._first_m2 / self._second_m2 if self._second_m2 else None,
            "mean_log_area_ratio": self._log_ratio / both if both else None,
            "one_empty": self.one_empty,
            "both_empty": self.both_empty,
            "only_first": self.only_first,
            "only_second": self.only_second,
        }

    def _mean(self, total: float) -> float | None:
        return total / self.pairs if self.pairs else None
