"""Which chips to make: labelled ones, background by rule, the scenes each is read from, its cells and its split."""

from collections import defaultdict
from typing import Any
from uuid import uuid5

import numpy as np
import pyarrow as pa
import shapely
from hamilton.function_modifiers import dataloader, extract_fields, tag
from numpy.typing import NDArray

from dataflows._background import BackgroundRule, background_positions
from dataflows._chips import Position, lattice_of
from dataflows._coverage import SceneCoverage
from dataflows._placement import LabelledGround, PlacementRule, placed_labels
from dataflows._planned_chips import CHIP_PLAN, planned_rows
from dataflows._positions import within_area
from store import lance_io
from store.fingerprint import digest
from utils.errors import ConfigError, LabelsOutsideImageryError, NoImageryError
from utils.failures import Failure
from utils.geo import CHIP_NAMESPACE, s2_cells, s2_parents
from utils.split import (
    SPLITS,
    SplitRule,
    Surroundings,
    balanced_salts,
    guarded_across_zones,
    splits_under,
    surroundings,
)
from utils.types import ChipProfile

__all__ = ["CHIP_PLAN", "PROMPT_PLAN", "SALTS"]

_POINTS = (("+", "positive_points"), ("-", "negative_points"))
SALTS = 64
"""Salts compared when a store gets its split rule."""

PROMPT_PLAN = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("uuid", pa.string(), nullable=False),
        pa.field("label_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("label_table", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("geometry", pa.binary(), nullable=False, metadata={"crs": "EPSG:4326"}),
        pa.field("label_geometry", pa.binary(), nullable=False, metadata={"crs": "EPSG:4326"}),
        pa.field("utm_geometry", pa.binary(), nullable=False, metadata={"crs": "the chip's epsg"}),
        pa.field("clipped", pa.bool_(), nullable=False),
        pa.field("installed_on", pa.date32()),
        pa.field("area_m2", pa.float64()),
        pa.field("capacity_mw", pa.float64()),
        pa.field("repairs", pa.list_(pa.string()), nullable=False),
        pa.field("merged", pa.map_(pa.string(), pa.float32()), nullable=False),
        pa.field("positive_points", pa.binary(), metadata={"crs": "EPSG:4326"}),
        pa.field("negative_points", pa.binary(), metadata={"crs": "EPSG:4326"}),
    ]
)
"""One row per prompt on a chip; points are multi-points beside its geometry, null without any."""


@tag(stage="plan")
def placement_rule(margin_share: float, point_box_m: float, min_overlap: float, max_label_m: float) -> PlacementRule:
    """How labels become prompts and make chips."""
    return PlacementRule(
        margin_share=margin_share, point_box_m=point_box_m, min_overlap=min_overlap, max_label_m=max_label_m
    )


@tag(stage="plan")
@extract_fields({"labelled_ground": LabelledGround, "label_prompts": pa.Table, "placement_failures": list[Failure]})
def label_placement(labels: pa.Table, chip_profile: ChipProfile, placement_rule: PlacementRule) -> dict[str, Any]:
    """Lattice positions that labels touch, the prompt each label becomes, and labels that have no place.

    A label lies on the lattice of the UTM zone of its centre; one without a zone, or without area there, is a failure.
    A chip that only a sliver of labels touches is not labelled, and no background either.
    """
    ground, prompts, failures = placed_labels(labels, chip_profile, placement_rule)
    return {"labelled_ground": ground, "label_prompts": prompts, "placement_failures": failures}


@tag(stage="plan")
def scene_coverage(
    vhr_scenes: pa.Table,
    msi_scenes: pa.Table | None,
    vhr_acquired: str,
    chip_profile: ChipProfile,
    min_valid_fraction: float,
) -> SceneCoverage:
    """Which scenes serve a chip: the newest VHR day that covers it whole, or the day asked for, and the nearest MSI."""
    return SceneCoverage(vhr_scenes, msi_scenes, vhr_acquired, chip_profile, min_valid_fraction)


