"""Raw label geometry to geometry that can be trusted: parsed, repaired by named rules, or refused with a reason.

Everything works on whole arrays. A label ends with a geometry in EPSG:4326 and the repairs that were needed, or with
the reason why none could be made of it; a position is never guessed (docs/labels.md lists every rule).
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from utils.errors import CRSError
from utils.geo import LONLAT, AnyCRS, Bounds, crs, transformer
from utils.label_parsing import Parsed, absent, parsed_geometry
from utils.polygon_repair import mended_polygons, without_slivers

REPAIRS: dict[str, str] = {
    "closed_ring": "a ring was not closed; the first point was added at its end",
    "z_dropped": "z or m values were dropped",
    "embedded_srid": "the geometry names another SRID than the mapping; the geometry's own was used",
    "wrong_srid": "the geometry names an SRID its coordinates do not fit; the mapping's CRS was used",
    "swapped_axes": "latitude came before longitude; the axes were swapped",
    "collection_parts": "a collection; its areal parts, or else its points, were kept",
    "repeated_points": "repeated points were removed",
    "self_crossing": "a ring crossed itself; mended by make_valid (structure), areal parts kept",
    "overlapping_parts": "parts of a multi-polygon overlapped; they were merged",
    "area_changed": "mending changed the area by more than 10 %",
    "sliver_parts": "parts without width were dropped",
    "installed_on_unreadable": "the date cannot be read; the label has none",
    "area_m2_unreadable": "the stated area is no number from 0 on; the label has none",
    "capacity_mw_unreadable": "the stated capacity is no number from 0 on; the label has none",
}
"""Repair code → what it means. Codes are stored in the column ``repairs``; their order here is their bit."""

REASONS: dict[str, str] = {
    "missing": "the geometry is missing; add it or drop the label",
    "unparsable": "the geometry cannot be parsed as WKB or WKT, or is curved; mend or drop the label",
    "empty": "the geometry is empty; mend or drop the label",
    "not_finite": "the geometry holds NaN or infinite coordinates; mend or drop the label",
    "line": "a label is a line; labels are points, boxes or polygons: buffer it before it enters the label table",
    "no_area": "no area is left once the outline is mended; drop the label or store it as a point",
    "sliver": "the polygon has no width worth the name; drop the label or store it as a point",
    "unknown_srid": "the geometry names an SRID that PROJ does not know; correct it",
    "off_globe": "the geometry is off the globe",
    "no_place": "the geometry has no place in longitude and latitude; check the axis order and the CRS",
    "degrees": "coordinates look like degrees, the CRS is projected; correct `crs` of the label table",
    "antimeridian": "the geometry spans more than 180° of longitude; split it at the antimeridian",
    "bad_points": "points on or off the object cannot be used; correct or empty that column",
    "outside_expected": "the geometry lies outside `expected_bbox_lonlat`, swapped or not; correct it, or the setting",
}
"""Reason of refusal → what it means and what to do."""

KINDS = ("", "point", "box", "polygon")
_BIT = {code: np.uint32(1 << bit) for bit, code in enumerate(REPAIRS)}
_BOX_SHARE = 0.99
_FARTHEST = 1e9
_POINTS, _LINES, _POLYGONS, _COLLECTION = (0, 4), (1, 2, 5), (3, 6), 7


@dataclass(frozen=True, kw_only=True)
class GeometryRules:
    """What the geometry of one label table is and how far repairs may go."""

    crs: AnyCRS = LONLAT
    """CRS of coordinates that name none themselves, x before y."""
    override_crs: bool = False
    """Whether ``crs`` replaces the SRID geometries name themselves."""
    axes: str = "xy"
    """``xy``, or ``yx`` for coordinates stored y (latitude) first."""
    expected_bbox_lonlat: Bounds | None = None
    """Where the data set is known to lie: west, south, east, north; a label outside that lies inside once its axes
    are swapped gets them swapped, any other outside is refused."""
    min_area_m2: float = 0.01
    """Polygons smaller than this are slivers, m²."""
    min_width_m: float = 0.02
    """Polygons with a smaller 2 · area / perimeter are slivers, m."""


@dataclass(kw_only=True)
class RepairedGeometry:
    """Geometry of n labels, or why there is none. Exactly one of ``geometry`` and ``reasons`` is set per label."""

    geometry: NDArray[np.object_]
    """Geometry in EPSG:4326, lon before lat, valid, shape (n,); None where refused."""
    kinds: NDArray[np.int8]
    """Index into :data:`KINDS`; what the label was in its own CRS, where boxes are upright; 0 where refused."""
    repairs: NDArray[np.uint32]
    """Bits of the repairs made, in the order of :data:`REPAIRS`."""
    reasons: NDArray[np.object_]
    """Key of :data:`REASONS`; None where the label is kept."""
    details: dict[int, str] = field(default_factory=dict)
    """What was found, per refused label, where the reason alone does not say it."""


def repaired_geometry(
    wkb: pa.Array | pa.ChunkedArray, wkt: pa.Array | pa.ChunkedArray, rules: GeometryRules
) -> RepairedGeometry:
    """Geometry of labels given as WKB or WKT, whichever is not null, in EPSG:4326.

    Args:
        wkb: binary, n values: ISO WKB or EWKB.
        wkt: string, n values: WKT or EWKT.
        rules: CRS, axis order and limits of the table the labels come from.

    Raises:
        CRSError: ``rules.crs`` is unknown.
    """
    # bounds of empty and infinite geometry are NaN, and compared as such
    with np.errstate(invalid="ignore", over="ignore"):
        return _repaired(parsed_geometry(wkb, wkt), rules)


def repair_lists(repairs: NDArray[np.uint32]) -> pa.Array:
    """Repair bits as ``list<string>``, shape (n,)."""
    names = np.array(list(REPAIRS), object)
    rows, bits = np.nonzero((repairs[:, None] >> np.arange(len(names), dtype=np.uint32)) & 1)
    offsets = np.searchsorted(rows, np.arange(len(repairs) + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(names[bits], pa.string()))


def repair_bits(code: str, where: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """The bit of one repair code where ``where`` holds, shape (n,)."""
    return np.where(where, _BIT[code], np.uint32(0)).astype(np.uint32)


def swapped(geometry: NDArray[np.object_]) -> NDArray[np.object_]:
    """Geometry with x and y exchanged."""
    exchanged: NDArray[np.object_] = shapely.transform(geometry, lambda xy: xy[:, ::-1])
    return exchanged


def on_globe(geometry: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Whether each geometry lies within 180° W to 180° E, 90° S to 90° N."""
    bounds = shapely.bounds(geometry)
    inside: NDArray[np.bool_] = (np.abs(bounds[:, [0, 2]]) <= 180).all(axis=1) & (np.abs(bounds[:, [1, 3]]) <= 90).all(
        axis=1
    )
    return inside


