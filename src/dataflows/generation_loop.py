"""Answer the prompts of a store's chips by another backend, partition by partition, and go on where a run stopped."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from hamilton.driver import Driver

from dataflows.build_plan import MADE_ONCE
from dataflows.config import BuildConfig
from dataflows.generation_plan import GenerationPlan, plan_generation
from dataflows.guarded_run import guarded
from dataflows.mask_run import count_outcome, mask_provenance, row_buffer
from dataflows.memory import most_chips, raster_cache_bytes, settled_heap
from dataflows.outcome_loop import retry_policy
from dataflows.partition_task import PartitionTask, partition_tasks, run_partition
from dataflows.run_summary import GenerationSummary
from dataflows.stage_recipes import StageRecipes
from dataflows.work_shares import run_lease_id
from store import generations, lance_io, leases, rasters
from store.commit_buffer import CommitBuffer
from store.leases import Holder
from store.lineage import Run, table_versions
from store.mask_runs import claimed_numbers, dataset_keys, mark_killed
from store.schemas import SCHEMA_VERSION
from utils.errors import StoreConflictError
from utils.types import LoadableBackend

FLOW = "masks"
OUTPUT = "generation_write"
_NUMBERS = "masks/generation"
_CLAIMS = 300
_WAIT_S = 0.2

Progress = Callable[[GenerationSummary], None]


@dataclass(frozen=True, kw_only=True)
class AskedMasks:
    """What a run of the flow ``masks`` was asked for beside its settings."""

    where: str | None = None
    """Lance SQL over ``training_data``: only these chips; None is all with prompts."""
    retry_errors: bool = False
    """Take in chips that failed before."""


def run_generation(
    config: BuildConfig,
    driver: Driver,
    today: StageRecipes,
    asked: AskedMasks,
    *,
    progress: Progress | None = None,
) -> GenerationSummary:
    """Make what a generation of masks lacks; a chip that fails becomes a row in ``errors`` and the rest goes on.

    Args:
        config: the settings, with the backend and options of the generation.
        driver: driver of the flow ``masks`` under these settings.
        today: recipes under these settings.
        asked: which chips.
        progress: called with the summary whenever it changes.

    Raises:
        AegirError: the settings, the imagery or the store cannot be used; nothing was started.
    """
    start, report = time.monotonic(), progress or (lambda _: None)
    rasters.limit_cache(raster_cache_bytes(config, workers=1))
    lance_io.check_writable(config.store)
    # a store without chips is refused before the generation gets a number
    lance_io.open_table(config.store, "training_data")
    shared = driver.execute([name for name in MADE_ONCE if name in driver.graph.nodes])
    run = _described(config, shared, today)
    holder = Holder(run_id=run.run_id, lease_s=config.lease_s)
    mark_killed(config.store, FLOW, run_lease_id)
    recipe = today.recipes["mask"]
    generation = generations.number_for(config.store, recipe, claimed_numbers(config.store))
    plan = _planned(config, shared, today, generation, asked)
    summary = _started(config, plan, run, today, generation)
    report(summary)
    if not (plan.partitions or plan.failures):
        return _ended(summary, start, report)
    segmenter = shared["mask_segmenter"]
    if plan.partitions and isinstance(segmenter, LoadableBackend):
        # weights that do not load are one error now, not one for each chip
        segmenter.load()
    taken, run = recorded_with_number(config, recipe, holder, run)
    if taken != generation:
        # another recipe got the number meanwhile
        plan = _planned(config, shared, today, taken, asked)
        summary = _started(config, plan, run, today, taken)
    _run(_Work(config, driver, shared, plan, run, holder, summary, report))
    _ended(summary, start, report)
    run.settle(config.store, summary.status, summary.counts())
    return summary


def _planned(
    config: BuildConfig, shared: Mapping[str, Any], today: StageRecipes, generation: int, asked: AskedMasks
) -> GenerationPlan:
    return plan_generation(
        config,
        shared["vhr_scenes"],
        mask_recipe=today.recipes["mask"],
        generation=generation,
        where=asked.where,
        retry_errors=asked.retry_errors,
    )


@dataclass(frozen=True)
class _Work:
    """One run at work."""

    config: BuildConfig
    driver: Driver
    shared: Mapping[str, Any]
    plan: GenerationPlan
    run: Run
    holder: Holder
    summary: GenerationSummary
    report: Progress

    def tasks(self) -> Iterator[PartitionTask]:
        """Tasks of all partitions, without chips that another run answered since the plan."""
        most = most_chips(self.config, workers=1)
        for partition in self.plan.partitions:
            for task in partition_tasks(self.plan, partition, most_chips=most):
                left = self._left(task)
                self.summary.chips_made_elsewhere += len(task.chips) - len(left.chips)
                if len(left.chips):
                    yield left
            self.summary.partitions_done += 1

    def _left(self, task: PartitionTask) -> PartitionTask:
        ids = task.prompts["prompt_id"].to_pylist()
        known = generations.answered_since(
            self.config.store, ids, self.summary.mask_recipe, self.summary.generation, self.plan.planned_at
        )
        asked = task.prompts.filter(
            pc.invert(pc.is_in(task.prompts["prompt_id"], pa.array(sorted(known), pa.string())))
        )
        return task.only(set(asked["uuid"].to_pylist()))


def _run(work: _Work) -> None:
    buffer = row_buffer(work.config, work.run, work.plan.planned_at)
    buffer.fail(work.plan.failures)
    guarded(
        work.config,
        work.run,
        work.holder,
        work.summary,
        work=lambda: _loop(work, buffer),
        finish=lambda: _finish(work, buffer),
    )


@settled_heap()
def _loop(work: _Work, buffer: CommitBuffer) -> None:
    policy = retry_policy(work.config)
    provenance = mask_provenance(work.config, work.run, work.summary.generation)
    for task in work.tasks():
        outcome = run_partition(work.driver, work.shared, task, provenance, policy, output=OUTPUT, plans=False)
        count_outcome(work.summary, outcome)
        buffer.take(outcome.rows)
        if buffer.full:
            policy.call(buffer.flush)
            work.summary.masks_written = buffer.masks_written
        work.report(work.summary)


def _finish(work: _Work, buffer: CommitBuffer) -> None:
    """Commit what waits, retire masks whose label went meanwhile, and bring the indexes up to date."""
    policy = retry_policy(work.config)
    policy.call(buffer.flush)
    work.summary.masks_written = buffer.masks_written
    work.summary.masks_retired, _ = policy.call(lambda: generations.retire_late(work.config.store))
    if buffer.masks_written:
        lance_io.refresh_indexes(work.config.store, "masks")


def _described(config: BuildConfig, shared: Mapping[str, Any], today: StageRecipes) -> Run:
    scenes = shared["vhr_scenes"]
    checksums = dict(zip(scenes["scene_id"].to_pylist(), scenes["checksum"].to_pylist(), strict=True))
    return Run(
        flow=FLOW,
        build_config=config.build_config,
        config=asdict(config),
        recipes=today.recipes,
        code=today.code,
        inputs={
            "scenes": {"vhr": checksums},
            "datasets": dataset_keys(config.store),
            "tables": table_versions(config.store),
            "weights": today.weights,
            "calibration": today.calibration,
            "schema_version": SCHEMA_VERSION,
        },
    )


def recorded_with_number(config: BuildConfig, mask_recipe: str, holder: Holder, run: Run) -> tuple[int, Run]:
    """The generation, and the run that says so in ``runs``, in one step: no other recipe gets the number.

    Raises:
        StoreConflictError: other runs held the lease of the numbers all the time.
    """
    store = config.store
    for _ in range(_CLAIMS):
        if _NUMBERS in leases.claim(store, holder, [_NUMBERS, run_lease_id(run.run_id)]):
            number = generations.number_for(store, mask_recipe, claimed_numbers(store))
            numbered = replace(run, inputs={**run.inputs, "generation": number})
            numbered.record(store, "running")
            leases.claim(store, holder, [], give_back=[_NUMBERS])
            return number, numbered
        time.sleep(_WAIT_S)
    raise StoreConflictError(f"another run of {store} has been giving a generation its number for a minute; try again")


def _started(
    config: BuildConfig, plan: GenerationPlan, run: Run, today: StageRecipes, generation: int
) -> GenerationSummary:
    return GenerationSummary(
        run_id=run.run_id,
        store=config.store,
        generation=generation,
        backend=config.mask_backend,
        mask_recipe=today.recipes["mask"],
        chips=plan.chips,
        chips_skipped=plan.skipped,
        chips_failed_before=plan.failed_before,
        chips_pending=len(plan.pending) + len(plan.failures),
        chips_failed=len(plan.failures),
        partitions=len(plan.partitions),
    )


def _ended(summary: GenerationSummary, start: float, report: Progress) -> GenerationSummary:
    if summary.status == "running":
        summary.status = "failed" if summary.chips_failed else "done"
    summary.seconds = time.monotonic() - start
    report(summary)
    return summary
