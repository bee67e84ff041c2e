"""Options of a local source: order of scenes, what changes a checksum, and what is refused."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from store.imagery.local import LocalImagery
from utils.errors import ConfigError
from utils.types import ChipGrid

RGB = ("red", "green", "blue")
X, Y = 439_000.0, 5_205_000.0
GRID = ChipGrid(epsg=32632, transform=(0.3, 0.0, X, 0.0, -0.3, Y), height=32, width=32)


def tile(path: Path, value: int, *, gsd: float, day: str, epsg: int = 32632, dtype: str = "uint8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = int(60 / gsd)
    place = Affine(gsd, 0, X - 10, 0, -gsd, Y + 10)
    profile = {"driver": "GTiff", "count": 3, "height": size, "width": size, "dtype": dtype, "nodata": 0}
    with rasterio.open(path, "w", crs=f"EPSG:{epsg}", transform=place, **profile) as raster:
        raster.write(np.full((3, size, size), value, dtype))
        raster.update_tags(TIFFTAG_DATETIME=f"{day.replace('-', ':')} 10:00:00")


@pytest.fixture
def folder(tmp_path):
    tile(tmp_path / "b_old_fine.tif", 10, gsd=0.1, day="2019-01-01")
    tile(tmp_path / "c_new.tif", 20, gsd=0.5, day="2023-01-01")
    tile(tmp_path / "a_new.tif", 30, gsd=0.5, day="2023-01-01")
    tile(tmp_path / "d_mid.tif", 40, gsd=0.2, day="2021-01-01")
    return tmp_path


ORDERS = {
    "newest": ["a_new", "c_new", "d_mid", "b_old_fine"],
    "finest": ["b_old_fine", "d_mid", "a_new", "c_new"],
    "name": ["a_new", "b_old_fine", "c_new", "d_mid"],
    ("d_mid",): ["d_mid", "a_new", "c_new", "b_old_fine"],
    ("*_fine", "c_*"): ["b_old_fine", "c_new", "a_new", "d_mid"],
    ("c_new", "*"): ["c_new", "a_new", "d_mid", "b_old_fine"],
}
VALUES = {"a_new": 30, "b_old_fine": 10, "c_new": 20, "d_mid": 40}


@pytest.mark.parametrize("order", ORDERS)
def test_the_catalogue_and_the_pixels_follow_one_order(folder, order):
    source = LocalImagery(root=folder, order=order if isinstance(order, str) else list(order))
    assert source.scenes()["scene_id"].to_pylist() == ORDERS[order]
    for top in range(4):
        chip = source.read(GRID, RGB, scene_ids=ORDERS[order][top:])
        assert chip.scene_ids == (ORDERS[order][top],)
        assert (chip.data == VALUES[ORDERS[order][top]]).all()
        assert chip.acquired_at == next(
            row["acquired_at"] for row in source.scenes().to_pylist() if row["scene_id"] == ORDERS[order][top]
        )
    assert source.read(GRID, RGB).scene_ids == (ORDERS[order][0],)


@pytest.mark.parametrize("order", ["oldest", "", [], 3, {"a": 1}, ["a_new", ""], ["a_new", 3]])
def test_orders_that_are_none(folder, order):
    with pytest.raises(ConfigError, match=r"vhr\.order"):
        LocalImagery(root=folder, order=order)


def test_a_pattern_that_fits_nothing_is_a_typing_error(folder):
    with pytest.raises(ConfigError, match=r"order names 'a_nwe'.*a_new, c_new"):
        LocalImagery(root=folder, order=["a_nwe"]).scenes()


def checksum(root: Path, **options: object) -> str:
    [row] = LocalImagery(root=root, **options).scenes().to_pylist()
    return row["checksum"]


def test_what_changes_pixels_changes_the_checksum(tmp_path):
    tile(tmp_path / "a.tif", 900, gsd=0.3, day="2023-01-01", dtype="uint16")
    linear = {"kind": "linear", "low": 0, "high": 3000}
    variants = [
        {"stretch": linear},
        {"stretch": linear | {"high": 2999}},
        {"stretch": linear | {"gamma": 1.1}},
        {"stretch": linear, "nodata": 5},
        {"stretch": linear, "resampling": {"continuous": "cubic"}},
        {"stretch": linear, "resampling": {"downsampling": "med"}},
        {"stretch": linear, "categorical": ["red"]},
        {"kind": "msi", "scale": 1e-4},
        {"kind": "msi", "scale": 1e-4, "offset": -0.1},
    ]
    sums = [checksum(tmp_path, **variant) for variant in variants]
    assert len(set(sums)) == len(variants)
    assert [checksum(tmp_path, **variant) for variant in variants] == sums


def test_what_does_not_change_pixels_does_not(tmp_path):
    tile(tmp_path / "a.tif", 9, gsd=0.3, day="2023-01-01")
    plain = checksum(tmp_path)
    for options in (
        {"order": "finest"},
        {"index": None},
        {"acquired_at": "2020-01-01"},
        {"crs": "EPSG:2056"},
        {"exclude": ["b*"]},
        {"stretch": {"kind": "percentile", "low": 2, "high": 98}},
        {"resampling": {"continuous": "bilinear"}},
    ):
        assert checksum(tmp_path, **options) == plain, options


def test_the_assets_say_how_each_band_is_read(tmp_path):
    tile(tmp_path / "a.tif", 900, gsd=0.3, day="2023-01-01", dtype="uint16")
    source = LocalImagery(
        root=tmp_path, stretch={"kind": "linear", "low": [1, 2, 3], "high": 3000, "gamma": 2}, categorical=["blue"]
    )
    assets = json.loads(source.scenes()["assets"][0].as_py())
    assert assets["green"]["stretch"] == [2, 3000, 2]
    assert assets["green"]["resampling"] == ["bilinear", "average"]
    assert assets["blue"]["resampling"] == ["nearest", "nearest"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stretch": "auto"}, r"vhr\.stretch is 'auto'; give \{kind: linear"),
        ({"stretch": {"kind": "minmax"}}, r"vhr\.stretch"),
        ({"stretch": {"kind": "linear", "low": 0}}, "low and high always"),
        ({"stretch": {"kind": "linear", "low": 0, "high": 1, "clip": 2}}, "takes kind, low, high and gamma"),
        ({"stretch": {"kind": "linear", "low": 5, "high": 5}}, "low must lie below high"),
        ({"stretch": {"kind": "linear", "low": [0, 0, 9], "high": 5}}, "not for blue"),
        ({"stretch": {"kind": "linear", "low": [0, 0], "high": 5}}, "three numbers"),
        ({"stretch": {"kind": "linear", "low": float("nan"), "high": 5}}, r"stretch\.low must be a number"),
        ({"stretch": {"kind": "linear", "low": 0, "high": 5, "gamma": 0}}, "gamma is 0"),
        ({"stretch": {"kind": "percentile", "low": 2, "high": 101}}, "0 to 100"),
        ({"scale": 0}, r"scale must be above 0"),
        ({"scale": -1.0}, r"scale must be above 0"),
        ({"stretch": {"kind": "percentile", "low": 98, "high": 2}}, "low must lie below high"),
        ({"stretch": {"kind": "percentile", "low": [1, 2, 3], "high": 98}}, "one number"),
        ({"nodata": "black"}, r"vhr\.nodata must be a number"),
        ({"nodata": True}, r"vhr\.nodata"),
        ({"exclude": "masks/*"}, r"vhr\.exclude must be a list"),
        ({"categorical": "SCL"}, r"vhr\.categorical must be a list"),
        ({"sensor": 3}, r"vhr\.sensor must be text"),
        ({"colour": "red", "x": 1}, r"unknown options colour, x; known: root, index, acquired_at"),
        ({"kind": "lidar"}, "vhr or msi"),
    ],
)
def test_refusals_name_the_option(tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        LocalImagery(root=tmp_path, **options)


def test_null_is_the_default(tmp_path):
    tile(tmp_path / "a.tif", 9, gsd=0.3, day="2023-01-01")
    nothing = dict.fromkeys(("acquired_at", "sensor", "crs", "nodata", "order", "stretch", "resampling", "exclude"))
    assert checksum(tmp_path, **nothing) == checksum(tmp_path)


def test_excluded_paths_are_not_read_and_not_listed(tmp_path):
    tile(tmp_path / "a.tif", 9, gsd=0.3, day="2023-01-01")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.tif").write_bytes(b"II*\0")
    source = LocalImagery(root=tmp_path, exclude=["masks/*"])
    assert source.scenes()["scene_id"].to_pylist() == ["a"]
    assert source.unreadable() == {}
    assert source.scenes()["acquired_at"].to_pylist() == [datetime(2023, 1, 1, 10, tzinfo=UTC)]


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    import os

    tile(tmp_path / "a.tif", 9, gsd=0.3, day="2023-01-01")
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def refusing(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("store.imagery.folder.os.scandir", refusing)
    source = LocalImagery(root=tmp_path)
    assert source.scenes()["scene_id"].to_pylist() == ["a"]
    [(place, reason)] = source.unreadable().items()
    assert place.endswith("closed")
    assert "Permission denied" in reason