def _live(state: RepairedGeometry) -> NDArray[np.bool_]:
    return absent(state.reasons)


def _mark(state: RepairedGeometry, where: NDArray[np.bool_], code: str) -> None:
    state.repairs[where] |= _BIT[code]


def _refuse(state: RepairedGeometry, where: NDArray[np.bool_], reason: str) -> None:
    state.reasons[where & _live(state)] = reason


def _repaired(raw: Parsed, rules: GeometryRules) -> RepairedGeometry:
    crs(rules.crs)
    state = RepairedGeometry(
        geometry=raw.geometry,
        kinds=np.zeros(len(raw.geometry), np.int8),
        repairs=np.zeros(len(raw.geometry), np.uint32),
        reasons=np.full(len(raw.geometry), None, object),
    )
    _mark(state, raw.closed, "closed_ring")
    _refuse(state, raw.missing, "missing")
    _refuse(state, raw.unparsable, "unparsable")
    _flatten(state)
    codes = _crs_codes(state, raw, rules)
    if rules.axes == "yx":
        _swap(state, _live(state))
    _simplify_types(state)
    _mend(state)
    _classify(state)
    for code in np.unique(codes[_live(state)]):
        _place(state, _live(state) & (codes == code), rules.crs if code == 0 else int(code))
    if not shapely.is_valid(state.geometry[_live(state)]).all():
        # edges that nearly met can cross once their ends have moved
        _mend(state)
    _check_expected(state, rules.expected_bbox_lonlat)
    _drop_slivers(state, rules)
    state.geometry[~_live(state)] = None
    state.kinds[~_live(state)] = 0
    return state


