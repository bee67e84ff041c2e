"""Outlines of detections: fewer vertices, straight rectangles, always valid."""

import math
from dataclasses import dataclass

import numpy as np
import shapely
from shapely import Geometry, MultiPolygon, Polygon, affinity

from utils.errors import ConfigError
from utils.polygon_repair import mended_polygons
from utils.refinement import simplified


@dataclass(frozen=True, kw_only=True)
class OutlineRule:
    """How far an outline may leave the pixels it was traced along."""

    simplify_px: float = 0.75
    """How far a vertex may move, pixels, 0 to 1; a slanted edge is a staircase 0.71 pixels deep."""
    rectangularise: bool = True
    """Whether a piece that is nearly a rectangle becomes one."""
    rectangle_iou: float = 0.85
    """Least IoU of a piece and its rectangle."""

    def __post_init__(self) -> None:
        """Refuse a rule that would move outlines off their objects."""
        if not 0 <= self.simplify_px <= 1:
            raise ConfigError(f"simplify_px is {self.simplify_px}; outlines move by at most a pixel (0 to 1)")
        if not 0.5 <= self.rectangle_iou <= 1:
            raise ConfigError(f"rectangle_iou is {self.rectangle_iou}; give 0.5 to 1")


def regularised(outline: Geometry, rule: OutlineRule, raster: Polygon) -> Geometry:
    """A pixel outline as a person would draw it; a valid polygon or multi-polygon, holes kept, inside the raster.

    Args:
        outline: valid polygon or multi-polygon in pixels (edges of 1 × 1), inside ``raster``.
        rule: how far it may change.
        raster: convex footprint of the raster it was traced on, in pixels.
    """
    parts = [_regular(part, rule, raster) for part in shapely.get_parts(outline)]
    return valid_outline(parts[0] if len(parts) == 1 else MultiPolygon(parts))


def valid_outline(outline: Geometry) -> Geometry:
    """The outline itself where it is valid, else mended; parts that came to overlap are one."""
    if outline.is_valid:
        return outline
    mended: Geometry = mended_polygons(np.array([outline], object)).geometry[0]
    return mended


def _regular(part: Polygon, rule: OutlineRule, raster: Polygon) -> Polygon:
    if rule.rectangularise and not len(part.interiors):
        rectangle = equal_rectangle(part)
        shared = shapely.area(shapely.intersection(part, rectangle))
        # both have one area
        if shared / (2 * part.area - shared) >= rule.rectangle_iou:
            # what the raster's edge cuts has corners beyond it; simplification stays in the convex hull
            return rectangle if raster.covers(rectangle) else shapely.intersection(rectangle, raster)
    return simplified(part, rule.simplify_px)


def equal_rectangle(part: Polygon) -> Polygon:
    """The least rotated rectangle around a polygon, shrunk to its area around its centroid."""
    rectangle = part.minimum_rotated_rectangle
    shrunk = math.sqrt(part.area / rectangle.area)
    x, y = (a - b for a, b in zip(part.centroid.coords[0], rectangle.centroid.coords[0], strict=True))
    scaled: Polygon = affinity.scale(affinity.translate(rectangle, x, y), shrunk, shrunk, origin="centroid")
    return scaled
