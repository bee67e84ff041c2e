"""Rows whose recipe is not today's: how many per stage, run and recipe, and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dataflows.stage_recipes import STAGES, StageRecipes
from store.chains import runs_by_id
from store.code_changes import by_module, code_changes
from store.fingerprint import digest
from store.schemas import SCHEMA_VERSION
from store.stale_rows import row_count, schema_version, stale_rows

MACHINE = "machine"
"""``mask_source`` of rows a run may make again; masks a person drew or saw are kept."""


def remade(rows: pa.Table) -> pa.BooleanArray:
    """Whether a build makes each of stale rows again.

    It keeps masks a person drew or saw, and those of a backfill's generation, which rest on more than its labels.
    """
    return pc.and_(pc.equal(rows["mask_source"], MACHINE), pc.equal(rows["generation"], 0))


@dataclass(frozen=True, kw_only=True)
class StaleStage:
    """Why one stage of some rows is stale."""

    stage: str
    """image, mask or index."""
    recipe: str
    """Recipe the rows have."""
    settings: Mapping[str, tuple[Any, Any]]
    """Setting → value then and now, where they differ."""
    code: Sequence[tuple[str, str]]
    """Definitions (or modules) that differ, and how: changed, added, gone."""
    reasons: Sequence[str]
    """Other reasons, and what cannot be told."""


@dataclass(frozen=True, kw_only=True)
class StaleGroup:
    """Stale rows of one run with the same recipes."""

    run_id: str
    """Run that made them."""
    started_at: Any
    """When it started; None where its row is gone."""
    rows: int
    """How many they are."""
    stages: Sequence[StaleStage]
    """Their stale stages, in order."""


@dataclass(frozen=True, kw_only=True)
class StaleReport:
    """What ``python -m dataflows stale`` found."""

    store: str
    """The store."""
    settings_of: str
    """Where today's settings come from."""
    recipes: Mapping[str, str]
    """Stage → today's recipe."""
    schema_version: int
    """Schema version of the table; rows of an earlier one cannot be made again before it is upgraded."""
    rows: int
    """Rows of ``training_data``."""
    stale: int
    """Rows with another recipe in any stage, which ``run --only-stale`` would make again if they are still planned."""
    kept: int
    """Rows with another recipe whose mask a person drew or reviewed, or a backfill made; they are left alone and do not
    count as stale."""
    stages: Mapping[str, int]
    """Stage → stale rows."""
    groups: Sequence[StaleGroup]
    """Stale rows by run and recipes, the most first."""
    uuids: Sequence[Mapping[str, Any]]
    """The first stale rows: uuid, run and stale stages."""

    @property
    def exit_code(self) -> int:
        """0 when nothing is stale, 3 when something is."""
        return 3 if self.stale else 0

    def values(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)


def stale_report(store: str, today: StageRecipes, *, settings_of: str, limit: int = 0) -> StaleReport:
    """Compare the rows' recipes with those of today.

    Args:
        store: the store; without ``training_data`` nothing is stale.
        today: what rows made now would say.
        settings_of: where the settings behind ``today`` come from.
        limit: how many stale rows to name.

    Raises:
        StoreError: the table cannot be read.
    """
    found = stale_rows(store, today.recipes)
    rows = found.filter(remade(found))
    names = ["run_id", *(f"{stage}_recipe" for stage in STAGES)]
    counts = Counter(zip(*(rows[name].to_pylist() for name in names), strict=True)) if len(rows) else Counter()
    runs = runs_by_id(store, sorted({key[0] for key in counts}))
    groups = [_group(key, count, runs.get(key[0]), today) for key, count in counts.most_common()]
    first = rows.sort_by("uuid").slice(0, limit).to_pylist()
    return StaleReport(
        store=store,
        settings_of=settings_of,
        recipes=today.recipes,
        schema_version=schema_version(store),
        rows=row_count(store),
        stale=len(rows),
        kept=len(found) - len(rows),
        stages={
            stage: sum(group.rows for group in groups if stage in {found.stage for found in group.stages})
            for stage in STAGES
        },
        groups=groups,
        uuids=[
            {"uuid": row["uuid"], "run_id": row["run_id"], "stages": stale_stages(row, today.recipes)} for row in first
        ],
    )


def stale_stages(row: Mapping[str, Any], recipes: Mapping[str, str]) -> list[str]:
    """Stages of a row whose recipe is another one."""
    return [stage for stage in STAGES if row[f"{stage}_recipe"] != recipes[stage]]


def stale_because(row: Mapping[str, Any], run: Mapping[str, Any] | None, today: StageRecipes) -> list[StaleStage]:
    """The stale stages of a row and why each is.

    Args:
        row: its recipes, columns ``image_recipe`` and so on.
        run: the row of ``runs`` behind it, JSON read; None where it is gone.
        today: what rows made now would say.
    """
    stages = stale_stages(row, today.recipes)
    return [_stage(stage, row[f"{stage}_recipe"], run, today, stages) for stage in stages]


def _group(key: tuple[str, ...], count: int, run: Mapping[str, Any] | None, today: StageRecipes) -> StaleGroup:
    row = {f"{stage}_recipe": recipe for stage, recipe in zip(STAGES, key[1:], strict=True)}
    return StaleGroup(
        run_id=key[0],
        started_at=run["started_at"] if run else None,
        rows=count,
        stages=stale_because(row, run, today),
    )


def _stage(
    stage: str, recipe: str, run: Mapping[str, Any] | None, today: StageRecipes, stale: Sequence[str]
) -> StaleStage:
    if run is None:
        return StaleStage(
            stage=stage, recipe=recipe, settings={}, code=[], reasons=["its run has no row in `runs`: why is not known"]
        )
    if (run["recipes"] or {}).get(stage) != recipe:
        reason = "its run recorded another recipe than the row has: why is not known"
        return StaleStage(stage=stage, recipe=recipe, settings={}, code=[], reasons=[reason])
    told, inputs = run["config"] or {}, run["inputs"] or {}
    settings = {
        name: (told.get(name), value)
        for name, value in today.settings[stage].items()
        if name not in told or digest(told[name]) != digest(value)
    }
    then = (run["code"] or {}).get(stage, {})
    code = [(change.where, change.how) for change in code_changes(then, today.code[stage])]
    reasons = _reasons(stage, inputs, today, stale)
    if by_module(then):
        reasons.append("its code was recorded by module, and is hashed by definition now")
    if not (settings or code or reasons):
        reasons.append("nothing recorded differs: the recipe is made in another way now")
    return StaleStage(stage=stage, recipe=recipe, settings=settings, code=code, reasons=reasons)


def _reasons(stage: str, inputs: Mapping[str, Any], today: StageRecipes, stale: Sequence[str]) -> list[str]:
    found = []
    if stage == "mask" and "weights" in inputs and inputs["weights"] != today.weights:
        found.append(f"weights: {_short(inputs['weights'])} then, {_short(today.weights)} now")
    if stage == "mask" and "calibration" in inputs and inputs["calibration"] != today.calibration:
        found.append(f"calibration: {inputs['calibration'] or 'none'} then, {today.calibration or 'none'} now")
    if inputs.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        found.append(f"schema version: {inputs['schema_version']} then, {SCHEMA_VERSION} now")
    position = STAGES.index(stage)
    if position and STAGES[position - 1] in stale:
        found.append(f"it builds on the stage {STAGES[position - 1]}, which is stale")
    return found


def _short(weights: Mapping[str, str] | None) -> str:
    return ", ".join(f"{name} {sha[:12]}" for name, sha in sorted(weights.items())) if weights else "none"
