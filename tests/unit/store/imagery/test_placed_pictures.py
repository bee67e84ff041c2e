"""PNG and JPEG with world files, rasters without a CRS, and pictures that are no imagery."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS
from rasterio.control import GroundControlPoint

from store.imagery.header import read_header
from store.imagery.local import LocalImagery
from support.imagery_layouts import RGB, chip, pixels, write_tif, write_world_png
from utils.errors import ConfigError, CRSError
from utils.types import ChipGrid

DAY = "2023-06-14"


def source(root: Path, **options: object) -> LocalImagery:
    return LocalImagery(root=root, acquired_at=DAY, **options)


def reasons(root: Path, **options: object) -> dict[str, str]:
    made = source(root, **options)
    assert not len(made.scenes())
    return {Path(place).name: reason for place, reason in made.unreadable().items()}


@pytest.mark.parametrize("suffix", [".pgw", ".pngw", ".wld", ".PGW"])
def test_a_world_file_places_a_png(tmp_path, suffix):
    write_world_png(tmp_path / "a_top.png", "a_top", suffix)
    write_tif(tmp_path / "tif" / "a.tif", "a_top", nodata=None)
    png = source(tmp_path, crs="EPSG:32632", exclude=["tif/*"])
    tif = source(tmp_path / "tif")
    grid = chip(7.1, 9.2)
    np.testing.assert_array_equal(png.read(grid, RGB).data, tif.read(grid, RGB).data)
    assert png.scenes()["epsg"].to_pylist() == [32632]


@pytest.mark.parametrize("suffix", [".jgw", ".jpgw", ".wld"])
def test_a_world_file_places_a_jpeg(tmp_path, suffix):
    smooth = np.broadcast_to(np.arange(200, dtype=np.uint8), (3, 200, 200))
    with rasterio.open(tmp_path / "a.jpg", "w", driver="JPEG", count=3, height=200, width=200, dtype="uint8") as raster:
        raster.write(smooth)
    (tmp_path / "a.jpg.aux.xml").unlink(missing_ok=True)
    (tmp_path / f"a{suffix}").write_text("0.3\n0\n0\n-0.3\n439000.15\n5204999.85\n")
    read = source(tmp_path, crs=32632).read(chip(0, 0, size=200), RGB)
    with rasterio.open(tmp_path / "a.jpg") as raster:
        np.testing.assert_array_equal(read.data, raster.read())


@pytest.mark.parametrize("dialect", ["WKT1_ESRI", "WKT1_GDAL", "WKT2_2019"])
@pytest.mark.parametrize("epsg", [32632, 2056, 21781, 4326])
def test_a_prj_beside_it_states_the_crs(tmp_path, dialect, epsg):
    path = write_world_png(tmp_path / "a_top.png", "a_top")
    path.with_suffix(".prj").write_text(CRS.from_epsg(epsg).to_wkt(dialect))
    header = read_header(path)
    assert header.epsg == epsg
    assert str(path.with_suffix(".prj")) in header.files
    assert str(path.with_suffix(".pgw")) in header.files


def test_an_aux_xml_states_the_crs(tmp_path):
    path = write_world_png(tmp_path / "a_top.png", "a_top")
    with rasterio.open(path, "r+") as raster:
        raster.crs = "EPSG:32632"
    assert path.with_name("a_top.png.aux.xml").exists()
    assert source(tmp_path).read(chip(7, 9), RGB).valid.all()


def test_a_prj_that_is_none(tmp_path):
    path = write_world_png(tmp_path / "a_top.png", "a_top")
    path.with_suffix(".prj").write_text("not a CRS")
    [reason] = reasons(tmp_path, crs="EPSG:32632").values()
    assert reason.startswith("CRSError")
    assert "a_top.prj" in reason


def test_without_a_crs_the_refusal_names_the_option(tmp_path):
    write_world_png(tmp_path / "a_top.png", "a_top")
    reason = reasons(tmp_path)["a_top.png"]
    assert reason.startswith("CRSError")
    assert "`crs: EPSG:<code>`" in reason
    assert ".prj" in reason


def test_the_files_own_crs_is_kept(tmp_path):
    write_tif(tmp_path / "a.tif", "a_top")
    assert source(tmp_path, crs="EPSG:2056").scenes()["epsg"].to_pylist() == [32632]


def test_pictures_without_a_place_are_no_imagery(tmp_path):
    write_tif(tmp_path / "a.tif", "a_top")
    for number in range(5):
        write_world_png(tmp_path / f"preview{number}.png", "a_top").with_suffix(".pgw").unlink()
    made = source(tmp_path)
    assert made.scenes()["scene_id"].to_pylist() == ["a"]
    assert made.unreadable() == {}


def test_pictures_are_named_once_where_there_is_nothing_else(tmp_path):
    for number in range(5):
        write_world_png(tmp_path / f"p{number}.png", "a_top").with_suffix(".pgw").unlink()
    [(place, reason)] = source(tmp_path).unreadable().items()
    assert place == str(tmp_path)
    assert "5 pictures without a place on the ground, such as p0.png" in reason
    assert "world file" in reason


def test_a_world_file_of_a_tif_counts_too(tmp_path):
    path = write_world_png(tmp_path / "p" / "a_top.png", "a_top", ".wld")
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", count=3, height=200, width=200, dtype="uint8") as tif:
        tif.write(pixels("a_top"))
    (tmp_path / "a.tfw").write_text(path.with_suffix(".wld").read_text())
    grid = chip(7.1, 9.2)
    made = source(tmp_path, crs="EPSG:32632", exclude=["p/*"])
    np.testing.assert_array_equal(made.read(grid, RGB).data, source(tmp_path / "p", crs=32632).read(grid, RGB).data)


def test_a_crs_without_a_place_is_refused(tmp_path):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=3, height=9, width=9, dtype="uint8", crs="EPSG:32632"
    ) as raster:
        raster.write(np.ones((3, 9, 9), np.uint8))
    assert "no place in it" in reasons(tmp_path)["a.tif"]


def test_ground_control_points_alone_are_refused_with_a_way_out(tmp_path):
    points = [GroundControlPoint(row, col, 439_000 + col, 5_205_000 - row) for row in (0, 9) for col in (0, 9)]
    with rasterio.open(
        tmp_path / "a.tif",
        "w",
        driver="GTiff",
        count=3,
        height=9,
        width=9,
        dtype="uint8",
        gcps=points,
        crs="EPSG:32632",
    ) as raster:
        raster.write(np.ones((3, 9, 9), np.uint8))
    reason = reasons(tmp_path)["a.tif"]
    assert reason.startswith("CRSError")
    assert "gdalwarp" in reason


def test_a_crs_without_a_code_is_refused(tmp_path):
    local = CRS.from_proj4("+proj=tmerc +lat_0=46.95 +lon_0=7.44 +k=1 +x_0=10 +y_0=20 +ellps=bessel").to_wkt()
    with rasterio.open(
        tmp_path / "a.tif",
        "w",
        driver="GTiff",
        count=3,
        height=9,
        width=9,
        dtype="uint8",
        crs=local,
        transform=Affine(1, 0, 0, 0, -1, 0),
    ) as raster:
        raster.write(np.ones((3, 9, 9), np.uint8))
    reason = reasons(tmp_path, crs="EPSG:32632")["a.tif"]
    assert "no EPSG code" in reason
    assert "gdal_edit" in reason


def test_a_wrong_crs_option_is_refused():
    for bad in ("EPSG:1", "here", True, {}, "+proj=tmerc +lat_0=1 +lon_0=7.44 +k=1 +x_0=10 +y_0=20 +ellps=bessel"):
        with pytest.raises(ConfigError, match=r"vhr\.crs"):
            LocalImagery(root=Path(), crs=bad)


def test_geneva_as_png_equals_geneva_as_geotiff(tmp_path, real_data):
    """21 real tiles: the published PNGs with world files against the same pixels as GeoTIFF."""
    folder = real_data / "geneva_swissimage_pv"
    compared = different = 0
    for tif in sorted((folder / "images_geotiff").glob("*.tif")):
        (tmp_path / f"{tif.stem}.png").symlink_to(folder / "images_png" / f"{tif.stem}.png")
        with rasterio.open(tif) as raster:
            t = raster.transform
        x, y = t @ (0.5, 0.5)
        (tmp_path / f"{tif.stem}.pgw").write_text("\n".join(map(repr, (t.a, t.d, t.b, t.e, x, y))))
    png = source(tmp_path, crs="EPSG:21781")
    geotiff = source(folder / "images_geotiff", index=None)
    assert png.scenes()["scene_id"].to_pylist() == geotiff.scenes()["scene_id"].to_pylist()
    assert len(png.scenes()) == 21
    for scene in geotiff._scenes:
        x, y = scene.footprint.centroid.coords[0]
        grid = ChipGrid.around(*_utm(x, y), epsg=32632 if x >= 6 else 32631, gsd_m=0.3, height=200, width=200)
        one, other = (made.read(grid, RGB) for made in (png, geotiff))
        compared += one.valid.size
        different += int((one.valid != other.valid).sum() + (one.data != other.data).any(axis=0).sum())
    print(f"{compared} pixels compared, {different} different")
    assert compared == 21 * 40_000
    assert different == 0


def _utm(lon: float, lat: float) -> tuple[float, float]:
    from utils.geo import reproject_points

    [(x, y)] = reproject_points([[lon, lat]], 4326, 32632 if lon >= 6 else 32631)
    return float(x), float(y)


def test_real_jpeg_2000_equals_rasterio(real_data):
    """Sentinel-2 bands as JP2 on their own grid."""
    folder = real_data / "s2_change_pair_aargau_2020_2021"
    made = source(folder, kind="msi", scale=1e-4, nodata=0, index=None, exclude=["*TCI*"])
    [scene] = [s for s in made._scenes if s.scene_id.endswith("20210812T102559_B04_10m")]
    with rasterio.open(folder / f"{scene.scene_id}.jp2") as raster:
        grid = ChipGrid(epsg=32632, transform=tuple(raster.transform)[:6], height=raster.height, width=raster.width)
        wanted = raster.read(1)
    read = made.read(grid, ("band1",), scene_ids=[scene.scene_id])
    print(f"{wanted.size} pixels compared, {int((read.data[0] != wanted).sum())} different")
    np.testing.assert_array_equal(read.data[0], wanted)
    np.testing.assert_array_equal(read.valid, wanted > 0)


def test_no_warning_reaches_the_user(tmp_path, recwarn):
    write_world_png(tmp_path / "a.png", "a_top")
    with rasterio.open(tmp_path / "bare.tif", "w", driver="GTiff", count=3, height=9, width=9, dtype="uint8") as raster:
        raster.write(np.ones((3, 9, 9), np.uint8))
    recwarn.clear()
    source(tmp_path, crs="EPSG:32632").scenes()
    assert [w for w in recwarn if "georef" in str(w.message).lower()] == []


def test_header_errors_are_typed(tmp_path):
    write_world_png(tmp_path / "a.png", "a_top").with_suffix(".prj").write_text("?")
    with pytest.raises(CRSError):
        read_header(tmp_path / "a.png")
