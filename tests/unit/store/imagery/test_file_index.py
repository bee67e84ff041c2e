"""The index of files: a second start opens nothing, what changed is seen, damage and races do no harm."""

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.shutil import copy

from store.imagery import file_index, handles, header
from store.imagery.file_index import FileIndex, default_place
from store.imagery.local import LocalImagery
from support.imagery_layouts import RGB, chip, stac_items, write_tif, write_world_png
from utils.errors import ConfigError

OLD_NS = time.time_ns() - 3_600_000_000_000


@pytest.fixture
def opened(monkeypatch):
    """Paths of rasters opened, in order."""
    seen: list[str] = []
    real = rasterio.open

    def counting(path, *arguments, **options):
        seen.append(str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(header.rasterio, "open", counting)
    assert handles.rasterio is header.rasterio
    return seen


def aged(root: Path) -> Path:
    """All files an hour old, as files usually are when they are catalogued."""
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(OLD_NS, OLD_NS))
    return root


def tiles(root: Path, count: int = 4) -> Path:
    for number in range(count):
        write_tif(
            root / "tiles" / f"t{number}.tif", "a_top" if number % 2 else "b_below", day=f"2023-06-{number + 1:02}"
        )
    return aged(root)


def source(root: Path, **options: object) -> LocalImagery:
    return LocalImagery(root=root, acquired_at="2023-06-14", **{"index": root / "index.parquet"} | options)


def test_a_second_start_opens_no_raster_and_says_the_same(tmp_path, opened):
    tiles(tmp_path)
    opened.clear()
    first = source(tmp_path).scenes()
    assert len(opened) == 4
    opened.clear()
    again = source(tmp_path)
    assert again.scenes().equals(first)
    assert opened == []
    again.read(chip(2, 2), RGB)
    assert 0 < len(opened) <= 2
    assert source(tmp_path, index=None).scenes().equals(first)


def test_no_file_is_read_for_its_checksum_again(tmp_path, monkeypatch):
    tiles(tmp_path)
    first = source(tmp_path).scenes()
    monkeypatch.setattr("store.imagery.catalogue.place_checksum", lambda place: pytest.fail(f"{place} was read"))
    assert source(tmp_path).scenes().equals(first)


def test_items_are_parsed_once(tmp_path, monkeypatch):
    stac_items(tmp_path)
    aged(tmp_path)
    (tmp_path / "other.json").write_text("{}")
    first = source(tmp_path).scenes()
    aged(tmp_path)
    source(tmp_path).scenes()
    monkeypatch.setattr("store.imagery.catalogue.read_item", lambda path: pytest.fail(f"{path} was read"))
    assert source(tmp_path).scenes().equals(first)


def test_changed_added_and_removed_files_are_seen(tmp_path, opened):
    tiles(tmp_path)
    before = {row["scene_id"]: row["checksum"] for row in source(tmp_path).scenes().to_pylist()}
    write_tif(tmp_path / "tiles" / "t0.tif", "a_top", day="2023-07-01")
    write_tif(tmp_path / "tiles" / "t9.tif", "a_top", day="2023-06-20")
    (tmp_path / "tiles" / "t1.tif").unlink()
    opened.clear()
    after = {row["scene_id"]: row for row in source(tmp_path).scenes().to_pylist()}
    assert set(after) == {"t0", "t2", "t3", "t9"}
    assert sorted(Path(path).stem for path in opened) == ["t0", "t9"]
    assert after["t0"]["acquired_at"].month == 7
    assert after["t0"]["checksum"] != before["t0"]
    assert after["t2"]["checksum"] == before["t2"]
    assert not any("t1.tif" in path for path in pq.read_table(tmp_path / "index.parquet")["path"].to_pylist())


@pytest.mark.parametrize("sidecar", ["t0.tif.msk", "t0.tif.aux.xml", "t0.prj", "t0.tfw"])
def test_a_new_file_beside_a_raster_makes_it_be_read_again(tmp_path, opened, sidecar):
    tiles(tmp_path)
    source(tmp_path).scenes()
    (tmp_path / "tiles" / sidecar).write_text("")
    opened.clear()
    source(tmp_path).scenes()
    assert [Path(path).name for path in opened] == ["t0.tif"]