@tag(stage="plan")
@extract_fields({"labelled_chips": pa.Table, "coverage_failures": list[Failure]})
def labelled_coverage(
    labels: pa.Table,
    labelled_ground: LabelledGround,
    scene_coverage: SceneCoverage,
    chip_profile: ChipProfile,
    area_of_interest: shapely.Geometry | None,
    changed_ground: LabelledGround | None,
) -> dict[str, Any]:
    """Labelled chips of the area with the scenes they are read from; and labels that no imagery covers.

    An incremental plan has only those on ground that changed labels touch, or touched, and may have none.

    Raises:
        LabelsOutsideImageryError: no labelled chip is covered.
    """
    made = labelled_ground.made if changed_ground is None else changed_ground.among(labelled_ground.made)
    wanted = within_area(made, area_of_interest, chip_profile)
    covered, refused = scene_coverage.of(wanted)
    failures = _uncovered(refused, labelled_ground, labels)
    if not covered and changed_ground is None:
        raise LabelsOutsideImageryError(
            f"none of {len(wanted)} labelled chips lies on imagery: {failures[0].message if failures else 'no label'}; "
            "check the CRS and axis order of labels and scenes, `vhr_acquired` and the area of interest"
        )
    return {"labelled_chips": planned_rows(covered, "labelled", chip_profile), "coverage_failures": failures}


def _uncovered(refused: dict[Position, str], ground: LabelledGround, labels: pa.Table) -> list[Failure]:
    """One failure per labelled position without imagery, naming the labels on it."""
    if not refused:
        return []
    asked, rows = ground.rows_at(*np.array(list(refused), np.int64).T)
    on = labels.select(["label_id", "merged"]).take(ground.chips["label"].take(pa.array(rows))).to_pylist()
    named: dict[int, list[str]] = defaultdict(list)
    for position, label in zip(asked.tolist(), on, strict=True):
        named[position] += [label["label_id"], *(name for name, _ in label["merged"])]
    return [
        Failure.of(
            "labelled_coverage",
            NoImageryError(f"chip {position} has labels and {reason}"),
            input_ids=("chip {} {} {}".format(*position), *sorted(named[number])),
        )
        for number, (position, reason) in enumerate(refused.items())
    ]


@tag(stage="plan")
@dataloader()
def stored_split_rule(store: str) -> tuple[SplitRule | None, dict[str, Any]]:
    """The split rule the store already follows; None in a new store."""
    rows = lance_io.scan(store, "splits", ["level", "salt", "fractions", "guard_m", "created_at"]).to_pylist()
    if not rows:
        return None, {"found": False}
    row = min(rows, key=lambda found: found["created_at"])
    rule = SplitRule(
        level=row["level"],
        salt=row["salt"],
        fractions=tuple(dict(row["fractions"])[name] for name in SPLITS),
        guard_m=row["guard_m"],
    )
    return rule, {"found": True}


@tag(stage="plan")
def split_rule(
    stored_split_rule: SplitRule | None,
    labelled_chips: pa.Table,
    chip_profile: ChipProfile,
    split_level: int,
    split_fractions: list[float],
    guard_m: float,
    changed_ground: LabelledGround | None,
) -> SplitRule:
    """The rule that gives each cell its split: the stored one, else a new one.

    Of the :data:`SALTS` salts that balance the labelled chips best, it is the one whose guard, within UTM zones, leaves
    most of them usable: the split that is furthest below its wanted share counts.

    Raises:
        SplitError: no salt leaves every split with a labelled chip.
        ConfigError: the store follows another rule than the settings ask for, or an incremental plan finds none.
    """
    train, val, test = split_fractions
    if stored_split_rule is not None:
        found = (stored_split_rule.level, stored_split_rule.fractions, stored_split_rule.guard_m)
        if found != (split_level, (train, val, test), guard_m):
            raise ConfigError(
                f"the store splits at level {found[0]} into {found[1]} with a guard of {found[2]} m; the settings ask "
                f"for {split_level}, {(train, val, test)}, {guard_m} m: keep the store's rule or use another store"
            )
        return stored_split_rule
    if changed_ground is not None:
        raise ConfigError("the store has no split rule yet; build it once without --since-snapshot")
    cells, counts = np.unique(_cells_of(labelled_chips, split_level), return_counts=True)
    rules = [
        SplitRule(level=split_level, salt=salt, fractions=(train, val, test), guard_m=guard_m)
        for salt in balanced_salts(cells, counts, (train, val, test), count=SALTS)
    ]
    # the guard across zone edges, which costs most and sets few chips aside, does not enter the choice
    ground = _ground_of(labelled_chips, rules[0], chip_profile)
    return max(rules, key=lambda rule: _least_usable(_zone_splits(labelled_chips, rule, ground), rule))


