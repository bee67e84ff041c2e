"""Context from the lake: buildings, land cover or any table by area as Arrow, joined by cell to chips or detections.

The nodes answer for one area: the chips of a partition, or whatever ``context_targets`` or ``context_area`` is
overridden with.
"""

from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import shapely
from hamilton.function_modifiers import dataloader, datasaver, extract_fields, tag

from dataflows._context_rows import ContextProvenance, rows_of
from store import context_targets as store_targets
from store import ducklake
from store.context_buffer import ContextBuffer
from store.context_targets import TargetTable
from store.ducklake_context import ContextTable, broken_features, content_snapshot, raw_features
from store.schemas import CONTEXT
from utils.context import context_by_cell
from utils.context_cells import join_level
from utils.context_features import usable_features
from utils.context_places import centres_lonlat, local_bounds, usable_geometries
from utils.context_rule import GEOMETRY
from utils.errors import CRSError, GeometryError, LabelError, LabelTableError
from utils.failures import Failure

PLACED_TARGETS = pa.schema([pa.field("target_id", pa.string(), nullable=False), GEOMETRY])
"""Targets every later node can trust: ids, valid geometry, EPSG:4326, within UTM's latitudes."""


@tag(stage="context")
@dataloader()
def lake_connection(catalog: str) -> tuple[duckdb.DuckDBPyConnection, dict[str, Any]]:
    """The lake, attached for reading; a run opens it once, since loading DuckDB's extensions takes longer than a query.

    Raises:
        CatalogNotFoundError: there is no catalogue.
    """
    return ducklake.connect(catalog), {"catalog": catalog}


@tag(stage="context")
@dataloader()
def context_snapshots(
    lake_connection: duckdb.DuckDBPyConnection, context_tables: list[ContextTable], snapshot: int | None
) -> tuple[dict[str, int], dict[str, Any]]:
    """Context table → newest snapshot that changed it, up to the pinned one or the newest; that is what is read.

    Raises:
        CatalogEmptyError: the catalogue has no snapshot with data.
        LabelTableError: the pinned snapshot, or a table in it, does not exist.
    """
    newest = ducklake.latest_snapshot(lake_connection)
    if snapshot is not None and not 1 <= snapshot <= newest:
        raise LabelTableError(f"the lake has snapshots 1 to {newest}, the settings pin {snapshot}")
    at = newest if snapshot is None else snapshot
    found = {table.name: content_snapshot(lake_connection, table, at) for table in context_tables}
    return found, {"newest": newest}


@tag(stage="context")
@dataloader()
def context_targets(
    store: str, target_table: TargetTable, target_rows: list[int] | None = None, target_version: int | None = None
) -> tuple[pa.Table, dict[str, Any]]:
    """Chips or detections of the store: ``target_id`` and ``geometry`` (WKB, EPSG:4326).

    Args:
        store: the LanceDB store.
        target_table: table and columns.
        target_rows: positions of the rows to take; None takes all.
        target_version: version of the table; None is the newest.

    Raises:
        TableNotFoundError: the store has no such table or version.
        SchemaError: the table lacks a column.
    """
    targets = store_targets.read_targets(store, target_table, rows=target_rows, version=target_version)
    return targets, {"rows": len(targets), "table": target_table.table}


@tag(stage="context")
@extract_fields({"placed_targets": pa.Table, "target_failures": list[Failure]})
def target_check(context_targets: pa.Table) -> dict[str, Any]:
    """Targets with an id and a usable geometry, schema ``PLACED_TARGETS``, and what is wrong with the rest."""
    geometries, problems = usable_geometries(context_targets["geometry"].to_pylist(), "EPSG:4326")
    ids = context_targets["target_id"].to_pylist()
    bad: dict[int, Exception] = dict(problems)
    there = np.flatnonzero(~shapely.is_missing(geometries))
    for k, (_, lat) in zip(there.tolist(), centres_lonlat(geometries[there]).tolist(), strict=True):
        if not -80 <= lat <= 84:
            bad[k] = CRSError(f"latitude {lat:.4f} lies outside 80° S to 84° N, where UTM ends; leave the row out")
    seen: set[str] = set()
    for k, name in enumerate(ids):
        if name is None or name in seen:
            bad.setdefault(k, LabelError("the row has no id" if name is None else f"id {name} is used twice"))
        seen.add(name)
    good = np.ones(len(ids), np.bool_)
    good[list(bad)] = False
    kept = context_targets["target_id"].filter(pa.array(good)).combine_chunks()
    wkb = pa.array(shapely.to_wkb(geometries[good]), pa.binary())
    failures = [Failure.of("target_check", bad[k], input_ids=(str(ids[k]),), uuid=ids[k]) for k in sorted(bad)]
    return {"placed_targets": pa.table([kept, wkb], schema=PLACED_TARGETS), "target_failures": failures}


@tag(stage="context")
def context_area(placed_targets: pa.Table, context_tables: list[ContextTable]) -> shapely.MultiPolygon:
    """Where features are looked for, EPSG:4326: around the targets by the farthest search distance."""
    if not len(placed_targets):
        return shapely.MultiPolygon()
    geometries = shapely.from_wkb(placed_targets["geometry"].to_numpy())
    reach_m = 1.01 * max((table.search_m for table in context_tables), default=0.0) + 10.0
    centre_lon = float(centres_lonlat(geometries[:1])[0, 0])
    return shapely.MultiPolygon([shapely.box(*box) for box in local_bounds(geometries, centre_lon, reach_m)])


