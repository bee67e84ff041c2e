"""The rule that asks the mask factory: does a segmenter, told the detection's box alone, draw the detection again."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
import shapely
from hamilton.function_modifiers import tag
from numpy.typing import NDArray

from dataflows._findings import finding, scaled
from dataflows.validation_config import ValidationRules
from dataflows.validation_imagery import VhrView
from utils.errors import MaskError
from utils.evidence import Finding, abstains
from utils.geo import reproject
from utils.quality import iou
from utils.refinement import RefinementSteps, refine
from utils.types import ChipGrid, Mask, MaskBackend, Prompt, RasterChip

Bools = NDArray[np.bool_]
RULE = "mask_agreement"


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskFactory:
    """How the build draws masks."""

    segmenter: MaskBackend
    """The mask backend."""
    steps: RefinementSteps
    """How its masks are refined."""


@tag(stage="validation")
def mask_agreement(
    vhr_views: dict[str, list[VhrView]],
    detection_outlines: dict[str, shapely.Geometry],
    mask_factory: MaskFactory,
    rules: ValidationRules,
) -> dict[str, Finding]:
    """IoU of the detection with the refined mask that the build's mask backend draws in its box (Jaccard 1912).

    An array is an object with its own colour and edges: another method, without the detector's weights, finds the same
    outline. A patch of a larger surface is drawn otherwise; a car or a pool is drawn the same, so that agreement
    speaks for little and disagreement against. A backend that fails on it makes the rule abstain.

    Log-odds: +0.3 at 0.85 and more, −1.25 at 0.45 and less.
    """
    found = {}
    for one, views in vhr_views.items():
        if not views:
            found[one] = abstains(RULE, "not seen in VHR imagery, on which the mask factory draws")
            continue
        view = _coarser(views[0], rules.mask_side_px)
        outline = reproject(detection_outlines[one], 4326, view.chip.grid.epsg)
        prompt = Prompt(prompt_id=one, label_id=one, kind="box", geometry=shapely.box(*outline.bounds))
        try:
            [drawn] = mask_factory.segmenter.segment(view.chip, [prompt])
        except MaskError as error:
            found[one] = abstains(RULE, f"the mask factory could not draw it: {error}")
            continue
        found[one] = _compared(refine(drawn, steps=mask_factory.steps), view)
    return found


def _compared(mask: Mask, view: VhrView) -> Finding:
    if not mask.data.any() or "no_context" in mask.flags:
        return abstains(RULE, "the mask factory saw nothing to draw in its box")
    overlap = iou(mask.data, view.mask)
    odds = scaled(overlap, 0.45, 0.85, against=1.25, speaks_for=0.3)
    words = f"the mask factory {'agrees' if odds > 0 else 'draws another outline'}: IoU {overlap:.2f}"
    scores: Mapping[str, float] = mask.scores
    return finding(
        RULE, overlap, "0-1", odds, words, seen=view.chip,
        details={name: scores.get(name) for name in ("contrast", "stability")},
    )  # fmt: skip


def _coarser(view: VhrView, side_px: int) -> VhrView:
    """The view in pixels so coarse that the object is at most ``side_px`` long: a segmenter's time goes with pixels."""
    rows, columns = (np.flatnonzero(view.mask.any(axis=axis)) for axis in (1, 0))
    longest = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1 if len(rows) else 1
    factor = -(-longest // side_px)
    if factor == 1:
        return view
    grid = view.chip.grid
    height, width = grid.height // factor, grid.width // factor
    a, b, c, d, e, f = grid.transform
    coarse = ChipGrid(epsg=grid.epsg, transform=(a * factor, b, c, d, e * factor, f), height=height, width=width)
    inner = np.s_[: height * factor, : width * factor]
    data = [cv2.resize(plane[inner], (width, height), interpolation=cv2.INTER_AREA) for plane in view.chip.data]
    valid, mask = (_whole(part[inner], factor) for part in (view.chip.valid, view.mask))
    chip: RasterChip = replace(view.chip, data=np.stack(data), valid=valid, grid=coarse)
    return VhrView(chip=chip, mask=mask)


def _whole(part: Bools, factor: int) -> Bools:
    rows, columns = part.shape[0] // factor, part.shape[1] // factor
    return np.asarray(part.reshape(rows, factor, columns, factor).mean(axis=(1, 3)) >= 0.5)
