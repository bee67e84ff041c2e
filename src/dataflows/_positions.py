"""Lattice positions a background chip may take: in the partition, in the area, clear of every label."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from dataflows._chips import Position, lattice_of
from utils.footprints import outline_lonlat
from utils.geo import reproject, reproject_points, s2_cell_polygon, s2_cells, s2_parents
from utils.types import ChipProfile

NEAR_CHIPS = 1
"""Background is near within this many chips of a labelled one; 1 is its eight neighbours."""


def free_positions(
    partition: int, level: int, labelled: pa.Table, taken: dict[Position, list[dict[str, Any]]], profile: ChipProfile
) -> list[Position]:
    """Lattice positions whose centre lies in the partition and that no label touches."""
    epsg = int(pc.mode(labelled["epsg"])[0]["mode"].as_py())
    lattice = lattice_of(epsg, profile)
    outline = reproject(s2_cell_polygon(partition), 4326, epsg)
    ix, iy = lattice.touching(outline)
    lonlat = reproject_points(lattice.centres(ix, iy), epsg, 4326)
    inside = s2_parents(s2_cells(lonlat[:, 0], lonlat[:, 1], 30), level) == np.uint64(partition)
    found = [(epsg, int(x), int(y)) for x, y in zip(ix[inside], iy[inside], strict=True)]
    return [position for position in found if position not in taken]


def clear_of_other_zones(
    positions: list[Position], label_chips: dict[Position, list[dict[str, Any]]], profile: ChipProfile
) -> list[Position]:
    """Positions that touch neither labels nor labelled chips on the lattice of another UTM zone."""
    zones = {position[0] for position in positions}
    foreign = [position for position in label_chips if zones and position[0] not in zones]
    if not foreign:
        return positions
    shapes = [footprint_lonlat(position, profile) for position in foreign]
    shapes += [shapely.from_wkb(label["geometry"]) for position in foreign for label in label_chips[position]]
    tree = shapely.STRtree(shapes)
    mine = [footprint_lonlat(position, profile) for position in positions]
    touched = set(tree.query(mine, predicate="intersects")[0].tolist())
    return [position for k, position in enumerate(positions) if k not in touched]


def footprint_lonlat(position: Position, profile: ChipProfile) -> shapely.Geometry:
    """Outline of a lattice position in longitude and latitude."""
    epsg, ix, iy = position
    return outline_lonlat(lattice_of(epsg, profile).grid(ix, iy).footprint, epsg)


def in_area(position: Position, aoi_bbox_lonlat: list[float] | None, profile: ChipProfile) -> bool:
    """Whether a chip touches the area of interest."""
    if aoi_bbox_lonlat is None:
        return True
    return bool(footprint_lonlat(position, profile).intersects(shapely.box(*aoi_bbox_lonlat)))


def is_near(position: Position, labelled: dict[Position, list[dict[str, Any]]]) -> bool:
    """Whether a label touches one of the position's neighbours within :data:`NEAR_CHIPS`."""
    epsg, ix, iy = position
    reach = range(-NEAR_CHIPS, NEAR_CHIPS + 1)
    return any((epsg, ix + dx, iy + dy) in labelled for dx in reach for dy in reach)
