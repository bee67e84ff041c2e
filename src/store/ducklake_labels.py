"""Label tables of a lake under one shape: mapped by settings, pushed down to an area, read at one snapshot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import duckdb
import pyarrow as pa

from store.ducklake import LAKE, query, quoted, quoted_column, table_columns
from utils.errors import CatalogEmptyError, ConfigError, LabelTableError
from utils.geo import reproject_bounds

LAKE_LABELS = pa.schema(
    [
        pa.field("label_id", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("label_table", pa.string(), nullable=False),
        pa.field("geometry_wkb", pa.binary()),
        pa.field("geometry_wkt", pa.string()),
        pa.field("crs", pa.string(), nullable=False),
    ]
)
"""Labels as the lake holds them, one geometry column filled, in the table's own CRS."""

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


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """One label table of the lake and which of its columns mean what."""

    table: str
    """Table name, or ``schema.table``."""
    id: str
    """Column that names a label within its dataset."""
    geometry: str | None = None
    """Column of geometry: DuckDB GEOMETRY, WKB (BLOB) or WKT (VARCHAR); None when ``lon`` and ``lat`` are given."""
    lon: str | None = None
    """Column of the x coordinate (longitude in a geographic CRS) of point labels."""
    lat: str | None = None
    """Column of the y coordinate (latitude in a geographic CRS) of point labels."""
    crs: str = "EPSG:4326"
    """CRS of the geometry, x before y."""
    dataset: str | None = None
    """Column that names the dataset."""
    dataset_name: str | None = None
    """Name of the dataset where no column does; by default the table's name."""

    def __post_init__(self) -> None:
        """Refuse a mapping without geometry."""
        coordinates = [name for name in (self.lon, self.lat) if name is not None]
        if len(coordinates) != (2 if self.geometry is None else 0):
            raise ConfigError(f"label table {self.table}: give either `geometry`, or both `lon` and `lat`")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "LabelTable":
        """The table described by plain values.

        Raises:
            ConfigError: a key is unknown, or table, id or geometry is missing.
        """
        known = {f.name for f in fields(cls)}
        if not isinstance(values, Mapping) or set(values) - known or not {"table", "id"} <= set(values):
            raise ConfigError(
                f"a label table needs `table`, `id` and a geometry; known keys: {sorted(known)}; got {values!r}"
            )
        return cls(**values)


def read_labels(
    connection: duckdb.DuckDBPyConnection,
    tables: Sequence[LabelTable],
    snapshot: int,
    *,
    aoi_bbox_lonlat: Sequence[float] | None = None,
) -> pa.Table:
    """Labels of all ``tables`` at ``snapshot``, schema :data:`LAKE_LABELS`.

    The area is pushed down to the lake's scan for GEOMETRY and coordinate columns; text and binary geometry comes
    whole. Rows whose geometry is missing come along so that they can be reported.

    Raises:
        LabelTableError: a table or a mapped column is missing, or a geometry column has an unusable type.
        CatalogEmptyError: no table holds a label.
        CRSError: a table's CRS is unknown.
    """
    parts = [query(connection, *label_query(connection, table, snapshot, aoi_bbox_lonlat)) for table in tables]
    labels = pa.concat_tables([part.cast(LAKE_LABELS) for part in parts])
    if not len(labels):
        names = ", ".join(table.table for table in tables)
        where = f" in {aoi_bbox_lonlat}" if aoi_bbox_lonlat else ""
        raise CatalogEmptyError(
            f"no label{where} in {names} at snapshot {snapshot}; check the tables, snapshot and area"
        )
    return labels


def label_query(
    connection: duckdb.DuckDBPyConnection,
    mapping: LabelTable,
    snapshot: int,
    aoi_bbox_lonlat: Sequence[float] | None,
) -> tuple[str, list[Any]]:
    """SQL and parameters that read one label table; useful with EXPLAIN.

    Raises:
        LabelTableError: the table or a mapped column is missing, or the geometry column has an unusable type.
    """
    columns = table_columns(connection, mapping.table, snapshot)
    wanted = [mapping.id, mapping.geometry, mapping.lon, mapping.lat, mapping.dataset]
    absent = [name for name in wanted if name is not None and name not in columns]
    if absent:
        raise LabelTableError(
            f"label table {mapping.table} has no column {', '.join(absent)}; it has {', '.join(columns)}"
        )
    bounds = None
    if aoi_bbox_lonlat:
        west, south, east, north = aoi_bbox_lonlat
        bounds = reproject_bounds((west, south, east, north), 4326, mapping.crs)
    wkb, wkt, where, parameters = _geometry_sql(mapping, columns, bounds)
    dataset = f"CAST({quoted_column(mapping.dataset)} AS VARCHAR)" if mapping.dataset else "CAST(? AS VARCHAR)"
    name = [] if mapping.dataset else [mapping.dataset_name or mapping.table]
    sql = (
        f"SELECT CAST({quoted_column(mapping.id)} AS VARCHAR) AS label_id, {dataset} AS dataset, "
        f"CAST(? AS VARCHAR) AS label_table, {wkb} AS geometry_wkb, {wkt} AS geometry_wkt, CAST(? AS VARCHAR) AS crs "
        f"FROM {LAKE}.{quoted(mapping.table)} AT (VERSION => {int(snapshot)}){where}"
    )
    return sql, [*name, mapping.table, mapping.crs, *parameters]


def _geometry_sql(
    mapping: LabelTable, columns: Mapping[str, str], bounds: tuple[float, float, float, float] | None
) -> tuple[str, str, str, list[float]]:
    """WKB expression, WKT expression, WHERE clause and its parameters."""
    if mapping.geometry is None:
        for name in (str(mapping.lon), str(mapping.lat)):
            if not columns[name].startswith(_NUMBERS):
                raise LabelTableError(
                    f"label table {mapping.table}: column {name} is {columns[name]}; coordinates are numbers"
                )
        x, y = quoted_column(str(mapping.lon)), quoted_column(str(mapping.lat))
        point = f"CAST(ST_AsWKB(ST_Point({x}, {y})) AS BLOB)"
        unplaced = f"{x} IS NULL OR {y} IS NULL OR isnan({x}) OR isnan({y})"
        inside = f" WHERE {unplaced} OR ({x} BETWEEN ? AND ? AND {y} BETWEEN ? AND ?)"
        order = (0, 2, 1, 3)
        return point, "CAST(NULL AS VARCHAR)", inside if bounds else "", [bounds[i] for i in order] if bounds else []
    column, kind = quoted_column(mapping.geometry), columns[mapping.geometry].upper()
    if kind.startswith("GEOMETRY"):
        # empty geometry intersects nothing: it must still come along to be reported
        inside = (
            f" WHERE {column} IS NULL OR ST_IsEmpty({column}) OR ST_Intersects({column}, ST_MakeEnvelope(?, ?, ?, ?))"
        )
        blob = f"CAST(ST_AsWKB({column}) AS BLOB)"
        return blob, "CAST(NULL AS VARCHAR)", inside if bounds else "", list(bounds) if bounds else []
    if kind == "BLOB":
        return column, "CAST(NULL AS VARCHAR)", "", []
    if kind == "VARCHAR":
        return "CAST(NULL AS BLOB)", column, "", []
    raise LabelTableError(
        f"label table {mapping.table}: column {mapping.geometry} is {kind}; "
        "geometry is GEOMETRY, BLOB (WKB) or VARCHAR (WKT)"
    )
