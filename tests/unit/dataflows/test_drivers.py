"""Drivers: every flow can be built, every input is named, unknown names are refused with what there is."""

import numpy as np
import pytest

from dataflows import drivers
from dataflows.config import from_mapping
from dataflows.run_summary import RunSummary
from support import mini_region
from support.node_inputs import BANDS
from support.scene_pairs import write_scene
from utils.errors import AegirError, BandError, ConfigError, UnknownNameError

LEAST = {
    "catalog": "labels.ducklake",
    "labels": [{"table": "pv", "id": "id", "geometry": "geometry"}],
    "vhr": {"source": "local", "root": "vhr"},
}
AT_RUN_TIME = {"partition", "provenance", "commit_buffer", "since_snapshot"}


@pytest.mark.parametrize("name", drivers.FLOWS)
def test_every_flow_has_its_outputs_and_modules(name):
    built = drivers.build_driver(name)
    nodes = {variable.name for variable in built.list_available_variables()}
    assert set(drivers.flow(name).outputs) <= nodes
    stages = {
        function.__module__ for node in built.graph.nodes.values() for function in (node.originating_functions or ())
    }
    assert stages >= set(drivers.flow(name).modules)


def external(built):
    return {variable.name for variable in built.list_available_variables() if variable.is_external_input}


@pytest.mark.parametrize("msi", [None, {"source": "local", "root": "msi"}])
def test_the_build_is_told_everything_it_asks_for_and_nothing_else(msi):
    config = from_mapping(LEAST | {"msi": msi})
    told, asked = set(drivers.build_inputs(config)), external(drivers.build_driver("build", config))
    assert asked - AT_RUN_TIME <= told
    assert told <= asked


def test_settings_reach_the_nodes():
    config = from_mapping(LEAST | {"thresholds": {"accept": 0.9}, "chip_px": 64, "guard_m": 5})
    built = drivers.build_driver("build", config)
    assert built.execute(["verdict_thresholds"])["verdict_thresholds"].accept == 0.9
    assert drivers.build_inputs(config)["chip_profile"].height == 64
    assert drivers.build_inputs(config)["guard_m"] == 5.0


def test_unknown_names_list_what_there_is():
    for attempt, words in (
        (lambda: drivers.flow("biuld"), "unknown flow 'biuld'; known: .*build.*sample"),
        (lambda: drivers.build_driver("biuld"), "unknown flow"),
        (lambda: drivers.run("biuld", {}), "unknown flow"),
        (lambda: drivers.build_driver("build", LEAST | {"mask_backend": "sum"}), "unknown mask backend .*classical"),
        (lambda: drivers.build_driver("build", LEAST | {"vhr": {"source": "moon"}}), "unknown imagery source .*local"),
        (lambda: drivers.build_driver("build", LEAST | {"msi": {"source": "moon"}}), "unknown imagery source .*local"),
    ):
        with pytest.raises(UnknownNameError, match=words):
            attempt()


def test_settings_are_checked_before_a_driver_is_built():
    with pytest.raises(ConfigError, match="chip_px"):
        drivers.build_driver("build", LEAST | {"chip_px": 0})


@pytest.mark.parametrize("config", [{}, {"root": "x"}, {"root": "x", "size": "test", "seed": 1, "colour": "red"}])
def test_the_sample_takes_three_settings(config, tmp_path):
    with pytest.raises(ConfigError, match="root, size and seed"):
        drivers.run("sample", config)


def test_the_sample_does_not_take_a_builds_settings():
    with pytest.raises(ConfigError, match="root, size and seed"):
        drivers.run("sample", from_mapping(LEAST))


PAIR = {"msi": {"source": "local", "root": "msi"}, "before": "2020-08-07", "after": "2021-08-12"}


def test_the_change_flow_is_told_everything_it_asks_for_and_nothing_else():
    assert external(drivers.build_driver("change", PAIR)) == set(drivers.change_inputs(PAIR))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "missing: after, before, msi; unknown: none"),
        (PAIR | {"colour": "red"}, "unknown: colour"),
        (PAIR | {"msi": "folder"}, "give a mapping"),
        (PAIR | {"gsd_m": "wide"}, "are numbers"),
        (PAIR | {"aoi_bbox_lonlat": "here"}, "are numbers"),
        (PAIR | {"aoi_bbox_lonlat": 7}, "are numbers"),
        (PAIR | {"raster_path": "change.png"}, "does not end in .tif"),
    ],
)
def test_settings_of_the_change_flow_are_checked(config, words):
    for attempt in (
        drivers.run_change,
        lambda c: drivers.run("change", c),
        lambda c: drivers.build_driver("change", c),
    ):
        with pytest.raises(ConfigError, match=words):
            attempt(config)


def test_the_change_flow_does_not_take_a_builds_settings():
    with pytest.raises(ConfigError, match="does not take a BuildConfig"):
        drivers.run("change", from_mapping(LEAST))


def test_a_run_of_the_change_flow_says_where_the_raster_is(tmp_path):
    for seed, which in enumerate(("before", "after")):
        bands = {band: np.random.default_rng(seed).integers(1, 9000, (20, 30)).astype("uint16") for band in BANDS}
        write_scene(tmp_path / "scenes", which, bands)
    config = PAIR | {"msi": {"source": "local", "root": str(tmp_path / "scenes")}}
    assert drivers.run("change", config).store == ""
    summary = drivers.run("change", config | {"raster_path": str(tmp_path / "out.tif")})
    assert (summary.flow, summary.status, summary.exit_code) == ("change", "done", 0)
    assert (tmp_path / "out.tif").is_file()
    assert summary.store == str(tmp_path / "out.tif")


def test_an_unknown_size_makes_nothing(tmp_path):
    with pytest.raises(AegirError, match="huge"):
        drivers.run("sample", {"root": tmp_path / "x", "size": "huge", "seed": 1})
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("counts", "code"),
    [
        ({"status": "done"}, 0),
        ({"status": "failed", "chips_failed": 1}, 3),
        ({"status": "failed", "inputs_failed": 1}, 3),
        ({"status": "done", "chips_failed_before": 1}, 3),
        ({"status": "done", "inputs_failed_before": 1}, 3),
        ({"status": "interrupted", "chips_failed": 1}, 130),
    ],
)
def test_exit_codes(counts, code):
    assert RunSummary(flow="build", **counts).exit_code == code


def test_a_node_of_the_build_flow_needs_no_further_inputs(tmp_path):
    region = mini_region.make(tmp_path)
    found = drivers.build_driver("build", from_mapping(region.settings)).execute(["chip_plan", "label_area"])
    assert set(found["chip_plan"]["chip_role"].to_pylist()) >= {"labelled"}


def test_imagery_that_cannot_be_used_is_told_once_per_reason(tmp_path):
    region = mini_region.make(tmp_path)
    settings = region.settings | {"vhr": {"source": "local", "root": str(tmp_path / "vhr")}}
    with pytest.raises(BandError) as told:
        drivers.plan_build(from_mapping(settings))
    message = str(told.value)
    assert "it has no scene; 2 unreadable, such as" in message
    assert "set `acquired_at`" in message
    assert message.count(str(tmp_path)) == 1
