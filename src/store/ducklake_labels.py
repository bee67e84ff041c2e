"""Label tables and files under one shape: mapped by settings, pushed down to an area and dates, read as Arrow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from store.ducklake import LAKE, quoted, quoted_column, table_columns
from store.label_files import Relation, file_relation
from store.label_mapping import LabelTable, resolved, stated_crs, suggestions
from utils.errors import CatalogEmptyError, ConfigError, GeometryError, LabelTableError
from utils.geo import Bounds, crs, reproject_bounds, transformer
from utils.label_geometry import GeometryRules
from utils.label_parsing import parsed_geometry

__all__ = ["LAKE_LABELS", "LabelSource", "LabelTable", "label_batches", "label_query", "label_source", "read_labels"]

LAKE_LABELS = pa.schema(
    [
        pa.field("label_id", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("label_table", pa.string(), nullable=False),
        pa.field("geometry_wkb", pa.binary()),
        pa.field("geometry_wkt", pa.string()),
        pa.field("crs", pa.string(), nullable=False),
        pa.field("installed_on", pa.date32()),
        pa.field("area_m2", pa.float64()),
        pa.field("capacity_mw", pa.float64()),
        pa.field("h3_index", pa.uint64()),
        pa.field("unreadable", pa.string(), metadata={"doc": "Columns with a value that cannot be read, by comma."}),
    ]
)
"""Labels as lake and files hold them, one geometry column filled, in the source's own CRS."""

BATCH_ROWS = 1 << 16
"""Rows per batch of a stream."""

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


def label_source(connection: duckdb.DuckDBPyConnection, mapping: LabelTable, snapshot: int | None) -> LabelSource:
    """A mapping checked against its table or files.

    Raises:
        LabelTableError: the table or a mapped column is missing, or a column has an unusable type.
        LabelFileError: a file is missing or cannot be read.
        CRSError: the CRS is unknown.
    """
    if mapping.file is not None:
        relation = file_relation(connection, mapping)
    elif snapshot is None:
        raise ConfigError(f"label table {mapping.table} is in a lake; set `catalog`, or give a `file`")
    else:
        columns = table_columns(connection, mapping.table, snapshot)
        relation = Relation(sql=f"{LAKE}.{quoted(mapping.table)} AT (VERSION => {int(snapshot)})", columns=columns)
    full = resolved(mapping, relation.columns)
    kind = relation.columns[full.geometry] if full.geometry else None
    needed = relation.needs_crs and kind is not None and kind.upper().startswith("GEOMETRY")
    return LabelSource(mapping=full, relation=relation, crs=stated_crs(full, kind, needed=needed))


def read_labels(
    connection: duckdb.DuckDBPyConnection,
    tables: Sequence[LabelTable],
    snapshot: int | None,
    *,
    aoi_bbox_lonlat: Sequence[float] | None = None,
    area: shapely.Geometry | None = None,
    installed: tuple[date | None, date | None] | None = None,
    undated: bool = True,
    none_is_an_error: bool = True,
) -> pa.Table:
    """Labels of all ``tables`` at ``snapshot``, schema :data:`LAKE_LABELS`.

    Area and dates are pushed down to the scan. What has no place that could be compared with the area (missing, empty,
    broken, off the globe, with an SRID of its own) comes along so that it can be reported, and so do labels that
    would lie in it with their axes swapped, where the mapping says where its data set lies. What lies near the area
    may come along too: this compares bounds, the check after it geometry.

    Args:
        connection: from :func:`store.ducklake.connect`.
        tables: label tables and files.
        snapshot: snapshot of the catalogue; None where all labels are in files.
        aoi_bbox_lonlat: area as west, south, east, north.
        area: area as geometry in EPSG:4326, of any number of parts; its bounds are pushed down, and labels that touch
            the bounds of none of its parts are left out.
        installed: first and last day of installation, each open when None.
        undated: whether labels without a readable date are kept when ``installed`` is given.
        none_is_an_error: whether finding no label raises.

    Raises:
        LabelTableError: a table or a mapped column is missing, or a geometry column has an unusable type.
        LabelFileError: a file is missing or cannot be read.
        CatalogEmptyError: no table holds a label.
        CRSError: a table's CRS is unknown.
    """
    wanted = _wanted(aoi_bbox_lonlat, area, installed, undated)
    batches = [
        batch
        for mapping in tables
        for batch in label_batches(connection, label_source(connection, mapping, snapshot), wanted, area=area)
    ]
    labels = pa.Table.from_batches(batches, LAKE_LABELS)
    if not len(labels) and none_is_an_error:
        names = ", ".join(table.name for table in tables)
        where = f" in {aoi_bbox_lonlat or 'the area'}" if wanted.bbox_lonlat else ""
        dates = f" installed {installed[0] or '…'} to {installed[1] or '…'}" if installed else ""
        at = f" at snapshot {snapshot}" if snapshot is not None else ""
        raise CatalogEmptyError(f"no label{where}{dates} in {names}{at}; check the tables, snapshot and area")
    return labels


