"""Photovoltaic modules and the arrays they make on roofs; parks on the ground are in ``parks``."""

from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
from shapely import Polygon

from utils.sample.features import Layer, PvArray, PvKind, Sketch
from utils.sample.geometry import Frame, Vector
from utils.sample.roofs import RoofPlane
from utils.sample.spectra import MATERIALS, Spectrum, varied
from utils.sample.texture import Grain, ModuleGrid

MODULE_M = (1.04, 1.72)
"""Short and long side of a module, metres."""
SMALLEST_ARRAY_M2 = 15.0
"""Arrays below this ground-plane area are not built."""


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
    array = PvArray(
        outline=frame.polygon(corners), kind=bought.kind, site=bought.site, cell=bought.cell, built=bought.built
    )
    sketch.paint(
        array.outline,
        bought.spectrum,
        Layer.MODULES,
        grain=Grain(fine=0.03, medium=0.02, coarse=0.0),
        modules=_module_grid(bought, frame, corners[0], module),
        normal=normal,
        height_m=height_m,
        epochs=array.epochs,
    )
    sketch.arrays.append(array)
    return array.outline


def _module_grid(bought: Product, frame: Frame, corner: Vector, module: tuple[float, float]) -> ModuleGrid:
    return ModuleGrid(
        origin=frame.point(*corner),
        angle=frame.angle,
        module_u_m=module[0],
        module_v_m=module[1],
        line_m=0.13,
        line_strength=bought.line_strength,
        glare=bought.glare,
    )


def rectangle_corners(u: float, v: float, length: float, width: float) -> list[Vector]:
    """Corners of the rectangle from local ``(u, v)``, counter-clockwise."""
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
    cells, module = (columns, rows), (mu, mv)
    return [
        mount(sketch, bought, plane.frame, corners, module, plane.normal)
        for corners in _arrangement((u, v), cells, module, rng)
    ]


def _arrangement(
    corner: Vector, cells: tuple[int, int], module: tuple[float, float], rng: np.random.Generator
) -> list[list[Vector]]:
    """Outlines of a block of modules: whole, an L, or two groups one module apart.

    Args:
        corner: local position of its lower left corner.
        cells: modules along ``u`` and ``v``.
        module: extent of a module along ``u`` and ``v``, metres.
        rng: random stream.
    """
    (u, v), (columns, rows), (mu, mv) = corner, cells, module
    length, width, shape = columns * mu, rows * mv, rng.random()
    if shape < 0.22 and rows >= 2 and columns >= 5:
        notch = (int(rng.integers(1, columns // 2)) * mu, int(rng.integers(1, rows)) * mv)
        if length * width - notch[0] * notch[1] >= SMALLEST_ARRAY_M2:
            return [_ell(u, v, (length, width), notch)]
    if shape > 0.86 and columns >= 8 and length * width > 2.6 * SMALLEST_ARRAY_M2:
        left = columns // 2 - 1
        groups = ((u, left), (u + (left + 1) * mu, columns - left - 1))
        return [rectangle_corners(start, v, n * mu, width) for start, n in groups]
    return [rectangle_corners(u, v, length, width)]


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
            corners = rectangle_corners(u, v, length, width)
            outlines.append(mount(sketch, bought, plane.frame, corners, module, (0.0, 0.0, 1.0), height_m=0.35))
    return outlines
