"""The command line: what each command prints, every exit code, and what is not imported."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml

from dataflows import drivers, terminal
from dataflows.__main__ import EXIT_REFUSED, main
from store import lance_io
from support import mini_region


@pytest.fixture(scope="module")
def region(tmp_path_factory):
    """A region with its flow.yaml, built once."""
    made = mini_region.make(tmp_path_factory.mktemp("main") / "region")
    settings = dict(made.settings)
    (made.root / "flow.yaml").write_text(yaml.safe_dump(settings))
    assert main(["run", "--config", str(made.root / "flow.yaml")]) == 0
    return made


@pytest.fixture
def options(region):
    return ["--config", str(region.root / "flow.yaml")]


def chip_id(region):
    return lance_io.scan(region.settings["store"], "training_data", ["uuid"], "n_accepted > 0")["uuid"][0].as_py()


class TestDone:
    """Exit code 0."""

    def test_plan_as_numbers(self, options, capsys):
        assert main(["plan", *options, "--json"]) == 0
        counts = json.loads(capsys.readouterr().out)
        assert counts["pending"] == counts["partitions"] == 0
        assert counts["chips"] == sum(counts["splits"].values()) > 0
        assert counts["prompts"] == 5
        assert counts["prompt_kinds"] == {"box": 5} or counts["prompt_kinds"] == {"polygon": 5}

    def test_plan_as_a_table(self, options, capsys):
        assert main(["plan", *options, "--set", "halo_px=32"]) == 0
        text = capsys.readouterr().out
        assert "pending" in text
        assert "labelled" in text

    def test_a_second_run_has_nothing_to_do(self, options, region, capsys):
        assert main(["run", *options, "--json"]) == 0
        counts = json.loads(capsys.readouterr().out)
        assert (counts["status"], counts["chips_written"], counts["chips_pending"]) == ("done", 0, 0)
        assert counts["chips_skipped"] == counts["chips_planned"]
        assert counts["store"] == region.settings["store"]

    def test_explain(self, region, capsys):
        uuid = chip_id(region)
        assert main(["explain", uuid[:10], "--store", region.settings["store"]]) == 0
        assert uuid in capsys.readouterr().out
        assert main(["explain", uuid, "--store", region.settings["store"], "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["chip"]["uuid"] == uuid

    def test_explain_looks_in_the_environments_store(self, region, capsys, monkeypatch):
        monkeypatch.setenv("AEGIR_STORE", region.settings["store"])
        assert main(["explain", chip_id(region)]) == 0
        assert "S2 cell" in capsys.readouterr().out

    def test_sample(self, tmp_path, monkeypatch):
        asked = []
        monkeypatch.setattr(terminal, "sample_with_progress", lambda *arguments: asked.append(arguments))
        monkeypatch.chdir(tmp_path)
        assert main(["sample", "--size", "test", "--seed", "7"]) == 0
        assert main(["sample", "--root", "x"]) == 0
        assert asked == [(Path("data/sample/test"), "test", 7), (Path("x"), "demo", 42)]


class TestSet:
    """``--set`` replaces a setting of the file, null included."""

    def planned(self, options, capsys, *changes):
        assert main(["plan", *options, "--json", *changes]) == 0
        return json.loads(capsys.readouterr().out)

    def test_numbers_lists_and_mappings(self, options, capsys):
        some = self.planned(options, capsys, "--set", "background_far_ratio=0", "--set", "background_near_ratio=0")
        assert set(some["roles"]) <= {"labelled"}
        assert some["chips"] < self.planned(options, capsys)["chips"]
        again = self.planned(options, capsys, "--set", "thresholds={accept: 0.9}")
        assert again["pending"] == again["chips"]

    def test_null_takes_a_setting_away(self, options, capsys, region):
        """A build without multispectral chips is another profile, which this store does not hold."""
        assert main(["plan", *options, "--set", "msi=null"]) == EXIT_REFUSED
        assert "profile" in capsys.readouterr().err
        pinned = yaml.safe_dump(region.settings | {"aoi_bbox_lonlat": [0.0, 0.0, 1.0, 1.0]})
        path = region.root / "pinned.yaml"
        path.write_text(pinned)
        assert self.planned(["--config", str(path)], capsys, "--set", "aoi_bbox_lonlat=null")["prompts"] == 5

    @pytest.mark.parametrize(
        "text", ["nonsense", "=5", "chip_px=[1", "chip_px={a: b: c}", "chip_px=big", "colour=red", "chip_px=\x00"]
    )
    def test_what_is_no_setting(self, options, capsys, text):
        assert main(["plan", *options, "--set", text]) == EXIT_REFUSED
        assert "ConfigError" in capsys.readouterr().err


class TestRefused:
    """Exit code 2, one line that names the error, no traceback."""

    def refused(self, capsys, *arguments):
        assert main(list(arguments)) == EXIT_REFUSED
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        return err

    def test_each(self, options, region, tmp_path, capsys):
        store = ["--store", region.settings["store"]]
        known = "known: backfill, build, change, context, discover, masks, sample, validate"
        assert known in self.refused(capsys, "run", "nonsense", *options)
        assert known in self.refused(capsys, "plan", "nonsense", *options)
        assert "has no plan" in self.refused(capsys, "plan", "sample", *options)
        assert "own command" in self.refused(capsys, "run", "sample", *options)
        assert "own command" in self.refused(capsys, "run", "change", *options)
        assert "python -m dataflows sample" in self.refused(capsys, "run", "--config", str(tmp_path / "no.yaml"))
        assert "no chip" in self.refused(capsys, "explain", "ffffffffff", *store)
        assert "is no chip id" in self.refused(capsys, "explain", "x' OR '1'='1", *store)
        assert "TableNotFoundError" in self.refused(capsys, "explain", "abc", "--store", str(tmp_path / "nowhere"))
        assert "huge" in self.refused(capsys, "sample", "--size", "huge", "--root", str(tmp_path / "s"))
        (tmp_path / "file").write_text("in the way")
        place = ["--store", str(tmp_path / "file" / "lancedb")]
        assert "StoreNotWritableError" in self.refused(capsys, "run", *options, *place)

    @pytest.mark.parametrize(
        "arguments", [[], ["dance"], ["run", "--colour"], ["explain"], ["sample", "--seed", "many"]]
    )
    def test_arguments_nobody_knows(self, arguments, capsys):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == EXIT_REFUSED
        assert "usage" in capsys.readouterr().err

    def test_drawings_that_cannot_be_written(self, tmp_path, capsys):
        (tmp_path / "file").write_text("in the way")
        assert "file" in self.refused(capsys, "draw", "--out", str(tmp_path / "file" / "dags"))


def test_the_tables_of_indices_and_scene_classes(capsys):
    assert main(["indices"]) == 0
    text = capsys.readouterr().out
    assert "| `ndvi` | NDVI |" in text
    assert "| 3 | cloud shadow | dropped |" in text


def test_a_change_between_two_files_that_state_bands_and_date(tmp_path, capsys):
    """Plain GeoTIFFs: bands by description, the day by TIFFTAG_DATETIME, the scale by option."""
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5.2e6), "nodata": 0}
    for year, infrared in ((2020, 6000), (2021, 2000)):
        path = tmp_path / f"scene_{year}.tif"
        with rasterio.open(path, "w", driver="GTiff", count=2, dtype="uint16", height=4, width=5, **place) as raster:
            raster.write(np.full((4, 5), 2000, np.uint16), 1)
            raster.write(np.full((4, 5), infrared, np.uint16), 2)
            raster.descriptions = ("B04", "B08")
            raster.update_tags(TIFFTAG_DATETIME=f"{year}:07:01 10:30:00")
    dates = ["change", str(tmp_path), "--before", "scene_2020", "--after", "2021-07-01", "--json"]
    assert main(dates) == EXIT_REFUSED
    assert "does not state its reflectance scale" in capsys.readouterr().err
    assert main([*dates, "--scale", "0.0001"]) == 0
    row = json.loads(capsys.readouterr().out)["statistics"]["ndvi"]
    assert row.pop("mean") == pytest.approx(-0.5, abs=1e-6)
    assert row == {"n_pixels": 20, "n_valid": 20, "std": 0.0, "share_loss": 1.0, "share_gain": 0.0}


def test_a_change_that_cannot_be_is_refused(tmp_path, capsys):
    dates = ["--before", "2020-08-07", "--after", "2021-08-12"]
    assert main(["change", str(tmp_path / "no"), *dates]) == EXIT_REFUSED
    assert main(["change", str(tmp_path), *dates]) == EXIT_REFUSED
    text = capsys.readouterr().err
    assert "ConfigError: no imagery folder" in text
    assert "NoImageryError: no scene has the id or the day '2020-08-07'" in text


def test_rows_in_errors_are_exit_code_3(region, tmp_path, capsys):
    (tmp_path / "vhr").mkdir()
    for tile in region.vhr_tiles:
        (tmp_path / "vhr" / tile.name).symlink_to(tile)
    (tmp_path / "vhr" / "north.tif").write_bytes(b"II*\0junk")
    settings = region.settings | {"store": str(tmp_path / "store")}
    settings["vhr"] = settings["vhr"] | {"root": str(tmp_path / "vhr")}
    (tmp_path / "flow.yaml").write_text(yaml.safe_dump(settings))
    assert main(["run", "--config", str(tmp_path / "flow.yaml")]) == 3
    assert "store errors" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "plan"])
def test_an_interrupt_before_the_first_chip_is_exit_code_130(options, capsys, monkeypatch, command):
    def interrupted(*arguments, **settings):
        os.kill(os.getpid(), signal.SIGTERM if command == "run" else signal.SIGINT)

    monkeypatch.setattr("dataflows.drivers.plan_build", interrupted)
    monkeypatch.setattr("dataflows.drivers.run", interrupted)
    # a process started in the background ignores SIGINT from birth
    interrupts = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main([command, *options]) == 130
    finally:
        signal.signal(signal.SIGINT, interrupts)
    assert "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_termination_midway_keeps_finished_partitions(region, tmp_path, monkeypatch):
    run = drivers.run

    def killed(name, config, *, progress, **options):
        def report(summary):
            progress(summary)
            if summary.partitions_done == 2 and not summary.seconds:
                os.kill(os.getpid(), signal.SIGTERM)

        return run(name, config, progress=report, **options)

    monkeypatch.setattr(drivers, "run", killed)
    store = str(tmp_path / "store")
    assert main(["run", "--config", str(region.root / "flow.yaml"), "--store", store]) == 130
    kept = lance_io.open_table(store, "training_data").count_rows()
    assert kept > 0
    assert lance_io.scan(store, "runs", ["status"])["status"].to_pylist() == ["interrupted"]


def test_main_leaves_logging_quiet_about_typed_errors(options, capsys):
    main(["plan", *options, "--set", "labels=[{table: vp, id: id, geometry: geometry}]"])
    assert logging.getLogger("hamilton").level == logging.CRITICAL
    err = capsys.readouterr().err
    assert err.startswith("LabelTableError: ")
    assert len(err.splitlines()) == 1


def test_commands_import_no_learning_and_help_imports_nothing_heavy(region, tmp_path):
    uuid = chip_id(region)
    script = f"""
