"""Pixel grids of scenes, by rasterio; and features written as GeoJSON are read back."""

import json

import pytest
import rasterio
import shapely
from affine import Affine

from store import imagery
from store.scene_grids import grids_of, pixel_corner
from store.vectors import read_features, write_features
from support import mini_region
from support.search_scenes import imagery as scene_imagery
from support.search_scenes import scene, texture
from utils.errors import NoImageryError, RasterReadError, RasterWriteError


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


def test_a_pixel_corner_is_that_of_the_band(region):
    scenes = imagery.get("local", root=region.root / "msi", kind="msi", index=None).scenes()
    [scene_id] = scenes["scene_id"].to_pylist()
    assets = json.loads(scenes["assets"][0].as_py())
    for band in ("B02", "B11"):
        with rasterio.open(assets[band]["href"]) as raster:
            assert pixel_corner(scenes, scene_id, band) == (raster.transform.c, raster.transform.f)
    for unknown in ((scene_id, "B99"), ("none", "B02")):
        with pytest.raises(NoImageryError, match=unknown[1]):
            pixel_corner(scenes, *unknown)


def test_a_turned_raster_has_none(tmp_path):
    turned = Affine.translation(500_000, 5_000_000) @ Affine.rotation(10) @ Affine.scale(0.3, -0.3)
    scene(tmp_path, texture(30, 30), transform=turned)
    scenes = scene_imagery(tmp_path).scenes()
    assert pixel_corner(scenes, scenes["scene_id"][0].as_py(), "red") == (0.0, 0.0)


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
