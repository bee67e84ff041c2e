"""Geometry of context joins: made usable in longitude and latitude, then laid out in the metres of one UTM zone."""

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from utils.errors import GeometryError
from utils.geo import reproject, reproject_points, transformer

Geometries = NDArray[np.object_]

EDGE_DEG = 0.001
"""Edges longer than this are divided before they are projected: about 100 m, straight to a millimetre."""
_AREAL = ("Polygon", "MultiPolygon")
_PLAIN = (*_AREAL, "Point", "MultiPoint", "LineString", "MultiLineString")


def usable_geometries(texts: Sequence[bytes | str | None], crs: str) -> tuple[Geometries, dict[int, GeometryError]]:
    """Valid 2-D geometries in EPSG:4326 of WKB or WKT values, and position → what is wrong with the others.

    Self-crossing polygons are mended and keep their areal parts. A part that spans more than 180° because it was
    written across the antimeridian is divided there, as RFC 7946 §3.1.9 asks. Empty slots stand where geometry is
    missing, empty, not finite, a collection, or off the globe.

    Args:
        texts: WKB, or WKT.
        crs: their CRS, x before y.

    Raises:
        CRSError: the CRS is unknown.
    """
    transformer(crs, 4326)
    geometries = _parsed(texts)
    problems: dict[int, GeometryError] = {}
    for i in np.flatnonzero(~_sound(geometries)):
        problems[int(i)] = GeometryError(
            f"the geometry is {_what(geometries[i], texts[int(i)])}; mend or drop the row in the lake"
        )
        geometries[i] = None
    present = np.flatnonzero(~shapely.is_missing(geometries))
    crossed = present[~shapely.is_valid(geometries[present])]
    for i in crossed:
        geometries[i] = _mended(geometries[i])
        if geometries[i].is_empty:
            problems[int(i)] = GeometryError("the polygon has no area once it is mended; drop the row in the lake")
            geometries[i] = None
    if crs.upper() != "EPSG:4326":
        _reproject(geometries, crs, problems)
    _divide_at_antimeridian(geometries)
    bounds = shapely.bounds(geometries)
    off = (np.abs(bounds[:, [0, 2]]) > 180).any(1) | (np.abs(bounds[:, [1, 3]]) > 90).any(1)
    for i in np.flatnonzero(off):
        problems[int(i)] = GeometryError(
            f"the geometry spans {tuple(bounds[i].round(6).tolist())}, which is no longitude and latitude; "
            f"check the axis order (x before y) and the CRS ({crs})"
        )
        geometries[i] = None
    return geometries, problems


def _parsed(texts: Sequence[bytes | str | None]) -> Geometries:
    read = shapely.from_wkt if any(isinstance(text, str) for text in texts) else shapely.from_wkb
    values = np.empty(len(texts), object)
    values[:] = list(texts)
    parsed = np.empty(len(texts), object)
    parsed[:] = read(values, on_invalid="ignore")
    return np.asarray(shapely.force_2d(parsed), object).reshape(len(texts))


def _sound(geometries: Geometries) -> NDArray[np.bool_]:
    kinds = shapely.get_type_id(geometries)
    good = (kinds >= 0) & (kinds != 2) & (kinds != 7) & ~shapely.is_empty(geometries)
    xy, owner = shapely.get_coordinates(geometries, return_index=True)
    good[owner[~np.isfinite(xy).all(1)]] = False
    return np.asarray(good, np.bool_)


def _what(geometry: shapely.Geometry | None, text: bytes | str | None) -> str:
    if geometry is None:
        return "missing" if text is None else "unreadable"
    if geometry.is_empty:
        return "empty"
    if geometry.geom_type not in _PLAIN:
        return f"a {geometry.geom_type}, where points, lines and polygons can be used"
    return "not finite"


def _mended(geometry: shapely.Geometry) -> shapely.Geometry:
    """The ground a polygon means: each part mended by itself, parts that overlap or share an edge joined."""
    parts = shapely.make_valid(shapely.get_parts(geometry))
    if geometry.geom_type in _AREAL:
        parts = shapely.get_parts(shapely.get_parts(parts))
        parts = parts[shapely.get_dimensions(parts) == 2]
    return shapely.union_all(parts)


def _reproject(geometries: Geometries, crs: str, problems: dict[int, GeometryError]) -> None:
    """Move what is there to EPSG:4326, in place; what has no place there is a problem and leaves an empty slot."""
    present = np.flatnonzero(~shapely.is_missing(geometries))
    try:
        geometries[present] = reproject(geometries[present], crs, 4326)
    except GeometryError:
        for i in present:
            try:
                geometries[i] = reproject(geometries[i], crs, 4326)
            except GeometryError as error:
                problems[int(i)] = error
                geometries[i] = None


def _divide_at_antimeridian(geometries: Geometries) -> None:
    """Replace parts written as if they went round the globe by what they mean; in place."""
    bounds = shapely.bounds(geometries)
    for i in np.flatnonzero((bounds[:, 2] - bounds[:, 0] > 180) | (bounds[:, 2] > 180) | (bounds[:, 0] < -180)):
        pieces: list[shapely.Geometry] = []
        for part in shapely.get_parts(geometries[i]):
            pieces += _divided(part)
        geometries[i] = pieces[0] if len(pieces) == 1 else shapely.union_all(pieces)


