"""What a round is measured by: detections against true objects on frozen test ground, training masks against truth.

Test ground is where the store's split rule puts the split ``test``: the same S2 cells in every round, whatever is found
or added. Truth that was built after the day of the imagery does not count.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from dataflows.truth import Truth, rasterised
from utils.detection_matching import MatchRule, assignment, measured_pairs
from utils.geo import s2_cells, utm_epsg
from utils.split_rule import SplitRule, split_of_cells
from utils.types import IGNORE, ChipGrid

TRUE_OBJECT = MatchRule(min_iou=0.3, max_distance_m=0.0)
"""A detection is a true object where their outlines overlap at least this much; one to one."""

LEAF = 30
"""S2 level of leaf cells."""


@dataclass(frozen=True, kw_only=True)
class ObjectScores:
    """Detections against true objects."""

    truth: int
    """True objects."""
    detections: int
    """Detections."""
    found: int
    """Pairs of them, one to one."""

    @property
    def recall(self) -> float:
        """Share of the true objects that are found; NaN without any."""
        return self.found / self.truth if self.truth else float("nan")

    @property
    def precision(self) -> float:
        """Share of the detections that are true objects; NaN without any."""
        return self.found / self.detections if self.detections else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of the two: 2·found / (truth + detections); NaN where both are empty."""
        both = self.truth + self.detections
        return 2 * self.found / both if both else float("nan")


def on_test_ground(lon: NDArray[np.float64], lat: NDArray[np.float64], rule: SplitRule) -> NDArray[np.bool_]:
    """Whether points, in degrees (EPSG:4326), lie in cells of the split ``test``; shape (n,)."""
    if not len(lon):
        return np.zeros(0, bool)
    return np.asarray(split_of_cells(s2_cells(lon, lat, LEAF), rule) == "test")


def object_scores(outlines: Sequence[shapely.Geometry], truth: Sequence[shapely.Geometry]) -> ObjectScores:
    """Detections against true objects, both polygons in EPSG:4326, matched one to one by :data:`TRUE_OBJECT`.

    The assignment has the greatest sum of IoU (Kuhn 1955, "The Hungarian method for the assignment problem").
    """
    found = 0
    if len(outlines) and len(truth):
        detected, known = np.array(outlines, object), np.array(truth, object)
        middle = shapely.get_coordinates(shapely.centroid(known[:1]))[0]
        pairs = measured_pairs(detected, known, utm_epsg(float(middle[0]), float(middle[1])), 0.0)
        found = len(assignment(pairs, TRUE_OBJECT))
    return ObjectScores(truth=len(truth), detections=len(outlines), found=found)


def round_scores(detections: pa.Table, truth: Sequence[shapely.Geometry], rule: SplitRule) -> dict[str, ObjectScores]:
    """Scores of a search on test ground: ``all`` its detections, and those its validation ``accepted``.

    Args:
        detections: columns ``outline`` (WKB, EPSG:4326), ``lon``, ``lat`` and ``verdict``.
        truth: objects that stood on the day of the imagery, over the whole area searched.
        rule: the store's split rule.
    """
    places = np.array([_place(shape) for shape in truth]).reshape(-1, 2)
    wanted = [
        shape for shape, inside in zip(truth, on_test_ground(places[:, 0], places[:, 1], rule), strict=True) if inside
    ]
    inside = on_test_ground(detections["lon"].to_numpy(), detections["lat"].to_numpy(), rule)
    here = detections.filter(pa.array(inside, pa.bool_()))
    shapes = shapely.from_wkb(here["outline"].to_pylist())
    accepted = [
        shape for shape, verdict in zip(shapes, here["verdict"].to_pylist(), strict=True) if verdict == "accept"
    ]
    return {"all": object_scores(list(shapes), wanted), "accepted": object_scores(accepted, wanted)}


def _place(shape: shapely.Geometry) -> tuple[float, float]:
    point = shapely.point_on_surface(shape)
    return float(point.x), float(point.y)


def mask_iou(chips: Iterable[Mapping[str, Any]], truth: Truth, shape: tuple[int, int]) -> float:
    """IoU of PV over the pixels of all chips' masks against truth; ignored pixels are left out; NaN without any PV.

    Args:
        chips: rows of ``training_data`` with ``generated_mask``, ``footprint``, ``vhr_epsg``, ``vhr_transform`` and
            ``vhr_acquired_at``.
        truth: true polygons.
        shape: rows and columns of a mask.
    """
    both = either = 0
    for chip in chips:
        grid = ChipGrid(epsg=chip["vhr_epsg"], transform=tuple(chip["vhr_transform"]), height=shape[0], width=shape[1])
        objects = truth.on(grid, shapely.from_wkb(chip["footprint"]), chip["vhr_acquired_at"].date())
        wanted = rasterised(objects, grid)
        mask = np.frombuffer(chip["generated_mask"], np.uint8).reshape(shape)
        known = mask != IGNORE
        both += int(((mask == 1) & wanted).sum())
        either += int((((mask == 1) | wanted) & known).sum())
    return both / either if either else float("nan")


def row_counts(rows: pa.Table) -> dict[str, int]:
    """Rows of ``training_data`` by name: all, per split, and those to train on per role and per source of the mask."""
    found = Counter({"rows": len(rows)})
    names = ("split", "chip_role", "mask_source")
    for split, role, source in zip(*(rows[name].to_pylist() for name in names), strict=True):
        found[f"rows_{split}"] += 1
        if split == "train":
            found[f"train_{role}"] += 1
        if split == "test" and source != "machine":
            found["rows_test_gold"] += 1
    return dict(found)
