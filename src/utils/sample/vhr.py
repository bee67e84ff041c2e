"""VHR imagery: red, green and blue at 0.3 m, one tile at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.sample.features import Landscape
from utils.sample.painting import Painting, paint
from utils.sample.scene import Scene
from utils.sample.spec import ORIGIN, VHR_GSD_M, SampleSize, stream
from utils.sample.spectra import DIFFUSE_SHARE, MATERIALS, RGB_BANDS
from utils.sample.texture import ModuleGrid, noise_fields, noise_window, stripe_pattern
from utils.types import ChipGrid

OVERSAMPLING = 2
"""Painted pixels per VHR pixel and axis."""
_WHITE = 0.52
"""Reflectance that saturates the camera."""
GAMMA = 1 / 2.05
"""Exponent of the tone curve: byte / 255 = (reflectance / white) ** GAMMA."""
_GRAIN_COLOUR = np.array([1.15, 1.0, 0.85], np.float32)
"""How much of a surface's noise each of red, green and blue takes."""

Image = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class VhrTile:
    """One tile of the VHR mosaic."""

    row: int
    """Row from the north, 0 first."""
    column: int
    """Column from the west, 0 first."""
    grid: ChipGrid
    """Its pixels on the ground."""

    @property
    def name(self) -> str:
        """File stem."""
        return f"r{self.row}_c{self.column}"


def vhr_tiles(size: SampleSize, epsg: int) -> Iterator[VhrTile]:
    """The tiles of a region, row by row."""
    left, top = ORIGIN
    for row in range(size.tiles):
        for column in range(size.tiles):
            x, y = left + column * size.tile_m, top - row * size.tile_m
            transform = (VHR_GSD_M, 0.0, x, 0.0, -VHR_GSD_M, y)
            grid = ChipGrid(epsg=epsg, transform=transform, height=size.tile_px, width=size.tile_px)
            yield VhrTile(row=row, column=column, grid=grid)


def render_vhr_tile(landscape: Landscape, scene: Scene, tile: VhrTile) -> NDArray[np.uint8]:
    """Red, green and blue of a tile, shape (3, rows, columns), values 1 to 255."""
    grid = tile.grid
    left, top = grid.transform[2], grid.transform[5]
    fine_m = VHR_GSD_M / OVERSAMPLING
    painted = paint(scene, left, top, fine_m, grid.height * OVERSAMPLING, grid.width * OVERSAMPLING)
    fine = scene.reflectance[:, list(RGB_BANDS)][painted.owner]
    _draw_modules(fine, painted, scene, left, top)
    sky = DIFFUSE_SHARE[list(RGB_BANDS)]
    shade = np.stack([np.ones(3, np.float32), sky])
    fine *= shade[painted.shadow]
    image: Image = np.asarray(cv2.resize(fine, (grid.width, grid.height), interpolation=cv2.INTER_AREA), np.float32)
    _add_texture(image, painted.owner[1::OVERSAMPLING, 1::OVERSAMPLING], landscape, scene, tile)
    return _developed(image, scene, tile, landscape.seed)


def _draw_modules(fine: Image, painted: Painting, scene: Scene, left: float, top: float) -> None:
    """Joints, cell-to-cell differences and glare of every array in the window, in place."""
    step = VHR_GSD_M / OVERSAMPLING
    frame = MATERIALS["frame"][list(RGB_BANDS)]
    rows, columns = painted.owner.shape
    for polygon, grid in scene.modules.items():
        west, south, east, north = scene.bounds[polygon]
        c0, c1 = max(int((west - left) / step), 0), min(int((east - left) / step) + 2, columns)
        r0, r1 = max(int((top - north) / step), 0), min(int((top - south) / step) + 2, rows)
        if c0 >= c1 or r0 >= r1:
            continue
        mine = painted.owner[r0:r1, c0:c1] == polygon
        if not mine.any():
            continue
        x = left + (np.arange(c0, c1) + 0.5) * step
        y = top - (np.arange(r0, r1) + 0.5) * step
        window = fine[r0:r1, c0:c1]
        window[mine] = _module_colours(window, x, y, grid, frame)[mine]


