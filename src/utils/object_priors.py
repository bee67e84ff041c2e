"""How likely each pixel belongs to the object, from the prompt alone: its shape, its points, an earlier mask."""

from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.special import ndtr
from shapely import Geometry

from utils.box_shapes import CELLS, BoxShapes, box_shapes, directions
from utils.segmentation_settings import ClassicalSettings, Window
from utils.types import ChipGrid, PromptKind

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

_LEAST, _MOST = 2e-3, 0.86
_CENTRAL = 0.25
"""Radius around a point within which the object is surely seen, in widths of its search box."""
_BEYOND = 0.05
"""Likelihood of a pixel beyond a search box."""
_TRUST = 0.95
"""Weight of an earlier mask."""
_FILL = 0.55
"""Likelihood of a pixel deep in a box whose object is no rectangle."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Hint:
    """What is known of one object."""

    geometry: Geometry
    """Box, search box or polygon in the CRS of the window."""
    kind: PromptKind
    """What the geometry is."""
    positive: tuple[tuple[float, float], ...] = ()
    """Points on the object, ``(x, y)`` in the CRS."""
    negative: tuple[tuple[float, float], ...] = ()
    """Points off the object, likewise."""
    previous: Bools | None = None
    """An earlier mask on the window's grid, shape (rows, columns)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectPrior:
    """What a hint says about the pixels of one window; arrays of shape (rows, columns)."""

    likely: Floats
    """Likelihood without any rectangle."""
    box: Bools
    """Valid pixels inside the prompt."""
    near: Bools
    """Pixels inside the prompt or close to it, valid or not."""
    limit: Bools
    """Valid pixels the object may hold."""
    core: Bools
    """Pixels at the middle of the prompt."""
    on: Bools
    """Pixels said to be on the object."""
    off: Bools
    """Pixels said to be off it."""
    shapes: BoxShapes | None
    """Rectangles the prompt may stand for; None for polygons and points."""
    shapeless_share: float
    """Weight of ``likely`` beside the rectangles."""
    samples: float
    """Independent looks at colours that a rectangle of the box's size is worth."""
    previous: Floats | None
    """Likelihood by an earlier mask."""

    def log_odds(self, evidence: Floats | None) -> Floats:
        """Log-odds of the object, rectangles weighted by what the colours say of their pixels.

        Args:
            evidence: log-odds by colour, shape (rows, columns); None before there are any.
        """
        likely: NDArray[np.floating] = self.likely
        if self.shapes is not None:
            cells = None
            if evidence is not None:
                inner = (CELLS / 1.5) ** 2
                seen = evidence[self.shapes.rows, self.shapes.columns] * self.shapes.visible
                cells = (seen * (self.samples / inner)).astype(np.float32)
            rectangles = self.shapes.on_window(self.shapes.likely(cells), likely.shape)
            likely = np.float32(1 - self.shapeless_share) * rectangles + np.float32(self.shapeless_share) * likely
        if self.previous is not None:
            likely = _TRUST * self.previous + (1 - _TRUST) * likely
        likely = np.where(self.off, _LEAST, np.where(self.on, _MOST, np.clip(likely, _LEAST, _MOST)))
        return np.asarray(np.log(likely / (1 - likely)), dtype=np.float32)


