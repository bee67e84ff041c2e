"""Scenes found in a folder: STAC items of both generations, bare rasters, names of bands, refused files."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Geod
from rasterio.enums import ColorInterp
from shapely.geometry import mapping

from store.imagery.header import scene_in_raster
from store.imagery.local import LocalImagery
from store.imagery.stac_items import scene_in_item
from store.schemas import SCENES
from utils.errors import AegirError, CRSError, ImageryError, RasterReadError
from utils.geo import reproject, reproject_points
from utils.types import ChipGrid

EPSG = 32632
X, Y = 439_000.0, 5_205_000.0
WHEN = datetime(2023, 6, 14, tzinfo=UTC)
PLACE = Affine(0.3, 0, X, 0, -0.3, Y)


def raster(
    path: Path,
    bands: int = 3,
    *,
    epsg: int | None = EPSG,
    transform: Affine = PLACE,
    stamp: str | None = None,
    names: tuple[str, ...] = (),
    colours: tuple[ColorInterp, ...] = (),
    **options: object,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": bands, "height": 20, "width": 30, "dtype": "uint8", **options}
    with rasterio.open(path, "w", crs=f"EPSG:{epsg}" if epsg else None, transform=transform, **profile) as file:
        file.write(np.full((bands, 20, 30), 7, np.uint8))
        if stamp:
            file.update_tags(TIFFTAG_DATETIME=stamp)
        if names:
            file.descriptions = names
        if colours:
            file.colorinterp = colours
    return path


def item(path: Path, assets: dict | None = None, *, without: tuple[str, ...] = (), **properties: object) -> Path:
    """A minimal item beside the raster ``a.tif``; ``properties`` replace its own, None drops one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {"datetime": "2023-06-10T10:30:00Z", "proj:epsg": EPSG, "gsd": 10, "platform": "sentinel-2b"} | properties
    content = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": path.stem,
        "geometry": mapping(reproject(shapely.box(X, Y - 6, X + 9, Y), EPSG, 4326)),
        "properties": {name: value for name, value in known.items() if value is not None},
        "assets": {"B04": {"href": "./a.tif"}} if assets is None else assets,
        "links": [],
    }
    path.write_text(json.dumps({name: value for name, value in content.items() if name not in without}))
    return path


