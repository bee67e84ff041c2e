"""How S2 cells become splits: a hash of the cell, and the salt that balances what falls into each split.

The hash is the finaliser of splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators", OOPSLA; constants of Vigna's public-domain ``splitmix64.c``).
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.errors import SplitError
from utils.geo import s2_parents

SPLITS = ("train", "val", "test")
"""Splits in the order of :attr:`SplitRule.fractions`."""

Names = NDArray[np.str_]
_DRAWS = 1 << 24


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
    return np.array(SPLITS)[split_ranks(cells, rule)]


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

    Fewer salts are looked at beyond 4,096 cells. Every split with a share above 0 gets at least one cell and some
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
            "use a finer `split_level`, a larger area, or set a share of `split_fractions` to 0"
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
            "use a finer `split_level` or more even `split_fractions`"
        )
    return [int(salt) for salt in order if math.isfinite(deviation[salt])]


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of splitmix64 from each state: a hash of 64-bit numbers, any shape."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def split_ranks(cells: ArrayLike, rule: SplitRule) -> NDArray[np.int64]:
    """Place in :data:`SPLITS` of each cell's split, shape (n,); otherwise as :func:`split_of_cells`."""
    draws = _draws(s2_parents(cells, rule.level), np.array([rule.salt], np.uint64))[0]
    ranks: NDArray[np.int64] = np.searchsorted(_bounds(rule.fractions), draws, side="right")
    return ranks


def _draws(cells: NDArray[np.uint64], salts: NDArray[np.uint64]) -> NDArray[np.float64]:
    """A number in [0, 1) per (salt, cell): the upper 53 bits of the hash."""
    hashed = mixed(cells[None, :] ^ mixed(salts)[:, None])
    return (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _bounds(fractions: Sequence[float]) -> NDArray[np.float64]:
    shares = np.asarray(fractions, np.float64)
    if shares.shape != (3,) or not (shares >= 0).all() or not math.isclose(float(shares.sum()), 1.0, abs_tol=1e-9):
        raise SplitError(f"fractions {fractions} must be three shares (train, val, test) that sum to 1")
    return np.cumsum(shares)[:2]


def _weight_per_cell(cells: ArrayLike, weights: ArrayLike) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    ids, heavy = np.atleast_1d(np.asarray(cells, np.uint64)), np.atleast_1d(np.asarray(weights, np.float64))
    if ids.shape != heavy.shape or not np.isfinite(heavy).all() or (heavy < 0).any():
        raise SplitError(f"{len(ids)} cells have {len(heavy)} weights; give one finite weight ≥ 0 per cell")
    ids, heavy = ids[heavy > 0], heavy[heavy > 0]
    unique, inverse = np.unique(ids, return_inverse=True)
    return unique, np.bincount(inverse, heavy, minlength=len(unique)).astype(np.float64)
