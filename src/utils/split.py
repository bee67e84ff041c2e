"""Which chips train, validate and test: a function of an S2 cell, a guard ring in metres, and a check for leaks.

The hash is the finaliser of splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators", OOPSLA; constants of Vigna's public-domain ``splitmix64.c``).
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from utils.errors import SplitError, SplitLeakError
from utils.geo import LONLAT, ChipLattice, reproject_points, s2_cells, s2_parents

SPLITS = ("train", "val", "test")
"""Splits in the order of :attr:`SplitRule.fractions`."""

GUARD = "guard"
"""Split of chips that stand too near another split to be used."""

Names = NDArray[np.str_]
_TOLERANCE_M = 1e-6
_POSITIONS_PER_BLOCK = 1 << 20
_DRAWS = 1 << 28


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """How cells become splits."""

    level: int
    """S2 level of the split cells."""
    salt: int
    """Chooses among the possible splits; from :func:`choose_salt`. 0 to 2⁶³ - 1."""
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Wanted share of cells for train, val and test; they sum to 1."""
    guard_m: float = 0.0
    """Footprints of different splits keep at least this distance, metres."""

    def __post_init__(self) -> None:
        """Refuse a rule that cannot be followed."""
        _bounds(self.fractions)
        if not 0 <= self.level <= 30:
            raise SplitError(f"split level {self.level} is no S2 level; give 0 to 30")
        if not 0 <= self.salt < 1 << 63:
            raise SplitError(f"salt {self.salt} is outside 0 to 2^63 - 1")
        if not (math.isfinite(self.guard_m) and self.guard_m >= 0):
            raise SplitError(f"guard distance {self.guard_m} m must be 0 or more")

    @property
    def rule_id(self) -> str:
        """Hash of the rule: equal rules have equal ids on every machine."""
        values = [self.level, self.salt, [float(share) for share in self.fractions], float(self.guard_m)]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]

    @property
    def shares(self) -> dict[str, float]:
        """Split name → wanted share of cells."""
        return dict(zip(SPLITS, self.fractions, strict=True))


def split_of_cells(cells: ArrayLike, rule: SplitRule) -> Names:
    """Split of each S2 cell, by its ancestor at the rule's level; shape (n,), values ``train``, ``val``, ``test``.

    Raises:
        GeometryError: an id is no S2 cell, or is coarser than the rule's level.
    """
    return np.array(SPLITS)[_ranks(cells, rule)]


def choose_salt(
    cells: ArrayLike,
    weights: ArrayLike,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    *,
    tries: int = 4096,
) -> int:
    """The first of :func:`balanced_salts`."""
    return balanced_salts(cells, weights, fractions, tries=tries, count=1)[0]


