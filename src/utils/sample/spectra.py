"""Reflectance of the land's materials in the 12 Sentinel-2 bands, and their mixtures.

Values are approximate surface reflectances made for this sample, not measurements. Their *shapes* follow:

- photovoltaic modules: Ji et al. 2021, Remote Sensing of Environment 266, 112692 (low reflectance throughout the
  visible and near infrared, a small peak in the blue, a rise beyond silicon's band gap at 1.1 µm held down by the
  hydrocarbon absorptions of the encapsulant at 1.73 and 2.31 µm);
- vegetation, soil, water, asphalt, roof tiles, slate, metal and plastic: the types in the USGS Spectral Library
  version 7 (Kokaly et al. 2017, USGS Data Series 1035) and in the ECOSTRESS library (Meerdink et al. 2019,
  Remote Sensing of Environment 230, 111196).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from utils.types import S2_L2A_BANDS

Spectrum = NDArray[np.float32]
"""Reflectance 0 to 1, one value per band of ``utils.types.S2_L2A_BANDS``, shape (12,)."""

RGB_BANDS = tuple(S2_L2A_BANDS.index(band) for band in ("B04", "B03", "B02"))
"""Positions of red, green and blue in a spectrum; the VHR colours come from the same numbers as the MSI bands."""

DIFFUSE_SHARE = np.array(
    [0.46, 0.41, 0.31, 0.24, 0.23, 0.21, 0.20, 0.19, 0.18, 0.17, 0.11, 0.08],
    np.float32,
)
"""Share of a band's irradiance that reaches a full shadow (sky light), shape (12,)."""

# per mille: B01  B02  B03  B04  B05  B06  B07  B08  B8A  B09  B11  B12
_PER_MILLE: Mapping[str, tuple[int, ...]] = {
    "grass": (30, 38, 75, 50, 115, 270, 330, 350, 362, 365, 215, 115),
    "grass_dry": (55, 72, 115, 130, 170, 235, 265, 290, 305, 315, 320, 220),
    "crop": (23, 30, 62, 32, 90, 310, 400, 430, 442, 440, 185, 85),
    "crop_ripe": (65, 88, 142, 182, 215, 250, 275, 305, 322, 335, 350, 245),
    "rapeseed": (32, 42, 105, 80, 150, 310, 375, 400, 412, 415, 230, 120),
    "soil": (62, 82, 115, 152, 172, 192, 208, 225, 238, 250, 320, 280),
    "soil_dark": (40, 52, 72, 94, 108, 122, 134, 147, 158, 168, 215, 185),
    "broadleaf": (18, 24, 46, 26, 78, 265, 335, 362, 374, 372, 170, 75),
    "conifer": (14, 19, 31, 21, 46, 130, 168, 184, 192, 192, 88, 40),
    "forest_floor": (22, 28, 42, 36, 60, 130, 160, 175, 185, 190, 140, 80),
    "water": (48, 47, 42, 29, 22, 14, 13, 11, 10, 9, 5, 3),
    "water_turbid": (58, 62, 70, 54, 48, 30, 28, 23, 21, 18, 8, 5),
    "pool": (120, 235, 290, 125, 60, 30, 25, 18, 16, 12, 5, 3),
    "asphalt": (88, 98, 112, 122, 128, 134, 139, 144, 148, 150, 170, 160),
    "asphalt_new": (54, 64, 64, 57, 61, 65, 68, 72, 75, 78, 100, 96),
    "concrete": (200, 228, 268, 296, 308, 316, 322, 328, 334, 338, 370, 350),
    "gravel": (145, 172, 208, 236, 248, 258, 265, 272, 278, 282, 320, 305),
    "track": (105, 128, 162, 192, 206, 216, 224, 234, 242, 248, 300, 270),
    "tile_red": (50, 60, 88, 192, 225, 255, 275, 288, 298, 310, 355, 335),
    "tile_orange": (62, 80, 135, 268, 305, 335, 352, 365, 372, 380, 420, 395),
    "tile_brown": (44, 52, 72, 116, 135, 152, 164, 174, 182, 192, 235, 220),
    "tile_grey": (98, 108, 122, 133, 139, 145, 150, 156, 161, 166, 200, 195),
    "slate": (60, 68, 67, 58, 60, 63, 67, 70, 74, 78, 108, 112),
    "bitumen": (42, 47, 48, 45, 48, 51, 54, 57, 60, 64, 82, 86),
    "membrane": (380, 450, 490, 505, 508, 508, 505, 502, 500, 490, 380, 310),
    "metal": (235, 265, 290, 302, 308, 314, 318, 322, 326, 330, 380, 360),
    "metal_blue": (100, 124, 104, 68, 66, 74, 86, 100, 112, 126, 205, 195),
    "metal_green": (70, 88, 128, 92, 88, 98, 120, 150, 165, 178, 225, 205),
    "sedum": (50, 62, 90, 98, 130, 185, 205, 222, 232, 240, 250, 190),
    "glass": (165, 195, 225, 205, 225, 300, 330, 345, 350, 345, 215, 150),
    "glass_dark": (78, 92, 92, 74, 92, 160, 192, 208, 214, 212, 130, 90),
    "film_white": (370, 430, 450, 455, 458, 462, 465, 465, 462, 450, 360, 285),
    "film_dark": (66, 74, 66, 52, 54, 62, 69, 77, 84, 91, 110, 84),
    "pv_poly": (75, 77, 62, 49, 47, 50, 56, 64, 75, 108, 158, 118),
    "pv_mono": (44, 45, 38, 33, 33, 36, 40, 47, 56, 90, 138, 98),
    "frame": (180, 195, 205, 208, 210, 212, 214, 218, 222, 228, 260, 240),
    "fence": (120, 128, 132, 130, 132, 140, 146, 152, 158, 164, 190, 180),
    "paint_white": (480, 540, 570, 580, 585, 588, 590, 590, 590, 585, 540, 470),
    "paint_black": (26, 27, 27, 27, 29, 30, 31, 32, 34, 36, 46, 46),
    "paint_red": (30, 32, 36, 240, 320, 360, 380, 395, 400, 405, 400, 360),
    "paint_blue": (95, 120, 70, 45, 46, 60, 90, 130, 150, 170, 220, 200),
    "cloud": (620, 630, 640, 650, 655, 660, 662, 664, 660, 560, 480, 360),
}

