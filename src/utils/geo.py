"""Coordinate reference systems and reprojection; also the door to cell maths and the chip lattice."""

from functools import lru_cache

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError as ProjCRSError
from pyproj.exceptions import ProjError
from shapely import Geometry

from utils.cells import (
    checked_lonlat,
    compile_kernel,
    h3_cells,
    s2_cells,
    s2_children,
    s2_levels,
    s2_parents,
    s2_ranges,
)
from utils.coverings import h3_covering, s2_covering
from utils.errors import CRSError, GeometryError
from utils.lattice import CHIP_NAMESPACE, ChipLattice
from utils.outlines import s2_cell_polygon

__all__ = [
    "CHIP_NAMESPACE",
    "LONLAT",
    "ChipLattice",
    "compile_kernel",
    "crs",
    "grown_bounds",
    "h3_cells",
    "h3_covering",
    "reproject",
    "reproject_bounds",
    "reproject_points",
    "s2_cell_polygon",
    "s2_cells",
    "s2_children",
    "s2_covering",
    "s2_levels",
    "s2_parents",
    "s2_ranges",
    "transformer",
    "utm_epsg",
    "utm_epsgs",
]

LONLAT = 4326
"""EPSG code of longitude and latitude in degrees; axes are always lon, lat here."""

_METRES_PER_DEGREE = 110_574.0
"""Least length of a degree of latitude on WGS 84."""

AnyCRS = str | int | CRS
Bounds = tuple[float, float, float, float]


def crs(definition: AnyCRS) -> CRS:
    """A CRS from an EPSG code, authority text (``EPSG:32632``), WKT or PROJ text.

    Raises:
        CRSError: PROJ does not know it.
    """
    if isinstance(definition, CRS):
        return definition
    return _crs(definition)


@lru_cache(maxsize=256)
def _crs(definition: str | int) -> CRS:
    try:
        return CRS.from_user_input(definition)
    except ProjCRSError as error:
        raise CRSError(
            f"unknown CRS {definition!r}; give an EPSG code such as 32632 or 'EPSG:32632', or a full WKT: {error}"
        ) from error


@lru_cache(maxsize=256)
def transformer(src: AnyCRS, dst: AnyCRS) -> Transformer:
    """The transformation from ``src`` to ``dst``, axes always x, y (lon, lat); made once per pair.

    Raises:
        CRSError: a CRS is unknown, or no transformation joins the two.
    """
    source, target = crs(src), crs(dst)
    try:
        return Transformer.from_crs(source, target, always_xy=True)
    except ProjError as error:
        raise CRSError(f"no transformation from {source.name!r} to {target.name!r}: {error}") from error


