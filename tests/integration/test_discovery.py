"""A region searched through the command line by a pointwise model: every pixel known, kills, two at once, refusals."""

import json
import shutil
import signal
import time

import numpy as np
import pytest
import rasterio
import shapely
import yaml
from rasterio.features import geometry_mask
from rasterio.vrt import WarpedVRT

from dataflows import large_area_inference
from dataflows.__main__ import main
from dataflows._search import prepared_search
from dataflows.discovery import plan_discovery, run_discovery
from dataflows.discovery_config import load
from store import lance_io
from store.schemas import DETECTIONS
from support import mini_region, search_region
from support.run_process import RunProcess
from utils.errors import AegirError
from utils.geo import reproject
from utils.search_blocks import PROBABILITY_NODATA, PROBABILITY_SCALE

SAME = [name for name in DETECTIONS.names if name not in ("run_id", "created_at")]


@pytest.fixture(scope="module")
def region(tmp_path_factory):
    return mini_region.make(tmp_path_factory.mktemp("search") / "region")


@pytest.fixture
def settings(region, tmp_path):
    """Settings with a store and a folder of their own."""
    mine = mini_region.MiniRegion(region.root, {**region.settings, "store": str(tmp_path / "store")})
    return search_region.settings_file(tmp_path, region=mine)


@pytest.fixture(scope="module")
def reference(region, tmp_path_factory):
    """What an uninterrupted search leaves: its summary, rows and raster."""
    root = tmp_path_factory.mktemp("reference")
    mine = mini_region.MiniRegion(region.root, {**region.settings, "store": str(root / "store")})
    summary = run_discovery(load(search_region.settings_file(root, region=mine)))
    return summary, rows(root / "store"), raster(summary.raster)


def rows(store):
    return sorted(lance_io.scan(store, "detections", SAME).to_pylist(), key=lambda row: row["detection_id"])


def raster(path):
    with rasterio.open(path) as opened:
        return opened.read(1)


def changed(settings, **changes):
    """The settings' file with other values."""
    settings.write_text(yaml.safe_dump(yaml.safe_load(settings.read_text()) | changes))
    return settings


def box(x, y, w, h):
    """Part of the region, metres from its corner, as west, south, east, north in degrees that lie inside it."""
    corner = (mini_region.LEFT + x, mini_region.BOTTOM + y)
    shape = reproject(shapely.box(*corner, corner[0] + w, corner[1] + h), mini_region.EPSG, 4326)
    return list(shape.bounds)


def test_every_pixel_and_every_array_is_found(region, settings, capsys):
    assert main(["discover", "--config", str(settings), "--json"]) == 0
    summary = search_region.printed(capsys.readouterr().out)
    found = raster(summary["raster"])
    expected = search_region.expected_pixels(region)
    assert found.shape == expected.shape
    assert ((found > PROBABILITY_SCALE / 2) == expected).all()
    assert (summary["status"], summary["blocks_made"], summary["blocks"]) == ("done", 16, 16)
    assert summary["km2_searched"] == pytest.approx((mini_region.SIDE_M / 1000) ** 2, rel=1e-9)
    # five arrays, each a known label
    assert (summary["detections_confirmed"], summary["missing"]) == (len(mini_region.PV), 0)
    stored = lance_io.scan(settings.parent / "store", "detections", ["match", "area_m2", "outline"]).to_pylist()
    areas = sorted(row["area_m2"] for row in stored if row["match"] == "confirmed")
    assert areas == pytest.approx(sorted(w * h for _, _, w, h in mini_region.PV), rel=0.05)
    run = lance_io.scan(settings.parent / "store", "runs", ["flow", "status", "inputs", "counts"]).to_pylist()
    assert [(row["flow"], row["status"]) for row in run] == [("discover", "done")]
    assert json.loads(run[0]["inputs"])["search_id"] == summary["search_id"]


def test_the_scenes_own_pixels_are_searched(region, settings):
    search = plan_discovery(load(settings))
    with rasterio.open(region.root / "vhr" / "west.tif") as west:
        assert (search.epsg, search.gsd_m) == (west.crs.to_epsg(), pytest.approx(west.transform.a))
    assert search.shape == (search_region.SIDE_PX, search_region.SIDE_PX)


