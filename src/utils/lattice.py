"""The chip lattice: one fixed tiling per UTM zone, so chips never overlap and their ids never change."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID, uuid5

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely import Geometry

from utils.errors import GeometryError
from utils.types import ChipGrid

CHIP_NAMESPACE = UUID("6f3b5a0e-2d4c-5b8a-9c71-e1de0a7c41b2")
"""Namespace of chip ids (uuid5). Changing it renames every chip."""

Indices = NDArray[np.int64]
Bounds = tuple[float, float, float, float]
_BLOCK = 1 << 18


@dataclass(frozen=True, kw_only=True)
class ChipLattice:
    """Chip positions ``(ix, iy)`` of one zone, counted east and north from the origin of its CRS.

    Chip ``(ix, iy)`` holds the points with ``ix·w ≤ x < (ix + 1)·w`` and ``iy·h ≤ y < (iy + 1)·h``, with
    ``w = width · gsd_m`` and ``h = height · gsd_m``: every point is on exactly one chip.
    """

    epsg: int
    """EPSG code of the CRS, a UTM zone (metres)."""
    gsd_m: float
    """Ground sample distance, metres per pixel."""
    height: int
    """Rows of a chip, pixels."""
    width: int
    """Columns of a chip, pixels."""

    def __post_init__(self) -> None:
        """Refuse a lattice without area."""
        if not (math.isfinite(self.gsd_m) and self.gsd_m > 0 and self.height > 0 and self.width > 0):
            raise GeometryError(
                f"a chip of {self.height} × {self.width} pixels of {self.gsd_m} m has no area; give positive sizes"
            )

    @property
    def width_m(self) -> float:
        """East-west size of a chip, metres."""
        return self.width * self.gsd_m

    @property
    def height_m(self) -> float:
        """North-south size of a chip, metres."""
        return self.height * self.gsd_m

    def index_of(self, x: ArrayLike, y: ArrayLike) -> tuple[Indices, Indices]:
        """``(ix, iy)`` of the chips that hold points; arrays of the points' shape, at least 1-d.

        Raises:
            GeometryError: a coordinate is not finite.
        """
        return _floor_index(x, self.width_m), _floor_index(y, self.height_m)

    def grid(self, ix: int, iy: int) -> ChipGrid:
        """The north-up pixel grid of one chip."""
        left, top = int(ix) * self.width_m, (int(iy) + 1) * self.height_m
        transform = (self.gsd_m, 0.0, left, 0.0, -self.gsd_m, top)
        return ChipGrid(epsg=self.epsg, transform=transform, height=self.height, width=self.width)

    def centres(self, ix: ArrayLike, iy: ArrayLike) -> NDArray[np.float64]:
        """Centres of chips, shape (n, 2), columns x, y, CRS units."""
        columns = np.atleast_1d(np.asarray(ix, np.int64)), np.atleast_1d(np.asarray(iy, np.int64))
        return np.column_stack([(columns[0] + 0.5) * self.width_m, (columns[1] + 0.5) * self.height_m])

    def footprints(self, ix: ArrayLike, iy: ArrayLike) -> NDArray[np.object_]:
        """Outlines of chips as shapely polygons, shape (n,); neighbours share their edge to the last bit."""
        x, y = np.atleast_1d(np.asarray(ix, np.int64)), np.atleast_1d(np.asarray(iy, np.int64))
        boxes: NDArray[np.object_] = shapely.box(
            x * self.width_m, y * self.height_m, (x + 1) * self.width_m, (y + 1) * self.height_m
        )
        return boxes

    def touching(self, area: Geometry | Bounds) -> tuple[Indices, Indices]:
        """``(ix, iy)`` of every chip an area shares ground with, or that holds a point; sorted by iy, then ix.

        Args:
            area: points, polygons, or a collection of them, or ``(min x, min y, max x, max y)``; in the lattice's CRS.

        Raises:
            GeometryError: it is empty, not finite, invalid, or a line or polygon without area.
        """
        geometry = area if isinstance(area, Geometry) else shapely.box(*area)
        parts = shapely.get_parts(_flattened(geometry))
        if not len(parts) or not np.isfinite(shapely.get_coordinates(parts)).all():
            raise GeometryError(f"no usable geometry: {geometry.geom_type} that is empty or not finite")
        found = []
        points = shapely.get_type_id(parts) == shapely.GeometryType.POINT
        if points.any():
            xy = shapely.get_coordinates(parts[points])
            found.append(np.column_stack(self.index_of(xy[:, 0], xy[:, 1])))
        for part in parts[~points]:
            found += self._under(part)
        pairs = np.unique(np.concatenate(found)[:, ::-1], axis=0)
        return pairs[:, 1], pairs[:, 0]

    def chip_uuid(self, ix: int, iy: int, day: date) -> str:
        """Id of the chip at a position on the day its VHR imagery was taken (UTC).

        Raises:
            TypeError: ``day`` is a datetime, whose day depends on a time zone.
        """
        if isinstance(day, datetime):
            raise TypeError("chip ids take a date; convert the acquisition time to UTC and pass its .date()")
        size = f"{self.height}x{self.width}"
        return str(
            uuid5(CHIP_NAMESPACE, f"{self.epsg}/{float(self.gsd_m)!r}/{size}/{int(ix)}/{int(iy)}/{day.isoformat()}")
        )

    def _under(self, polygon: Geometry) -> Iterator[Indices]:
        """Chips that share area with a polygon, block by block so that memory does not grow with it."""
        if polygon.area == 0 or not polygon.is_valid:
            why = shapely.is_valid_reason(polygon) if polygon.area else f"a {polygon.geom_type} without area"
            raise GeometryError(f"cannot lay chips over it: {why}; repair it with shapely.make_valid or give a point")
        west, south, east, north = polygon.bounds
        (first_x, last_x), (first_y, last_y) = (axis.tolist() for axis in self.index_of((west, east), (south, north)))
        columns = np.arange(first_x, last_x + 1)
        rows_per_block = max(1, _BLOCK // len(columns))
        shapely.prepare(polygon)
        for start in range(first_y, last_y + 1, rows_per_block):
            rows = np.arange(start, min(start + rows_per_block, last_y + 1))
            iy, ix = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
            # interiors meet: for two areas, an intersection with positive area
            shared = shapely.relate_pattern(polygon, self.footprints(ix, iy), "T********")
            yield np.column_stack([ix[shared], iy[shared]])


def _floor_index(values: ArrayLike, step: float) -> Indices:
    coordinates = np.atleast_1d(np.asarray(values, np.float64))
    if not np.isfinite(coordinates).all():
        raise GeometryError(f"{int((~np.isfinite(coordinates)).sum())} coordinates are not finite")
    index = np.floor(coordinates / step).astype(np.int64)
    # the division rounds: settle points on an edge by the edges themselves
    index -= coordinates < index * step
    index += coordinates >= (index + 1) * step
    return index


def _flattened(geometry: Geometry) -> NDArray[np.object_]:
    """Parts of nested collections, without the empty ones."""
    parts: NDArray[np.object_] = np.array([geometry], object)
    while (shapely.get_type_id(parts) >= shapely.GeometryType.MULTIPOINT).any():
        parts = shapely.get_parts(parts)
    kept: NDArray[np.object_] = parts[~shapely.is_empty(parts)]
    return kept
