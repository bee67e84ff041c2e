"""One imagery source read around objects: days, and blocks that many neighbouring objects share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

import numpy as np
import shapely

from store.scene_grids import pixel_corner
from utils.errors import AegirError, CRSError, NoImageryError
from utils.geo import utm_epsg
from utils.refinement import require_metres
from utils.types import ChipGrid, ImagerySource, RasterChip

MOST_PX = 3000
"""Longest side of a block that is read at once, pixels; objects farther apart are read one by one."""
LARGEST_PX = 2048
"""Longest side of one object's window; of a larger one coarser pixels are read."""


@dataclass(kw_only=True)
class Pixels:
    """A source whose scenes are grouped by day."""

    source: ImagerySource
    """Where pixels come from."""
    bands: Sequence[str]
    """Bands that are read."""
    days: dict[date, list[str]] = field(default_factory=dict)
    """Day → scenes, the one on top first."""
    _at: dict[date, datetime] = field(default_factory=dict)
    _epsg: dict[date, int] = field(default_factory=dict)
    _corners: dict[date, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Group the scenes that have all bands.

        Raises:
            NoImageryError: there is none.
        """
        columns = ["scene_id", "acquired_at", "epsg", "bands"]
        for row in self.source.scenes().select(columns).to_pylist():
            if set(self.bands) <= set(row["bands"]):
                day = row["acquired_at"].date()
                self.days.setdefault(day, []).append(row["scene_id"])
                self._at.setdefault(day, row["acquired_at"])
                self._epsg.setdefault(day, row["epsg"])
        if not self.days:
            raise NoImageryError(f"no scene of the source {self.source.name!r} has the bands {', '.join(self.bands)}")

    def nearest(self, moment: datetime, most: int) -> list[date]:
        """Days by their distance in time; the day of ``moment`` itself comes first where there is one."""
        return sorted(self.days, key=lambda day: (abs((day - moment.date()).days), day))[:most]

    def metric_epsg(self, day: date, lonlat: tuple[float, float]) -> int:
        """EPSG code of the day's first scene where it measures metres, else of the UTM zone of a place."""
        try:
            require_metres(self._epsg[day])
        except CRSError:
            return utm_epsg(*lonlat)
        return self._epsg[day]

    def blocks(
        self, shapes: Mapping[str, shapely.Geometry], day: date, *, epsg: int, gsd_m: float, pad_m: float
    ) -> Iterator[tuple[str, RasterChip | AegirError]]:
        """Pixels around each object on one day, or the error that reading them raised.

        Objects near each other are cut from one block. Where that cannot be read they are read one by one, so that a
        broken file costs those on it and no others.

        Args:
            shapes: id → outline in the CRS ``epsg``.
            day: a key of :attr:`days`.
            epsg: CRS of the windows.
            gsd_m: ground sample distance of the windows, metres.
            pad_m: ground shown around each outline, metres.
        """
        corner = self._corner(day, epsg)
        grids = {
            one: window_around(shape.bounds, corner, epsg=epsg, gsd_m=gsd_m, pad_m=pad_m)
            for one, shape in shapes.items()
        }
        together = _joint(list(grids.values()), gsd_m)
        block = self._read(together, day) if together is not None and len(grids) > 1 else None
        for one, grid in grids.items():
            if isinstance(block, RasterChip) and grid.gsd_m == together.gsd_m:  # type: ignore[union-attr]
                chip = _cut(block, grid)
                if chip is not None:
                    yield one, chip
                    continue
            yield one, self._read(grid, day)

    def _read(self, grid: ChipGrid, day: date) -> RasterChip | AegirError:
        try:
            return self.source.read(grid, self.bands, scene_ids=self.days[day])
        except AegirError as error:
            return error

    def _corner(self, day: date, epsg: int) -> tuple[float, float]:
        """A pixel corner of the day's rasters, so that windows need no resampling; the CRS's origin elsewhere."""
        if self._epsg[day] != epsg:
            return 0.0, 0.0
        if day not in self._corners:
            self._corners[day] = pixel_corner(self.source.scenes(), self.days[day][0], self.bands[-1])
        return self._corners[day]


def window_around(
    bounds: tuple[float, float, float, float], corner: tuple[float, float], *, epsg: int, gsd_m: float, pad_m: float
) -> ChipGrid:
    """The window of whole pixels around bounds, aligned to ``corner``; coarser where it would be too large."""
    west, south, east, north = bounds
    side = max(east - west, north - south) + 2 * pad_m
    step = gsd_m * max(1, int(np.ceil(side / gsd_m / LARGEST_PX)))
    left, bottom = (np.floor((low - pad_m - at) / step) for low, at in ((west, corner[0]), (south, corner[1])))
    right, top = (np.ceil((high + pad_m - at) / step) for high, at in ((east, corner[0]), (north, corner[1])))
    transform = (step, 0.0, corner[0] + left * step, 0.0, -step, corner[1] + top * step)
    return ChipGrid(epsg=epsg, transform=transform, height=int(top - bottom), width=int(right - left))


def _joint(grids: Sequence[ChipGrid], gsd_m: float) -> ChipGrid | None:
    """The window of all windows of one pixel size; None where it is too large to be read at once."""
    fine = [grid for grid in grids if grid.gsd_m == gsd_m]
    if not fine:
        return None
    left, top = min(grid.transform[2] for grid in fine), max(grid.transform[5] for grid in fine)
    right = max(grid.transform[2] + grid.width * gsd_m for grid in fine)
    bottom = min(grid.transform[5] - grid.height * gsd_m for grid in fine)
    width, height = round((right - left) / gsd_m), round((top - bottom) / gsd_m)
    if max(width, height) > MOST_PX:
        return None
    return ChipGrid(epsg=fine[0].epsg, transform=(gsd_m, 0.0, left, 0.0, -gsd_m, top), height=height, width=width)


def _cut(block: RasterChip, grid: ChipGrid) -> RasterChip | None:
    """The part of a block on ``grid``; None where it shows nothing there."""
    step = block.grid.gsd_m
    left = round((grid.transform[2] - block.grid.transform[2]) / step)
    top = round((block.grid.transform[5] - grid.transform[5]) / step)
    part = np.s_[top : top + grid.height, left : left + grid.width]
    if not block.valid[part].any():
        return None
    return RasterChip(
        data=block.data[:, *part].copy(),
        valid=block.valid[part].copy(),
        grid=grid,
        bands=block.bands,
        source=block.source,
        scene_ids=block.scene_ids,
        sensor=block.sensor,
        acquired_at=block.acquired_at,
        scl=None if block.scl is None else block.scl[part].copy(),
    )