def _module_colours(
    window: Image, x: NDArray[np.float64], y: NDArray[np.float64], grid: ModuleGrid, frame: Image
) -> Image:
    cos, sin = np.cos(grid.angle), np.sin(grid.angle)
    dx, dy = (x - grid.origin[0])[None, :], (y - grid.origin[1])[:, None]
    u, v = (dx * cos + dy * sin) / grid.module_u_m, (-dx * sin + dy * cos) / grid.module_v_m
    joint = ((u % 1.0) * grid.module_u_m < grid.line_m) | ((v % 1.0) * grid.module_v_m < grid.line_m)
    number = (np.floor(u).astype(np.int64) * 7919 + np.floor(v).astype(np.int64) * 104_729) % 251
    gain = (1 + 0.09 * (number / 125.0 - 1)).astype(np.float32)
    colours = window * gain[..., None]
    if grid.glare:
        slope = np.clip(0.5 + 0.5 * np.sin(0.09 * grid.module_u_m * u + 0.14 * grid.module_v_m * v), 0, 1) ** 2
        colours = colours + (grid.glare * slope).astype(np.float32)[..., None] * np.array([0.9, 1, 1.12], np.float32)
    mix = np.where(joint, grid.line_strength, 0.0).astype(np.float32)[..., None]
    return np.asarray(colours * (1 - mix) + frame * mix, np.float32)


def _add_texture(image: Image, owner: NDArray[np.int32], landscape: Landscape, scene: Scene, tile: VhrTile) -> None:
    """Multiply the grain and stripes of every surface into ``image``."""
    height, width = owner.shape
    row, column = tile.row * height, tile.column * width
    texture = np.zeros((height, width), np.float32)
    for k, field in enumerate(noise_fields(landscape.seed)):
        texture += scene.grain[:, k][owner] * noise_window(field, row, column, height, width)
    left, top = tile.grid.transform[2], tile.grid.transform[5]
    for polygon in np.unique(owner):
        for stripes in scene.stripes.get(int(polygon), ()):
            r0, r1, c0, c1 = _extent(scene.bounds[polygon], left, top, height, width)
            pattern = stripe_pattern(stripes, left + c0 * VHR_GSD_M, top - r0 * VHR_GSD_M, VHR_GSD_M, r1 - r0, c1 - c0)
            texture[r0:r1, c0:c1] += np.where(owner[r0:r1, c0:c1] == polygon, pattern, 0)
    image *= np.clip(1 + texture[..., None] * _GRAIN_COLOUR, 0.25, 2.5)


def _extent(bounds: NDArray[np.float64], left: float, top: float, height: int, width: int) -> tuple[int, int, int, int]:
    west, south, east, north = bounds
    r0, r1 = int((top - north) / VHR_GSD_M), int((top - south) / VHR_GSD_M) + 1
    c0, c1 = int((west - left) / VHR_GSD_M), int((east - left) / VHR_GSD_M) + 1
    return max(r0, 0), min(r1, height), max(c0, 0), min(c1, width)


def _developed(image: Image, scene: Scene, tile: VhrTile, seed: int) -> NDArray[np.uint8]:
    """Optics, exposure, tone curve and noise: reflectance (rows, columns, 3) to bytes (3, rows, columns)."""
    acquisition = scene.acquisition
    rng = stream(seed, "exposure", acquisition.index, tile.name)
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), acquisition.blur_px), np.float32)
    exposure = (1 + rng.normal(0, 0.025)) * np.asarray(acquisition.tone) * (1 + rng.normal(0, 0.008, 3))
    height, width = image.shape[:2]
    # brighter towards the sun's antipode, as one flight strip sees it
    tilt = rng.normal(0, 0.025, 2)
    ramp = 1 + tilt[0] * np.linspace(-1, 1, height)[:, None] + tilt[1] * np.linspace(-1, 1, width)[None, :]
    image = (image + np.asarray(acquisition.haze, np.float32)) * exposure.astype(np.float32)
    image *= ramp.astype(np.float32)[..., None]
    level = np.clip(image / _WHITE, 0, 1) * 4095
    curve = (255 * (np.arange(4096) / 4095) ** GAMMA).astype(np.float32)
    developed = curve[level.astype(np.uint16)]
    developed += rng.standard_normal(developed.shape, dtype=np.float32) * np.float32(acquisition.noise_dn)
    pixels = np.clip(np.rint(developed), 1, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
