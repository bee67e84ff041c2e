"""Run partition by partition, commit every k, record what failed, go on where the last run stopped."""

import os
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from hamilton.driver import Driver

from dataflows import engines
from dataflows._retirement import retire
from dataflows.build_plan import BuildPlan, plan
from dataflows.build_record import described_run
from dataflows.config import BuildConfig
from dataflows.engines import EngineOptions, WorkerSpec
from dataflows.engines.base import WORKERS_OWN
from dataflows.lance_writer import Provenance
from dataflows.mask_run import row_buffer
from dataflows.memory import most_chips, raster_cache_bytes
from dataflows.outcome_loop import INDEXED, OutcomeLoop, Progress, retry_policy
from dataflows.run_summary import RunSummary
from dataflows.work_shares import WorkShares, run_lease_id
from store import fragments, lance_io, leases, rasters
from store.dataset_manifests import DatasetManifest, manifest_table, manifests_of, read_manifests
from store.lineage import Run
from store.schemas import SPLITS
from utils.errors import AegirError, LeaseLostError
from utils.failures import interrupted
from utils.split import SplitRule, split_of_cells
from utils.types import LoadableBackend


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a run was asked for beside its settings."""

    retry_errors: bool
    since_snapshot: int | None
    only_stale: bool
    fail_fast: bool


def run_build(
    config: BuildConfig,
    driver: Driver,
    *,
    retry_errors: bool = False,
    since_snapshot: int | None = None,
    fail_fast: bool = False,
    only_stale: bool = False,
    progress: Progress | None = None,
) -> RunSummary:
    """Make every missing row; a chip or partition that fails becomes a row in ``errors`` and the rest goes on.

    What rests on labels that are gone is retired first, so that a killed run never leaves it behind.

    Args:
        config: the settings.
        driver: driver of the build flow under these settings.
        retry_errors: take in chips that failed before.
        since_snapshot: look only at ground that labels changed on since this snapshot of the lake.
        only_stale: make existing rows again whose recipe is not today's, and nothing else.
        fail_fast: stop at the first failure, with what is done so far committed.
        progress: called with the summary whenever it changes.

    Raises:
        AegirError: the inputs or the store cannot be used; nothing was started.
    """
    asked = _Asked(retry_errors=retry_errors, since_snapshot=since_snapshot, only_stale=only_stale, fail_fast=fail_fast)
    rasters.limit_cache(raster_cache_bytes(config, workers=worker_count(config)))
    # the plan of a run that was overtaken is older than what the other run made of the same work
    while (summary := _planned_and_run(config, driver, asked, progress or (lambda _: None))).status == "overtaken":
        # two runs whose leases are too short for their work drift apart
        time.sleep(random.uniform(0, min(config.lease_s, 10)))  # noqa: S311 - jitter, no secret
    return summary


def _planned_and_run(config: BuildConfig, driver: Driver, asked: _Asked, report: Progress) -> RunSummary:
    start = time.monotonic()
    engine, most = engines.get(config.engine), most_chips(config, workers=worker_count(config))
    build = _planned(config, driver, asked)
    manifests = _manifests(config, build)
    run = described_run(config, build, driver, manifests)
    buffer = row_buffer(config, run, build.planned_at)
    met = buffer.known(build.failures)
    news = [failure for failure, known in zip(build.failures, met, strict=True) if asked.retry_errors or not known]
    summary = _started(config, build, run, new_failures=len(news))
    report(summary)
    _tidy_after_kills(config.store)
    if not (build.partitions or news or build.retirement):
        return _ended(summary, start, report)
    _check_model(config, build)
    shares = WorkShares(config, build, run.run_id, most_chips=most)
    loop = OutcomeLoop(config, build, buffer, shares, summary, report, fail_fast=asked.fail_fast)
    try:
        retry_policy(config).call(lambda: run.record(config.store, "running"))
        retry_policy(config).call(lambda: _record_inputs(config, build, manifests, run))
        buffer.fail(news)
        if build.retirement:
            summary.masks_retired = retire(config.store, build.retirement, build.label_snapshot, build.planned_at)
        loop.flush()
        if not (asked.fail_fast and news):
            with shares.kept(), engine(_spec(config, build, run), _engine_options(config, driver, build)) as running:
                loop.run(running)
        loop.finish()
    except LeaseLostError:
        summary.status = "overtaken"
    except BaseException as error:
        if not interrupted(error):
            # what cannot be stored ends the run; the record of it may fail for the same reason
            for last in (partial(run.record, config.store, "failed", summary.counts()), shares.release):
                with suppress(AegirError):
                    last()
            raise
        summary.status = "interrupted"
        # what cannot be committed any more is made again by the next run
        with suppress(AegirError):
            loop.finish()
    _ended(summary, start, report)
    policy = retry_policy(config)
    policy.call(lambda: run.settle(config.store, summary.status, summary.counts()))
    policy.call(shares.release)
    return summary


def _check_model(config: BuildConfig, build: BuildPlan) -> None:
    """Weights that do not load are one error now, not one for each chip; workers load their own.

    Raises:
        AegirError: the weights of the mask backend cannot be loaded.
    """
    segmenter = build.made_once["mask_segmenter"]
    if build.partitions and isinstance(segmenter, LoadableBackend):
        segmenter.load()
        if config.engine != "local":
            segmenter.unload()


def _planned(config: BuildConfig, driver: Driver, asked: _Asked) -> BuildPlan:
    """The plan, under the split rule the store follows from now on."""
    options = {"retry_errors": asked.retry_errors, "only_stale": asked.only_stale}
    build = plan(config, driver, since_snapshot=asked.since_snapshot, **options)
    if build.partitions and not _recorded_rule(config, build):
        # another first run chose the rule meanwhile
        build = plan(config, driver, since_snapshot=asked.since_snapshot, **options)
    return build


def _ended(summary: RunSummary, start: float, report: Progress) -> RunSummary:
    if summary.status == "running":
        summary.status = "failed" if summary.failed else "done"
    summary.seconds = time.monotonic() - start
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
        chips_not_taken_before=build.not_taken_before,
        chips_no_longer_planned=build.no_longer_planned,
        prompts_retired=len(build.retirement.prompt_ids),
        chips_retired=len(build.retirement.chips),
        chips_skipped=len(build.chips) - len(build.pending) - build.failed_before - build.not_taken_before,
        partitions=len(build.partitions),
        inputs_failed=new_failures,
        inputs_failed_before=len(build.failures) - new_failures,
    )


def _spec(config: BuildConfig, build: BuildPlan, run: Run) -> WorkerSpec:
    provenance = Provenance(
        run_id=run.run_id,
        build_config=config.build_config,
        recipes=dict(run.recipes),
        mask_backend=config.mask_backend,
        label_catalog=config.catalog,
        label_snapshot=build.label_snapshot,
        margin_share=config.margin_share,
    )
    shared = {name: value for name, value in build.made_once.items() if name not in WORKERS_OWN}
    return WorkerSpec(
        config=config,
        shared=shared,
        provenance=provenance,
        policy=retry_policy(config),
        raster_cache_bytes=raster_cache_bytes(config, workers=worker_count(config)),
    )


def _engine_options(config: BuildConfig, driver: Driver, build: BuildPlan) -> EngineOptions:
    own = {"driver": driver, "made_once": build.made_once}
    workers = config.workers if config.ray_address else worker_count(config)
    return EngineOptions(workers=workers, address=config.ray_address, own=own)


def worker_count(config: BuildConfig) -> int:
    """Workers that share the memory budget."""
    return 1 if config.engine == "local" else config.workers or os.cpu_count() or 1


def _tidy_after_kills(store: str) -> None:
    """Say of runs that were killed that they were, and make the indexes they had no time for.

    Such a run is recorded as running, and nobody holds its lease.
    """
    running = lance_io.scan(store, "runs", ["run_id"], "flow = 'build' AND status = 'running'")["run_id"].to_pylist()
    alive = leases.living(store, [run_lease_id(run_id) for run_id in running])
    dead = [run_id for run_id in running if run_lease_id(run_id) not in alive]
    if dead:
        # one of them may have ended, and given its lease back, since the look above
        lance_io.mark(store, "runs", dead, {"status": "'killed'"}, where="status = 'running'")
        for name in INDEXED:
            if lance_io.table_exists(store, name):
                lance_io.refresh_indexes(store, name)


def _record_inputs(config: BuildConfig, build: BuildPlan, manifests: dict[str, DatasetManifest], run: Run) -> None:
    """Write the scenes and the datasets the rows will refer to."""
    tables = [build.made_once[name] for name in ("vhr_scenes", "msi_scenes") if build.made_once[name] is not None]
    lance_io.write(config.store, "scenes", pa.concat_tables(tables))
    lance_io.write(config.store, "datasets", manifest_table(manifests.values(), run.run_id))


def _recorded_rule(config: BuildConfig, build: BuildPlan) -> bool:
    """Record the split rule in a new store; False where another run recorded another one first."""
    rule: SplitRule = build.made_once["split_rule"]
    cells = pc.unique(build.chips["split_cell"]).to_numpy()
    names = Counter(str(name) for name in split_of_cells(cells, rule))
    row = {
        "split_rule": rule.rule_id,
        "level": rule.level,
        "salt": rule.salt,
        "fractions": list(rule.shares.items()),
        "guard_m": rule.guard_m,
        "cells": sorted(names.items()),
        "created_at": datetime.now(UTC),
    }
    if fragments.commit_if_empty(config.store, "splits", pa.Table.from_pylist([row], schema=SPLITS)):
        return True
    return bool(len(lance_io.scan(config.store, "splits", ["split_rule"], f"split_rule = '{rule.rule_id}'")))