def test_a_second_run_does_nothing_and_changes_nothing(settings, reference):
    first = run_discovery(load(settings))
    before = {path: path.stat().st_mtime_ns for path in settings.parent.glob("out/*/*.tif")}
    version = lance_io.open_table(settings.parent / "store", "detections").version
    second = run_discovery(load(settings))
    assert (first.blocks_made, second.blocks_made, second.blocks_done_before) == (16, 0, 16)
    assert {path: path.stat().st_mtime_ns for path in settings.parent.glob("out/*/*.tif")} == before
    assert lance_io.open_table(settings.parent / "store", "detections").version == version
    assert rows(settings.parent / "store") == reference[1]


def test_a_raster_another_run_made_of_fewer_parts_is_made_again(settings, tmp_path, reference):
    search = prepared_search(load(settings))
    first = run_discovery(load(settings))
    late = search.parts.path(search.plan.blocks[5])
    late.rename(tmp_path / "late.tif")
    # newer than every part, as of a run that began to assemble before the last one was there
    search.parts.assemble(first.raster)
    (tmp_path / "late.tif").rename(late)
    assert (raster(first.raster) == PROBABILITY_NODATA).any()
    second = run_discovery(load(settings))
    assert second.blocks_made == 0
    assert (raster(second.raster) == reference[2]).all()


def test_pixels_outside_the_area_of_interest_are_nodata(region, settings):
    inside = box(100, 20, 60, 45)
    found = run_discovery(load(changed(settings, aoi_bbox_lonlat=inside)))
    assert found.blocks < 16
    with rasterio.open(found.raster) as opened:
        data, transform = opened.read(1), opened.transform
    area = shapely.segmentize(shapely.box(*inside), 0.001)
    outline = reproject(area, 4326, mini_region.EPSG)
    outside = geometry_mask([outline], out_shape=data.shape, transform=transform)
    assert (data[outside] == PROBABILITY_NODATA).all()
    assert (data[~outside] != PROBABILITY_NODATA).all()
    # the array in the box alone
    assert found.detections == 1


def test_overlapping_areas_share_pixels(settings):
    whole = run_discovery(load(settings))
    part = run_discovery(load(changed(settings, aoi_bbox_lonlat=box(41.3, 77.7, 190, 160))))
    with rasterio.open(whole.raster) as one, rasterio.open(part.raster) as two:
        window = one.window(*two.bounds)
        assert window.col_off == pytest.approx(round(window.col_off), abs=1e-4)
        assert window.row_off == pytest.approx(round(window.row_off), abs=1e-4)
        rows_, columns = round(window.row_off), round(window.col_off)
        data = two.read(1)
        same = one.read(1)[rows_ : rows_ + data.shape[0], columns : columns + data.shape[1]]
    inside = data != PROBABILITY_NODATA
    assert (data[inside] == same[inside]).all()


