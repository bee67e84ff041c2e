"""Outlines in longitude and latitude that stay true across the antimeridian."""

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Geometry, Polygon

from utils.errors import GeometryError
from utils.geo import LONLAT, AnyCRS, reproject_points

_EDGES = 32
_STRAIGHT_DEG = 1e-9


def outline_lonlat(outline: Polygon, src: AnyCRS, *, densify: bool = False) -> Geometry:
    """An outline in longitude and latitude (EPSG:4326), cut in two where it crosses the antimeridian.

    Args:
        outline: polygon in the CRS ``src``.
        src: its CRS.
        densify: put vertices along the edges first (32 over the longer side), because straight edges of a large raster
            bend in longitude and latitude; those that make no difference of 0.1 mm go again.

    Raises:
        CRSError: the CRS is unknown.
        GeometryError: a vertex has no place on the globe, or the outline goes around a pole.
    """
    if densify:
        west, south, east, north = outline.bounds
        outline = shapely.segmentize(outline, max(east - west, north - south) / _EDGES)
    moved = cut_at_antimeridian(shapely.transform(outline, lambda xy: reproject_points(xy, src, LONLAT)))
    # a small raster's edges are straight all the same
    return shapely.simplify(moved, _STRAIGHT_DEG) if densify else moved


def cut_at_antimeridian(geometry: Geometry) -> Geometry:
    """The same ground with all longitudes in -180 to 180.

    An edge longer than 180° goes the other way around; longitudes beyond ±180 are taken as they are. Both come back as
    one part on either side of the antimeridian. A polygon from -180 to 180 is the whole circle and stays.

    Raises:
        GeometryError: a ring goes around a pole.
    """
    west, _, east, _ = geometry.bounds
    if west >= -180 and east <= 180 and (east - west <= 180 or east - west == 360):
        return geometry
    parts = [piece for polygon in shapely.get_parts(geometry) for piece in _pieces(polygon)]
    return shapely.union_all(parts)


def _pieces(polygon: Geometry) -> list[Geometry]:
    if not isinstance(polygon, Polygon):
        raise GeometryError(f"only polygons can be cut at the antimeridian, not a {polygon.geom_type}")
    shell = _unwrapped(np.asarray(polygon.exterior.coords)[:, :2])
    holes = [_unwrapped(np.asarray(ring.coords)[:, :2], near=shell[:, 0].mean()) for ring in polygon.interiors]
    whole = shapely.make_valid(Polygon(shell, holes))
    west, _, east, _ = whole.bounds
    turns = range(int(np.floor((west + 180) / 360)), int(np.ceil((east + 180) / 360)))
    globe = shapely.box(-180, -90, 180, 90)
    return [
        shapely.intersection(shapely.transform(whole, lambda xy, k=turn: xy - (360 * k, 0)), globe) for turn in turns
    ]


def _unwrapped(ring: NDArray[np.float64], *, near: float | None = None) -> NDArray[np.float64]:
    """A ring without jumps, in the turn of the globe that is nearest to the longitude ``near``."""
    lon = np.unwrap(ring[:, 0], period=360)
    if abs(lon[-1] - lon[0]) > 180:
        raise GeometryError(
            "an outline goes around a pole; polar imagery is not supported, UTM ends at 84° N and 80° S"
        )
    if near is not None:
        lon = lon + 360 * np.rint((near - lon.mean()) / 360)
    return np.column_stack([lon, ring[:, 1]])
