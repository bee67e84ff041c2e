"""Rasters we write: what rasterio reads back, and what a failure leaves."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from store import rasters
from store.rasters import write_raster
from utils.errors import ConfigError, GridError
from utils.types import ChipGrid

GRID = ChipGrid(epsg=32632, transform=(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_200_000.0), height=700, width=600)


def planes(seed=0):
    random = np.random.default_rng(seed)
    made = {name: random.normal(0, 1, (700, 600)).astype(np.float32) for name in ("ndvi", "nbd")}
    made["ndvi"][:100] = np.nan
    return made


def test_rasterio_reads_what_was_written(tmp_path):
    place = write_raster(tmp_path / "deep" / "down" / "a.tif", planes(), GRID, tags={"BEFORE": "x"})
    with rasterio.open(place) as raster:
        assert np.array_equal(raster.read(), np.stack(list(planes().values())), equal_nan=True)
        assert raster.descriptions == ("ndvi", "nbd")
        assert (raster.crs.to_epsg(), tuple(raster.transform)[:6]) == (GRID.epsg, GRID.transform)
        assert raster.tags()["BEFORE"] == "x"
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert raster.block_shapes == [(256, 256)] * 2
        assert raster.overviews(1)
        assert not raster.read_masks(1)[:100].any()


def test_a_file_is_replaced_and_nothing_else_stays(tmp_path):
    for seed in (1, 2):
        write_raster(tmp_path / "a.tif", planes(seed), GRID)
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert np.array_equal(raster.read(2), planes(2)["nbd"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    write_raster(tmp_path / "a.tif", planes(1), GRID)
    before = (tmp_path / "a.tif").read_bytes()

    def full(*args, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(rasters.Path, "replace", full)
    with pytest.raises(ConfigError, match=r"a\.tif cannot be written: no space left"):
        write_raster(tmp_path / "a.tif", planes(2), GRID)
    assert (tmp_path / "a.tif").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_what_does_not_fit_the_grid_is_refused_before_anything_is_made(tmp_path):
    for wrong, words in (({}, "no planes"), (planes() | {"ui": np.zeros((7, 6), np.float32)}, "ui to write")):
        with pytest.raises(GridError, match=words):
            write_raster(tmp_path / "new" / "a.tif", wrong, GRID)
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose another place"):
        write_raster(tmp_path / "file" / "a.tif", planes(), GRID)
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(ConfigError, match="choose another place"):
        write_raster(tmp_path / "folder.tif", planes(), GRID)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.tif"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder nobody can write to")
def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(ConfigError, match="choose another place"):
        write_raster("/proc/a.tif", planes(), GRID)
