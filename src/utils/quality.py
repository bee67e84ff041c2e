"""How far a mask can be trusted: overlap measures, a score from several signs, and the verdict it earns.

The score ranks masks; it is not a probability and is not calibrated.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.errors import ConfigError
from utils.types import Verdict

Bools = NDArray[np.bool_]

SCORE_PARTS = ("stability", "rectangularity", "box_agreement")
"""Scores whose mean is the mask's score."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where accept, review and reject part."""

    accept: float = 0.7
    """Least score of an accepted mask."""
    review: float = 0.45
    """Least score of a mask worth a look; below it the mask is rejected."""
    min_area_m2: float = 1.5
    """Least area, about one module, square metres; a smaller mask is rejected."""
    max_area_m2: float = 5000.0
    """Largest area accepted unseen, square metres; a larger mask is reviewed."""
    review_flags: tuple[str, ...] = ("point_only", "no_context")
    """Flags of masks that are never accepted unseen."""

    def __post_init__(self) -> None:
        """Refuse limits nobody can follow."""
        if not 0 <= self.review <= self.accept <= 1:
            raise ConfigError(f"thresholds: 0 ≤ review ({self.review}) ≤ accept ({self.accept}) ≤ 1 does not hold")


def iou(a: Bools, b: Bools, ignore: Bools | None = None) -> float:
    """Intersection over union of two masks of one shape, 0 to 1; 1 when both are empty.

    Args:
        a: boolean mask.
        b: boolean mask.
        ignore: True where pixels do not count.
    """
    keep = np.True_ if ignore is None else ~ignore
    union = int(((a | b) & keep).sum())
    return int((a & b & keep).sum()) / union if union else 1.0


def edge_band(mask: Bools, pixels: int) -> Bools:
    """Pixels within ``pixels`` of the mask's outline, on both sides: where a hand-drawn edge may be wrong.

    The window's own edge is no outline.
    """
    if pixels <= 0:
        return np.zeros_like(mask)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    image = mask.astype(np.uint8)
    return np.asarray(cv2.dilate(image, kernel) != cv2.erode(image, kernel))


def rectangularity(mask: Bools) -> float:
    """Area of the mask over the area of the least rotated rectangle around its pixels, 0 to 1; 0 when empty."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return 0.0
    points = np.concatenate(contours)[:, 0, :]
    corners = np.concatenate([points + shift for shift in ((0, 0), (1, 0), (0, 1), (1, 1))])
    _, (width, height), _ = cv2.minAreaRect(corners.astype(np.float32))
    return min(1.0, int(mask.sum()) / (width * height))


def mask_score(scores: Mapping[str, float], flags: Collection[str] = ()) -> float:
    """Mean of ``stability``, ``rectangularity`` and ``box_agreement``, 0 to 1, uncalibrated.

    Parts a backend does not report are left out; without any the score is 0. A ``point_only`` mask has no box to
    agree with, which counts as no agreement; ``empty`` and ``not_in_chip`` masks score 0.
    """
    if {"empty", "not_in_chip"} & set(flags):
        return 0.0
    known = [scores[part] for part in SCORE_PARTS if part in scores]
    if not known:
        return 0.0
    return sum(known) / (len(SCORE_PARTS) if "point_only" in flags else len(known))


def verdict(
    score: float, flags: Collection[str], area_m2: float, thresholds: Thresholds | None = None
) -> tuple[Verdict, tuple[str, ...]]:
    """What becomes of a mask, and why.

    Args:
        score: from :func:`mask_score`.
        flags: of the mask.
        area_m2: area of the refined mask, square metres.
        thresholds: where verdicts part.

    Returns:
        The verdict and its reasons, empty for an accepted mask. A mask the backend could not judge (``no_context``)
        is reviewed whatever its score.
    """
    limits = thresholds or Thresholds()
    if "not_in_chip" in flags:
        return "not_in_chip", ("not_in_chip",)
    if "empty" in flags or area_m2 <= 0:
        return "reject", ("empty",)
    if area_m2 < limits.min_area_m2:
        return "reject", ("below_min_area",)
    unjudged = "no_context" in flags
    if score < limits.review and not unjudged:
        return "reject", ("below_review_score",)
    reasons = [flag for flag in limits.review_flags if flag in flags]
    if area_m2 > limits.max_area_m2:
        reasons.append("above_max_area")
    if score < limits.accept:
        reasons.append("below_accept_score")
    return ("review" if reasons else "accept"), tuple(reasons)
