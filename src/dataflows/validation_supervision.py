"""Which detections a verdict model may learn from, and what they are: by labels, or by truth a user gives."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from dataflows.validation_config import ValidationRules
from store.vectors import read_features
from utils.cells import s2_parents
from utils.errors import ConfigError
from utils.geo import reproject, utm_epsgs
from utils.split_rule import SplitRule, split_of_cells

Bools = NDArray[np.bool_]
HALF = 0.5
"""Share of a detection that truth must cover for it to be true."""


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
        ConfigError: the file cannot be read.
    """
    features = read_features(path)
    shapes = np.array([geometry for _, geometry in features], object)
    built = [str(properties.get("built") or "") for properties, _ in features]
    outlines = shapely.from_wkb(detections["outline"].to_numpy(zero_copy_only=False))
    days = [at.date().isoformat() for at in detections["acquired_at"].to_pylist()]
    tree, covered = shapely.STRtree(shapes), np.zeros(len(outlines))
    if not len(shapes):
        raise ConfigError(f"the truth {path} holds no polygon")
    for row, outline in enumerate(outlines):
        near = [shapes[i] for i in tree.query(outline, predicate="intersects") if built[i] <= days[row]]
        if near:
            # degrees: a ratio of areas side by side does not depend on the unit
            covered[row] = shapely.intersection(outline, shapely.union_all(near)).area / outline.area
    return covered


def _is_test(detections: pa.Table, rule: SplitRule | None) -> Bools:
    if rule is None:
        return np.zeros(len(detections), bool)
    cells = s2_parents(detections["s2_cell"].to_numpy(), rule.level)
    return np.asarray(split_of_cells(cells, rule) == "test")
