"""The painter: fills polygons in order into an index image, at any pixel size.

Both sensors are painted from the same polygons in the same order, the VHR tiles at twice their resolution and the
multispectral scene at half a metre, so they are co-registered by construction.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.ragged import ranges
from utils.sample.polygons import RAISED, SHADOW
from utils.sample.scene import Scene

FIXED_POINT_BITS = 6
"""Sub-pixel bits of the coordinates handed to the polygon filler."""
EDGE_INSET_PX = 0.45
"""OpenCV fills every pixel an outline touches; exact outlines are drawn this much smaller to undo it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Painting:
    """A painted window of a scene."""

    owner: NDArray[np.int32]
    """Index of the topmost polygon, shape (rows, columns)."""
    shadow: NDArray[np.uint8]
    """1 where a cast shadow lies on it, shape (rows, columns)."""


def paint(scene: Scene, left: float, top: float, pixel_m: float, height: int, width: int) -> Painting:
    """Paint the window whose upper-left corner is ``(left, top)``, north up.

    Args:
        scene: what to paint.
        left: x of the left edge, UTM metres.
        top: y of the upper edge, UTM metres.
        pixel_m: pixel size, metres.
        height: rows.
        width: columns.
    """
    right, bottom = left + width * pixel_m, top - height * pixel_m
    west, south, east, north = scene.bounds.T
    chosen = np.flatnonzero((east > left) & (west < right) & (north > bottom) & (south < top))
    owner = np.zeros((height, width), np.int32)
    shadow = np.zeros((height, width), np.uint8)
    rings = _fixed_point_rings(scene, chosen, left, top, pixel_m)
    for polygon, ring, ink in zip(chosen.tolist(), rings, scene.ink[chosen], strict=True):
        if ink == SHADOW:
            cv2.fillPoly(shadow, [ring], 1, shift=FIXED_POINT_BITS)
            continue
        cv2.fillPoly(owner, [ring], polygon, shift=FIXED_POINT_BITS)
        if ink == RAISED:
            cv2.fillPoly(shadow, [ring], 0, shift=FIXED_POINT_BITS)
    return Painting(owner=owner, shadow=shadow)


def _fixed_point_rings(
    scene: Scene, chosen: NDArray[np.int64], left: float, top: float, pixel_m: float
) -> list[NDArray[np.int32]]:
    """Outlines of the chosen polygons in pixels from the first pixel's centre, as fixed-point integers."""
    if not len(chosen):
        return []
    counts = scene.starts[chosen + 1] - scene.starts[chosen]
    ends = np.cumsum(counts)
    vertex = ranges(scene.starts[chosen], counts)
    moved = scene.vertices[vertex] + scene.inward[vertex] * (EDGE_INSET_PX * pixel_m)
    pixels = np.column_stack([(moved[:, 0] - left) / pixel_m - 0.5, (top - moved[:, 1]) / pixel_m - 0.5])
    return np.split(np.round(pixels * (1 << FIXED_POINT_BITS)).astype(np.int32), ends[:-1])
