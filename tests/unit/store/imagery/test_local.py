"""Pixels of a folder on any grid: places, validity, order of scenes, reflectance, and what is refused."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.warp import reproject as warp

from store import imagery
from store.imagery.local import LocalImagery
from utils.errors import (
    BandError,
    ConfigError,
    ImageryError,
    NoImageryError,
    RasterReadError,
    SceneClassError,
    UnknownNameError,
)
from utils.geo import reproject, reproject_points
from utils.types import ChipGrid, ImagerySource

EPSG = 32632
X, Y = 439_000.0, 5_205_000.0
GRID = ChipGrid.around(X, Y, epsg=EPSG, gsd_m=0.3, height=64, width=64)
RGB = ("red", "green", "blue")


def write(path: Path, data: np.ndarray, transform: Affine, *, epsg: int | None = EPSG, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, rows, columns = data.shape
    profile = {"driver": "GTiff", "count": bands, "height": rows, "width": columns, "dtype": data.dtype}
    crs = f"EPSG:{epsg}" if epsg else None
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile, **options) as raster:
        raster.write(data)
    return path


def stamped(path: Path, day: str) -> Path:
    with rasterio.open(path, "r+") as raster:
        raster.update_tags(TIFFTAG_DATETIME=f"{day.replace('-', ':')} 10:00:00")
    return path


def field(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A ramp of 8 levels per metre: a shift of a tenth of a VHR pixel moves its mean by a quarter of a level."""
    return np.stack([128 + 8 * (x - X), 128 + 8 * (y - Y), np.full_like(x, 77)]).clip(1, 255)


def ground(transform: Affine, rows: int, columns: int, epsg: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres of pixels in the chips' CRS."""
    x, y = transform @ tuple(np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5))
    placed = reproject_points(np.column_stack([x.ravel(), y.ravel()]), epsg, EPSG)
    return placed[:, 0].reshape(rows, columns), placed[:, 1].reshape(rows, columns)


def ramp(transform: Affine, size: int, epsg: int) -> np.ndarray:
    return np.rint(field(*ground(transform, size, size, epsg))).astype(np.uint8)


def over(epsg: int, step: tuple[float, float], size: int, *, turned: float = 0.0) -> Affine:
    """A grid of ``size`` pixels centred on the chip in another CRS."""
    [(x, y)] = reproject_points(np.array([[X, Y]]), EPSG, epsg)
    half = size / 2
    shape = Affine.rotation(turned) @ Affine.scale(step[0], -step[1]) @ Affine.translation(-half, -half)
    return Affine.translation(x, y) @ shape


DEGREES = (0.3 / 75_900, 0.3 / 111_180)
PLACES = {
    "same zone": over(EPSG, (0.3, 0.3), 120),
    "half a pixel off": over(EPSG, (0.3, 0.3), 120) @ Affine.translation(0.5, 0.5),
    "swiss LV03": over(21781, (0.25, 0.25), 140),
    "swiss LV95": over(2056, (0.25, 0.25), 140),
    "degrees": over(4326, DEGREES, 140),
    "web mercator": over(3857, (0.44, 0.44), 120),
    "next zone": over(32633, (0.3, 0.3), 140),
    "turned by 30 degrees": over(EPSG, (0.3, 0.3), 140, turned=30),
    "turned by a quarter": over(EPSG, (0.3, 0.3), 140, turned=90),
    "three times finer": over(EPSG, (0.1, 0.1), 330),
    "twice coarser": over(EPSG, (0.6, 0.6), 70),
}
EPSGS = {"swiss LV03": 21781, "swiss LV95": 2056, "degrees": 4326, "web mercator": 3857, "next zone": 32633}