def _flatten(state: RepairedGeometry) -> None:
    """Refuse what is empty or not finite; drop z and m."""
    geometry = state.geometry
    _refuse(state, shapely.is_empty(geometry), "empty")
    deep = shapely.has_z(geometry) | (shapely.has_m(geometry) if hasattr(shapely, "has_m") else False)
    geometry[deep] = shapely.force_2d(geometry[deep])
    _mark(state, deep, "z_dropped")
    xy, rows = shapely.get_coordinates(geometry, return_index=True)
    infinite = np.zeros(len(geometry), bool)
    infinite[rows[~np.isfinite(xy).all(axis=1)]] = True
    _refuse(state, infinite, "not_finite")


def _crs_codes(state: RepairedGeometry, raw: Parsed, rules: GeometryRules) -> NDArray[np.int64]:
    """EPSG code of each geometry; 0 stands for the mapping's CRS."""
    codes = np.zeros(len(raw.srid), np.int64)
    if rules.override_crs:
        return codes
    for code in np.unique(raw.srid[raw.srid > 0]):
        here = (raw.srid == code) & _live(state)
        try:
            own = crs(int(code))
        except CRSError:
            _refuse(state, here, "unknown_srid")
            continue
        if own.equals(crs(rules.crs), ignore_axis_order=True) or not here.any():
            continue
        rows = np.flatnonzero(here)
        geometry = state.geometry[rows]
        misfit = ~_fits(geometry, own) & _fits(geometry, crs(rules.crs))
        state.repairs[rows[misfit]] |= _BIT["wrong_srid"]
        state.repairs[rows[~misfit]] |= _BIT["embedded_srid"]
        codes[rows[~misfit]] = code
    return codes


def _fits(geometry: NDArray[np.object_], system: AnyCRS) -> NDArray[np.bool_]:
    """Whether coordinates could belong to a CRS: degrees in a geographic one, anything else in a projected one."""
    degrees = on_globe(geometry)
    return degrees if crs(system).is_geographic else ~degrees


def _swap(state: RepairedGeometry, where: NDArray[np.bool_]) -> None:
    if where.any():
        state.geometry[where] = swapped(state.geometry[where])


def _simplify_types(state: RepairedGeometry) -> None:
    """Collections to their areal parts, or else their points; lines are refused."""
    live = _live(state)
    kinds = shapely.get_type_id(state.geometry)
    _refuse(state, live & np.isin(kinds, _LINES), "line")
    for row in np.flatnonzero(live & (kinds == _COLLECTION)):
        parts = _leaves(state.geometry[row])
        types = shapely.get_type_id(parts)
        areal, points = parts[np.isin(types, _POLYGONS)], parts[np.isin(types, _POINTS)]
        if len(areal):
            # parts may be invalid or overlap: the mending after this merges them
            state.geometry[row] = areal[0] if len(areal) == 1 else shapely.multipolygons(areal)
        elif len(points) == len(parts):
            state.geometry[row] = points[0] if len(points) == 1 else shapely.multipoints(points)
        else:
            state.reasons[row] = "line"
            continue
        state.repairs[row] |= _BIT["collection_parts"]


def _leaves(geometry: shapely.Geometry) -> NDArray[np.object_]:
    """Simple, non-empty parts of a collection of any depth."""
    parts: NDArray[np.object_] = np.array([geometry], object)
    while np.isin(shapely.get_type_id(parts), (4, 5, 6, 7)).any():
        parts = shapely.get_parts(parts)
    full: NDArray[np.object_] = parts[~shapely.is_empty(parts)]
    return full


def _mend(state: RepairedGeometry) -> None:
    areal = np.flatnonzero(_live(state) & np.isin(shapely.get_type_id(state.geometry), _POLYGONS))
    mended = mended_polygons(state.geometry[areal])
    state.geometry[areal] = mended.geometry
    for code, where in mended.repairs.items():
        state.repairs[areal[where]] |= _BIT[code]
    state.reasons[areal[shapely.is_empty(mended.geometry)]] = "no_area"