class TestItems:
    """One STAC item, read as the extensions eo, proj and raster describe it."""

    def test_what_an_item_says_is_what_the_scene_holds(self, tmp_path):
        stored = {"nodata": 0, "scale": 1e-4, "offset": -0.1, "spatial_resolution": 10}
        assets = {
            "B04": {"href": "bands/a.tif", "eo:bands": [{"name": "red"}], "raster:bands": [stored]},
            "B08": {"href": "https://example.org/B08.TIF"},
            "SCL": {"href": "../SCL.jp2", "raster:bands": [{"nodata": 0}]},
            "thumbnail": {"href": "./preview.jpg"},
            "metadata": {"href": "./MTD.xml"},
        }
        scene = scene_in_item(item(tmp_path / "deep" / "S2_X.json", assets, **{"eo:cloud_cover": 12.5}))
        assert (scene.scene_id, scene.sensor, scene.epsg, scene.gsd_m) == ("S2_X", "sentinel-2b", EPSG, 10.0)
        assert scene.acquired_at == datetime(2023, 6, 10, 10, 30, tzinfo=UTC)
        assert scene.cloud_fraction == 0.125
        assert list(scene.assets) == ["B04", "B08", "SCL"]
        red = scene.assets["B04"]
        assert (red.index, red.nodata, red.scale, red.offset) == (1, 0, 1e-4, -0.1)
        assert red.href == str((tmp_path / "deep" / "bands" / "a.tif").resolve())
        assert scene.assets["B08"].href == "https://example.org/B08.TIF"
        assert scene.assets["SCL"].href == str((tmp_path / "SCL.jp2").resolve())
        assert (scene.assets["B08"].scale, scene.assets["B08"].nodata, scene.assets["B08"].offset) == (None, None, 0.0)

    @pytest.mark.parametrize("code", [{"proj:epsg": EPSG}, {"proj:epsg": None, "proj:code": f"EPSG:{EPSG}"}])
    def test_both_generations_of_the_projection_extension(self, tmp_path, code):
        assert scene_in_item(item(tmp_path / "a.json", **code)).epsg == EPSG

    @pytest.mark.parametrize("key", ["eo:bands", "bands"])
    def test_a_stack_is_named_by_its_bands(self, tmp_path, key):
        described = [{"name": "B02"}, {"name": "B03"}, {"name": "B04"}]
        scene = scene_in_item(item(tmp_path / "a.json", {"stack": {"href": "a.tif", key: described}}))
        assert {name: asset.index for name, asset in scene.assets.items()} == {"B02": 1, "B03": 2, "B04": 3}

    def test_colours_name_the_bands_of_a_picture(self, tmp_path):
        described = [{"name": f"B{i}", "common_name": colour} for i, colour in enumerate(("red", "green", "blue"))]
        scene = scene_in_item(item(tmp_path / "a.json", {"visual": {"href": "a.tif", "eo:bands": described}}))
        assert list(scene.assets) == ["red", "green", "blue"]

    def test_bands_that_share_a_common_name_are_all_there(self, tmp_path):
        """Three bands of Sentinel-2 are ``rededge`` in the eo extension."""
        described = [{"name": name, "common_name": "rededge"} for name in ("B05", "B06", "B07")]
        scene = scene_in_item(item(tmp_path / "a.json", {"stack": {"href": "a.tif", "eo:bands": described}}))
        assert sorted(asset.index for asset in scene.assets.values()) == [1, 2, 3]

    def test_offset_and_nodata_of_stac_1_1(self, tmp_path):
        """STAC 1.1 moved them from ``raster:bands`` into ``bands``; without the offset reflectance is 0.1 too high."""
        band = {"name": "B04", "nodata": 0, "raster:scale": 1e-4, "raster:offset": -0.1}
        assets = {"B04": {"href": "a.tif", "bands": [band]}}
        asset = scene_in_item(item(tmp_path / "a.json", assets)).assets["B04"]
        assert (asset.scale, asset.offset, asset.nodata) == (1e-4, -0.1, 0)

    def test_nodata_written_as_text(self, tmp_path):
        """JSON has no NaN, so the raster extension spells it."""
        assets = {"B04": {"href": "a.tif", "raster:bands": [{"nodata": "nan"}]}}
        asset = scene_in_item(item(tmp_path / "a.json", assets)).assets["B04"]
        assert np.isnan(asset.nodata)
        source = LocalImagery(root=tmp_path)
        assert np.isnan(source.scenes()["nodata"][0].as_py())

    def test_offset_of_stac_1_1_on_the_asset(self, tmp_path):
        assets = {"B04": {"href": "a.tif", "nodata": 0, "raster:scale": 1e-4, "raster:offset": -0.1}}
        asset = scene_in_item(item(tmp_path / "a.json", assets)).assets["B04"]
        assert (asset.scale, asset.offset, asset.nodata) == (1e-4, -0.1, 0)

    def test_gsd_is_that_of_the_finest_band_where_the_item_is_silent(self, tmp_path):
        assets = {
            name: {"href": "a.tif", "raster:bands": [{"spatial_resolution": size}]}
            for name, size in (("B05", 20), ("B04", 10), ("B01", 60))
        }
        assert scene_in_item(item(tmp_path / "a.json", assets, gsd=None)).gsd_m == 10

    def test_a_span_of_time_counts_from_its_start(self, tmp_path):
        path = item(tmp_path / "a.json", datetime=None, start_datetime="2023-01-02T00:00:00+02:00")
        assert scene_in_item(path).acquired_at == datetime(2023, 1, 1, 22, tzinfo=UTC)

    @pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Lima"])
    def test_times_without_a_zone_do_not_depend_on_the_machine(self, tmp_path, monkeypatch, zone):
        import time

        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            scene = scene_in_item(item(tmp_path / "a.json", datetime="2023-06-10T10:30:00"))
        finally:
            monkeypatch.undo()
            time.tzset()
        assert scene.acquired_at == datetime(2023, 6, 10, 10, 30, tzinfo=UTC)


