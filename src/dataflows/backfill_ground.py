"""Where judged detections lie on the chips of a store, and what each chip's next mask rests on."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from dataflows._chips import Position, lattice_of
from dataflows._coverage import SceneCoverage
from dataflows._placement import PlacementRule, placed_labels
from store import lance_io
from utils.failures import Failure
from utils.label_check import LABELS
from utils.types import ChipProfile

DATASET = "detections"
"""Dataset of prompts that come from detections."""
LABEL_TABLE = "store:detections"
"""Where their labels are: no label table, so that a build never judges them."""


@dataclass(frozen=True, kw_only=True)
class ChipGround:
    """What is known about one chip beside the prompts it is asked."""

    fresh: bool
    """Whether the store has no such chip yet."""
    input_set: str = ""
    """Inputs of the chip the store holds."""
    base_generation: int | None = None
    """Generation of the mask it has; None without one."""
    chain: tuple[int, ...] = ()
    """Generations whose masks count, the newest first: that of its mask, and those that one builds on."""
    dropped: frozenset[str] = frozenset()
    """Prompts whose mask counts no longer: detections that were accepted before and rejected now."""
    rejected: tuple[shapely.Geometry, ...] = ()
    """Rejected detections on it, EPSG:4326: known background, where no accepted mask is."""
    undecided: tuple[shapely.Geometry, ...] = ()
    """Detections on it that await review, EPSG:4326: not taught as background."""
    weight: float = 1.0
    """Weight of the chip in the training loss."""


@dataclass(kw_only=True)
class Placed:
    """One place detections lie on."""

    position: Position
    """UTM zone, column and row on its lattice."""
    uuid: str
    """Chip there, of the day its detections were found on."""
    covered: dict[str, Any]
    """Scenes it is read from, see :meth:`dataflows._coverage.SceneCoverage.of`."""
    on: list[tuple[int, bool, bool]] = field(default_factory=list)
    """Detection (row), whether it makes a chip here, and whether it reaches beyond the chip."""


def as_labels(detections: pa.Table, kind: str) -> pa.Table:
    """Detections in the form of labels, schema ``utils.label_check.LABELS``, row by row."""
    count = len(detections)
    columns = {
        "label_id": [f"{DATASET}/{one}" for one in detections["detection_id"].to_pylist()],
        "dataset": [DATASET] * count,
        "label_table": [LABEL_TABLE] * count,
        "kind": [kind] * count,
        "geometry": detections["outline"],
        "area_m2": pa.nulls(count, pa.float64()),
        "repairs": pa.array([[]] * count, pa.list_(pa.string())),
    }
    columns |= {name: pa.nulls(count, LABELS.field(name).type) for name in LABELS.names if name not in columns}
    return pa.table(columns).select(LABELS.names).cast(LABELS)


def places_of(
    labels: pa.Table, days: list[date], profile: ChipProfile, rule: PlacementRule, coverage: SceneCoverage
) -> tuple[list[Placed], pa.Table, list[Failure]]:
    """Chips that detections lie on, those of the day they were found on.

    Args:
        labels: detections as :func:`as_labels` gives them.
        days: day of the image each was found on.
        profile: chip profile of the store.
        rule: how labels make chips.
        coverage: which scenes serve a chip.

    Returns:
        The places in order, the prompt each detection becomes (``dataflows._placement.LABEL_PROMPTS``), and
        detections that have no place.
    """
    ground, prompts, failures = placed_labels(labels, profile, rule)
    positions = ground.positions
    served, _ = coverage.of(positions)
    found = {
        chip["position"]: Placed(
            position=chip["position"],
            uuid=_uuid(chip, profile),
            covered=chip,
        )
        for chip in served
    }
    for row in ground.chips.to_pylist():
        place = found.get((row["epsg"], row["ix"], row["iy"]))
        if place is not None and place.covered["vhr_day"] == days[row["label"]]:
            place.on.append((row["label"], row["makes_chip"], row["clipped"]))
    return [place for _, place in sorted(found.items()) if place.on], prompts, failures


def _uuid(covered: Mapping[str, Any], profile: ChipProfile) -> str:
    epsg, ix, iy = covered["position"]
    return lattice_of(epsg, profile).chip_uuid(ix, iy, covered["vhr_day"])


def chains(store: str, stored: Iterable[Mapping[str, Any]], generation: int) -> dict[str, tuple[int, ...]]:
    """Chip → generations its mask rests on, the newest first; none of a chip without mask.

    A chip that has the masks of ``generation`` already counts as it was before.

    Args:
        store: the store.
        stored: rows of ``training_data``: uuid, generation, has_mask.
        generation: number of the generation that is made.
    """
    columns = ["uuid", "generation", "base_generation"]
    base = {
        (row["uuid"], row["generation"]): row["base_generation"]
        for row in lance_io.scan(store, "candidates", columns).to_pylist()
    }
    found = {}
    for row in stored:
        chain, at = [], row["generation"] if row["has_mask"] else None
        while at is not None and at not in chain:
            chain.append(at)
            at = base.get((row["uuid"], at), 0 if at else None)
        found[row["uuid"]] = tuple(number for number in chain if number != generation)
    return found


def same_objects(
    outlines: list[shapely.Geometry], earlier: list[tuple[str, shapely.Geometry]], least_iou: float
) -> dict[int, str]:
    """Row of an outline → prompt of the earlier detection that is the same object, the one with the largest IoU."""
    if not outlines or not earlier:
        return {}
    shapes = np.array([shape for _, shape in earlier], object)
    one, other = shapely.STRtree(shapes).query(np.array(outlines, object), predicate="intersects")
    best: dict[int, tuple[float, str]] = defaultdict(lambda: (0.0, ""))
    for row, at in zip(one.tolist(), other.tolist(), strict=True):
        both = shapely.intersection(outlines[row], shapes[at]).area
        iou = both / (outlines[row].area + shapes[at].area - both)
        if iou >= least_iou:
            best[row] = max(best[row], (iou, earlier[at][0]))
    return {row: prompt for row, (_, prompt) in best.items()}
