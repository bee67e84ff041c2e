"""SQL that reads one label table or its files: mapped columns, and what is wanted pushed down to the scan."""

from dataclasses import dataclass
from datetime import date
from typing import Any

from store.label_files import Relation
from store.label_mapping import POINTS, LabelTable, suggestions
from store.sql import quoted_column
from utils.errors import GeometryError, LabelTableError
from utils.geo import Bounds, crs, reproject_bounds
from utils.label_geometry import GeometryRules

_NUMBERS = (
    "DOUBLE",
    "FLOAT",
    "DECIMAL",
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
)
_YEARS = (1900, 2100)
_SLACK = 0.002


@dataclass(frozen=True, kw_only=True)
class LabelSource:
    """A mapping that was checked against what it maps."""

    mapping: LabelTable
    """The mapping, presets filled in."""
    relation: Relation
    """Where its rows are."""
    crs: str
    """CRS of its coordinates."""

    @property
    def rules(self) -> GeometryRules:
        """How its geometry is to be read and repaired."""
        return self.mapping.rules(self.crs)

    @property
    def suggestions(self) -> dict[str, str]:
        """Meaning → column that could be mapped to it and is not."""
        return suggestions(self.mapping, self.relation.columns)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which labels are read; None is all."""

    bbox_lonlat: Bounds | None = None
    """West, south, east, north in degrees."""
    installed: tuple[date | None, date | None] | None = None
    """First and last day of installation, each open when None."""
    undated: bool = True
    """Whether labels without a readable date are read when ``installed`` is given."""


def source_query(source: LabelSource, wanted: Wanted) -> tuple[str, list[Any]]:
    """SQL and parameters that read the wanted labels of a source.

    Raises:
        LabelTableError: a mapped column has an unusable type.
    """
    mapping, columns = source.mapping, source.relation.columns
    shape, wkb, wkt, always = geometry_sql(source)
    dated = _date_sql(mapping, columns)
    numbers = {key: _number_sql(mapping, columns, key) for key in ("area_m2", "capacity_mw")}
    unreadable = [
        f"CASE WHEN {quoted_column(column)} IS NOT NULL AND ({value}) IS NULL THEN '{key}' END"
        for key, value in {"installed_on": dated, **numbers}.items()
        if (column := getattr(mapping, key)) is not None
    ]
    dataset = f"CAST({quoted_column(mapping.dataset)} AS VARCHAR)" if mapping.dataset else "CAST(? AS VARCHAR)"
    parameters: list[Any] = [] if mapping.dataset else [mapping.dataset_name or _default_dataset(source)]
    sql = (
        f"SELECT CAST({quoted_column(str(mapping.id))} AS VARCHAR) AS label_id, {dataset} AS dataset, "
        f"CAST(? AS VARCHAR) AS label_table, {wkb} AS geometry_wkb, {wkt} AS geometry_wkt, CAST(? AS VARCHAR) AS crs, "
        f"{dated} AS installed_on, {numbers['area_m2']} AS area_m2, {numbers['capacity_mw']} AS capacity_mw, "
        f"{_h3_sql(mapping, columns)} AS h3_index, "
        f"{f'concat_ws({chr(39)},{chr(39)}, ' + ', '.join(unreadable) + ')' if unreadable else 'NULL'} AS unreadable, "
        f"{', '.join(_points_sql(mapping, columns, key) for key in POINTS)} "
        f"FROM {source.relation.sql}"
    )
    parameters += [mapping.name, source.crs]
    boxes = pushed_boxes(source, wanted.bbox_lonlat)
    conditions = []
    if boxes:
        near = " OR ".join(inside_sql(shape, box, source) for box in boxes)
        conditions.append(f"({near} OR {_placeless(shape, source)}{always})")
    if wanted.installed is not None:
        conditions.append(_date_condition(mapping, dated, wanted))
    return sql + (f" WHERE {' AND '.join(conditions)}" if conditions else ""), parameters


def _default_dataset(source: LabelSource) -> str:
    files = source.relation.files
    if not files:
        return source.mapping.table
    return files[0].name.partition(".")[0] if len(files) == 1 else files[0].parent.name


def geometry_sql(source: LabelSource) -> tuple[str, str, str, str]:
    """Geometry that may be null, its WKB and WKT as stored, and a condition for rows whose place is their own."""
    mapping, columns, null = source.mapping, source.relation.columns, "CAST(NULL AS VARCHAR)"
    if mapping.geometry is None:
        for name in (str(mapping.lon), str(mapping.lat)):
            if not columns[name].startswith(_NUMBERS) and not source.relation.untyped:
                raise LabelTableError(
                    f"label table {mapping.name}: column {name} is {columns[name]}; coordinates are numbers"
                )
        x, y = _coordinates(mapping)
        point = f"ST_Point({x}, {y})"
        return point, f"CAST(ST_AsWKB({point}) AS BLOB)", null, ""
    column, kind = quoted_column(mapping.geometry), columns[mapping.geometry].upper()
    if kind.startswith("GEOMETRY"):
        return column, f"CAST(ST_AsWKB({column}) AS BLOB)", null, ""
    if kind == "BLOB":
        # EWKB flags are in the type's high byte, the fifth or, big-endian, the second; DuckDB pushes this form down
        flags = f"substr(hex({column}), 9, 1) >= '2'"
        marked = f"{flags} OR (substr(hex({column}), 2, 1) = '0' AND substr(hex({column}), 3, 1) >= '2')"
        return f"TRY(ST_GeomFromWKB({column}))", column, null, "" if mapping.override_crs else f" OR {marked}"
    if kind == "VARCHAR":
        marked = "" if mapping.override_crs else f" OR {column} ILIKE '%SRID%'"
        return f"TRY(ST_GeomFromText({column}))", "CAST(NULL AS BLOB)", column, marked
    raise LabelTableError(
        f"label table {mapping.name}: column {mapping.geometry} is {kind}; "
        "geometry is GEOMETRY, BLOB (WKB) or VARCHAR (WKT)"
    )


def _points_sql(mapping: LabelTable, columns: dict[str, str], key: str) -> str:
    """WKB and WKT of a column of points, one of them null."""
    name, nothing = getattr(mapping, key), ("CAST(NULL AS BLOB)", "CAST(NULL AS VARCHAR)")
    kind = "" if name is None else columns[name].upper()
    if name is None:
        wkb, wkt = nothing
    elif kind.startswith("GEOMETRY"):
        wkb, wkt = f"CAST(ST_AsWKB({quoted_column(name)}) AS BLOB)", nothing[1]
    elif kind == "BLOB":
        wkb, wkt = quoted_column(name), nothing[1]
    elif kind == "VARCHAR":
        # an empty cell of a CSV is no point
        wkb, wkt = nothing[0], f"nullif(trim({quoted_column(name)}), '')"
    else:
        raise LabelTableError(
            f"label table {mapping.name}: column {name} is {columns[name]}; {key} are GEOMETRY, BLOB (WKB) or VARCHAR "
            "(WKT)"
        )
    return f"{wkb} AS {key}_wkb, {wkt} AS {key}_wkt"


def inside_sql(shape: str, box: Bounds, source: LabelSource) -> str:
    """Condition for bounds that touch a box, whose sides are constants."""
    west, south, east, north = (repr(float(side)) for side in box)
    if source.mapping.geometry is None:
        x, y = _coordinates(source.mapping)
        return f"({x} BETWEEN {west} AND {east} AND {y} BETWEEN {south} AND {north})"
    return f"ST_Intersects_Extent({shape}, ST_MakeEnvelope({west}, {south}, {east}, {north}))"


def _coordinates(mapping: LabelTable) -> tuple[str, str]:
    x, y = (f"TRY_CAST({quoted_column(str(name))} AS DOUBLE)" for name in (mapping.lon, mapping.lat))
    return x, y


def _placeless(shape: str, source: LabelSource) -> str:
    """Condition for geometry that cannot be compared with an area: none, empty, NaN, or not of the CRS's range."""
    if source.mapping.geometry is None:
        west, south = east, north = _coordinates(source.mapping)
    else:
        west, south, east, north = (f"ST_{name}({shape})" for name in ("XMin", "YMin", "XMax", "YMax"))
    beyond = f"{west} < -180 OR {east} > 180 OR {south} < -90 OR {north} > 90"
    unfit = f"({beyond})" if crs(source.crs).is_geographic else f"NOT ({beyond})"
    sides = dict.fromkeys((west, south, east, north))
    # DuckDB gives a point of NaN the bounds (1.8e308, -1.8e308)
    upside_down = [] if west == east else [f"{west} > {east}", f"{south} > {north}"]
    unknown = [f"{west} IS NULL", f"{south} IS NULL", *(f"NOT isfinite({side})" for side in sides)]
    return " OR ".join([*unknown, *upside_down, unfit])


