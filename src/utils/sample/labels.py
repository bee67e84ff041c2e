"""Weak labels as people really have them: jittered boxes, coarse outlines, points beside the roof, duplicates, errors.

Two states of the lake: the second adds labels, redraws some and deletes some of the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely

from utils.sample.context import to_utm
from utils.sample.digitiser import Digitiser, RegistryPoint, Row, WeakLabel
from utils.sample.features import Landscape, PvArray
from utils.sample.spec import stream

WRONG_SHARE = 0.05
"""Share of the first state's labels that lie on something else."""

RIM_M = 25.0
"""Nobody labels what lies nearer than this to the edge of the VHR imagery, metres."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelState:
    """All labels at one snapshot."""

    labels: tuple[WeakLabel, ...]
    """Rows of ``pv_labels``."""
    points: tuple[RegistryPoint, ...]
    """Rows of ``registry_points``."""

    @property
    def wrong_share(self) -> float:
        """Share of all labels that show no photovoltaics."""
        rows: list[Row] = [*self.labels, *self.points]
        return sum(not row.arrays for row in rows) / max(len(rows), 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class WeakLabels:
    """The two states of the lake."""

    first: LabelState
    """After the first transaction."""
    second: LabelState
    """After the second."""


def weak_labels(landscape: Landscape) -> WeakLabels:
    """Both states of the labels of a landscape."""
    digitiser = Digitiser(landscape)
    rng = stream(landscape.seed, "labels")
    early: list[Row] = []
    late: list[Row] = []
    sites: dict[str, list[int]] = {}
    for number, array in enumerate(landscape.arrays):
        sites.setdefault(array.site, []).append(number)
    for members in sites.values():
        array = landscape.arrays[members[0]]
        park = array.kind == "ground"
        hidden = rng.random() < (0.17 if array.epochs[0] else 0.45)
        revealed = rng.random() < (1.0 if park else 0.55)
        rows = [row for row in digitiser.site(members) if _clear_of_the_rim(row, landscape)]
        # the first site anybody knows of becomes known late, so that the states differ in every region
        if not hidden and (early or late):
            early += rows
        elif revealed or not late:
            late += rows
    wrong = round(WRONG_SHARE / (1 - WRONG_SHARE) * len(early))
    early += [row for row in digitiser.wrong(wrong) if _clear_of_the_rim(row, landscape)]
    first = _state(early)
    second = _state([*_revised(early, digitiser, rng), *late])
    return WeakLabels(first=first, second=second)


def _clear_of_the_rim(row: Row, landscape: Landscape) -> bool:
    """Whether a row lies far enough inside the VHR area for its chip to be mostly or partly on imagery."""
    shape = shapely.Point(row.lonlat) if isinstance(row, RegistryPoint) else row.geometry
    inner = shapely.box(*landscape.size.vhr_bounds).buffer(-RIM_M, join_style="mitre")
    return bool(inner.contains(to_utm(shape)))


def _state(rows: Sequence[Row]) -> LabelState:
    return LabelState(
        labels=tuple(sorted((r for r in rows if isinstance(r, WeakLabel)), key=lambda r: r.unified_id)),
        points=tuple(sorted((r for r in rows if isinstance(r, RegistryPoint)), key=lambda r: r.registry_id)),
    )


def _revised(rows: list[Row], digitiser: Digitiser, rng: np.random.Generator) -> list[Row]:
    """The first state's rows as the second holds them."""
    kept: list[Row] = []
    for row in rows:
        chance = rng.random()
        if chance < (0.45 if not row.arrays else 0.015):
            continue
        if isinstance(row, RegistryPoint):
            kept.append(replace(row, capacity_kw=round(row.capacity_kw * 1.25, 2)) if chance > 0.96 else row)
        elif row.arrays and row.label_type == "box" and chance > 0.92:
            kept.append(replace(row, geometry=digitiser.box(row.arrays[0], jitter=0.02)))
        else:
            kept.append(row)
    return kept


def labelled_chips(state: LabelState, *, chip_m: float = 76.8) -> set[tuple[int, int]]:
    """Lattice positions ``(ix, iy)`` of the square chips that any label touches."""
    chips: set[tuple[int, int]] = set()
    shapes = [to_utm(label.geometry) for label in state.labels]
    shapes += [to_utm(shapely.Point(point.lonlat)) for point in state.points]
    for shape in shapes:
        west, south, east, north = (int(np.floor(value / chip_m)) for value in shape.bounds)
        for ix in range(west, east + 1):
            for iy in range(south, north + 1):
                cell = shapely.box(ix * chip_m, iy * chip_m, (ix + 1) * chip_m, (iy + 1) * chip_m)
                if cell.intersects(shape):
                    chips.add((ix, iy))
    return chips


def unlabelled_arrays(landscape: Landscape, state: LabelState) -> list[PvArray]:
    """Arrays no row of ``pv_labels`` and no registered plant shows."""
    rows: list[Row] = [*state.labels, *state.points]
    seen = {number for row in rows for number in row.arrays}
    return [array for number, array in enumerate(landscape.arrays) if number not in seen]
