"""Photovoltaics: arrays on roofs and parks on the ground."""

from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import shapely
from shapely import Polygon

from utils.sample.features import Building, Epochs, Layer, Park, PvArray, PvKind, Sketch, epochs_since
from utils.sample.geometry import Frame, Vector, inset
from utils.sample.roofs import RoofPlane
from utils.sample.spectra import MATERIALS, Spectrum, mixture, varied
from utils.sample.texture import Grain, ModuleGrid, Stripes

MODULE_M = (1.04, 1.72)
"""Short and long side of a module, metres."""
SMALLEST_ARRAY_M2 = 15.0
"""Arrays below this ground-plane area are not built."""
FENCE_TO_MODULES_M = 6.0


@dataclass(frozen=True, kw_only=True)
class Product:
    """What one owner bought: all arrays of a site look alike."""

    site: str
    """Id of the roof or park."""
    kind: PvKind
    """On a roof or on the ground."""
    built: date
    """Day of commissioning."""
    cell: Literal["poly", "mono"]
    """Crystalline type."""
    spectrum: Spectrum
    """Reflectance of the modules."""
    line_strength: float
    """How visible the joints between modules are, 0 to 1."""
    glare: float
    """Specular reflectance at the brightest corner."""


def product(site: str, kind: PvKind, built: date, rng: np.random.Generator) -> Product:
    """Modules as they were sold at the time: bluish polycrystalline early, near-black monocrystalline later."""
    poly_share = 0.75 if built.year < 2016 else 0.3
    cell: Literal["poly", "mono"] = "poly" if rng.random() < poly_share else "mono"
    base = MATERIALS[f"pv_{cell}"] * np.float32(0.96) + MATERIALS["frame"] * np.float32(0.04)
    strength = rng.uniform(0.2, 0.5) if cell == "poly" else rng.uniform(0.05, 0.25)
    return Product(
        site=site,
        kind=kind,
        built=built,
        cell=cell,
        spectrum=varied(base, rng, gain=0.2, tint=0.07),
        line_strength=float(strength),
        glare=float(rng.uniform(0.03, 0.09)) if rng.random() < 0.12 else 0.0,
    )


def mount(
    sketch: Sketch,
    bought: Product,
    frame: Frame,
    corners: list[Vector],
    module: tuple[float, float],
    normal: tuple[float, float, float],
    *,
    height_m: float = 0.0,
) -> Polygon:
    """Build one array: paint its modules and enter it in the truth.

    Args:
        sketch: where it is built.
        bought: its modules.
        frame: axes of the roof plane or table.
        corners: outline in the frame's local coordinates; the first corner is the module grid's origin.
        module: extent of a module along ``u`` and ``v`` on the ground plane, metres.
        normal: unit normal of the modules.
        height_m: height of the shadow-casting edge, metres.
    """
    outline = frame.polygon(corners)
    grid = ModuleGrid(
        origin=frame.point(*corners[0]),
        angle=frame.angle,
        module_u_m=module[0],
        module_v_m=module[1],
        line_m=0.13,
        line_strength=bought.line_strength,
        glare=bought.glare,
    )
    sketch.paint(
        outline,
        bought.spectrum,
        Layer.MODULES,
        grain=Grain(fine=0.03, medium=0.02, coarse=0.0),
        modules=grid,
        normal=normal,
        height_m=height_m,
        epochs=epochs_since(bought.built),
    )
    sketch.arrays.append(
        PvArray(outline=outline, kind=bought.kind, site=bought.site, cell=bought.cell, built=bought.built)
    )
    return outline


def _rectangle(u: float, v: float, length: float, width: float) -> list[Vector]:
    return [(u, v), (u + length, v), (u + length, v + width), (u, v + width)]


def _ell(u: float, v: float, size: Vector, notch: Vector) -> list[Vector]:
    """A rectangle without its upper right corner."""
    (length, width), (nu, nv) = size, notch
    return [(u, v), (u + length, v), (u + length, v + width - nv), (u + length - nu, v + width - nv),
            (u + length - nu, v + width), (u, v + width)]  # fmt: skip


