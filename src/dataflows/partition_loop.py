"""Plan, run partition by partition, commit every k, record what failed, go on where the last run stopped."""

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from hamilton.driver import Driver

from dataflows.config import BuildConfig
from dataflows.lance_writer import WITHOUT_DATA, Provenance
from store import lance_io
from store.commit_buffer import CommitBuffer
from store.fingerprint import checksum
from store.lineage import Run, recipe, stage_code
from store.schemas import SPLITS, training_data
from utils.errors import AegirError, SchemaError
from utils.failures import Failure
from utils.split import SplitRule, split_of_cells

PLAN_NODES = ("label_snapshot", "prompts", "chip_plan")
_FAILURE_NODES = ("scene_failures", "label_failures", "placement_failures", "coverage_failures")
_MADE_ONCE = (
    "vhr_imagery",
    "msi_imagery",
    "vhr_scenes",
    "msi_scenes",
    "mask_segmenter",
    "refinement_steps",
    "verdict_thresholds",
    "split_rule",
)
_STAGE_SETTINGS = {
    "image": ("chip_px", "gsd_m", "halo_px", "msi_bands", "msi_px", "min_valid_fraction", "vhr_acquired"),
    "mask": ("mask_backend", "mask_options", "refinement", "thresholds", "margin_share", "point_box_m", "min_overlap"),
    "index": ("h3_resolution", "partition_level", "split_level", "split_fractions", "guard_m"),
}

Progress = Callable[["RunSummary"], None]


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """What a run would do."""

    chips: pa.Table
    """Every chip of the configuration, schema ``dataflows.chip_plan.CHIP_PLAN``."""
    pending: pa.Table
    """The chips whose row is missing, or was made with other settings, prompts or scenes."""
    failed_before: int
    """Chips left out because they failed before with these settings and inputs."""
    not_taken_before: int
    """Background chips left out because they turned out to hold no data."""
    no_longer_planned: int
    """Rows made with these settings that no label and no background draw asks for any more; they stay in the table."""
    prompts: pa.Table
    """Prompts of all chips, schema ``dataflows.chip_plan.PROMPT_PLAN``."""
    failures: list[Failure]
    """What cannot be used: labels, scenes, chips without imagery."""
    made_once: Mapping[str, Any]
    """Results every partition shares: sources, backend, split rule."""
    label_snapshot: int
    """Snapshot the labels were read at."""

    @property
    def partitions(self) -> list[int]:
        """S2 cells with pending chips, in order."""
        return sorted(set(self.pending["partition"].to_pylist()))


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
    """Rows of the table that nothing asks for any more, such as those of deleted labels."""
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


