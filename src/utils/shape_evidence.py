"""Size and shape of outlines: area, elongation, rectangularity, compactness; all at once for many outlines."""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Shapes:
    """Figures of n outlines, each array of shape (n,)."""

    area_m2: Floats
    """Area, m²."""
    length_m: Floats
    """Longer side of the least rotated rectangle around it, m."""
    width_m: Floats
    """Shorter side, m."""
    elongation: Floats
    """Longer over shorter side, 1 and more."""
    rectangularity: Floats
    """Area over that of the rectangle, 0 to 1 (Rosin 1999, Machine Vision and Applications 11)."""
    compactness: Floats
    """``4π·area / perimeter²``, 1 for a disc (Polsby & Popper 1991)."""
    solidity: Floats
    """Area over that of the convex hull, 0 to 1."""


def shapes(outlines: NDArray[np.object_]) -> Shapes:
    """Figures of outlines in a CRS with metre units.

    Args:
        outlines: polygons or multipolygons that are not empty, shape (n,).
    """
    area = shapely.area(outlines)
    boxes = shapely.oriented_envelope(outlines)
    corners = (
        shapely.get_coordinates(boxes).reshape(len(outlines), -1, 2)[:, :3] if len(outlines) else np.empty((0, 3, 2))
    )
    sides = np.linalg.norm(np.diff(corners, axis=1), axis=2)
    long, short = sides.max(axis=1, initial=0), sides.min(axis=1, initial=np.inf)
    least = 1e-9
    return Shapes(
        area_m2=area,
        length_m=long,
        width_m=short,
        elongation=long / np.maximum(short, least),
        rectangularity=np.clip(area / np.maximum(long * short, least), 0, 1),
        compactness=np.clip(4 * np.pi * area / np.maximum(shapely.length(outlines) ** 2, least), 0, 1),
        solidity=np.clip(area / np.maximum(shapely.area(shapely.convex_hull(outlines)), least), 0, 1),
    )
