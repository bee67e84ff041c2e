"""Detections against truth: what each shows, which true arrays were found, and precision and recall per confuser."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Shapes = NDArray[np.object_]

PV, OTHER = "pv", "other"
"""Kinds that are no confuser: a true detection, and a false one on nothing that is known."""
HALF = 0.5
"""Least share, or IoU, that counts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Charged:
    """What detections show and what they find."""

    kinds: list[str]
    """Per detection :data:`PV`, the kind of confuser, or :data:`OTHER`."""
    covers: list[list[tuple[int, float]]]
    """Per detection ``(position of a true array, area shared in m²)``."""


def charged(detections: Shapes, arrays: Shapes, confusers: Shapes, kinds: Sequence[str]) -> Charged:
    """What each detection shows.

    It is true when true arrays cover at least half of its area, or when its IoU with one of them is at least one half.
    Otherwise it is charged to the confuser that covers most of it, or to ``other`` where none touches it.

    Args:
        detections: outlines in a CRS with metre units, shape (n,).
        arrays: true arrays that stand, likewise.
        confusers: outlines of confusers, likewise.
        kinds: kind of each confuser.
    """
    rows, columns = _pairs(detections, arrays)
    shared = shapely.area(shapely.intersection(detections[rows], arrays[columns]))
    overlap = shared / np.maximum(shapely.area(shapely.union(detections[rows], arrays[columns])), 1e-9)
    best = np.zeros(len(detections))
    np.maximum.at(best, rows, overlap)
    is_true = (_covered(detections, arrays, rows, columns) >= HALF * shapely.area(detections)) | (best >= HALF)
    found = [PV if true else OTHER for true in is_true.tolist()]
    most = np.zeros(len(detections))
    rows_2, columns_2 = _pairs(detections, confusers)
    sizes = shapely.area(shapely.intersection(detections[rows_2], confusers[columns_2]))
    for row, column, size in zip(rows_2.tolist(), columns_2.tolist(), sizes.tolist(), strict=True):
        if not is_true[row] and size > most[row]:
            most[row], found[row] = size, kinds[column]
    covers: list[list[tuple[int, float]]] = [[] for _ in detections]
    for row, column, size in zip(rows.tolist(), columns.tolist(), shared.tolist(), strict=True):
        covers[row].append((column, size))
    return Charged(kinds=found, covers=covers)


@dataclass(frozen=True, kw_only=True)
class Score:
    """Precision and recall of a set of detections."""

    detections: int
    """Detections in the set."""
    true: int
    """Those that are true."""
    precision: float | None
    """Share of them that are true; None without any."""
    recall: float | None
    """Share of true arrays that true detections of the set cover to a half; None without truth."""
    area_recall: float | None
    """Share of the area of true arrays that they cover; None without truth."""
    per_confuser: dict[str, float | None]
    """Kind → true detections over true ones and those charged to that kind."""


def scored(found: Charged, chosen: Bools, areas_m2: NDArray[np.float64]) -> Score:
    """Precision and recall of the chosen detections.

    Args:
        found: what all detections show.
        chosen: which of them are in the set, shape (n,).
        areas_m2: area of each true array.
    """
    kinds = np.array(found.kinds, object)
    covered = np.zeros(len(areas_m2))
    for row in np.flatnonzero(chosen & (kinds == PV)):
        for column, size in found.covers[row]:
            covered[column] += size
    covered = np.minimum(covered, areas_m2)
    true, every = int((chosen & (kinds == PV)).sum()), int(chosen.sum())
    false = {kind: int((chosen & (kinds == kind)).sum()) for kind in sorted(set(found.kinds) - {PV})}
    return Score(
        detections=every,
        true=true,
        precision=true / every if every else None,
        recall=float((covered >= HALF * areas_m2).mean()) if len(areas_m2) else None,
        area_recall=float(covered.sum() / areas_m2.sum()) if len(areas_m2) else None,
        per_confuser={kind: true / (true + count) if true + count else None for kind, count in false.items()},
    )


def _covered(
    detections: Shapes, arrays: Shapes, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Area of each detection on true arrays, shape (n,); ground that several of them overlap counts once."""
    covered = np.zeros(len(detections))
    order = np.argsort(rows, kind="stable")
    touched, starts = np.unique(rows[order], return_index=True)
    for row, own in zip(touched.tolist(), np.split(columns[order], starts[1:]), strict=False):
        covered[row] = shapely.intersection(detections[row], shapely.union_all(arrays[own])).area
    return covered


def _pairs(first: Shapes, second: Shapes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if not len(first) or not len(second):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    rows, columns = shapely.STRtree(second).query(first, predicate="intersects")
    return rows, columns