def _wanted(
    bbox: Sequence[float] | None,
    area: shapely.Geometry | None,
    installed: tuple[date | None, date | None] | None,
    undated: bool,
) -> Wanted:
    bounds = None if bbox is None else tuple(float(value) for value in bbox)
    if area is not None:
        own = tuple(float(value) for value in area.bounds)
        bounds = own if bounds is None else (*np.maximum(bounds[:2], own[:2]), *np.minimum(bounds[2:], own[2:]))
    return Wanted(bbox_lonlat=bounds, installed=installed, undated=undated)  # type: ignore[arg-type]


def label_batches(
    connection: duckdb.DuckDBPyConnection,
    source: LabelSource,
    wanted: Wanted | None = None,
    *,
    area: shapely.Geometry | None = None,
) -> Iterator[pa.RecordBatch]:
    """Labels of one source as a stream of batches of up to :data:`BATCH_ROWS` rows, schema :data:`LAKE_LABELS`.

    Raises:
        LabelTableError: the rows cannot be read.
    """
    sql, parameters = source_query(source, wanted or Wanted())
    parts = None if area is None or len(shapely.get_parts(area)) < 2 else _part_bounds(area, source)
    try:
        for batch in connection.execute(sql, parameters).to_arrow_reader(BATCH_ROWS):
            found = pa.Table.from_batches([batch]).cast(LAKE_LABELS)
            if parts is not None:
                found = found.filter(pa.array(_near(found, parts, source)))
            yield from found.to_batches()
    except duckdb.Error as error:
        raise LabelTableError(f"label table {source.mapping.name} cannot be read: {error}") from error


def label_query(
    connection: duckdb.DuckDBPyConnection,
    mapping: LabelTable,
    snapshot: int | None,
    aoi_bbox_lonlat: Sequence[float] | None = None,
    *,
    installed: tuple[date | None, date | None] | None = None,
    undated: bool = True,
) -> tuple[str, list[Any]]:
    """SQL and parameters that read one label table or its files; useful with EXPLAIN.

    Raises:
        LabelTableError: the table or a mapped column is missing, or a column has an unusable type.
        LabelFileError: a file is missing or cannot be read.
    """
    wanted = _wanted(aoi_bbox_lonlat, None, installed, undated)
    return source_query(label_source(connection, mapping, snapshot), wanted)


def source_query(source: LabelSource, wanted: Wanted) -> tuple[str, list[Any]]:
    """SQL and parameters that read the wanted labels of a source.

    Raises:
        LabelTableError: a mapped column has an unusable type.
    """
    mapping, columns = source.mapping, source.relation.columns
    shape, wkb, wkt, always = _geometry_sql(source)
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
        f"{f'concat_ws({chr(39)},{chr(39)}, ' + ', '.join(unreadable) + ')' if unreadable else 'NULL'} AS unreadable "
        f"FROM {source.relation.sql}"
    )
    parameters += [mapping.name, source.crs]
    boxes = _boxes(source, wanted.bbox_lonlat)
    conditions = []
    if boxes:
        near = " OR ".join(_inside(shape, box, source) for box in boxes)
        conditions.append(f"({near} OR {_placeless(shape, source)}{always})")
    if wanted.installed is not None:
        conditions.append(_date_condition(mapping, dated, wanted))
    return sql + (f" WHERE {' AND '.join(conditions)}" if conditions else ""), parameters


