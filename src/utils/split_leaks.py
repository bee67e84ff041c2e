"""Chips of different splits that overlap or stand too near each other, whatever their lattice and UTM zone."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from utils.errors import SplitError, SplitLeakError
from utils.geo import LONLAT, reproject_points
from utils.split_guard import GUARD
from utils.split_rule import SPLITS, Names

_TOLERANCE_M = 1e-6


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

    :func:`~utils.split_guard.guarded_splits` keeps chips of one lattice apart; this does it for chips of several,
    among those given. Arguments as for :func:`check_leaks`.
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