def pushed_boxes(source: LabelSource, bbox: Bounds | None) -> list[Bounds]:
    """The area's bounds in the source's CRS and axis order, and swapped where axes may be repaired; none is all."""
    if bbox is None:
        return []
    own = crs(source.crs)
    try:
        bounds = reproject_bounds(bbox, 4326, source.crs)
    except GeometryError:
        # the area has parts outside the CRS's domain: nothing can be pushed down
        return []
    west, south, east, north = bounds
    if west > east:
        return []
    if not own.is_geographic:
        dx, dy = _SLACK * (east - west) + 1, _SLACK * (north - south) + 1
        west, south, east, north = west - dx, south - dy, east + dx, north + dy
    straight, turned = (west, south, east, north), (south, west, north, east)
    if source.mapping.axes == "yx":
        straight, turned = turned, straight
    return [straight, turned] if source.mapping.expected_bbox_lonlat and own.is_geographic else [straight]


def _date_sql(mapping: LabelTable, columns: dict[str, str]) -> str:
    if mapping.installed_on is None:
        return "CAST(NULL AS DATE)"
    column, kind = quoted_column(mapping.installed_on), columns[mapping.installed_on].upper()
    first, last = _YEARS
    if kind.startswith("DATE"):
        return column
    if kind.startswith("TIMESTAMP"):
        return f"CAST({column} AS DATE)"
    if kind.startswith(_NUMBERS):
        year = f"TRY_CAST({column} AS INTEGER)"
        return f"CASE WHEN {column} = {year} AND {year} BETWEEN {first} AND {last} THEN make_date({year}, 1, 1) END"
    if kind == "VARCHAR":
        text = f"trim({column})"
        year = f"TRY_CAST(left({text}, 4) AS INTEGER)"
        month = f"TRY_CAST({text} || '-01' AS DATE)"
        return (
            f"CASE WHEN regexp_full_match({text}, '[0-9]{{4}}(\\.0+)?') THEN "
            f"CASE WHEN {year} BETWEEN {first} AND {last} THEN make_date({year}, 1, 1) END "
            f"WHEN regexp_full_match({text}, '[0-9]{{4}}-[0-9]{{2}}') THEN {month} "
            f"ELSE TRY_CAST({text} AS DATE) END"
        )
    raise LabelTableError(
        f"label table {mapping.name}: column {mapping.installed_on} is {kind}; dates are DATE, TIMESTAMP, ISO text "
        "or years"
    )


