"""From a size and a seed to a whole landscape."""

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LineString, Polygon

from utils.sample.countryside import lay_farmland, lay_forest, lay_lake, lay_river
from utils.sample.features import (
    TREE,
    Confuser,
    Landscape,
    Layer,
    Patch,
    Sketch,
    commissioning_day,
)
from utils.sample.geometry import Cut, Frame, along, inset, meander, subdivide
from utils.sample.industry import lay_industry, lay_nursery
from utils.sample.parks import build_park
from utils.sample.settlement import PAVING, lay_village, park_car
from utils.sample.solar import product
from utils.sample.spec import SampleSize, sample_size, stream
from utils.sample.spectra import MATERIALS, mixture, varied
from utils.sample.texture import Grain

ROAD_WIDTHS_M = (8.5, 8.5, 6.5, 6.5, 5.0)
"""Width of a road by the depth of its cut; deeper cuts are lanes of the last width."""
FARM_PV_SHARE, HALL_PV_SHARE = 0.9, 0.8
"""Share of farm buildings and of halls with modules."""


def make_landscape(size: str | SampleSize, seed: int) -> Landscape:
    """The landscape of a size and a seed: the same one every time.

    Args:
        size: a name of ``utils.sample.spec.SIZES``, or a size of one's own.
        seed: any non-negative integer.

    Raises:
        UnknownNameError: no such size.
    """
    spec = sample_size(size) if isinstance(size, str) else size
    area = shapely.box(*spec.vhr_bounds)
    sketch = Sketch(vhr_area=inset(area, 3.0))
    rng = stream(seed, "layout")
    extent = shapely.box(*spec.msi_bounds)
    ground = extent.buffer(30.0, join_style="mitre")
    sketch.paint(
        ground, mixture(grass=0.7, grass_dry=0.3), Layer.LAND, grain=Grain(fine=0.06, medium=0.08, coarse=0.06)
    )
    if spec.has_river:
        _river(sketch, spec, seed)
    districts, cuts = subdivide(ground, rng, area_m2=spec.district_m2, jitter=0.09, first_turn=0.32)
    _roads(sketch, cuts, seed)
    for number, (district, kind) in enumerate(zip(districts, _kinds(spec, districts, rng), strict=True)):
        _lay(sketch, spec, kind, inset(district, 6.0), stream(seed, "district", number))
    return _finished(sketch, spec, seed)


def _kinds(spec: SampleSize, districts: list[Polygon], rng: np.random.Generator) -> list[str]:
    """Kind of every district: the size's quota inside the VHR area, farmland, forest and hamlets outside."""
    area = shapely.box(*spec.vhr_bounds)
    inside = [i for i, d in enumerate(districts) if d.intersection(area).area > 0.6 * d.area]
    kinds = [str(kind) for kind in rng.choice(["farmland", "forest", "village"], len(districts), p=[0.68, 0.2, 0.12])]
    quota = dict(spec.districts)
    west, south, east, north = spec.vhr_bounds
    centres = np.column_stack(
        [rng.uniform(west, east, spec.village_centres), rng.uniform(south, north, spec.village_centres)]
    )
    places = np.array([[districts[i].centroid.x, districts[i].centroid.y] for i in inside])
    distance = np.min(np.linalg.norm(places[:, None] - centres[None], axis=2), axis=1)
    order = [inside[k] for k in np.argsort(distance)]
    villages = order[: quota.pop("village", 0)]
    rest = sorted(order[len(villages) :], key=lambda i: -districts[i].area)
    special = [kind for kind, count in quota.items() for _ in range(count)]
    for i in inside:
        kinds[i] = "farmland"
    for i in villages:
        kinds[i] = "village"
    # spread the special kinds evenly over the remaining districts, large ones first
    roomy = rest[: max(len(special), int(0.8 * len(rest)))]
    for kind, i in zip(special, rng.permutation(roomy), strict=False):
        kinds[int(i)] = kind
    return kinds


def _lay(sketch: Sketch, spec: SampleSize, kind: str, ground: Polygon, rng: np.random.Generator) -> None:
    if ground.is_empty or ground.area < 600:
        return
    if kind == "village":
        lay_village(sketch, ground, rng, pv_share=spec.home_pv_share)
    elif kind == "industry":
        lay_industry(sketch, ground, rng, pv_share=HALL_PV_SHARE)
    elif kind == "nursery":
        lay_nursery(sketch, ground, rng)
    elif kind == "forest":
        lay_forest(sketch, ground, rng)
    elif kind == "lake":
        lay_lake(sketch, ground, rng)
    elif kind == "park":
        _park(sketch, ground, rng)
    else:
        lay_farmland(sketch, ground, rng, pv_share=FARM_PV_SHARE)


def _park(sketch: Sketch, ground: Polygon, rng: np.random.Generator) -> None:
    site = f"site-{ground.centroid.x:.1f}-{ground.centroid.y:.1f}"
    inside = inset(ground.intersection(sketch.vhr_area), 0.5)
    lot = inside.difference(sketch.river.buffer(12)) if not sketch.river.is_empty else inside
    lot = max(shapely.get_parts(lot), key=lambda part: part.area)
    sketch.patches.append(Patch(outline=ground, landcover="grassland"))
    build_park(sketch, lot.convex_hull if lot.equals(inside) else inset(lot, 0.1), product(
        site, "ground", commissioning_day(rng, new_share=0.5), rng), rng)  # fmt: skip


