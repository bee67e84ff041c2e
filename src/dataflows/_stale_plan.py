"""Existing rows to make again because their code, settings or weights are not those of today."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
from hamilton.driver import Driver

from dataflows.config import BuildConfig
from dataflows.stage_recipes import stage_recipes
from dataflows.stale_report import remade
from store import lance_io
from store.stale_rows import stale_rows


@dataclass(frozen=True, kw_only=True)
class StalePlan:
    """What ``run --only-stale`` looks at."""

    chips: pa.Table
    """Planned chips that have a row, schema ``dataflows.chip_plan.CHIP_PLAN``."""
    made: Mapping[str, datetime]
    """Chip → when its row was made, for planned stale rows."""
    kept: int
    """Planned rows whose recipe is not today's and whose mask a person drew or saw, or a backfill made: they are left
    alone."""
    not_planned: int
    """Stale rows that this plan does not ask for: other ground, other days, earlier background; they stay stale."""

    @property
    def fresh(self) -> set[str]:
        """Planned chips whose row is left alone."""
        return set(self.chips["uuid"].to_pylist()) - self.made.keys()


def stale_plan(config: BuildConfig, driver: Driver, chips: pa.Table) -> StalePlan:
    """Which of the planned chips have a row that is stale.

    Args:
        config: the settings.
        driver: driver of the build flow under these settings.
        chips: the plan's chips.
    """
    rows = stale_rows(config.store, stage_recipes(asdict(config), driver).recipes)
    planned = pc.is_in(rows["uuid"], chips["uuid"].combine_chunks())
    machine = remade(rows)
    again = rows.filter(pc.and_(planned, machine))
    existing = lance_io.scan(config.store, "training_data", ["uuid"])["uuid"]
    return StalePlan(
        chips=chips.filter(pc.is_in(chips["uuid"], existing.combine_chunks())),
        made=dict(zip(again["uuid"].to_pylist(), again["created_at"].to_pylist(), strict=True)),
        kept=int(pc.sum(pc.and_(planned, pc.invert(machine))).as_py() or 0),
        not_planned=int(pc.sum(pc.and_(pc.invert(planned), machine)).as_py() or 0),
    )
