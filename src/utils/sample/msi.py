"""The multispectral scene: 12 Sentinel-2 bands and a scene classification, averaged from the painted landscape.

A pixel's reflectance is the area-weighted mean of what the painter put under it at 0.5 m, so it shows exactly the
land of the VHR tiles. Left out on purpose: the sensor's point-spread function, terrain and atmosphere.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.sample.features import Landscape
from utils.sample.geometry import blob
from utils.sample.painting import paint
from utils.sample.polygons import shadow_reach, sun_vector
from utils.sample.scene import Scene
from utils.sample.spec import SampleSize, stream
from utils.sample.spectra import DIFFUSE_SHARE, MATERIALS
from utils.types import S2_L2A_BANDS, ChipGrid

PAINT_M = 0.5
"""Pixel size the landscape is painted at before it is averaged, metres."""
BLOCK_M = 600.0
"""Side of the blocks that are painted one by one, metres."""
BAND_GSD_M: Mapping[str, int] = {
    band: 10 if band in ("B02", "B03", "B04", "B08") else 60 if band in ("B01", "B09") else 20 for band in S2_L2A_BANDS
}
"""Ground sample distance of every band, metres."""
SCL_GSD_M = 20
"""Ground sample distance of the scene classification, metres."""
SCL = {"nodata": 0, "dark": 2, "shadow": 3, "vegetation": 4, "bare": 5, "water": 6, "cloud_medium": 8,
       "cloud_high": 9, "cirrus": 10}  # fmt: skip
"""Scene classes used, as Sen2Cor numbers them."""
CLOUD_HEIGHT_M = 260.0
_NOISE = (0.0008, 0.006)

Cube = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class MsiScene:
    """One rendered multispectral scene."""

    bands: dict[str, NDArray[np.uint16]]
    """Band → digital numbers (reflectance × 10000 + offset), shape (rows, columns); 0 is nodata."""
    scl: NDArray[np.uint8]
    """Scene classification at 20 m, shape (rows, columns)."""

    @property
    def cloud_percent(self) -> float:
        """Share of cloud and cirrus pixels (classes 8, 9, 10), percent."""
        return float(100 * np.isin(self.scl, (8, 9, 10)).mean())


def msi_grid(size: SampleSize, gsd_m: int, epsg: int) -> ChipGrid:
    """The grid of a scene's rasters of one ground sample distance."""
    west, south, east, north = size.msi_bounds
    transform = (float(gsd_m), 0.0, west, 0.0, -float(gsd_m), north)
    return ChipGrid(
        epsg=epsg, transform=transform, height=round((north - south) / gsd_m), width=round((east - west) / gsd_m)
    )


def render_msi(landscape: Landscape, scene: Scene) -> MsiScene:
    """All bands and the scene classification of one date."""
    reflectance, water = surface_reflectance(landscape, scene)
    acquisition = scene.acquisition
    rng = stream(landscape.seed, "msi", acquisition.index)
    reflectance *= _patchiness(reflectance.shape[:2], rng)
    cover = np.zeros(reflectance.shape[:2], np.float32)
    shade = np.zeros_like(cover)
    if acquisition.cloudy:
        cover, shade = _cloud(landscape.size, acquisition.msi_sun_deg, reflectance.shape[:2], rng)
    scl = _classified(_averaged(reflectance, 2), _averaged(water, 2), _averaged(cover, 2), _averaged(shade, 2))
    reflectance *= 1 - shade[..., None] * (1 - DIFFUSE_SHARE)
    reflectance += cover[..., None] * (MATERIALS["cloud"] - reflectance)
    bands = {}
    for number, (band, gsd_m) in enumerate(BAND_GSD_M.items()):
        plane = _averaged(reflectance[..., number], gsd_m // 10)
        plane = plane + rng.standard_normal(plane.shape, dtype=np.float32) * (_NOISE[0] + _NOISE[1] * plane)
        digital = np.rint(plane * 10_000) + acquisition.boa_offset_dn
        bands[band] = np.clip(digital, 1, 65_535).astype(np.uint16)
    return MsiScene(bands=bands, scl=scl)


def surface_reflectance(landscape: Landscape, scene: Scene) -> tuple[Cube, Cube]:
    """Cloud-free, noise-free reflectance and water fraction at 10 m.

    Returns:
        Reflectance, shape (rows, columns, 12), and water fraction, shape (rows, columns).
    """
    west, south, east, north = landscape.size.msi_bounds
    rows, columns = round((north - south) / 10), round((east - west) / 10)
    cube = np.zeros((rows, columns, len(S2_L2A_BANDS)), np.float32)
    water = np.zeros((rows, columns), np.float32)
    step = round(BLOCK_M / 10)
    for row in range(0, rows, step):
        for column in range(0, columns, step):
            height, width = min(step, rows - row), min(step, columns - column)
            part = np.s_[row : row + height, column : column + width]
            cube[part], water[part] = _block(scene, west + 10 * column, north - 10 * row, height, width)
    return cube, water


def _block(scene: Scene, left: float, top: float, height: int, width: int) -> tuple[Cube, Cube]:
    """Reflectance and water fraction of ``height`` × ``width`` pixels of 10 m."""
    factor = round(10 / PAINT_M)
    painted = paint(scene, left, top, PAINT_M, height * factor, width * factor)
    cube = np.empty((height, width, len(S2_L2A_BANDS)), np.float32)
    for band, sky in enumerate(DIFFUSE_SHARE):
        light = np.array([1.0, sky], np.float32)
        plane = scene.reflectance[:, band][painted.owner] * light[painted.shadow]
        cube[..., band] = cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)
    wet = scene.water[painted.owner].astype(np.float32)
    return cube, np.asarray(cv2.resize(wet, (width, height), interpolation=cv2.INTER_AREA), np.float32)


