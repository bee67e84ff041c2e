"""What a backfill would do: which chips judged detections lie on, what is asked there, and what is left to make."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid5

import pyarrow as pa
import pyarrow.compute as pc
import shapely
from hamilton.driver import Driver

from dataflows._placement import PlacementRule
from dataflows._planned_chips import CHIP_PLAN, planned_rows
from dataflows._positions import footprints_lonlat
from dataflows.backfill_ground import DATASET, ChipGround, Placed, as_labels, chains, places_of, same_objects
from dataflows.backfill_settings import BackfillSettings
from dataflows.build_plan import MADE_ONCE
from dataflows.chip_plan import PROMPT_PLAN
from dataflows.config import BuildConfig
from dataflows.generation_plan import stored_chip_plan, without_scenes
from store import lance_io
from store.judged_detections import judged_detections
from store.schemas import training_data
from store.sql import literals
from utils.failures import Failure
from utils.geo import CHIP_NAMESPACE

_STORED = (
    "uuid", "chip_role", "partition", "split_cell", "split", "input_set", "vhr_epsg", "vhr_transform", "vhr_scene_ids",
    "mask_source", "generation", "weight",
)  # fmt: skip
_RENAMED = {"area_m2": "label_area_m2"}


@dataclass(frozen=True, kw_only=True, eq=False)
class BackfillPlan:
    """What a backfill would do."""

    search_id: str
    """Search whose detections are taken."""
    generation: int
    """Number of the generation."""
    verdicts: Mapping[str, int]
    """Verdict → detections of the search."""
    chips: pa.Table
    """Chips of the generation, schema ``dataflows.chip_plan.CHIP_PLAN``."""
    pending: pa.Table
    """Those that are not made yet."""
    prompts: pa.Table
    """What is asked on the chips, schema ``dataflows.chip_plan.PROMPT_PLAN``."""
    ground: Mapping[str, ChipGround]
    """Chip → what is known about it beside."""
    failures: list[Failure]
    """Detections and chips that cannot be used."""
    held_out: int
    """Accepted and rejected detections on no chip that may learn: test ground, guard, no imagery of their day."""
    made_once: Mapping[str, Any]
    """Results all tasks share."""
    planned_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When the store was looked at."""

    @property
    def partitions(self) -> list[int]:
        """S2 cells with pending chips, in order."""
        return sorted(set(self.pending["partition"].to_pylist()))

    @property
    def fresh(self) -> int:
        """Chips the store does not have yet."""
        return sum(found.fresh for found in self.ground.values())


def shared_results(driver: Driver) -> dict[str, Any]:
    """Results of the flow that no detection changes: sources, catalogues, mask backend, the store's split rule."""
    nodes = [*(name for name in MADE_ONCE if name != "split_rule"), "scene_coverage", "placement_rule"]
    found: dict[str, Any] = driver.execute([*nodes, "stored_split_rule"])
    return found | {"split_rule": found["stored_split_rule"]}


def plan_backfill(
    config: BuildConfig,
    settings: BackfillSettings,
    driver: Driver,
    shared: Mapping[str, Any],
    *,
    search_id: str,
    generation: int,
) -> BackfillPlan:
    """What a generation from the detections of a search lacks; writes nothing.

    Args:
        config: settings of the build.
        settings: those of the backfill.
        driver: driver of the flow ``backfill``.
        shared: what :func:`shared_results` gave.
        search_id: the search.
        generation: number of the generation.

    Raises:
        SearchError: the detections were not validated.
        TableNotFoundError: the store holds no chips.
        SchemaError: its table is of another chip profile or schema version.
    """
    planned_at = datetime.now(UTC)
    dataset = lance_io.open_table(config.store, "training_data")
    lance_io.check_schema(config.store, "training_data", dataset.schema, training_data(config.profile))
    return _Planner(config, settings, driver, shared, search_id, generation).plan(planned_at)


