"""Polygons as flat arrays, and where the sun throws their shadows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GROUND, SHADOW, RAISED = 0, 1, 2
"""What a polygon paints: ground that shadows fall on, a shadow, a surface above the shadows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Polygons:
    """Polygons as one array per attribute; axis 0 of all but ``vertices`` is the polygon."""

    vertices: NDArray[np.float64]
    """Vertices of all polygons without the closing ones, UTM metres, shape (vertices, 2)."""
    counts: NDArray[np.int64]
    """Vertices of each polygon, shape (polygons,)."""
    order: NDArray[np.int64]
    """Layer and rank within the layer, shape (polygons, 2)."""
    ink: NDArray[np.int8]
    """``GROUND``, ``SHADOW`` or ``RAISED``, shape (polygons,)."""
    exact: NDArray[np.bool_]
    """Whether the outline must be true to a fraction of a pixel, shape (polygons,)."""
    reflectance: NDArray[np.float32]
    """Apparent reflectance in the 12 bands with the slope's illumination, shape (polygons, 12)."""
    grain: NDArray[np.float32]
    """Fine, medium and coarse noise amplitude, shape (polygons, 3)."""
    surface: NDArray[np.int64]
    """Position in ``Landscape.surfaces``, -1 for shadows and trees, shape (polygons,)."""


def shadow_polygons(vertices: NDArray[np.float64], counts: NDArray[np.int64], order: NDArray[np.int64]) -> Polygons:
    """Polygons that only darken what they cover; arguments as the fields of :class:`Polygons`."""
    n = len(counts)
    return Polygons(
        vertices=vertices,
        counts=counts,
        order=order,
        ink=np.full(n, SHADOW, np.int8),
        exact=np.zeros(n, np.bool_),
        reflectance=np.zeros((n, 12), np.float32),
        grain=np.zeros((n, 3), np.float32),
        surface=np.full(n, -1, np.int64),
    )


def sun_vector(azimuth_deg: float, elevation_deg: float) -> NDArray[np.float64]:
    """Unit vector towards the sun: east, north, up."""
    azimuth, elevation = np.radians(azimuth_deg), np.radians(elevation_deg)
    horizontal = np.cos(elevation)
    return np.array([horizontal * np.sin(azimuth), horizontal * np.cos(azimuth), np.sin(elevation)])


def shadow_reach(sun: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the shadow of a point one metre above flat ground falls, metres east and north."""
    return np.asarray(-sun[:2] / sun[2])
