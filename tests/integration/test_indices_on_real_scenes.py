"""Indices and scene classes on real Sentinel-2 scenes, against spyndex, float64 formulas and the producer's figures."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import spyndex
from numpy.typing import NDArray

from utils.indices import INDICES, spectral_index
from utils.scl import checked_scl, cloud_fraction, scl_valid, shadow_fraction

BANDS = {"B02": "B", "B03": "G", "B04": "R", "B08": "N", "B11": "S1", "B12": "S2"}
"""Sentinel-2 band → letter in spyndex."""
SHARED = ("ndvi", "ndbi", "ndwi", "mndwi", "ui", "bi")
TOLERANCE = 2.5e-7
"""Four roundings of float32 near 1; spyndex runs in float64."""
OURS = {
    "ndpvi": lambda b: (0.5 * b["B02"] - b["B08"]) / (0.5 * b["B02"] + b["B08"]),
    "nbd": lambda b: (b["B02"] - 0.5 * (b["B04"] + b["B03"])) / (b["B02"] + 0.5 * (b["B04"] + b["B03"])),
    "br": lambda b: np.mean([b["B02"], b["B03"], b["B04"], b["B08"]], axis=0),
}
SCENES = {
    "desert, L2A 2020": ("s2_l2a_cog_stac/S2A_29RKH_20200219_0_L2A", "{0}.tif"),
    "Germany, L2A 2017": ("s2_rico_hdl/BigEarthNet/BigEarthNet-S2/*/*_75_43", "*_{0}.tif"),
    "Punjab, L2A June": ("s2_rico_hdl/SSL4EO-S12/s2a/0000200/20200604*", "{1}.tif"),
    "Punjab, L2A August": ("s2_rico_hdl/SSL4EO-S12/s2a/0000200/20200813*", "{1}.tif"),
    "Punjab, L1C cloudy": ("s2_rico_hdl/SSL4EO-S12/s2c/0000200/20200823*", "{1}.tif"),
}


@pytest.fixture(scope="module", params=SCENES, ids=str)
def digital(request, real_data: Path) -> dict[str, NDArray[np.uint16]]:
    """Band → digital numbers on the 10 m grid; 20 m bands are repeated."""
    folder, pattern = SCENES[request.param]
    planes = {}
    for band in BANDS:
        [path] = real_data.glob(f"{folder}/{pattern.format(band, band.replace('B0', 'B'))}")
        with rasterio.open(path) as raster:
            planes[band] = raster.read(1)
    rows = planes["B04"].shape[0]
    return {band: np.kron(plane, np.ones((rows // len(plane),) * 2, plane.dtype)) for band, plane in planes.items()}


def compared(name: str, ours: NDArray[np.float32], theirs: NDArray[np.float64]) -> int:
    """Pixels that differ by more than the tolerance or in being NaN."""
    same = (np.abs(ours - theirs) <= TOLERANCE) | (np.isnan(ours) & np.isnan(theirs))
    print(f"{name}: {ours.size} pixels compared, {int((~same).sum())} differ by more than {TOLERANCE}")
    return int((~same).sum())


@pytest.mark.parametrize("name", list(INDICES))
def test_no_pixel_differs(name: str, digital: dict[str, NDArray[np.uint16]]) -> None:
    reflectance = {band: np.where(plane == 0, np.nan, plane / 1e4) for band, plane in digital.items()}
    if name in SHARED:
        letters = {letter: reflectance[band] for band, letter in BANDS.items()}
        theirs = spyndex.computeIndex(name.upper(), params=letters)
    else:
        theirs = OURS[name](reflectance)
    ours = spectral_index(name, digital, scale=10_000)
    assert ours.size >= 120**2
    assert compared(name, ours, theirs) == 0
    floats = {band: plane.astype(np.float32) for band, plane in reflectance.items()}
    assert compared(name, spectral_index(name, floats), theirs) == 0


def test_every_index_has_an_oracle() -> None:
    assert set(SHARED) | set(OURS) == set(INDICES)


def test_scene_classes_are_the_producers(real_data: Path) -> None:
    """The scene's rasters are decimated ten times, so its shares are a sample of those in the item."""
    folder = real_data / "s2_l2a_cog_stac" / "S2A_29RKH_20200219_0_L2A"
    stated = json.loads((folder / f"{folder.name}.json").read_text())["properties"]
    with rasterio.open(folder / "SCL.tif") as raster:
        scl = raster.read(1)
    assert set(np.unique(checked_scl(scl)).tolist()) == {2, 5, 7, 8, 9, 10}
    cloud = cloud_fraction(scl)
    assert cloud == pytest.approx(stated["eo:cloud_cover"] / 100, abs=0.003)
    assert shadow_fraction(scl) == stated["s2:cloud_shadow_percentage"] == 0
    kept = float(scl_valid(scl).mean())
    assert kept == pytest.approx(1 - cloud, abs=1e-12)
    print(f"cloud {cloud:.4f}, stated {stated['eo:cloud_cover'] / 100:.4f}; {scl.size} pixels")
