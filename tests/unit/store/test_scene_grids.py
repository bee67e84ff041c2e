"""Pixel grids of scenes, by rasterio; and features written as GeoJSON are read back."""

import pytest
import rasterio
import shapely

from store import imagery
from store.scene_grids import grids_of
from store.vectors import read_features, write_features
from support import mini_region
from utils.errors import RasterReadError, RasterWriteError


@pytest.fixture(scope="module")
def region(tmp_path_factory):
    return mini_region.make(tmp_path_factory.mktemp("grids") / "region")


def test_grids_are_those_of_the_rasters(region):
    source = imagery.get("local", root=region.root / "vhr", kind="vhr", acquired_at="2023-06-14", index=None)
    grids = grids_of(source.scenes(), ("red", "green", "blue"), 0.3)
    assert len(grids) == 2
    for tile in region.vhr_tiles:
        with rasterio.open(tile) as raster:
            [grid] = [grid for name, grid in grids.items() if tile.stem in name]
            assert (grid.epsg, grid.height, grid.width) == (raster.crs.to_epsg(), *raster.shape)
            assert grid.transform == tuple(raster.transform)[:6]


def test_of_several_bands_the_one_nearest_in_size_counts(region):
    source = imagery.get("local", root=region.root / "msi", kind="msi", index=None)
    [grid] = grids_of(source.scenes(), ("B02", "B08"), 10.0).values()
    assert grid.gsd_m == 10.0


def test_a_raster_that_went_is_an_error(region, tmp_path):
    mini_region.make(tmp_path / "region")
    source = imagery.get("local", root=tmp_path / "region" / "vhr", kind="vhr", acquired_at="2023-06-14", index=None)
    scenes = source.scenes()
    (tmp_path / "region" / "vhr" / "west.tif").unlink()
    with pytest.raises(RasterReadError, match=r"west\.tif"):
        grids_of(scenes, ("red",), 0.3)


def test_features_are_read_back(tmp_path):
    path = tmp_path / "new" / "found.geojson"
    features = [({"kind": "roof", "n": 3}, shapely.box(10, 47, 10.1, 47.1)), ({}, shapely.Point(1, 2))]
    assert write_features(path, features) == path.stat().st_size
    assert read_features(path) == features
    assert list(path.parent.iterdir()) == [path]
    (tmp_path / "file").touch()
    with pytest.raises(RasterWriteError):
        write_features(tmp_path / "file" / "x.geojson", features)
