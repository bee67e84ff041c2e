"""Fields, meadows, plastic-covered beds, forest, lakes and the river."""

from dataclasses import dataclass

import numpy as np
from shapely import LineString, Polygon

from utils.sample.farms import lay_farmstead
from utils.sample.features import ALWAYS, Confuser, Epochs, Layer, Patch, Sketch
from utils.sample.geometry import along, blob, frame_of, inset, largest_part, scattered, subdivide
from utils.sample.spectra import mixture, varied
from utils.sample.texture import Grain, Stripes

WATER_GRAIN = Grain(fine=0.03, medium=0.02, coarse=0.03)


@dataclass(frozen=True, kw_only=True)
class Crop:
    """How a field looks in June."""

    shares: dict[str, float]
    """Material → share of the ground."""
    grain: Grain
    """Its texture."""
    rows: tuple[float, float] | None = None
    """Row distance in metres and depth, where rows show."""
    swath: tuple[float, float] | None = None
    """Working width in metres and depth of alternating passes."""
    tramlines: float = 0.0
    """Depth of the sprayer's tracks."""
    grass: bool = False
    """Whether it is grassland."""


CROPS = (
    Crop(shares={"crop": 0.75, "crop_ripe": 0.25}, grain=Grain(fine=0.05, medium=0.05, coarse=0.06), tramlines=0.26),
    Crop(shares={"crop": 0.35, "crop_ripe": 0.65}, grain=Grain(fine=0.05, medium=0.05, coarse=0.07), tramlines=0.22),
    Crop(shares={"crop_ripe": 0.95, "soil": 0.05}, grain=Grain(fine=0.05, medium=0.05, coarse=0.06), tramlines=0.15),
    Crop(shares={"rapeseed": 0.9, "crop_ripe": 0.1}, grain=Grain(fine=0.07, medium=0.08, coarse=0.05), tramlines=0.2),
    Crop(shares={"soil": 0.55, "crop": 0.45}, grain=Grain(fine=0.06, medium=0.06, coarse=0.08), rows=(0.9, 0.10)),
    Crop(shares={"soil": 0.3, "crop": 0.7}, grain=Grain(fine=0.06, medium=0.06, coarse=0.07), rows=(1.2, 0.16)),
    Crop(shares={"soil_dark": 0.45, "crop": 0.55}, grain=Grain(fine=0.06, medium=0.05, coarse=0.07), rows=(1.5, 0.2)),
    Crop(shares={"soil": 0.96, "crop": 0.04}, grain=Grain(fine=0.06, medium=0.07, coarse=0.10), swath=(6.0, 0.04)),
    Crop(shares={"soil_dark": 1.0}, grain=Grain(fine=0.07, medium=0.08, coarse=0.12), swath=(4.5, 0.05)),
    Crop(shares={"grass": 1.0}, grain=Grain(fine=0.06, medium=0.08, coarse=0.07), grass=True),
    Crop(shares={"grass": 0.5, "grass_dry": 0.5}, grain=Grain(fine=0.05, medium=0.06, coarse=0.06),
         swath=(5.6, 0.07), grass=True),
    Crop(shares={"grass": 0.85, "crop": 0.15}, grain=Grain(fine=0.06, medium=0.1, coarse=0.08), swath=(5.6, 0.04),
         grass=True),
)  # fmt: skip
"""What grows."""


def lay_field(sketch: Sketch, field: Polygon, rng: np.random.Generator) -> None:
    """One field: another crop on each date, or a meadow on both; a headland worked the other way."""
    strip = inset(field, 0.8)
    if strip.is_empty:
        return
    heading = frame_of(field).angle
    first = CROPS[int(rng.integers(len(CROPS)))]
    second = first if first.grass and rng.random() < 0.8 else CROPS[int(rng.integers(len(CROPS)))]
    sketch.patches.append(Patch(outline=field, landcover="grassland" if first.grass else "cropland"))
    for crop, epochs in ((first, (True, False)), (second, (False, True))):
        spectrum = varied(mixture(**crop.shares), rng, gain=0.10, tint=0.05)
        # rows turn on the headland
        outer = _stripes(crop, heading + np.pi / 2) if crop.rows else _stripes(crop, heading)
        sketch.paint(strip, spectrum, Layer.FIELD, grain=crop.grain, stripes=outer, epochs=epochs)
        if crop.rows:
            inner = inset(strip, 9.0)
            sketch.paint(inner, spectrum, Layer.FIELD, grain=crop.grain, stripes=_stripes(crop, heading), epochs=epochs)


def _stripes(crop: Crop, angle: float) -> tuple[Stripes, ...]:
    stripes = []
    if crop.rows:
        stripes.append(Stripes(kind="rows", angle=angle, period_m=crop.rows[0], depth=crop.rows[1]))
    if crop.swath:
        stripes.append(Stripes(kind="swath", angle=angle, period_m=2 * crop.swath[0], depth=crop.swath[1]))
    if crop.tramlines:
        stripes.append(Stripes(kind="tramline", angle=angle, period_m=21.0, depth=crop.tramlines))
    return tuple(stripes)


def lay_farmland(sketch: Sketch, ground: Polygon, rng: np.random.Generator, *, pv_share: float) -> None:
    """Fields, most often with a farm on the smallest of them."""
    fields, _ = subdivide(ground, rng, area_m2=11_000.0, jitter=0.04)
    fields.sort(key=lambda field: field.area)
    rest = fields
    if fields[0].area > 2_500 and rng.random() < 0.75:
        lay_farmstead(sketch, inset(fields[0], 1.0), rng, pv_share=pv_share)
        rest = fields[1:]
    for field in rest:
        if rng.random() < 0.05 and field.area > 3_000:
            sketch.patches.append(Patch(outline=field, landcover="cropland"))
            lay_plastic_field(sketch, inset(field, 1.0), rng, dark=rng.random() < 0.5)
        else:
            lay_field(sketch, field, rng)
        if rng.random() < 0.4:
            _hedgerow(sketch, field, rng)