def test_a_changed_world_file_changes_the_checksum(tmp_path):
    path = write_world_png(tmp_path / "a.png", "a_top")
    aged(tmp_path)
    [one] = source(tmp_path, crs=32632).scenes().to_pylist()
    path.with_suffix(".pgw").write_text(path.with_suffix(".pgw").read_text().replace("439000.15", "439001.15"))
    [other] = source(tmp_path, crs=32632).scenes().to_pylist()
    assert one["checksum"] != other["checksum"]
    assert one["footprint"] != other["footprint"]


def test_a_changed_part_of_a_vrt_changes_its_checksum(tmp_path):
    part = write_tif(tmp_path / "elsewhere" / "part.tif", "a_top")
    (tmp_path / "root").mkdir()
    copy(part, tmp_path / "root" / "a.vrt", driver="VRT")
    aged(tmp_path)
    one = source(tmp_path / "root").scenes()["checksum"].to_pylist()
    assert source(tmp_path / "root").scenes()["checksum"].to_pylist() == one
    write_tif(part, "b_below")
    assert source(tmp_path / "root").scenes()["checksum"].to_pylist() != one


def test_a_file_changed_within_the_tick_of_its_time_is_seen(tmp_path):
    """Same size, same time: a file just written may change once more, so its facts are not kept."""
    path = write_tif(tmp_path / "a.tif", "a_top", day="2023-06-14")
    found = path.stat()
    assert source(tmp_path).scenes()["acquired_at"].to_pylist()[0].day == 14
    path.write_bytes(path.read_bytes().replace(b"2023:06:14", b"2023:06:19"))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert source(tmp_path).scenes()["acquired_at"].to_pylist()[0].day == 19


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "other columns", "other version", "bad facts", "a folder"])
def test_a_damaged_index_is_made_anew(tmp_path, damage, caplog):
    tiles(tmp_path)
    first = source(tmp_path).scenes()
    place = tmp_path / "index.parquet"
    whole = place.read_bytes()
    table = pq.read_table(place)
    match damage:
        case "cut":
            place.write_bytes(whole[: len(whole) // 2])
        case "noise":
            place.write_bytes(np.random.default_rng(0).bytes(len(whole)))
        case "empty":
            place.write_bytes(b"")
        case "other columns":
            pq.write_table(table.drop(["facts"]), place)
        case "other version":
            pq.write_table(table.replace_schema_metadata({"aegir_imagery_index": "0"}), place)
        case "bad facts":
            facts = ["{" for _ in range(len(table))]
            pq.write_table(table.set_column(3, table.schema.field("facts"), [facts]), place)
        case "a folder":
            place.unlink()
            place.mkdir()
            with pytest.raises(ConfigError, match="index"):
                source(tmp_path).scenes()
            return
    with caplog.at_level(logging.WARNING):
        assert source(tmp_path).scenes().equals(first)
    assert "index.parquet" in caplog.text
    assert pq.read_table(place).equals(table)


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    tiles(tmp_path / "data")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="set `index`"):
        source(tmp_path / "data", index=tmp_path / "file" / "index.parquet").scenes()
    monkeypatch.setenv("AEGIR_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert len(source(tmp_path / "data", index="auto").scenes()) == 4
    assert "cannot be written" in caplog.text


def test_the_default_place_is_the_users_cache(tmp_path, monkeypatch, opened):
    tiles(tmp_path / "data")
    monkeypatch.setenv("AEGIR_CACHE", str(tmp_path / "cache"))
    source(tmp_path / "data", index="auto").scenes()
    assert default_place(tmp_path / "data").is_file()
    assert default_place(tmp_path / "data").is_relative_to(tmp_path / "cache" / "imagery")
    assert default_place(tmp_path / "data") != default_place(tmp_path)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["tiles"]
    monkeypatch.delenv("AEGIR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert default_place(tmp_path).is_relative_to(tmp_path / "xdg" / "aegir-lightning-lance")


def test_unreadable_files_are_not_opened_again(tmp_path, opened):
    tiles(tmp_path)
    (tmp_path / "broken.tif").write_bytes(b"II*\0nothing")
    aged(tmp_path)
    first = source(tmp_path).unreadable()
    opened.clear()
    assert source(tmp_path).unreadable() == first
    assert len(first) == 1
    assert opened == []


def test_percentiles_are_computed_once(tmp_path, monkeypatch):
    data = np.random.default_rng(0).integers(1, 3000, (3, 50, 50)).astype(np.uint16)
    profile = {"driver": "GTiff", "count": 3, "height": 50, "width": 50, "dtype": "uint16", "crs": "EPSG:32632"}
    with rasterio.open(
        tmp_path / "a.tif", "w", transform=rasterio.Affine(0.3, 0, 439_000, 0, -0.3, 5_205_000), **profile
    ) as raster:
        raster.write(data)
    aged(tmp_path)
    stretch = {"kind": "percentile", "low": 2, "high": 98}
    first = source(tmp_path, stretch=stretch).scenes()
    monkeypatch.setattr("store.imagery.catalogue.scene_limits", lambda *a: pytest.fail("computed again"))
    assert source(tmp_path, stretch=stretch).scenes().equals(first)
    low, high, gamma = json.loads(first["assets"][0].as_py())["red"]["stretch"]
    assert (low, high) == tuple(np.percentile(data[0], (2, 98)))
    assert gamma == 1


def test_two_kinds_over_one_folder_share_an_index(tmp_path, opened):
    tiles(tmp_path)
    source(tmp_path, kind="vhr").scenes()
    opened.clear()
    source(tmp_path, kind="msi", exclude=["*t1*"]).scenes()
    source(tmp_path, kind="vhr").scenes()
    assert opened == []


def _catalogued(root: str) -> int:
    return len(source(Path(root)).scenes())


def test_many_processes_at_once(tmp_path):
    tiles(tmp_path, 12)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_catalogued, [str(tmp_path)] * 4) == [12] * 4
    assert len(pq.read_table(tmp_path / "index.parquet")) == 24
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.parquet", "tiles"]


def test_a_kill_while_writing_leaves_the_old_index(tmp_path):
    tiles(tmp_path)
    source(tmp_path).scenes()
    before = (tmp_path / "index.parquet").read_bytes()
    write_tif(tmp_path / "tiles" / "t8.tif", "a_top")
    aged(tmp_path)
    script = (
        "import os, pyarrow.parquet as pq, store.imagery.file_index as f\n"
        "real = pq.write_table\n"
        "f.pq.write_table = lambda t, p, **o: (open(p, 'wb').write(b'half'), os._exit(9))\n"
        "from store.imagery.local import LocalImagery\n"
        f"root = {str(tmp_path)!r}\n"
        "LocalImagery(root=root, index=f'{root}/index.parquet', acquired_at='2023-01-01').scenes()"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert (tmp_path / "index.parquet").read_bytes() == before
    assert len(source(tmp_path).scenes()) == 5


def test_an_index_that_knows_all_is_not_written_again(tmp_path, monkeypatch):
    tiles(tmp_path)
    source(tmp_path).scenes()
    monkeypatch.setattr(file_index.pq, "write_table", lambda *a, **o: pytest.fail("written again"))
    source(tmp_path).scenes()


def test_facts_hold_for_one_state_only(tmp_path):
    (tmp_path / "a").write_text("")
    index = FileIndex(tmp_path / "i.parquet")
    index.put("kind", str(tmp_path / "a"), (1, 2), {"x": [1, None, "é"]}, newest_ns=OLD_NS)
    index.save()
    again = FileIndex(tmp_path / "i.parquet")
    assert again.get("kind", str(tmp_path / "a"), (1, 2)) == {"x": [1, None, "é"]}
    assert again.get("kind", str(tmp_path / "a"), (1, 3)) is None
    assert again.get("other", str(tmp_path / "a"), (1, 2)) is None


def test_the_least_recently_used_raster_is_closed_first(tmp_path):
    paths = [str(write_tif(tmp_path / f"t{k}.tif", "a_top")) for k in range(4)]
    rasters = handles.OpenRasters(limit=3)
    first, second, third = (rasters[path] for path in paths[:3])
    assert rasters[paths[0]] is first
    fourth = rasters[paths[3]]
    assert (first.closed, second.closed, third.closed, fourth.closed) == (False, True, False, False)
    assert len(rasters) == 3
    rasters.forget(paths[0])
    assert first.closed
    rasters.close()
    assert len(rasters) == 0
    assert third.closed
