"""Buildings with roof planes, what sits on them, and the arrays mounted on them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from shapely import Polygon

from utils.sample.features import ALWAYS, Building, Confuser, Epochs, Layer, Sketch
from utils.sample.geometry import Frame
from utils.sample.spectra import MATERIALS, Spectrum, varied
from utils.sample.texture import Grain, Stripes

DARK_ROOFS = frozenset({"slate", "bitumen"})
"""Roof materials a colour rule takes for photovoltaics."""

PITCHED_ROOFS = {
    "tile_red": 0.33,
    "tile_orange": 0.12,
    "tile_brown": 0.17,
    "tile_grey": 0.14,
    "slate": 0.24,
    "metal_green": 0.02,
    "metal_blue": 0.02,
}
FLAT_ROOFS = {"gravel": 0.3, "bitumen": 0.22, "membrane": 0.22, "metal": 0.1, "sedum": 0.1, "metal_blue": 0.06}
"""Roof material → share."""


@dataclass(frozen=True, kw_only=True)
class RoofPlane:
    """One flat part of a roof that can carry modules."""

    frame: Frame
    """Its outline on the ground plane: ``u`` along the ridge, ``v`` up the slope."""
    pitch: float
    """Slope, radians."""
    normal: tuple[float, float, float]
    """Unit normal, east, north, up."""


@dataclass(frozen=True, kw_only=True)
class House:
    """One building as it is being put up."""

    frame: Frame
    """Footprint, ``u`` along the ridge."""
    shape: Literal["gable", "hip", "flat"]
    """Shape of the roof."""
    material: str
    """Roofing."""
    kind: str
    """Kind of building, as in the context table."""
    height_m: float
    """Ridge height, metres."""
    pitch: float
    """Slope of the roof, radians; 0 when flat."""
    epochs: Epochs = ALWAYS
    """Whether it stands at each acquisition."""


def drawn(shares: dict[str, float], rng: np.random.Generator) -> str:
    """One name, drawn with its share."""
    weights = np.array(list(shares.values()))
    return str(rng.choice(list(shares), p=weights / weights.sum()))


def _normal(down: tuple[float, float], pitch: float) -> tuple[float, float, float]:
    return down[0] * np.sin(pitch), down[1] * np.sin(pitch), float(np.cos(pitch))


def _slopes(house: House) -> list[tuple[RoofPlane, Polygon]]:
    """The two long planes of a pitched roof, each with its outline."""
    frame = house.frame
    half_l, half_w = frame.length / 2, frame.width / 2
    run = half_w if house.shape == "hip" else 0.0
    planes = []
    for side in (-1.0, 1.0):
        corners = [(-half_l, side * half_w), (half_l, side * half_w), (half_l - run, 0.0), (-half_l + run, 0.0)]
        down = (-side * np.sin(frame.angle), side * np.cos(frame.angle))
        usable = Frame(
            centre=frame.point(0.0, side * half_w / 2),
            angle=frame.angle + (0.0 if side < 0 else np.pi),
            length=frame.length - 1.3 * run,
            width=half_w,
        )
        planes.append(
            (RoofPlane(frame=usable, pitch=house.pitch, normal=_normal(down, house.pitch)), frame.polygon(corners))
        )
    return planes


def _hip_ends(house: House) -> list[tuple[tuple[float, float, float], Polygon]]:
    frame = house.frame
    half_l, half_w = frame.length / 2, frame.width / 2
    ends = []
    for side in (-1.0, 1.0):
        outline = frame.polygon([(side * half_l, -half_w), (side * half_l, half_w), (side * (half_l - half_w), 0.0)])
        down = (side * np.cos(frame.angle), side * np.sin(frame.angle))
        ends.append((_normal(down, house.pitch), outline))
    return ends


def raise_house(sketch: Sketch, house: House, rng: np.random.Generator) -> tuple[list[RoofPlane], Spectrum]:
    """Paint a building, enter it in the context table, and hand back its roof planes and its roof's spectrum."""
    frame, spectrum = house.frame, varied(MATERIALS[house.material], rng, gain=0.12, tint=0.05)
    planes: list[RoofPlane]
    if house.shape == "flat":
        planes = [RoofPlane(frame=frame, pitch=0.0, normal=(0.0, 0.0, 1.0))]
        _flat_roof(sketch, house, spectrum)
    else:
        planes = _pitched_roof(sketch, house, spectrum)
    sketch.buildings.append(
        Building(
            footprint=frame.outline,
            kind=house.kind,
            height_m=house.height_m,
            dark=house.material in DARK_ROOFS,
            epochs=house.epochs,
        )
    )
    return planes, spectrum