@tag(stage="plan")
def background_chips(
    labels: pa.Table,
    labelled_chips: pa.Table,
    labelled_ground: LabelledGround,
    scene_coverage: SceneCoverage,
    chip_profile: ChipProfile,
    partition_level: int,
    background_near_ratio: float,
    background_far_ratio: float,
    area_of_interest: shapely.Geometry | None,
    changed_ground: LabelledGround | None,
) -> pa.Table:
    """Chips of the area without any label, drawn in each partition in proportion to its labelled chips.

    Near ones touch a position that a label touches (``_background.NEAR_CHIPS``), far ones do not. Candidates are taken
    in the order of a hash of their place, so that the draw is the same in every run and no neighbour is preferred. An
    incremental plan draws none.
    """
    drawing = changed_ground is None
    rule = BackgroundRule(
        level=partition_level,
        ratios={"background_near": drawing * background_near_ratio, "background_far": drawing * background_far_ratio},
        area_of_interest=area_of_interest,
    )
    drawn = background_positions(labelled_chips, labels, labelled_ground, scene_coverage, rule, chip_profile)
    return pa.concat_tables([planned_rows(found, role, chip_profile) for role, found in drawn.items()])


@tag(stage="plan")
def prompts(
    labels: pa.Table, labelled_chips: pa.Table, labelled_ground: LabelledGround, label_prompts: pa.Table
) -> pa.Table:
    """Prompts of the labelled chips: every label that touches a chip is a prompt on it."""
    on, rows = labelled_ground.rows_at(*(labelled_chips[name].to_numpy() for name in ("epsg", "ix", "iy")))
    placed = labelled_ground.chips.take(pa.array(rows))
    label = placed["label"].to_numpy()
    asked = label_prompts.take(pa.array(np.searchsorted(label_prompts["label"].to_numpy(), label)))
    own = labels.take(pa.array(label))
    uuids = labelled_chips["uuid"].take(pa.array(on))
    keys = zip(own["label_id"].to_pylist(), uuids.to_pylist(), own["kind"].to_pylist(), strict=True)
    columns = {
        "prompt_id": [str(uuid5(CHIP_NAMESPACE, f"{label_id}|{uuid}|{kind}")) for label_id, uuid, kind in keys],
        "uuid": uuids,
        "geometry": asked["geometry"],
        "label_geometry": own["geometry"],
        "utm_geometry": asked["utm_geometry"],
        "clipped": placed["clipped"],
    }
    columns |= {name: own[name] for name in PROMPT_PLAN.names if name not in columns}
    return pa.table(columns).select(PROMPT_PLAN.names).cast(PROMPT_PLAN)