def test_a_corrupt_block_is_an_error_and_the_rest_is_stored(region, tmp_path, capsys):
    shutil.copytree(region.root / "vhr", tmp_path / "vhr")
    broken = tmp_path / "vhr" / "east.tif"
    with broken.open("r+b") as file:
        file.seek(broken.stat().st_size // 2)
        file.truncate()
    mine = {**region.settings, "store": str(tmp_path / "store")}
    mine["vhr"] = {**mine["vhr"], "root": str(tmp_path / "vhr")}
    settings = search_region.settings_file(tmp_path, region=mini_region.MiniRegion(region.root, mine))
    assert main(["discover", "--config", str(settings), "--json"]) == 3
    summary = search_region.printed(capsys.readouterr().out)
    assert summary["status"] == "failed"
    assert summary["blocks_failed"] > 0
    assert summary["blocks_failed"] + summary["blocks_made"] == 16
    errors = lance_io.scan(tmp_path / "store", "errors", ["error_type", "input_ids", "attempt"]).to_pylist()
    assert {row["error_type"] for row in errors} == {"RasterReadError"}
    assert len(errors) == summary["blocks_failed"]
    assert all(row["input_ids"][0] == summary["search_id"] for row in errors)
    stored = lance_io.scan(tmp_path / "store", "detections", ["detection_id"])
    assert len(stored) == summary["detections"] > 0
    again = run_discovery(load(settings))
    assert (again.blocks_pending, again.blocks_failed) == (summary["blocks_failed"], summary["blocks_failed"])
    errors = lance_io.scan(tmp_path / "store", "errors", ["attempt"]).to_pylist()
    assert {row["attempt"] for row in errors} == {2}


def test_plan_spends_nothing_and_tells_the_rate_of_earlier_runs(settings, capsys):
    command = ["plan", "discover", "--config", str(settings)]
    assert main([*command, "--json"]) == 0
    plan = search_region.printed(capsys.readouterr().out)
    assert plan["time"]["basis"] == "windows timed now"
    assert plan["time"]["seconds"] > 0
    assert (plan["blocks"], plan["blocks_left"], plan["km2_pruned"]) == (16, 16, 0.0)
    assert plan["cost"]["labels"]["objects"] == len(mini_region.PV)
    assert not (settings.parent / "store").exists()
    assert not (settings.parent / "out").exists()
    run_discovery(load(changed(settings, aoi_bbox_lonlat=box(5, 5, 100, 100))))
    settings = changed(settings, aoi_bbox_lonlat=None)
    assert plan_discovery(load(settings)).time.basis == "earlier runs"
    assert main(command) == 0
    assert "earlier runs" in capsys.readouterr().out


REFUSED = {
    "outside the imagery": ({"aoi_bbox_lonlat": [3.0, 3.0, 3.1, 3.1]}, "EmptyAreaError"),
    "an area without area": ({"aoi": "POLYGON EMPTY"}, "ConfigError"),
    "bands there are not": ({"model_options": {"bands": ["red", "nir"], "window_px": 128}}, "BandError"),
    "imagery far too coarse": ({"model_options": {"gsd_m": 0.05, "window_px": 128}}, "ModelError"),
    "a model that gives no probabilities": ({"model_options": {"activation": "none", "window_px": 128}}, "ModelError"),
    "no model": ({"model": None}, "ConfigError"),
    "a rule there is not": ({"prune": {"near_rivers": {}}}, "UnknownNameError"),
    "a rule without its table": ({"prune": {"not_water": {}}}, "ConfigError"),
    "windows that overlap by more than half": ({"overlap_px": 65}, "ConfigError"),
    "a store of its own": ({"store": "elsewhere"}, "ConfigError"),
    "a threshold above 1": ({"detections": {"threshold": 3}}, "ConfigError"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_searched_is_refused_before_work_starts(case, settings, capsys):
    changes, error = REFUSED[case]
    changed(settings, **changes)
    command = ["plan", "discover"] if error == "EmptyAreaError" else ["discover"]
    assert main([*command, "--config", str(settings)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{error}: ")
    assert not (settings.parent / "store").exists()


NOT_OF_THE_MODEL = [
    "outside the imagery",
    "an area without area",
    "bands there are not",
    "imagery far too coarse",
    "a rule there is not",
    "windows that overlap by more than half",
]


@pytest.mark.parametrize("case", NOT_OF_THE_MODEL)
def test_what_is_wrong_with_the_ground_is_said_before_the_model_is_loaded(case, settings, monkeypatch):
    def loaded(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(large_area_inference, "scene_model", loaded)
    changes, error = REFUSED[case]
    with pytest.raises(AegirError) as refused:
        run_discovery(load(changed(settings, **changes)))
    assert type(refused.value).__name__ == error
    assert not (settings.parent / "out").exists()


def test_a_raster_without_crs_is_refused(region, tmp_path, capsys):
    folder = tmp_path / "vhr"
    folder.mkdir()
    with rasterio.open(region.root / "vhr" / "west.tif") as west:
        profile = {**west.profile, "crs": None}
        with rasterio.open(folder / "west.tif", "w", **profile) as bare:
            bare.write(west.read())
    told = {**region.settings, "vhr": {"source": "local", "root": str(folder), "acquired_at": "2023-06-14"}}
    settings = search_region.settings_file(tmp_path, region=mini_region.MiniRegion(region.root, told))
    assert main(["discover", "--config", str(settings)]) == 2
    assert "CRSError" in capsys.readouterr().err


def test_a_day_without_imagery_is_refused(settings, capsys):
    assert main(["discover", "--config", str(settings), "--set", "build.vhr_acquired=2019-01-01"]) == 2
    assert "EmptyAreaError: no scene was taken on 2019-01-01" in capsys.readouterr().err


def slow(settings):
    """Settings of a search that takes a while; what it finds is what the quick one does."""
    return changed(settings, model_options={"window_px": 128, "arguments": {"pause_s": 0.02}}, batch_size=1)


def started(settings, folder):
    return RunProcess(["discover", "--config", str(settings), "--json"], folder)


def wait_for_parts(settings, count):
    end = time.monotonic() + 120
    while len(list(settings.parent.glob("out/*/parts/*.tif"))) < count:
        assert time.monotonic() < end
        time.sleep(0.02)


def pixels_of(found):
    """What does not depend on which model id found it."""
    kept = ("outline", "area_m2", "score", "match", "label_id")
    return sorted(([row[name] for name in kept] for row in found), key=str)


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["SIGKILL", "SIGTERM", "Ctrl-C"])
def test_a_killed_search_goes_on_to_the_same_result(manner, settings, tmp_path, reference):
    run = started(slow(settings), tmp_path / "killed")
    wait_for_parts(settings, 3)
    assert run.send(manner)
    code = run.wait()
    assert code == (-signal.SIGKILL if manner == "SIGKILL" else 130), run.output
    told = lance_io.scan(tmp_path / "store", "runs", ["status"]).to_pylist()
    assert told == [{"status": "running" if manner == "SIGKILL" else "interrupted"}]
    second = run_discovery(load(settings))
    assert second.blocks_done_before >= 3
    assert second.blocks_done_before + second.blocks_made == 16
    assert pixels_of(rows(tmp_path / "store")) == pixels_of(reference[1])
    assert (raster(second.raster) == reference[2]).all()
    statuses = {row["status"] for row in lance_io.scan(tmp_path / "store", "runs", ["status"]).to_pylist()}
    assert statuses == {"done", "killed" if manner == "SIGKILL" else "interrupted"}
    assert not list(settings.parent.glob("out/*/parts/.*"))


@pytest.mark.slow
def test_two_searches_at_once_share_the_blocks(settings, tmp_path, reference):
    first = started(slow(settings), tmp_path / "first")
    wait_for_parts(settings, 1)
    # held, so that they work at the same time however slowly the second one starts
    first.send("SIGSTOP")
    known = len(list(settings.parent.glob("out/*/parts/*.tif")))
    second = started(settings, tmp_path / "second")
    wait_for_parts(settings, known + 1)
    first.resume()
    runs = [first, second]
    codes = [run.wait() for run in runs]
    assert codes == [0, 0], [run.output for run in runs]
    made = [run.summary["blocks_made"] for run in runs]
    assert sum(made) == 16
    assert min(made) > 0
    assert pixels_of(rows(tmp_path / "store")) == pixels_of(reference[1])
    assert len(np.unique(lance_io.scan(tmp_path / "store", "detections", ["detection_id"])["detection_id"])) == len(
        reference[1]
    )
    assert lance_io.scan(tmp_path / "store", "leases", ["lease_id"]).num_rows == 0
    assert {run.summary["detections"] for run in runs} == {reference[0].detections}


def test_imagery_of_two_zones_is_searched_on_one_utm_grid(region, tmp_path):
    folder = tmp_path / "vhr"
    folder.mkdir()
    shutil.copy(region.root / "vhr" / "west.tif", folder)
    with rasterio.open(region.root / "vhr" / "east.tif") as east, WarpedVRT(east, crs="EPSG:32633") as warped:
        profile = {**warped.profile, "driver": "GTiff"}
        with rasterio.open(folder / "east.tif", "w", **profile) as moved:
            moved.write(warped.read())
    told = {**region.settings, "store": str(tmp_path / "store")}
    told["vhr"] = {**told["vhr"], "root": str(folder)}
    found = run_discovery(load(search_region.settings_file(tmp_path, region=mini_region.MiniRegion(region.root, told))))
    with rasterio.open(found.raster) as opened:
        assert opened.crs.to_epsg() == mini_region.EPSG
        assert [round(edge / 0.3, 6) % 1 for edge in opened.transform[2:6:3]] == [0, 0]
    assert (found.detections_confirmed, found.missing) == (len(mini_region.PV), 0)


def test_a_multispectral_model_searches_multispectral_scenes(settings):
    options = {"kind": "msi", "bands": ["B02", "B03", "B04"], "gsd_m": 10.0, "window_px": 32}
    found = run_discovery(load(changed(settings, model_options=options, block_px=64, overlap_px=4)))
    assert (found.status, found.blocks_failed) == ("done", 0)
    with rasterio.open(found.raster) as opened:
        assert opened.transform.a == 10.0
        # B04 is brighter than B02 everywhere
        assert (opened.read(1) > PROBABILITY_SCALE / 2).all()