def row_count(connection: duckdb.DuckDBPyConnection, source: LabelSource) -> int:
    """Rows of a source.

    Raises:
        LabelTableError: they cannot be read.
    """
    return _counted(connection, source, "")


def swapped_count(connection: duckdb.DuckDBPyConnection, source: LabelSource, bbox_lonlat: Bounds) -> int:
    """Labels of a geographic source whose bounds touch a box only once their axes are swapped.

    Raises:
        LabelTableError: they cannot be read.
    """
    boxes = _boxes(source, bbox_lonlat)
    if not boxes or not crs(source.crs).is_geographic:
        return 0
    west, south, east, north = boxes[0]
    shape = _geometry_sql(source)[0]
    straight, turned = (_inside(shape, box, source) for box in (boxes[0], (south, west, north, east)))
    return _counted(connection, source, f" WHERE {turned} AND NOT {straight}")


def _counted(connection: duckdb.DuckDBPyConnection, source: LabelSource, where: str) -> int:
    try:
        row = connection.execute(f"SELECT count(*) FROM {source.relation.sql}{where}").fetchone()
    except duckdb.Error as error:
        raise LabelTableError(f"label table {source.mapping.name} cannot be read: {error}") from error
    return int(row[0]) if row else 0


def _default_dataset(source: LabelSource) -> str:
    files = source.relation.files
    if not files:
        return source.mapping.table
    return files[0].name.partition(".")[0] if len(files) == 1 else files[0].parent.name


def _geometry_sql(source: LabelSource) -> tuple[str, str, str, str]:
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


def _inside(shape: str, box: Bounds, source: LabelSource) -> str:
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


def _boxes(source: LabelSource, bbox: Bounds | None) -> list[Bounds]:
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


def _part_bounds(area: shapely.Geometry, source: LabelSource) -> shapely.STRtree:
    """Bounds of an area's parts in the source's CRS and axis order, as a tree."""
    boxes = shapely.box(*shapely.bounds(shapely.get_parts(area)).T)
    own = crs(source.crs)
    if not own.equals(crs(4326), ignore_axis_order=True):
        move = transformer(4326, own)
        sides = shapely.length(boxes) / 4
        moved = shapely.transform(
            shapely.segmentize(boxes, np.maximum(sides / 10, 1e-9)),
            lambda xy: np.column_stack(move.transform(xy[:, 0], xy[:, 1])),
        )
        bounds = shapely.bounds(moved)
        grown = 0.01 * (bounds[:, 2:] - bounds[:, :2])
        bounds = np.hstack([bounds[:, :2] - grown, bounds[:, 2:] + grown])
        boxes = shapely.box(*np.where(np.isfinite(bounds), bounds, [-1e12, -1e12, 1e12, 1e12]).T)
    turned = shapely.transform(boxes, lambda xy: xy[:, ::-1])
    if source.mapping.axes == "yx":
        boxes, turned = turned, boxes
    either = source.mapping.expected_bbox_lonlat is not None and own.is_geographic
    return shapely.STRtree(np.concatenate([boxes, turned]) if either else boxes)


def _near(labels: pa.Table, parts: shapely.STRtree, source: LabelSource) -> NDArray[np.bool_]:
    """Whether each label's bounds touch those of a part, or it has no place to compare."""
    raw = parsed_geometry(labels["geometry_wkb"], labels["geometry_wkt"])
    bounds = shapely.bounds(raw.geometry)
    beyond = (np.abs(bounds) > [180, 90, 180, 90]).any(axis=1)
    unfit = beyond if crs(source.crs).is_geographic else ~beyond
    kept: NDArray[np.bool_] = ~np.isfinite(bounds).all(axis=1) | unfit
    if not source.mapping.override_crs:
        kept |= raw.srid > 0
    rows = np.flatnonzero(~kept)
    kept[rows[np.unique(parts.query(shapely.box(*bounds[rows].T))[0])]] = True
    return kept


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