@tag(stage="context")
@dataloader()
def lake_features(
    lake_connection: duckdb.DuckDBPyConnection,
    context_tables: list[ContextTable],
    context_snapshots: dict[str, int],
    context_area: shapely.Geometry | None,
) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    """Context table → its features in the area as the lake holds them, the area pushed down to the lake's scan.

    Args:
        lake_connection: with the lake attached.
        context_tables: tables and columns.
        context_snapshots: state each table is read at.
        context_area: EPSG:4326; None reads the tables whole.

    Raises:
        LabelTableError: a table or column is missing.
    """
    boxes = None
    if context_area is not None:
        boxes = [tuple(part.bounds) for part in shapely.get_parts(context_area) if not part.is_empty]
    found: dict[str, pa.Table] = {}
    for table in context_tables:
        # no box is no feature, yet the columns are checked and named
        wanted = boxes if boxes is None or boxes else [(0.0, 0.0, 0.0, 0.0)]
        found[table.name] = raw_features(lake_connection, table, context_snapshots[table.name], wanted).read_all()
    return found, {name: len(table) for name, table in found.items()}


@tag(stage="context")
@extract_fields({"context_features": dict[str, pa.Table], "feature_failures": list[Failure]})
def feature_check(
    lake_features: dict[str, pa.Table], context_tables: list[ContextTable], context_area: shapely.Geometry | None
) -> dict[str, Any]:
    """Context table → its usable features in the area, valid, in EPSG:4326, with their S2 cells; and the others.

    Columns: ``feature_id``, ``geometry`` (WKB), ``feature_class`` where the table has classes, carried columns,
    ``s2_cells``.
    """
    features: dict[str, pa.Table] = {}
    failures: list[Failure] = []
    for table in context_tables:
        features[table.name], wrong = usable_features(
            lake_features[table.name],
            table.crs,
            name=table.name,
            level=join_level(table.search_m),
            area=context_area,
        )
        failures += wrong
    return {"context_features": features, "feature_failures": failures}


@tag(stage="context")
@dataloader()
def features_out_of_reach(
    lake_connection: duckdb.DuckDBPyConnection, context_tables: list[ContextTable], context_snapshots: dict[str, int]
) -> tuple[list[Failure], dict[str, Any]]:
    """Features no area can find, because their geometry is missing, empty or unreadable; asked for once per run.

    Raises:
        LabelTableError: a table or column is missing.
    """
    failures: list[Failure] = []
    for table in context_tables:
        for row in broken_features(lake_connection, table, context_snapshots[table.name]).to_pylist():
            error = GeometryError(f"{row['reason']}; mend or drop the row in the lake")
            failures.append(
                Failure.of("features_out_of_reach", error, input_ids=(f"{table.name}/{row['feature_id']}",))
            )
    return failures, {"rows": len(failures)}


@tag(stage="context")
def context_joins(
    placed_targets: pa.Table, context_features: dict[str, pa.Table], context_tables: list[ContextTable]
) -> dict[str, pa.Table]:
    """Context table → one row per target: what its features are to it, see ``utils.context.context_by_cell``."""
    return {
        table.name: context_by_cell(placed_targets, context_features[table.name], table.rule, key="target_id")
        for table in context_tables
    }


@tag(stage="context")
def chip_context(context_joins: dict[str, pa.Table], placed_targets: pa.Table, target_table: TargetTable) -> pa.Table:
    """One row per chip or detection, keyed by its id: the columns of every context table side by side."""
    columns = {target_table.id: placed_targets["target_id"]}
    for joined in context_joins.values():
        columns |= {name: joined[name] for name in joined.column_names if name != "target_id"}
    return pa.table(columns)


@tag(stage="context")
def context_rows(
    context_joins: dict[str, pa.Table],
    context_tables: list[ContextTable],
    target_table: TargetTable,
    context_provenance: ContextProvenance,
    partition: int,
) -> pa.Table:
    """The same, one row per target and context table, as the table ``context`` stores it."""
    tables = [CONTEXT.empty_table()]
    for table in context_tables:
        joined = context_joins[table.name]
        tables.append(rows_of(joined, table, target_table.table, context_provenance, partition))
    return pa.concat_tables(tables)


@tag(stage="context", table="context")
@datasaver()
def context_write(
    context_rows: pa.Table,
    feature_failures: list[Failure],
    target_failures: list[Failure],
    context_features: dict[str, pa.Table],
    context_buffer: ContextBuffer,
) -> dict:  # type: ignore[type-arg]  # Hamilton accepts no other annotation
    """Hand one partition's rows and failures to the buffer that commits them; the receipt counts them."""
    failures = [*feature_failures, *target_failures]
    context_buffer.add(context_rows, failures)
    return {
        "rows": len(context_rows),
        "features": sum(len(features) for features in context_features.values()),
        "failed": len(failures),
    }