BROKEN = {
    "no datetime": ({"datetime": None}, (), None, "no datetime"),
    "no geometry": ({}, ("geometry",), None, "no geometry"),
    "no assets": ({}, ("assets",), None, "assets"),
    "nothing but pictures": ({}, (), {"thumbnail": {"href": "a.png"}}, "no raster asset"),
    "assets that are a list": ({}, (), [{"href": "a.tif"}], "list"),
    "no gsd": ({"gsd": None}, (), None, "no gsd"),
    "no crs": ({"proj:epsg": None}, (), None, "neither proj:epsg nor proj:code"),
    "a crs that is no epsg": ({"proj:epsg": None, "proj:code": "IAU:30100"}, (), None, "IAU"),
    "no id": ({}, ("id",), None, "id"),
    "no properties": ({}, ("properties",), None, "properties"),
    "a date that is none": ({"datetime": "last summer"}, (), None, "last summer"),
    "fewer descriptions than bands": (
        {},
        (),
        {"s": {"href": "a.tif", "eo:bands": [{"name": "a"}, {"name": "b"}], "raster:bands": [{}]}},
        "zip",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_item_is_listed_with_its_reason_and_the_rest_is_read(tmp_path, what):
    properties, without, assets, words = BROKEN[what]
    raster(tmp_path / "good" / "good.tif", stamp="2023:06:14 10:00:00")
    item(tmp_path / "bad" / "bad.json", assets, without=without, **properties)
    source = LocalImagery(root=tmp_path)
    assert source.scenes()["scene_id"].to_pylist() == ["good"]
    [(place, reason)] = source.unreadable().items()
    assert place.endswith("bad.json")
    assert words in reason


def test_a_footprint_that_is_no_geometry_is_listed(tmp_path):
    for name, geometry in (("kind", {"type": "Blob", "coordinates": []}), ("text", "POINT (1 2)")):
        path = item(tmp_path / f"{name}.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"geometry": geometry}))
    source = LocalImagery(root=tmp_path)
    assert not len(source.scenes())
    assert sorted(Path(place).stem for place in source.unreadable()) == ["kind", "text"]


def test_a_footprint_that_crosses_itself_still_serves(tmp_path):
    """Producers publish bow-ties; the pixels are there all the same."""
    raster(tmp_path / "a.tif")
    corners = [(X, Y - 6), (X + 9, Y), (X + 9, Y - 6), (X, Y)]
    path = item(tmp_path / "a.json", {"red": {"href": "a.tif"}}, gsd=0.3)
    bowtie = mapping(reproject(shapely.Polygon(corners), EPSG, 4326))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"geometry": bowtie}))
    source = LocalImagery(root=tmp_path)
    scenes = source.scenes()
    assert len(scenes) == 1
    assert shapely.is_valid(shapely.from_wkb(scenes["footprint"][0].as_py()))


def test_other_json_files_are_none_of_our_business(tmp_path):
    raster(tmp_path / "a.tif", stamp="2023:06:14 10:00:00")
    (tmp_path / "broken.json").write_text('{"type": "Feature", "stac_ver')
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00json")
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "collection.json").write_text(json.dumps({"type": "Collection", "stac_version": "1.0.0", "id": "c"}))
    (tmp_path / "feature.json").write_text(json.dumps({"type": "Feature", "geometry": None, "properties": {}}))
    source = LocalImagery(root=tmp_path)
    assert source.scenes()["scene_id"].to_pylist() == ["a"]
    assert source.unreadable() == {}


def test_a_raster_an_item_describes_is_no_scene_of_its_own(tmp_path):
    raster(tmp_path / "img" / "a.tif", stamp="2023:06:14 10:00:00")
    raster(tmp_path / "img" / "b.tif", stamp="2023:06:15 10:00:00")
    item(tmp_path / "img" / "scene.json", {"B04": {"href": "../img/./a.tif"}})
    assert LocalImagery(root=tmp_path).scenes()["scene_id"].to_pylist() == ["b", "scene"]


