"""Industrial estates with halls and car parks, and nurseries with greenhouses and covered beds."""

import numpy as np
import shapely
from shapely import Polygon

from utils.sample.countryside import lay_plastic_field
from utils.sample.features import Building, Confuser, Layer, Patch, Sketch
from utils.sample.geometry import Frame, frame_of, inset, scattered, subdivide
from utils.sample.roofs import FLAT_ROOFS, House, drawn, furnish_flat_roof, note_dark_roof, raise_house
from utils.sample.settlement import PAVING, park_car, roof_arrays
from utils.sample.spectra import MATERIALS, mixture, varied
from utils.sample.texture import Grain, Stripes


def _fitted(lot: Polygon, margin: float, rng: np.random.Generator) -> Frame | None:
    """The largest of a few shrunken rectangles that lies in ``lot`` with a margin, or None."""
    room = inset(lot, margin)
    if room.is_empty:
        return None
    plot = frame_of(lot)
    for scale in np.linspace(0.92, 0.35, 12):
        tried = plot.part(0, 0, plot.length * scale * rng.uniform(0.94, 1.0), plot.width * scale)
        if room.contains(tried.outline):
            return tried
    return None


def lay_industry(sketch: Sketch, ground: Polygon, rng: np.random.Generator, *, pv_share: float) -> None:
    """Halls with flat roofs on paved lots, car parks between them."""
    sketch.paint(ground, varied(MATERIALS["grass"], rng), Layer.FIELD, grain=PAVING)
    sketch.patches.append(Patch(outline=ground, landcover="built_up"))
    lots, _ = subdivide(ground, rng, area_m2=min(9_000.0, ground.area / 2.2), jitter=0.02)
    order = sorted(lots, key=lambda lot: -lot.area)
    for number, lot in enumerate(order):
        paved = inset(lot, 2.0)
        yard = varied(
            MATERIALS[str(rng.choice(["asphalt", "asphalt_new", "concrete"]))] * np.float32(0.9), rng, gain=0.15
        )
        sketch.paint(paved, yard, Layer.GROUND, grain=Grain(fine=0.05, medium=0.05, coarse=0.06))
        if number == len(order) - 1 or rng.random() < 0.22:
            lay_car_park(sketch, lot, rng)
        else:
            _hall(sketch, lot, rng, pv_share)


def _hall(sketch: Sketch, lot: Polygon, rng: np.random.Generator, pv_share: float) -> None:
    frame = _fitted(lot, 6.0, rng)
    if frame is None or frame.width < 12 or frame.outline.distance(sketch.river) < 6:
        return
    if frame.width > 46:
        frame = frame.part(0, 0.1 * frame.width, frame.length, 46)
    house = House(
        frame=frame, shape="flat", material=drawn(FLAT_ROOFS, rng), kind="hall", height_m=rng.uniform(8, 12), pitch=0.0
    )
    planes, _ = raise_house(sketch, house, rng)
    arrays = roof_arrays(sketch, house, planes, rng, pv_share)
    _skylight_bands(sketch, house, arrays, rng)
    furnish_flat_roof(sketch, house, arrays, rng)
    note_dark_roof(sketch, house, arrays)
    _trailers(sketch, lot, frame.outline, rng)
    border = scattered(lot.difference(inset(lot, 4.0)), 9.0, rng)
    away = shapely.distance(shapely.points(border), frame.outline) > 4 if len(border) else np.zeros(0, bool)
    sketch.plant(border[away & (rng.random(len(border)) < 0.35)], rng, radius=(1.5, 3.5), conifers=0.05)


def _skylight_bands(sketch: Sketch, house: House, arrays: list[Polygon], rng: np.random.Generator) -> None:
    if rng.random() < 0.5:
        return
    frame = house.frame
    glazing = varied(MATERIALS[str(rng.choice(["membrane", "glass", "glass_dark"]))], rng, gain=0.15)
    for u in np.arange(-frame.length / 2 + 6, frame.length / 2 - 5, rng.uniform(9, 16)):
        band = frame.part(u, 0, 2.2, frame.width * 0.7).outline
        if not any(band.distance(array) < 0.6 for array in arrays):
            sketch.paint(band, glazing, Layer.ROOF_OBJECT, height_m=0.4)