def _pitched_roof(sketch: Sketch, house: House, spectrum: Spectrum) -> list[RoofPlane]:
    frame = house.frame
    # invisible from above: it only casts the shadow of the whole volume
    sketch.paint(frame.outline, spectrum, Layer.ROOF, height_m=house.height_m * 0.86, epochs=house.epochs)
    courses = (Stripes(kind="rows", angle=frame.angle, period_m=0.68, depth=0.035),)
    grain = Grain(fine=0.05, medium=0.035, coarse=0.02)
    slopes = _slopes(house)
    ends = _hip_ends(house) if house.shape == "hip" else []
    for normal, outline in [(plane.normal, outline) for plane, outline in slopes] + ends:
        sketch.paint(outline, spectrum, Layer.ROOF, grain=grain, stripes=courses, normal=normal, epochs=house.epochs)
    run = frame.width / 2 if house.shape == "hip" else 0.0
    ridge = frame.rectangle(-frame.length / 2 + run, -0.14, frame.length / 2 - run, 0.14)
    sketch.paint(ridge, spectrum * np.float32(1.25), Layer.ROOF_DETAIL, epochs=house.epochs)
    return [plane for plane, _ in slopes]


def _flat_roof(sketch: Sketch, house: House, spectrum: Spectrum) -> None:
    frame = house.frame
    rim = np.minimum(spectrum * np.float32(1.35) + np.float32(0.05), 0.7).astype(np.float32)
    sketch.paint(frame.outline, rim, Layer.ROOF, height_m=house.height_m, epochs=house.epochs)
    field = frame.rectangle(
        -frame.length / 2 + 0.4, -frame.width / 2 + 0.4, frame.length / 2 - 0.4, frame.width / 2 - 0.4
    )
    ribbed = house.material.startswith("metal")
    stripes = (Stripes(kind="ribs", angle=frame.angle + np.pi / 2, period_m=1.0, depth=0.10),) if ribbed else ()
    grain = Grain(fine=0.03, medium=0.04, coarse=0.035)
    sketch.paint(field, spectrum, Layer.ROOF_DETAIL, grain=grain, stripes=stripes, epochs=house.epochs)


def furnish_pitched_roof(
    sketch: Sketch, house: House, planes: list[RoofPlane], arrays: list[Polygon], rng: np.random.Generator
) -> None:
    """Chimney and roof windows where no array is."""
    frame = house.frame
    for _ in range(int(rng.integers(1, 3))):
        u, v = rng.uniform(-0.35, 0.35) * frame.length, rng.uniform(-0.12, 0.12) * frame.width
        chimney = frame.part(u, v, rng.uniform(0.6, 1.0), 0.6).outline
        if not any(chimney.distance(array) < 0.4 for array in arrays):
            shade = MATERIALS["tile_grey"] * np.float32(rng.uniform(0.4, 1.2))
            sketch.paint(chimney, shade, Layer.ROOF_OBJECT, height_m=1.4, epochs=house.epochs)
    for plane in planes:
        for _ in range(int(rng.integers(0, 4))):
            slope = plane.frame
            u, v = rng.uniform(-0.4, 0.4) * slope.length, rng.uniform(-0.25, 0.3) * slope.width
            window = slope.part(u, v, 0.8, 1.1).outline
            if not any(window.distance(array) < 0.5 for array in arrays):
                glass = varied(MATERIALS["glass_dark"] * np.float32(0.7), rng, gain=0.3)
                sketch.paint(window, glass, Layer.ROOF_OBJECT, normal=plane.normal, epochs=house.epochs)


def furnish_flat_roof(sketch: Sketch, house: House, arrays: list[Polygon], rng: np.random.Generator) -> None:
    """Skylights, ventilation and air conditioning where no array is."""
    frame = house.frame
    count = int(np.clip(frame.length * frame.width / 90, 1, 30))
    for _ in range(count):
        u, v = rng.uniform(-0.44, 0.44) * frame.length, rng.uniform(-0.42, 0.42) * frame.width
        kind = rng.random()
        if kind < 0.5:
            item, material, height = frame.part(u, v, 2.4, 1.4).outline, "membrane", 0.5
        elif kind < 0.8:
            item, material, height = frame.part(u, v, rng.uniform(1, 3), rng.uniform(1, 2)).outline, "metal", 1.6
        else:
            item, material, height = frame.part(u, v, 1.2, 1.2).outline, "glass_dark", 0.4
        if frame.outline.contains(item) and not any(item.distance(array) < 0.8 for array in arrays):
            spectrum = varied(MATERIALS[material], rng, gain=0.2)
            sketch.paint(item, spectrum, Layer.ROOF_OBJECT, height_m=height, epochs=house.epochs)


def note_dark_roof(sketch: Sketch, house: House, arrays: list[Polygon]) -> None:
    """Enter a dark roof without modules among the confusers."""
    if house.material in DARK_ROOFS and not arrays:
        sketch.confusers.append(Confuser(outline=house.frame.outline, kind="dark_roof", epochs=house.epochs))