import sys
from dataflows.__main__ import main
heavy = {{"torch", "lightning", "segmentation_models_pytorch", "torchmetrics", "wandb", "torchvision", "samgeo"}}
data = {{"lance", "lancedb", "duckdb", "rasterio", "hamilton", "cv2"}}
def loaded(names): return sorted(names & {{name.split(".")[0] for name in sys.modules}})
for arguments in (["--help"], ["run", "--help"]):
    try: main(arguments)
    except SystemExit as stop: assert stop.code == 0
assert not loaded(heavy | data), loaded(heavy | data)
config = ["--config", {str(region.root / "flow.yaml")!r}]
store = ["--store", {str(region.settings["store"])!r}]
new = ["--store", {str(tmp_path / "new")!r}, "--set", "background_far_ratio=0"]
for arguments in (["plan", *config], ["explain", {uuid!r}, *store], ["draw", "--out", {str(tmp_path / "dags")!r}],
                  ["run", *config, *new]):
    assert main(arguments) == 0, arguments
    assert not loaded(heavy), (arguments, loaded(heavy))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "usage: python -m dataflows" in done.stdout
    assert lance_io.open_table(tmp_path / "new", "training_data").count_rows() > 0
    drawn = sorted((tmp_path / "dags").iterdir())
    pictures = [*drivers.FLOWS, "whole"]
    assert {path.stem for path in drawn} == set(pictures)
    assert len(drawn) == 3 * len(pictures)
    assert all(str(path) in done.stdout for path in drawn)


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "dataflows", "plan", "--config", "/nowhere/flow.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (EXIT_REFUSED, "")
    assert done.stderr.startswith("ConfigError: no settings at /nowhere/flow.yaml")
