"""Villages: streets, gardens, houses, cars, trees."""

from itertools import pairwise
from typing import Literal

import numpy as np
import shapely
from shapely import LineString, Polygon

from utils.sample.features import (
    Confuser,
    Epochs,
    Layer,
    Patch,
    Sketch,
    commissioning_day,
)
from utils.sample.geometry import Frame, along, frame_of, inset, scattered, subdivide
from utils.sample.roofs import (
    DARK_ROOFS,
    FLAT_ROOFS,
    PITCHED_ROOFS,
    House,
    RoofPlane,
    drawn,
    furnish_flat_roof,
    furnish_pitched_roof,
    note_dark_roof,
    raise_house,
)
from utils.sample.solar import mount_on_flat_roof, mount_on_slope, product
from utils.sample.spectra import MATERIALS, mixture, varied
from utils.sample.texture import Grain, Stripes

LAWN = Grain(fine=0.06, medium=0.07, coarse=0.05)
PAVING = Grain(fine=0.05, medium=0.03, coarse=0.03)
DARK_ROOF_PV = 0.35
"""How much rarer modules are on dark roofs; the rest of those roofs are confusers."""
CAR_PAINTS = {
    "paint_white": 0.27,
    "paint_black": 0.25,
    "metal": 0.22,
    "paint_blue": 0.1,
    "paint_red": 0.08,
    "slate": 0.08,
}


def park_car(sketch: Sketch, place: Frame, rng: np.random.Generator) -> None:
    """One parked car along ``u`` of ``place``: body, windscreen, roof, a short shadow."""
    length, width = rng.uniform(4.0, 4.9), rng.uniform(1.75, 1.95)
    paint = varied(MATERIALS[drawn(CAR_PAINTS, rng)], rng, gain=0.2)
    body = place.part(0, 0, length, width)
    one_day: Epochs = (True, False) if rng.random() < 0.5 else (False, True)
    sketch.paint(body.outline, paint, Layer.LOW, height_m=1.4, epochs=one_day)
    sketch.paint(body.part(0.12 * length, 0, 0.16 * length, 0.8 * width).outline, "paint_black", Layer.LOW,
                 epochs=one_day)  # fmt: skip
    sketch.paint(body.part(-0.36 * length, 0, 0.10 * length, 0.8 * width).outline, "paint_black", Layer.LOW,
                 epochs=one_day)  # fmt: skip


def lay_village(sketch: Sketch, ground: Polygon, rng: np.random.Generator, *, pv_share: float) -> None:
    """Residential blocks: streets, parcels with a house each, some apartment buildings.

    Args:
        sketch: where it is laid out.
        ground: convex ground.
        rng: random stream.
        pv_share: share of houses with modules on them.
    """
    sketch.paint(ground, varied(MATERIALS["grass"], rng), Layer.FIELD, grain=LAWN)
    sketch.patches.append(Patch(outline=ground, landcover="built_up"))
    blocks, cuts = subdivide(ground, rng, area_m2=3600.0)
    street = varied(MATERIALS["asphalt" if rng.random() < 0.65 else "asphalt_new"], rng, gain=0.12)
    for cut in cuts:
        sketch.paint(cut.line.buffer(3.9, cap_style="square"), varied(MATERIALS["concrete"], rng) * np.float32(0.75),
                     Layer.PAVED, grain=PAVING)  # fmt: skip
    for cut in cuts:
        sketch.paint(cut.line.buffer(2.7, cap_style="square"), street, Layer.MARKING, grain=PAVING)
        _street_cars(sketch, cut.line, rng)
    for block in blocks:
        inner = inset(block, 4.2)
        if inner.area < 350:
            continue
        if inner.area > 1300 and rng.random() < 0.12:
            _apartments(sketch, inner, rng, pv_share)
            continue
        parcels, _ = subdivide(inner, rng, area_m2=rng.uniform(430, 640), jitter=0.03)
        for parcel in parcels:
            _parcel(sketch, parcel, inner, rng, pv_share)


