"""Which detections a verdict model may learn from, and what they are: by labels, or by truth a user gives."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from dataflows.truth import Truth
from dataflows.validation_config import ValidationRules
from utils.cells import s2_parents
from utils.detection_truth import HALF
from utils.errors import ConfigError
from utils.geo import reproject, utm_epsgs
from utils.split_rule import SplitRule, split_of_cells

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Supervision:
    """What is known about detections."""

    known: Bools
    """Detections that may be learnt from, shape (n,)."""
    is_pv: Bools
    """What they are, shape (n,)."""
    source: str
    """Where that is known from."""


def supervision(
    detections: pa.Table, distance_m: NDArray[np.float64], split_rule: SplitRule | None, rules: ValidationRules
) -> Supervision:
    """Detections on other than test cells whose nature is known.

    By labels: a detection that a label confirms is photovoltaics; one without a label within ``negative_m``, on ground
    where labels are (one within ``labelled_m``), is not. Labels miss some, so that some of these are: the model's
    probabilities come out a little low for it. By truth: what is covered by it to a half is, what does not touch it is
    not.

    Args:
        detections: schema ``DETECTIONS``.
        distance_m: distance to the nearest label, shape (n,); infinite without labels.
        split_rule: the store's; None where it has none, and no ground is set aside.
        rules: settings.

    Raises:
        ConfigError: the truth cannot be read.
    """
    if rules.truth:
        share = truth_share(detections, rules.truth)
        known, is_pv, source = (share >= HALF) | (share == 0), share >= HALF, f"truth {rules.truth}"
    else:
        is_pv = np.array([match == "confirmed" for match in detections["match"].to_pylist()], bool)
        background = ~is_pv & (distance_m > rules.negative_m) & (distance_m <= rules.labelled_m)
        known, source = is_pv | background, "labels"
    return Supervision(known=known & ~_is_test(detections, split_rule), is_pv=is_pv, source=source)


def label_distances(detections: pa.Table, labels: pa.Table) -> NDArray[np.float64]:
    """Distance of each outline to the nearest label, metres, shape (n,); 0 where they touch, infinite without labels.

    Measured in the UTM zone of the detection.

    Args:
        detections: with ``outline``, ``lon`` and ``lat``.
        labels: with ``geometry``, WKB in EPSG:4326.
    """
    found = np.full(len(detections), np.inf)
    if not len(labels):
        return found
    outlines = shapely.from_wkb(detections["outline"].to_numpy(zero_copy_only=False))
    known = shapely.from_wkb(labels["geometry"].to_numpy(zero_copy_only=False))
    zones = utm_epsgs(detections["lon"].to_numpy(), detections["lat"].to_numpy())
    for epsg in np.unique(zones).tolist():
        here = np.flatnonzero(zones == epsg)
        tree = shapely.STRtree(reproject(known, 4326, epsg))
        (rows, _), distances = tree.query_nearest(
            reproject(outlines[here], 4326, epsg), all_matches=False, return_distance=True
        )
        found[here[rows]] = distances
    return found


def truth_share(detections: pa.Table, path: str) -> NDArray[np.float64]:
    """Share of each outline that true polygons cover which stood on its image's day, 0 to 1, shape (n,).

    Raises:
        ConfigError: the file cannot be read, holds no polygon, or a day in it is no ISO day.
    """
    truth = Truth.read(path)
    if not len(truth):
        raise ConfigError(f"the truth {path} holds no polygon")
    outlines = shapely.from_wkb(detections["outline"].to_numpy(zero_copy_only=False))
    covered, of_day = np.zeros(len(outlines)), defaultdict[date, list[int]](list)
    for row, at in enumerate(detections["acquired_at"].to_pylist()):
        of_day[at.date()].append(row)
    for day, rows in of_day.items():
        shapes = np.array(truth.standing(day), object)
        tree = shapely.STRtree(shapes)
        for row in rows:
            near = shapes[tree.query(outlines[row], predicate="intersects")]
            # degrees: a ratio of areas side by side does not depend on the unit
            covered[row] = shapely.intersection(outlines[row], shapely.union_all(near)).area / outlines[row].area
    return covered


def _is_test(detections: pa.Table, rule: SplitRule | None) -> Bools:
    if rule is None:
        return np.zeros(len(detections), bool)
    cells = s2_parents(detections["s2_cell"].to_numpy(), rule.level)
    return np.asarray(split_of_cells(cells, rule) == "test")
