"""Run the context flow partition by partition, commit every k, go on where the last run stopped."""

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import duckdb
from hamilton.driver import Driver

from dataflows._context_rows import ContextProvenance
from dataflows.context_config import ContextConfig
from dataflows.context_plan import ContextPlan, ContextUnit, plan
from dataflows.memory import settled_heap
from dataflows.run_summary import ContextSummary
from store import lance_io
from store.context_buffer import ContextBuffer
from store.lineage import Run, recipe, stage_code
from utils.errors import AegirError
from utils.failures import Failure, interrupted

_MODULES = ("dataflows.ingest_context",)


def run_context(
    config: ContextConfig, driver: Driver, *, progress: Callable[[ContextSummary], None] | None = None
) -> ContextSummary:
    """Make every missing row of ``context``; what fails becomes a row in ``errors`` and the rest goes on.

    Raises:
        AegirError: the lake, the targets or the store cannot be used; nothing was started.
    """
    lake: duckdb.DuckDBPyConnection = driver.execute(["lake_connection"])["lake_connection"]
    with lake:
        return _run(config, driver, lake, progress or (lambda _: None))


def _run(
    config: ContextConfig, driver: Driver, lake: duckdb.DuckDBPyConnection, report: Callable[[ContextSummary], None]
) -> ContextSummary:
    start = time.monotonic()
    shared: dict[str, Any] = {"lake_connection": lake}
    shared |= driver.execute(["context_snapshots"], overrides=shared)
    snapshots: dict[str, int] = shared["context_snapshots"]
    todo = plan(config, snapshots, lake)
    # columns are checked, and broken features found, before anything is written
    broken = _broken(driver, todo, shared)
    run = _described(config, todo, snapshots)
    buffer = ContextBuffer(
        config.store, run_id=run.run_id, context_config=config.context_config, commit_every=config.commit_every
    )
    summary = ContextSummary(
        run_id=run.run_id,
        store=config.store,
        targets=todo.targets,
        rows_skipped=todo.skipped,
        rows_pending=todo.pending,
        partitions=len(todo.units),
    )
    buffer.fail([*todo.failures, *broken])
    _counted(summary, buffer)
    report(summary)
    if todo.units or summary.failed:
        run.record(config.store, "running")
        try:
            _run_units(driver, todo, shared, _provenance(config, run, todo, snapshots), buffer, summary, report)
            _finish(config, buffer, summary)
        except BaseException as error:
            if not interrupted(error):
                # what cannot be stored ends the run; the record of it may fail for the same reason
                with suppress(AegirError):
                    run.record(config.store, "failed", summary.counts())
                raise
            summary.status = "interrupted"
            _finish(config, buffer, summary)
    if summary.status == "running":
        summary.status = "failed" if summary.failed or summary.rows_failed else "done"
    summary.seconds = time.monotonic() - start
    if todo.units or summary.failed:
        run.settle(config.store, summary.status, summary.counts())
    report(summary)
    return summary


def _broken(driver: Driver, todo: ContextPlan, shared: Mapping[str, Any]) -> list[Failure]:
    tables = list({table.name: table for unit in todo.units for table in unit.tables}.values())
    if not tables:
        return []
    found: list[Failure] = driver.execute(["features_out_of_reach"], overrides={**shared, "context_tables": tables})[
        "features_out_of_reach"
    ]
    return found


def _described(config: ContextConfig, todo: ContextPlan, snapshots: dict[str, int]) -> Run:
    code = stage_code(_MODULES)
    return Run(
        flow="context",
        build_config=config.context_config,
        config=asdict(config),
        recipes={"context": recipe(code, {"context_config": config.context_config})},
        code={"context": code},
        inputs={
            "catalog": config.catalog,
            "snapshots": snapshots,
            "tables": {table.name: table.table for table in config.context},
            "targets": {"table": config.targets.table, "version": todo.version},
        },
    )


def _provenance(config: ContextConfig, run: Run, todo: ContextPlan, snapshots: dict[str, int]) -> ContextProvenance:
    return ContextProvenance(
        run_id=run.run_id,
        recipe=run.recipes["context"],
        catalog=config.catalog,
        snapshots=snapshots,
        configs=todo.configs,
    )


def run_unit(
    driver: Driver,
    unit: ContextUnit,
    version: int,
    shared: Mapping[str, Any],
    provenance: ContextProvenance,
    buffer: ContextBuffer,
) -> dict[str, Any]:
    """One unit of work: targets of one S2 cell and the features around them, to rows in the buffer; the receipt.

    Args:
        driver: of the flow ``context``.
        unit: what is to be done.
        version: version of the table of targets.
        shared: results every unit shares: ``lake_connection`` and ``context_snapshots``.
        provenance: what rows say of their origin.
        buffer: what rows and failures are handed to.
    """
    receipt: dict[str, Any] = driver.execute(
        ["context_write"],
        inputs={
            "target_rows": unit.rows,
            "target_version": version,
            "partition": unit.partition,
            "context_provenance": provenance,
            "context_buffer": buffer,
        },
        overrides={**shared, "context_tables": list(unit.tables)},
    )["context_write"]
    return receipt


@settled_heap()
def _run_units(
    driver: Driver,
    todo: ContextPlan,
    shared: Mapping[str, Any],
    provenance: ContextProvenance,
    buffer: ContextBuffer,
    summary: ContextSummary,
    report: Callable[[ContextSummary], None],
) -> None:
    for unit in todo.units:
        try:
            receipt = run_unit(driver, unit, todo.version, shared, provenance, buffer)
        except Exception as error:  # whatever fails in one partition, the others go on
            if interrupted(error):
                raise KeyboardInterrupt from error
            buffer.fail([Failure.of("run_unit", error, partition=unit.partition)])
            summary.partitions_failed += 1
            summary.rows_failed += len(unit.rows) * len(unit.tables)
        else:
            summary.rows_made += receipt["rows"]
            summary.features += receipt["features"]
        # every execute leaves its results in reference cycles
        gc.collect()
        summary.partitions_done += 1
        if buffer.full:
            buffer.flush()
        _counted(summary, buffer)
        report(summary)


def _counted(summary: ContextSummary, buffer: ContextBuffer) -> None:
    summary.rows_written, summary.failed, summary.failed_before = buffer.written, buffer.failed, buffer.failed_before


def _finish(config: ContextConfig, buffer: ContextBuffer, summary: ContextSummary) -> None:
    """Commit what waits and bring the indexes up to date."""
    buffer.flush()
    _counted(summary, buffer)
    if summary.rows_written:
        lance_io.refresh_indexes(config.store, "context")