def _street_cars(sketch: Sketch, line: LineString, rng: np.random.Generator) -> None:
    for (x, y), angle in along(line, 7.0, offset_m=1.8 if rng.random() < 0.5 else -1.8):
        if rng.random() < 0.13:
            park_car(sketch, Frame(centre=(x, y), angle=angle, length=5, width=2), rng)


def _parcel(sketch: Sketch, parcel: Polygon, block: Polygon, rng: np.random.Generator, pv_share: float) -> None:
    """One garden with a house."""
    green = mixture(grass=rng.uniform(0.45, 1.0), grass_dry=rng.uniform(0.0, 0.4), soil=rng.uniform(0.0, 0.08))
    swaths = (
        (Stripes(kind="swath", angle=rng.uniform(0, np.pi), period_m=1.6, depth=0.03),) if rng.random() < 0.4 else ()
    )
    sketch.paint(inset(parcel, 0.25), varied(green, rng, gain=0.13), Layer.GROUND, grain=LAWN, stripes=swaths)
    home = _building_site(sketch, parcel, rng)
    if home is None:
        _grove(sketch, inset(parcel, 2.2), rng)
        return
    first_new = sketch.vhr_area.contains(home.outline) and all(all(b.epochs) for b in sketch.buildings)
    epochs: Epochs = (False, True) if first_new or rng.random() < 0.012 else (True, True)
    if not epochs[0]:
        sketch.paint(inset(parcel, 1.0), "soil", Layer.GROUND, grain=PAVING, epochs=(True, False))
    _home(sketch, home, rng, pv_share, epochs)
    _garden(sketch, parcel, block, home, rng)


def _building_site(sketch: Sketch, parcel: Polygon, rng: np.random.Generator) -> Frame | None:
    """Where a house fits on a parcel, or None."""
    room, plot = inset(parcel, 2.2), frame_of(parcel)
    if room.is_empty:
        return None
    if rng.random() < 0.5:
        plot = plot.turned()
    length = min(rng.uniform(10.5, 15.5), plot.length - 5.0)
    width = min(rng.uniform(8.5, 12.0), plot.width - 5.0, length)
    place = rng.uniform(-0.5, 0.5, 2)
    for shrink in (1.0, 0.85, 0.72):
        size = (length * shrink, width * shrink)
        if min(size) < 6.5:
            return None
        u = place[0] * shrink**4 * max(plot.length - 5 - size[0], 0)
        v = place[1] * shrink**4 * max(plot.width - 5 - size[1], 0)
        home = plot.part(u, v, *size)
        if room.contains(home.outline) and home.outline.distance(sketch.river) >= 6:
            return home
    return None


def _home(sketch: Sketch, home: Frame, rng: np.random.Generator, pv_share: float, epochs: Epochs) -> None:
    flat = rng.random() < 0.1
    shape: Literal["gable", "hip", "flat"] = "flat" if flat else "gable"
    if not flat and rng.random() < 0.16 and home.length > home.width + 2:
        shape = "hip"
    house = House(
        frame=home,
        shape=shape,
        material=drawn(FLAT_ROOFS if flat else PITCHED_ROOFS, rng),
        kind="house",
        height_m=rng.uniform(6.0, 7.0) if flat else rng.uniform(7.0, 9.5),
        pitch=0.0 if flat else np.radians(rng.uniform(24, 42)),
        epochs=epochs,
    )
    planes, _ = raise_house(sketch, house, rng)
    arrays = roof_arrays(sketch, house, planes, rng, pv_share)
    if flat:
        furnish_flat_roof(sketch, house, arrays, rng)
    else:
        furnish_pitched_roof(sketch, house, planes, arrays, rng)
    note_dark_roof(sketch, house, arrays)


