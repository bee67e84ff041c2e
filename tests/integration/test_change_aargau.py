"""The change flow on a real Sentinel-2 pair, against rasterio and numpy: no pixel differs."""

import json

import numpy as np
import pytest
import rasterio

from dataflows import drivers
from dataflows.__main__ import main
from support.scene_pairs import AARGAU, aargau
from utils.indices import INDICES


@pytest.fixture(scope="module")
def pair(tmp_path_factory, real_data):
    return aargau(tmp_path_factory.mktemp("aargau"), real_data)


@pytest.fixture(scope="module")
def digital(real_data):
    """Band of a date → digital numbers, and the profile of the rasters."""
    planes = {}
    for which, name in AARGAU.items():
        for band in ("B04", "B08"):
            with rasterio.open(real_data / "s2_change_pair_aargau_2020_2021" / f"{name}_{band}_10m.jp2") as raster:
                planes[which, band], profile = raster.read(1), raster.profile
    return planes, profile


@pytest.fixture(scope="module")
def oracle(digital):
    """NDVI of 2021 minus 2020 in float32, NaN where a band is 0 on either date; and where that is."""
    planes, _ = digital
    ndvi = {}
    for which in AARGAU:
        red, infrared = (planes[which, band] / np.float32(10_000) for band in ("B04", "B08"))
        with np.errstate(invalid="ignore"):
            ndvi[which] = (infrared - red) / (infrared + red)
    valid = np.logical_and.reduce([plane > 0 for plane in planes.values()])
    return np.where(valid, ndvi["after"] - ndvi["before"], np.float32(np.nan)), valid


def settings(pair, **more):
    return {"msi": {"source": "local", "root": str(pair)}, "before": "2020-08-07", "after": "2021-08-12"} | more


def test_the_difference_is_numpys_bit_for_bit(pair, digital, oracle):
    wanted, valid = oracle
    _, profile = digital
    found = drivers.build_driver("change", drivers.change_inputs(settings(pair))).execute(
        ["ndvi_difference", "change_valid", "change_grid", "ndbi_difference", "skipped_indices"]
    )
    ours, grid = found["ndvi_difference"], found["change_grid"]
    assert (grid.epsg, grid.transform) == (profile["crs"].to_epsg(), tuple(profile["transform"])[:6])
    assert (grid.height, grid.width) == wanted.shape == (356, 429)
    assert ours.dtype == np.float32
    differing = int((~((ours == wanted) | (np.isnan(ours) & np.isnan(wanted)))).sum())
    print(f"NDVI difference: {wanted.size} pixels compared, {int(valid.sum())} valid, {differing} different")
    assert differing == 0
    assert np.array_equal(found["change_valid"], valid)
    assert found["ndbi_difference"].size == 0
    assert set(found["skipped_indices"]) == set(INDICES) - {"ndvi"}


def test_facts_of_the_pair(pair, digital, oracle):
    """2021 has pixels without any light in red and infrared; about 16 % of the pixels lose more than 0.2 NDVI."""
    planes, _ = digital
    wanted, valid = oracle
    empty = planes["after", "B04"].astype(np.int64) + planes["after", "B08"] == 0
    assert 1 <= empty.sum() <= 10
    row = drivers.run_change(settings(pair))["statistics"]["ndvi"]
    known = wanted[valid]
    assert (row["n_pixels"], row["n_valid"]) == (wanted.size, int(valid.sum()))
    assert not valid[empty].any()
    assert row["share_loss"] == (known < -0.2).mean()
    assert row["share_gain"] == (known > 0.2).mean()
    assert (row["mean"], row["std"]) == (known.mean(dtype=np.float64), known.std(dtype=np.float64))
    print(f"loss of more than 0.2: {row['share_loss']:.4f}; {int(empty.sum())} pixels with B04 + B08 = 0 in 2021")
    assert row["share_loss"] == pytest.approx(0.16, abs=0.01)


def test_the_raster_is_what_was_computed(pair, oracle, tmp_path, capsys):
    place = tmp_path / "new" / "change.tif"
    arguments = [
        "change",
        str(pair),
        "--before",
        AARGAU["before"],
        "--after",
        "2021-08-12",
        "--out",
        str(place),
        "--json",
    ]
    for _ in range(2):
        assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["raster"] == {"path": str(place), "bands": ["ndvi_difference"]} | found["raster"]
    assert [path.name for path in place.parent.iterdir()] == ["change.tif"]
    with rasterio.open(place) as raster:
        assert np.array_equal(raster.read(1), oracle[0], equal_nan=True)
        assert (raster.crs.to_epsg(), raster.descriptions, raster.dtypes) == (32632, ("ndvi_difference",), ("float32",))
        assert np.isnan(raster.nodata)
        assert tuple(raster.transform)[:6] == (10, 0, 449280, 0, -10, 5236230)
        assert raster.tags()["BEFORE_SCENES"] == AARGAU["before"]
        assert raster.profile["tiled"]
        assert raster.compression.name == "deflate"


def test_an_area_of_interest_is_a_window_of_the_whole(pair, oracle):
    aoi = [8.36, 47.26, 8.38, 47.27]
    found = drivers.build_driver("change", drivers.change_inputs(settings(pair, aoi_bbox_lonlat=aoi))).execute(
        ["ndvi_difference", "change_grid"]
    )
    grid, (whole, _) = found["change_grid"], oracle
    column, row = round((grid.transform[2] - 449280) / 10), round((5236230 - grid.transform[5]) / 10)
    window = whole[row : row + grid.height, column : column + grid.width]
    assert 0 < window.size < whole.size / 2
    assert np.array_equal(found["ndvi_difference"], window, equal_nan=True)


def test_the_table_on_screen(pair, capsys):
    assert main(["change", str(pair), "--before", "2020-08-07", "--after", "2021-08-12"]) == 0
    text = capsys.readouterr().out
    assert "ndvi" in text
    assert "ndbi skipped: NDBI needs B11" in text