MATERIALS: Mapping[str, Spectrum] = {
    name: np.asarray(values, np.float32) / np.float32(1000) for name, values in _PER_MILLE.items()
}
"""Material → spectrum."""

WATERS = frozenset({"water", "water_turbid", "pool"})
"""Materials that scene classification calls water."""


def mixture(**shares: float) -> Spectrum:
    """Area-weighted spectrum of materials; shares are scaled to add up to one."""
    total = sum(shares.values())
    parts = [MATERIALS[name] * np.float32(share / total) for name, share in shares.items()]
    return np.asarray(np.sum(parts, axis=0), np.float32)


def varied(spectrum: Spectrum, rng: np.random.Generator, *, gain: float = 0.08, tint: float = 0.04) -> Spectrum:
    """One object's spectrum: the material's, with a random gain and a random slope over wavelength.

    Args:
        spectrum: the material.
        rng: random stream.
        gain: standard deviation of the gain over all bands.
        tint: standard deviation of the relative difference between the blue and the near-infrared end.
    """
    level = np.exp(rng.normal(0.0, gain))
    slope = np.exp(np.linspace(-0.5, 0.5, len(S2_L2A_BANDS)) * 3.0 * rng.normal(0.0, tint))
    return np.asarray(np.clip(spectrum * level * slope, 0.002, 0.95), np.float32)


def spectra_table() -> str:
    """All materials as a Markdown table, reflectance in per mille."""
    head = f"| material | {' | '.join(S2_L2A_BANDS)} |\n|---|{'---:|' * len(S2_L2A_BANDS)}\n"
    rows = (f"| {name} | {' | '.join(str(value) for value in values)} |\n" for name, values in _PER_MILLE.items())
    return head + "".join(rows)
