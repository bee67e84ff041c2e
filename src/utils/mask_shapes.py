"""Morphology of boolean masks in ground units, and the choice of their pieces."""

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.types import ChipGrid

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]


def morphed(mask: Bytes, operation: int, radius_m: float, grid: ChipGrid) -> Bytes:
    """OpenCV's morphological ``operation`` with an ellipse of a ground radius; nothing happens under half a pixel."""
    a, b, _, d, e, _ = grid.transform
    radius_x, radius_y = round(radius_m / float(np.hypot(a, d))), round(radius_m / float(np.hypot(b, e)))
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_x + 1, 2 * radius_y + 1))
    return np.asarray(cv2.morphologyEx(mask, operation, element), dtype=np.uint8)


def filled(mask: Bytes, max_pixels: float = np.inf) -> Bools:
    """``mask`` with its holes of at most ``max_pixels`` filled; what reaches the window's edge is no hole."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((mask == 0).astype(np.uint8), connectivity=4)
    rows, cols = mask.shape
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    hole = (left > 0) & (top > 0) & (right < cols) & (bottom < rows) & (stats[:, cv2.CC_STAT_AREA] <= max_pixels)
    hole[0] = True
    return np.asarray(hole[labels]) if count > 1 else mask > 0


def largest_pieces(mask: Bools, least_share: float) -> Bools:
    """``mask`` without the connected pieces below ``least_share`` of the largest one's area."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    keep = areas >= max(1.0, least_share * int(areas.max()))
    return np.asarray(keep[labels])


def piece_at(mask: Bools, core: Bools) -> Bools:
    """The connected piece of ``mask`` that covers most of the core; empty when none touches it."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    in_core = np.bincount(labels[core & mask], minlength=count)
    return np.asarray((labels == int(in_core.argmax())) & mask)
