"""Context tables of a lake (buildings, land cover, roads …): mapped by settings, read by area at one snapshot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import duckdb
import pyarrow as pa

from store.ducklake import LAKE, query, table_columns
from store.sql import quoted, quoted_column
from utils.context_rule import CLASS_MEASURES, MEASURES, OWN_COLUMNS, ContextKind, ContextRule
from utils.errors import ConfigError, LabelTableError
from utils.geo import Bounds, crs, reproject_bounds

RAW_COLUMNS = ("feature_id", "geometry_wkb", "geometry_wkt")
"""What every batch of raw features begins with; one of the two geometry columns is filled."""
BATCH_ROWS = 65_536
_FLOAT32 = 1.2e-7
"""Relative rounding of a bbox column of FLOAT."""
_BOX = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, kw_only=True)
class ContextTable:
    """One context table of the lake, which of its columns mean what, and how it is joined."""

    name: str
    """What it is called in results: ``buildings`` gives ``buildings_distance_m``."""
    table: str
    """Table name, or ``schema.table``."""
    id: str = "id"
    """Column that names a feature."""
    geometry: str = "geometry"
    """Column of geometry: DuckDB GEOMETRY, WKB (BLOB) or WKT (VARCHAR)."""
    crs: str = "EPSG:4326"
    """CRS of the geometry, x before y."""
    kind: ContextKind = "features"
    """``features`` (buildings, roads) or ``classes`` (land cover, land use)."""
    class_column: str | None = None
    """Column that holds the class; required by kind ``classes``."""
    columns: tuple[str, ...] = field(default=())
    """Columns carried along from the nearest feature."""
    search_m: float = 100.0
    """Features farther from a chip or detection than this are not looked at, metres."""
    bbox: str | None = None
    """Column of type STRUCT(xmin, ymin, xmax, ymax), as Overture has it; spares reading geometry to find the area."""

    def __post_init__(self) -> None:
        """Refuse a mapping that cannot be joined."""
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ConfigError(f"context table {self.table}: name is a word such as buildings, got {self.name!r}")
        if (self.kind == "classes") != (self.class_column is not None):
            raise ConfigError(f"context {self.name}: `class_column` goes with kind `classes`, and with it alone")
        taken = {*OWN_COLUMNS, *MEASURES, *(CLASS_MEASURES if self.kind == "classes" else ())}
        for column in self.columns:
            if column in taken or column in RAW_COLUMNS or self.columns.count(column) > 1:
                raise ConfigError(
                    f"context {self.name}: column {column!r} cannot be carried: it is named twice, or is the name of a "
                    f"measure ({', '.join(sorted(taken))})"
                )
        crs(self.crs)
        _ = self.rule

    @property
    def rule(self) -> ContextRule:
        """How it is joined."""
        return ContextRule(name=self.name, kind=self.kind, search_m=self.search_m)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "ContextTable":
        """The table described by plain values.

        Raises:
            ConfigError: a key is unknown, of the wrong kind, or ``name`` or ``table`` is missing.
            CRSError: the CRS is unknown.
        """
        known = {f.name for f in fields(cls)}
        if not isinstance(values, Mapping) or set(values) - known or not {"name", "table"} <= set(values):
            raise ConfigError(f"a context table needs `name` and `table`; known keys: {sorted(known)}; got {values!r}")
        for key, value in values.items():
            if not _fits(key, value):
                raise ConfigError(f"context table {values['table']}: {key} cannot be {value!r}")
        return cls(**{**values, "columns": tuple(values.get("columns") or ())})


def _fits(key: str, value: object) -> bool:
    if key == "columns":
        return value is None or (isinstance(value, list | tuple) and all(isinstance(name, str) for name in value))
    if key == "search_m":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str) or (value is None and key in ("class_column", "bbox"))


def raw_features(
    connection: duckdb.DuckDBPyConnection, table: ContextTable, snapshot: int, boxes_lonlat: Sequence[Bounds] | None
) -> pa.RecordBatchReader:
    """Features whose box meets the area, streamed in batches: as the lake holds them, in the table's own CRS.

    Columns: ``feature_id``, ``geometry_wkb`` or ``geometry_wkt`` (the other one null), ``feature_class`` where the
    table has classes, and the carried columns.

    Args:
        connection: with the lake attached.
        table: which table, and its columns.
        snapshot: state of the lake.
        boxes_lonlat: the area as boxes of west, south, east, north in ±180; None is everything.

    Raises:
        LabelTableError: the table or a mapped column is missing or has an unusable type.
    """
    sql, parameters = feature_query(connection, table, snapshot, boxes_lonlat)
    return connection.execute(sql, parameters).to_arrow_reader(BATCH_ROWS)


def feature_query(
    connection: duckdb.DuckDBPyConnection, table: ContextTable, snapshot: int, boxes_lonlat: Sequence[Bounds] | None
) -> tuple[str, list[Any]]:
    """SQL and parameters of :func:`raw_features`; useful with EXPLAIN.

    Raises:
        LabelTableError: the table or a mapped column is missing or has an unusable type.
    """
    columns = _checked_columns(connection, table, snapshot)
    wkb, wkt, shape = _geometry_sql(table, columns)
    where, parameters = "", list[Any]()
    if boxes_lonlat is not None:
        boxes = [box for bounds in boxes_lonlat for box in _boxes_in(table.crs, bounds)]
        where, parameters = _area_sql(table, shape, boxes)
    wanted = [f"CAST({quoted_column(table.id)} AS VARCHAR) AS feature_id", f"{wkb} AS geometry_wkb"]
    wanted += [f"{wkt} AS geometry_wkt"]
    if table.class_column is not None:
        wanted.append(f"CAST({quoted_column(table.class_column)} AS VARCHAR) AS feature_class")
    wanted += [quoted_column(name) for name in table.columns]
    return f"SELECT {', '.join(wanted)} FROM {_place(table, snapshot)}{where}", parameters


def broken_features(connection: duckdb.DuckDBPyConnection, table: ContextTable, snapshot: int) -> pa.Table:
    """Rows no area can find: ``feature_id`` and ``reason``. Reads the whole geometry (or bbox) column.

    Raises:
        LabelTableError: the table or a mapped column is missing or has an unusable type.
    """
    columns = _checked_columns(connection, table, snapshot)
    _, _, shape = _geometry_sql(table, columns)
    raw = quoted_column(table.geometry)
    cases = [
        f"WHEN {raw} IS NULL THEN 'the geometry is missing'",
        f"WHEN {shape} IS NULL THEN 'the geometry is unreadable'",
    ]
    cases += [f"WHEN ST_IsEmpty({shape}) THEN 'the geometry is empty'"]
    if table.bbox is not None:
        cases.append(f"WHEN {quoted_column(table.bbox)} IS NULL THEN 'the bbox is missing'")
    sql = (
        f"SELECT * FROM (SELECT CAST({quoted_column(table.id)} AS VARCHAR) AS feature_id, "
        f"CASE {' '.join(cases)} END AS reason FROM {_place(table, snapshot)}) WHERE reason IS NOT NULL"
    )
    return query(connection, sql)


def content_snapshot(connection: duckdb.DuckDBPyConnection, table: ContextTable, snapshot: int) -> int:
    """Newest snapshot up to ``snapshot`` that changed the table: what is the same there is the same data.

    Changes of a like-named table of another schema count too; a catalogue that does not say what changed gives
    ``snapshot``.

    Raises:
        LabelTableError: the table does not exist.
    """
    table_columns(connection, table.table, snapshot)
    name = table.table.rpartition(".")[2]
    row = connection.execute(
        "WITH mine AS (SELECT CAST(table_id AS VARCHAR) AS word FROM ducklake_table_info(?) WHERE table_name = ?) "
        "SELECT max(snapshot_id) FROM ducklake_snapshots(?) WHERE snapshot_id <= ? AND list_has_any("
        "flatten(map_values(changes)), (SELECT list(word) FROM mine) || [?])",
        [LAKE, name, LAKE, snapshot, table.table if "." in table.table else f"main.{name}"],
    ).fetchone()
    return snapshot if row is None or row[0] is None else int(row[0])


def table_uuid(connection: duckdb.DuckDBPyConnection, table: ContextTable) -> str:
    """What the catalogue itself calls the table: stays when the catalogue moves, differs between catalogues."""
    rows = connection.execute(
        "SELECT CAST(table_uuid AS VARCHAR) FROM ducklake_table_info(?) WHERE table_name = ? ORDER BY 1",
        [LAKE, table.table.rpartition(".")[2]],
    ).fetchall()
    return " ".join(str(uuid) for (uuid,) in rows)


def _place(table: ContextTable, snapshot: int) -> str:
    return f"{LAKE}.{quoted(table.table)} AT (VERSION => {int(snapshot)})"


def _checked_columns(connection: duckdb.DuckDBPyConnection, table: ContextTable, snapshot: int) -> dict[str, str]:
    columns = table_columns(connection, table.table, snapshot)
    wanted = [table.id, table.geometry, table.class_column, table.bbox, *table.columns]
    absent = [name for name in wanted if name is not None and name not in columns]
    if absent:
        raise LabelTableError(
            f"context table {table.table} has no column {', '.join(absent)}; it has {', '.join(columns)}"
        )
    if table.bbox is not None and not all(f"{side} " in columns[table.bbox].lower() for side in _BOX):
        raise LabelTableError(
            f"context table {table.table}: column {table.bbox} is {columns[table.bbox]}; "
            "a bbox is STRUCT(xmin, ymin, xmax, ymax)"
        )
    return columns


def _geometry_sql(table: ContextTable, columns: Mapping[str, str]) -> tuple[str, str, str]:
    """Expressions of the WKB column, the WKT column, and the shape (NULL where it cannot be read)."""
    column, kind = quoted_column(table.geometry), columns[table.geometry].upper()
    if kind.startswith("GEOMETRY"):
        return f"CAST(ST_AsWKB({column}) AS BLOB)", "CAST(NULL AS VARCHAR)", column
    if kind == "BLOB":
        return column, "CAST(NULL AS VARCHAR)", f"TRY(ST_GeomFromWKB({column}))"
    if kind == "VARCHAR":
        return "CAST(NULL AS BLOB)", column, f"TRY(ST_GeomFromText({column}))"
    raise LabelTableError(
        f"context table {table.table}: column {table.geometry} is {kind}; "
        "geometry is GEOMETRY, BLOB (WKB) or VARCHAR (WKT)"
    )


def _boxes_in(definition: str, bounds: Bounds) -> list[Bounds]:
    """The box in the table's CRS; beside ±180 also where longitudes that run on beyond would have it."""
    if not crs(definition).is_geographic:
        return [reproject_bounds(bounds, 4326, definition)]
    west, south, east, north = (
        bounds if definition.upper() == "EPSG:4326" else reproject_bounds(bounds, 4326, definition)
    )
    turns = [0, *([360] if west < -90 else []), *([-360] if east > 90 else [])]
    return [(west + turn, south, east + turn, north) for turn in turns]


def _area_sql(table: ContextTable, shape: str, boxes: Sequence[Bounds]) -> tuple[str, list[Any]]:
    if table.bbox is None:
        # boxes are compared, which the lake's scan does by the statistics of its files first
        inside = " OR ".join(f"{shape} && ST_MakeEnvelope(?, ?, ?, ?)" for _ in boxes)
        return f" WHERE {inside}", [value for box in boxes for value in box]
    column = quoted_column(table.bbox)
    one = f"({column}.xmin <= ? AND {column}.xmax >= ? AND {column}.ymin <= ? AND {column}.ymax >= ?)"
    parameters: list[Any] = []
    for west, south, east, north in boxes:
        low = [value - abs(value) * _FLOAT32 for value in (west, south)]
        high = [value + abs(value) * _FLOAT32 for value in (east, north)]
        parameters += [high[0], low[0], high[1], low[1]]
    return f" WHERE {' OR '.join([one] * len(boxes))}", parameters
