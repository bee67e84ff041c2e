"""What every registered imagery source keeps, however its scenes are laid out."""

import json
from datetime import datetime

import numpy as np
import pytest
import shapely
from rasterio.enums import Resampling

from store import imagery
from store.schemas import SCENES
from support.imagery_layouts import LAYOUTS, RGB, Layout, chip
from support.warp_oracle import Pixels, differing, warped
from utils.errors import BandError, ConfigError, NoImageryError
from utils.footprints import outline_lonlat
from utils.types import ChipGrid, ImagerySource, RasterChip


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return LAYOUTS[request.param](tmp_path_factory.mktemp("imagery") / "scenes")


@pytest.fixture
def source(layout: Layout) -> ImagerySource:
    return imagery.get(layout.source, kind="vhr", **layout.options)


def mosaic(layout: Layout, grid: ChipGrid, order: list[str], *, resampling: Resampling = Resampling.bilinear) -> Pixels:
    values, holds = np.zeros((3, grid.height, grid.width), np.uint8), np.zeros((grid.height, grid.width), bool)
    for scene in order:
        path = layout.rasters[scene]
        scale = (min(1.0, 0.3 / grid.gsd_m),) * 2
        planes, there = warped(path, grid, [1, 2, 3], resampling=resampling, scale=scale, **layout.extra)
        fresh = there & ~holds
        values[:, fresh] = planes[:, fresh]
        holds |= fresh
    return values, holds


def equal(chip: RasterChip, oracle: Pixels) -> None:
    compared, different = differing(chip.data, chip.valid, oracle)
    print(f"{compared} pixels compared, {different} different")
    assert different == 0


def test_every_source_is_in_this_suite():
    assert {name.partition(":")[0] for name in LAYOUTS} == set(imagery.names())


def test_it_is_an_imagery_source_by_its_registry_name(source, layout):
    assert isinstance(source, ImagerySource)
    assert source.name == layout.source


def test_the_catalogue_has_the_schema_and_one_row_per_scene(source, layout):
    scenes = source.scenes()
    assert scenes.schema.equals(SCENES, check_metadata=True)
    assert scenes["scene_id"].to_pylist() == list(layout.rasters)
    assert set(scenes["source"].to_pylist()) == {layout.source}
    assert set(scenes["kind"].to_pylist()) == {"vhr"}
    assert set(scenes["epsg"].to_pylist()) == {layout.epsg}
    assert all(set(RGB) <= set(bands) for bands in scenes["bands"].to_pylist())
    assert len(set(scenes["scene_key"].to_pylist())) == len(scenes)
    assert source.unreadable() == {}
    for row in scenes.to_pylist():
        outline = shapely.from_wkb(row["footprint"])
        assert outline.is_valid
        assert row["gsd_m"] == pytest.approx(0.3)
        assert isinstance(row["acquired_at"], datetime)
        assert row["acquired_at"].tzinfo is not None


WINDOWS = {
    "inside one scene": chip(2, 2),
    "over both": chip(25.1, 15.2),
    "partly outside": chip(-10.4, -7.7),
    "finer": chip(25.1, 15.2, gsd_m=0.11),
    "coarser": chip(25.1, 15.2, size=40, gsd_m=0.5),
    "averaged": chip(5.1, 5.2, size=40, gsd_m=0.9),
    "one pixel": chip(25.1, 15.2, size=1),
}


@pytest.mark.parametrize("window", WINDOWS)
def test_pixels_equal_a_warp_of_the_scenes_in_order(source, layout, window):
    grid = WINDOWS[window]
    method = Resampling.average if window == "averaged" else Resampling.bilinear
    equal(source.read(grid, RGB), mosaic(layout, grid, list(layout.rasters), resampling=method))


def test_shape_type_and_what_is_said_about_the_pixels(source, layout):
    grid = chip(25.1, 15.2, size=64)
    read = source.read(grid, ("blue", "red"))
    assert read.data.shape == (2, 64, 64)
    assert read.data.dtype == np.uint8
    assert read.valid.dtype == np.bool_
    assert read.grid == grid
    assert read.bands == ("blue", "red")
    assert read.source == layout.source
    assert set(read.scene_ids) <= set(layout.rasters)
    assert read.acquired_at.tzinfo is not None
    np.testing.assert_array_equal(read.data, source.read(grid, RGB).data[[2, 0]])
    assert (read.data[:, ~read.valid] == 0).all()


