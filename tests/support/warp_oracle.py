"""What GDAL's warper gives for a raster on a grid, opened on its own: the truth chips are held against."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform

from utils.types import ChipGrid

Pixels = tuple[NDArray[Any], NDArray[np.bool_]]


def warped(
    path: Path,
    grid: ChipGrid,
    bands: list[int],
    *,
    resampling: Resampling = Resampling.bilinear,
    shift: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    **options: Any,
) -> Pixels:
    """Values (bands, rows, columns), and where the raster's alpha, mask or nodata (of all bands) says data.

    ``shift`` moves the source east, CRS units; ``scale`` is chip pixels per source pixel along the source's axes, which
    GDAL would otherwise guess from bounding boxes (too coarse for turned grids).
    """
    with rasterio.open(path) as raster:
        alpha = ColorInterp.alpha in raster.colorinterp
        place = {"src_transform": Affine.translation(shift, 0) @ raster.transform} if shift else {}
        settings = {"src_nodata": raster.nodata, "nodata": None, "add_alpha": not alpha} | options
        with WarpedVRT(
            raster,
            crs=f"EPSG:{grid.epsg}",
            transform=grid.affine,
            width=grid.width,
            height=grid.height,
            resampling=resampling,
            UNIFIED_SRC_NODATA="YES",
            XSCALE=str(scale[0]),
            YSCALE=str(scale[1]),
            **place,
            **settings,
        ) as vrt:
            planes = vrt.read()
            holds = planes[vrt.colorinterp.index(ColorInterp.alpha)] > 0
            return planes[[band - 1 for band in bands]], holds


def banded(
    path: Path,
    grid: ChipGrid,
    bands: list[int],
    *,
    resampling: Resampling = Resampling.bilinear,
    scale: tuple[float, float] = (1.0, 1.0),
) -> Pixels:
    """Values, and where every one of the bands holds something else than its own nodata value."""
    with rasterio.open(path) as raster:
        planes, masks = [], []
        for band in bands:
            nodata = raster.nodatavals[band - 1]
            with WarpedVRT(
                raster,
                crs=f"EPSG:{grid.epsg}",
                transform=grid.affine,
                width=grid.width,
                height=grid.height,
                resampling=resampling,
                src_nodata=nodata,
                nodata=nodata,
                XSCALE=str(scale[0]),
                YSCALE=str(scale[1]),
            ) as vrt:
                planes.append(vrt.read(band))
                masks.append(vrt.read_masks(band) > 0)
        return np.stack(planes), np.logical_and.reduce(masks)


def differing(data: NDArray[Any], valid: NDArray[np.bool_], oracle: Pixels) -> tuple[int, int]:
    """How many pixels were compared, and how many differ in validity or, where valid, in a value."""
    values, holds = oracle
    wrong = valid != holds
    both = valid & holds
    wrong |= both & (data != values).any(axis=0)
    return int(valid.size), int(wrong.sum())


def scale_of(path: Path, grid: ChipGrid) -> tuple[float, float]:
    """Chip pixels per source pixel along the source's columns and rows, at most 1, by GDAL's own transformation."""
    half = max(grid.width, grid.height) / 2
    middle = grid.affine @ Affine.translation(grid.width / 2, grid.height / 2)
    points = [middle @ corner for corner in ((0, 0), (half, 0), (0, half))]
    with rasterio.open(path) as raster:
        moved = transform(f"EPSG:{grid.epsg}", raster.crs, *zip(*points, strict=True))
        pixels = np.array([~raster.transform @ point for point in zip(*moved[:2], strict=True)])
    across, down = np.sqrt(np.square(pixels[1:] - pixels[0]).sum(axis=0)) / half
    return tuple(1.0 if step < 1 / 0.95 else 1 / step for step in (across, down))
