"""Inference over blocks: exactness, seams, edges, nodata, what fails and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hamilton import ad_hoc_utils, driver
from scipy.ndimage import correlate

from dataflows import large_area_inference
from dataflows.large_area_inference import infer_blocks, written_blocks
from store.probability_rasters import BlockProbabilities, ProbabilityParts
from support.search_scenes import (
    RGB,
    PlainModel,
    brightness,
    convolved,
    imagery,
    raster_grid,
    scene,
    scene_ids,
    searched,
    texture,
)
from utils.errors import BandError, ConfigError, ModelError, NoImageryError, RasterWriteError
from utils.search_blocks import PROBABILITY_NODATA, search_blocks
from utils.types import ImagerySource

torch.set_num_threads(1)

HEIGHT, WIDTH = 300, 410
MODEL = "support.search_scenes:TinyNet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A scene with holes of nodata, one as large as several windows."""
    pixels = texture(HEIGHT, WIDTH)
    pixels[:, 150:, 180:] = 0
    pixels[:, 20:23, 30:90] = 0
    place = tmp_path_factory.mktemp("scene")
    scene(place, pixels)
    return place


@pytest.fixture(scope="module")
def pixels(folder) -> np.ndarray:
    with rasterio.open(folder / "a.tif") as raster:
        return raster.read()


