"""Label tables and files under one shape: mapped by settings, pushed down to an area and dates, read as Arrow."""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from store.ducklake import LAKE, table_columns
from store.ducklake_label_sql import LabelSource, Wanted, geometry_sql, inside_sql, pushed_boxes, source_query
from store.label_files import Relation, file_relation
from store.label_mapping import POINTS, LabelTable, resolved, stated_crs
from store.sql import quoted
from utils.errors import CatalogEmptyError, ConfigError, LabelTableError
from utils.geo import Bounds, crs, transformer
from utils.label_parsing import parsed_geometry

__all__ = [
    "LAKE_LABELS",
    "LabelSource",
    "LabelTable",
    "Wanted",
    "label_batches",
    "label_query",
    "label_source",
    "read_labels",
    "row_count",
    "source_query",
    "swapped_count",
]

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
        pa.field("positive_points_wkb", pa.binary()),
        pa.field("positive_points_wkt", pa.string()),
        pa.field("negative_points_wkb", pa.binary()),
        pa.field("negative_points_wkt", pa.string()),
    ]
)
"""Labels as lake and files hold them, one column of each geometry filled, in the source's own CRS."""

BATCH_ROWS = 1 << 16
"""Rows per batch of a stream."""


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
    system = stated_crs(full, kind, needed=needed)
    for name in (getattr(full, key) for key in POINTS):
        own = relation.columns.get(name) if name is not None else None
        if (
            own is not None
            and "'" in own
            and not crs(system).equals(crs(stated_crs(full, own)), ignore_axis_order=True)
        ):
            raise LabelTableError(
                f"label table {mapping.name}: column {name} is {own}, the label's geometry is in {crs(system).name}; "
                "points are in the label's CRS"
            )
    return LabelSource(mapping=full, relation=relation, crs=system)


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
    boxes = pushed_boxes(source, bbox_lonlat)
    if not boxes or not crs(source.crs).is_geographic:
        return 0
    west, south, east, north = boxes[0]
    shape = geometry_sql(source)[0]
    straight, turned = (inside_sql(shape, box, source) for box in (boxes[0], (south, west, north, east)))
    return _counted(connection, source, f" WHERE {turned} AND NOT {straight}")


def _counted(connection: duckdb.DuckDBPyConnection, source: LabelSource, where: str) -> int:
    try:
        row = connection.execute(f"SELECT count(*) FROM {source.relation.sql}{where}").fetchone()
    except duckdb.Error as error:
        raise LabelTableError(f"label table {source.mapping.name} cannot be read: {error}") from error
    return int(row[0]) if row else 0


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
