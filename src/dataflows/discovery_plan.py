"""What a search would do and cost: ground, blocks, what each rule prunes, the recall that costs, and the time."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from dataflows._search import Search
from dataflows._search_speed import ExpectedTime, expected_time
from dataflows.truth import Truth


@dataclass(frozen=True, kw_only=True)
class RecallCost:
    """Known objects on ground that is not searched: what pruning costs before a model has looked."""

    objects: int
    """Objects on the ground that would be searched without any rule."""
    objects_lost: int
    """Those of them with most of their area, or their point, on pruned ground."""
    area_m2: float
    """Their area there, m² of the raster's grid; points have none."""
    area_lost_m2: float
    """Part of it on pruned ground."""

    @property
    def objects_share(self) -> float | None:
        """Share of objects lost, 0 to 1; None without any."""
        return self.objects_lost / self.objects if self.objects else None

    @property
    def area_share(self) -> float | None:
        """Share of area lost, 0 to 1; None without any."""
        return self.area_lost_m2 / self.area_m2 if self.area_m2 else None


@dataclass(frozen=True, kw_only=True)
class RuleEffect:
    """What one rule prunes. Blocks that are done already count here as the others do."""

    name: str
    """The rule."""
    blocks: int
    """Blocks it prunes by itself."""
    km2: float
    """Their ground, km²."""
    blocks_in_sequence: int
    """Blocks it prunes that no rule before it does."""
    km2_in_sequence: float
    """Their ground, km²."""
    unjudged: int
    """Blocks it cannot judge, because there is no context; they stay."""
    cost: Mapping[str, RecallCost]
    """``labels``, and ``truth`` where it is known → recall the rule costs by itself."""


@dataclass(frozen=True, kw_only=True)
class DiscoveryPlan:
    """What a search would do."""

    search_id: str
    """Hash of imagery, model, grid and inference settings."""
    model: str
    """Checkpoint or class path."""
    model_id: str
    """Hash of the model's weights, class and options."""
    epsg: int
    """CRS of the search raster."""
    gsd_m: float
    """Its pixel size, metres."""
    shape: tuple[int, int]
    """Its rows and columns."""
    scenes: int
    """Scenes that are read."""
    km2: float
    """Ground inside the area of interest and under imagery, km²."""
    km2_done: float
    """Part of it whose probabilities are there already, km²."""
    km2_pruned: float
    """Part of it that rules take out, km²."""
    km2_left: float
    """Part of it left to search, km²."""
    blocks: int
    """Blocks of the area of interest."""
    blocks_without_imagery: int
    """Those that no imagery touches."""
    blocks_done: int
    """Those whose probabilities are there already."""
    blocks_pruned: int
    """Those that rules take out."""
    blocks_left: int
    """Those left to do."""
    rules: tuple[RuleEffect, ...]
    """What each rule prunes, in the settings' order."""
    cost: Mapping[str, RecallCost]
    """``labels``, and ``truth`` where it is known → recall that all rules cost together."""
    time: ExpectedTime
    """How long the rest would take."""
    inputs_failed: int
    """Files of imagery and features of context that cannot be used."""

    def values(self) -> dict[str, Any]:
        """The plan as plain values; shares of recall are among them."""
        plain = asdict(self)
        plain["cost"] = _cost_values(self.cost)
        for rule, told in zip(self.rules, plain["rules"], strict=True):
            told["cost"] = _cost_values(rule.cost)
        return plain


def discovery_plan(search: Search) -> DiscoveryPlan:
    """The plan of a search that is made ready."""
    plan = search.plan
    known = _known_objects(search)
    any_rule = np.array([name is not None for name in plan.pruned_by], np.bool_)
    left = ~plan.done & ~plan.pruned
    return DiscoveryPlan(
        search_id=search.search_id,
        model=str(search.config.model),
        model_id=search.model.model_id,
        epsg=search.raster.epsg,
        gsd_m=search.raster.gsd_m,
        shape=(search.raster.height, search.raster.width),
        scenes=len(search.scenes),
        km2=float(plan.km2.sum()),
        km2_done=plan.km2_of(plan.done),
        km2_pruned=plan.km2_of(plan.pruned),
        km2_left=plan.km2_of(left),
        blocks=len(plan.blocks) + plan.without_imagery,
        blocks_without_imagery=plan.without_imagery,
        blocks_done=int(plan.done.sum()),
        blocks_pruned=int(plan.pruned.sum()),
        blocks_left=len(plan.pending),
        rules=tuple(_effects(search, known)),
        cost={name: _cost(search, objects, any_rule) for name, objects in known.items()},
        time=expected_time(search),
        inputs_failed=len(search.failures),
    )


def _effects(search: Search, known: Mapping[str, NDArray[np.object_]]) -> list[RuleEffect]:
    plan, effects = search.plan, []
    for name, finding in search.findings.items():
        first = np.array([rule == name for rule in plan.pruned_by], np.bool_)
        effects.append(
            RuleEffect(
                name=name,
                blocks=int(finding.pruned.sum()),
                km2=plan.km2_of(finding.pruned),
                blocks_in_sequence=int(first.sum()),
                km2_in_sequence=plan.km2_of(first),
                unjudged=int((~finding.judged).sum()),
                cost={what: _cost(search, objects, finding.pruned) for what, objects in known.items()},
            )
        )
    return effects


def _known_objects(search: Search) -> dict[str, NDArray[np.object_]]:
    """``labels`` and ``truth`` → shapes that touch the ground that is searched, in the raster's CRS."""
    labels = shapely.from_wkb(search.labels["geometry"].to_numpy(zero_copy_only=False))
    known = {"labels": search.on_raster(labels) if len(labels) else np.empty(0, object)}
    truth = search.config.build.truth
    if truth is not None:
        day = max(when.date() for when in search.scenes["acquired_at"].to_pylist())
        known["truth"] = np.array([*Truth.read(truth).on(search.raster, search.ground_lonlat, day)], object)
    shapely.prepare(search.area)
    return {name: shapes[shapely.intersects(search.area, shapes)] for name, shapes in known.items()}


def _cost(search: Search, shapes: NDArray[np.object_], pruned: NDArray[np.bool_]) -> RecallCost:
    areal = shapely.get_dimensions(shapes) == 2
    polygons, points = shapes[areal], shapes[~areal]
    ground = search.ground(pruned) if pruned.any() else shapely.Polygon()
    whole = shapely.area(shapely.intersection(polygons, search.area))
    lost = shapely.area(shapely.intersection(polygons, ground))
    points_lost = shapely.intersects(points, ground)
    return RecallCost(
        objects=len(shapes),
        objects_lost=int((lost > whole / 2).sum()) + int(points_lost.sum()),
        area_m2=float(whole.sum()),
        area_lost_m2=float(lost.sum()),
    )


def _cost_values(cost: Mapping[str, RecallCost]) -> dict[str, Any]:
    return {
        name: asdict(told) | {"objects_share": told.objects_share, "area_share": told.area_share}
        for name, told in cost.items()
    }