@pytest.mark.parametrize("place", PLACES)
def test_pixels_lie_where_their_ground_is(tmp_path, place):
    transform, epsg = PLACES[place], EPSGS.get(place, EPSG)
    size = {"three times finer": 330, "twice coarser": 70}.get(place, 140)
    write(tmp_path / "a.tif", ramp(transform, size, epsg), transform, epsg=epsg)
    chip = LocalImagery(root=tmp_path, acquired_at="2023-06-14").read(GRID, RGB)
    wanted = field(*ground(GRID.affine, 64, 64, EPSG))
    inner = wanted[:2, 4:-4, 4:-4] - chip.data[:2, 4:-4, 4:-4]
    assert chip.valid.all()
    assert chip.data.dtype == np.uint8
    assert np.abs(inner).max() <= 1.6
    assert np.abs(inner.mean(axis=(1, 2))).max() < 0.25
    assert (chip.data[2] == 77).all()


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A folder with one noisy tile without nodata, read window by window."""
    folder = tmp_path_factory.mktemp("noise")
    data = np.random.default_rng(0).integers(0, 256, (3, 120, 130), dtype=np.uint8)
    write(folder / "noise.tif", data, over(EPSG, (0.3, 0.3), 120))
    return LocalImagery(root=folder, acquired_at="2023-06-14"), data


@settings(max_examples=30, deadline=None)
@given(
    dx=st.floats(-18, 18),
    dy=st.floats(-18, 18),
    gsd=st.sampled_from([0.15, 0.3, 0.45, 0.7, 1.1]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
)
def test_any_window_equals_a_warp_of_the_whole_tile(noise, dx, dy, gsd, height, width):
    source, data = noise
    grid = ChipGrid.around(X + dx, Y + dy, epsg=EPSG, gsd_m=gsd, height=height, width=width)
    kind = Resampling.average if gsd > 0.6 else Resampling.bilinear
    wanted, filled = (np.zeros((bands, height, width), np.uint8) for bands in (3, 1))
    for pixels, target in ((data, wanted), (np.full((1, *data.shape[1:]), 255, np.uint8), filled)):
        warp(
            pixels,
            target,
            src_transform=over(EPSG, (0.3, 0.3), 120),
            dst_transform=grid.affine,
            src_crs=f"EPSG:{EPSG}",
            dst_crs=f"EPSG:{EPSG}",
            resampling=kind,
            XSCALE=min(1.0, 0.3 / gsd),
            YSCALE=min(1.0, 0.3 / gsd),
        )
    try:
        chip = source.read(grid, RGB)
    except NoImageryError:
        assert (filled == 0).mean() > 0.95
        return
    np.testing.assert_array_equal(chip.valid, filled[0] > 0)
    assert np.abs(chip.data[:, chip.valid].astype(int) - wanted[:, chip.valid]).max(initial=0) <= 1
    assert (chip.data[:, ~chip.valid] == 0).all()


def test_finer_imagery_is_averaged_not_sampled(tmp_path):
    fine = np.random.default_rng(1).integers(1, 256, (3, 192, 192), dtype=np.uint8)
    write(tmp_path / "a.tif", fine, GRID.affine @ Affine.scale(1 / 3))
    chip = LocalImagery(root=tmp_path, acquired_at="2023-06-14").read(GRID, RGB)
    means = fine.reshape(3, 64, 3, 64, 3).mean(axis=(2, 4))
    assert np.abs(chip.data - means).max() <= 0.51


def test_tiles_join_without_a_seam(tmp_path):
    whole = over(21781, (0.25, 0.25), 160)
    image = ramp(whole, 160, 21781)
    for row in (0, 80):
        for column in (0, 80):
            tile = image[:, row : row + 80, column : column + 80]
            place = whole @ Affine.translation(column, row)
            write(tmp_path / f"r{row}_c{column}.tif", tile, place, epsg=21781)
    chip = LocalImagery(root=tmp_path, acquired_at="2023-06-14").read(GRID, RGB)
    assert chip.valid.all()
    assert np.abs(field(*ground(GRID.affine, 64, 64, EPSG)) - chip.data)[:2].max() <= 3
    assert (chip.data[2] == 77).all()
    assert sorted(chip.scene_ids) == ["r0_c0", "r0_c80", "r80_c0", "r80_c80"]


def flat(value: int, size: int = 140, *, dtype: type = np.uint8) -> np.ndarray:
    return np.full((3, size, size), value, dtype)


@pytest.fixture
def layers(tmp_path):
    """Newest: a tile in LV03 with a hole of nodata; below it one in degrees, below that one in metres."""
    top = flat(200)
    top[:, :, :85] = 0
    stamped(write(tmp_path / "top.tif", top, PLACES["swiss LV03"], epsg=21781, nodata=0), "2023-06-14")
    middle = flat(150)
    middle[:, 90:, :] = 0
    stamped(write(tmp_path / "middle.tif", middle, PLACES["degrees"], epsg=4326, nodata=0), "2022-06-14")
    stamped(write(tmp_path / "bottom.tif", flat(100), over(EPSG, (0.6, 0.6), 140)), "2021-06-14")
    far = over(EPSG, (0.3, 0.3), 140) @ Affine.translation(9_000, 0)
    stamped(write(tmp_path / "far.tif", flat(50), far), "2024-06-14")
    return tmp_path


def counts(chip):
    values, numbers = np.unique(chip.data[0], return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


def test_the_newest_scene_is_on_top_and_older_ones_fill_its_holes(layers):
    source = LocalImagery(root=layers)
    assert source.scenes()["scene_id"].to_pylist() == ["far", "top", "middle", "bottom"]
    chip = source.read(GRID, RGB)
    used = counts(chip)
    assert set(used) == {200, 150, 100}
    names = {200: "top", 150: "middle", 100: "bottom"}
    assert chip.scene_ids == tuple(names[value] for value in sorted(used, key=lambda value: -used[value]))
    assert chip.acquired_at.date().isoformat() == "2022-06-14"
    assert chip.valid.all()
    with rasterio.open(layers / "top.tif") as raster:
        hole = ~raster.dataset_mask().astype(bool)
        placed = np.zeros((64, 64), np.uint8)
        warp(
            (~hole).astype(np.uint8),
            placed,
            src_transform=raster.transform,
            src_crs=raster.crs,
            dst_transform=GRID.affine,
            dst_crs=f"EPSG:{EPSG}",
            resampling=Resampling.nearest,
        )
    assert ((chip.data[0] == 200) != (placed == 1)).mean() < 0.03


def test_scene_ids_decide_the_order_and_leave_the_rest_out(layers):
    source = LocalImagery(root=layers)
    assert counts(source.read(GRID, RGB, scene_ids=["bottom", "top"])) == {100: 4096}
    turned = source.read(GRID, RGB, scene_ids=["middle", "bottom", "top"])
    assert set(counts(turned)) == {150, 100}
    assert counts(turned)[150] > counts(source.read(GRID, RGB))[150]
    alone = source.read(GRID, RGB, scene_ids=["top", "nowhere"])
    assert set(counts(alone)) == {200, 0}
    assert 0 < alone.valid_fraction < 1
    assert (alone.data[0] == 0).sum() == (~alone.valid).sum()
    for absent in ([], ["nowhere"], ["far"]):
        with pytest.raises(NoImageryError, match="no vhr scene"):
            source.read(GRID, RGB, scene_ids=absent)


def test_order_of_the_result_follows_the_share_of_pixels(tmp_path):
    """Three strips: 10, 20 and 34 of 64 columns."""
    for name, first, last in (("a", 0, 10), ("b", 10, 30), ("c", 30, 64)):
        write(tmp_path / f"{name}.tif", flat(9, 64)[:, :, first:last], GRID.affine @ Affine.translation(first, 0))
    chip = LocalImagery(root=tmp_path, acquired_at="2023-06-14").read(GRID, RGB)
    assert chip.scene_ids == ("c", "b", "a")


class TestValidity:
    """Where pixels hold data, however the file says so."""

    def half(self, value=0):
        data = flat(120, 96)
        data[:, :, :48] = value
        return data

    def chip(self, folder):
        return LocalImagery(root=folder, acquired_at="2023-06-14").read(GRID, RGB)

    def place(self):
        return over(EPSG, (0.3, 0.3), 96)

    def left_is_missing(self, chip):
        assert not chip.valid[:, :31].any()
        assert chip.valid[:, 33:].all()
        assert (chip.data[:, chip.valid] == 120).all()
        assert (chip.data[:, ~chip.valid] == 0).all()

    @pytest.mark.parametrize("value", [0, 255, 7])
    def test_nodata_value(self, tmp_path, value):
        write(tmp_path / "a.tif", self.half(value), self.place(), nodata=value)
        self.left_is_missing(self.chip(tmp_path))

    def test_alpha_band(self, tmp_path):
        alpha = np.where(self.half()[:1] == 120, 255, 0).astype(np.uint8)
        data = np.concatenate([flat(120, 96), alpha])
        write(tmp_path / "a.tif", data, self.place(), photometric="RGB", alpha="yes")
        self.left_is_missing(self.chip(tmp_path))

    def test_mask_inside_the_file(self, tmp_path):
        path = write(tmp_path / "a.tif", flat(120, 96), self.place())
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as raster:
            raster.write_mask(self.half()[0] == 120)
        self.left_is_missing(self.chip(tmp_path))

    def test_mask_in_another_crs(self, tmp_path):
        """Validity moves with the pixels."""
        place = PLACES["swiss LV03"]
        data = flat(120)
        path = write(tmp_path / "a.tif", data, place, epsg=21781)
        mask = np.zeros((140, 140), bool)
        mask[40:100, 50:90] = True
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as raster:
            raster.write_mask(mask)
        corners = [place @ corner for corner in ((50, 40), (90, 40), (90, 100), (50, 100))]
        area = reproject(shapely.Polygon(corners), 21781, EPSG).intersection(GRID.footprint).area
        assert self.chip(tmp_path).valid.sum() * 0.09 == pytest.approx(area, rel=0.04)

    def test_black_is_data_where_nothing_says_otherwise(self, tmp_path):
        write(tmp_path / "a.tif", self.half(0), self.place())
        chip = self.chip(tmp_path)
        assert chip.valid.all()
        assert (chip.data[:, :, :30] == 0).all()

    @pytest.mark.parametrize("nodata", [None, 0, 255])
    def test_beyond_the_raster_is_no_data(self, tmp_path, nodata):
        place = GRID.affine @ Affine.translation(20, 12)
        write(tmp_path / "a.tif", flat(120, 64), place, nodata=nodata)
        chip = self.chip(tmp_path)
        wanted = np.zeros((64, 64), bool)
        wanted[12:, 20:] = True
        np.testing.assert_array_equal(chip.valid, wanted)
        assert chip.valid_fraction == wanted.mean()

    def test_touching_footprint_without_a_pixel_of_data(self, tmp_path):
        write(tmp_path / "a.tif", flat(0, 64), GRID.affine, nodata=0)
        with pytest.raises(NoImageryError, match="holds data"):
            self.chip(tmp_path)


class TestReflectance:
    """Multispectral scenes as STAC items: offsets, scales, classes."""

    grid = ChipGrid.around(X, Y, epsg=EPSG, gsd_m=10, height=16, width=16)

    def scene(self, root, name, planes, *, day="2023-06-10", offset=None, scale=1e-4, nodata=0, gsd=10, scl=None):
        """One file per band around the chip, and the item that describes them."""
        folder = root / name
        assets = {}
        for band, data in planes.items():
            place = over(EPSG, (gsd, gsd), data.shape[-1])
            write(folder / f"{band}.tif", data[None], place)
            stored = {"nodata": nodata, "scale": scale} | ({} if offset is None else {"offset": offset})
            assets[band] = {"href": f"./{band}.tif", "raster:bands": [stored]}
        if scl is not None:
            write(folder / "SCL.tif", scl[None], over(EPSG, (20, 20), scl.shape[-1]))
            assets["SCL"] = {"href": "./SCL.tif", "raster:bands": [{"nodata": 0}]}
        item = {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": name,
            "geometry": shapely.geometry.mapping(reproject(shapely.Point(X, Y).buffer(160), EPSG, 4326)),
            "properties": {"datetime": f"{day}T10:30:00Z", "proj:epsg": EPSG, "gsd": 10, "platform": "sentinel-2a"},
            "assets": assets,
        }
        (folder / f"{name}.json").write_text(json.dumps(item))

    def read(self, root, bands=("B04",), **options):
        return LocalImagery(root=root, kind="msi").read(self.grid, bands, **options)

    def test_both_baselines_give_one_reflectance(self, tmp_path):
        numbers = np.random.default_rng(2).integers(1, 9000, (24, 24)).astype(np.uint16)
        numbers[:, 20:] = 0
        later = np.where(numbers == 0, 0, numbers + 1000).astype(np.uint16)
        self.scene(tmp_path, "before", {"B04": numbers}, offset=0)
        self.scene(tmp_path, "after", {"B04": later}, offset=-0.1)
        before, after = (self.read(tmp_path, scene_ids=[name]) for name in ("before", "after"))
        np.testing.assert_array_equal(before.data, after.data)
        np.testing.assert_array_equal(before.valid, after.valid)
        np.testing.assert_array_equal(before.data[0], numbers[4:20, 4:20])
        np.testing.assert_array_equal(before.valid, numbers[4:20, 4:20] > 0)
        assert before.data.dtype == np.uint16

    def test_the_scale_is_the_items(self, tmp_path):
        numbers = np.full((24, 24), 500, np.uint16)
        self.scene(tmp_path, "scaled", {"B04": numbers}, scale=1e-3, offset=0.05)
        assert (self.read(tmp_path).data == 5500).all()

    def test_negative_reflectance_stays_apart_from_nodata(self, tmp_path):
        self.scene(tmp_path, "dark", {"B04": np.full((24, 24), 400, np.uint16)}, offset=-0.1)
        chip = self.read(tmp_path)
        assert (chip.data == 1).all()
        assert chip.valid.all()

    def test_bands_of_other_spacing_are_resampled_to_the_chip(self, tmp_path):
        coarse = np.random.default_rng(3).integers(1000, 9000, (16, 16)).astype(np.uint16)
        self.scene(tmp_path, "mixed", {"B05": coarse}, gsd=20)
        chip = self.read(tmp_path, ("B05",))
        wanted = np.zeros((16, 16), np.uint16)
        warp(
            coarse,
            wanted,
            src_transform=over(EPSG, (20, 20), 16),
            dst_transform=self.grid.affine,
            src_crs=f"EPSG:{EPSG}",
            dst_crs=f"EPSG:{EPSG}",
            resampling=Resampling.bilinear,
        )
        assert np.abs(chip.data[0].astype(int) - wanted).max() <= 1

    def test_classes_are_nearest_and_from_the_scene_of_the_pixel(self, tmp_path):
        random = np.random.default_rng(4)
        classes = random.choice(np.array([2, 8, 11], np.uint8), (16, 16))
        top = np.full((24, 24), 700, np.uint16)
        top[:12] = 0
        plain = np.full((24, 24), 300, np.uint16)
        self.scene(tmp_path, "new", {"B04": top}, day="2023-07-01", scl=classes)
        self.scene(tmp_path, "old", {"B04": plain}, scl=np.full((16, 16), 4, np.uint8))
        chip = self.read(tmp_path)
        columns = (np.arange(16) * 10 + 5 + 80) // 20
        fine = classes[np.ix_(columns, columns)]
        np.testing.assert_array_equal(chip.scl, np.where(np.arange(16)[:, None] < 8, 4, fine))
        assert chip.scl.dtype == np.uint8
        assert chip.scene_ids in (("new", "old"), ("old", "new"))

    def test_values_that_are_no_classes_are_refused(self, tmp_path):
        self.scene(tmp_path, "plain", {"B04": np.full((24, 24), 300, np.uint16)}, scl=np.full((16, 16), 99, np.uint8))
        with pytest.raises(SceneClassError, match="values 99 are not scene classes"):
            self.read(tmp_path)

    def test_classes_end_before_the_bands(self, tmp_path):
        """Where the classification holds nothing the class is 0, whatever number its file has for that."""
        self.scene(tmp_path, "plain", {"B04": np.full((24, 24), 300, np.uint16)}, scl=np.full((4, 4), 5, np.uint8))
        place = tmp_path / "plain" / "plain.json"
        stated = '"./SCL.tif", "raster:bands": [{"nodata": 0}]'
        assert stated in place.read_text()
        place.write_text(place.read_text().replace(stated, stated.replace("0", "255")))
        chip = self.read(tmp_path)
        assert chip.valid.all()
        assert set(np.unique(chip.scl).tolist()) == {0, 5}
        assert (chip.scl == 5).sum() == 64

    def test_scenes_without_classes_leave_them_unknown(self, tmp_path):
        self.scene(tmp_path, "plain", {"B04": np.full((24, 24), 300, np.uint16)})
        assert (self.read(tmp_path).scl == 0).all()

    def test_missing_band_names_what_there_is(self, tmp_path):
        self.scene(tmp_path, "plain", {"B04": np.full((24, 24), 300, np.uint16)})
        with pytest.raises(BandError, match=r"plain has bands B04; missing: B08"):
            self.read(tmp_path, ("B04", "B08"))

    def test_vhr_has_no_classes(self, tmp_path):
        write(tmp_path / "a.tif", flat(9), over(EPSG, (0.3, 0.3), 140))
        assert LocalImagery(root=tmp_path, acquired_at="2023-06-14").read(GRID, RGB).scl is None

    def test_a_file_with_fewer_bands_than_its_item_says(self, tmp_path):
        self.scene(tmp_path, "short", {"B04": np.full((24, 24), 300, np.uint16)})
        path = tmp_path / "short" / "short.json"
        item = json.loads(path.read_text())
        item["assets"] = {"stack": {"href": "./B04.tif", "eo:bands": [{"name": "B03"}, {"name": "B04"}]}}
        path.write_text(json.dumps(item))
        with pytest.raises(ImageryError, match=r"B04\.tif"):
            self.read(tmp_path)


class TestRefusals:
    """Options, files and pixels that cannot be used."""

    def test_truncated_and_vanished_files(self, tmp_path):
        data = np.random.default_rng(5).integers(0, 255, (3, 140, 140), dtype=np.uint8)
        path = write(tmp_path / "a.tif", data, over(EPSG, (0.3, 0.3), 140))
        source = LocalImagery(root=tmp_path, acquired_at="2023-06-14")
        assert len(source.scenes()) == 1
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(RasterReadError, match=r"a\.tif.*replace or remove"):
            source.read(GRID, RGB)
        source.close()
        path.unlink()
        with pytest.raises(RasterReadError, match=r"a\.tif"):
            source.read(GRID, RGB)

    def test_missing_folder(self, tmp_path):
        with pytest.raises(ConfigError, match=r"msi\.root"):
            LocalImagery(root=tmp_path / "nowhere", kind="msi")

    @pytest.mark.parametrize("text", ["june", "2023-13-01", "14.06.2023"])
    def test_unreadable_date(self, tmp_path, text):
        with pytest.raises(ConfigError, match="ISO 8601"):
            LocalImagery(root=tmp_path, acquired_at=text)

    @pytest.mark.parametrize(
        ("given_as", "wanted"),
        [
            ("2023-06-14", datetime(2023, 6, 14, tzinfo=UTC)),
            (date(2023, 6, 14), datetime(2023, 6, 14, tzinfo=UTC)),
            (datetime(2023, 6, 14, 9, tzinfo=UTC), datetime(2023, 6, 14, 9, tzinfo=UTC)),
            ("2023-06-14T09:00:00+02:00", datetime(2023, 6, 14, 7, tzinfo=UTC)),
        ],
    )
    def test_dates_of_a_folder(self, tmp_path, given_as, wanted):
        write(tmp_path / "a.tif", flat(9), over(EPSG, (0.3, 0.3), 140))
        assert LocalImagery(root=tmp_path, acquired_at=given_as).read(GRID, RGB).acquired_at == wanted

    def test_empty_folder(self, tmp_path):
        source = LocalImagery(root=tmp_path)
        assert len(source.scenes()) == 0
        with pytest.raises(NoImageryError):
            source.read(GRID, RGB)


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_more_files_than_may_be_open_at_once(tmp_path):
    """100 tiles of 20 × 20 pixels in one chip, and once more from the start."""
    for row in range(10):
        for column in range(10):
            place = GRID.affine @ Affine.translation(column * 20, row * 20)
            write(tmp_path / f"{row}{column}.tif", flat(10 * row + column + 1, 20), place)
    source = LocalImagery(root=tmp_path, acquired_at="2023-06-14")
    wide = ChipGrid(epsg=EPSG, transform=GRID.transform, height=200, width=200)
    source.scenes()
    before = open_files()
    chip = source.read(wide, RGB)
    assert open_files() - before <= 70
    wanted = np.kron(np.arange(1, 101).reshape(10, 10), np.ones((20, 20)))
    np.testing.assert_array_equal(chip.data[1], wanted)
    assert len(chip.scene_ids) == 100
    np.testing.assert_array_equal(source.read(wide, RGB).data, chip.data)
    source.close()
    assert open_files() <= before
    assert source.read(GRID, RGB).valid.all()


def test_registry_makes_a_source_that_keeps_the_protocol(tmp_path):
    source = imagery.get("local", root=tmp_path, kind="vhr")
    assert isinstance(source, ImagerySource)
    assert source.name == "local"
    assert "local" in imagery.names()
    with pytest.raises(UnknownNameError, match=r"unknown imagery source 'lokal'; known: .*local"):
        imagery.get("lokal")


def test_wide_rasters_are_found_all_along_their_edges(tmp_path):
    """In degrees, the edges of a wide tile are curves: the middle of an edge lies off the line of its corners."""
    wide = Affine(100.0, 0, 300_000, 0, -100.0, Y + 55_000)
    write(tmp_path / "wide.tif", flat(9, 1098), wide)
    source = LocalImagery(root=tmp_path, acquired_at="2023-06-14")
    middle = 300_000 + 549 * 100
    for x, y in ((middle, Y + 55_000 - 60), (middle, Y + 55_000 - 109_740)):
        grid = ChipGrid.around(x, y, epsg=EPSG, gsd_m=0.3, height=64, width=64)
        assert source.read(grid, RGB).valid.all()