@tag(stage="plan")
def chip_plan(
    labelled_chips: pa.Table,
    background_chips: pa.Table,
    prompts: pa.Table,
    vhr_scenes: pa.Table,
    msi_scenes: pa.Table | None,
    split_rule: SplitRule,
    chip_profile: ChipProfile,
    partition_level: int,
) -> pa.Table:
    """Every chip to make, with its partition, split and the hash of its prompts and scenes, in partition order."""
    chips = pa.concat_tables([labelled_chips, background_chips])
    columns = {
        "partition": _cells_of(chips, partition_level),
        "split_cell": _cells_of(chips, split_rule.level),
        "split": _splits(chips, split_rule, chip_profile),
        "input_set": _input_sets(chips, prompts, [vhr_scenes, *([] if msi_scenes is None else [msi_scenes])]),
    }
    for name, values in columns.items():
        chips = chips.append_column(CHIP_PLAN.field(name), pa.array(values, CHIP_PLAN.field(name).type))
    return chips.select(CHIP_PLAN.names).cast(CHIP_PLAN).sort_by([("partition", "ascending"), ("uuid", "ascending")])


def _input_sets(chips: pa.Table, prompts: pa.Table, scenes: list[pa.Table]) -> list[str]:
    """Per chip: hash of its prompts' ids, geometry and points and of its scenes' files."""
    asked: dict[str, list[str]] = defaultdict(list)
    for row in prompts.select(["uuid", "prompt_id", "geometry", "positive_points", "negative_points"]).to_pylist():
        # a prompt without points has the hash it had before prompts could have any
        points = [f"{sign}{row[name].hex()}" for sign, name in _POINTS if row[name] is not None]
        asked[row["uuid"]].append("".join([row["prompt_id"], row["geometry"].hex(), *points]))
    files: dict[str, str] = {}
    for table in scenes:
        files |= dict(zip(table["scene_id"].to_pylist(), table["checksum"].to_pylist(), strict=True))
    sets = []
    for row in chips.select(["uuid", "vhr_scene_ids", "msi_scene_ids"]).to_pylist():
        read = [[files[scene] for scene in row[f"{kind}_scene_ids"]] for kind in ("vhr", "msi")]
        sets.append(digest([sorted(asked[row["uuid"]]), *read]))
    return sets


def _cells_of(chips: pa.Table, level: int) -> NDArray[np.uint64]:
    return s2_parents(s2_cells(chips["lon"].to_numpy(), chips["lat"].to_numpy(), 30), level)


def _least_usable(splits: NDArray[np.str_], rule: SplitRule) -> float:
    """Chips of the split that falls shortest, as a share of what it is due."""
    return min(int((splits == name).sum()) / (share * len(splits)) for name, share in rule.shares.items() if share)


def _ground_of(chips: pa.Table, rule: SplitRule, profile: ChipProfile) -> dict[int, Surroundings]:
    """EPSG code → split cells around its chips."""
    epsgs, ix, iy = (chips[name].to_numpy() for name in ("epsg", "ix", "iy"))
    return {
        epsg: surroundings(
            ix[epsgs == epsg], iy[epsgs == epsg], lattice_of(epsg, profile), level=rule.level, guard_m=rule.guard_m
        )
        for epsg in np.unique(epsgs).tolist()
    }


def _zone_splits(chips: pa.Table, rule: SplitRule, zones: dict[int, Surroundings]) -> NDArray[np.str_]:
    """Splits with the guard within each zone."""
    splits = np.empty(len(chips), "<U5")
    epsgs = chips["epsg"].to_numpy()
    for epsg, around in zones.items():
        splits[epsgs == epsg] = splits_under(rule, around)
    return splits


def _splits(chips: pa.Table, rule: SplitRule, profile: ChipProfile) -> NDArray[np.str_]:
    zones = _ground_of(chips, rule, profile)
    splits = _zone_splits(chips, rule, zones)
    if len(zones) > 1:
        size_m = profile.gsd_m * max(profile.height, profile.width)
        centres = np.empty((len(chips), 2))
        epsgs, ix, iy = (chips[name].to_numpy() for name in ("epsg", "ix", "iy"))
        for epsg in zones:
            here = epsgs == epsg
            centres[here] = lattice_of(epsg, profile).centres(ix[here], iy[here])
        splits = guarded_across_zones(centres, epsgs, splits, size_m=size_m, guard_m=rule.guard_m)
    return splits