def _classify(state: RepairedGeometry) -> None:
    """Point, box or polygon: a polygon that fills 99 % of its envelope is a box."""
    rows = np.flatnonzero(_live(state))
    geometry = state.geometry[rows]
    areal = np.isin(shapely.get_type_id(geometry), _POLYGONS)
    bounds = shapely.bounds(geometry)
    envelope = (bounds[:, 2] - bounds[:, 0]) * (bounds[:, 3] - bounds[:, 1])
    box = areal & (shapely.area(geometry) >= _BOX_SHARE * envelope)
    state.kinds[rows] = np.where(areal, np.where(box, 2, 3), 1)


def _place(state: RepairedGeometry, here: NDArray[np.bool_], system: AnyCRS) -> None:
    """Move one CRS's geometries to EPSG:4326, swapping axes where only that puts them on the globe."""
    own = crs(system)
    rows = np.flatnonzero(here)
    geometry = state.geometry[rows]
    fits = on_globe(geometry)
    if own.is_geographic:
        other = swapped(geometry[~fits])
        saved = on_globe(other)
        turned = rows[~fits][saved]
        state.geometry[turned] = other[saved]
        state.repairs[turned] |= _BIT["swapped_axes"]
        lost = rows[~fits][~saved]
        _explain(state, lost, "off_globe", own.name)
        rows = np.setdiff1d(rows, lost, assume_unique=True)
    else:
        _explain(state, rows[fits], "degrees", own.name)
        rows = rows[~fits]
    if not own.equals(crs(LONLAT), ignore_axis_order=True) and len(rows):
        move = transformer(own, LONLAT)
        moved = shapely.transform(state.geometry[rows], lambda xy: np.column_stack(move.transform(xy[:, 0], xy[:, 1])))
        xy, index = shapely.get_coordinates(moved, return_index=True)
        placeless = np.zeros(len(rows), bool)
        placeless[index[~np.isfinite(xy).all(axis=1)]] = True
        # PROJ makes finite nonsense of coordinates no projection of the Earth has, in whatever unit
        placeless |= (np.abs(shapely.bounds(state.geometry[rows])) > _FARTHEST).any(axis=1)
        _explain(state, rows[placeless], "no_place", own.name)
        state.geometry[rows] = moved
        rows = rows[~placeless]
    bounds = shapely.bounds(state.geometry[rows])
    wide = bounds[:, 2] - bounds[:, 0] > 180
    _explain(state, rows[wide], "antimeridian", own.name)


def _explain(state: RepairedGeometry, rows: NDArray[np.intp], reason: str, system: str) -> None:
    """Refuse rows with the bounds that were found."""
    state.reasons[rows] = reason
    for row, bounds in zip(rows.tolist(), shapely.bounds(state.geometry[rows]).tolist(), strict=True):
        shown = ", ".join(f"{value:.7g}" for value in bounds)
        hint = ""
        if reason == "off_globe":
            hint = "; check the axis order (x before y) and the CRS of the label table"
            if max(map(abs, bounds)) > 360:
                hint += ": these look like metres of a projected CRS, such as a UTM zone"
        state.details[row] = f"the geometry spans ({shown}) in {system}{hint}"


def _check_expected(state: RepairedGeometry, expected: Bounds | None) -> None:
    if expected is None:
        return
    box = shapely.box(*expected)
    rows = np.flatnonzero(_live(state))
    rows = rows[~shapely.intersects(state.geometry[rows], box)]
    other = swapped(state.geometry[rows])
    saved = on_globe(other) & shapely.intersects(other, box)
    state.geometry[rows[saved]] = other[saved]
    state.repairs[rows[saved]] ^= _BIT["swapped_axes"]
    _explain(state, rows[~saved], "outside_expected", "EPSG:4326")


def _drop_slivers(state: RepairedGeometry, rules: GeometryRules) -> None:
    areal = np.flatnonzero(_live(state) & (state.kinds > 1))
    cleared, dropped = without_slivers(
        state.geometry[areal], min_area_m2=rules.min_area_m2, min_width_m=rules.min_width_m
    )
    state.geometry[areal] = cleared
    gone = shapely.is_empty(cleared)
    state.repairs[areal[dropped & ~gone]] |= _BIT["sliver_parts"]
    state.reasons[areal[gone]] = "sliver"
