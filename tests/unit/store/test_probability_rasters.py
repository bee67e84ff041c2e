"""Parts and the raster made of them: round trips, what is not done, disks that fill up, files read by GDAL alone."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy

from store.probability_rasters import ProbabilityParts, check_writable
from utils.errors import GridError, RasterReadError, RasterWriteError
from utils.search_blocks import PROBABILITY_NODATA, SearchBlock, search_blocks
from utils.types import ChipGrid

RASTER = ChipGrid(epsg=32632, transform=(0.3, 0.0, 500_000.0, 0.0, -0.3, 5_000_000.0), height=700, width=900)
BLOCK_PX = 256
TAGS = {"search_id": "s1", "model_id": "m1"}
SEEN = datetime(2023, 6, 14, 10, tzinfo=UTC)


def pixels(block: SearchBlock) -> np.ndarray:
    rng = np.random.default_rng([block.row, block.column])
    return rng.integers(0, 256, (block.grid.height, block.grid.width)).astype(np.uint8)


def written(folder: Path, *, tags: dict[str, str] | None = None, without: tuple[str, ...] = ()) -> ProbabilityParts:
    parts = ProbabilityParts(folder, RASTER, BLOCK_PX, tags=TAGS if tags is None else tags)
    for block in parts.blocks.values():
        if block.block_id not in without:
            parts.write(block, pixels(block), ["scene b", "scene a"], SEEN, "plane")
    return parts


def again(folder: Path, **changes: object) -> ProbabilityParts:
    """The same folder as another process sees it."""
    return ProbabilityParts(**{"folder": folder, "raster": RASTER, "block_px": BLOCK_PX, "tags": TAGS} | changes)


def test_a_part_comes_back_as_it_was_written(tmp_path):
    parts = written(tmp_path)
    block = parts.blocks["r00001-c00002"]
    found = again(tmp_path).read(block)
    assert (found.data == pixels(block)).all()
    assert found.scene_ids == ("scene b", "scene a")
    assert found.acquired_at == SEEN
    assert found.sensor == "plane"
    with rasterio.open(parts.path(block)) as part:
        assert part.tags()["search_id"] == "s1"
        assert part.nodata == PROBABILITY_NODATA
        assert part.crs.to_epsg() == RASTER.epsg
        np.testing.assert_allclose(part.transform, block.grid.affine)
    assert again(tmp_path).done() == set(parts.blocks) == {b.block_id for b in search_blocks(RASTER, BLOCK_PX)}


def test_a_block_without_imagery_is_done(tmp_path):
    parts = again(tmp_path)
    block = parts.blocks["r00000-c00000"]
    parts.write(block, np.full((BLOCK_PX, BLOCK_PX), PROBABILITY_NODATA, np.uint8), (), None, "")
    found = again(tmp_path).read(block)
    assert found.scene_ids == ()
    assert found.acquired_at is None
    assert found.valid_fraction == 0
    assert again(tmp_path).done() == {block.block_id}


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    with rasterio.open(path, "r+") as part:
        data = part.read(1)
        data[0, 0] ^= 1
        part.write(data, 1)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_another_search(path: Path) -> None:
    shutil.copy(written(path.parent / "other", tags=TAGS | {"search_id": "s2"}).folder / path.name, path)


def of_another_block(path: Path) -> None:
    shutil.copy(path.with_name("r00000-c00001.tif"), path)


def a_picture(path: Path) -> None:
    with rasterio.open(path.with_name("r00000-c00001.tif")) as other:
        copy(other, path, driver="PNG")


@pytest.mark.parametrize("harm", [truncated, flipped, emptied, of_another_search, of_another_block, a_picture])
def test_a_harmed_or_foreign_part_is_not_done_and_is_made_again(tmp_path, harm):
    parts = written(tmp_path)
    harm(tmp_path / "r00000-c00000.tif")
    for seen in (parts, again(tmp_path)):
        assert seen.done() == set(parts.blocks) - {"r00000-c00000"}
        with pytest.raises(RasterReadError, match="r00000-c00000"):
            seen.read(parts.blocks["r00000-c00000"])
    written(tmp_path)
    assert again(tmp_path).done() == set(parts.blocks)


def test_parts_of_another_grid_or_block_size_are_not_done(tmp_path):
    written(tmp_path)
    moved = ChipGrid(epsg=RASTER.epsg, transform=(0.3, 0.0, 500_000.3, 0.0, -0.3, 5e6), height=700, width=900)
    assert again(tmp_path, raster=moved).done() == set()
    assert again(tmp_path, block_px=128).done() == set()
    assert again(tmp_path, tags={}).done() == again(tmp_path).done()
    assert again(tmp_path / "nowhere").done() == set()


def test_only_whole_blocks_of_the_raster_are_written(tmp_path):
    parts = again(tmp_path)
    block = parts.blocks["r00000-c00000"]
    for data in (pixels(block)[:-1], pixels(block).astype(np.float32)):
        with pytest.raises(GridError, match=block.block_id):
            parts.write(block, data, (), None, "")
    other = search_blocks(RASTER, 128)[0]
    with pytest.raises(GridError):
        parts.write(other, pixels(other), (), None, "")


def mosaic(without: tuple[str, ...] = ()) -> np.ndarray:
    whole = np.full((RASTER.height, RASTER.width), PROBABILITY_NODATA, np.uint8)
    for block in search_blocks(RASTER, BLOCK_PX):
        if block.block_id not in without:
            rows = slice(block.top_px, block.top_px + block.grid.height)
            whole[rows, block.left_px : block.left_px + block.grid.width] = pixels(block)
    return whole


def test_the_raster_is_a_cog_of_all_parts(tmp_path):
    left_out = ("r00001-c00001",)
    path = written(tmp_path / "parts", without=left_out).assemble(tmp_path / "new" / "probability.tif")
    whole = mosaic(left_out)
    with rasterio.open(path) as raster:
        assert (raster.read(1) == whole).all()
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert raster.profile["tiled"]
        assert raster.profile["compress"] == "deflate"
        assert raster.nodata == PROBABILITY_NODATA
        assert raster.scales == (1 / 254,)
        assert raster.crs.to_epsg() == RASTER.epsg
        assert raster.transform.almost_equals(RASTER.affine)
        assert TAGS.items() <= raster.tags().items()
        assert raster.tags()["probability_scale"] == "1/254"
        assert raster.overviews(1) == [2]
    # an overview pixel is the mean of the pixels below it that hold data
    with rasterio.open(path, overview_level=0) as overview:
        small = overview.read(1)
    held = np.ma.masked_equal(whole, PROBABILITY_NODATA).reshape(350, 2, 450, 2)
    means = held.astype(float).mean(axis=(1, 3))
    assert np.abs(np.ma.masked_equal(small, PROBABILITY_NODATA) - means).max() <= 0.51
    assert ((small == PROBABILITY_NODATA) == np.ma.getmaskarray(means)).all()
    assert [place.name for place in path.parent.iterdir()] == ["probability.tif"]


def test_the_same_parts_give_the_same_bytes(tmp_path):
    first = written(tmp_path / "one").assemble(tmp_path / "one.tif")
    second = again(tmp_path / "one").assemble(tmp_path / "two.tif")
    assert first.read_bytes() == second.read_bytes()
    # in another order, into another folder
    other = again(tmp_path / "other")
    for block in reversed(other.blocks.values()):
        other.write(block, pixels(block), ["scene b", "scene a"], SEEN, "plane")
    assert other.assemble(first).read_bytes() == second.read_bytes()


def test_a_part_added_while_another_process_assembled_is_missed(tmp_path):
    parts = written(tmp_path, without=("r00001-c00002",))
    path = tmp_path / "a.tif"
    assert not parts.is_assembled(path)
    late, other = parts.blocks["r00001-c00002"], again(tmp_path)
    parts.assemble(path)
    assert parts.is_assembled(path)
    assert other.is_assembled(path)
    other.write(late, pixels(late), ["scene a"], SEEN, "plane")
    # written after the assembly began, before it ended
    os.utime(other.path(late), (path.stat().st_mtime - 10,) * 2)
    assert not other.is_assembled(path)
    assert not again(tmp_path, tags={**TAGS, "search_id": "s2"}).is_assembled(path)
    other.assemble(path)
    assert again(tmp_path).is_assembled(path)


def test_many_who_try_a_folder_at_once_all_may_write(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: check_writable(tmp_path / "new"), range(400)))
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(RasterWriteError, match="set `out`"):
        check_writable(tmp_path / "file")


def test_nothing_done_is_a_raster_of_nodata(tmp_path):
    with rasterio.open(again(tmp_path / "parts").assemble(tmp_path / "a.tif")) as raster:
        assert (raster.read(1) == PROBABILITY_NODATA).all()


def test_what_a_killed_process_left_goes_after_an_hour(tmp_path):
    parts = written(tmp_path)
    old, young = (tmp_path / f".r00000-c00000.tif.{pid}.aa.part" for pid in (1, 2))
    for left in (old, young):
        left.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    parts.assemble(tmp_path / "a.tif")
    assert not old.exists()
    assert young.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, list[str]]]:
    """A place with room for 300 kB, and a command prefix; a memory disk, or where none can be mounted, a size limit."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], check=False, capture_output=True
    )
    try:
        yield folder, [] if mounted.returncode == 0 else ["limited"]
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", folder], check=True)


