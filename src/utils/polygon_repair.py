"""Polygons made valid, and slivers taken out, over whole arrays."""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

AREA_CHANGE = 0.1
"""Share of the area above which mending is reported as a change of it."""
_METRES_PER_DEGREE = 111_320.0


@dataclass(frozen=True, kw_only=True)
class MendedPolygons:
    """Valid polygons and what was done to them; n labels."""

    geometry: NDArray[np.object_]
    """Valid polygons or multi-polygons in the CRS they came in; empty where no area was left."""
    repairs: dict[str, NDArray[np.bool_]]
    """Repair code → whether it was needed, shape (n,)."""


def mended_polygons(polygons: NDArray[np.object_]) -> MendedPolygons:
    """Polygons without repeated points, made valid by GEOS' structure method, areal parts kept.

    The structure method takes shells and holes for what they are, so a hole stays a hole; a figure of eight keeps both
    its lobes.
    """
    geometry = polygons.copy()
    invalid = ~shapely.is_valid(geometry)
    overlapping, changed, repeated = (np.zeros(len(geometry), bool) for _ in range(3))
    rows = np.flatnonzero(invalid)
    if len(rows):
        broken = geometry[rows]
        parts, index = shapely.get_parts(broken, return_index=True)
        bad = np.bincount(index[~shapely.is_valid(parts)], minlength=len(rows)) > 0
        overlapping[rows] = ~bad
        mended = np.array([_areal(part) for part in _made_valid(broken)], object)
        before = shapely.area(broken)
        changed[rows] = np.abs(shapely.area(mended) - before) > AREA_CHANGE * np.maximum(before, 1e-30)
        geometry[rows] = mended
    # GEOS raises on rings that are one point over and over; valid polygons have none
    rows = np.flatnonzero(~invalid)
    if len(rows):
        plain = shapely.remove_repeated_points(geometry[rows])
        repeated[rows] = shapely.get_num_coordinates(plain) < shapely.get_num_coordinates(geometry[rows])
        geometry[rows] = plain
    flat = shapely.area(geometry) <= 0
    geometry[flat] = shapely.Polygon()
    return MendedPolygons(
        geometry=geometry,
        repairs={
            "repeated_points": repeated,
            "self_crossing": invalid & ~overlapping,
            "overlapping_parts": overlapping,
            "area_changed": changed & ~flat,
        },
    )


def _made_valid(broken: NDArray[np.object_]) -> NDArray[np.object_]:
    """Valid geometry; empty where GEOS gives up."""
    try:
        made: NDArray[np.object_] = shapely.make_valid(broken, method="structure", keep_collapsed=False)
    except shapely.errors.GEOSException:
        if len(broken) == 1:
            return np.array([shapely.Polygon()], object)
        half = len(broken) // 2
        return np.concatenate([_made_valid(broken[:half]), _made_valid(broken[half:])])
    return made


def _areal(geometry: shapely.Geometry) -> shapely.Geometry:
    """Polygon parts of a valid geometry."""
    if geometry.geom_type in ("Polygon", "MultiPolygon"):
        return geometry
    parts = [part for part in shapely.get_parts(geometry) if part.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(parts) if parts else shapely.Polygon()


def without_slivers(
    polygons: NDArray[np.object_], *, min_area_m2: float, min_width_m: float
) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Polygons in EPSG:4326 without parts that are too small or too thin, and whether any part was dropped.

    Width is 2 · area / perimeter, that of a long strip; metres come from the local scale of a sphere of 111.32 km per
    degree, which is within 1 % of the ellipsoid.

    Args:
        polygons: valid polygons and multi-polygons, shape (n,).
        min_area_m2: least area of a part, m².
        min_width_m: least width of a part, m.

    Returns:
        Polygons, empty where no part is left, and a mask of shape (n,).
    """
    if not len(polygons):
        return polygons, np.zeros(0, bool)
    parts, index = shapely.get_parts(polygons, return_index=True)
    local = metric(parts)
    area, perimeter = shapely.area(local), shapely.length(local)
    thin = (area < min_area_m2) | (2 * area < min_width_m * perimeter)
    dropped = np.bincount(index[thin], minlength=len(polygons)) > 0
    cleared = polygons.copy()
    for row in np.flatnonzero(dropped).tolist():
        left = _left(parts, index, thin, row)
        cleared[row] = (
            shapely.Polygon() if not len(left) else left[0] if len(left) == 1 else shapely.multipolygons(left)
        )
    return cleared, dropped


def _left(
    parts: NDArray[np.object_], index: NDArray[np.intp], thin: NDArray[np.bool_], row: int
) -> NDArray[np.object_]:
    """Parts of one polygon worth keeping; ``index`` is sorted."""
    first, last = np.searchsorted(index, [row, row + 1])
    return parts[first:last][~thin[first:last]]


def metric(geometry: NDArray[np.object_]) -> NDArray[np.object_]:
    """Geometry in EPSG:4326 in metres around its own centre, good for lengths and areas of small things."""
    xy, index = shapely.get_coordinates(geometry, return_index=True)
    bounds = shapely.bounds(geometry)
    middle = (bounds[:, :2] + bounds[:, 2:]) / 2
    scale = np.column_stack([np.cos(np.radians(middle[:, 1])), np.ones(len(middle))]) * _METRES_PER_DEGREE
    copy: NDArray[np.object_] = shapely.set_coordinates(geometry.copy(), (xy - middle[index]) * scale[index])
    return copy
