"""Which chips to make: labelled ones, background by rule, the scenes each is read from, its cells and its split."""

from collections import defaultdict
from typing import Any
from uuid import uuid5

import numpy as np
import pyarrow as pa
import shapely
from hamilton.function_modifiers import dataloader, extract_fields, tag
from numpy.typing import NDArray

from dataflows._chips import Position, lattice_of
from dataflows._coverage import SceneCoverage
from dataflows._positions import clear_of_other_zones, free_positions, in_area, is_near
from store import lance_io
from store.fingerprint import digest
from utils.errors import AegirError, ConfigError, GeometryError, LabelsOutsideImageryError, NoImageryError
from utils.failures import Failure
from utils.geo import CHIP_NAMESPACE, reproject, reproject_points, s2_cells, s2_parents, utm_epsg
from utils.prompts import prompt_geometry
from utils.split import SPLITS, SplitRule, balanced_salts, guarded_across_zones, guarded_splits
from utils.types import ChipProfile

SALTS = 64
"""Salts compared when a store gets its split rule."""

CHIP_PLAN = pa.schema(
    [
        pa.field("uuid", pa.string(), nullable=False),
        pa.field("epsg", pa.int32(), nullable=False),
        pa.field("ix", pa.int64(), nullable=False),
        pa.field("iy", pa.int64(), nullable=False),
        pa.field("lon", pa.float64(), nullable=False),
        pa.field("lat", pa.float64(), nullable=False),
        pa.field("chip_role", pa.string(), nullable=False),
        pa.field("vhr_scene_ids", pa.list_(pa.string()), nullable=False),
        pa.field("msi_scene_ids", pa.list_(pa.string()), nullable=False),
        pa.field("partition", pa.uint64(), nullable=False),
        pa.field("split_cell", pa.uint64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("input_set", pa.string(), nullable=False),
    ]
)
"""One row per chip to make."""

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
    ]
)
"""One row per prompt on a chip."""


@tag(stage="plan")
@extract_fields({"label_chips": dict[Position, list[dict[str, Any]]], "placement_failures": list[Failure]})
def label_placement(
    labels: pa.Table,
    chip_profile: ChipProfile,
    margin_share: float,
    point_box_m: float,
    min_overlap: float,
    max_label_m: float,
) -> dict[str, Any]:
    """Lattice position → labels on it, with prompt geometry in the zone's CRS and whether they make the chip labelled.

    A label lies on the lattice of the UTM zone of its centre; one without a zone, or without area there, is a failure.
    A chip that only a sliver of labels touches is not labelled, and no background either.
    """
    positions: dict[Position, list[dict[str, Any]]] = defaultdict(list)
    failures: list[Failure] = []
    for row in labels.to_pylist():
        try:
            placed = _placed(row, chip_profile, margin_share, point_box_m, min_overlap, max_label_m)
        except AegirError as error:
            failures.append(Failure.of("label_placement", error, input_ids=(row["label_id"],)))
            continue
        for position, entry in placed:
            positions[position].append(entry)
    return {"label_chips": dict(positions), "placement_failures": failures}