def _trailers(sketch: Sketch, lot: Polygon, hall: Polygon, rng: np.random.Generator) -> None:
    """Lorry trailers and containers on the yard: rectangles in strong colours, some blue."""
    plot = frame_of(lot)
    for _ in range(int(rng.integers(2, 8))):
        u, v = rng.uniform(-0.46, 0.46) * plot.length, rng.uniform(-0.46, 0.46) * plot.width
        box = plot.part(u, v, 12.2, 2.5) if rng.random() < 0.5 else plot.part(u, v, 6.1, 2.5).turned()
        if inset(lot, 2.5).contains(box.outline) and box.outline.distance(hall) > 1.2:
            colour = str(rng.choice(["paint_white", "paint_blue", "paint_red", "metal", "metal_blue", "paint_black"]))
            sketch.paint(box.outline, varied(MATERIALS[colour], rng, gain=0.2), Layer.LOW, height_m=3.2)


def lay_car_park(sketch: Sketch, lot: Polygon, rng: np.random.Generator) -> None:
    """Rows of stalls with white lines, two thirds of them taken, a few trees."""
    frame = _fitted(lot, 2.5, rng)
    if frame is None or frame.width < 16 or frame.outline.intersects(sketch.river):
        return
    tarmac = varied(MATERIALS["asphalt_new" if rng.random() < 0.7 else "asphalt"], rng, gain=0.12)
    sketch.paint(frame.outline, tarmac, Layer.PAVED, grain=PAVING)
    sketch.confusers.append(Confuser(outline=frame.outline, kind="car_park"))
    filling = rng.uniform(0.45, 0.9)
    for v in np.arange(-frame.width / 2, frame.width / 2 - 16.0 + 0.1, 16.0):
        for row in (v + 2.5, v + 13.5):
            for u in np.arange(-frame.length / 2 + 1.25, frame.length / 2 - 1.2, 2.5):
                line = frame.part(u - 1.25, row, 0.14, 4.8).outline
                sketch.paint(line, "paint_white", Layer.MARKING)
                if rng.random() < filling:
                    stall = frame.part(u + rng.normal(0, 0.1), row + rng.normal(0, 0.25), 2, 5).turned()
                    park_car(sketch, stall, rng)
    for v in np.arange(-frame.width / 2, frame.width / 2, 16.0):
        islands = np.array([frame.point(u, v) for u in np.arange(-frame.length / 2 + 4, frame.length / 2, 15.0)])
        sketch.plant(islands[rng.random(len(islands)) < 0.45], rng, radius=(1.2, 2.4), conifers=0.0)


def lay_nursery(sketch: Sketch, ground: Polygon, rng: np.random.Generator) -> None:
    """Greenhouses beside beds under plastic film."""
    sketch.paint(ground, varied(mixture(grass=0.7, soil=0.3), rng), Layer.FIELD, grain=PAVING)
    lots, _ = subdivide(ground, rng, area_m2=ground.area / 2.1, jitter=0.02)
    lots.sort(key=lambda lot: lot.area)
    for number, lot in enumerate(lots):
        if number % 2 == 0:
            sketch.patches.append(Patch(outline=lot, landcover="built_up"))
            _greenhouses(sketch, lot, rng)
        else:
            sketch.patches.append(Patch(outline=lot, landcover="cropland"))
            lay_plastic_field(sketch, inset(lot, 2.0), rng, dark=rng.random() < 0.7)


def _greenhouses(sketch: Sketch, lot: Polygon, rng: np.random.Generator) -> None:
    """One or two blocks of many spans, clear or dark with what grows inside."""
    sketch.paint(inset(lot, 2.0), varied(MATERIALS["gravel"] * np.float32(0.8), rng), Layer.GROUND, grain=PAVING)
    plot = _fitted(lot, 4.0, rng)
    if plot is None:
        return
    blocks = (
        [plot.part(-0.26 * plot.length, 0, 0.46 * plot.length, plot.width),
         plot.part(0.26 * plot.length, 0, 0.46 * plot.length, plot.width)]
        if plot.length > 40 else [plot]
    )  # fmt: skip
    for block in blocks:
        house = block.part(0, 0, min(block.length, 62.0), min(block.width, 58.0))
        if house.outline.distance(sketch.river) < 6 or house.width < 8:
            continue
        glass = varied(MATERIALS["glass_dark" if rng.random() < 0.5 else "glass"], rng, gain=0.12)
        sketch.paint(
            house.outline,
            glass,
            Layer.ROOF,
            grain=Grain(fine=0.04, medium=0.06, coarse=0.05),
            stripes=(
                Stripes(kind="swath", angle=house.angle, period_m=6.4, depth=0.10),
                Stripes(kind="ribs", angle=house.angle + np.pi / 2, period_m=3.2, depth=0.12),
            ),
            height_m=4.5,
        )
        sketch.buildings.append(Building(footprint=house.outline, kind="greenhouse", height_m=4.5, dark=False))
        sketch.confusers.append(Confuser(outline=house.outline, kind="greenhouse"))