def _divided(part: shapely.Geometry) -> list[shapely.Geometry]:
    west, _, east, _ = part.bounds
    if west < -360 or east > 360:
        return [part]
    if west >= -180 and east <= 180:
        turned = shapely.transform(part, lambda xy: np.column_stack([xy[:, 0] + 360 * (xy[:, 0] < 0), xy[:, 1]]))
        if east - west <= 180 or not 0 < turned.bounds[2] - turned.bounds[0] < 180:
            return [part]
        part = turned if turned.is_valid else _mended(turned)
    pieces: list[shapely.Geometry] = []
    for turn in (-360, 0, 360):
        inside = shapely.intersection(part, shapely.box(turn - 180, -90, turn + 180, 90))
        moved = shapely.transform(inside, lambda xy, turn=turn: xy - [turn, 0])
        # what only touches ±180 is a part of the piece on the other side
        pieces += [
            one for one in shapely.get_parts(moved) if shapely.get_dimensions(one) == shapely.get_dimensions(part)
        ]
    return pieces or [part]


def local_bounds(geometries: Geometries, centre_lon: float, margin_m: float) -> list[tuple[float, float, float, float]]:
    """Box around all ``geometries`` grown by ``margin_m``, as one box in ±180, or two where it crosses ±180."""
    parts = shapely.get_parts(geometries)
    bounds = shapely.bounds(parts)
    up = margin_m / 110_574.0
    south, north = max(-90.0, bounds[:, 1].min() - up), min(90.0, bounds[:, 3].max() + up)
    across = min(180.0, up / max(np.cos(np.radians(max(abs(south), abs(north)))), 1e-9))
    middle = (bounds[:, 0] + bounds[:, 2]) / 2
    turn = (middle - centre_lon + 180) % 360 - 180 + centre_lon - middle
    west, east = (bounds[:, 0] + turn).min() - across, (bounds[:, 2] + turn).max() + across
    if east - west >= 360:
        return [(-180.0, south, 180.0, north)]
    if west < -180:
        return [(west + 360, south, 180.0, north), (-180.0, south, east, north)]
    if east > 180:
        return [(west, south, 180.0, north), (-180.0, south, east - 360, north)]
    return [(west, south, east, north)]


def clipped(geometries: Geometries, boxes: Sequence[tuple[float, float, float, float]]) -> Geometries:
    """``geometries``, those that reach far beyond ``boxes`` cut to them; what is left of others may be empty."""
    bounds = shapely.bounds(geometries)
    west, south = min(box[0] for box in boxes) - 0.1, min(box[1] for box in boxes) - 0.1
    east, north = max(box[2] for box in boxes) + 0.1, max(box[3] for box in boxes) + 0.1
    beyond = (bounds[:, 0] < west) | (bounds[:, 1] < south) | (bounds[:, 2] > east) | (bounds[:, 3] > north)
    if len(boxes) > 1:
        beyond |= bounds[:, 2] - bounds[:, 0] > 180
    result = geometries.copy()
    where = np.flatnonzero(beyond)
    if len(where):
        cut = shapely.intersection(geometries[where], shapely.union_all([shapely.box(*box) for box in boxes]))
        for i, one in zip(where, cut, strict=True):
            result[i] = _of_dimension(one, int(shapely.get_dimensions(geometries[i])))
    return result


def _of_dimension(geometry: shapely.Geometry, dimension: int) -> shapely.Geometry:
    """Parts of a mixed result that have ``dimension``; the others only touch the edge of the cut."""
    if geometry.geom_type != "GeometryCollection":
        return geometry
    return shapely.union_all(
        [part for part in shapely.get_parts(geometry) if shapely.get_dimensions(part) == dimension]
    )


def in_metres(geometries: Geometries, epsg: int) -> Geometries:
    """``geometries`` in a UTM zone, metres, their edges following the straight lines of longitude and latitude."""
    bounds = shapely.bounds(geometries)
    long = np.flatnonzero(np.hypot(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1]) > EDGE_DEG)
    result = geometries.copy()
    if len(long):
        result[long] = shapely.segmentize(result[long], EDGE_DEG)
    moved = np.asarray(shapely.transform(result, lambda xy: reproject_points(xy, 4326, epsg)), object)
    for i in np.flatnonzero(~shapely.is_valid(moved)):
        moved[i] = _mended(moved[i])
    return moved


def centres_lonlat(geometries: Geometries) -> NDArray[np.float64]:
    """Centre of each geometry's largest part, shape (n, 2): longitude, latitude. Parts lie on one side of ±180."""
    parts, owner = shapely.get_parts(geometries, return_index=True)
    order = np.lexsort((-shapely.area(parts), owner))
    first = order[np.searchsorted(owner[order], np.arange(len(geometries)))] if len(parts) else order
    bounds = shapely.bounds(parts[first])
    return np.column_stack([(bounds[:, 0] + bounds[:, 2]) / 2, (bounds[:, 1] + bounds[:, 3]) / 2])