def _placed(
    row: dict[str, Any],
    profile: ChipProfile,
    margin_share: float,
    point_box_m: float,
    min_overlap: float,
    max_label_m: float,
) -> list[tuple[Position, dict[str, Any]]]:
    """One label on every lattice position it touches."""
    lonlat = shapely.from_wkb(row["geometry"])
    centre = lonlat.envelope.centroid
    epsg = utm_epsg(centre.x, centre.y)
    label = reproject(lonlat, 4326, epsg)
    west, south, east, north = label.bounds
    if max(east - west, north - south) > max_label_m:
        raise GeometryError(
            f"the label is {max(east - west, north - south):.0f} m across, `max_label_m` is {max_label_m:.0f} m; "
            "split it in the lake, or raise the setting"
        )
    prompt = prompt_geometry(label, row["kind"], margin_share=margin_share, point_box_m=point_box_m)
    lattice = lattice_of(epsg, profile)
    entry = row | {"utm_geometry": shapely.to_wkb(prompt), "prompt": reproject(prompt, epsg, 4326)}
    placed = []
    for ix, iy in zip(*lattice.touching(label), strict=True):
        chip = lattice.grid(int(ix), int(iy)).footprint
        shared = label.intersection(chip).area
        makes = label.area == 0 or shared >= min_overlap * min(label.area, chip.area)
        placed.append(((epsg, int(ix), int(iy)), entry | {"makes_chip": makes, "clipped": not chip.covers(prompt)}))
    return placed


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
    label_chips: dict[Position, list[dict[str, Any]]],
    scene_coverage: SceneCoverage,
    chip_profile: ChipProfile,
    aoi_bbox_lonlat: list[float] | None,
) -> dict[str, Any]:
    """Labelled chips of the area with the scenes they are read from; and labels that no imagery covers.

    Raises:
        LabelsOutsideImageryError: no labelled chip is covered.
    """
    made = [position for position, found in label_chips.items() if any(label["makes_chip"] for label in found)]
    wanted = [position for position in made if in_area(position, aoi_bbox_lonlat, chip_profile)]
    covered, refused = scene_coverage.of(wanted)
    failures = [
        Failure.of(
            "labelled_coverage",
            NoImageryError(f"chip {position} has labels and {reason}"),
            input_ids=(
                "chip {} {} {}".format(*position),
                *sorted(label["label_id"] for label in label_chips[position]),
            ),
        )
        for position, reason in refused.items()
    ]
    if not covered:
        raise LabelsOutsideImageryError(
            f"none of {len(wanted)} labelled chips lies on imagery: {failures[0].message if failures else 'no label'}; "
            "check the CRS and axis order of labels and scenes, `vhr_acquired` and `aoi_bbox_lonlat`"
        )
    return {"labelled_chips": _plan_rows(covered, "labelled", chip_profile), "coverage_failures": failures}


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
) -> SplitRule:
    """The rule that gives each cell its split: the stored one, else a new one.

    Of the :data:`SALTS` salts that balance the labelled chips best, it is the one whose guard leaves most of them
    usable: the split that is furthest below its wanted share counts.

    Raises:
        SplitError: no salt leaves every split with a labelled chip.
        ConfigError: the store follows another rule than the settings ask for.
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
    cells, counts = np.unique(_cells_of(labelled_chips, split_level), return_counts=True)
    rules = [
        SplitRule(level=split_level, salt=salt, fractions=(train, val, test), guard_m=guard_m)
        for salt in balanced_salts(cells, counts, (train, val, test), count=SALTS)
    ]
    return max(rules, key=lambda rule: _least_usable(_splits(labelled_chips, rule, chip_profile), rule))


@tag(stage="plan")
def background_chips(
    labelled_chips: pa.Table,
    label_chips: dict[Position, list[dict[str, Any]]],
    scene_coverage: SceneCoverage,
    chip_profile: ChipProfile,
    partition_level: int,
    background_near_ratio: float,
    background_far_ratio: float,
    aoi_bbox_lonlat: list[float] | None,
) -> pa.Table:
    """Chips of the area without any label, drawn in each partition in proportion to its labelled chips.

    Near ones touch a labelled chip (``_positions.NEAR_CHIPS``), far ones do not. Candidates are taken in the order of
    their ids, which are hashes, so that the draw is the same in every run and no neighbour is preferred.
    """
    partitions = _cells_of(labelled_chips, partition_level)
    parts = []
    for partition in np.unique(partitions):
        mine = labelled_chips.filter(pa.array(partitions == partition))
        free = free_positions(int(partition), partition_level, mine, label_chips, chip_profile)
        clear = clear_of_other_zones(free, label_chips, chip_profile)
        candidates = [position for position in clear if in_area(position, aoi_bbox_lonlat, chip_profile)]
        near = {position for position in candidates if is_near(position, label_chips)}
        for role, ratio, chosen in (
            ("background_near", background_near_ratio, near),
            ("background_far", background_far_ratio, set(candidates) - near),
        ):
            rows = _plan_rows(scene_coverage.of(sorted(chosen))[0], role, chip_profile).sort_by("uuid")
            parts.append(rows.slice(0, round(ratio * len(mine))))
    return pa.concat_tables(parts)


@tag(stage="plan")
def prompts(labelled_chips: pa.Table, label_chips: dict[Position, list[dict[str, Any]]]) -> pa.Table:
    """Prompts of the labelled chips: every label that touches a chip is a prompt on it."""
    rows = [
        {
            "prompt_id": str(uuid5(CHIP_NAMESPACE, f"{label['label_id']}|{chip['uuid']}|{label['kind']}")),
            "uuid": chip["uuid"],
            "label_id": label["label_id"],
            "dataset": label["dataset"],
            "label_table": label["label_table"],
            "kind": label["kind"],
            "geometry": shapely.to_wkb(label["prompt"]),
            "label_geometry": label["geometry"],
            "utm_geometry": label["utm_geometry"],
            "clipped": label["clipped"],
        }
        for chip in labelled_chips.select(["uuid", "epsg", "ix", "iy"]).to_pylist()
        for label in label_chips[chip["epsg"], chip["ix"], chip["iy"]]
    ]
    return pa.Table.from_pylist(rows, schema=PROMPT_PLAN)


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
    """Per chip: hash of its prompts' ids and geometry and of its scenes' files."""
    asked: dict[str, list[str]] = defaultdict(list)
    for row in prompts.select(["uuid", "prompt_id", "geometry"]).to_pylist():
        asked[row["uuid"]].append(row["prompt_id"] + row["geometry"].hex())
    files: dict[str, str] = {}
    for table in scenes:
        files |= dict(zip(table["scene_id"].to_pylist(), table["checksum"].to_pylist(), strict=True))
    sets = []
    for row in chips.select(["uuid", "vhr_scene_ids", "msi_scene_ids"]).to_pylist():
        read = [[files[scene] for scene in row[f"{kind}_scene_ids"]] for kind in ("vhr", "msi")]
        sets.append(digest([sorted(asked[row["uuid"]]), *read]))
    return sets


def _plan_rows(covered: list[dict[str, Any]], role: str, profile: ChipProfile) -> pa.Table:
    """Covered positions as rows with id and centre; the columns of CHIP_PLAN that do not depend on other chips."""
    names = ["uuid", "epsg", "ix", "iy", "lon", "lat", "chip_role", "vhr_scene_ids", "msi_scene_ids"]
    schema = pa.schema([CHIP_PLAN.field(name) for name in names])
    rows = []
    for chip in covered:
        epsg, ix, iy = chip["position"]
        lattice = lattice_of(epsg, profile)
        [(lon, lat)] = reproject_points(lattice.centres(ix, iy), epsg, 4326)
        rows.append(
            {
                "uuid": lattice.chip_uuid(ix, iy, chip["vhr_day"]),
                "epsg": epsg,
                "ix": ix,
                "iy": iy,
                "lon": lon,
                "lat": lat,
                "chip_role": role,
                "vhr_scene_ids": chip["vhr_scene_ids"],
                "msi_scene_ids": chip["msi_scene_ids"],
            }
        )
    return pa.Table.from_pylist(rows, schema=schema)


def _cells_of(chips: pa.Table, level: int) -> NDArray[np.uint64]:
    return s2_parents(s2_cells(chips["lon"].to_numpy(), chips["lat"].to_numpy(), 30), level)


def _least_usable(splits: list[str], rule: SplitRule) -> float:
    """Chips of the split that falls shortest, as a share of what it is due."""
    return min(splits.count(name) / (share * len(splits)) for name, share in rule.shares.items() if share)


def _splits(chips: pa.Table, rule: SplitRule, profile: ChipProfile) -> list[str]:
    splits = np.empty(len(chips), "<U5")
    centres = np.empty((len(chips), 2))
    epsgs = chips["epsg"].to_numpy()
    ix, iy = chips["ix"].to_numpy(), chips["iy"].to_numpy()
    for epsg in np.unique(epsgs):
        here, lattice = epsgs == epsg, lattice_of(int(epsg), profile)
        splits[here] = guarded_splits(ix[here], iy[here], lattice, rule)
        centres[here] = lattice.centres(ix[here], iy[here])
    if len(np.unique(epsgs)) > 1:
        size_m = profile.gsd_m * max(profile.height, profile.width)
        splits = guarded_across_zones(centres, epsgs, splits, size_m=size_m, guard_m=rule.guard_m)
    return [str(split) for split in splits]
