"""What a run of the context flow would do: the targets and context tables whose rows are missing, by S2 cell."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from dataflows.context_config import ContextConfig
from store import lance_io
from store.context_targets import target_batches
from store.ducklake_context import ContextTable, table_uuid
from store.fingerprint import digest
from utils.context_places import centres_lonlat, usable_geometries
from utils.failures import Failure
from utils.geo import s2_cells


@dataclass(frozen=True, kw_only=True)
class ContextUnit:
    """One unit of work: targets of one S2 cell that lack the same context tables."""

    partition: int
    """S2 cell."""
    tables: tuple[ContextTable, ...]
    """Context tables whose rows are missing."""
    rows: list[int]
    """Positions of the targets in their table."""


@dataclass(frozen=True, kw_only=True)
class ContextPlan:
    """What a run would do."""

    version: int
    """Version of the table of targets."""
    targets: int
    """Targets in the area of interest."""
    skipped: int
    """Rows (one target, one context table) that are there already."""
    units: tuple[ContextUnit, ...]
    """What is to be done."""
    failures: list[Failure]
    """Targets without a usable place."""
    configs: dict[str, str]
    """Context table → hash of its settings and data."""

    @property
    def pending(self) -> int:
        """Rows that are missing."""
        return sum(len(unit.rows) * len(unit.tables) for unit in self.units)


def plan(config: ContextConfig, snapshots: dict[str, int], lake: duckdb.DuckDBPyConnection) -> ContextPlan:
    """What is missing from the store; reads ids and places of the targets and keys of ``context``, writes nothing.

    Args:
        config: the settings.
        snapshots: context table → snapshot it is read at.
        lake: with the lake attached.

    Raises:
        StoreNotWritableError: the store cannot be written.
        TableNotFoundError: the store has no table of targets.
        SchemaError: it lacks a column.
    """
    lance_io.check_writable(config.store)
    version = int(lance_io.open_table(config.store, config.targets.table).version)
    ids, cells, rows, failures = _placed(config, version)
    configs = table_configs(config, snapshots, lake)
    missing = np.zeros(len(ids), np.uint64)
    skipped = 0
    for bit, table in enumerate(config.context):
        done = _done(config, table, configs[table.name])
        there = pc.is_in(ids, value_set=done).to_numpy(zero_copy_only=False).astype(np.bool_)
        skipped += int(there.sum())
        missing |= np.where(there, np.uint64(0), np.uint64(1 << bit))
    return ContextPlan(
        version=version,
        targets=len(ids),
        skipped=skipped,
        units=tuple(_units(config, cells, rows, missing)),
        failures=failures,
        configs=configs,
    )


def table_configs(config: ContextConfig, snapshots: dict[str, int], lake: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Context table → hash of its settings, its identity in the lake and the snapshot its content is of."""
    return {
        table.name: digest([asdict(table), table_uuid(lake, table), snapshots[table.name], asdict(config.targets)])
        for table in config.context
    }


def _placed(
    config: ContextConfig, version: int
) -> tuple[pa.Array, NDArray[np.uint64], NDArray[np.int64], list[Failure]]:
    """Ids, partitions and positions of the targets in the area of interest; and those without a usable place."""
    ids, cells, rows = [pa.array([], pa.string())], [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    failures: list[Failure] = []
    start = 0
    for batch in target_batches(config.store, config.targets, version=version):
        geometries, problems = usable_geometries(batch["geometry"].to_pylist(), "EPSG:4326")
        names = batch["target_id"].combine_chunks()
        for k, error in sorted(problems.items()):
            name = names[k].as_py()
            failures.append(Failure.of("context_plan", error, input_ids=(str(name),), uuid=name))
        good = np.flatnonzero(~shapely.is_missing(geometries))
        centres = centres_lonlat(geometries[good])
        if config.aoi_bbox_lonlat is not None:
            west, south, east, north = config.aoi_bbox_lonlat
            inside = (centres >= [west, south]).all(1) & (centres <= [east, north]).all(1)
            good, centres = good[inside], centres[inside]
        ids.append(names.take(pa.array(good)))
        cells.append(s2_cells(centres[:, 0], centres[:, 1], config.partition_level))
        rows.append(good + start)
        start += len(batch)
    return pa.concat_arrays(ids), np.concatenate(cells), np.concatenate(rows), failures


def _done(config: ContextConfig, table: ContextTable, context_config: str) -> pa.Array:
    where = f"context_config = '{context_config}' AND target_table = '{config.targets.table}' AND name = '{table.name}'"
    return lance_io.scan(config.store, "context", ["target_id"], where)["target_id"].combine_chunks()


def _units(
    config: ContextConfig, cells: NDArray[np.uint64], rows: NDArray[np.int64], missing: NDArray[np.uint64]
) -> Iterator[ContextUnit]:
    todo = np.flatnonzero(missing)
    order = todo[np.lexsort((rows[todo], missing[todo], cells[todo]))]
    if not len(order):
        return
    new = (np.diff(cells[order]) != 0) | (np.diff(missing[order]) != 0)
    for some in np.split(order, np.flatnonzero(new) + 1):
        bits = int(missing[some[0]])
        yield ContextUnit(
            partition=int(cells[some[0]]),
            tables=tuple(table for bit, table in enumerate(config.context) if bits >> bit & 1),
            rows=rows[some].tolist(),
        )