class TestRasters:
    """Rasters without an item."""

    @pytest.mark.parametrize(
        ("bands", "options", "wanted"),
        [
            (3, {}, ["red", "green", "blue"]),
            (4, {}, ["red", "green", "blue", "band4"]),
            (4, {"photometric": "RGB"}, ["red", "green", "blue", "band4"]),
            (1, {}, ["band1"]),
            (2, {}, ["band1", "band2"]),
            (5, {"photometric": "MINISBLACK"}, [f"band{i}" for i in range(1, 6)]),
            (3, {"names": ("nir", "swir", "coastal"), "photometric": "MINISBLACK"}, ["nir", "swir", "coastal"]),
            (3, {"colours": (ColorInterp.blue, ColorInterp.green, ColorInterp.red)}, ["blue", "green", "red"]),
        ],
    )
    def test_band_names(self, tmp_path, bands, options, wanted):
        scene = scene_in_raster(raster(tmp_path / "a.tif", bands, **options), acquired_at=WHEN, sensor=None)
        assert list(scene.assets) == wanted
        assert [asset.index for asset in scene.assets.values()] == list(range(1, bands + 1))

    def test_bands_of_one_description_are_all_there(self, tmp_path):
        path = raster(tmp_path / "a.tif", 2, names=("grey", "grey"), photometric="MINISBLACK")
        scene = scene_in_raster(path, acquired_at=WHEN, sensor=None)
        assert sorted(asset.index for asset in scene.assets.values()) == [1, 2]

    def test_the_files_own_date(self, tmp_path):
        path = raster(tmp_path / "a.tif", stamp="2021:02:03 04:05:06")
        assert scene_in_raster(path, acquired_at=None, sensor="x").acquired_at == datetime(
            2021, 2, 3, 4, 5, 6, tzinfo=UTC
        )

    def test_the_folders_date_is_for_rasters_without_one(self, tmp_path):
        raster(tmp_path / "dated.tif", stamp="2021:02:03 04:05:06")
        raster(tmp_path / "bare.tif")
        rows = LocalImagery(root=tmp_path, acquired_at="2023-06-14").scenes().to_pylist()
        assert {row["scene_id"]: row["acquired_at"].year for row in rows} == {"dated": 2021, "bare": 2023}

    def test_no_date_at_all(self, tmp_path):
        with pytest.raises(ImageryError, match="set `acquired_at`"):
            scene_in_raster(raster(tmp_path / "a.tif"), acquired_at=None, sensor=None)

    def test_a_date_nobody_can_read_is_listed(self, tmp_path):
        raster(tmp_path / "a.tif", stamp="June 2023")
        [reason] = LocalImagery(root=tmp_path).unreadable().values()
        assert "June 2023" in reason

    def test_no_crs(self, tmp_path):
        with pytest.raises(CRSError, match="gdal_edit"):
            scene_in_raster(raster(tmp_path / "a.tif", epsg=None), acquired_at=WHEN, sensor=None)

    def test_a_raster_without_crs_does_not_stop_the_others(self, tmp_path):
        raster(tmp_path / "good.tif")
        raster(tmp_path / "lost.tif", epsg=None)
        source = LocalImagery(root=tmp_path, acquired_at="2023-06-14")
        assert source.scenes()["scene_id"].to_pylist() == ["good"]
        assert [Path(place).name for place in source.unreadable()] == ["lost.tif"]

    def test_no_raster_at_all(self, tmp_path):
        (tmp_path / "a.tif").write_bytes(b"II*\0junk")
        with pytest.raises(RasterReadError, match=r"a\.tif.*replace or remove"):
            scene_in_raster(tmp_path / "a.tif", acquired_at=WHEN, sensor=None)

    @pytest.mark.parametrize(("epsg", "turned"), [(EPSG, 0), (21781, 0), (4326, 0), (EPSG, 25)])
    def test_footprint_and_spacing(self, tmp_path, epsg, turned):
        [(x, y)] = reproject_points(np.array([[X, Y]]), EPSG, epsg)
        step = 0.3 if epsg != 4326 else 4e-6
        place = Affine.translation(x, y) @ Affine.rotation(turned) @ Affine.scale(step, -step)
        path = raster(tmp_path / "a.tif", epsg=epsg, transform=place)
        scene = scene_in_raster(path, acquired_at=WHEN, sensor="plane")
        corners = np.array([place @ corner for corner in ((0, 0), (30, 0), (30, 20), (0, 20))])
        wanted = shapely.Polygon(reproject_points(corners, epsg, 4326))
        assert shapely.hausdorff_distance(scene.footprint, wanted) < 2e-8
        assert (scene.epsg, scene.sensor, scene.scene_id) == (epsg, "plane", "a")
        geod = Geod(ellps="WGS84")
        (west, south), (east, north) = reproject_points(corners[:2], epsg, 4326)
        *_, metres = geod.inv(west, south, east, north)
        assert scene.gsd_m == pytest.approx(metres / 30, rel=0.005)


