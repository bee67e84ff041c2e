"""Farmsteads: yard, farmhouse, barns, silos."""

import numpy as np
import shapely
from shapely import Polygon

from utils.sample.features import Layer, Patch, Sketch
from utils.sample.geometry import Frame, frame_of, inset, largest_part, scattered
from utils.sample.roofs import PITCHED_ROOFS, House, drawn, furnish_pitched_roof, note_dark_roof, raise_house
from utils.sample.settlement import LAWN, PAVING, roof_arrays
from utils.sample.spectra import MATERIALS, varied


def lay_farmstead(sketch: Sketch, ground: Polygon, rng: np.random.Generator, *, pv_share: float) -> None:
    """A farm: yard, farmhouse, two or three barns, silos, trees around."""
    sketch.paint(ground, varied(MATERIALS["grass"], rng), Layer.FIELD, grain=LAWN)
    sketch.patches.append(Patch(outline=ground, landcover="built_up"))
    plot = frame_of(inset(ground, 4.0))
    yard = plot.part(0, 0, plot.length * 0.62, plot.width * 0.55).outline.intersection(ground)
    yard = largest_part(yard.difference(sketch.river))
    sketch.paint(yard, varied(MATERIALS["concrete"] * np.float32(0.7), rng), Layer.PAVED, grain=PAVING)
    slots = [(-0.27, -0.22), (0.24, -0.24), (-0.05, 0.27), (0.36, 0.2)]
    taken: list[Polygon] = []
    for number, (u, v) in enumerate(slots):
        home = number == 3
        length, width = (
            (rng.uniform(12, 17), rng.uniform(9, 12)) if home else (rng.uniform(22, 42), rng.uniform(12, 19))
        )
        frame = plot.part(u * plot.length, v * plot.width, length, width)
        if home or (number == 2 and rng.random() < 0.4):
            frame = frame.turned().part(0, 0, length, width)
        if not ground.contains(frame.outline) or any(frame.outline.distance(other) < 3 for other in taken):
            frame = frame.part(0, 0, length * 0.6, width * 0.75)
        blocked = any(frame.outline.distance(other) < 2 for other in taken) or frame.outline.distance(sketch.river) < 6
        if blocked or not ground.contains(frame.outline):
            continue
        taken.append(frame.outline)
        _farm_building(sketch, frame, "house" if home else "barn", rng, pv_share)
    _silos(sketch, plot, taken, rng)
    trees = scattered(ground, 8.5, rng)
    if len(trees) and taken:
        away = shapely.distance(shapely.points(trees), shapely.union_all([*taken, yard])) > 4
        sketch.plant(trees[away & (rng.random(len(trees)) < 0.5)], rng, radius=(1.8, 4.8), conifers=0.2)


def _farm_building(sketch: Sketch, frame: Frame, kind: str, rng: np.random.Generator, pv_share: float) -> None:
    roofing = PITCHED_ROOFS if kind == "house" else PITCHED_ROOFS | {"metal": 0.15, "metal_green": 0.1}
    house = House(
        frame=frame,
        shape="gable",
        material=drawn(roofing, rng),
        kind=kind,
        height_m=9.0,
        pitch=np.radians(rng.uniform(16, 32)),
    )
    planes, _ = raise_house(sketch, house, rng)
    arrays = roof_arrays(sketch, house, planes, rng, pv_share)
    furnish_pitched_roof(sketch, house, planes if kind == "house" else [], arrays, rng)
    note_dark_roof(sketch, house, arrays)


def _silos(sketch: Sketch, plot: Frame, taken: list[Polygon], rng: np.random.Generator) -> None:
    for u in (-0.42, -0.34):
        silo = shapely.Point(plot.point(u * plot.length, 0.3 * plot.width)).buffer(rng.uniform(3, 4.5), quad_segs=6)
        if all(silo.distance(other) > 2 for other in taken):
            roofing = varied(MATERIALS[str(rng.choice(["metal", "concrete", "film_dark"]))], rng)
            sketch.paint(silo, roofing, Layer.ROOF, grain=PAVING, height_m=8.0)
