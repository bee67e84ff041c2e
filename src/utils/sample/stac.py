"""STAC items of the sample's imagery: one per VHR tile, one per multispectral scene."""

from datetime import datetime
from typing import Any

import shapely

from utils.sample.context import to_lonlat
from utils.sample.msi import BAND_GSD_M, SCL_GSD_M, MsiScene, msi_grid
from utils.sample.spec import EPSG, GENERATOR_VERSION, VHR_GSD_M, Acquisition, SampleSize
from utils.sample.vhr import VhrTile
from utils.types import ChipGrid

STAC_VERSION = "1.0.0"
_EXTENSIONS = [
    "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
    "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    "https://stac-extensions.github.io/view/v1.0.0/schema.json",
]
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
# common name and centre wavelength in µm, after the Sentinel-2 user handbook
_WAVELENGTHS = {
    "B01": ("coastal", 0.443),
    "B02": ("blue", 0.492),
    "B03": ("green", 0.560),
    "B04": ("red", 0.665),
    "B05": ("rededge", 0.704),
    "B06": ("rededge", 0.741),
    "B07": ("rededge", 0.783),
    "B08": ("nir", 0.833),
    "B8A": ("nir08", 0.865),
    "B09": ("nir09", 0.945),
    "B11": ("swir16", 1.614),
    "B12": ("swir22", 2.202),
}
BOA_SCALE = 0.0001
"""Reflectance per digital number."""


def vhr_scene_day(acquisition: Acquisition) -> str:
    """Name of a date's folder of VHR tiles."""
    return f"{acquisition.day:%Y%m%d}"


def msi_scene_id(acquisition: Acquisition) -> str:
    """Id and folder name of a date's multispectral scene."""
    return f"SAMPLE_S2_{acquisition.msi_time:%Y%m%d}_L2A"


def _placed(grid: ChipGrid) -> dict[str, Any]:
    return {"proj:epsg": grid.epsg, "proj:shape": [grid.height, grid.width], "proj:transform": list(grid.transform)}


def _item(
    name: str, grid: ChipGrid, time: datetime, properties: dict[str, Any], assets: dict[str, Any]
) -> dict[str, Any]:
    footprint = to_lonlat(grid.footprint)
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": _EXTENSIONS,
        "id": name,
        "geometry": shapely.geometry.mapping(shapely.orient_polygons(footprint)),
        "bbox": list(footprint.bounds),
        "properties": {
            "datetime": time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "description": "Synthetic: an invented landscape",
            "sample:generator_version": GENERATOR_VERSION,
            **properties,
        },
        "links": [],
        "assets": assets,
    }


def vhr_item(size: SampleSize, seed: int, acquisition: Acquisition, tile: VhrTile) -> dict[str, Any]:
    """STAC item of one VHR tile."""
    azimuth, elevation = acquisition.vhr_sun_deg
    colours = ("red", "green", "blue")
    asset = {
        "href": f"./{tile.name}.tif",
        "type": _COG,
        "roles": ["data", "visual"],
        "gsd": VHR_GSD_M,
        "eo:bands": [{"name": colour, "common_name": colour} for colour in colours],
        "raster:bands": [
            {"nodata": 0, "data_type": "uint8", "spatial_resolution": VHR_GSD_M, "scale": 1.0, "offset": 0.0}
            for _ in colours
        ],
        **_placed(tile.grid),
    }
    properties = {
        "platform": "sample-aircraft",
        "instruments": ["rgb-camera"],
        "gsd": VHR_GSD_M,
        "view:sun_azimuth": azimuth,
        "view:sun_elevation": elevation,
        **_placed(tile.grid),
    }
    name = f"sample_{size.name}_{seed}_vhr_{vhr_scene_day(acquisition)}_{tile.name}"
    return _item(name, tile.grid, acquisition.vhr_time, properties, {"visual": asset})


def _band_asset(size: SampleSize, acquisition: Acquisition, band: str) -> dict[str, Any]:
    common_name, wavelength = _WAVELENGTHS[band]
    gsd_m = BAND_GSD_M[band]
    scaling = {"scale": BOA_SCALE, "offset": -acquisition.boa_offset_dn * BOA_SCALE}
    return {
        "href": f"./{band}.tif",
        "type": _COG,
        "roles": ["data", "reflectance"],
        "gsd": gsd_m,
        "eo:bands": [{"name": band, "common_name": common_name, "center_wavelength": wavelength}],
        "raster:bands": [{"nodata": 0, "data_type": "uint16", "spatial_resolution": gsd_m, **scaling}],
        **_placed(msi_grid(size, gsd_m, EPSG)),
    }


def msi_item(size: SampleSize, acquisition: Acquisition, scene: MsiScene) -> dict[str, Any]:
    """STAC item of one multispectral scene."""
    azimuth, elevation = acquisition.msi_sun_deg
    assets = {band: _band_asset(size, acquisition, band) for band in BAND_GSD_M}
    assets["SCL"] = {
        "href": "./SCL.tif",
        "type": _COG,
        "roles": ["data", "classification"],
        "gsd": SCL_GSD_M,
        "raster:bands": [{"nodata": 0, "data_type": "uint8", "spatial_resolution": SCL_GSD_M}],
        **_placed(msi_grid(size, SCL_GSD_M, EPSG)),
    }
    properties = {
        "platform": "sample-sentinel-2",
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "gsd": 10,
        "eo:cloud_cover": round(scene.cloud_percent, 3),
        "s2:processing_baseline": acquisition.baseline,
        "s2:product_type": "S2MSI2A",
        "view:sun_azimuth": azimuth,
        "view:sun_elevation": elevation,
        **_placed(msi_grid(size, 10, EPSG)),
    }
    return _item(msi_scene_id(acquisition), msi_grid(size, 10, EPSG), acquisition.msi_time, properties, assets)
