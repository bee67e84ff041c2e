"""Which scenes a chip is read from: the day that covers it, and the multispectral scene nearest in time."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from dataflows._chips import Position
from dataflows._positions import footprints_lonlat, surroundings_lonlat
from utils.types import ChipProfile

_WHOLE = 0.999


class SceneCoverage:
    """Chooses scenes for lattice positions from catalogues of scenes (schema ``store.schemas.SCENES``).

    A VHR chip is read from one day: the newest that covers it whole, else the one that covers most; or the day
    asked for. The multispectral chip is read from the day nearest in time among those that cover most of it.
    Coverage is of the stated footprints; pixels are checked when they are read.
    """

    def __init__(
        self,
        vhr_scenes: pa.Table,
        msi_scenes: pa.Table | None,
        vhr_acquired: str,
        profile: ChipProfile,
        min_valid_fraction: float,
    ) -> None:
        """Index the footprints; ``vhr_acquired`` is ``latest`` or an ISO day."""
        self._profile, self._least = profile, min_valid_fraction
        self._day = None if vhr_acquired == "latest" else date.fromisoformat(vhr_acquired)
        self._vhr, self._msi = _Footprints(vhr_scenes), _Footprints(msi_scenes) if msi_scenes is not None else None

    def of(self, positions: Sequence[Position]) -> tuple[list[dict[str, Any]], dict[Position, str]]:
        """Served positions (``position``, ``vhr_day``, ``vhr_scene_ids``, ``msi_scene_ids``); why others are not."""
        served, refused = [], {}
        vhr_days, msi_days = self._vhr_days(positions), self._msi_days(positions)
        for position, vhr, msi in zip(positions, vhr_days, msi_days, strict=True):
            if isinstance(vhr, str) or isinstance(msi, str):
                refused[position] = vhr if isinstance(vhr, str) else str(msi)
                continue
            day, scene_ids = vhr
            served.append(
                {
                    "position": position,
                    "vhr_day": day,
                    "vhr_scene_ids": scene_ids,
                    "msi_scene_ids": _nearest(msi, day) if msi else [],
                }
            )
        return served, refused

    def _vhr_days(self, positions: Sequence[Position]) -> list[tuple[date, list[str]] | str]:
        choices: list[tuple[date, list[str]] | str] = []
        for days in self._vhr.days(footprints_lonlat(positions, self._profile)):
            usable = {day: found for day, found in days.items() if self._day in (None, day)}
            if not usable:
                wanted = f" of {self._day}" if self._day and days else ""
                choices.append(f"no VHR scene{wanted} covers it")
                continue
            day = max(usable, key=lambda d: (min(usable[d][0], _WHOLE), d))
            share, scene_ids = usable[day]
            enough = share >= self._least
            choices.append((day, scene_ids) if enough else f"VHR scenes cover {share:.0%} of it")
        return choices

    def _msi_days(self, positions: Sequence[Position]) -> list[dict[date, list[str]] | str]:
        if self._msi is None:
            return [{}] * len(positions)
        choices: list[dict[date, list[str]] | str] = []
        for days in self._msi.days(surroundings_lonlat(positions, self._profile)):
            most = max((share for share, _ in days.values()), default=0.0)
            if most < self._least or most == 0:
                choices.append(f"multispectral scenes cover {most:.0%} of its surroundings")
            else:
                choices.append({day: ids for day, (share, ids) in days.items() if share >= min(most, _WHOLE)})
        return choices


class _Footprints:
    """Footprints of scenes, found by area."""

    def __init__(self, scenes: pa.Table) -> None:
        self._ids: list[str] = scenes["scene_id"].to_pylist()
        self._days: list[date] = [_day(when) for when in scenes["acquired_at"].to_pylist()]
        self._shapes = shapely.from_wkb(scenes["footprint"].to_numpy(zero_copy_only=False))
        shapely.prepare(self._shapes)
        self._tree = shapely.STRtree(self._shapes)

    def days(self, outlines: NDArray[np.object_]) -> list[dict[date, tuple[float, list[str]]]]:
        """Per outline (EPSG:4326): day → share of it that scenes cover, and their ids, the one on top first."""
        found: list[dict[date, list[int]]] = [defaultdict(list) for _ in outlines]
        chips, scenes = self._tree.query(outlines, predicate="intersects")
        order = np.lexsort((scenes, chips))
        for chip, scene in zip(chips[order].tolist(), scenes[order].tolist(), strict=True):
            found[chip][self._days[scene]].append(scene)
        return [
            {day: (self._share(outlines[chip], scenes), [self._ids[s] for s in scenes]) for day, scenes in days.items()}
            for chip, days in enumerate(found)
        ]

    def _share(self, outline: shapely.Geometry, scenes: list[int]) -> float:
        if any(self._shapes[scene].covers(outline) for scene in scenes):
            return 1.0
        pieces = shapely.intersection(self._shapes[scenes], outline)
        return float(shapely.union_all(pieces).area / outline.area)


def _nearest(days: dict[date, list[str]], day: date) -> list[str]:
    return days[min(days, key=lambda d: (abs((d - day).days), d))]


def _day(when: datetime) -> date:
    return when.date()
