"""Run partition by partition, commit every k, record what failed, go on where the last run stopped."""

import gc
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from hamilton.driver import Driver

from dataflows._retirement import retire
from dataflows.build_plan import BuildPlan, plan
from dataflows.build_record import described_run
from dataflows.config import BuildConfig
from dataflows.lance_writer import Provenance
from dataflows.run_summary import RunSummary
from store import lance_io
from store.commit_buffer import CommitBuffer
from store.dataset_manifests import DatasetManifest, manifest_table, manifests_of, read_manifests
from store.lineage import Run
from store.schemas import SPLITS
from utils.errors import AegirError
from utils.failures import Failure, interrupted
from utils.split import SplitRule, split_of_cells

Progress = Callable[[RunSummary], None]


def run_partition(
    driver: Driver, build: BuildPlan, partition: int, provenance: Provenance, buffer: CommitBuffer
) -> dict[str, Any]:
    """One unit of work: chips of one S2 cell from pixels to rows in the commit buffer; returns the receipt."""
    chips = build.pending.filter(pc.equal(build.pending["partition"], pa.scalar(partition, pa.uint64())))
    prompts = build.prompts.filter(pc.is_in(build.prompts["uuid"], chips["uuid"].combine_chunks()))
    receipt: dict[str, Any] = driver.execute(
        ["sample_write"],
        inputs={"partition": partition, "provenance": provenance, "commit_buffer": buffer},
        overrides={**build.made_once, "chip_plan": chips, "prompts": prompts},
    )["sample_write"]
    return receipt


def run_build(
    config: BuildConfig,
    driver: Driver,
    *,
    retry_errors: bool = False,
    since_snapshot: int | None = None,
    only_stale: bool = False,
    progress: Progress | None = None,
) -> RunSummary:
    """Make every missing row; a chip or partition that fails becomes a row in ``errors`` and the rest goes on.

    What rests on labels that are gone is retired first, so that a killed run never leaves it behind.

    Raises:
        AegirError: the inputs or the store cannot be used; nothing was started.
    """
    start = time.monotonic()
    report = progress or (lambda _: None)
    build = plan(config, driver, retry_errors=retry_errors, since_snapshot=since_snapshot, only_stale=only_stale)
    manifests = _manifests(config, build)
    run = described_run(config, build, driver, manifests)
    buffer = CommitBuffer(
        config.store,
        config.profile,
        run_id=run.run_id,
        build_config=config.build_config,
        commit_every=config.commit_every,
    )
    met = buffer.known(build.failures)
    news = [failure for failure, known in zip(build.failures, met, strict=True) if retry_errors or not known]
    summary = _started(config, build, run, new_failures=len(news))
    report(summary)
    if build.partitions or news or build.retirement:
        _record_plan(config, build)
        lance_io.write(config.store, "datasets", manifest_table(manifests.values(), run.run_id))
        run.record(config.store, "running")
        buffer.fail(news)
        try:
            if build.retirement:
                summary.masks_retired = retire(config.store, build.retirement, build.label_snapshot)
            _run_partitions(driver, build, _provenance(config, build, run), buffer, summary, report)
            _finish(config, buffer, summary)
        except KeyboardInterrupt:
            summary.status = "interrupted"
            _finish(config, buffer, summary)
        except AegirError:
            # what cannot be stored ends the run; the record of it may fail for the same reason
            with suppress(AegirError):
                run.record(config.store, "failed", summary.counts())
            raise
    if summary.status == "running":
        summary.status = "failed" if summary.failed else "done"
    summary.seconds = time.monotonic() - start
    if build.partitions or news or build.retirement:
        run.record(config.store, summary.status, summary.counts())
    report(summary)
    return summary


def _manifests(config: BuildConfig, build: BuildPlan) -> dict[str, DatasetManifest]:
    """Dataset → manifest, for every dataset with a prompt."""
    known = read_manifests(config.datasets, config.manifest, catalog=config.catalog, snapshot=build.label_snapshot)
    return manifests_of(pc.unique(build.prompts["dataset"]).to_pylist(), known)


def _started(config: BuildConfig, build: BuildPlan, run: Run, *, new_failures: int) -> RunSummary:
    return RunSummary(
        flow="build",
        run_id=run.run_id,
        store=config.store,
        chips_planned=len(build.chips),
        chips_pending=len(build.pending),
        chips_failed_before=build.failed_before,
        chips_not_taken=build.not_taken_before,
        chips_no_longer_planned=build.no_longer_planned,
        prompts_retired=len(build.retirement.prompt_ids),
        chips_retired=len(build.retirement.chips),
        chips_skipped=len(build.chips) - len(build.pending) - build.failed_before - build.not_taken_before,
        partitions=len(build.partitions),
        inputs_failed=new_failures,
        inputs_failed_before=len(build.failures) - new_failures,
    )


def _finish(config: BuildConfig, buffer: CommitBuffer, summary: RunSummary) -> None:
    """Commit what waits and bring the indexes up to date."""
    buffer.flush()
    summary.chips_written = buffer.written
    if summary.chips_written:
        for name in ("training_data", "masks", "prompts"):
            lance_io.refresh_indexes(config.store, name)


def _provenance(config: BuildConfig, build: BuildPlan, run: Run) -> Provenance:
    return Provenance(
        run_id=run.run_id,
        build_config=config.build_config,
        recipes=dict(run.recipes),
        mask_backend=config.mask_backend,
        label_catalog=config.catalog,
        label_snapshot=build.label_snapshot,
        margin_share=config.margin_share,
    )


def _run_partitions(
    driver: Driver,
    build: BuildPlan,
    provenance: Provenance,
    buffer: CommitBuffer,
    summary: RunSummary,
    report: Progress,
) -> None:
    gc.freeze()
    for partition in build.partitions:
        try:
            receipt = run_partition(driver, build, partition, provenance, buffer)
        except Exception as error:  # whatever fails in one partition, the others go on
            if interrupted(error):
                raise KeyboardInterrupt from error
            buffer.fail([Failure.of("run_partition", error, partition=partition)])
            summary.partitions_failed += 1
            summary.chips_failed += build.pending["partition"].to_pylist().count(partition)
        else:
            summary.chips_made += receipt["chips"]
            summary.chips_failed += receipt["failed"]
            summary.chips_not_taken += receipt["not_taken"]
            for verdict in summary.masks:
                summary.masks[verdict] += receipt[verdict]
        # every execute leaves its results in reference cycles
        gc.collect()
        summary.partitions_done += 1
        if buffer.full:
            buffer.flush()
            summary.chips_written = buffer.written
        report(summary)


def _record_plan(config: BuildConfig, build: BuildPlan) -> None:
    """Write the scenes and the split rule the rows will refer to."""
    tables = [build.made_once[name] for name in ("vhr_scenes", "msi_scenes") if build.made_once[name] is not None]
    lance_io.write(config.store, "scenes", pa.concat_tables(tables))
    rule: SplitRule = build.made_once["split_rule"]
    key = rule.rule_id
    if len(lance_io.scan(config.store, "splits", ["split_rule"], f"split_rule = '{key}'")):
        return
    cells = pc.unique(build.chips["split_cell"]).to_numpy()
    names = [str(name) for name in split_of_cells(cells, rule)]
    row = {
        "split_rule": key,
        "level": rule.level,
        "salt": rule.salt,
        "fractions": list(rule.shares.items()),
        "guard_m": rule.guard_m,
        "cells": sorted((name, names.count(name)) for name in set(names)),
        "created_at": datetime.now(UTC),
    }
    lance_io.write(config.store, "splits", pa.Table.from_pylist([row], schema=SPLITS))