def plan(config: BuildConfig, driver: Driver, *, retry_errors: bool = False) -> BuildPlan:
    """What is missing from the store under these settings; reads labels, catalogues and key columns, writes nothing.

    Raises:
        StoreNotWritableError: the store cannot be written.
        SchemaError: the store's table has another chip profile.
        LabelError, ImageryError, ConfigError, CRSError: the inputs cannot be used.
    """
    lance_io.check_writable(config.store)
    if lance_io.table_exists(config.store, "training_data"):
        found = lance_io.open_table(config.store, "training_data").schema
        if not lance_io.same_shape(found, training_data(config.profile)):
            raise SchemaError(
                f"training_data in {config.store} has another chip profile or schema version; "
                "set `store` to another place for this profile"
            )
    results = driver.execute([*PLAN_NODES, *_FAILURE_NODES, *_MADE_ONCE])
    chips = results["chip_plan"]
    done, others = _done(config, chips)
    met = {} if retry_errors else _failed_before(config, chips)
    stuck = met.keys() - done
    uuids, roles = chips["uuid"].to_pylist(), chips["chip_role"].to_pylist()
    background = {uuid for uuid, role in zip(uuids, roles, strict=True) if role != "labelled"}
    empty = {uuid for uuid in stuck & background if met[uuid] <= WITHOUT_DATA}
    return BuildPlan(
        chips=chips,
        pending=chips.filter(pa.array([uuid not in done and uuid not in stuck for uuid in uuids], pa.bool_())),
        failed_before=len(stuck - empty),
        not_taken_before=len(empty),
        no_longer_planned=0 if config.aoi_bbox_lonlat else len(others),
        prompts=results["prompts"],
        failures=[failure for node in _FAILURE_NODES for failure in results[node]],
        made_once={name: results[name] for name in _MADE_ONCE},
        label_snapshot=results["label_snapshot"],
    )


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
    config: BuildConfig, driver: Driver, *, retry_errors: bool = False, progress: Progress | None = None
) -> RunSummary:
    """Make every missing row; a chip or partition that fails becomes a row in ``errors`` and the rest goes on.

    Raises:
        AegirError: the inputs or the store cannot be used; nothing was started.
    """
    start = time.monotonic()
    report = progress or (lambda _: None)
    build = plan(config, driver, retry_errors=retry_errors)
    run = _described(config, build, driver)
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
    if build.partitions or news:
        _record_plan(config, build)
        run.record(config.store, "running")
        buffer.fail(news)
        try:
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
    if build.partitions or news:
        run.record(config.store, summary.status, summary.counts())
    report(summary)
    return summary


def _described(config: BuildConfig, build: BuildPlan, driver: Driver) -> Run:
    recipes, code = stage_recipes(config, build, driver)
    return Run(
        flow="build",
        build_config=config.build_config,
        config=asdict(config),
        recipes=recipes,
        code=code,
        inputs=_inputs(config, build),
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
        except Exception as error:  # noqa: BLE001 - whatever fails in one partition, the others go on
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


def _done(config: BuildConfig, chips: pa.Table) -> tuple[set[str], set[str]]:
    """Planned chips whose row was made with these settings from the inputs they have now; and rows not planned."""
    wanted = dict(zip(chips["uuid"].to_pylist(), chips["input_set"].to_pylist(), strict=True))
    where = f"build_config = '{config.build_config}'"
    rows = lance_io.scan(config.store, "training_data", ["uuid", "input_set"], where)
    made = dict(zip(rows["uuid"].to_pylist(), rows["input_set"].to_pylist(), strict=True))
    # masks a person drew or saw are not made again by a machine
    kept = lance_io.scan(config.store, "training_data", ["uuid"], "mask_source != 'machine'")["uuid"].to_pylist()
    done = {uuid for uuid, inputs in made.items() if wanted.get(uuid) == inputs} | set(kept)
    return done & wanted.keys(), made.keys() - wanted.keys()


def _failed_before(config: BuildConfig, chips: pa.Table) -> dict[str, set[str]]:
    """Planned chips that failed with these settings on the inputs they have now, and their error types."""
    wanted = dict(zip(chips["uuid"].to_pylist(), chips["input_set"].to_pylist(), strict=True))
    where = f"uuid IS NOT NULL AND build_config = '{config.build_config}'"
    met: dict[str, set[str]] = {}
    for row in lance_io.scan(config.store, "errors", ["uuid", "input_set", "error_type"], where).to_pylist():
        if wanted.get(row["uuid"]) == row["input_set"]:
            met.setdefault(row["uuid"], set()).add(row["error_type"])
    return met


def _inputs(config: BuildConfig, build: BuildPlan) -> dict[str, Any]:
    scenes = {
        kind: dict(
            zip(
                *(build.made_once[f"{kind}_scenes"][name].to_pylist() for name in ("scene_id", "checksum")), strict=True
            )
        )
        for kind in ("vhr", "msi")
        if build.made_once[f"{kind}_scenes"] is not None
    }
    return {
        "catalog": config.catalog,
        "catalog_checksum": checksum(config.catalog),
        "label_snapshot": build.label_snapshot,
        "label_tables": [table.table for table in config.labels],
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
