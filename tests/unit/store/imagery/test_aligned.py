"""Pixels copied from a raster are those a warp of it gives, in every kind of validity."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp

from store.imagery import warp
from store.imagery.aligned import read_aligned
from store.imagery.scene import Asset
from utils.types import ChipGrid

SIZE = 96
PLACE = Affine(0.3, 0, 500_000.1, 0, -0.3, 5_000_000.2)
OFFSETS = [(0, 0), (13, 20), (-17, 5), (40, -30), (-9, -8), (200, 0)]
"""Rows and columns from the raster's first pixel to the grid's."""


def noise(bands: int, dtype: str = "uint8") -> np.ndarray:
    high = np.iinfo(dtype).max + 1
    data = np.random.default_rng(3).integers(0, high, (bands, SIZE, SIZE)).astype(dtype)
    data[:, 10:30, 50:70] = 0
    data[0, 40:50] = 0
    return data


def write(path: Path, data: np.ndarray, **options: Any) -> Path:
    profile = {"driver": "GTiff", "count": len(data), "height": SIZE, "width": SIZE, "dtype": data.dtype}
    with rasterio.open(path, "w", **(profile | {"crs": "EPSG:32632", "transform": PLACE} | options)) as raster:
        raster.write(data)
        if "alpha" in path.stem:
            raster.colorinterp = [*raster.colorinterp[:-1], ColorInterp.alpha]
        if "mask" in path.stem:
            raster.write_mask(np.random.default_rng(1).random((SIZE, SIZE)) > 0.3)
    return path


def grid_at(row: int, column: int, *, height: int = 64, width: int = 80, place: Affine = PLACE) -> ChipGrid:
    corner = place @ Affine.translation(column, row)
    return ChipGrid(epsg=32632, transform=tuple(corner)[:6], height=height, width=width)


KINDS: dict[str, tuple[int, str, list[int], dict[str, Any]]] = {
    "plain": (3, "uint8", [1, 2, 3], {}),
    "colours with nodata": (3, "uint8", [1, 2, 3], {"nodata": 0}),
    "some colours with nodata": (4, "uint8", [1, 2, 3], {"nodata": 0}),
    "one colour with nodata": (1, "uint8", [1], {"nodata": 0}),
    "mixed up": (3, "uint8", [3, 1, 2], {"nodata": 0}),
    "alpha": (4, "uint8", [1, 2, 3], {"photometric": "RGB"}),
    "mask": (3, "uint8", [1, 2, 3], {}),
    "digital numbers": (2, "uint16", [1, 2], {"nodata": 0}),
    "digital numbers, one band": (3, "uint16", [2], {"nodata": 0}),
    "signed": (1, "int16", [1], {"nodata": -9999}),
    "nodata out of range": (1, "uint8", [1], {"nodata": None}),
    "measurements": (1, "float32", [1], {"nodata": -1.0}),
}


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("kind", KINDS)
def test_copied_pixels_are_those_of_the_warp(tmp_path, kind, offset):
    bands, dtype, indexes, options = KINDS[kind]
    data = noise(bands, dtype) if dtype != "float32" else noise(bands).astype("float32")
    path = write(tmp_path / f"{kind}.tif", data, **options)
    assets = [Asset(href=str(path), index=index) for index in indexes]
    grid = grid_at(*offset)
    for display in (True, False):
        with rasterio.open(path) as raster:
            values, holds = warp.read_warped(raster, assets, grid, epsg=32632, display=display)
            with mock.patch.object(warp, "read_aligned", return_value=None):
                wanted, there = warp.read_warped(raster, assets, grid, epsg=32632, display=display)
        assert values.dtype == wanted.dtype
        assert values.shape == wanted.shape
        assert (holds == there).all()
        assert (values[:, holds] == wanted[:, holds]).all()
        assert offset == (200, 0) or holds.any()


def copied(path: Path, grid: ChipGrid, resampling: str = "bilinear") -> bool:
    """Whether pixels would be copied."""
    assets = [Asset(href=str(path), index=1, resampling=(resampling, "average"))]
    with rasterio.open(path) as raster:
        wkt = raster.crs.to_wkt()
        return read_aligned(raster, assets, grid, wkt, nodata=lambda *_: None, display=True) is not None


def test_only_pixels_that_fall_together_are_copied(tmp_path):
    path = write(tmp_path / "a.tif", noise(1))
    inside = grid_at(5, 5)
    assert copied(path, inside)
    assert copied(path, grid_at(-500, 5))
    for resampling in ("nearest", "cubic"):
        assert copied(path, inside, resampling)
    # these smooth or shift what they are given
    for resampling in ("cubic_spline", "average", "max"):
        assert not copied(path, inside, resampling)
    assert not copied(path, grid_at(5.01, 5))
    assert not copied(path, ChipGrid(**{**vars(inside), "epsg": 32633}))
    turned = PLACE @ Affine.rotation(1)
    finer = PLACE @ Affine.scale(0.5)
    barely = PLACE @ Affine.scale(1 + 1e-7)
    for place in (turned, finer, barely):
        assert not copied(path, grid_at(0, 0, place=place))
    assert not copied(write(tmp_path / "f.tif", noise(1).astype("float32")), inside)
    assert not copied(write(tmp_path / "up.tif", noise(1), transform=PLACE @ Affine.scale(1, -1)), inside)
