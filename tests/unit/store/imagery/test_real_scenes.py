"""Real Sentinel-2 files against WarpedVRTs: cloud-optimised bands and classes through an item, JPEG 2000 in colour."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.warp import transform_bounds
from shapely.geometry import box, mapping

from store.imagery.local import LocalImagery
from support.warp_oracle import banded, scale_of, warped
from utils.types import ChipGrid

BANDS = ("B02", "B04", "B8A", "B11", "B01")


@pytest.fixture(scope="module")
def cogs(real_data, tmp_path_factory) -> tuple[LocalImagery, Path]:
    """The COGs of one scene through an item that names them where they are."""
    files = real_data / "s2_l2a_cog_stac" / "S2A_29RKH_20200219_0_L2A"
    with rasterio.open(files / "B04.tif") as raster:
        assert raster.overviews(1)
        bounds = transform_bounds(raster.crs, "EPSG:4326", *raster.bounds)
    stated = [{"nodata": 0, "scale": 1e-4, "offset": 0.0}]
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": files.name,
        "geometry": mapping(box(*bounds)),
        "properties": {"datetime": "2020-02-19T11:31:00Z", "proj:epsg": 32629, "gsd": 100},
        "assets": {band: {"href": str(files / f"{band}.tif"), "raster:bands": stated} for band in (*BANDS, "SCL")},
    }
    root = tmp_path_factory.mktemp("cogs")
    (root / "item.json").write_text(json.dumps(item))
    return LocalImagery(root=root, kind="msi", index=None), files


@pytest.mark.parametrize(("gsd_m", "epsg"), [(100, 32629), (90, 32629), (10, 32629), (1000, 32629), (100, 32628)])
def test_cloud_optimised_bands_and_classes(cogs, gsd_m, epsg):
    source, files = cogs
    with rasterio.open(files / "B04.tif") as raster:
        centre = [(raster.bounds.left + raster.bounds.right) / 2, (raster.bounds.top + raster.bounds.bottom) / 2]
    if epsg != 32629:
        [x], [y] = rasterio.warp.transform("EPSG:32629", f"EPSG:{epsg}", *[[value] for value in centre])
        centre = [x, y]
    grid = ChipGrid.around(centre[0] + 3, centre[1] - 7, epsg=epsg, gsd_m=gsd_m, height=64, width=64)
    chip = source.read(grid, BANDS)
    compared = different = 0
    holds = np.ones((64, 64), bool)
    for number, band in enumerate(BANDS):
        with rasterio.open(files / f"{band}.tif") as raster:
            ratio = gsd_m / raster.res[0]
        method = Resampling.average if ratio > 2 else Resampling.bilinear
        path = files / f"{band}.tif"
        values, there = banded(path, grid, [1], resampling=method, scale=scale_of(path, grid))
        both = there & chip.valid
        compared += both.size
        different += int((chip.data[number] != values[0])[both].sum())
        holds &= there
    classes, _ = warped(files / "SCL.tif", grid, [1], resampling=Resampling.nearest)
    compared += holds.size
    different += int((chip.scl != classes[0])[chip.valid].sum()) + int((holds != chip.valid).sum())
    print(f"{compared} pixels compared, {different} different")
    assert chip.valid.any()
    assert different == 0
    assert set(np.unique(chip.scl[chip.valid])) <= {2, 5, 7, 8, 9, 10}


def test_jpeg_2000_in_true_colour(real_data):
    folder = real_data / "s2_change_pair_aargau_2020_2021"
    source = LocalImagery(root=folder, acquired_at="2021-08-12", index=None, exclude=["*_B0*"], order=["*2021*", "*"])
    assert source.scenes()["scene_id"].to_pylist()[0] == "T32TMT_20210812T102559_TCI_10m"
    with rasterio.open(folder / "T32TMT_20210812T102559_TCI_10m.jp2") as raster:
        x, y = raster.transform @ (raster.width / 2, raster.height / 2)
    for gsd_m, method in ((10, Resampling.bilinear), (2.5, Resampling.bilinear), (30, Resampling.average)):
        grid = ChipGrid.around(x + 3, y + 1, epsg=32632, gsd_m=gsd_m, height=96, width=96)
        chip = source.read(grid, ("red", "green", "blue"))
        values, inside = warped(folder / "T32TMT_20210812T102559_TCI_10m.jp2", grid, [1, 2, 3], resampling=method)
        compared, different = int(inside.sum()), int((chip.data != values).any(axis=0)[inside].sum())
        assert chip.valid[inside].all()
        print(f"{compared} pixels compared, {different} different")
        assert different == 0
