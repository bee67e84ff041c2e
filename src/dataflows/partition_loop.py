"""Run partition by partition, commit every k, record what failed, go on where the last run stopped."""

import gc
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from hamilton.driver import Driver

from dataflows._retirement import retire
from dataflows.build_plan import BuildPlan, plan
from dataflows.config import BuildConfig
from dataflows.lance_writer import Provenance
from store import lance_io
from store.commit_buffer import CommitBuffer
from store.dataset_manifests import DatasetManifest, manifest_table, manifests_of, read_manifests
from store.ducklake import catalog_fingerprint
from store.label_files import file_checksums
from store.lineage import Run, recipe, stage_code
from store.schemas import SPLITS
from utils.errors import AegirError
from utils.failures import Failure, interrupted
from utils.split import SplitRule, split_of_cells

_STAGE_SETTINGS = {
    "image": ("chip_px", "gsd_m", "halo_px", "msi_bands", "msi_px", "min_valid_fraction", "vhr_acquired"),
    "mask": ("mask_backend", "mask_options", "refinement", "thresholds", "margin_share", "point_box_m", "min_overlap"),
    "index": ("h3_resolution", "partition_level", "split_level", "split_fractions", "guard_m"),
}

Progress = Callable[["RunSummary"], None]


@dataclass(kw_only=True)
class RunSummary:
    """What a run did, as it stands now."""

    flow: str
    """Flow that ran."""
    run_id: str = ""
    """Id in the table ``runs``."""
    status: str = "running"
    """running, done, failed (rows in ``errors``) or interrupted."""
    chips_planned: int = 0
    """Chips of the configuration."""
    chips_skipped: int = 0
    """Chips already there."""
    chips_failed_before: int = 0
    """Chips left out because an earlier run failed on the same inputs; ``--retry-errors`` takes them in."""
    chips_not_taken: int = 0
    """Background chips that turned out to hold no data."""
    chips_no_longer_planned: int = 0
    """Rows of the table that this plan does not ask for and that stay: other days, earlier background draws, imagery
    that is gone."""
    prompts_retired: int = 0
    """Prompts whose label was deleted, moved or merged away; they and their masks are marked."""
    masks_retired: int = 0
    """Masks marked with them."""
    chips_retired: int = 0
    """Rows deleted because their mask rested on such a label; those still planned are made again."""
    chips_pending: int = 0
    """Chips this run set out to make."""
    chips_made: int = 0
    """Chips made, committed or waiting to be."""
    chips_written: int = 0
    """Rows committed to ``training_data``."""
    chips_failed: int = 0
    """Chips that failed in this run, those of failed partitions among them."""
    partitions: int = 0
    """Partitions this run set out to do."""
    partitions_done: int = 0
    """Partitions done."""
    partitions_failed: int = 0
    """Partitions that failed as a whole."""
    inputs_failed: int = 0
    """Labels, scenes and places refused while planning, for the first time with these settings."""
    inputs_failed_before: int = 0
    """Labels, scenes and places refused while planning, known from an earlier run."""
    masks: dict[str, int] = field(default_factory=lambda: {"accept": 0, "review": 0, "reject": 0, "not_in_chip": 0})
    """Masks per verdict."""
    seconds: float = 0.0
    """Wall time."""
    store: str = ""
    """Where the tables are."""

    @property
    def failed(self) -> int:
        """Chips and inputs that failed in this run."""
        return self.chips_failed + self.inputs_failed

    @property
    def exit_code(self) -> int:
        """0 when all that was asked for is there, 3 when something is in ``errors`` instead, 130 interrupted."""
        if self.status == "interrupted":
            return 130
        return 3 if self.failed or self.chips_failed_before or self.inputs_failed_before else 0

    def counts(self) -> dict[str, Any]:
        """The summary as plain values."""
        return asdict(self)


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
    progress: Progress | None = None,
) -> RunSummary:
    """Make every missing row; a chip or partition that fails becomes a row in ``errors`` and the rest goes on.

    What rests on labels that are gone is retired first, so that a killed run never leaves it behind.

    Raises:
        AegirError: the inputs or the store cannot be used; nothing was started.
    """
    start = time.monotonic()
    report = progress or (lambda _: None)
    build = plan(config, driver, retry_errors=retry_errors, since_snapshot=since_snapshot)
    manifests = _manifests(config, build)
    run = _described(config, build, driver, manifests)
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


def _described(config: BuildConfig, build: BuildPlan, driver: Driver, manifests: dict[str, DatasetManifest]) -> Run:
    recipes, code = stage_recipes(config, build, driver)
    return Run(
        flow="build",
        build_config=config.build_config,
        config=asdict(config),
        recipes=recipes,
        code=code,
        inputs=_inputs(config, build) | {"datasets": {name: found.key for name, found in manifests.items()}},
    )


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


def stage_recipes(
    config: BuildConfig, build: BuildPlan, driver: Driver
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Stage (image, mask, index) → recipe, and stage → module → code hash; each stage builds on the one before."""
    loader = _module_of(driver, "vhr_reads")
    sources = {
        type(build.made_once[name]).__module__ for name in ("vhr_imagery", "msi_imagery") if build.made_once[name]
    }
    modules = {
        "image": (loader, *sorted(sources), "dataflows.chip_plan"),
        "mask": (
            "dataflows.ingest_ducklake_labels",
            "dataflows.sam_mask_factory",
            type(build.made_once["mask_segmenter"]).__module__,
            "dataflows.training_sample_builder",
        ),
        "index": ("dataflows.s2_indexing", "dataflows.spectral_indices"),
    }
    recipes: dict[str, str] = {}
    upstream: tuple[str, ...] = ()
    for stage, names in modules.items():
        settings = {name: getattr(config, name) for name in _STAGE_SETTINGS[stage]}
        recipes[stage] = recipe(names, settings, *upstream)
        upstream = (recipes[stage],)
    return recipes, {stage: stage_code(names) for stage, names in modules.items()}


def _module_of(driver: Driver, node: str) -> str:
    functions = driver.graph.nodes[node].originating_functions
    return str(functions[0].__module__)


def _inputs(config: BuildConfig, build: BuildPlan) -> dict[str, Any]:
    scenes = {}
    for kind in ("vhr", "msi"):
        found = build.made_once[f"{kind}_scenes"]
        if found is not None:
            scenes[kind] = dict(zip(found["scene_id"].to_pylist(), found["checksum"].to_pylist(), strict=True))
    return {
        "catalog": config.catalog,
        "catalog_checksum": catalog_fingerprint(config.catalog) if config.catalog is not None else None,
        "label_snapshot": build.label_snapshot,
        "label_tables": [table.name for table in config.labels],
        "label_files": {
            name: found for table in config.labels if table.file for name, found in file_checksums(table).items()
        },
        "scenes": scenes,
    }


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