def _river(sketch: Sketch, spec: SampleSize, seed: int) -> None:
    rng = stream(seed, "river")
    west, south, east, north = spec.msi_bounds
    height = north - south
    start = (west - 60, south + height * rng.uniform(0.25, 0.45))
    end = (east + 60, south + height * rng.uniform(0.55, 0.75))
    course = meander(start, end, rng, sway_m=55.0)
    width = rng.uniform(9.0, 14.0)
    sketch.river = course.buffer(width / 2 + 6.0)
    lay_river(sketch, course, width, rng)


def _roads(sketch: Sketch, cuts: list[Cut], seed: int) -> None:
    for number, cut in enumerate(cuts):
        rng = stream(seed, "road", number)
        width = ROAD_WIDTHS_M[min(cut.depth, len(ROAD_WIDTHS_M) - 1)]
        main = cut.depth < 2
        track = cut.depth > 4 and rng.random() < 0.3
        material = "track" if track else ("asphalt" if rng.random() < 0.6 else "asphalt_new")
        verge = varied(mixture(grass_dry=0.55, gravel=0.45), rng)
        sketch.paint(cut.line.buffer(width / 2 + 0.7, cap_style="square"), verge, Layer.GROUND, grain=PAVING)
        surface = cut.line.buffer(width / 2, cap_style="square")
        sketch.paint(surface, varied(MATERIALS[material], rng), Layer.PAVED, grain=PAVING)
        sketch.patches.append(Patch(outline=surface, landcover="road"))
        if not track:
            _markings(sketch, cut.line, width, main=main)
        _traffic(sketch, cut.line, width, rng, spacing=45.0 if main else 130.0)
        if rng.random() < 0.35:
            _avenue(sketch, cut.line, width, rng)


def _markings(sketch: Sketch, line: LineString, width: float, *, main: bool) -> None:
    if width < 6:
        return
    for (x, y), angle in along(line, 9.0):
        dash = Frame(centre=(x, y), angle=angle, length=4.0, width=0.16)
        sketch.paint(dash.outline, "paint_white", Layer.MARKING)
    if main:
        for side in (-1, 1):
            edge = line.offset_curve(side * (width / 2 - 0.35)).buffer(0.08, cap_style="flat")
            sketch.paint(edge, "paint_white", Layer.MARKING)


def _traffic(sketch: Sketch, line: LineString, width: float, rng: np.random.Generator, *, spacing: float) -> None:
    for side in (-1, 1):
        for (x, y), angle in along(line, spacing, offset_m=side * width / 4):
            if rng.random() < 0.6:
                place = Frame(centre=(x, y), angle=angle, length=5, width=2).part(rng.uniform(-20, 20), 0, 5, 2)
                park_car(sketch, place, rng)


def _avenue(sketch: Sketch, line: LineString, width: float, rng: np.random.Generator) -> None:
    for side in (-1, 1):
        places = np.array([place for place, _ in along(line, 11.0, offset_m=side * (width / 2 + 2.2))]).reshape(-1, 2)
        sketch.plant(places[rng.random(len(places)) < 0.7], rng, radius=(1.8, 3.4), conifers=0.0)


def _finished(sketch: Sketch, spec: SampleSize, seed: int) -> Landscape:
    area = shapely.box(*spec.vhr_bounds)
    confusers = [c for c in sketch.confusers if c.outline.intersects(area)]
    return Landscape(
        size=spec,
        seed=seed,
        surfaces=tuple(sketch.surfaces),
        trees=_cleared(sketch),
        buildings=tuple(sketch.buildings),
        arrays=tuple(sketch.arrays),
        parks=tuple(sketch.parks),
        confusers=tuple(_clipped(c, area) for c in confusers),
        patches=tuple(sketch.patches),
    )


def _clipped(confuser: Confuser, area: Polygon) -> Confuser:
    part = max(shapely.get_parts(confuser.outline.intersection(area)), key=lambda piece: piece.area)
    return Confuser(outline=part, kind=confuser.kind, epochs=confuser.epochs)


def _cleared(sketch: Sketch) -> NDArray[np.void]:
    """Trees whose crowns reach over no building, module, street or water."""
    trees = np.concatenate(sketch.trees) if sketch.trees else np.zeros(0, TREE)
    solid = [s.outline for s in sketch.surfaces if s.layer in (Layer.ROOF, Layer.MODULES)]
    solid += [s.outline.buffer(-1.2) for s in sketch.surfaces if s.layer in (Layer.PAVED, Layer.WATER)]
    index = shapely.STRtree(solid)
    points = shapely.points(trees["x"], trees["y"])
    hit, _ = index.query(points, predicate="dwithin", distance=1.25 * trees["radius_m"].astype(np.float64) + 0.3)
    keep = np.ones(len(trees), bool)
    keep[hit] = False
    return trees[keep]
