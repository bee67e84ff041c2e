"""Outlines and centres of lattice positions in longitude and latitude."""

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from dataflows._chips import Position, lattice_of
from utils.footprints import outline_lonlat
from utils.geo import reproject, reproject_points
from utils.types import ChipProfile


def footprints_lonlat(positions: Sequence[Position], profile: ChipProfile) -> NDArray[np.object_]:
    """Outlines of lattice positions in longitude and latitude (EPSG:4326), shape (n,)."""
    shapes = np.empty(len(positions), object)
    epsgs, ix, iy = np.array(positions, np.int64).reshape(-1, 3).T
    for epsg in np.unique(epsgs).tolist():
        here = epsgs == epsg
        shapes[here] = _outlines_lonlat(lattice_of(epsg, profile).footprints(ix[here], iy[here]), epsg)
    return shapes


def centres_lonlat(
    epsgs: NDArray[np.int64], ix: NDArray[np.int64], iy: NDArray[np.int64], profile: ChipProfile
) -> NDArray[np.float64]:
    """Centres of lattice positions, shape (n, 2), columns lon, lat, EPSG:4326."""
    centres = np.empty((len(epsgs), 2))
    for epsg in np.unique(epsgs).tolist():
        here = epsgs == epsg
        centres[here] = reproject_points(lattice_of(epsg, profile).centres(ix[here], iy[here]), epsg, 4326)
    return centres


def within_area(
    positions: list[Position], area_of_interest: shapely.Geometry | None, profile: ChipProfile
) -> list[Position]:
    """Positions whose chip touches the area of interest (EPSG:4326); all of them without one."""
    if area_of_interest is None:
        return positions
    shapely.prepare(area_of_interest)
    inside = shapely.intersects(area_of_interest, footprints_lonlat(positions, profile))
    return [position for position, keep in zip(positions, inside.tolist(), strict=True) if keep]


def surroundings_lonlat(positions: Sequence[Position], profile: ChipProfile) -> NDArray[np.object_]:
    """Outlines of the multispectral chips of lattice positions in longitude and latitude (EPSG:4326), shape (n,)."""
    half = np.array([profile.msi_width, profile.msi_height]) * profile.msi_gsd_m / 2
    shapes = np.empty(len(positions), object)
    epsgs, ix, iy = np.array(positions, np.int64).reshape(-1, 3).T
    for epsg in np.unique(epsgs).tolist():
        here = epsgs == epsg
        low, high = (lattice_of(epsg, profile).centres(ix[here], iy[here]) + sign * half for sign in (-1, 1))
        shapes[here] = _outlines_lonlat(shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1]), epsg)
    return shapes


def _outlines_lonlat(outlines: NDArray[np.object_], epsg: int) -> NDArray[np.object_]:
    """Outlines in longitude and latitude; those across the antimeridian in two parts."""
    shapes: NDArray[np.object_] = reproject(outlines, epsg, 4326)
    west, _, east, _ = shapely.bounds(shapes).T
    for row in np.flatnonzero(east - west > 180):
        shapes[row] = outline_lonlat(outlines[row], epsg)
    return shapes
