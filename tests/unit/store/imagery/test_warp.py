"""Chip pixels equal a WarpedVRT opened on its own: turned grids, zone edges, the antimeridian, masks and depths."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, Resampling
from rasterio.shutil import copy

from store.imagery.local import LocalImagery
from support.warp_oracle import Pixels, banded, differing, scale_of, warped
from utils.errors import ConfigError, ImageryError, NoImageryError
from utils.geo import reproject_points, utm_epsg
from utils.radiometry import stretched
from utils.types import ChipGrid, RasterChip

RGB = ("red", "green", "blue")
SIZE = 160


def noise(bands: int = 3, size: int = SIZE, *, dtype: type = np.uint8, high: int = 256) -> np.ndarray:
    return np.random.default_rng(5).integers(1, high, (bands, size, size)).astype(dtype)


def write(path: Path, data: np.ndarray, epsg: int, transform: Affine, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, rows, columns = data.shape
    profile = {"driver": "GTiff", "count": bands, "height": rows, "width": columns, "dtype": data.dtype} | options
    with rasterio.open(path, "w", crs=f"EPSG:{epsg}", transform=transform, **profile) as raster:
        raster.write(data)
    return path


def around(lon: float, lat: float, epsg: int, *, gsd: float, size: int, turned: float = 0.0, shear: float = 0.0):
    """A transform of ``size`` pixels of ``gsd`` CRS units centred on a place."""
    [(x, y)] = reproject_points([[lon, lat]], 4326, epsg)
    turn = Affine.rotation(turned) @ Affine.shear(shear, 0)
    return Affine.translation(x, y) @ turn @ Affine.scale(gsd, -gsd) @ Affine.translation(-size / 2, -size / 2)


def grid_at(lon: float, lat: float, *, epsg: int | None = None, gsd: float = 0.3, size: int = 96, turned: float = 0.0):
    code = epsg or utm_epsg(lon, lat)
    place = around(lon, lat, code, gsd=gsd, size=size, turned=turned)
    return ChipGrid(epsg=code, transform=tuple(place)[:6], height=size, width=size)


def read(folder: Path, grid: ChipGrid, bands: tuple[str, ...] = RGB, **options: object) -> RasterChip:
    return LocalImagery(root=folder, acquired_at="2023-06-14", **options).read(grid, bands)


def same(chip: RasterChip, oracle: Pixels, *, partly: bool = True) -> None:
    compared, different = differing(chip.data, chip.valid, oracle)
    print(f"{compared} pixels compared, {different} different, {int(chip.valid.sum())} valid")
    assert different == 0
    assert chip.valid.any()
    assert (chip.data[:, ~chip.valid] == 0).all()
    assert partly != chip.valid.all()


GENEVA, SYDNEY, USHUAIA, ZONE_EDGE, NORTH = (5.9, 46.2), (151.2, -33.9), (-68.3, -54.8), (12.0, 47.5), (20.0, 83.9)
PLACES = {
    "turned source": (GENEVA, 32632, {"turned": 33}, {}),
    "sheared source": (GENEVA, 32632, {"shear": 20}, {}),
    "turned chip": (GENEVA, 32632, {}, {"turned": -17}),
    "both turned": (GENEVA, 32631, {"turned": 71}, {"turned": 12}),
    "zone 32 on zone 33": (ZONE_EDGE, 32632, {}, {"epsg": 32633}),
    "zone 33 on zone 32": (ZONE_EDGE, 32633, {}, {"epsg": 32632}),
    "southern zone": (SYDNEY, 32756, {}, {}),
    "southern raster in degrees": (USHUAIA, 4326, {"gsd": 3e-6}, {}),
    "northern zone below the equator": ((30.0, -0.001), 32636, {}, {"epsg": 32736}),
    "far north": (NORTH, 32633, {}, {}),
    "web mercator": (GENEVA, 3857, {"gsd": 0.43}, {}),
}


@pytest.mark.parametrize("place", PLACES)
def test_chips_equal_the_oracle(tmp_path, place):
    (lon, lat), epsg, source, chip = PLACES[place]
    transform = around(lon, lat, epsg, size=SIZE, **({"gsd": 0.3} | source))
    path = write(tmp_path / "a.tif", noise(), epsg, transform)
    grid = grid_at(lon, lat, **chip)
    same(read(tmp_path, grid), warped(path, grid, [1, 2, 3], scale=scale_of(path, grid)), partly=False)
    corner = grid.affine @ (-40, -30)
    beside = ChipGrid(
        epsg=grid.epsg,
        transform=tuple(Affine.translation(corner[0] - grid.transform[2], corner[1] - grid.transform[5]) @ grid.affine)[
            :6
        ],
        height=96,
        width=96,
    )
    same(read(tmp_path, beside), warped(path, beside, [1, 2, 3], scale=scale_of(path, beside)))


@pytest.mark.parametrize("epsg", [32632, 4326])
def test_rasters_that_count_rows_from_the_south(tmp_path, epsg):
    gsd = 0.3 if epsg == 32632 else 3e-6
    [(x, y)] = reproject_points([GENEVA], 4326, epsg)
    south_up = Affine(gsd, 0, x - gsd * SIZE / 2, 0, gsd, y - gsd * SIZE / 2)
    path = write(tmp_path / "a.tif", noise(), epsg, south_up)
    grid = grid_at(*GENEVA)
    chip = read(tmp_path, grid)
    same(chip, warped(path, grid, [1, 2, 3], scale=scale_of(path, grid)), partly=False)
    upright = write(tmp_path / "up" / "a.tif", noise()[:, ::-1], epsg, around(*GENEVA, epsg, gsd=gsd, size=SIZE))
    same(chip, warped(upright, grid, [1, 2, 3], scale=scale_of(upright, grid)), partly=False)


DATELINE = {"zone 1": (-180 + 2e-4, -17.0), "zone 60": (180 - 2e-4, -17.0), "on the line": (-180.0, -17.0)}


class TestAntimeridian:
    """A raster over ±180 is found and read from both sides."""

    @pytest.mark.parametrize("where", DATELINE)
    @pytest.mark.parametrize("zone", [32701, 32760])
    def test_raster_in_a_zone_next_to_it(self, tmp_path, where, zone):
        path = write(tmp_path / "a.tif", noise(size=400), zone, around(180.0, -17.0, zone, gsd=0.3, size=400))
        grid = grid_at(*DATELINE[where])
        same(read(tmp_path, grid), warped(path, grid, [1, 2, 3]), partly=False)

    @pytest.mark.parametrize("where", DATELINE)
    @pytest.mark.parametrize("counted", ["beyond 180", "below -180"])
    def test_raster_in_degrees(self, tmp_path, where, counted):
        centre = 180.0 if counted == "beyond 180" else -180.0
        step, size = 3e-6, 400
        place = Affine(step, 0, centre - step * size / 2, 0, -step, -17.0 + step * size / 2)
        path = write(tmp_path / "a.tif", noise(size=size), 4326, place)
        grid = grid_at(*DATELINE[where])
        source = LocalImagery(root=tmp_path, acquired_at="2023-06-14")
        [footprint] = source._scenes
        assert footprint.footprint.geom_type == "MultiPolygon"
        assert footprint.footprint.bounds[::2] == (-180.0, 180.0)
        here, there = (warped(path, grid, [1, 2, 3], shift=shift) for shift in (0.0, -2 * centre))
        values = np.where(here[1], here[0], there[0])
        same(source.read(grid, RGB), (values, here[1] | there[1]), partly=False)

    @pytest.mark.parametrize("where", DATELINE)
    def test_web_mercator_beyond_its_edge(self, tmp_path, where):
        edge = np.pi * 6378137
        [(_, y)] = reproject_points([[0.0, -17.0]], 4326, 3857)
        path = write(tmp_path / "a.tif", noise(size=400), 3857, Affine(0.4, 0, edge - 80, 0, -0.4, y + 80))
        grid = grid_at(*DATELINE[where])
        here, there = (warped(path, grid, [1, 2, 3], shift=shift) for shift in (0.0, -2 * edge))
        oracle = np.where(here[1], here[0], there[0]), here[1] | there[1]
        same(read(tmp_path, grid), oracle, partly=False)

    def test_a_chip_away_from_the_line_is_not_touched(self, tmp_path):
        write(tmp_path / "a.tif", noise(), 32701, around(180.0, -17.0, 32701, gsd=0.3, size=SIZE))
        with pytest.raises(NoImageryError):
            read(tmp_path, grid_at(0.0, -17.0))

    def test_a_raster_around_the_pole_is_listed(self, tmp_path):
        write(tmp_path / "a.tif", noise(), 3413, Affine(10, 0, -800, 0, -10, 800))
        source = LocalImagery(root=tmp_path, acquired_at="2023-06-14")
        assert not len(source.scenes())
        assert "pole" in next(iter(source.unreadable().values()))


class TestResampling:
    """Which method is used where, and that options reach it."""

    @pytest.mark.parametrize(
        ("gsd", "options", "wanted"),
        [
            (0.3, {}, "bilinear"),
            (0.59, {}, "bilinear"),
            (0.61, {}, "average"),
            (1.7, {}, "average"),
            (0.3, {"continuous": "cubic"}, "cubic"),
            (1.7, {"downsampling": "med"}, "med"),
            (1.7, {"continuous": "nearest"}, "average"),
        ],
    )
    def test_method_by_ratio(self, tmp_path, gsd, options, wanted):
        path = write(tmp_path / "a.tif", noise(size=600), 32631, around(*GENEVA, 32631, gsd=0.3, size=600))
        grid = grid_at(*GENEVA, gsd=gsd)
        chip = read(tmp_path, grid, resampling=options)
        same(
            chip, warped(path, grid, [1, 2, 3], resampling=Resampling[wanted], scale=scale_of(path, grid)), partly=False
        )

    def test_bands_of_classes_are_never_mixed(self, tmp_path):
        data = noise(4)
        data[3] = np.random.default_rng(1).choice([10, 200], (SIZE, SIZE))
        names = ("red", "green", "blue", "classes")
        path = write(tmp_path / "a.tif", data, 32632, around(*GENEVA, 32632, gsd=0.3, size=SIZE), photometric="RGB")
        with rasterio.open(path, "r+") as raster:
            raster.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined]
            raster.descriptions = names
        grid = grid_at(*GENEVA)
        chip = read(tmp_path, grid, names, categorical=["classes"])
        assert set(np.unique(chip.data[3])) == {10, 200}
        values, holds = warped(path, grid, [1, 2, 3, 4])
        values[3:] = warped(path, grid, [4], resampling=Resampling.nearest)[0]
        same(chip, (values, holds), partly=False)

    def test_overviews_are_not_used(self, tmp_path):
        data, place = noise(size=512), around(*GENEVA, 32631, gsd=0.1, size=512)
        path = write(tmp_path / "a.tif", data, 32631, place, tiled=True, blockxsize=128, blockysize=128)
        grid = grid_at(*GENEVA, gsd=0.5, size=64)
        plain = read(tmp_path, grid)
        with rasterio.open(path, "r+") as raster:
            raster.build_overviews([2, 4], Resampling.nearest)
        with rasterio.open(path) as raster:
            assert raster.overviews(1) == [2, 4]
        np.testing.assert_array_equal(read(tmp_path, grid).data, plain.data)

    def test_averages_leave_nodata_out(self, tmp_path):
        data = noise(size=480)
        data[:, np.random.default_rng(2).random((480, 480)) < 0.7] = 0
        path = write(tmp_path / "a.tif", data, 32631, around(*GENEVA, 32631, gsd=0.1, size=480), nodata=0)
        grid = grid_at(*GENEVA, gsd=0.3, size=96)
        chip = read(tmp_path, grid)
        same(chip, warped(path, grid, [1, 2, 3], resampling=Resampling.average))
        assert chip.data[:, chip.valid].min() > 0

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"continuous": "bilinaer"}, r"vhr\.resampling\.continuous is 'bilinaer'; known: nearest, bilinear"),
            ({"categorical": "bilinear"}, "known: nearest, mode"),
            ({"upsampling": "cubic"}, "continuous, downsampling, categorical"),
            ("cubic", "continuous, downsampling, categorical"),
        ],
    )
    def test_refusals(self, tmp_path, options, words):
        with pytest.raises(ConfigError, match=words):
            LocalImagery(root=tmp_path, resampling=options)


class TestValidity:
    """Mask, alpha, nodata: which of them speaks."""

    place = Affine(0.3, 0, 700_000, 0, -0.3, 5_100_000)
    grid = ChipGrid(epsg=32631, transform=(0.3, 0.0, 700_009.6, 0.0, -0.3, 5_099_990.4), height=96, width=96)
    shifted = ChipGrid(epsg=32631, transform=(0.3, 0.0, 700_009.7, 0.0, -0.3, 5_099_990.2), height=96, width=96)

    def holed(self, bands=3, **options):
        data = noise(bands, **options)
        data[:, 60:80, 60:80] = 0
        return data

    def test_black_in_one_band_is_black(self, tmp_path):
        """Dark panels have zeros in red while nodata is 0: they are no holes."""
        data = self.holed()
        data[0, 90:100, 90:100] = 0
        path = write(tmp_path / "a.tif", data, 32631, self.place, nodata=0)
        chip = read(tmp_path, self.grid)
        same(chip, warped(path, self.grid, [1, 2, 3]))
        assert (~chip.valid).sum() == 400
        assert (chip.data[0] == 0)[chip.valid].sum() == 100
        same(read(tmp_path, self.shifted), warped(path, self.shifted, [1, 2, 3]))

    def test_deep_imagery_lacks_a_pixel_that_one_band_lacks(self, tmp_path):
        data = self.holed(dtype=np.uint16, high=3000)
        data[0, 90:100, 90:100] = 0
        path = write(tmp_path / "a.tif", data, 32631, self.place, nodata=0)
        chip = read(tmp_path, self.shifted, stretch={"kind": "linear", "low": 0, "high": 3000})
        values, holds = banded(path, self.shifted, [1, 2, 3])
        assert not holds[44:50, 44:50].all()
        same(chip, (stretched(values, np.broadcast_to(holds, values.shape), low=0, high=3000), holds))

    def test_reflectance_lacks_a_pixel_that_one_band_lacks(self, tmp_path):
        data = self.holed(dtype=np.uint16, high=3000)
        data[0, 90:100, 90:100] = 0
        path = write(tmp_path / "a.tif", data, 32631, self.place, nodata=0)
        chip = read(tmp_path, self.grid, kind="msi", scale=1e-4)
        same(chip, banded(path, self.grid, [1, 2, 3]))
        assert (~chip.valid).sum() == 500

    @pytest.mark.parametrize("inside", [True, False])
    @pytest.mark.parametrize("nodata", [None, 0])
    def test_a_mask_band_comes_before_nodata(self, tmp_path, inside, nodata):
        path = write(tmp_path / "a.tif", self.holed(), 32631, self.place, nodata=nodata)
        mask = np.ones((SIZE, SIZE), bool)
        mask[100:110] = False
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(path, "r+") as raster:
            raster.write_mask(mask)
        assert (tmp_path / "a.tif.msk").exists() != inside
        chip = read(tmp_path, self.grid)
        same(chip, warped(path, self.grid, [1, 2, 3], src_nodata=None))
        assert (chip.data == 0).all(axis=0)[chip.valid].sum() == 400

    @pytest.mark.parametrize(("dtype", "opaque"), [(np.uint8, 255), (np.uint16, 65535), (np.uint16, 255)])
    def test_alpha_as_fourth_band(self, tmp_path, dtype, opaque):
        data = noise(4, dtype=dtype, high=256)
        data[3] = opaque
        data[3, 60:80, 60:80] = 0
        path = write(tmp_path / "a.tif", data, 32631, self.place, photometric="RGB", alpha="yes")
        stretch = None if dtype is np.uint8 else {"kind": "linear", "low": 0, "high": 255}
        chip = read(tmp_path, self.shifted, stretch=stretch)
        values, holds = warped(path, self.shifted, [1, 2, 3])
        if stretch:
            values = stretched(values, np.broadcast_to(holds, values.shape), low=0, high=255)
        same(chip, (values, holds))

    def test_alpha_as_second_band(self, tmp_path):
        data = noise(2)
        data[1] = 255
        data[1, 60:80, 60:80] = 0
        path = write(tmp_path / "a.tif", data, 32631, self.place, alpha="yes")
        same(read(tmp_path, self.grid, ("band1",)), warped(path, self.grid, [1]))

    def test_alpha_comes_before_a_mask_band_and_nodata(self, tmp_path):
        data = noise(4)
        data[3] = 255
        data[3, 60:80, 60:80] = 0
        path = write(tmp_path / "a.tif", data, 32631, self.place, photometric="RGB", alpha="yes", nodata=7)
        mask = np.ones((SIZE, SIZE), bool)
        mask[100:110] = False
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as raster:
            raster.write_mask(mask)
        chip = read(tmp_path, self.grid)
        np.testing.assert_array_equal(chip.valid, data[3, 32:128, 32:128] > 0)
        np.testing.assert_array_equal(chip.data[:, chip.valid], data[:3, 32:128, 32:128][:, chip.valid])

    def test_nan_with_and_without_a_nodata_value(self, tmp_path):
        data = noise(dtype=np.float32, high=3000)
        data[:, 60:80, 60:80] = np.nan
        data[1, 90, 90] = np.nan
        stretch = {"kind": "linear", "low": 0, "high": 3000}
        for nodata in (None, np.nan, -9999):
            folder = tmp_path / str(nodata)
            write(folder / "a.tif", data, 32631, self.place, nodata=nodata)
            chip = read(folder, self.grid, stretch=stretch)
            assert (~chip.valid).sum() == 401
            with rasterio.open(folder / "a.tif") as raster:
                values = raster.read(window=((32, 128), (32, 128)))
            holds = np.isfinite(values).all(axis=0)
            same(chip, (stretched(values, np.broadcast_to(holds, values.shape), low=0, high=3000), holds))

    def test_nodata_by_band(self, tmp_path):
        """A VRT may give each band its own value; a colour that is another band's nodata stays."""
        data = noise()
        for band, value in enumerate((10, 20, 30)):
            data[band, 60:80, 60:80] = value
        data[0, 90:100, 90:100] = 20
        path = write(tmp_path / "parts" / "a.tif", data, 32631, self.place)
        copy(path, tmp_path / "a.vrt", driver="VRT")
        text = (tmp_path / "a.vrt").read_text()
        for band, value in enumerate((10, 20, 30), start=1):
            head = f'<VRTRasterBand dataType="Byte" band="{band}">'
            start = text.index(head[:-1])
            end = text.index(">", start) + 1
            text = f"{text[:end]}<NoDataValue>{value}</NoDataValue>{text[end:]}"
        (tmp_path / "a.vrt").write_text(text)
        with rasterio.open(tmp_path / "a.vrt") as raster:
            assert raster.nodatavals == (10, 20, 30)
        chip = read(tmp_path, self.grid, exclude=["parts/*"])
        window = data[:, 32:128, 32:128]
        np.testing.assert_array_equal(chip.valid, ~(window == np.array([10, 20, 30])[:, None, None]).all(axis=0))
        np.testing.assert_array_equal(chip.data[:, chip.valid], window[:, chip.valid])

    def test_the_sources_nodata_is_for_files_that_state_none(self, tmp_path):
        write(tmp_path / "bare" / "a.tif", self.holed(), 32631, self.place)
        write(tmp_path / "stated" / "a.tif", self.holed(), 32631, self.place, nodata=255)
        bare, stated = (read(tmp_path / name, self.grid, nodata=0) for name in ("bare", "stated"))
        assert (~bare.valid).sum() == 400
        assert stated.valid[30:40, 30:40].all()

    @pytest.mark.parametrize("nodata", [-9999, 1e20, 300])
    def test_a_value_the_type_cannot_hold_marks_nothing(self, tmp_path, nodata):
        write(tmp_path / "a.tif", self.holed(), 32631, self.place)
        assert read(tmp_path, self.grid, nodata=nodata).valid.all()