def balanced_salts(
    cells: ArrayLike,
    weights: ArrayLike,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    *,
    tries: int = 4096,
    count: int = 1,
) -> list[int]:
    """Up to ``count`` of the first ``tries`` salts, those whose splits' shares of the weight are nearest ``fractions``.

    Fewer salts are looked at beyond 65,536 cells. Every split with a share above 0 gets at least one cell and some
    weight. Nearest is the smallest largest deviation; ties go to the lower salt, so that the same input always gives
    the same salts.

    Args:
        cells: split cells (S2, at the split level), repeats allowed, shape (n,).
        weights: what to balance, for example labelled chips per cell, ≥ 0, shape (n,).
        fractions: wanted shares of train, val and test.
        tries: salts to look at.
        count: how many to return at most.

    Raises:
        SplitError: the weights are unusable, there are fewer weighted cells than splits, or no salt fills every split.
    """
    ids, total = _weight_per_cell(cells, weights)
    bounds, wanted = _bounds(fractions), np.array(fractions)
    needed = int((wanted > 0).sum())
    if len(ids) < needed:
        raise SplitError(
            f"{len(ids)} split cells with labels cannot make {needed} splits without an empty one; "
            "use a finer split level, a larger area, or set a fraction to 0"
        )
    # with so many cells every salt is balanced, and a few are as good as all
    tries = min(tries, max(count, _DRAWS // len(ids)))
    deviation = np.empty(tries)
    block = max(1, (1 << 22) // len(ids))
    for start in range(0, tries, block):
        salts = np.arange(start, min(start + block, tries), dtype=np.uint64)
        draws = _draws(ids, salts)
        below = np.stack([(total * (draws < edge)).sum(axis=1) for edge in bounds], axis=1)
        shares = np.diff(below / total.sum(), axis=1, prepend=0, append=1)
        worst = np.abs(shares - wanted).max(axis=1)
        worst[(shares[:, wanted > 0] <= 1e-12).any(axis=1)] = math.inf
        deviation[start : start + len(salts)] = worst
    order = np.argsort(deviation, kind="stable")[:count]
    if not math.isfinite(deviation[order[0]]):
        raise SplitError(
            f"none of {tries} salts puts a labelled cell into every split of {fractions} with {len(ids)} cells; "
            "use a finer split level or more even fractions"
        )
    return [int(salt) for salt in order if math.isfinite(deviation[salt])]


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
    ranks = _ranks(ground.cells, rule)
    own = ranks[ground.own]
    highest = np.maximum.reduceat(ranks[ground.around], np.searchsorted(ground.chips, np.arange(len(own))))
    return np.where(highest > own, GUARD, np.array(SPLITS)[own]).astype("<U5")


def guarded_splits(ix: ArrayLike, iy: ArrayLike, lattice: ChipLattice, rule: SplitRule) -> Names:
    """:func:`splits_under` one rule of lattice chips at ``(ix, iy)``, each of shape (n,)."""
    return splits_under(rule, surroundings(ix, iy, lattice, level=rule.level, guard_m=rule.guard_m))


def _distinct_rows(pairs: NDArray[np.uint64]) -> NDArray[np.uint64]:
    ordered = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    new = np.ones(len(ordered), np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return ordered[new]


def check_leaks(
    centres_xy: ArrayLike, epsg: ArrayLike, splits: Sequence[str] | Names, *, size_m: float, guard_m: float = 0.0
) -> None:
    """Refuse chips of different splits that overlap or stand closer than the guard distance; ``guard`` chips are free.

    Footprints are squares along the axes of their CRS. Chips of different CRSs are compared in the CRS of the lower
    EPSG code, and only where they are within a degree of each other, so zone edges are covered and distortion is not.

    Args:
        centres_xy: chip centres, shape (n, 2), columns x, y in the chip's CRS, metres.
        epsg: EPSG code per chip, or one for all.
        splits: split per chip.
        size_m: edge length of what a model sees of a chip, metres.
        guard_m: distance to keep, metres; with 0 chips may touch but not overlap.

    Raises:
        SplitLeakError: the number of leaking pairs, and the first five.
        SplitError: a split has another name.
    """
    centres = np.asarray(centres_xy, np.float64).reshape(-1, 2)
    names = np.asarray(splits, np.str_)
    codes = np.broadcast_to(np.asarray(epsg, np.int64), len(centres))
    unknown = sorted(set(names.tolist()) - {*SPLITS, GUARD})
    if unknown or len(names) != len(centres):
        raise SplitError(f"{len(centres)} chips have {len(names)} splits; unknown: {unknown}; known: {SPLITS}, {GUARD}")
    leaks = close_pairs(centres, codes, names, size_m=size_m, guard_m=guard_m)
    if leaks:
        shown = ", ".join(f"{a} ({names[a]}) and {b} ({names[b]})" for a, b in sorted(leaks)[:5])
        raise SplitLeakError(
            f"{len(leaks)} pairs of chips of different splits overlap or stand closer than {guard_m} m: {shown}; "
            "rebuild their splits with utils.split.guarded_splits and one rule"
        )


def guarded_across_zones(
    centres_xy: ArrayLike, epsg: ArrayLike, splits: Sequence[str] | Names, *, size_m: float, guard_m: float
) -> Names:
    """Splits with ``guard`` also for chips too near another UTM zone's: train yields to val, both to test.

    :func:`guarded_splits` keeps chips of one lattice apart; this does it for chips of several, among those given.
    Arguments as for :func:`check_leaks`.
    """
    centres = np.asarray(centres_xy, np.float64).reshape(-1, 2)
    names = np.array(splits, "<U5")
    codes = np.broadcast_to(np.asarray(epsg, np.int64), len(centres))
    for first, second in close_pairs(centres, codes, names, size_m=size_m, guard_m=guard_m):
        if codes[first] != codes[second]:
            # pairs name the lower split first
            names[first] = GUARD
    return names


def close_pairs(
    centres: NDArray[np.float64], codes: NDArray[np.int64], names: Names, *, size_m: float, guard_m: float
) -> list[tuple[int, int]]:
    """Pairs of chips of different splits that overlap or stand closer than ``guard_m``, in the order of :data:`SPLITS`.

    Arguments as for :func:`check_leaks`.
    """
    leaks: list[tuple[int, int]] = []
    for one, other in combinations(SPLITS, 2):
        for near, far in _comparable(centres, codes, np.flatnonzero(names == one), np.flatnonzero(names == other)):
            epsgs = min(codes[near[0]], codes[far[0]])
            pairs = _too_close(
                _squares(centres[near], int(codes[near[0]]), size_m, int(epsgs)),
                _squares(centres[far], int(codes[far[0]]), size_m, int(epsgs)),
                guard_m,
                size_m * _TOLERANCE_M,
            )
            leaks += zip(near[pairs[0]].tolist(), far[pairs[1]].tolist(), strict=True)
    return leaks


def _bounds(fractions: Sequence[float]) -> NDArray[np.float64]:
    shares = np.asarray(fractions, np.float64)
    if shares.shape != (3,) or not (shares >= 0).all() or not math.isclose(float(shares.sum()), 1.0, abs_tol=1e-9):
        raise SplitError(f"fractions {fractions} must be three shares (train, val, test) that sum to 1")
    return np.cumsum(shares)[:2]


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of splitmix64 from each state: a hash of 64-bit numbers, any shape."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _draws(cells: NDArray[np.uint64], salts: NDArray[np.uint64]) -> NDArray[np.float64]:
    """A number in [0, 1) per (salt, cell): the upper 53 bits of the hash."""
    hashed = mixed(cells[None, :] ^ mixed(salts)[:, None])
    return (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _weight_per_cell(cells: ArrayLike, weights: ArrayLike) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    ids, heavy = np.atleast_1d(np.asarray(cells, np.uint64)), np.atleast_1d(np.asarray(weights, np.float64))
    if ids.shape != heavy.shape or not np.isfinite(heavy).all() or (heavy < 0).any():
        raise SplitError(f"{len(ids)} cells have {len(heavy)} weights; give one finite weight ≥ 0 per cell")
    ids, heavy = ids[heavy > 0], heavy[heavy > 0]
    unique, inverse = np.unique(ids, return_inverse=True)
    return unique, np.bincount(inverse, heavy, minlength=len(unique)).astype(np.float64)


def _offsets_within(lattice: ChipLattice, guard_m: float) -> NDArray[np.int64]:
    """Lattice offsets, shape (k, 2), of positions whose footprint gap to a chip is below ``guard_m``; itself first."""
    reach_x, reach_y = (math.ceil(guard_m / step) + 1 for step in (lattice.width_m, lattice.height_m))
    dx, dy = np.meshgrid(np.arange(-reach_x, reach_x + 1), np.arange(-reach_y, reach_y + 1))
    gap = np.hypot(np.maximum(np.abs(dx) - 1, 0) * lattice.width_m, np.maximum(np.abs(dy) - 1, 0) * lattice.height_m)
    near = (gap < guard_m) & ((dx != 0) | (dy != 0))
    return np.concatenate([np.zeros((1, 2), np.int64), np.column_stack([dx[near], dy[near]])])


def _ranks(cells: ArrayLike, rule: SplitRule) -> NDArray[np.int64]:
    """Place in :data:`SPLITS` of each cell's split, shape (n,)."""
    draws = _draws(s2_parents(cells, rule.level), np.array([rule.salt], np.uint64))[0]
    ranks: NDArray[np.int64] = np.searchsorted(_bounds(rule.fractions), draws, side="right")
    return ranks


def _cells_at(positions: NDArray[np.int64], lattice: ChipLattice, level: int) -> NDArray[np.uint64]:
    """S2 cell under the centre of each lattice position, shape (n,)."""
    low = positions.min(axis=0)
    width = int(positions[:, 0].max() - low[0]) + 1
    keys, inverse = np.unique((positions[:, 1] - low[1]) * width + positions[:, 0] - low[0], return_inverse=True)
    lonlat = reproject_points(lattice.centres(keys % width + low[0], keys // width + low[1]), lattice.epsg, LONLAT)
    cells: NDArray[np.uint64] = s2_cells(lonlat[:, 0], lonlat[:, 1], level)[inverse.ravel()]
    return cells


def _comparable(
    centres: NDArray[np.float64], codes: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Groups of chips of two splits, each of one CRS, that may be near each other."""
    for first in np.unique(codes[one]).tolist():
        for second in np.unique(codes[other]).tolist():
            near, far = one[codes[one] == first], other[codes[other] == second]
            if first != second:
                a, b = reproject_points(centres[near], first, LONLAT), reproject_points(centres[far], second, LONLAT)
                near, far = near[_within_a_degree(a, b)], far[_within_a_degree(b, a)]
            if len(near) and len(far):
                yield near, far


def _within_a_degree(lonlat: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Positions within a degree of the lon/lat box of ``others``; longitudes wrap."""
    anchor = others[0, 0]
    lons, own = ((each[:, 0] - anchor + 180) % 360 - 180 for each in (others, lonlat))
    inside: NDArray[np.bool_] = (own >= lons.min() - 1) & (own <= lons.max() + 1)
    inside &= (lonlat[:, 1] >= others[:, 1].min() - 1) & (lonlat[:, 1] <= others[:, 1].max() + 1)
    return inside


def _squares(centres: NDArray[np.float64], epsg: int, size_m: float, target: int) -> NDArray[np.object_]:
    half = size_m / 2
    x, y = centres[:, 0], centres[:, 1]
    squares: NDArray[np.object_] = shapely.box(x - half, y - half, x + half, y + half)
    if epsg == target:
        return squares
    return shapely.transform(squares, lambda xy: reproject_points(xy, epsg, target))  # type: ignore[no-any-return]


def _too_close(
    squares: NDArray[np.object_], others: NDArray[np.object_], guard_m: float, noise_m2: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index pairs whose gap is below the guard distance, or that overlap by more than rounding."""
    tree = shapely.STRtree(others)
    a, b = tree.query(squares, predicate="dwithin", distance=guard_m)
    gap = shapely.distance(squares[a], others[b])
    overlap = np.zeros(len(a), np.bool_)
    touching = gap == 0
    shared = shapely.area(shapely.intersection(squares[a[touching]], others[b[touching]]))
    overlap[touching] = shared > noise_m2
    close = overlap | (gap < guard_m - _TOLERANCE_M)
    return a[close], b[close]
