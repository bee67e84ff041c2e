"""Which chips without labels to make: candidates of many partitions at once, drawn in the order of a hash."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from dataflows._chips import Position, lattice_of
from dataflows._coverage import SceneCoverage
from dataflows._placement import LabelledGround
from dataflows._positions import footprints_lonlat
from utils.geo import reproject, reproject_points, s2_cell_polygon, s2_cells, s2_parents
from utils.ragged import ragged
from utils.split import mixed
from utils.types import ChipProfile

NEAR_CHIPS = 1
"""Background is near within this many chips of a labelled position; 1 is its eight neighbours."""

_CELLS_PER_BLOCK = 512

Rows = NDArray[np.int64]
Cells = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, eq=False)
class BackgroundRule:
    """Where background chips may lie and how many are wanted."""

    level: int
    """S2 level of the partitions."""
    ratios: Mapping[str, float]
    """Role (``background_near``, ``background_far``) → chips per labelled chip of a partition."""
    area_of_interest: shapely.Geometry | None
    """Ground chips are made on, EPSG:4326; None is everywhere."""


def background_positions(
    labelled: pa.Table,
    labels: pa.Table,
    ground: LabelledGround,
    coverage: SceneCoverage,
    rule: BackgroundRule,
    profile: ChipProfile,
) -> dict[str, list[dict[str, Any]]]:
    """Role → covered positions without labels, as :meth:`SceneCoverage.of` gives them.

    Every partition gets its share of each role, as far as it holds candidates that imagery covers. They are taken in
    the order of a hash of their place, so that the draw is the same in every run and no neighbour is preferred.
    """
    partitions = s2_parents(s2_cells(labelled["lon"].to_numpy(), labelled["lat"].to_numpy(), 30), rule.level)
    cells, zones, counts = _most_common_zone(partitions, labelled["epsg"].to_numpy())
    found: dict[str, list[dict[str, Any]]] = {role: [] for role in rule.ratios}
    for epsg in np.unique(zones).tolist():
        mine = np.flatnonzero(zones == epsg)
        blocked = _other_zones(epsg, labels, ground, profile)
        for start in range(0, len(mine), _CELLS_PER_BLOCK):
            block = mine[start : start + _CELLS_PER_BLOCK]
            wanted = {role: np.round(ratio * counts[block]).astype(np.int64) for role, ratio in rule.ratios.items()}
            if any(number.any() for number in wanted.values()):
                free = _free(epsg, cells[block], ground, blocked, rule, profile)
                for role, partition, ix, iy in free:
                    found[role] += _drawn(epsg, partition, ix, iy, wanted[role], coverage)
    return found


def _most_common_zone(partitions: Cells, epsgs: NDArray[np.int32]) -> tuple[Cells, Rows, Rows]:
    """Distinct partitions, the UTM zone of most of their chips, and their number of chips."""
    cells, which = np.unique(partitions, return_inverse=True)
    codes, zone = np.unique(epsgs, return_inverse=True)
    per_zone = np.zeros((len(cells), len(codes)), np.int64)
    np.add.at(per_zone, (which, zone), 1)
    if not len(cells):
        return cells, np.empty(0, np.int64), np.empty(0, np.int64)
    return cells, codes[per_zone.argmax(axis=1)].astype(np.int64), per_zone.sum(axis=1)


def _drawn(
    epsg: int, partition: Rows, ix: Rows, iy: Rows, wanted: Rows, coverage: SceneCoverage
) -> list[dict[str, Any]]:
    """The first covered candidates of each partition; ``partition`` is ascending and indexes ``wanted``."""
    served: list[dict[str, Any]] = []
    missing = wanted.copy()
    start = np.searchsorted(partition, np.arange(len(wanted) + 1))
    asked = start[:-1].copy()
    while True:
        take = np.minimum(missing, start[1:] - asked)
        if not take.any():
            return served
        which, nth = ragged(take)
        rows = asked[which] + nth
        asked += take
        positions: list[Position] = [(epsg, int(x), int(y)) for x, y in zip(ix[rows], iy[rows], strict=True)]
        covered, refused = coverage.of(positions)
        served += covered
        missing -= np.bincount(which[[position not in refused for position in positions]], minlength=len(wanted))


def _free(
    epsg: int,
    cells: Cells,
    ground: LabelledGround,
    blocked: shapely.STRtree | None,
    rule: BackgroundRule,
    profile: ChipProfile,
) -> Iterator[tuple[str, Rows, Rows, Rows]]:
    """Per role: candidates (number of their cell, ix, iy), by cell and then by hash."""
    lattice = lattice_of(epsg, profile)
    bounds = shapely.bounds(reproject(np.array([s2_cell_polygon(int(cell)) for cell in cells], object), 4326, epsg))
    (first_x, first_y), (last_x, last_y) = (lattice.index_of(bounds[:, i], bounds[:, i + 1]) for i in (0, 2))
    columns = last_x - first_x + 1
    counts = columns * (last_y - first_y + 1)
    cell, step = ragged(counts)
    ix, iy = first_x[cell] + step % columns[cell], first_y[cell] + step // columns[cell]
    lonlat = reproject_points(lattice.centres(ix, iy), epsg, 4326)
    inside = s2_parents(s2_cells(lonlat[:, 0], lonlat[:, 1], 30), rule.level) == cells[cell]
    inside &= ~ground.touches(epsg, ix, iy)
    cell, ix, iy = cell[inside], ix[inside], iy[inside]
    clear = _clear(epsg, ix, iy, blocked, rule.area_of_interest, profile)
    cell, ix, iy = cell[clear], ix[clear], iy[clear]
    order = np.lexsort((mixed(ix.astype(np.uint64) ^ mixed(iy.astype(np.uint64))), cell))
    cell, ix, iy = cell[order], ix[order], iy[order]
    reach = range(-NEAR_CHIPS, NEAR_CHIPS + 1)
    near = np.logical_or.reduce([ground.touches(epsg, ix + dx, iy + dy) for dx in reach for dy in reach])
    for role, chosen in (("background_near", near), ("background_far", ~near)):
        yield role, cell[chosen], ix[chosen], iy[chosen]


def _clear(
    epsg: int,
    ix: Rows,
    iy: Rows,
    blocked: shapely.STRtree | None,
    area_of_interest: shapely.Geometry | None,
    profile: ChipProfile,
) -> NDArray[np.bool_]:
    """Whether positions lie in the area of interest and off the labelled ground of other zones, shape (n,)."""
    clear = np.ones(len(ix), np.bool_)
    if blocked is None and area_of_interest is None:
        return clear
    outlines = footprints_lonlat([(epsg, int(x), int(y)) for x, y in zip(ix, iy, strict=True)], profile)
    if area_of_interest is not None:
        shapely.prepare(area_of_interest)
        clear &= shapely.intersects(area_of_interest, outlines)
    if blocked is not None:
        clear[blocked.query(outlines, predicate="intersects")[0]] = False
    return clear


def _other_zones(epsg: int, labels: pa.Table, ground: LabelledGround, profile: ChipProfile) -> shapely.STRtree | None:
    """Labels, and chips that labels touch, on the lattices of other zones; None where there are none."""
    positions, label = ground.elsewhere(epsg)
    if not positions:
        return None
    shapes = shapely.from_wkb(labels["geometry"].take(pa.array(label)).to_numpy())
    return shapely.STRtree(np.concatenate([footprints_lonlat(positions, profile), shapes]))