def reproject_points(xy: ArrayLike, src: AnyCRS, dst: AnyCRS) -> NDArray[np.float64]:
    """Positions of shape (n, 2), columns x, y (lon, lat), from ``src`` to ``dst``.

    Raises:
        CRSError: a CRS is unknown.
        GeometryError: the shape is another, or a position is not finite or has no place in ``dst``.
    """
    points = np.asarray(xy, np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise GeometryError(f"positions have shape {points.shape}, expected (n, 2)")
    moved = np.column_stack(transformer(src, dst).transform(points[:, 0], points[:, 1]))
    lost = ~np.isfinite(moved).all(axis=1)
    if lost.any():
        first = int(np.flatnonzero(lost)[0])
        raise GeometryError(
            f"{int(lost.sum())} of {len(points)} positions have no place in {crs(dst).name}, first at {first}: "
            f"{tuple(points[first].tolist())} in {crs(src).name}; check the axis order and the CRS"
        )
    return moved


def reproject(geometry: Geometry, src: AnyCRS, dst: AnyCRS) -> Geometry:
    """A geometry, or an array of them in one call, from ``src`` to ``dst``; vertices move, edges stay straight, z goes.

    Raises:
        CRSError: a CRS is unknown.
        GeometryError: a geometry is missing or empty, or a vertex is not finite or has no place in ``dst``.
    """
    missing = shapely.is_missing(geometry) | shapely.is_empty(geometry)
    if np.any(missing):
        raise GeometryError(f"{int(np.sum(missing))} of {np.size(missing)} geometries are missing or empty")
    return shapely.transform(geometry, lambda xy: reproject_points(xy, src, dst))


def reproject_bounds(bounds: Bounds, src: AnyCRS, dst: AnyCRS) -> Bounds:
    """``(min x, min y, max x, max y)`` in ``dst`` that holds the whole box, whose edges are densified (21 points each).

    A box across the antimeridian comes back in lon/lat with min x > max x.

    Raises:
        CRSError: a CRS is unknown.
        GeometryError: the box is not finite, is upside down, or has no place in ``dst``.
    """
    west, south, east, north = (float(value) for value in bounds)
    if not np.isfinite([west, south, east, north]).all() or west > east or south > north:
        raise GeometryError(f"bounds {bounds} are not (min x, min y, max x, max y)")
    try:
        moved = transformer(src, dst).transform_bounds(west, south, east, north, errcheck=True)
    except ProjError as error:
        raise GeometryError(f"bounds {bounds} in {crs(src).name} have no place in {crs(dst).name}: {error}") from error
    if not np.isfinite(moved).all():
        raise GeometryError(f"bounds {bounds} in {crs(src).name} have no place in {crs(dst).name}")
    return float(moved[0]), float(moved[1]), float(moved[2]), float(moved[3])


def grown_bounds(bounds_lonlat: Bounds, metres: float) -> Bounds:
    """Bounds in longitude and latitude grown by at least ``metres`` on every side, clipped to the globe."""
    west, south, east, north = bounds_lonlat
    up = metres / _METRES_PER_DEGREE
    south, north = max(-90.0, south - up), min(90.0, north + up)
    narrow = np.cos(np.radians(max(abs(south), abs(north))))
    across = 360.0 if narrow < up / 360 else up / narrow
    return max(-180.0, west - across), south, min(180.0, east + across), north


def utm_epsgs(lon: ArrayLike, lat: ArrayLike) -> NDArray[np.int32]:
    """EPSG code of the WGS 84 UTM zone of each position, shape (n,): 326zz north, 327zz south (latitude 0 is north).

    Zones are those of the military grid, which Sentinel-2 tiles follow: 6° wide from 180° W, with the widened 32V in
    south-west Norway and 31X, 33X, 35X, 37X around Svalbard (NGA.STND.0037, §3). Longitude 180 is in zone 1.

    Raises:
        GeometryError: a position is not finite or out of range.
        CRSError: a latitude is outside 80° S to 84° N, where UTM ends.
    """
    lons, lats = checked_lonlat(lon, lat)
    outside = (lats > 84) | (lats < -80)
    if outside.any():
        raise CRSError(
            f"{int(outside.sum())} positions lie outside 80° S to 84° N, where UTM ends, first latitude "
            f"{lats[outside][0]}; the poles need a polar stereographic grid, which is not supported"
        )
    zone = (((lons + 180) // 6) % 60 + 1).astype(np.int32)
    zone[(lats >= 56) & (lats < 64) & (lons >= 3) & (lons < 12)] = 32
    svalbard = (lats >= 72) & (lons >= 0) & (lons < 42)
    zone[svalbard] = 31 + 2 * ((lons[svalbard] + 3) // 12).astype(np.int32)
    return zone + np.where(lats >= 0, np.int32(32600), np.int32(32700))


def utm_epsg(lon: float, lat: float) -> int:
    """EPSG code of the UTM zone of one position; see :func:`utm_epsgs`.

    Raises:
        GeometryError: the position is not finite or out of range.
        CRSError: the latitude is outside 80° S to 84° N.
    """
    return int(utm_epsgs(lon, lat)[0])