def quantised(probabilities: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    return np.where((pixels == 0).all(axis=0), PROBABILITY_NODATA, np.rint(probabilities * np.float32(254)))


@pytest.mark.parametrize(
    ("block_px", "window_px", "overlap_px"), [(96, 64, 16), (128, 48, 24), (200, 64, 0), (512, 64, 1)]
)
def test_a_pointwise_model_is_exact(folder, pixels, block_px, window_px, overlap_px):
    model = PlainModel(brightness, window_px)
    found, failures = searched(
        imagery(folder), model, raster_grid(HEIGHT, WIDTH), block_px=block_px, overlap_px=overlap_px
    )
    assert not failures
    assert (found == quantised(brightness(pixels[None])[0], pixels)).all()


def test_a_pixel_does_not_depend_on_the_block_that_asks(folder):
    source, raster = imagery(folder), raster_grid(HEIGHT, WIDTH)
    first, *others = (
        searched(source, PlainModel(convolved), raster, block_px=block_px, overlap_px=16, batch_size=batch_size)[0]
        for block_px, batch_size in ((128, 3), (77, 1), (1000, 8))
    )
    for other in others:
        assert np.abs(first.astype(int) - other).max() <= 1
        assert (first != other).mean() < 1e-4


def seams(first: int, length: int, window_px: int, overlap_px: int) -> list[int]:
    """Rows where a window begins or ends, of a raster that begins at row ``first``."""
    starts = range(first + overlap_px // 4 - overlap_px, length, window_px - overlap_px)
    return sorted({edge for start in starts for edge in (start, start + overlap_px) if 0 < edge < length})


def test_seams_of_a_convolutional_network(folder):
    """The raster beside the same raster whose windows lie half a window further: the bounds of issue 6."""
    window, overlap, half = 64, 16, 32
    source, height = imagery(folder), 150
    plain, _ = searched(
        source, PlainModel(convolved, window), raster_grid(height, WIDTH), block_px=96, overlap_px=overlap
    )
    shifted, _ = searched(
        source,
        PlainModel(convolved, window),
        raster_grid(height - half, WIDTH - half, top=half, left=half),
        block_px=96,
        overlap_px=overlap,
    )
    first, second = plain[half:, half:].astype(float) / 254, shifted.astype(float) / 254
    assert ((plain[half:, half:] == PROBABILITY_NODATA) == (shifted == PROBABILITY_NODATA)).all()
    # the scene is known to make the network undecided, or nothing would be tested
    assert 0.2 < first[first <= 1].std() < 0.5
    difference = np.where(first > 1, 0, first - second)
    print(f"mean |Δp| {np.abs(difference).mean():.5f}, worst {np.abs(difference).max():.4f}")
    assert np.abs(difference).mean() <= 0.02
    assert np.abs(difference).max() <= 0.1
    for axis, length in ((0, height - half), (1, WIDTH - half)):
        step = np.abs(np.diff(difference, axis=axis))
        for seam in {*seams(-half, length, window, overlap), *seams(0, length, window, overlap)}:
            assert step.take(seam - 1, axis=axis).max() <= 0.1


def test_plain_joins_would_fail_the_seam_test(folder):
    """The test above can fail: windows without overlap differ by far more."""
    source, half = imagery(folder), 32
    plain, _ = searched(source, PlainModel(convolved), raster_grid(150, WIDTH), block_px=96, overlap_px=0)
    shifted, _ = searched(
        source, PlainModel(convolved), raster_grid(118, WIDTH - half, top=half, left=half), block_px=96, overlap_px=0
    )
    difference = np.abs(plain[half:, half:].astype(float) - shifted)[plain[half:, half:] != PROBABILITY_NODATA] / 254
    assert difference.max() > 0.1


def box_mean(images: np.ndarray) -> np.ndarray:
    """Mean over 9 × 9 pixels, beyond the edge of a window nothing."""
    kernel = np.full((1, 9, 9), np.float32(1 / 81))
    return correlate(images.astype(np.float32).mean(axis=1), kernel, mode="constant") / np.float32(255)


def test_the_edge_of_a_raster_is_mirrored_or_read_beyond(tmp_path):
    pixels = texture(256, 256)
    scene(tmp_path / "scene", pixels)
    source = imagery(tmp_path / "scene")
    whole, _ = searched(source, PlainModel(box_mean), raster_grid(256, 256), block_px=100, overlap_px=32)
    # beyond the imagery: as if it were mirrored there
    padded = np.pad(pixels, ((0, 0), (64, 64), (64, 64)), mode="symmetric")
    wanted = box_mean(padded[None])[0, 64:-64, 64:-64]
    assert np.abs(whole[:30, :30] / 254 - wanted[:30, :30]).max() < 0.03
    assert np.abs(whole[-30:, -30:] / 254 - wanted[-30:, -30:]).max() < 0.03
    # inside the imagery: what lies beyond the raster is read, so that the raster's edge leaves no trace
    inner, _ = searched(
        source, PlainModel(box_mean), raster_grid(100, 100, top=64, left=64), block_px=100, overlap_px=32
    )
    assert (inner == whole[64:164, 64:164]).all()


def test_a_raster_smaller_than_a_window(tmp_path):
    pixels = texture(20, 33)
    scene(tmp_path / "scene", pixels)
    source, raster = imagery(tmp_path / "scene"), raster_grid(20, 33)
    found, _ = searched(source, PlainModel(brightness), raster, block_px=1536, overlap_px=16)
    assert (found == quantised(brightness(pixels[None])[0], pixels)).all()
    smooth, _ = searched(source, PlainModel(box_mean), raster, block_px=1536, overlap_px=16)
    padded = np.pad(pixels, ((0, 0), (8, 8), (8, 8)), mode="symmetric")
    assert np.abs(smooth / 254 - box_mean(padded[None])[0, 8:-8, 8:-8]).max() < 0.03


def test_windows_without_imagery_are_not_computed(folder):
    whole, part = PlainModel(brightness), PlainModel(brightness)
    source = imagery(folder)
    searched(source, whole, raster_grid(140, 170), block_px=70, overlap_px=16)
    found, _ = searched(source, part, raster_grid(140, 170, top=160, left=200), block_px=70, overlap_px=16)
    assert (found == PROBABILITY_NODATA).all()
    assert whole.windows > 9
    assert part.windows == 1  # the trial
    # far from any scene
    far, failures = searched(source, part, raster_grid(70, 70, top=9000), block_px=70, overlap_px=16)
    assert (far == PROBABILITY_NODATA).all()
    assert not failures
    assert part.windows == 2


def test_a_block_says_what_it_was_read_from(folder):
    source, raster = imagery(folder), raster_grid(HEIGHT, WIDTH)
    blocks = search_blocks(raster, 150)
    options = {"window_px": 64, "overlap_px": 16, "batch_size": 4}
    inferred = infer_blocks(source, PlainModel(brightness), raster, blocks, scene_ids(source), **options)
    results = {block.block_id: found for block, found in inferred}
    assert list(results) == [block.block_id for block in blocks]
    first, empty = results["r00000-c00000"], results["r00001-c00002"]
    assert isinstance(first, BlockProbabilities)
    assert first.scene_ids == tuple(scene_ids(source))
    assert first.acquired_at.isoformat().startswith("2023-06-14")
    assert first.valid_fraction > 0.9
    assert (empty.scene_ids, empty.acquired_at, empty.valid_fraction) == ((), None, 0.0)


def corrupt(path: Path, row: int, column: int) -> None:
    """Overwrite the bytes of one tile."""
    with rasterio.open(path) as raster:
        tile = [raster.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=1) for what in ("OFFSET", "SIZE")]
    with path.open("r+b") as file:
        file.seek(int(tile[0]))
        file.write(b"\xff" * int(tile[1]))


def test_a_corrupt_block_fails_alone(tmp_path):
    pixels = texture(HEIGHT, WIDTH)
    path = scene(tmp_path / "scene", pixels)
    corrupt(path, 2, 3)
    source = imagery(tmp_path / "scene")
    found, failures = searched(source, PlainModel(brightness), raster_grid(HEIGHT, WIDTH), block_px=100, overlap_px=16)
    wanted = quantised(brightness(pixels[None])[0], pixels)
    there = {failure.input_ids[0] for failure in failures}
    assert 0 < len(there) <= 4
    assert "r00002-c00004" in there
    for block in search_blocks(raster_grid(HEIGHT, WIDTH), 100):
        part = (
            slice(block.top_px, block.top_px + block.grid.height),
            slice(block.left_px, block.left_px + block.grid.width),
        )
        expected = PROBABILITY_NODATA if block.block_id in there else wanted[part]
        assert (found[part] == expected).all(), block.block_id
    for failure in failures:
        assert failure.node == "block_probabilities"
        assert failure.error_type == "RasterReadError"
        assert "a.tif" in failure.message
        assert failure.input_ids[1:] == tuple(scene_ids(source))


def test_an_answer_that_is_no_probability_fails_its_block_alone(folder):
    calls = iter(range(1000))

    def sometimes(images):
        return brightness(images) * (np.nan if next(calls) == 2 else 1)

    _, failures = searched(imagery(folder), PlainModel(sometimes), raster_grid(140, 300), block_px=150, overlap_px=0)
    assert [failure.error_type for failure in failures] == ["ModelError"]
    assert "r00000-c00000" in failures[0].message


def refused(source, model, raster, **settings) -> None:
    options = {"scene_ids": scene_ids(source), "window_px": 64, "overlap_px": 16, "batch_size": 2} | settings
    infer_blocks(source, model, raster, search_blocks(raster, 100), **options)


def test_what_does_not_fit_is_refused_before_anything_is_read(folder, monkeypatch):
    source, raster, model = imagery(folder), raster_grid(100, 100), PlainModel(brightness)
    scene_ids(source)
    monkeypatch.setattr("store.imagery.local.LocalImagery.read", lambda *_, **__: pytest.fail("it was read"))
    nir, coarse, deep = (PlainModel(brightness) for _ in range(3))
    nir.bands, coarse.gsd_m, deep.kind = (*RGB, "nir"), 0.5, "msi"
    with pytest.raises(BandError, match=r"scene a has bands red, green, blue.*missing: nir"):
        refused(source, nir, raster)
    with pytest.raises(ModelError, match=r"0\.3 m per pixel, the model takes 0\.5 m"):
        refused(source, coarse, raster)
    with pytest.raises(ModelError, match="vhr imagery, the model takes msi"):
        refused(source, deep, raster)
    with pytest.raises(ConfigError, match="half a window"):
        refused(source, model, raster, overlap_px=33)
    with pytest.raises(NoImageryError, match="no scene nothing"):
        refused(source, model, raster, scene_ids=["nothing"])
    with pytest.raises(NoImageryError, match="was named"):
        refused(source, model, raster, scene_ids=[])
    for wrong in (lambda images: brightness(images) * 300, lambda images: brightness(images)[:, ::2]):
        with pytest.raises(ModelError, match="the model returns"):
            refused(source, PlainModel(wrong), raster)
    assert model.windows == 0


def test_a_raster_without_crs_is_named(tmp_path):
    scene(tmp_path / "scene", texture(100, 100), crs=None)
    with pytest.raises(NoImageryError, match=r"a\.tif.*CRS"):
        refused(imagery(tmp_path / "scene"), PlainModel(brightness), raster_grid(100, 100), scene_ids=["a"])


def test_results_come_once_their_part_is_on_the_disk(folder, tmp_path):
    source, raster = imagery(folder), raster_grid(HEIGHT, WIDTH)
    parts = ProbabilityParts(tmp_path, raster, 150)
    options = {"window_px": 64, "overlap_px": 16, "batch_size": 4}
    inferred = infer_blocks(source, PlainModel(brightness), raster, parts.blocks.values(), scene_ids(source), **options)
    for block, found in written_blocks(parts, inferred):
        assert (parts.read(block).data == found.data).all()
    assert parts.done() == set(parts.blocks)


def test_a_disk_that_is_full_ends_the_search_and_keeps_what_is_done(folder, tmp_path):
    source, raster = imagery(folder), raster_grid(HEIGHT, WIDTH)
    parts = ProbabilityParts(tmp_path / "parts", raster, 150)
    model = PlainModel(brightness)
    options = {"window_px": 64, "overlap_px": 16, "batch_size": 4}
    inferred = infer_blocks(source, model, raster, parts.blocks.values(), scene_ids(source), **options)
    # a folder has taken the name of one part
    (tmp_path / "parts" / "r00000-c00002.tif" / "x").mkdir(parents=True)
    with pytest.raises(RasterWriteError, match="r00000-c00002"):
        list(written_blocks(parts, inferred))
    assert {"r00000-c00000", "r00000-c00001"} <= parts.done()
    assert "r00000-c00002" not in parts.done()


def test_a_search_that_is_left_stops_reading(folder):
    source, raster = imagery(folder), raster_grid(HEIGHT, WIDTH)
    model = PlainModel(brightness)
    results = infer_blocks(
        source, model, raster, search_blocks(raster, 50), scene_ids(source), window_px=64, overlap_px=16, batch_size=4
    )
    next(results)
    before = model.windows
    results.close()
    assert model.windows == before < 20


def test_nodes_make_the_raster_and_go_on_where_they_stood(folder, tmp_path):
    source, raster = imagery(folder), raster_grid(HEIGHT, WIDTH)

    def search_imagery() -> ImagerySource:
        return source

    nodes = ad_hoc_utils.create_temporary_module(search_imagery)
    built = driver.Builder().with_modules(nodes, large_area_inference).build()
    inputs = {
        "model": MODEL,
        "model_options": {"window_px": 64},
        "device": "cpu",
        "amp": True,
        "tta": False,
        "window_px": None,
        "overlap_px": 16,
        "batch_size": 4,
        "block_px": 150,
        "search_id": "s",
        "search_folder": str(tmp_path / "parts"),
        "search_raster": raster,
        "search_scenes": scene_ids(source),
        "searched_blocks": search_blocks(raster, 150),
        "raster_path": str(tmp_path / "a.tif"),
    }
    asked = ["block_write", "probability_raster", "probability_parts", "window_lattice"]
    first = built.execute(asked, inputs=inputs)
    assert first["block_write"] == {"blocks": 6, "failures": []}
    assert first["window_lattice"].window_px == 64
    content = Path(first["probability_raster"]["path"]).read_bytes()
    for lost in ("r00000-c00001", "r00001-c00000"):
        (tmp_path / "parts" / f"{lost}.tif").unlink()
    again = built.execute(asked, inputs=inputs)
    assert again["block_write"]["blocks"] == 2
    assert Path(again["probability_raster"]["path"]).read_bytes() == content
    # another model's parts are not taken
    other = built.execute(asked, inputs=inputs | {"model_options": {"window_px": 64, "arguments": {"seed": 1}}})
    assert other["block_write"]["blocks"] == 6