def pixel_centres(grid: ChipGrid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """CRS coordinates of all pixel centres, two arrays of shape (rows, columns)."""
    a, b, c, d, e, f = grid.transform
    cols, rows = np.arange(grid.width) + 0.5, (np.arange(grid.height) + 0.5)[:, None]
    return a * cols + b * rows + c, d * cols + e * rows + f


def smoothed(image: Floats, sigma_m: float, grid: ChipGrid) -> Floats:
    """``image`` under a Gaussian of a ground size; below a third of a pixel it stays as it is."""
    a, b, _, d, e, _ = grid.transform
    by_col, by_row = sigma_m / float(np.hypot(a, d)), sigma_m / float(np.hypot(b, e))
    if max(by_col, by_row) < 1 / 3:
        return image
    blurred = cv2.GaussianBlur(image, (0, 0), sigmaX=max(by_col, 0.3), sigmaY=max(by_row, 0.3))
    return np.asarray(blurred, dtype=np.float32)


def object_prior(window: Window, hint: Hint, settings: ClassicalSettings) -> ObjectPrior:
    """What ``hint`` says about the pixels of ``window``, computed in CRS units, exact on any affine grid."""
    grid, valid = window.grid, window.valid
    x, y = pixel_centres(grid)
    west, south, east, north = hint.geometry.bounds
    width, height = max(east - west, 1e-6), max(north - south, 1e-6)
    dx, dy = np.abs(x - (west + east) / 2) / width, np.abs(y - (south + north) / 2) / height
    nearest = _at(np.hypot(dx * width, dy * height), grid)
    box = (dx <= 0.5) & (dy <= 0.5) | nearest
    reach = 0.5 + settings.growth_share
    limit = (dx <= reach) & (dy <= reach) | nearest
    core = (np.hypot(dx * width, dy * height) <= settings.point_core_m) | nearest
    near, shapes = box, None
    jitter = settings.jitter_share
    if hint.kind == "polygon":
        box, near, limit, likely = _polygon(hint.geometry, (x, y), grid, settings)
    elif hint.kind == "point":
        # the search box says nothing of the extent: only far from the point the object grows unlikely
        likely = np.where(box, _MOST * np.exp(-3 * (dx**2 + dy**2)), _BEYOND)
        limit, near = box, np.hypot(dx, dy) <= _CENTRAL
    else:
        likely = _FILL * ndtr((0.5 - dx) / jitter) * ndtr((0.5 - dy) / jitter)
        weight = np.clip(1.3 - 2 * np.maximum(dx, dy), 0, 1) * valid
        angles = directions(window.colours[..., 0], weight.astype(np.float32), grid, settings.directions)
        shapes = box_shapes((west, south, east, north), angles, valid, grid, jitter)
    previous = None
    if hint.previous is not None:
        previous = smoothed(hint.previous.astype(np.float32), settings.polygon_shift_m, grid)
    return ObjectPrior(
        likely=np.asarray(likely, dtype=np.float32),
        box=np.asarray(box & valid),
        near=np.asarray(near),
        limit=np.asarray(limit & valid),
        core=np.asarray(core & valid),
        on=_discs(hint.positive, (x, y), settings.point_core_m, grid),
        off=_discs(hint.negative, (x, y), settings.point_core_m, grid),
        shapes=shapes,
        shapeless_share=settings.shapeless_share,
        samples=settings.rectangle_samples,
        previous=previous,
    )


def _polygon(
    polygon: Geometry,
    centres: tuple[NDArray[np.float64], NDArray[np.float64]],
    grid: ChipGrid,
    settings: ClassicalSettings,
) -> tuple[Bools, Bools, Bools, NDArray[np.float64]]:
    """``(inside, near, limit, likely)`` of a coarse polygon whose outline is off by a normal deviate."""
    x, y = centres
    inside = np.asarray(shapely.contains_xy(polygon, x, y))
    if not inside.any():
        spot = polygon.representative_point()
        inside = _at(np.hypot(x - spot.x, y - spot.y), grid)
    depth = _depth(inside, grid)
    breadth = 4 * polygon.area / max(polygon.length, 1e-6)
    # a shift comparable to a narrow object's breadth would leave nothing sure
    shift = max(min(settings.polygon_shift_m, 0.2 * breadth), 0.25 * grid.gsd_m)
    return inside, inside, depth > -3 * shift, ndtr(depth / shift)


def _depth(inside: Bools, grid: ChipGrid) -> NDArray[np.float64]:
    """Distance to the outline, CRS units, positive inside; the window's edge is no outline."""
    image = inside.astype(np.uint8)
    within, without = (cv2.distanceTransform(part, cv2.DIST_L2, 5) for part in (image, 1 - image))
    return np.asarray((np.maximum(within - 0.5, 0) - np.maximum(without - 0.5, 0)) * grid.gsd_m, dtype=np.float64)


def _discs(
    points: tuple[tuple[float, float], ...],
    centres: tuple[NDArray[np.float64], NDArray[np.float64]],
    radius_m: float,
    grid: ChipGrid,
) -> Bools:
    """Pixels within a radius of any point, at least the one it lies on."""
    found = np.zeros(centres[0].shape, dtype=np.bool_)
    for at_x, at_y in points:
        distance = np.hypot(centres[0] - at_x, centres[1] - at_y)
        found |= (distance <= radius_m) | _at(distance, grid)
    return found


def _at(distance: NDArray[np.float64], grid: ChipGrid) -> Bools:
    """The pixel nearest to a spot, so that objects under a pixel are not lost; none when the spot is off the window."""
    nearest = np.zeros(distance.shape, dtype=np.bool_)
    index = int(distance.argmin())
    nearest.flat[index] = distance.flat[index] <= grid.gsd_m
    return nearest