def _averaged(plane: Cube, factor: int) -> Cube:
    """Mean over ``factor`` × ``factor`` pixels of axes 0 and 1."""
    if factor == 1:
        return plane
    rows, columns = plane.shape[0] // factor, plane.shape[1] // factor
    blocks = plane[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, *plane.shape[2:])
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)


def _smooth_noise(shape: tuple[int, int], scale_px: float, rng: np.random.Generator) -> Cube:
    noise = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), scale_px)
    return np.asarray(noise / max(float(noise.std()), 1e-6), np.float32)


def _patchiness(shape: tuple[int, int], rng: np.random.Generator) -> Cube:
    """Gain per pixel and band: the land varies inside a field, and more in the near infrared than in the visible."""
    level, vigour = _smooth_noise(shape, 1.2, rng), _smooth_noise(shape, 3.0, rng)
    response = np.array([-0.2, -0.3, 0.1, -0.6, -0.1, 0.7, 1.0, 1.0, 1.0, 1.0, -0.3, -0.6], np.float32)
    return np.asarray(np.clip(1 + 0.02 * level[..., None] + 0.03 * vigour[..., None] * response, 0.8, 1.2), np.float32)


def _cloud(
    size: SampleSize, sun_deg: tuple[float, float], shape: tuple[int, int], rng: np.random.Generator
) -> tuple[Cube, Cube]:
    """Opacity of a cloud over the south-east corner and depth of its shadow, each 0 to 1, shape (rows, columns)."""
    west, _, _, north = size.msi_bounds
    _, south, east, _ = size.vhr_bounds
    reach = 230.0 + 0.08 * size.side_m
    outline = blob((east + 0.25 * reach, south - 0.25 * reach), reach, rng, rough=0.2)
    shift = shadow_reach(sun_vector(*sun_deg))
    fields = []
    for height_m in (0.0, CLOUD_HEIGHT_M):
        ring = np.asarray(outline.exterior.coords)[:-1] + shift * height_m
        pixels = np.column_stack([(ring[:, 0] - west) / 10 - 0.5, (north - ring[:, 1]) / 10 - 0.5])
        mask = np.zeros(shape, np.float32)
        cv2.fillPoly(mask, [np.round(pixels * 64).astype(np.int32)], 1.0, shift=6)
        fields.append(cv2.GaussianBlur(mask, (0, 0), 4.0))
    texture = 0.22 * _smooth_noise(shape, 2.5, rng)
    cover = np.clip((fields[0] + texture * fields[0]) * 1.35 - 0.2, 0, 0.97)
    shade = np.clip(fields[1] * 1.5 - 0.3, 0, 0.85) * (1 - cover)
    return cover.astype(np.float32), shade.astype(np.float32)


def _classified(reflectance: Cube, water: Cube, cover: Cube, shade: Cube) -> NDArray[np.uint8]:
    """Scene classification of 20 m pixels: a simple stand-in for Sen2Cor's decision tree."""
    blue, red, nir = (reflectance[..., S2_L2A_BANDS.index(band)] for band in ("B02", "B04", "B08"))
    ndvi = (nir - red) / (nir + red)
    scl = np.full(water.shape, SCL["bare"], np.uint8)
    scl[(blue < 0.075) & (red < 0.075) & (nir < 0.10)] = SCL["dark"]
    scl[ndvi > 0.42] = SCL["vegetation"]
    scl[water > 0.5] = SCL["water"]
    scl[shade > 0.25] = SCL["shadow"]
    scl[cover > 0.08] = SCL["cirrus"]
    scl[cover > 0.3] = SCL["cloud_medium"]
    scl[cover > 0.65] = SCL["cloud_high"]
    return scl
