"""How people draw photovoltaics: one array at a time, never quite right."""

from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import shapely
from shapely import Geometry, Polygon

from utils.sample.context import to_lonlat
from utils.sample.features import Landscape
from utils.sample.geometry import frame_of
from utils.sample.spec import stream

BOX_JITTER = 0.08
"""Each edge of a box is off by up to this share of the box's side."""
KW_PER_M2 = 0.17
BOXES, MAP = "detector_boxes", "volunteer_map"
"""Datasets of ``pv_labels``: a detector's boxes; outlines and nodes of volunteers."""

WrongPlace = Literal["dark_roof", "car_park", "greenhouse", "plastic_cover", "empty_roof", "field"]


@dataclass(frozen=True, kw_only=True, eq=False)
class WeakLabel:
    """One row of ``pv_labels``, with what it really shows."""

    unified_id: str
    """Label id."""
    dataset: str
    """Dataset it comes from."""
    label_type: Literal["point", "box", "polygon"]
    """Kind of geometry."""
    geometry: Geometry
    """Geometry, longitude and latitude in degrees."""
    area_m2: float | None
    """Area its dataset states, m²."""
    capacity_kw: float | None
    """Peak power its dataset states, kW."""
    install_date: date | None
    """Day of commissioning its dataset states."""
    arrays: tuple[int, ...]
    """Positions in ``Landscape.arrays`` of what it shows; empty when it is wrong."""
    wrong: WrongPlace | None = None
    """What it lies on instead."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RegistryPoint:
    """One row of ``registry_points``: a plant at its postal address."""

    registry_id: int
    """Id in the register."""
    lonlat: tuple[float, float]
    """Position, degrees."""
    capacity_kw: float
    """Peak power, kW."""
    commissioned: date
    """Day of commissioning."""
    arrays: tuple[int, ...]
    """Positions in ``Landscape.arrays``; empty when nothing is there."""


Row = WeakLabel | RegistryPoint


class Digitiser:
    """Draws labels around arrays; every id is used once."""

    def __init__(self, landscape: Landscape) -> None:
        self.landscape = landscape
        self.rng = stream(landscape.seed, "digitiser")
        self.frame = shapely.box(*landscape.size.vhr_bounds).buffer(-1.0)
        self.taken: set[int] = set()

    def _next(self) -> int:
        """A number not used before; it tells nothing about when or why it was drawn."""
        number = int(self.rng.integers(100_000, 1_000_000))
        while number in self.taken:
            number = int(self.rng.integers(100_000, 1_000_000))
        self.taken.add(number)
        return number

    def site(self, members: list[int]) -> list[Row]:
        """What the three datasets know of one roof or park; at least one row."""
        rng, arrays = self.rng, self.landscape.arrays
        park = arrays[members[0]].kind == "ground"
        rows: list[Row] = []
        for number in members:
            in_boxes, in_map = rng.random() < (0.4 if park else 0.68), rng.random() < (0.0 if park else 0.5)
            if in_boxes or (not park and not in_map):
                rows.append(self._label(BOXES, "box", self.box(number), (number,)))
            if in_map:
                rows.append(self._mapped(number))
            if in_boxes and rng.random() < 0.02:
                rows.append(self._label(BOXES, "box", self.box(number), (number,)))
        if park:
            whole = shapely.union_all([arrays[number].outline for number in members]).convex_hull
            rows.append(self._label(MAP, "polygon", self._coarse(whole, spread=2.0), tuple(members)))
        if park or rng.random() < 0.45:
            rows.append(self._registered(members))
        return rows

    def box(self, number: int, *, jitter: float = BOX_JITTER) -> Polygon:
        """The upright box of an array with every edge moved by up to ``jitter`` of its side."""
        west, south, east, north = to_lonlat(self.landscape.arrays[number].outline).bounds
        off = self.rng.uniform(-jitter, jitter, 4)
        width, height = east - west, north - south
        jittered = (west + off[0] * width, south + off[1] * height, east + off[2] * width, north + off[3] * height)
        return shapely.box(*jittered)

    def _coarse(self, outline: Polygon, *, spread: float) -> Polygon:
        """An outline drawn by hand: few corners, each off by about ``spread`` metres; longitude and latitude."""
        ring = shapely.get_coordinates(shapely.simplify(outline, spread))[:-1]
        drawn = Polygon(ring + self.rng.normal(0, spread, ring.shape) + self.rng.normal(0, 0.3, 2))
        valid = drawn if drawn.is_valid else drawn.convex_hull
        return to_lonlat(valid.intersection(self.frame))

    def _mapped(self, number: int) -> WeakLabel:
        outline = self.landscape.arrays[number].outline
        if self.rng.random() < 0.2:
            place = outline.representative_point()
            point = shapely.Point(place.x + self.rng.normal(0, 1.2), place.y + self.rng.normal(0, 1.2))
            return self._label(MAP, "point", to_lonlat(point), (number,))
        return self._label(MAP, "polygon", self._coarse(outline, spread=0.55), (number,))

    def _label(
        self,
        dataset: str,
        label_type: Literal["point", "box", "polygon"],
        geometry: Geometry,
        arrays: tuple[int, ...],
        wrong: WrongPlace | None = None,
    ) -> WeakLabel:
        rng = self.rng
        true_area = sum(self.landscape.arrays[number].outline.area for number in arrays) or rng.uniform(20, 120)
        stated = float(true_area * np.clip(rng.normal(1.0, 0.12), 0.6, 1.5)) if label_type != "point" else None
        knows = dataset == MAP and bool(arrays) and rng.random() < 0.3
        return WeakLabel(
            unified_id=f"{dataset}-{self._next()}",
            dataset=dataset,
            label_type=label_type,
            geometry=geometry,
            area_m2=None if stated is None else round(stated, 1),
            capacity_kw=round(float(true_area) * KW_PER_M2, 2) if knows else None,
            install_date=self.landscape.arrays[arrays[0]].built if knows else None,
            arrays=arrays,
            wrong=wrong,
        )

    def _registered(self, members: list[int]) -> RegistryPoint:
        """The plant at its address: 4 to 18 m beside the array."""
        rng, arrays = self.rng, [self.landscape.arrays[number] for number in members]
        centre = arrays[0].outline.centroid
        turn, reach = rng.uniform(0, 2 * np.pi), rng.uniform(4, 18)
        area = sum(array.outline.area for array in arrays)
        return RegistryPoint(
            registry_id=self._next(),
            lonlat=self._inside(centre.x + reach * np.cos(turn), centre.y + reach * np.sin(turn)),
            capacity_kw=round(float(area * KW_PER_M2 * np.clip(rng.normal(1, 0.1), 0.6, 1.4)), 2),
            commissioned=arrays[0].built,
            arrays=tuple(members),
        )

    def _inside(self, x: float, y: float) -> tuple[float, float]:
        west, south, east, north = self.frame.bounds
        point = to_lonlat(shapely.Point(np.clip(x, west, east), np.clip(y, south, north)))
        return float(point.x), float(point.y)

    def wrong(self, count: int) -> list[Row]:
        """``count`` labels on roofs without modules, car parks, greenhouses, film and fields."""
        rows: list[Row] = []
        places = self._wrong_places()
        kinds = sorted(places)
        for _ in range(count):
            kind = kinds[int(self.rng.integers(len(kinds)))]
            outline = places[kind][int(self.rng.integers(len(places[kind])))]
            frame = frame_of(outline)
            length, width = (min(side * 0.8, self.rng.uniform(6, 14)) for side in (frame.length, frame.width))
            mistaken = frame.part(0, 0, length, width).outline
            chance = self.rng.random()
            if chance < 0.2:
                rows.append(self._mistaken_point(mistaken))
            elif chance < 0.7:
                box = shapely.box(*to_lonlat(mistaken).bounds)
                rows.append(self._label(BOXES, "box", box, (), kind))
            else:
                rows.append(self._label(MAP, "polygon", self._coarse(mistaken, spread=0.6), (), kind))
        return rows

    def _mistaken_point(self, outline: Polygon) -> RegistryPoint:
        return RegistryPoint(
            registry_id=self._next(),
            lonlat=self._inside(outline.centroid.x, outline.centroid.y),
            capacity_kw=round(float(self.rng.uniform(3, 15)), 2),
            commissioned=date(int(self.rng.integers(2010, 2022)), 6, 1),
            arrays=(),
        )

    def _wrong_places(self) -> dict[WrongPlace, list[Polygon]]:
        """Where people see modules that are not there: outlines well away from any array."""
        landscape = self.landscape
        modules = shapely.union_all([array.outline for array in landscape.arrays]).buffer(6.0)
        room = shapely.box(*landscape.size.vhr_bounds).buffer(-8.0)

        def free(outlines: list[Polygon]) -> list[Polygon]:
            return [o for o in outlines if room.contains(o) and not modules.intersects(o) and o.area > 40]

        kinds: tuple[WrongPlace, ...] = ("dark_roof", "car_park", "greenhouse", "plastic_cover")
        places: dict[WrongPlace, list[Polygon]] = {
            kind: free([c.outline for c in landscape.confusers if c.kind == kind]) for kind in kinds
        }
        places["empty_roof"] = free([b.footprint for b in landscape.buildings if not b.dark and b.kind == "house"])
        places["field"] = free([p.outline for p in landscape.patches if p.landcover == "cropland"])
        return {kind: outlines for kind, outlines in places.items() if outlines}
