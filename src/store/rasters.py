"""Rasters we write: cloud-optimised GeoTIFFs that appear under their name only when they are complete."""

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.env import set_gdal_config
from rasterio.errors import RasterioError

from store.places import is_remote, is_web, name_of, normalised
from utils.errors import ConfigError, GridError
from utils.types import ChipGrid

_LAYOUT = {"driver": "COG", "compress": "DEFLATE", "predictor": "YES", "blocksize": 256, "bigtiff": "IF_SAFER"}


def limit_cache(size: int) -> None:
    """Let GDAL keep at most ``size`` bytes of raster blocks in this process, from now on."""
    set_gdal_config("GDAL_CACHEMAX", size)


def write_raster(
    path: str | Path,
    planes: Mapping[str, NDArray[np.float32]],
    grid: ChipGrid,
    *,
    tags: Mapping[str, str] | None = None,
) -> Path | str:
    """Write float32 planes as one tiled, compressed GeoTIFF with overviews; NaN is nodata.

    A file of that name is replaced in one step; a killed run leaves the old one, and a ``.part`` file beside it. In an
    object store the object appears when it is complete.

    Args:
        path: the file, whose folder is made when missing; or URI of an object (``s3://bucket/key.tif``).
        planes: band description → plane of shape (rows, columns) of ``grid``, in band order.
        grid: where the pixels lie.
        tags: file tags.

    Returns:
        the file written; the URI of an object.

    Raises:
        GridError: there is no plane, or one of another shape than the grid's.
        ConfigError: the place cannot be written.
    """
    target, shape = normalised(path), (grid.height, grid.width)
    wrong = [name for name, plane in planes.items() if plane.shape != shape]
    if wrong or not planes:
        raise GridError(f"{target}: {'no planes' if not planes else ', '.join(wrong)} to write on a grid of {shape}")
    if not is_remote(target):
        return _write_here(Path(target), planes, grid, tags or {})
    if is_web(target):
        raise ConfigError(f"{target}: a web server cannot be written; choose a folder or s3://bucket/key.tif")
    from store.object_store import upload  # noqa: PLC0415 - Arrow's file systems, not needed for folders

    with TemporaryDirectory() as folder:
        upload(_write_here(Path(folder) / name_of(target), planes, grid, tags or {}), target)
    return target


def _write_here(
    target: Path, planes: Mapping[str, NDArray[np.float32]], grid: ChipGrid, tags: Mapping[str, str]
) -> Path:
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            part,
            "w",
            **_LAYOUT,
            dtype="float32",
            count=len(planes),
            height=grid.height,
            width=grid.width,
            crs=f"EPSG:{grid.epsg}",
            transform=grid.affine,
            nodata=np.nan,
        ) as raster:
            raster.update_tags(**tags)
            for number, (name, plane) in enumerate(planes.items(), start=1):
                raster.write(plane, number)
                raster.set_band_description(number, name)
        part.replace(target)
    except (OSError, RasterioError, CPLE_BaseError) as error:
        raise ConfigError(f"{target} cannot be written: {error}; choose another place") from error
    finally:
        # `unlink` fails where the folder is none
        if part.exists():
            part.unlink()
    return target