def test_scene_ids_decide_the_order_and_what_is_left_out(source, layout):
    grid = chip(25.1, 15.2)
    turned = list(layout.rasters)[::-1]
    equal(source.read(grid, RGB, scene_ids=turned), mosaic(layout, grid, turned))
    for scene in layout.rasters:
        alone = source.read(grid, RGB, scene_ids=[scene])
        assert alone.scene_ids == (scene,)
        equal(alone, mosaic(layout, grid, [scene]))


def test_off_the_ground_there_is_no_imagery(source):
    for grid in (chip(500, 0), chip(0, -90_000)):
        with pytest.raises(NoImageryError):
            source.read(grid, RGB)
    with pytest.raises(NoImageryError):
        source.read(chip(2, 2), RGB, scene_ids=[])


def test_a_band_that_is_not_there(source):
    with pytest.raises(BandError, match="nir"):
        source.read(chip(2, 2), ("red", "nir"))


def test_two_readings_are_equal(layout):
    first, second = (imagery.get(layout.source, kind="vhr", **layout.options) for _ in range(2))
    assert first.scenes().equals(second.scenes())
    grid = chip(25.1, 15.2)
    one, other = first.read(grid, RGB), second.read(grid, RGB)
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(one.valid, other.valid)
    np.testing.assert_array_equal(first.read(grid, RGB).data, one.data)


def test_footprints_hold_the_pixels(source):
    """A chip that reads valid pixels of a scene touches its footprint, or the plan would never ask for it."""
    grid = chip(55.0, 70.0)
    shapes = shapely.from_wkb(source.scenes()["footprint"].to_pylist())
    assert source.read(grid, RGB).valid.any()
    assert shapely.intersects(shapes, outline_lonlat(grid.footprint, grid.epsg)).any()


def test_what_cannot_be_read_is_listed_with_a_typed_reason(tmp_path, request, layout):
    made = LAYOUTS[request.node.callspec.params["layout"]](tmp_path / "scenes")
    (tmp_path / "scenes" / "broken.tif").write_bytes(b"II*\0nothing")
    source = imagery.get(made.source, kind="vhr", **made.options)
    assert source.scenes()["scene_id"].to_pylist() == list(made.rasters)
    [(place, reason)] = source.unreadable().items()
    assert place.endswith("broken.tif")
    assert reason.startswith("RasterReadError: ")


def test_unknown_options_are_refused(layout):
    with pytest.raises((ConfigError, TypeError), match="colour"):
        imagery.get(layout.source, kind="vhr", **layout.options, colour="red")


@pytest.fixture(scope="module", params=LAYOUTS)
def remote_layout(request, tmp_path_factory, object_store):
    layout = LAYOUTS[request.param](tmp_path_factory.mktemp("imagery") / "scenes")
    uri = f"{object_store.bucket()}/some imagery/é"
    object_store.upload(layout.options["root"], uri)
    return layout, uri


def test_an_object_store_is_catalogued_like_the_folder_it_was_copied_from(remote_layout, told):
    layout, uri = remote_layout
    here, there = (
        imagery.get(layout.source, **layout.options | {"root": root}) for root in (layout.options["root"], uri)
    )
    folder, scenes = here.scenes(), there.scenes()
    assert there.unreadable() == {}
    assert scenes.drop_columns(["assets"]).equals(folder.drop_columns(["assets"]))
    for local, remote in zip(folder["assets"].to_pylist(), scenes["assets"].to_pylist(), strict=True):
        assert local.replace(json.dumps(str(layout.options["root"]))[1:-1], json.dumps(uri)[1:-1]) == remote


def test_an_object_store_gives_the_pixels_of_the_folder(remote_layout, told):
    layout, uri = remote_layout
    here, there = (
        imagery.get(layout.source, **layout.options | {"root": root}) for root in (layout.options["root"], uri)
    )
    compared = different = 0
    for grid in WINDOWS.values():
        local, remote = (source.read(grid, RGB) for source in (here, there))
        compared += local.data.size
        different += int((local.data != remote.data).sum()) + int((local.valid != remote.valid).sum())
        assert remote.scene_ids == local.scene_ids
    there.close()
    print(f"{compared} values compared, {different} different")
    assert (compared > 0, different) == (True, 0)