def mount_on_slope(
    sketch: Sketch, plane: RoofPlane, bought: Product, target_m2: float, rng: np.random.Generator
) -> list[Polygon]:
    """Arrays on one sloping roof plane: a rectangle, an L, or two groups; none where the plane is too small.

    Args:
        sketch: where they are built.
        plane: the roof plane.
        bought: the modules.
        target_m2: module area aimed at, m² on the ground plane.
        rng: random stream.
    """
    upright = rng.random() < 0.65
    short, long = MODULE_M
    mu = short if upright else long
    mv = (long if upright else short) * np.cos(plane.pitch)
    most_u, most_v = int((plane.frame.length - 0.9) / mu), int((plane.frame.width - 0.6) / mv)
    if most_u < 3 or most_v < 1 or most_u * most_v * mu * mv < SMALLEST_ARRAY_M2:
        return []
    rows = int(np.clip(round(np.sqrt(target_m2 / 2.0) / mv), 1, most_v))
    while rows < most_v and most_u * rows * mu * mv < min(target_m2, SMALLEST_ARRAY_M2 * 1.3):
        rows += 1
    columns = int(
        np.clip(round(target_m2 / (rows * mu * mv)), int(np.ceil(SMALLEST_ARRAY_M2 / (rows * mu * mv))), most_u)
    )
    free_u, free_v = plane.frame.length - 0.8 - columns * mu, plane.frame.width - 0.5 - rows * mv
    u = -plane.frame.length / 2 + 0.4 + max(free_u, 0.0) * rng.uniform(0.1, 0.9)
    v = -plane.frame.width / 2 + 0.3 + max(free_v, 0.0) * rng.uniform(0.2, 0.9)
    length, width, module = columns * mu, rows * mv, (mu, mv)
    shape = rng.random()
    if shape < 0.22 and rows >= 2 and columns >= 5:
        notch = (int(rng.integers(1, columns // 2)) * mu, int(rng.integers(1, rows)) * mv)
        if length * width - notch[0] * notch[1] >= SMALLEST_ARRAY_M2:
            return [mount(sketch, bought, plane.frame, _ell(u, v, (length, width), notch), module, plane.normal)]
    if shape > 0.86 and columns >= 8 and length * width > 2.6 * SMALLEST_ARRAY_M2:
        left = columns // 2 - 1
        parts = [(u, left), (u + (left + 1) * mu, columns - left - 1)]
        return [
            mount(sketch, bought, plane.frame, _rectangle(start, v, n * mu, width), module, plane.normal)
            for start, n in parts
        ]
    return [mount(sketch, bought, plane.frame, _rectangle(u, v, length, width), module, plane.normal)]


def mount_on_flat_roof(
    sketch: Sketch, plane: RoofPlane, bought: Product, target_m2: float, rng: np.random.Generator
) -> list[Polygon]:
    """Blocks of closely set modules on a flat roof, divided by walkways.

    Args:
        sketch: where they are built.
        plane: the roof.
        bought: the modules.
        target_m2: module area aimed at, m²; a block holds at most 1,500 m².
        rng: random stream.
    """
    short, long = MODULE_M
    module = (long, short)
    usable_u, usable_v = plane.frame.length - 4.0, plane.frame.width - 4.0
    across = max(1, round(usable_u / rng.uniform(18, 40)))
    down = max(1, round(usable_v / rng.uniform(12, 24)))
    walkway = rng.uniform(1.2, 2.4)
    columns = int((usable_u / across - walkway) / module[0])
    rows = int((usable_v / down - walkway) / module[1])
    if columns < 3 or rows < 3:
        return []
    length, width = columns * module[0], rows * module[1]
    wanted = int(np.clip(round(target_m2 / (length * width)), 1, across * down))
    order = [(i, j) for i in range(across) for j in range(down)]
    if rng.random() < 0.5:
        order.reverse()
    outlines = []
    for i, j in order[:wanted]:
        u = -usable_u / 2 + (i + 0.5) * usable_u / across - length / 2
        v = -usable_v / 2 + (j + 0.5) * usable_v / down - width / 2
        if length * width >= SMALLEST_ARRAY_M2:
            corners = _rectangle(u, v, length, width)
            outlines.append(mount(sketch, bought, plane.frame, corners, module, (0.0, 0.0, 1.0), height_m=0.35))
    return outlines


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
            if total + length * depth > 11_500:
                continue
            total += length * depth
            corners = _rectangle(start, v, length, depth)
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

    def local_u(geometry: shapely.Geometry) -> np.ndarray:
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