def _hedgerow(sketch: Sketch, field: Polygon, rng: np.random.Generator) -> None:
    corners = list(field.exterior.coords)
    side = int(rng.integers(len(corners) - 1))
    line = LineString(corners[side : side + 2])
    places = np.array([place for place, _ in along(line, 5.0)]).reshape(-1, 2)
    places = places + rng.normal(0, 1.0, places.shape)
    sketch.plant(places[rng.random(len(places)) < 0.65], rng, radius=(1.4, 4.0), conifers=0.05)


def lay_plastic_field(sketch: Sketch, field: Polygon, rng: np.random.Generator, *, dark: bool) -> None:
    """Beds under film, dark or white: one date or both."""
    if field.is_empty:
        return
    angle = frame_of(field).angle
    epochs: Epochs = ALWAYS if rng.random() < 0.6 else ((False, True) if rng.random() < 0.6 else (True, False))
    lay_bare = varied(mixture(soil=0.8, crop=0.2), rng)
    sketch.paint(field, lay_bare, Layer.FIELD, grain=Grain(fine=0.06, medium=0.06, coarse=0.08),
                 stripes=(Stripes(kind="rows", angle=angle, period_m=1.8, depth=0.12),))  # fmt: skip
    film = mixture(film_dark=0.86, soil_dark=0.14) if dark else mixture(film_white=0.78, soil=0.22)
    covered = inset(field, 3.5)
    if covered.is_empty:
        return
    sketch.paint(
        covered,
        varied(film, rng, gain=0.1, tint=0.06),
        Layer.GROUND,
        grain=Grain(fine=0.06, medium=0.05, coarse=0.06),
        stripes=(
            Stripes(kind="rows", angle=angle, period_m=1.8, depth=0.16),
            Stripes(kind="swath", angle=angle, period_m=14.4, depth=0.05),
        ),
        epochs=epochs,
    )
    sketch.confusers.append(Confuser(outline=covered, kind="plastic_cover", epochs=epochs))


def lay_forest(sketch: Sketch, ground: Polygon, rng: np.random.Generator) -> None:
    """Closed forest with a rounded edge, mixed or coniferous, on grass."""
    sketch.paint(ground, varied(mixture(grass=0.8, grass_dry=0.2), rng), Layer.FIELD,
                 grain=Grain(fine=0.06, medium=0.08, coarse=0.06))  # fmt: skip
    sketch.patches.append(Patch(outline=ground, landcover="forest"))
    wood = largest_part(inset(ground, 16.0).buffer(12.0, quad_segs=6))
    if wood.is_empty:
        return
    sketch.paint(wood, "forest_floor", Layer.GROUND, grain=Grain(fine=0.1, medium=0.15, coarse=0.05))
    conifers = float(rng.choice([0.12, 0.5, 0.88]))
    sketch.plant(scattered(wood, 4.6, rng), rng, radius=(2.0, 4.2), conifers=conifers)


def lay_lake(sketch: Sketch, ground: Polygon, rng: np.random.Generator) -> None:
    """A pond with reeds and trees on a meadow."""
    lay_field(sketch, ground, rng)
    sketch.paint(ground, varied(mixture(grass=0.8, crop=0.2), rng), Layer.GROUND,
                 grain=Grain(fine=0.06, medium=0.1, coarse=0.08))  # fmt: skip
    reach = 0.8 * np.sqrt(inset(ground, 8.0).area / np.pi)
    rough = blob((ground.centroid.x, ground.centroid.y), reach, rng).intersection(inset(ground, 9.0))
    water = largest_part(rough.buffer(-14.0).buffer(14.0, quad_segs=8))
    if water.is_empty:
        return
    add_water(sketch, water, rng)
    shore = water.exterior
    places = np.array([place for place, _ in along(shore, 5.5, offset_m=-3.5)]).reshape(-1, 2)
    sketch.plant(places[rng.random(len(places)) < 0.5], rng, radius=(1.5, 4.5), conifers=0.1)


def add_water(sketch: Sketch, water: Polygon, rng: np.random.Generator) -> None:
    """Paint a water body with its bank and enter it among patches and confusers."""
    bank = largest_part(water.buffer(1.6))
    sketch.paint(bank, varied(mixture(grass_dry=0.5, soil_dark=0.5), rng), Layer.GROUND,
                 grain=Grain(fine=0.08, medium=0.12))  # fmt: skip
    turbid = rng.uniform(0.0, 0.8)
    spectrum = varied(mixture(water=1 - turbid, water_turbid=turbid), rng)
    sketch.paint(water, spectrum, Layer.WATER, grain=WATER_GRAIN, water=True)
    sketch.confusers.append(Confuser(outline=water, kind="water"))


def lay_river(sketch: Sketch, course: LineString, width_m: float, rng: np.random.Generator) -> None:
    """A river with wooded banks; roads laid later cross it as bridges."""
    water = largest_part(course.buffer(width_m / 2))
    add_water(sketch, water, rng)
    sketch.patches.append(Patch(outline=water, landcover="water"))
    for side in (-1, 1):
        places = np.array([place for place, _ in along(course, 4.5, offset_m=side * (width_m / 2 + 3.5))])
        places = places + rng.normal(0, 1.2, places.shape)
        sketch.plant(places[rng.random(len(places)) < 0.6], rng, radius=(1.6, 4.6), conifers=0.05)