class TestStretch:
    """Deep imagery becomes display values by one fixed mapping."""

    place, grid = TestValidity.place, TestValidity.grid

    @pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.uint32, np.float64])
    def test_linear_equals_numpy(self, tmp_path, dtype):
        path = write(tmp_path / "a.tif", noise(dtype=dtype, high=3000), 32631, self.place)
        stretch = {"kind": "linear", "low": [100, 200, 300], "high": [2000, 2500, 2800], "gamma": 1.4}
        grid = TestValidity.shifted
        chip = read(tmp_path, grid, stretch=stretch)
        values, holds = warped(path, grid, [1, 2, 3])
        low, high = (np.array(stretch[end], float)[:, None, None] for end in ("low", "high"))
        share = np.clip((values.astype(float) - low) / (high - low), 0, 1)
        same(chip, ((1 + np.rint(254 * share ** (1 / 1.4))).astype(np.uint8), holds), partly=False)
        assert chip.data.min() == 1
        assert chip.data.max() == 255

    def test_percentiles_are_of_the_scene_not_of_the_chip(self, tmp_path):
        data = (noise(dtype=np.uint16, high=500) + np.arange(SIZE, dtype=np.uint16) * 20).astype(np.uint16)
        write(tmp_path / "a.tif", data, 32631, self.place)
        source = LocalImagery(
            root=tmp_path, acquired_at="2023-06-14", stretch={"kind": "percentile", "low": 2, "high": 98}
        )
        whole = ChipGrid(epsg=32631, transform=tuple(self.place)[:6], height=SIZE, width=SIZE)
        limits = np.percentile(data.reshape(3, -1).astype(float), (2, 98), axis=1)[..., None, None]
        wanted = 1 + np.rint(254 * np.clip((data - limits[0]) / (limits[1] - limits[0]), 0, 1))
        np.testing.assert_array_equal(source.read(whole, RGB).data, wanted)
        left = ChipGrid(epsg=32631, transform=tuple(self.place)[:6], height=SIZE, width=50)
        np.testing.assert_array_equal(source.read(left, RGB).data, wanted[:, :, :50])

    def test_percentiles_of_a_large_scene_come_from_the_stated_sample(self, tmp_path):
        data = noise(1, 1600, dtype=np.uint16, high=60000)
        data[:, :300] = 0
        path = write(tmp_path / "a.tif", data, 32631, around(*GENEVA, 32631, gsd=0.3, size=1600), nodata=0)
        source = LocalImagery(
            root=tmp_path, acquired_at="2023-06-14", stretch={"kind": "percentile", "low": 2, "high": 98}
        )
        [scene] = source._scenes
        with rasterio.open(path) as raster:
            sample = raster.read(1, out_shape=(512, 512))
        np.testing.assert_allclose(scene.assets["band1"].stretch[:2], np.percentile(sample[sample > 0], (2, 98)))

    def test_bytes_are_shown_as_they_are(self, tmp_path):
        path = write(tmp_path / "a.tif", noise(), 32631, self.place)
        for stretch in ({"kind": "linear", "low": 0, "high": 9}, {"kind": "percentile", "low": 2, "high": 98}):
            same(read(tmp_path, self.grid, stretch=stretch), warped(path, self.grid, [1, 2, 3]), partly=False)

    def test_without_a_stretch_the_refusal_says_what_to_set(self, tmp_path):
        path = write(tmp_path / "a.tif", noise(dtype=np.uint16, high=900), 32631, self.place)
        source = LocalImagery(root=tmp_path, acquired_at="2023-06-14")
        assert not len(source.scenes())
        reason = source.unreadable()[str(path)]
        assert "uint16" in reason
        assert "stretch: {kind: linear, low: 0, high: 3000}" in reason

    def test_a_flat_scene_has_no_percentiles(self, tmp_path):
        write(tmp_path / "a.tif", np.full((3, SIZE, SIZE), 7, np.uint16), 32631, self.place)
        source = LocalImagery(
            root=tmp_path, acquired_at="2023-06-14", stretch={"kind": "percentile", "low": 2, "high": 98}
        )
        assert not len(source.scenes())
        assert "kind: linear" in next(iter(source.unreadable().values()))

    def test_a_band_without_limits(self, tmp_path):
        write(tmp_path / "a.tif", noise(dtype=np.uint16, high=900), 32631, self.place)
        source = LocalImagery(
            root=tmp_path, acquired_at="2023-06-14", stretch={"kind": "linear", "low": {"red": 0}, "high": {"red": 9}}
        )
        assert source.read(self.grid, ("red",)).valid.all()
        with pytest.raises(ImageryError, match=r"vhr\.stretch.*green"):
            source.read(self.grid, RGB)

    def test_complex_numbers_are_refused(self, tmp_path):
        write(tmp_path / "a.tif", noise(dtype=np.complex64), 32631, self.place)
        with pytest.raises(ImageryError, match="complex64"):
            read(tmp_path, self.grid, stretch={"kind": "linear", "low": 0, "high": 9})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("nodata", [None, 0])
@pytest.mark.parametrize("turned", [0, 3, 45])
def test_turned_chips_equal_bilinear_interpolation(tmp_path, dtype, nodata, turned):
    """Against OpenCV, because GDAL has shortcuts of its own on turned grids."""
    data = noise(dtype=dtype)
    place = TestValidity.place
    write(tmp_path / "a.tif", data, 32631, place, nodata=nodata)
    target = place @ Affine.translation(60.3, 20.4) @ Affine.rotation(turned)
    grid = ChipGrid(epsg=32631, transform=tuple(target)[:6], height=64, width=64)
    columns, rows = ~place @ (target @ tuple(np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)))
    at = (columns - 0.5).astype(np.float32), (rows - 0.5).astype(np.float32)
    wanted = np.stack([cv2.remap(band.astype(np.float32), *at, cv2.INTER_LINEAR) for band in data])
    stretch = {"kind": "linear", "low": 1, "high": 255}
    chip = read(tmp_path, grid, stretch=None if dtype is np.uint8 else stretch)
    assert chip.valid.all()
    assert np.abs(chip.data - wanted).max() <= 1.01
