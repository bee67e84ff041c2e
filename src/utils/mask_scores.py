"""Scores of a mask that are read from the mask, its chip and its prompt, whichever backend drew it.

Each lies in 0 to 1, higher is better, and is never NaN: what cannot be told is left out.

    ==================  =====================================================================================
    score               formula
    ==================  =====================================================================================
    ``box_agreement``   IoU of the mask and the visible, valid pixels of the prompt; not for points
    ``rectangularity``  area over the area of the least rotated rectangle around it; not for polygons
    ``solidity``        area over the area of its convex hull
    ``ring_contrast``   Hellinger distance of the colours inside and of a 2 m ring outside
    ``valid_share``     share of valid pixels in the mask and 2 m around it
    ``area_agreement``  the smaller over the larger of its area and the area its label states
    ==================  =====================================================================================
"""

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from utils.prompts import to_pixels
from utils.quality import area_agreement, iou, rectangularity
from utils.refinement import area_m2
from utils.types import Mask, Prompt, RasterChip

Bools = NDArray[np.bool_]

RING_M = 2.0
"""Width of the ring of surroundings a mask is compared with, metres."""

_LEAST_RING_PX = 6
_SMALL_KERNEL = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
_COLOURS = 8 * 16 * 16


def mask_scores(mask: Mask, chip: RasterChip, prompt: Prompt, *, stated_m2: float | None = None) -> dict[str, float]:
    """The scores of this module that can be told, by name; none for an empty mask.

    A mask flagged ``no_context`` is its own prompt and has no ``box_agreement`` or ``rectangularity``; the area of a
    ``clipped`` one is not held against the stated area.

    Args:
        mask: refined, on the grid of ``chip``.
        chip: what it was drawn on; ``ring_contrast`` needs uint8 red, green, blue.
        prompt: in the CRS of the grid.
        stated_m2: area the label states, square metres; None where it does not.
    """
    if not mask.data.any():
        return {}
    window = _around(mask.data, RING_M / chip.grid.gsd_m)
    inside, valid = mask.data[window], chip.valid[window]
    scores: dict[str, float | None] = {
        "solidity": solidity(inside),
        "valid_share": valid_share(inside, valid, RING_M / chip.grid.gsd_m),
    }
    if "no_context" not in mask.flags:
        if prompt.kind != "point":
            scores["box_agreement"] = iou(mask.data, visible(prompt, chip))
        if prompt.kind != "polygon":
            scores["rectangularity"] = rectangularity(inside)
    if chip.data.dtype == np.uint8 and len(chip.data) == 3:
        scores["ring_contrast"] = ring_contrast(
            chip.data[(slice(None), *window)], inside, valid, RING_M / chip.grid.gsd_m
        )
    if "clipped" not in mask.flags:
        scores["area_agreement"] = area_agreement(area_m2(mask), stated_m2)
    return {name: float(value) for name, value in scores.items() if value is not None}


def solidity(mask: Bools) -> float:
    """Area of the mask over the area of the convex hull of its pixels, corners included; 0 when empty."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return 0.0
    points = np.concatenate(contours)[:, 0, :]
    corners = np.concatenate([points + shift for shift in ((0, 0), (1, 0), (0, 1), (1, 1))])
    hull = float(cv2.contourArea(cv2.convexHull(corners.astype(np.int32))))
    return min(1.0, int(mask.sum()) / hull)


def valid_share(mask: Bools, valid: Bools, reach_px: float) -> float:
    """Share of valid pixels in a mask and up to ``reach_px`` around it, 0 to 1; of the whole window for no mask."""
    near = _grown(mask, reach_px) if mask.any() else np.ones_like(mask)
    return float(valid[near].mean()) if near.any() else 0.0


def ring_contrast(rgb: NDArray[np.generic], mask: Bools, valid: Bools, reach_px: float) -> float | None:
    """How differently a mask and the ring around it are coloured: 0 alike, 1 without a colour in common.

    Hellinger distance ``√(1 − Σ √(pᵢ qᵢ))`` of two histograms over CIELAB (3 × 3 median; 8 steps of lightness, 16 each
    of a and b), pixels at the outline left out on both sides.

    Args:
        rgb: uint8, shape (3, rows, columns).
        mask: boolean, shape (rows, columns).
        valid: True where pixels hold data, shape (rows, columns).
        reach_px: width of the ring, pixels.

    Returns:
        None where fewer than six valid pixels of the ring are visible, or none of the mask.
    """
    image = mask.astype(np.uint8)
    inner = (cv2.erode(image, _SMALL_KERNEL) > 0) & valid
    if not inner.any():
        inner = mask & valid
    ring = _grown(mask, max(2.0, reach_px)) & ~(cv2.dilate(image, _SMALL_KERNEL) > 0) & valid
    if int(ring.sum()) < _LEAST_RING_PX or not inner.any():
        return None
    colours = _colour_words(rgb)
    p, q = (np.bincount(colours[where], minlength=_COLOURS) / int(where.sum()) for where in (inner, ring))
    return float(np.sqrt(max(0.0, 1.0 - float(np.sqrt(p * q).sum()))))


def visible(prompt: Prompt, chip: RasterChip) -> Bools:
    """Valid pixels whose centres lie in the prompt's geometry, shape (rows, columns)."""
    shape = to_pixels(prompt.geometry, chip.grid)
    inside = np.zeros(chip.valid.shape, np.bool_)
    col0, row0, col1, row1 = shape.bounds
    rows = slice(max(0, int(np.floor(row0))), min(chip.grid.height, int(np.ceil(row1))))
    cols = slice(max(0, int(np.floor(col0))), min(chip.grid.width, int(np.ceil(col1))))
    if rows.start >= rows.stop or cols.start >= cols.stop:
        return inside
    shapely.prepare(shape)
    y, x = np.mgrid[rows, cols] + 0.5
    inside[rows, cols] = shapely.contains_xy(shape, x, y)
    return inside & chip.valid


def _colour_words(rgb: NDArray[np.generic]) -> NDArray[np.int64]:
    pixels = np.ascontiguousarray(np.moveaxis(rgb, 0, -1)).astype(np.uint8)
    lab = cv2.cvtColor(cv2.medianBlur(pixels, 3), cv2.COLOR_RGB2LAB).astype(np.int64)
    a, b = (np.clip((lab[..., plane] - 96) // 8, 0, 15) for plane in (1, 2))
    return np.asarray(lab[..., 0] // 32 * 256 + a * 16 + b)


def _grown(mask: Bools, reach_px: float) -> Bools:
    reach = max(1, round(reach_px))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel) > 0)


def _around(mask: Bools, reach_px: float) -> tuple[slice, slice]:
    """The window that holds a mask and its ring, with room for the median filter."""
    margin = max(2, round(reach_px)) + 3
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    return (
        slice(max(0, int(rows[0]) - margin), min(height, int(rows[-1]) + margin + 1)),
        slice(max(0, int(cols[0]) - margin), min(width, int(cols[-1]) + margin + 1)),
    )