class _Planner:
    """One look at the store."""

    def __init__(
        self,
        config: BuildConfig,
        settings: BackfillSettings,
        driver: Driver,
        shared: Mapping[str, Any],
        search_id: str,
        generation: int,
    ) -> None:
        self.config, self.settings, self.driver, self.shared = config, settings, driver, shared
        self.search_id, self.generation = search_id, generation
        detections = judged_detections(config.store, search_id)
        self.rows = detections.to_pylist()
        self.judgements = [_judgement(row) for row in self.rows]
        self.labels = as_labels(detections, settings.prompt_kind)
        self.label_rows: list[dict[str, Any]] = self.labels.to_pylist()
        self.outlines = list(shapely.from_wkb(detections["outline"].to_numpy()))
        self.splits = {"train", "val"} if settings.val else {"train"}
        self.shapes: dict[int, dict[str, Any]] = {}

    def plan(self, planned_at: datetime) -> BackfillPlan:
        """The plan."""
        rule: PlacementRule = self.shared["placement_rule"]
        days = [row["acquired_at"].date() for row in self.rows]
        places, asked_as, failures = places_of(
            self.labels, days, self.config.profile, rule, self.shared["scene_coverage"]
        )
        self.shapes = {row["label"]: row for row in asked_as.to_pylist()}
        stored = self._stored([place.uuid for place in places])
        known = {row["uuid"]: row for row in stored.to_pylist()}
        there = [place for place in places if place.uuid in known and self._may_learn(known[place.uuid])]
        asked, ground = self._existing(there, known)
        fresh, new = self._fresh([place for place in places if place.uuid not in known])
        chips, lost = self._chips(stored.filter(_among(stored["uuid"], ground)), fresh)
        ground |= {place.uuid: self._ground(place, fresh=True) for place in new}
        asked += [self._prompt(at, place.uuid, clipped) for place in new for at, clipped in self._on(place, "accept")]
        decided = {at for at, judged in enumerate(self.judgements) if judged != "undecided"}
        taken = {at for place in places if place.uuid in ground for at, _, _ in place.on}
        return BackfillPlan(
            search_id=self.search_id,
            generation=self.generation,
            verdicts=dict(sorted(Counter(str(row["verdict"]) for row in self.rows).items())),
            chips=chips,
            pending=self._pending(chips, ground),
            prompts=pa.Table.from_pylist(
                [{name: row[name] for name in PROMPT_PLAN.names} for row in asked], schema=PROMPT_PLAN
            ),
            ground=ground,
            failures=[*failures, *lost],
            held_out=len(decided - taken),
            made_once={name: self.shared[name] for name in MADE_ONCE},
            planned_at=planned_at,
        )

    def _stored(self, uuids: list[str]) -> pa.Table:
        """Rows of ``training_data`` at the places, with ``has_mask``."""
        columns = [*_STORED, *(["msi_scene_ids"] if self.config.profile.has_msi else [])]
        where = f"uuid IN ({literals(uuids)})" if uuids else "false"
        rows = lance_io.scan(self.config.store, "training_data", columns, where)
        masked = lance_io.scan(self.config.store, "training_data", ["uuid"], f"{where} AND generated_mask IS NOT NULL")
        return rows.append_column("has_mask", pc.is_in(rows["uuid"], masked["uuid"].combine_chunks()))

    def _may_learn(self, row: Mapping[str, Any]) -> bool:
        return row["split"] in self.splits and row["mask_source"] == "machine"

    def _on(self, place: Placed, judgement: str) -> list[tuple[int, bool]]:
        """Detections of one judgement on a place, and whether each reaches beyond the chip."""
        return [(at, clipped) for at, _, clipped in place.on if self.judgements[at] == judgement]

    def _existing(
        self, places: list[Placed], known: Mapping[str, Mapping[str, Any]]
    ) -> tuple[list[dict[str, Any]], dict[str, ChipGround]]:
        """What is asked on chips that are there and may learn, and what is known about them beside."""
        rest_on = chains(self.config.store, [known[place.uuid] for place in places], self.generation)
        own = self._prompts_in_force([place.uuid for place in places], known)
        found = self._found_before(own, rest_on)
        asked: list[dict[str, Any]] = []
        ground: dict[str, ChipGround] = {}
        for place in places:
            earlier = found[place.uuid]
            rows = self._asked(place, own[place.uuid], earlier)
            rejected = self._on(place, "reject")
            if rows or rejected:
                asked += rows
                again = same_objects([self.outlines[at] for at, _ in rejected], earlier, self.settings.same_object_iou)
                row, chain = known[place.uuid], rest_on[place.uuid]
                ground[place.uuid] = replace(
                    self._ground(place, fresh=False),
                    input_set=row["input_set"],
                    base_generation=chain[0] if chain else None,
                    chain=chain,
                    dropped=frozenset(again.values()),
                    weight=max(row["weight"], self.settings.hard_negative_weight) if rejected else row["weight"],
                )
        return asked, ground

    def _prompts_in_force(
        self, uuids: list[str], known: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, list[dict[str, Any]]]:
        """Chip → its prompts as it was made, and those of detections."""
        columns = [_RENAMED.get(name, name) for name in PROMPT_PLAN.names if name != "utm_geometry"]
        where = f"uuid IN ({literals(uuids)}) AND retired_at IS NULL" if uuids else "false"
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in lance_io.scan(self.config.store, "prompts", [*columns, "input_set"], where).to_pylist():
            if row["input_set"] == known[row["uuid"]]["input_set"]:
                found[row["uuid"]].append(row | {"area_m2": row["label_area_m2"]})
        return found

    def _found_before(
        self, own: Mapping[str, list[dict[str, Any]]], rest_on: Mapping[str, tuple[int, ...]]
    ) -> dict[str, list[tuple[str, shapely.Geometry]]]:
        """Chip → detections its mask rests on: prompt and outline."""
        ids = [row["prompt_id"] for rows in own.values() for row in rows if row["dataset"] == DATASET]
        where = f"prompt_id IN ({literals(ids)}) AND retired_at IS NULL" if ids else "false"
        made = lance_io.scan(self.config.store, "masks", ["prompt_id", "uuid", "generation"], where).to_pylist()
        counted = {row["prompt_id"] for row in made if row["generation"] in rest_on[row["uuid"]]}
        return defaultdict(
            list,
            {
                uuid: [
                    (row["prompt_id"], shapely.from_wkb(row["label_geometry"]))
                    for row in rows
                    if row["prompt_id"] in counted
                ]
                for uuid, rows in own.items()
            },
        )

    def _asked(
        self, place: Placed, own: list[dict[str, Any]], earlier: list[tuple[str, shapely.Geometry]]
    ) -> list[dict[str, Any]]:
        """Prompts of one chip: accepted detections, as their own or as an earlier prompt of the same object."""
        by_id = {row["prompt_id"]: row for row in own}
        accepted, asked = self._on(place, "accept"), dict[str, dict[str, Any]]()
        same = same_objects([self.outlines[at] for at, _ in accepted], earlier, self.settings.same_object_iou)
        for number, (at, clipped) in enumerate(accepted):
            row = self._prompt(at, place.uuid, clipped)
            if number in same:
                row = _asked_again(by_id[same[number]], row)
            asked.setdefault(row["prompt_id"], row)
        for at, clipped in self._on(place, "confirm"):
            for prompt in own if self._may_replace(self.rows[at]) else []:
                if prompt["label_id"] == self.rows[at]["label_id"]:
                    row = _asked_again(prompt, self._prompt(at, place.uuid, clipped))
                    asked.setdefault(row["prompt_id"], row)
        return list(asked.values())

    def _may_replace(self, detection: Mapping[str, Any]) -> bool:
        """Whether a confirmed detection asks for its label's mask again: one that is another size may be part of it."""
        iou = detection["match_iou"]
        return self.settings.replace_confirmed and (iou is None or iou >= self.settings.replace_iou)

    def _prompt(self, at: int, uuid: str, clipped: bool) -> dict[str, Any]:
        label, shape = self.label_rows[at], self.shapes[at]
        key = f"{label['label_id']}|{uuid}|{label['kind']}"
        return {
            **label,
            "prompt_id": str(uuid5(CHIP_NAMESPACE, key)),
            "uuid": uuid,
            "clipped": clipped,
            "merged": [],
            "label_geometry": label["geometry"],
            "geometry": shape["geometry"],
            "utm_geometry": shape["utm_geometry"],
        }

    def _ground(self, place: Placed, *, fresh: bool) -> ChipGround:
        rejected = self._on(place, "reject")
        return ChipGround(
            fresh=fresh,
            rejected=tuple(self.outlines[at] for at, _ in rejected),
            undecided=tuple(self.outlines[at] for at, _ in self._on(place, "undecided")),
            weight=self.settings.hard_negative_weight if rejected else 1.0,
        )

    def _fresh(self, places: list[Placed]) -> tuple[pa.Table, list[Placed]]:
        """Chips to make where the store has none: of accepted and of rejected detections, on ground that may learn."""
        made = {
            place.uuid: place
            for place in places
            if any(makes and self.judgements[at] in ("accept", "reject") for at, makes, _ in place.on)
        }
        parts = [
            planned_rows([p.covered for p in made.values() if self._role(p) == role], role, self.config.profile)
            for role in ("discovered", "hard_negative")
        ]
        chips = self._off_labels(pa.concat_tables(parts))
        if not len(chips):
            return CHIP_PLAN.empty_table(), []
        rows = [
            self._prompt(at, uuid, c) for uuid in chips["uuid"].to_pylist() for at, c in self._on(made[uuid], "accept")
        ]
        asked = pa.Table.from_pylist([{n: row[n] for n in PROMPT_PLAN.names} for row in rows], schema=PROMPT_PLAN)
        told = {"labelled_chips": chips, "background_chips": chips.slice(0, 0), "prompts": asked}
        same = {name: self.shared[name] for name in ("vhr_scenes", "msi_scenes", "split_rule")}
        plan: pa.Table = self.driver.execute(["chip_plan"], overrides=told | same)["chip_plan"]
        plan = plan.filter(pa.array([split in self.splits for split in plan["split"].to_pylist()], pa.bool_()))
        return plan, [made[uuid] for uuid in plan["uuid"].to_pylist()]

    def _role(self, place: Placed) -> str:
        return "discovered" if self._on(place, "accept") else "hard_negative"

    def _off_labels(self, chips: pa.Table) -> pa.Table:
        """Chips that no label touches: one that only touches a place makes no chip, and is no background either."""
        rows = lance_io.scan(self.config.store, "prompts", ["label_geometry", "dataset"], "retired_at IS NULL")
        rows = rows.filter(pc.not_equal(rows["dataset"], DATASET))
        if not len(rows) or not len(chips):
            return chips
        tree = shapely.STRtree(shapely.from_wkb(rows["label_geometry"].to_numpy()))
        positions = list(zip(*(chips[name].to_pylist() for name in ("epsg", "ix", "iy")), strict=True))
        touched = set(tree.query(footprints_lonlat(positions, self.config.profile), predicate="intersects")[0].tolist())
        return chips.filter(pa.array([at not in touched for at in range(len(chips))], pa.bool_()))

    def _chips(self, stored: pa.Table, fresh: pa.Table) -> tuple[pa.Table, list[Failure]]:
        """All chips of the generation in partition order, without those whose scenes are gone."""
        msi = self.shared["msi_scenes"] if self.config.profile.has_msi else None
        there = stored_chip_plan(stored, self.config, self.shared["vhr_scenes"], msi)
        lost = without_scenes(there, self.shared["vhr_scenes"])
        there = there.filter(pa.array([uuid not in lost for uuid in there["uuid"].to_pylist()], pa.bool_()))
        order = [("partition", "ascending"), ("uuid", "ascending")]
        return pa.concat_tables([there, fresh]).sort_by(order), list(lost.values())

    def _pending(self, chips: pa.Table, ground: Mapping[str, ChipGround]) -> pa.Table:
        """Chips without a candidate from their inputs and mask of today."""
        columns = ["uuid", "input_set", "base_generation"]
        made = lance_io.scan(self.config.store, "candidates", columns, f"generation = {self.generation}").to_pylist()
        done = {(row["uuid"], row["input_set"], row["base_generation"]) for row in made}
        stored = set(lance_io.scan(self.config.store, "training_data", ["uuid"])["uuid"].to_pylist())
        pairs = zip(chips["uuid"].to_pylist(), chips["input_set"].to_pylist(), strict=True)
        left = [(u, inputs, ground[u].base_generation) not in done or u not in stored for u, inputs in pairs]
        return chips.filter(pa.array(left, pa.bool_()))


def _judgement(row: Mapping[str, Any]) -> str:
    """What a detection means for masks: accept, confirm (of a label), reject or undecided."""
    if row["verdict"] == "accept":
        return "confirm" if row["match"] == "confirmed" else "accept"
    # where a label says that there is PV, a rejection does not say that there is none
    return "reject" if row["verdict"] == "reject" and row["match"] != "confirmed" else "undecided"


def _asked_again(prompt: Mapping[str, Any], detection: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt that is there, asked by the outline of a detection."""
    told = {name: detection[name] for name in ("kind", "utm_geometry", "clipped")}
    # points of the label were set for its own geometry
    return {**prompt, **told, "positive_points": None, "negative_points": None}


def _among(uuids: pa.ChunkedArray, wanted: Mapping[str, Any]) -> pa.Array:
    return pc.is_in(uuids, pa.array(sorted(wanted), pa.string()))
