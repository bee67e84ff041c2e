"""How far a mask can be trusted: overlap measures, a score from several signs, and the verdict it earns.

The score ranks masks; it is not a probability. :mod:`utils.calibration` turns it into an expected IoU where masks with
truth are known; :mod:`utils.mask_scores` holds the signs that are read from the mask and its chip.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.errors import ConfigError
from utils.types import Verdict

Bools = NDArray[np.bool_]

SCORE_PARTS = ("predicted_iou", "stability", "box_agreement", "ring_contrast")
"""Scores whose mean is the mask's score, where they are known."""

UNJUDGED = ("empty", "not_in_chip", "no_context")
"""Flags of masks without a score: there are no pixels, or the backend gave the prompt back."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where accept, review and reject part."""

    accept: float = 0.7
    """Least quality of an accepted mask."""
    review: float = 0.45
    """Least quality of a mask worth a look; below it the mask is rejected."""
    min_area_m2: float = 1.5
    """Least area, about one module, square metres; a smaller mask is rejected."""
    max_area_m2: float = 5000.0
    """Largest area accepted unseen, square metres; a larger mask is reviewed."""
    min_valid_share: float = 0.9
    """Least share of valid pixels in and around an accepted mask; below it the mask is reviewed."""
    min_area_agreement: float = 0.25
    """Least agreement with the area a label states; below it the mask is reviewed."""
    review_flags: tuple[str, ...] = ("point_only", "no_context")
    """Flags of masks that are never accepted unseen."""

    def __post_init__(self) -> None:
        """Refuse limits nobody can follow."""
        if not 0 <= self.review <= self.accept <= 1:
            raise ConfigError(f"thresholds: 0 ≤ review ({self.review}) ≤ accept ({self.accept}) ≤ 1 does not hold")
        if not 0 <= self.min_area_m2 <= self.max_area_m2:
            raise ConfigError(
                f"thresholds: 0 ≤ min_area_m2 ({self.min_area_m2}) ≤ max_area_m2 ({self.max_area_m2}) does not hold"
            )
        for name in ("min_valid_share", "min_area_agreement"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"thresholds: {name} is {getattr(self, name)}, a share lies in 0 to 1")


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


def agreement(mask: Bools, others: Sequence[Bools]) -> float:
    """Mean IoU of a mask with other answers to its prompt, 0 to 1; 0 for an empty mask or without others.

    With the masks of :func:`utils.prompts.perturbed` prompts this is the score ``stability``; with those of other
    backends or settings it is the agreement between them.
    """
    if not mask.any() or not others:
        return 0.0
    return float(np.mean([iou(mask, other) for other in others]))


def stability_from_logits(
    logits: NDArray[np.floating], *, offset: float = 1.0, threshold: float = 0.0
) -> NDArray[np.float64]:
    """IoU of the masks a logit map gives at a threshold raised and lowered by ``offset``, 0 to 1.

    The stability score of segment-anything (``calculate_stability_score``): the stricter mask lies within the laxer
    one, so that their IoU is the ratio of their pixels. Where the laxer one is empty the score is 0; NaN is outside.

    Args:
        logits: shape (…, rows, columns).
        offset: how far the threshold moves, 0 or more.
        threshold: above it a pixel is inside.

    Returns:
        Shape (…).
    """
    inner = (logits > threshold + offset).sum(axis=(-2, -1))
    outer = (logits > threshold - offset).sum(axis=(-2, -1))
    return np.asarray(np.where(outer > 0, inner / np.maximum(outer, 1), 0.0), np.float64)


def predicted_iou(value: float) -> float:
    """A model's own estimate of IoU cut to 0 to 1; heads without a sigmoid leave that range, and NaN counts as 0."""
    return float(min(1.0, max(0.0, value))) if np.isfinite(value) else 0.0


def area_agreement(area_m2: float, stated_m2: float | None) -> float | None:
    """The smaller over the larger of a mask's area and the one its label states, 0 to 1; None where none is stated.

    Args:
        area_m2: of the mask, square metres.
        stated_m2: of the label, square metres; a value that is not finite and above 0 states nothing.
    """
    if stated_m2 is None or not np.isfinite(stated_m2) or stated_m2 <= 0:
        return None
    return float(min(area_m2, stated_m2) / max(area_m2, stated_m2))


def mask_score(scores: Mapping[str, float], flags: Collection[str] = ()) -> float:
    """Mean of the :data:`SCORE_PARTS` that are known, 0 to 1, uncalibrated.

    Scores that are not finite are not known; without any the score is 0. A ``point_only`` mask has no box to agree
    with, which counts as no agreement; ``empty``, ``not_in_chip`` and ``no_context`` masks score 0.
    """
    if set(UNJUDGED) & set(flags):
        return 0.0
    known = [scores[part] for part in SCORE_PARTS if np.isfinite(scores.get(part, np.nan))]
    if not known:
        return 0.0
    return sum(known) / (len(known) + ("point_only" in flags and "box_agreement" not in scores))


def verdict(
    quality: float,
    flags: Collection[str],
    area_m2: float,
    thresholds: Thresholds | None = None,
    *,
    scores: Mapping[str, float] | None = None,
) -> tuple[Verdict, tuple[str, ...]]:
    """What becomes of a mask, and why.

    Args:
        quality: the mask's calibrated quality, or its score where it has none.
        flags: of the mask.
        area_m2: area of the refined mask, square metres.
        thresholds: where verdicts part.
        scores: of the mask; ``valid_share`` and ``area_agreement`` are held against the thresholds where known.

    Returns:
        The verdict and its reasons, empty for an accepted mask. A mask the backend could not judge (``no_context``)
        is reviewed whatever its quality.
    """
    limits, known = thresholds or Thresholds(), scores or {}
    if "not_in_chip" in flags:
        return "not_in_chip", ("not_in_chip",)
    if "empty" in flags or area_m2 <= 0:
        return "reject", ("empty",)
    if area_m2 < limits.min_area_m2:
        return "reject", ("below_min_area",)
    unjudged = "no_context" in flags
    if not quality >= limits.review and not unjudged:
        return "reject", ("below_review_score",)
    reasons = [flag for flag in limits.review_flags if flag in flags]
    if area_m2 > limits.max_area_m2:
        reasons.append("above_max_area")
    if known.get("valid_share", 1.0) < limits.min_valid_share:
        reasons.append("nodata_around")
    if known.get("area_agreement", 1.0) < limits.min_area_agreement:
        reasons.append("unlike_stated_area")
    if not quality >= limits.accept:
        reasons.append("below_accept_score")
    return ("review" if reasons else "accept"), tuple(reasons)
