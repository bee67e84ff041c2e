"""Incremental plans: ground that labels changed on since a snapshot of the lake, and the labels that decide there."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from hamilton.function_modifiers import dataloader, tag
from numpy.typing import NDArray

from dataflows._labels import checked
from dataflows._placement import LabelledGround, PlacementRule, placed_labels
from dataflows._positions import footprints_lonlat
from store import ducklake
from store.ducklake_changes import read_changes
from store.ducklake_labels import LabelTable, read_labels
from utils.errors import ConfigError
from utils.geo import grown_bounds
from utils.label_check import LABELS
from utils.types import ChipProfile

Shapes = NDArray[np.object_]


@tag(stage="labels")
@dataloader()
def changed_labels(
    catalog: str | None, label_tables: list[LabelTable], label_snapshot: int | None, since_snapshot: int | None = None
) -> tuple[pa.Table | None, dict[str, Any]]:
    """Labels before and after every change since a snapshot, schema ``LABELS``; None for a whole plan.

    Ids repeat. A state that is unusable made no chip and makes none.

    Raises:
        ConfigError: there is no catalogue, or labels are in files, which have no snapshots.
        LabelTableError: the changes are not all on record.
    """
    if since_snapshot is None:
        return None, {"changes": None}
    if catalog is None or label_snapshot is None:
        raise ConfigError("label files have no snapshots; plan without --since-snapshot")
    with ducklake.connect(catalog) as connection:
        raw = read_changes(connection, label_tables, since_snapshot, label_snapshot)
    states = pa.concat_tables([LABELS.empty_table(), *(batch.labels for batch in checked(raw, label_tables, None))])
    return states, {"changes": len(raw), "usable": len(states)}


@tag(stage="labels")
@dataloader()
def changed_ground(
    changed_labels: pa.Table | None,
    catalog: str | None,
    label_tables: list[LabelTable],
    label_snapshot: int | None,
    duplicate_reach_m: float | None,
    chip_profile: ChipProfile,
    placement_rule: PlacementRule,
) -> tuple[LabelledGround | None, dict[str, Any]]:
    """Lattice positions that changed labels touch or touched; None for a whole plan.

    Where duplicates are merged, a change can decide over the labels it overlaps, over those they overlap, and so on:
    their ground counts too.
    """
    if changed_labels is None:
        return None, {"labels": None}
    states = changed_labels
    if duplicate_reach_m is not None and len(states):
        shapes = shapely.from_wkb(states["geometry"].to_numpy())
        read = _reader(catalog, label_tables, label_snapshot)
        states = pa.concat_tables([states, _connected(read, _grown(shapes, duplicate_reach_m), duplicate_reach_m)[0]])
    return placed_labels(states, chip_profile, placement_rule)[0], {"labels": len(states)}


@tag(stage="labels")
@dataloader()
def changed_area(
    changed_ground: LabelledGround | None,
    catalog: str | None,
    label_tables: list[LabelTable],
    label_snapshot: int | None,
    duplicate_reach_m: float | None,
    chip_profile: ChipProfile,
) -> tuple[shapely.Geometry | None, dict[str, Any]]:
    """Ground whose labels decide over the changed chips, EPSG:4326; None for a whole plan.

    The chips themselves and, where duplicates are merged, the labels that hang together with those on them.
    """
    if changed_ground is None:
        return None, {"parts": None}
    parts = footprints_lonlat(changed_ground.positions, chip_profile)
    if duplicate_reach_m is not None and len(parts):
        parts = _connected(_reader(catalog, label_tables, label_snapshot), parts, duplicate_reach_m)[1]
    area = shapely.multipolygons(shapely.get_parts(parts))
    shapely.prepare(area)
    return area, {"parts": len(parts)}


def _reader(
    catalog: str | None, label_tables: list[LabelTable], snapshot: int | None
) -> Callable[[shapely.Geometry], pa.Table]:
    """Checked labels whose bounds touch those of a part of an area."""

    def read(area: shapely.Geometry) -> pa.Table:
        with ducklake.connect(str(catalog)) as connection:
            raw = read_labels(connection, label_tables, snapshot, area=area, none_is_an_error=False)
        return pa.concat_tables([LABELS.empty_table(), *(b.labels for b in checked(raw, label_tables, None))])

    return read


def _connected(read: Callable[[shapely.Geometry], pa.Table], parts: Shapes, reach_m: float) -> tuple[pa.Table, Shapes]:
    """Labels that touch the parts, labels within reach of those, and so on; and the parts grown by their bounds."""
    found = LABELS.empty_table()
    news = parts
    while len(news):
        around = read(shapely.multipolygons(shapely.get_parts(news)))
        tree = shapely.STRtree(news)
        shapes = shapely.from_wkb(around["geometry"].to_numpy())
        met = np.unique(tree.query(shapes, predicate="intersects")[0])
        known = set(found["label_id"].to_pylist())
        fresh = [row for row in met.tolist() if around["label_id"][row].as_py() not in known]
        found = pa.concat_tables([found, around.take(pa.array(fresh, pa.int64()))])
        news = _grown(shapes[fresh], reach_m)
        parts = np.concatenate([parts, news])
    return found, parts


def _grown(shapes: Shapes, reach_m: float) -> Shapes:
    """Bounds of shapes in degrees, grown by at least ``reach_m``."""
    boxes: Shapes = np.array([shapely.box(*grown_bounds(tuple(b), reach_m)) for b in shapely.bounds(shapes)], object)
    return boxes
