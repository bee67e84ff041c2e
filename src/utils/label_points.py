"""Points on and off an object that a label brings beside its geometry, in longitude and latitude."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from utils.label_geometry import KINDS, REASONS, GeometryRules, repaired_geometry
from utils.label_parsing import absent

_POINT = KINDS.index("point")


@dataclass(kw_only=True)
class LabelPoints:
    """Points of n labels."""

    points: NDArray[np.object_]
    """Multi-point in EPSG:4326, lon before lat, shape (n,); None without any."""
    problems: dict[int, str] = field(default_factory=dict)
    """Label → why its points cannot be used."""


def label_points(
    wkb: pa.Array | pa.ChunkedArray, wkt: pa.Array | pa.ChunkedArray, rules: GeometryRules, name: str
) -> LabelPoints:
    """Points or multi-points given as WKB or WKT, read by the rules of the labels' geometry.

    No value, and a geometry without points, is no point. Lines, polygons, values that are no geometry, coordinates
    that are not finite and places off the globe are problems.

    Args:
        wkb: binary, n values: ISO WKB or EWKB.
        wkt: string, n values: WKT or EWKT.
        rules: CRS, axis order and expected place of the labels.
        name: what the points are, for messages.

    Raises:
        CRSError: the CRS of the rules is unknown.
    """
    if wkb.null_count == len(wkb) and wkt.null_count == len(wkt):
        return LabelPoints(points=np.full(len(wkb), None, object))
    shapes = repaired_geometry(wkb, wkt, rules)
    found = LabelPoints(points=np.full(len(wkb), None, object))
    live = absent(shapes.reasons)
    rows = np.flatnonzero(live & (shapes.kinds == _POINT))
    found.points[rows] = [as_multipoint(shape) for shape in shapes.geometry[rows]]
    for row in np.flatnonzero(live & (shapes.kinds != _POINT)).tolist():
        found.problems[row] = f"{name} is a {shapes.geometry[row].geom_type}, no point or multi-point"
    for row in np.flatnonzero(~live).tolist():
        reason = str(shapes.reasons[row])
        if reason not in ("missing", "empty"):
            found.problems[row] = f"{name}: {shapes.details.get(row) or REASONS[reason]}"
    return found


def all_positive(
    geometry: NDArray[np.object_], kinds: NDArray[np.int8], points: NDArray[np.object_]
) -> list[bytes | None]:
    """WKB of the points on each object: those of a label of several points, then those it brings beside it.

    A label of one point is its own prompt and adds none.

    Args:
        geometry: labels in EPSG:4326, shape (n,).
        kinds: index into ``utils.label_geometry.KINDS``, shape (n,).
        points: multi-points or None, shape (n,).
    """
    several = (kinds == _POINT) & (shapely.get_num_geometries(geometry) > 1)
    found = list(points)
    for row in np.flatnonzero(several).tolist():
        own, more = as_multipoint(geometry[row]), points[row]
        found[row] = own if more is None else shapely.MultiPoint(_unique([*own.geoms, *more.geoms]))
    return points_wkb(found)


def points_wkb(points: NDArray[np.object_] | list[shapely.MultiPoint | None]) -> list[bytes | None]:
    """Multi-points as WKB; None stays None."""
    return [None if shape is None else shapely.to_wkb(shape, include_srid=False) for shape in points]


def as_multipoint(geometry: shapely.Geometry) -> shapely.MultiPoint:
    """A point, or points, as a multi-point, each position once."""
    return shapely.MultiPoint(_unique(list(shapely.get_parts(geometry))))


def _unique(points: list[shapely.Point]) -> list[shapely.Point]:
    return list({(point.x, point.y): point for point in points}.values())
