"""Judged detections become a generation of masks: made chip by chip, beside the table that models train on.

Nothing is taught before the generation is promoted (``store.promotion``): masks go to ``masks``, what each chip's row
would say to ``candidates``, and chips the store lacks to ``training_data`` without mask.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from hamilton.driver import Driver

from dataflows import drivers
from dataflows._settings import section
from dataflows.backfill_plan import BackfillPlan, plan_backfill, shared_results
from dataflows.backfill_settings import BackfillSettings
from dataflows.backfill_summary import BackfillSummary
from dataflows.config import BuildConfig
from dataflows.discovery_config import DiscoveryConfig
from dataflows.generation_loop import recorded_with_number
from dataflows.guarded_run import guarded
from dataflows.mask_run import count_outcome, mask_provenance, row_buffer
from dataflows.memory import most_chips, raster_cache_bytes, settled_heap
from dataflows.outcome_loop import retry_policy
from dataflows.partition_task import partition_tasks, run_partition
from dataflows.stage_recipes import StageRecipes
from dataflows.work_shares import run_lease_id
from store import generations, lance_io, rasters
from store.column_rewrites import files_of, gained
from store.commit_buffer import CommitBuffer
from store.fingerprint import digest
from store.judged_detections import judged_detections, newest_search
from store.leases import Holder
from store.lineage import Run, stage_code, table_versions
from store.mask_runs import claimed_numbers, dataset_keys, mark_killed
from store.schemas import SCHEMA_VERSION
from utils.types import LoadableBackend

FLOW = "backfill"
OUTPUT = "backfill_write"
_TABLES = ("prompts", "masks", "candidates", "training_data")
_INDEXED = ("training_data", "masks", "prompts")
_CODE = ("candidate_masks", "chip_answers", "candidate_table")

Progress = Callable[[BackfillSummary], None]


def run_backfill(
    config: DiscoveryConfig, *, search_id: str | None = None, progress: Progress | None = None
) -> BackfillSummary:
    """Make the generation of masks that the detections of a search lead to; a chip that fails is a row in ``errors``.

    Accepted detections are prompts, rejected ones known background. Chips of the split ``test`` get nothing. The same
    detections with the same verdicts are the same generation: a second run makes what the first one left.

    Args:
        config: settings; those of the section ``backfill`` are :class:`BackfillSettings`.
        search_id: the search; None is the newest.
        progress: called with the summary whenever it changes.

    Raises:
        SearchError: the detections were not validated.
        AegirError: the settings, the imagery or the store cannot be used; nothing was started.
    """
    start, report = time.monotonic(), progress or (lambda _: None)
    settings, build = section(BackfillSettings, config.backfill, "backfill"), config.build
    lance_io.check_writable(build.store)
    lance_io.open_table(build.store, "training_data")
    search = search_id or newest_search(build.store)
    summary = BackfillSummary(store=build.store, search_id=search)
    found = None if search is None else judged_detections(build.store, search)
    if search is None or found is None or not set(found["verdict"].to_pylist()) & {"accept", "reject"}:
        return _ended(_counted(summary, found), start, report)
    rasters.limit_cache(raster_cache_bytes(build, workers=1))
    driver = drivers.build_driver(FLOW, build)
    today = _recipes(build, settings, found)
    shared = shared_results(driver)
    mark_killed(build.store, FLOW, run_lease_id)
    number = generations.number_for(build.store, today.recipes["mask"], claimed_numbers(build.store))
    look = _Look(build, settings, driver, shared, search)
    plan = look.plan(number)
    run = _described(config, shared, today, plan)
    _counted(summary, found)
    _planned(summary, plan, run)
    report(summary)
    if not (plan.partitions or plan.failures):
        return _ended(_measured(summary), start, report)
    segmenter = shared["mask_segmenter"]
    if plan.partitions and isinstance(segmenter, LoadableBackend):
        segmenter.load()
    holder = Holder(run_id=run.run_id, lease_s=build.lease_s)
    taken, run = recorded_with_number(build, today.recipes["mask"], holder, run)
    if taken != number:
        plan = look.plan(taken)
        _planned(summary, plan, run)
    work = _Work(build, driver, plan, run, holder, summary, report)
    before = _files(build.store)
    work.run_all()
    after = _files(build.store)
    summary.bytes_written = sum(gained(before[name], after[name]) for name in _TABLES)
    _ended(_measured(summary), start, report)
    run.settle(build.store, summary.status, summary.counts())
    return summary


@dataclass(frozen=True)
class _Look:
    """What plans of one backfill rest on."""

    build: BuildConfig
    settings: BackfillSettings
    driver: Driver
    shared: Mapping[str, Any]
    search_id: str

    def plan(self, generation: int) -> BackfillPlan:
        return plan_backfill(
            self.build, self.settings, self.driver, self.shared, search_id=self.search_id, generation=generation
        )


@dataclass(frozen=True)
class _Work:
    """One backfill at work."""

    build: BuildConfig
    driver: Driver
    plan: BackfillPlan
    run: Run
    holder: Holder
    summary: BackfillSummary
    report: Progress

    def run_all(self) -> None:
        """Make what is pending; an interrupt leaves what is done committed."""
        buffer = row_buffer(self.build, self.run, self.plan.planned_at)
        buffer.fail(self.plan.failures)
        guarded(
            self.build,
            self.run,
            self.holder,
            self.summary,
            work=lambda: self.loop(buffer),
            finish=lambda: self.finish(buffer),
        )

    @settled_heap()
    def loop(self, buffer: CommitBuffer) -> None:
        policy = retry_policy(self.build)
        provenance = mask_provenance(self.build, self.run, self.plan.generation)
        told = {"chip_ground": dict(self.plan.ground)}
        for partition in self.plan.partitions:
            for task in partition_tasks(self.plan, partition, most_chips=most_chips(self.build, workers=1)):
                outcome = run_partition(
                    self.driver, self.plan.made_once, task, provenance, policy, output=OUTPUT, told=told
                )
                count_outcome(self.summary, outcome)
                buffer.take(outcome.rows)
                if buffer.full:
                    policy.call(buffer.flush)
                self.report(self.summary)
            self.summary.partitions_done += 1

    def finish(self, buffer: CommitBuffer) -> None:
        policy = retry_policy(self.build)
        policy.call(buffer.flush)
        for name in _INDEXED:
            if lance_io.table_exists(self.build.store, name):
                lance_io.refresh_indexes(self.build.store, name)


def _recipes(build: BuildConfig, settings: BackfillSettings, found: pa.Table) -> StageRecipes:
    """Recipes of the rows, with the detections and their verdicts in that of the masks: one generation each."""
    today = drivers.recipes_today(asdict(build))
    judged = sorted(
        (row["detection_id"], row["verdict"], row["match"], row["label_id"], digest(row["outline"].hex()))
        for row in found.select(["detection_id", "verdict", "match", "label_id", "outline"]).to_pylist()
    )
    code = stage_code([f"dataflows.backfill_candidates:{name}" for name in _CODE])
    told = [today.recipes["mask"], asdict(settings), judged, code]
    return replace(today, recipes=today.recipes | {"mask": digest(told)}, code=today.code | {FLOW: code})


def _described(config: DiscoveryConfig, shared: Mapping[str, Any], today: StageRecipes, plan: BackfillPlan) -> Run:
    build = config.build
    scenes = {
        kind: dict(zip(table["scene_id"].to_pylist(), table["checksum"].to_pylist(), strict=True))
        for kind, table in (("vhr", shared["vhr_scenes"]), ("msi", shared["msi_scenes"]))
        if table is not None
    }
    return Run(
        flow=FLOW,
        build_config=build.build_config,
        config=asdict(build) | {"backfill": dict(config.backfill)},
        recipes=today.recipes,
        code=today.code,
        inputs={
            "search_id": plan.search_id,
            "generation": plan.generation,
            "scenes": scenes,
            "datasets": dataset_keys(build.store),
            "tables": table_versions(build.store),
            "weights": today.weights,
            "calibration": today.calibration,
            "schema_version": SCHEMA_VERSION,
        },
    )


def _counted(summary: BackfillSummary, found: pa.Table | None) -> BackfillSummary:
    verdicts = [] if found is None else found["verdict"].to_pylist()
    summary.accepted, summary.rejected = verdicts.count("accept"), verdicts.count("reject")
    summary.undecided = len(verdicts) - summary.accepted - summary.rejected
    return summary


def _planned(summary: BackfillSummary, plan: BackfillPlan, run: Run) -> None:
    summary.run_id, summary.mask_recipe = run.run_id, run.recipes["mask"]
    summary.generation = plan.generation if len(plan.chips) else None
    summary.chips, summary.chips_pending = len(plan.chips), len(plan.pending)
    summary.partitions, summary.held_out = len(plan.partitions), plan.held_out
    summary.inputs_failed = len(plan.failures)


def _measured(summary: BackfillSummary) -> BackfillSummary:
    """What the store says of the generation."""
    if summary.generation is None:
        return summary
    columns = ["base_generation", "replaced", "added", "negatives", "changed_px", "either_px"]
    rows = lance_io.scan(summary.store, "candidates", columns, f"generation = {summary.generation}")
    total = {name: int(pc.sum(rows[name]).as_py() or 0) for name in columns}
    summary.new_chips = rows["base_generation"].null_count
    summary.replaced, summary.added = total["replaced"], total["added"]
    summary.hard_negatives = int(pc.sum(pc.greater(rows["negatives"], 0)).as_py() or 0)
    summary.label_drift = total["changed_px"] / total["either_px"] if total["either_px"] else None
    return summary


def _files(store: str) -> dict[str, dict[str, int]]:
    return {
        name: files_of(lance_io.open_table(store, name)) if lance_io.table_exists(store, name) else {}
        for name in _TABLES
    }


def _ended(summary: BackfillSummary, start: float, report: Progress) -> BackfillSummary:
    if summary.status == "running":
        summary.status = "failed" if summary.chips_failed or summary.inputs_failed else "done"
    summary.seconds = time.monotonic() - start
    report(summary)
    return summary
