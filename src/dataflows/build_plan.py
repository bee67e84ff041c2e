"""What a run of the build flow would do: the chips whose rows are missing, and what stands in the way of others."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from hamilton.driver import Driver

from dataflows._retirement import LabelScope, Retirement, stored_retirement
from dataflows._stale_plan import StalePlan, stale_plan
from dataflows.config import BuildConfig
from dataflows.lance_writer import WITHOUT_DATA
from store import lance_io
from store.label_mapping import label_place
from store.lineage import table_versions
from store.schemas import training_data
from store.sql import literals
from utils.failures import Failure
from utils.retry import is_transient_type

_PLAN_NODES = (
    "label_snapshot",
    "labels",
    "label_merges",
    "labelled_ground",
    "area_of_interest",
    "changed_ground",
    "prompts",
    "chip_plan",
)
_FAILURE_NODES = ("scene_failures", "label_failures", "placement_failures", "coverage_failures")
MADE_ONCE = (
    "vhr_imagery",
    "msi_imagery",
    "vhr_scenes",
    "msi_scenes",
    "mask_segmenter",
    "refinement_steps",
    "verdict_thresholds",
    "quality_calibration",
    "split_rule",
)
BACKFILL_ROLES = ("discovered", "hard_negative")
"""``chip_role`` of chips that a backfill made."""


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
    """Rows made with these settings that this plan does not ask for and that stay: other days, earlier background,
    imagery that is gone."""
    prompts: pa.Table
    """Prompts of all chips, schema ``dataflows.chip_plan.PROMPT_PLAN``."""
    failures: list[Failure]
    """What cannot be used: labels, scenes, chips without imagery."""
    retirement: Retirement
    """Rows to retire: what rests on labels that are gone."""
    made_once: Mapping[str, Any]
    """Results every partition shares: sources, backend, split rule."""
    labels: int
    """Labels the plan rests on, each object once."""
    merged_labels: int
    """Labels that were merged into them."""
    label_snapshot: int | None
    """Snapshot the labels were read at; None without a catalogue."""
    planned_at: datetime
    """When the store was looked at; what others write later is newer than this plan."""
    table_versions: Mapping[str, int]
    """Table → version, for the tables the store held when the plan was made."""
    stale: StalePlan | None = None
    """What is left out of a plan of stale rows alone; None in other plans."""

    @property
    def partitions(self) -> list[int]:
        """S2 cells with pending chips, in order."""
        return sorted(set(self.pending["partition"].to_pylist()))


def plan(
    config: BuildConfig,
    driver: Driver,
    *,
    retry_errors: bool = False,
    since_snapshot: int | None = None,
    only_stale: bool = False,
) -> BuildPlan:
    """What is missing from the store under these settings; reads labels, catalogues and key columns, writes nothing.

    Args:
        config: the settings.
        driver: driver of the build flow under these settings.
        retry_errors: take in chips that failed before.
        since_snapshot: look only at ground that labels changed on since this snapshot of the lake; None is everywhere.
        only_stale: take existing rows whose recipe is not today's instead of missing ones; nothing new is made, nothing
            is retired, and masks a person drew or saw are kept.

    Raises:
        StoreNotWritableError: the store cannot be written.
        SchemaError: the store's table has another chip profile.
        LabelError, ImageryError, ConfigError, CRSError: the inputs cannot be used.
    """
    planned_at = datetime.now(UTC)
    lance_io.check_writable(config.store)
    versions = table_versions(config.store)
    if lance_io.table_exists(config.store, "training_data"):
        found = lance_io.open_table(config.store, "training_data").schema
        lance_io.check_schema(config.store, "training_data", found, training_data(config.profile))
    nodes = [*_PLAN_NODES, *_FAILURE_NODES, *MADE_ONCE]
    results = driver.execute(nodes, inputs={"since_snapshot": since_snapshot})
    chips, left = results["chip_plan"], None
    done, others = _done(config, chips)
    met = {} if retry_errors else failed_before(config, chips)
    if only_stale:
        # a failure older than the row has been overcome
        left = stale_plan(config, driver, chips)
        chips, done = left.chips, left.fresh
        met = {uuid: found for uuid, found in met.items() if found.latest > left.made.get(uuid, found.latest)}
    stuck = met.keys() - done
    uuids, roles = chips["uuid"].to_pylist(), chips["chip_role"].to_pylist()
    background = {uuid for uuid, role in zip(uuids, roles, strict=True) if role != "labelled"}
    empty = {uuid for uuid in stuck & background if met[uuid].types <= WITHOUT_DATA}
    retirement = Retirement() if only_stale else stored_retirement(config.store, _scope(config, results))
    return BuildPlan(
        chips=chips,
        pending=chips.filter(pa.array([uuid not in done and uuid not in stuck for uuid in uuids], pa.bool_())),
        failed_before=len(stuck - empty),
        not_taken_before=len(empty),
        no_longer_planned=0
        if config.has_area or results["changed_ground"] is not None
        else len(others - set(retirement.chips)),
        prompts=results["prompts"],
        failures=[failure for node in _FAILURE_NODES for failure in results[node]],
        retirement=retirement,
        made_once={name: results[name] for name in MADE_ONCE},
        labels=len(results["labels"]),
        merged_labels=len(results["label_merges"]),
        label_snapshot=results["label_snapshot"],
        planned_at=planned_at,
        table_versions=versions,
        stale=left,
    )


def _scope(config: BuildConfig, results: Mapping[str, Any]) -> LabelScope:
    return LabelScope(
        sources=frozenset((label_place(table.name, config.catalog, None)[0], table.name) for table in config.labels),
        installed=config.installed,
        keep_undated=config.keep_undated,
        area_of_interest=results["area_of_interest"],
        changed_ground=results["changed_ground"],
        labels=results["labels"],
        labelled_ground=results["labelled_ground"],
        prompts=results["prompts"],
        chips=results["chip_plan"],
        profile=config.profile,
    )


def _done(config: BuildConfig, chips: pa.Table) -> tuple[set[str], set[str]]:
    """Planned chips whose row was made with these settings from the inputs they have now; and rows not planned."""
    wanted = dict(zip(chips["uuid"].to_pylist(), chips["input_set"].to_pylist(), strict=True))
    where = f"build_config = '{config.build_config}'"
    rows = lance_io.scan(config.store, "training_data", ["uuid", "input_set"], where)
    made = dict(zip(rows["uuid"].to_pylist(), rows["input_set"].to_pylist(), strict=True))
    # masks a person drew or saw are not made again by a machine
    kept = lance_io.scan(config.store, "training_data", ["uuid"], "mask_source != 'machine'")["uuid"].to_pylist()
    kept += _backfilled(config, chips)
    done = {uuid for uuid, inputs in made.items() if wanted.get(uuid) == inputs} | set(kept)
    return done & wanted.keys(), made.keys() - wanted.keys()


def _backfilled(config: BuildConfig, chips: pa.Table) -> list[str]:
    """Planned chips whose row is a backfill's and whose labels and scenes are what they were.

    A chip that was made for detections has no labels: as background it would teach that there is nothing on it.
    """
    planned = {row["uuid"]: row for row in chips.select(["uuid", "input_set", "chip_role"]).to_pylist()}
    columns = ["uuid", "input_set", "chip_role"]
    own = lance_io.scan(config.store, "training_data", columns, "generation > 0").to_pylist()
    return [
        row["uuid"]
        for row in own
        if row["uuid"] in planned
        and (
            planned[row["uuid"]]["input_set"] == row["input_set"]
            or (row["chip_role"] in BACKFILL_ROLES and planned[row["uuid"]]["chip_role"] != "labelled")
        )
    ]


def still_missing(config: BuildConfig, chips: pa.Table, planned_at: datetime) -> pa.Table:
    """Those of planned chips whose row nobody made since the plan; looks the rows up by key."""
    wanted = dict(zip(chips["uuid"].to_pylist(), chips["input_set"].to_pylist(), strict=True))
    where = f"uuid IN ({literals(list(wanted))}) AND build_config = '{config.build_config}'" if wanted else "false"
    rows = lance_io.scan(config.store, "training_data", ["uuid", "input_set", "created_at"], where).to_pylist()
    made = {row["uuid"] for row in rows if wanted[row["uuid"]] == row["input_set"] and row["created_at"] > planned_at}
    return chips.filter(pa.array([uuid not in made for uuid in wanted], pa.bool_())) if made else chips


@dataclass(kw_only=True)
class Met:
    """Failures of one chip."""

    types: set[str]
    """Error types."""
    latest: datetime
    """When the last of them happened."""


def failed_before(config: BuildConfig, chips: pa.Table) -> dict[str, Met]:
    """Planned chips that failed with these settings on the inputs they have now; what the network failed is no mark."""
    wanted = dict(zip(chips["uuid"].to_pylist(), chips["input_set"].to_pylist(), strict=True))
    where = f"uuid IS NOT NULL AND build_config = '{config.build_config}'"
    met: dict[str, Met] = {}
    columns = ["uuid", "input_set", "error_type", "occurred_at"]
    for row in lance_io.scan(config.store, "errors", columns, where).to_pylist():
        if wanted.get(row["uuid"]) == row["input_set"] and not is_transient_type(row["error_type"]):
            found = met.setdefault(row["uuid"], Met(types=set(), latest=row["occurred_at"]))
            found.types.add(row["error_type"])
            found.latest = max(found.latest, row["occurred_at"])
    return met
