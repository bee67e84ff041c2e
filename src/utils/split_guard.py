"""Chips that stand too near another split: a ring in metres around the ground of each split, on one chip lattice."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.errors import SplitError
from utils.geo import LONLAT, ChipLattice, reproject_points, s2_cells
from utils.split_rule import SPLITS, Names, SplitRule, split_ranks

GUARD = "guard"
"""Split of chips that stand too near another split to be used."""

_POSITIONS_PER_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Surroundings:
    """Split cells on and around lattice chips, for any number of rules with one level and guard distance."""

    level: int
    """S2 level of the cells."""
    guard_m: float
    """Cells with a lattice position nearer than this to the chip count, metres."""
    own: NDArray[np.int64]
    """Place in :attr:`cells` of each chip's own cell, shape (n,)."""
    chips: NDArray[np.int64]
    """Chip of each (chip, cell) pair, ascending, shape (m,); every chip has at least its own cell."""
    around: NDArray[np.int64]
    """Place in :attr:`cells` of each pair's cell, shape (m,)."""
    cells: NDArray[np.uint64]
    """Distinct S2 cells."""


def surroundings(ix: ArrayLike, iy: ArrayLike, lattice: ChipLattice, *, level: int, guard_m: float) -> Surroundings:
    """The split cells within a guard distance of lattice chips.

    Args:
        ix: columns of the chips on the lattice, shape (n,).
        iy: rows of the chips, shape (n,).
        lattice: the lattice both count on.
        level: S2 level of the split cells.
        guard_m: distance between footprints, metres.
    """
    columns, rows = np.atleast_1d(np.asarray(ix, np.int64)), np.atleast_1d(np.asarray(iy, np.int64))
    offsets = _offsets_within(lattice, guard_m)
    order = np.lexsort((columns, rows))
    block = max(1, _POSITIONS_PER_BLOCK // len(offsets))
    own = np.empty(len(columns), np.uint64)
    pairs: list[NDArray[np.uint64]] = [np.empty((0, 2), np.uint64)]
    for start in range(0, len(order), block):
        part = order[start : start + block]
        positions = np.stack([columns[part], rows[part]], axis=1)[:, None, :] + offsets[None, :, :]
        cells = _cells_at(positions.reshape(-1, 2), lattice, level).reshape(len(part), len(offsets))
        own[part] = cells[:, 0]
        chip = np.repeat(part.astype(np.uint64), len(offsets))
        pairs.append(_distinct_rows(np.column_stack([chip, cells.ravel()])))
    found = np.concatenate(pairs)
    found = found[np.argsort(found[:, 0], kind="stable")]
    cells, around = np.unique(found[:, 1], return_inverse=True)
    return Surroundings(
        level=level,
        guard_m=guard_m,
        own=np.searchsorted(cells, own),
        chips=found[:, 0].astype(np.int64),
        around=around.astype(np.int64),
        cells=cells,
    )


def splits_under(rule: SplitRule, ground: Surroundings) -> Names:
    """Split of each chip of ``ground``; ``guard`` for those nearer than ``rule.guard_m`` to another split's ground.

    A train chip yields to every lattice position of val or test, a val chip to those of test, whether or not a chip
    was made there: a chip's split never depends on which other chips exist. Test keeps all its chips.

    Returns:
        Shape (n,): ``train``, ``val``, ``test`` or ``guard``.

    Raises:
        SplitError: the rule has another level or guard distance than ``ground`` was made for.
    """
    if (rule.level, rule.guard_m) != (ground.level, ground.guard_m):
        raise SplitError(f"surroundings are of level {ground.level} and {ground.guard_m} m, not of {rule}")
    if not len(ground.own):
        return np.empty(0, "<U5")
    ranks = split_ranks(ground.cells, rule)
    own = ranks[ground.own]
    highest = np.maximum.reduceat(ranks[ground.around], np.searchsorted(ground.chips, np.arange(len(own))))
    return np.where(highest > own, GUARD, np.array(SPLITS)[own]).astype("<U5")


def guarded_splits(ix: ArrayLike, iy: ArrayLike, lattice: ChipLattice, rule: SplitRule) -> Names:
    """:func:`splits_under` one rule of lattice chips at ``(ix, iy)``, each of shape (n,)."""
    return splits_under(rule, surroundings(ix, iy, lattice, level=rule.level, guard_m=rule.guard_m))


def _offsets_within(lattice: ChipLattice, guard_m: float) -> NDArray[np.int64]:
    """Lattice offsets, shape (k, 2), of positions whose footprint gap to a chip is below ``guard_m``; itself first."""
    reach_x, reach_y = (math.ceil(guard_m / step) + 1 for step in (lattice.width_m, lattice.height_m))
    dx, dy = np.meshgrid(np.arange(-reach_x, reach_x + 1), np.arange(-reach_y, reach_y + 1))
    gap = np.hypot(np.maximum(np.abs(dx) - 1, 0) * lattice.width_m, np.maximum(np.abs(dy) - 1, 0) * lattice.height_m)
    near = (gap < guard_m) & ((dx != 0) | (dy != 0))
    return np.concatenate([np.zeros((1, 2), np.int64), np.column_stack([dx[near], dy[near]])])


def _cells_at(positions: NDArray[np.int64], lattice: ChipLattice, level: int) -> NDArray[np.uint64]:
    """S2 cell under the centre of each lattice position, shape (n,)."""
    low = positions.min(axis=0)
    width = int(positions[:, 0].max() - low[0]) + 1
    keys, inverse = np.unique((positions[:, 1] - low[1]) * width + positions[:, 0] - low[0], return_inverse=True)
    lonlat = reproject_points(lattice.centres(keys % width + low[0], keys // width + low[1]), lattice.epsg, LONLAT)
    cells: NDArray[np.uint64] = s2_cells(lonlat[:, 0], lonlat[:, 1], level)[inverse.ravel()]
    return cells


def _distinct_rows(pairs: NDArray[np.uint64]) -> NDArray[np.uint64]:
    ordered = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    new = np.ones(len(ordered), np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return ordered[new]