FILLED = """
import json, resource, signal, sys
from pathlib import Path
import test_probability_rasters as these
from utils.errors import RasterWriteError
where, parts_at, limited = Path(sys.argv[1]), Path(sys.argv[2]), len(sys.argv) > 3
if limited:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000 if where == parts_at else 300_000,) * 2)
try:
    if where == parts_at:
        these.written(parts_at)
    else:
        these.again(parts_at).assemble(where / "a.tif")
except RasterWriteError as error:
    print(json.dumps(str(error)))
"""


def failing(where: Path, parts_at: Path, prefix: list[str]) -> str:
    """What the error said, from a process that wrote to a disk too small."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", FILLED, where, parts_at, *prefix],
        env=os.environ | {"PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_disk_that_fills_up_while_parts_are_written(tmp_path, small_disk):
    folder, prefix = small_disk
    message = failing(folder, folder, prefix)
    assert str(folder) in message
    assert "bytes are needed" in message
    assert "finished blocks are kept" in message
    assert not list(folder.glob(".*.part*"))
    kept = again(folder).done()
    assert {f"{block_id}.tif" for block_id in kept} == {place.name for place in folder.iterdir()}
    assert len(kept) < len(again(folder).blocks)
    assert bool(kept) is not bool(prefix)


def test_a_disk_that_fills_up_while_the_raster_is_assembled(tmp_path, small_disk):
    folder, prefix = small_disk
    parts = written(tmp_path / "parts")
    message = failing(folder, parts.folder, prefix)
    assert str(folder / "a.tif") in message
    needed = parts.assemble(tmp_path / "a.tif").stat().st_size
    told = int(message.split("about ")[1].split(" bytes")[0])
    assert needed <= told <= 2 * needed
    assert list(folder.iterdir()) == []
    assert parts.done() == set(parts.blocks)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    parts = written(tmp_path / "parts")
    with pytest.raises(RasterWriteError, match=r"file.*kept"):
        parts.assemble(tmp_path / "file" / "a.tif")
    with pytest.raises(RasterWriteError, match=r"file.*kept"):
        written(tmp_path / "file")
