"""Two dates of multispectral imagery as a folder of STAC items: made up, or around the rasters of a real pair."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.warp import transform_geom
from shapely import box
from shapely.geometry import mapping

EPSG, LEFT, TOP = 32632, 500_000.0, 5_200_000.0
WHEN = {"before": "2020-08-07T10:25:59Z", "after": "2021-08-12T10:25:59Z"}
AARGAU = {"before": "T32TMT_20200807T102559", "after": "T32TMT_20210812T102559"}


def write_item(folder: Path, name: str, when: str, rasters: Mapping[str, Path]) -> Path:
    """A STAC item over single-band rasters of one grid; digital numbers are reflectance × 10000, 0 is nodata."""
    with rasterio.open(next(iter(rasters.values()))) as raster:
        outline = transform_geom(raster.crs, "EPSG:4326", mapping(box(*raster.bounds)), precision=9)
        epsg, gsd_m = raster.crs.to_epsg(), raster.res[0]
    radiometry = {"nodata": 0, "scale": 0.0001, "offset": 0, "spatial_resolution": gsd_m}
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": outline,
        "properties": {"datetime": when, "platform": "sentinel-2", "gsd": gsd_m, "proj:epsg": epsg},
        "assets": {
            band: {"href": str(path)} | ({} if band == "SCL" else {"raster:bands": [radiometry]})
            for band, path in rasters.items()
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{name}.json"
    place.write_text(json.dumps(item))
    return place


def aargau(folder: Path, real_data: Path) -> Path:
    """Items over the real pair of 2020 and 2021 (B04, B08)."""
    pair = real_data / "s2_change_pair_aargau_2020_2021"
    for which, name in AARGAU.items():
        write_item(folder, name, WHEN[which], {band: pair / f"{name}_{band}_10m.jp2" for band in ("B04", "B08")})
    return folder


def write_scene(
    folder: Path,
    which: str,
    bands: Mapping[str, NDArray[np.generic]],
    *,
    epsg: int = EPSG,
    left: float = LEFT,
    top: float = TOP,
    gsd_m: float = 10.0,
    when: str | None = None,
) -> Path:
    """One made-up scene with its item; SCL is one of the bands."""
    folder.mkdir(parents=True, exist_ok=True)
    rasters = {}
    for band, plane in bands.items():
        rasters[band] = folder / f"{which}_{band}.tif"
        height, width = plane.shape
        place = {"crs": f"EPSG:{epsg}", "transform": rasterio.Affine(gsd_m, 0, left, 0, -gsd_m, top), "nodata": 0}
        shape = {"count": 1, "dtype": plane.dtype, "height": height, "width": width}
        with rasterio.open(rasters[band], "w", driver="GTiff", **shape, **place) as raster:
            raster.write(plane, 1)
    return write_item(folder, which, when or WHEN[which], rasters)