def test_the_table_is_newest_first_and_fits_its_schema(tmp_path):
    for name, year in (("b", 2021), ("c", 2023), ("a", 2021)):
        raster(tmp_path / f"{name}.tif", stamp=f"{year}:01:01 00:00:00", nodata=0)
    item(tmp_path / "S2.json", **{"eo:cloud_cover": 20.0})
    table = LocalImagery(root=tmp_path, sensor="plane").scenes()
    assert table.schema.equals(SCENES)
    rows = table.to_pylist()
    assert [row["scene_id"] for row in rows] == ["S2", "c", "b"]
    assert [row["sensor"] for row in rows] == ["sentinel-2b", "plane", "plane"]
    assert rows[0]["cloud_fraction"] == pytest.approx(0.2)
    assert rows[0]["bands"] == ["B04"]
    assert json.loads(rows[1]["assets"])["green"]["index"] == 2
    assert {row["kind"] for row in rows} == {"vhr"}
    assert {row["source"] for row in rows} == {"local"}


def test_two_files_with_one_name_are_two_scenes(tmp_path):
    raster(tmp_path / "2021" / "a.tif", stamp="2021:01:01 00:00:00")
    raster(tmp_path / "2023" / "a.tif", stamp="2023:01:01 00:00:00")
    raster(tmp_path / "b.tif", stamp="2022:01:01 00:00:00")
    source = LocalImagery(root=tmp_path)
    assert source.scenes()["scene_id"].to_pylist() == ["2023/a.tif", "b", "2021/a.tif"]
    grid = ChipGrid(epsg=EPSG, transform=tuple(PLACE)[:6], height=8, width=8)
    chip = source.read(grid, ("red",), scene_ids=["2021/a.tif"])
    assert (chip.scene_ids, chip.acquired_at.year) == (("2021/a.tif",), 2021)


@pytest.mark.parametrize("href", ["https://example.org/{}/B04.tif", "/elsewhere/{}/B04.tif"])
def test_two_items_with_one_id_whose_files_lie_elsewhere(tmp_path, href):
    for year in ("2021", "2023"):
        item(tmp_path / year / "a.json", {"B04": {"href": href.format(year)}}, datetime=f"{year}-01-01T00:00:00Z")
    ids = LocalImagery(root=tmp_path).scenes()["scene_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 2


def test_two_items_with_one_id_and_one_file_are_not_lost_silently(tmp_path):
    raster(tmp_path / "a.tif")
    for name in ("x", "y"):
        item(tmp_path / name / "same.json", {"B04": {"href": "../a.tif"}})
    source = LocalImagery(root=tmp_path)
    assert len(source.scenes()) + len(source.unreadable()) == 2


def test_folders_below_are_searched_and_case_of_suffixes_does_not_matter(tmp_path):
    raster(tmp_path / "x" / "y" / "a.TIF")
    raster(tmp_path / "b.tiff")
    raster(tmp_path / "c.tif")
    (tmp_path / "notes.txt").write_text("c.tif")
    ids = LocalImagery(root=tmp_path, acquired_at="2023-06-14").scenes()["scene_id"].to_pylist()
    assert ids == ["a", "b", "c"]


def test_every_refusal_is_a_typed_error(tmp_path):
    for bad in ({"datetime": None}, {"proj:epsg": None}, {"gsd": None}):
        with pytest.raises(AegirError, match=r"a\.json"):
            scene_in_item(item(tmp_path / "a.json", **bad))
