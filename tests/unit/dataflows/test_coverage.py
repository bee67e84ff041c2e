"""Scenes chosen for chips: the catalogue's order is kept, and both sides of the antimeridian are served."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from dataflows._chips import lattice_of, planned_grid
from dataflows._coverage import SceneCoverage
from dataflows._positions import footprints_lonlat
from store.imagery.local import LocalImagery
from utils.geo import reproject_points, utm_epsg
from utils.types import RGB_BANDS, ChipProfile

PROFILE = ChipProfile(height=32, width=32, gsd_m=0.3, msi_bands=())


def tile(
    path: Path, value: int, lon: float, lat: float, epsg: int, *, gsd: float, day: str, size_m: float = 120
) -> None:
    [(x, y)] = reproject_points([[lon, lat]], 4326, epsg)
    size = int(size_m / gsd)
    place = Affine(gsd, 0, x - size_m / 2, 0, -gsd, y + size_m / 2)
    profile = {"driver": "GTiff", "count": 3, "height": size, "width": size, "dtype": "uint8"}
    with rasterio.open(path, "w", crs=f"EPSG:{epsg}", transform=place, **profile) as raster:
        raster.write(np.full((3, size, size), value, np.uint8))
        raster.update_tags(TIFFTAG_DATETIME=f"{day.replace('-', ':')} 10:00:00")


def position_at(lon: float, lat: float) -> tuple[int, int, int]:
    epsg = utm_epsg(lon, lat)
    [(x, y)] = reproject_points([[lon, lat]], 4326, epsg)
    ix, iy = lattice_of(epsg, PROFILE).index_of(x, y)
    return epsg, int(ix[0]), int(iy[0])


def served(source: LocalImagery, lon: float, lat: float) -> tuple[list[str], np.ndarray]:
    """Scenes planned for the chip at a place, and the chip read from them."""
    position = position_at(lon, lat)
    coverage = SceneCoverage(source.scenes(), None, "latest", PROFILE, 0.5)
    [row], refused = coverage.of([position])
    assert refused == {}
    grid = planned_grid(dict(zip(("epsg", "ix", "iy"), position, strict=True)), PROFILE)
    chip = source.read(grid, RGB_BANDS, scene_ids=row["vhr_scene_ids"])
    assert chip.valid.all()
    return row["vhr_scene_ids"], np.unique(chip.data)


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        ("newest", ["a", "b", "c"]),
        ("finest", ["b", "c", "a"]),
        ("name", ["a", "b", "c"]),
        (["c", "*"], ["c", "a", "b"]),
        (["older", "b"], ["b", "a", "c"]),
    ],
)
def test_the_plan_keeps_the_order_of_the_source(tmp_path, order, wanted):
    values = {"a": 10, "b": 20, "c": 30}
    for name, gsd in (("a", 0.5), ("b", 0.2), ("c", 0.3)):
        tile(tmp_path / f"{name}.tif", values[name], 8.0, 47.0, 32632, gsd=gsd, day="2023-06-14")
    tile(tmp_path / "older.tif", 40, 8.0, 47.0, 32632, gsd=0.1, day="2019-06-14")
    ids, read = served(LocalImagery(root=tmp_path, order=order), 8.0, 47.0)
    assert ids == wanted
    assert read.tolist() == [values[wanted[0]]]


@pytest.mark.parametrize("zone", [32701, 32760])
def test_chips_of_both_zones_at_the_antimeridian_are_served(tmp_path, zone):
    tile(tmp_path / "a.tif", 99, 180.0, -17.0, zone, gsd=0.3, day="2023-06-14")
    source = LocalImagery(root=tmp_path)
    for lon in (-180.0 + 1.5e-4, 180.0 - 1.5e-4, -180.0):
        ids, read = served(source, lon, -17.0)
        assert ids == ["a"]
        assert read.tolist() == [99]


def test_a_chip_on_the_antimeridian_does_not_reach_around_the_globe():
    outline = footprints_lonlat([position_at(-180.0, -17.0)], PROFILE)[0]
    assert outline.geom_type == "MultiPolygon"
    assert outline.area < 1e-7
