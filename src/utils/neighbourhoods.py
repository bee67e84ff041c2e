"""Which labels may overlap: pairs whose bounds meet, found within H3 neighbourhoods.

A label has a centre and a reach: a radius no smaller than the distance from its centre to any of its points, plus the
search distance. It belongs to the finest H3 resolution whose shortest cell edge is twice its reach or more. Two cells
that do not touch are at least an edge apart, so of two labels that meet, the finer one's centre lies in the coarser
one's cell or in a neighbour of it: looking there, at each resolution in turn, never misses a pair.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from utils.cells import h3_cells
from utils.ragged import ranges

FINEST = 11
"""Finest H3 resolution of neighbourhoods, cells about 50 m across; labels too large for resolution 0 meet all."""

SHORTEST_EDGE = 0.5
"""Shortest cell edge over the mean edge of its resolution, rounded down."""

MEAN_EDGE_RAD = 1_281_256.011 / 6_371_007.18
"""Mean edge of H3 cells of resolution 0 (H3 core library tables), radians; each resolution divides it by √7."""

_LEAST_RADIUS_M = 6_335_000.0
_LEAST_METRES_PER_DEGREE = 110_500.0
_CANDIDATES_PER_BLOCK = 1 << 21

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


def candidate_pairs(bounds_lonlat: Floats, distance_m: float = 0.0) -> Iterator[tuple[Rows, Rows]]:
    """Blocks of row pairs, the smaller row first, whose bounds meet or come within a distance; each pair once.

    Args:
        bounds_lonlat: west, south, east, north in degrees, shape (n, 4); east may exceed 180 for what lies across the
            antimeridian, and longitudes a full turn apart are the same place.
        distance_m: how far apart bounds may be, metres.
    """
    west, south, east, north = bounds_lonlat.T
    lon, lat = ((west + east) / 2 + 180) % 360 - 180, (south + north) / 2
    # along the centre's parallel, then along a meridian: no point of the bounds is farther
    reach = np.radians(east - west) / 2 * np.cos(np.radians(lat)) + np.radians(north - south) / 2
    reach += distance_m / _LEAST_RADIUS_M + 1e-12
    edges = SHORTEST_EDGE * MEAN_EDGE_RAD * np.sqrt(7.0) ** -np.arange(FINEST + 1)
    resolution = (2 * reach[:, None] <= edges).sum(axis=1) - 1
    grown = _grown(bounds_lonlat, distance_m)
    for at in np.unique(resolution).tolist():
        rows, finer = np.flatnonzero(resolution == at), np.flatnonzero(resolution >= at)
        for probes, targets in _around(rows, finer, lon, lat, at):
            # labels of one resolution find each other twice
            once = (resolution[targets] > at) | (probes < targets)
            probes_once, targets_once = probes[once], targets[once]
            meets = _meet(bounds_lonlat[probes_once], grown[targets_once])
            first, second = probes_once[meets], targets_once[meets]
            yield np.minimum(first, second), np.maximum(first, second)


def _around(rows: Rows, finer: Rows, lon: Floats, lat: Floats, resolution: int) -> Iterator[tuple[Rows, Rows]]:
    """Blocks of pairs: each of ``rows`` with all of ``finer`` whose centre lies in its cell or in a neighbour."""
    if resolution < 0:
        starts, counts, probes = np.zeros(len(rows), np.int64), np.full(len(rows), len(finer)), rows
    else:
        from h3ronpy import grid_disk  # noqa: PLC0415 - start-up

        cells = h3_cells(lon[finer], lat[finer], resolution)
        sort = np.argsort(cells, kind="stable")
        finer, cells = finer[sort], cells[sort]
        own, which = np.unique(h3_cells(lon[rows], lat[rows], resolution), return_inverse=True)
        disks = pa.array(grid_disk(pa.array(own), 1, flatten=False))
        sizes = np.diff(disks.offsets.to_numpy())
        near = disks.flatten().to_numpy()
        begin, end = np.searchsorted(cells, near, "left"), np.searchsorted(cells, near, "right")
        disk_starts = np.cumsum(sizes) - sizes
        slot = ranges(disk_starts[which], sizes[which])
        probes = np.repeat(rows, sizes[which])
        starts, counts = begin[slot], (end - begin)[slot]
    some = counts > 0
    probes, starts, counts = probes[some], starts[some], counts[some]
    ends = np.cumsum(counts)
    block = 0
    while block < len(probes):
        passed = ends[block] - counts[block]
        stop = max(block + 1, int(np.searchsorted(ends, passed + _CANDIDATES_PER_BLOCK, "right")))
        yield (
            np.repeat(probes[block:stop], counts[block:stop]),
            finer[ranges(starts[block:stop], counts[block:stop])],
        )
        block = stop


def _grown(bounds: Floats, distance_m: float) -> Floats:
    up = distance_m / _LEAST_METRES_PER_DEGREE
    narrow = np.cos(np.radians(np.minimum(np.abs(bounds[:, [1, 3]]).max(axis=1, initial=0) + 2 * up, 90)))
    across = np.minimum(up / np.maximum(narrow, 1e-12), 360.0)
    rise = np.full(len(bounds), up)
    grown: Floats = bounds + np.column_stack([-across, -rise, across, rise])
    return grown


def _meet(a: Floats, b: Floats) -> NDArray[np.bool_]:
    apart = (a[:, 0] + a[:, 2]) / 2 - (b[:, 0] + b[:, 2]) / 2
    meets = np.zeros(len(a), np.bool_)
    # the nearest turn, and its neighbours for boxes more than half the globe wide
    for more in (-360.0, 0.0, 360.0):
        turn = 360 * np.rint(apart / 360) + more
        meets |= (a[:, 0] <= b[:, 2] + turn) & (b[:, 0] + turn <= a[:, 2])
    return meets & (a[:, 1] <= b[:, 3]) & (b[:, 1] <= a[:, 3])
