"""Where a search looks: areas larger than the imagery, across the antimeridian, in other CRSs; scenes of two zones."""

from dataclasses import dataclass

import pytest
import shapely
from rasterio.transform import from_origin

from dataflows import search_grid
from store.area_of_interest import is_wkt
from store.vectors import write_features
from support.search_scenes import GSD_M, RGB, imagery, scene, texture
from training.scene_models import ModelPixels
from utils.errors import ConfigError, EmptyAreaError
from utils.geo import reproject, reproject_points

PIXELS = ModelPixels(bands=RGB, kind="vhr", gsd_m=GSD_M, window_px=64)
SIDE_PX = 200
M2 = (SIDE_PX * GSD_M) ** 2
FIJI_EAST = reproject_points([[179.9999, -17.0]], 4326, 32760)[0]
"""Metres west of the antimeridian, EPSG:32760."""


@dataclass(frozen=True)
class Ground:
    """What the nodes of the grid say."""

    epsg: int
    shape: tuple[int, int]
    area: shapely.Geometry
    lonlat: shapely.Geometry
    candidates: int
    covered: int


def ground(folder, places, *, aoi=None, bbox=None):
    """The grid of a search over scenes whose upper-left corners are ``(epsg, x, y)``."""
    for number, (epsg, x, y) in enumerate(places):
        transform = from_origin(x, y, GSD_M, GSD_M)
        scene(
            folder,
            texture(SIDE_PX, SIDE_PX, seed=number),
            name=f"{number}.tif",
            crs=f"EPSG:{epsg}",
            transform=transform,
        )
    source = imagery(folder)
    area, _ = search_grid.area_of_interest(aoi, bbox)
    scenes = search_grid.model_scenes(source, PIXELS, "latest")
    grids, _ = search_grid.scene_grids(scenes, PIXELS, area)
    lattice = search_grid.search_lattice(grids, scenes, PIXELS, area)
    outline = search_grid.search_outline(area, scenes, grids, lattice)
    searched = search_grid.search_area(outline, search_grid.imagery_outline(grids, lattice))
    raster = search_grid.search_raster(lattice, searched)
    blocks = search_grid.candidate_blocks(raster, outline, 100)
    covered = search_grid.covered_blocks(blocks, searched)
    lonlat = search_grid.search_ground(searched, lattice)
    return Ground(lattice.epsg, (raster.height, raster.width), searched, lonlat, len(blocks), len(covered))


WIDE = {
    "the globe": [-180, -90, 180, 90],
    "the other side of the globe too": [-170, -80, 170, 80],
    "a continent": [-20, 30, 40, 75],
}


@pytest.mark.parametrize("case", WIDE)
@pytest.mark.parametrize("place", [(32632, 500_000, 5_000_000), (32733, 300_000, 6_200_000)])
def test_an_area_around_all_imagery_is_all_imagery(case, place, tmp_path):
    west, south, east, north = WIDE[case]
    bbox = [west, south if place[0] < 32700 else -80, east, north]
    found = ground(tmp_path, [place], bbox=bbox)
    assert (found.epsg, found.shape) == (place[0], (SIDE_PX, SIDE_PX))
    assert found.area.area == pytest.approx(M2)
    assert (found.candidates, found.covered) == (4, 4)


SPLIT = (
    "MULTIPOLYGON(((179.9 -17.1,180 -17.1,180 -16.9,179.9 -16.9,179.9 -17.1)),"
    "((-180 -17.1,-179.9 -17.1,-179.9 -16.9,-180 -16.9,-180 -17.1)))"
)


def test_an_area_split_at_the_antimeridian_is_searched_on_both_sides(tmp_path):
    x, y = FIJI_EAST
    found = ground(tmp_path / "both", [(32760, x - 20, y)], aoi=SPLIT)
    assert found.shape == (SIDE_PX, SIDE_PX)
    assert found.area.area == pytest.approx(M2)
    sides = [
        ground(tmp_path / side, [(32760, x - 20, y)], bbox=bbox)
        for side, bbox in (("west", [179.9, -17.1, 180, -16.9]), ("east", [-180, -17.1, -179.9, -16.9]))
    ]
    assert min(side.area.area for side in sides) > 0.2 * M2
    assert sum(side.area.area for side in sides) == pytest.approx(M2, rel=1e-6)
    # what is known there is asked for by this ground: not for all that lies around the globe
    for one in (found, *sides, ground(tmp_path / "both", [(32760, x - 20, y)])):
        assert reproject(one.lonlat, 4326, 32760).symmetric_difference(one.area).area < 0.01
        assert max(east - west for west, _, east, _ in shapely.bounds(shapely.get_parts(one.lonlat))) < 0.001


def test_scenes_of_the_first_and_the_last_zone_are_searched_on_one_grid(tmp_path):
    x, y = FIJI_EAST
    east = reproject_points([[-179.9995, -17.0]], 4326, 32701)[0]
    found = ground(tmp_path, [(32760, x - 80, y), (32701, *east)], aoi=SPLIT)
    assert found.epsg in (32701, 32760)
    assert found.area.area == pytest.approx(2 * M2, rel=1e-3)
    assert max(found.shape) < 1000


def test_an_area_across_the_antimeridian_that_is_not_split_is_refused():
    with pytest.raises(ConfigError, match="split it at the antimeridian"):
        search_grid.area_of_interest("POLYGON((-179.9 -17,179.9 -17,179.9 -16,-179.9 -16,-179.9 -17))", None)


def test_an_area_beside_the_imagery_is_refused(tmp_path):
    with pytest.raises(EmptyAreaError):
        ground(tmp_path, [(32632, 500_000, 5_000_000)], bbox=[9.0, 45.2, 9.1, 45.3])


def test_an_area_in_another_crs_is_the_same_ground(tmp_path):
    whole = shapely.box(500_010, 4_999_950, 500_050, 4_999_990)
    shapes = {epsg: reproject(whole, 32632, epsg) for epsg in (32632, 3035, 4326)}
    write_features(tmp_path / "polygon.geojson", [({}, shapes[4326])])
    told = [f"SRID={epsg};{shape.wkt}" for epsg, shape in shapes.items()] + [str(tmp_path / "polygon.geojson")]
    place = [(32632, 500_000, 5_000_000)]
    areas = [ground(tmp_path / str(number), place, aoi=aoi).area for number, aoi in enumerate(told)]
    # straight lines of one CRS are no straight lines of another
    assert max(area.symmetric_difference(whole).area for area in areas) < 0.1


@pytest.mark.parametrize("name", ["polygon.geojson", "Multipolygon-1.gpkg", "geometrycollection.fgb", "polygon z.json"])
def test_a_file_may_be_called_after_what_it_holds(name):
    assert not is_wkt(name)


@pytest.mark.parametrize(
    "text",
    ["POLYGON((0 0,1 0,1 1,0 0))", "srid=4326; MultiPolygon Z (((0 0 0", "POLYGON EMPTY", "GEOMETRYCOLLECTION M("],
)
def test_polygons_as_text_are_told_from_files(text):
    assert is_wkt(text)