def roof_arrays(
    sketch: Sketch, house: House, planes: list[RoofPlane], rng: np.random.Generator, share: float
) -> list[Polygon]:
    """Arrays on a building with probability ``share``, on its sunniest plane and sometimes on the other one."""
    chance = share * (DARK_ROOF_PV if house.material in DARK_ROOFS else 1.0)
    if rng.random() >= chance or not sketch.vhr_area.contains(house.frame.outline.buffer(6.0)):
        return []
    built = commissioning_day(rng)
    if not all(house.epochs):
        built = commissioning_day(rng, new_share=1.0)
    site = f"site-{house.frame.centre[0]:.1f}-{house.frame.centre[1]:.1f}"
    bought = product(site, "roof", built, rng)
    large = house.kind in ("barn", "hall")
    if house.shape == "flat":
        target = rng.uniform(300, 1500) if large else rng.uniform(20, 90)
        return mount_on_flat_roof(sketch, planes[0], bought, target, rng)
    southward = sorted(planes, key=lambda plane: plane.normal[1])
    target = rng.uniform(80, 420) if large else rng.uniform(20, 135)
    arrays = mount_on_slope(sketch, southward[0], bought, float(target), rng)
    eastwest = abs(southward[0].normal[0]) > abs(southward[0].normal[1])
    if rng.random() < (0.3 if eastwest else 0.05):
        arrays += mount_on_slope(sketch, southward[1], bought, float(target) * 0.8, rng)
    return arrays


def _garden(sketch: Sketch, parcel: Polygon, block: Polygon, home: Frame, rng: np.random.Generator) -> None:
    """Driveway, terrace, hedge, shed, pool, trees around a house."""
    house = home.outline
    gate = shapely.shortest_line(house.centroid, block.exterior)
    drive = gate.buffer(rng.uniform(1.4, 2.4), cap_style="square").intersection(parcel)
    paved = varied(MATERIALS[str(rng.choice(["concrete", "asphalt", "gravel", "tile_grey"]))], rng, gain=0.15)
    for part in shapely.get_parts(drive):
        if isinstance(part, Polygon):
            sketch.paint(part, paved, Layer.PAVED, grain=PAVING)
    if gate.length > home.width / 2 + 6 and rng.random() < 0.6:
        x, y = gate.interpolate(gate.length - 3.4).coords[0]
        (x0, y0), (x1, y1) = gate.coords[0], gate.coords[-1]
        park_car(sketch, Frame(centre=(x, y), angle=float(np.arctan2(y1 - y0, x1 - x0)), length=5, width=2), rng)
    terrace = home.part(rng.uniform(-0.2, 0.2) * home.length, -home.width / 2 - 1.5, rng.uniform(4, 7), 3.2).outline
    if parcel.contains(terrace):
        sketch.paint(terrace, varied(mixture(concrete=0.6, tile_brown=0.4), rng, gain=0.2), Layer.PAVED, grain=PAVING)
    _outbuildings(sketch, parcel, house, rng)
    if rng.random() < 0.55:
        _hedge(sketch, parcel, rng)
    room = inset(parcel, 1.2)
    trees = scattered(room, 6.5, rng)
    trees = trees[(rng.random(len(trees)) < 0.42)]
    away = shapely.distance(shapely.points(trees), house) > 3.6 if len(trees) else np.zeros(0, bool)
    sketch.plant(trees[away], rng, radius=(0.8, 3.4), conifers=0.2)


