"""Photovoltaic parks: rows of tables facing south inside a fence."""

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from utils.sample.features import Building, Epochs, Layer, Park, Sketch, epochs_since
from utils.sample.geometry import Frame, inset
from utils.sample.solar import MODULE_M, Product, mount, rectangle_corners
from utils.sample.spectra import mixture, varied
from utils.sample.texture import Grain, Stripes

FENCE_TO_MODULES_M = 6.0
"""Least distance from the fence to a table, metres."""
LARGEST_PARK_M2 = 11_500.0
"""Most module area of one park on the ground plane, m²."""


def build_park(sketch: Sketch, ground: Polygon, bought: Product, rng: np.random.Generator) -> None:
    """A fenced park: parallel rows of tables facing south, grass between them, a station and a track.

    Args:
        sketch: where it is built.
        ground: convex ground to fill.
        bought: the modules.
        rng: random stream.
    """
    epochs = epochs_since(bought.built)
    fence = inset(ground, 5.0)
    _park_ground(sketch, ground, fence, epochs, rng)
    block = inset(fence, FENCE_TO_MODULES_M)
    if block.is_empty:
        return
    tilt, module_rows = np.radians(rng.uniform(15, 28)), int(rng.integers(3, 6))
    module = (MODULE_M[0], MODULE_M[1] * np.cos(tilt))
    depth, gap = module_rows * module[1], rng.uniform(3.4, 6.0)
    angle = rng.normal(0.0, 0.05)
    normal = (np.sin(angle) * np.sin(tilt), -np.cos(angle) * np.sin(tilt), float(np.cos(tilt)))
    centre = (block.centroid.x, block.centroid.y)
    reach = Frame(centre=centre, angle=angle, length=600.0, width=600.0)
    total = 0.0
    for v in np.arange(-250.0, 250.0, depth + gap):
        row = reach.rectangle(-300, v, 300, v + depth)
        for start, length in _tables(reach, block, row, v, depth, module[0], rng):
            if total + length * depth > LARGEST_PARK_M2:
                continue
            total += length * depth
            corners = rectangle_corners(start, v, length, depth)
            mount(sketch, bought, reach, corners, module, normal, height_m=1.6)
    sketch.parks.append(Park(site=bought.site, fence=fence, built=bought.built))


def _tables(
    reach: Frame, block: Polygon, row: Polygon, v: float, depth: float, module_u: float, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Start and length along the row of the tables that fit into the block, whole modules each."""
    inside = shapely.intersection(row, block)
    if inside.is_empty:
        return []
    cos, sin = np.cos(reach.angle), np.sin(reach.angle)

    def local_u(geometry: shapely.Geometry) -> NDArray[np.float64]:
        points = shapely.get_coordinates(geometry) - reach.centre
        return np.asarray(points[:, 0] * cos + points[:, 1] * sin)

    edges = [shapely.LineString([reach.point(-300, y), reach.point(300, y)]) for y in (v, v + depth)]
    spans = [local_u(shapely.intersection(edge, block)) for edge in edges]
    if any(len(span) < 2 for span in spans):
        return []
    start, end = max(span.min() for span in spans), min(span.max() for span in spans)
    tables, here = [], start
    while end - here > 12.0:
        length = min(end - here, rng.uniform(60, 130))
        if end - here - length < 14.0:
            length = end - here
        whole = int(length / module_u) * module_u
        tables.append((float(here), float(whole)))
        here += length + rng.uniform(1.5, 4.0)
    return tables


def _park_ground(sketch: Sketch, ground: Polygon, fence: Polygon, epochs: Epochs, rng: np.random.Generator) -> None:
    grass = varied(mixture(grass=0.6, grass_dry=0.3, soil=0.1), rng)
    mown = (Stripes(kind="swath", angle=rng.uniform(0, np.pi), period_m=7.0, depth=0.05),)
    meadow = Grain(fine=0.05, medium=0.08, coarse=0.07)
    sketch.paint(ground, grass, Layer.FIELD, grain=meadow, stripes=mown)
    if not all(epochs):
        crop = varied(mixture(crop=0.45, crop_ripe=0.5, soil=0.05), rng)
        lines = (Stripes(kind="tramline", angle=rng.uniform(0, np.pi), period_m=21.0, depth=0.22),)
        before = (not epochs[0], not epochs[1])
        sketch.paint(ground, crop, Layer.GROUND, grain=meadow, stripes=lines, epochs=before)
    for piece in _without_hole(fence.exterior.buffer(0.18, join_style="mitre")):
        sketch.paint(piece, "fence", Layer.LOW, epochs=epochs)
    lane = inset(fence, 1.6)
    for piece in _without_hole(lane.exterior.buffer(1.3, join_style="mitre")):
        sketch.paint(piece, "track", Layer.PAVED, grain=Grain(fine=0.05, medium=0.08), epochs=epochs)
    corner = min(inset(fence, 3.4).exterior.coords[:-1], key=sum)
    station = Frame(centre=corner, angle=float(rng.uniform(0, np.pi)), length=4.0, width=2.4)
    sketch.paint(station.outline, "membrane", Layer.ROOF, height_m=3.0, epochs=epochs)
    sketch.buildings.append(
        Building(footprint=station.outline, kind="station", height_m=3.0, dark=False, epochs=epochs)
    )


def _without_hole(ring: shapely.Geometry) -> list[Polygon]:
    """A ring-shaped polygon as pieces without holes."""
    west, south, east, north = ring.bounds
    middle = (west + east) / 2
    halves = (shapely.box(west - 1, south - 1, middle, north + 1), shapely.box(middle, south - 1, east + 1, north + 1))
    return [
        part
        for half in halves
        for part in shapely.get_parts(ring.intersection(half))
        if isinstance(part, Polygon) and not part.interiors
    ]
