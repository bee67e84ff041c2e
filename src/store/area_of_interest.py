"""The area of interest: a box, a polygon as WKT, or the polygons of a vector file."""

import re
from collections.abc import Sequence

import pyarrow as pa
import shapely

from store import ducklake
from store.label_files import file_relation
from store.label_mapping import LabelTable, stated_crs
from store.sql import quoted_column
from utils.errors import ConfigError, LabelError
from utils.label_geometry import KINDS, REASONS, GeometryRules, repaired_geometry
from utils.label_parsing import parsed_geometry

# a file may be called polygon.geojson
_WKT = re.compile(
    r"^\s*(SRID\s*=\s*\d+\s*;)?\s*((MULTI)?POLYGON|GEOMETRYCOLLECTION)\s*(Z|M|ZM)?\s*(\(|EMPTY\b)", re.IGNORECASE
)


def is_wkt(aoi: str) -> bool:
    """Whether the text is a polygon rather than the place of a file."""
    return bool(_WKT.match(aoi))


def read_area(aoi: str | None, aoi_bbox_lonlat: Sequence[float] | None = None) -> shapely.Geometry | None:
    """The area in EPSG:4326; None is everywhere. Where both are given, what lies in both.

    Args:
        aoi: WKT in longitude and latitude (or EWKT), or a vector file in any CRS it states.
        aoi_bbox_lonlat: west, south, east, north in degrees.

    Raises:
        ConfigError: the file is missing or has no usable polygon, or box and polygon have nothing in common.
        CRSError: the file's CRS is unknown.
    """
    box = None if aoi_bbox_lonlat is None else shapely.box(*aoi_bbox_lonlat)
    if aoi is None:
        return box
    area = _polygons(pa.nulls(1, pa.binary()), pa.array([aoi]), "EPSG:4326", "aoi") if is_wkt(aoi) else _of_file(aoi)
    if box is not None:
        area = shapely.intersection(area, box)
        if area.is_empty or area.area == 0:
            raise ConfigError(f"aoi and aoi_bbox_lonlat {tuple(aoi_bbox_lonlat or ())} have no area in common")
    shapely.prepare(area)
    return area


def _of_file(place: str) -> shapely.Geometry:
    with ducklake.connect(None) as connection:
        mapping = LabelTable(file=place)
        try:
            relation = file_relation(connection, mapping)
        except LabelError as error:
            raise ConfigError(f"aoi: {error}") from error
        shapes = {name: kind for name, kind in relation.columns.items() if kind.upper().startswith("GEOMETRY")}
        if len(shapes) != 1:
            raise ConfigError(f"aoi {place} has {len(shapes)} geometry columns; give a file of polygons, or WKT")
        [(name, kind)] = shapes.items()
        system = stated_crs(mapping, kind, needed=relation.needs_crs)
        column = quoted_column(name)
        rows = ducklake.query(connection, f"SELECT CAST(ST_AsWKB({column}) AS BLOB) AS wkb FROM {relation.sql}")  # noqa: S608
    return _polygons(rows["wkb"], pa.nulls(len(rows), pa.string()), system, f"aoi {place}")


def _polygons(wkb: pa.Array, wkt: pa.Array, system: str, what: str) -> shapely.Geometry:
    rules = GeometryRules(crs=system)
    found = repaired_geometry(wkb, wkt, rules)
    if set(found.reasons) - {None} == {"antimeridian"}:
        apart = _apart(wkb, wkt)
        found = repaired_geometry(apart, pa.nulls(len(apart), pa.string()), rules)
    areal = found.geometry[found.kinds >= KINDS.index("box")]
    refused = [reason for reason in found.reasons if reason is not None]
    if not len(areal) or refused or len(areal) < len(found.kinds):
        why = REASONS[refused[0]] if refused else "it holds points" if len(found.kinds) else "it holds no row"
        raise ConfigError(f"{what} is no area: {why}; give polygons")
    return shapely.union_all(areal)


def _apart(wkb: pa.Array, wkt: pa.Array) -> pa.Array:
    """Polygons one by one, WKB: of an area that is split at the antimeridian, each lies on one side of it."""
    whole = parsed_geometry(wkb, wkt)
    parts, owner = shapely.get_parts(whole.geometry, return_index=True)
    placed = shapely.set_srid(parts, whole.srid[owner])
    return pa.array(shapely.to_wkb(placed, include_srid=True), pa.binary())