def _outbuildings(sketch: Sketch, parcel: Polygon, house: Polygon, rng: np.random.Generator) -> None:
    plot = frame_of(parcel)
    place = plot.part(rng.choice([-0.36, 0.36]) * plot.length, rng.choice([-0.34, 0.34]) * plot.width, 1, 1)
    kind = rng.random()
    if kind < 0.12:
        pool = place.part(0, 0, rng.uniform(5.5, 8.5), rng.uniform(3, 4))
        if (
            parcel.contains(pool.part(0, 0, pool.length + 1.4, pool.width + 1.4).outline)
            and pool.outline.distance(house) > 2
        ):
            sketch.paint(pool.part(0, 0, pool.length + 1.2, pool.width + 1.2).outline, "concrete", Layer.PAVED)
            sketch.paint(pool.outline, "pool", Layer.MARKING, water=True)
            sketch.confusers.append(Confuser(outline=pool.outline, kind="water"))
    elif kind < 0.5:
        shed = place.part(0, 0, rng.uniform(2.5, 4.5), rng.uniform(2.2, 3.2)).outline
        if parcel.contains(shed) and shed.distance(house) > 1.5:
            roofing = varied(MATERIALS[drawn(FLAT_ROOFS | PITCHED_ROOFS, rng)], rng)
            sketch.paint(shed, roofing, Layer.ROOF, grain=PAVING, height_m=2.4)
    elif kind < 0.58:
        net = shapely.Point(place.centre).buffer(rng.uniform(1.5, 2.1), quad_segs=5)
        if parcel.contains(net) and net.distance(house) > 1.5:
            sketch.paint(net, varied(MATERIALS["paint_black"], rng, gain=0.2), Layer.LOW, height_m=0.9)


def _hedge(sketch: Sketch, parcel: Polygon, rng: np.random.Generator) -> None:
    ring = inset(parcel, 0.9)
    if ring.is_empty:
        return
    corners = list(ring.exterior.coords)
    leaves = varied(MATERIALS["broadleaf"] * np.float32(0.9), rng, gain=0.15)
    for here, there in pairwise(corners):
        if rng.random() < 0.6:
            strip = LineString([here, there]).buffer(rng.uniform(0.4, 0.8), cap_style="square")
            sketch.paint(strip, leaves, Layer.CANOPY, grain=Grain(fine=0.16, medium=0.18), height_m=1.7)


def _grove(sketch: Sketch, room: Polygon, rng: np.random.Generator) -> None:
    if room.is_empty:
        return
    trees = scattered(room, 6.0, rng)
    sketch.plant(trees[rng.random(len(trees)) < 0.6], rng, radius=(1.5, 4.5), conifers=0.25)


def _apartments(sketch: Sketch, block: Polygon, rng: np.random.Generator, pv_share: float) -> None:
    """A slab of flats with a lawn and parking."""
    sketch.paint(block, varied(mixture(grass=0.8, grass_dry=0.2), rng), Layer.GROUND, grain=LAWN)
    plot = frame_of(block)
    slab = plot.part(0, 0.1 * plot.width, min(plot.length * 0.62, 38.0), min(13.0, plot.width * 0.42))
    if not block.contains(slab.outline) or slab.width < 8 or slab.outline.distance(sketch.river) < 6:
        _grove(sketch, block, rng)
        return
    house = House(
        frame=slab, shape="flat", material=drawn(FLAT_ROOFS, rng), kind="apartments", height_m=12.0, pitch=0.0
    )
    planes, _ = raise_house(sketch, house, rng)
    arrays = roof_arrays(sketch, house, planes, rng, pv_share)
    furnish_flat_roof(sketch, house, arrays, rng)
    note_dark_roof(sketch, house, arrays)
    strip = plot.part(0, -0.36 * plot.width, plot.length * 0.7, 5.4)
    if block.contains(strip.outline):
        sketch.paint(strip.outline, "asphalt", Layer.PAVED, grain=PAVING)
        for u in np.arange(-strip.length / 2 + 1.5, strip.length / 2 - 1, 2.6):
            if rng.random() < 0.6:
                park_car(sketch, strip.part(u, 0, 2, 5).turned(), rng)
    trees = scattered(block, 8.0, rng)
    away = shapely.distance(shapely.points(trees), slab.outline) > 5 if len(trees) else np.zeros(0, bool)
    sketch.plant(trees[away & (rng.random(len(trees)) < 0.5)], rng, radius=(1.5, 4.0), conifers=0.15)