def _number_sql(mapping: LabelTable, columns: dict[str, str], key: str) -> str:
    name = getattr(mapping, key)
    if name is None:
        return "CAST(NULL AS DOUBLE)"
    kind = columns[name].upper()
    if not kind.startswith((*_NUMBERS, "VARCHAR")):
        raise LabelTableError(f"label table {mapping.name}: column {name} is {kind}; {key} is a number")
    value = f"TRY_CAST({quoted_column(name)} AS DOUBLE)"
    return f"CASE WHEN isfinite({value}) AND {value} >= 0 THEN {value} END"


def _h3_sql(mapping: LabelTable, columns: dict[str, str]) -> str:
    if mapping.h3_index is None:
        return "CAST(NULL AS UBIGINT)"
    column, kind = quoted_column(mapping.h3_index), columns[mapping.h3_index].upper()
    return f"TRY_CAST('0x' || {column} AS UBIGINT)" if kind == "VARCHAR" else f"TRY_CAST({column} AS UBIGINT)"


def _date_condition(mapping: LabelTable, dated: str, wanted: Wanted) -> str:
    """Condition on the installation date; days are constants, so that scans can skip what cannot hold them."""
    if mapping.installed_on is None:
        return "TRUE" if wanted.undated else "FALSE"
    first, last = wanted.installed or (None, None)
    sides = [f"{dated} >= DATE '{first.isoformat()}'"] if first else []
    sides += [f"{dated} <= DATE '{last.isoformat()}'"] if last else []
    within = " AND ".join(sides) or "TRUE"
    return f"(({within}) OR ({dated}) IS NULL)" if wanted.undated else f"({within} AND ({dated}) IS NOT NULL)"
