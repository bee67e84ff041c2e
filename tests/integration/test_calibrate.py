"""From a store with truth to a calibration, and from the calibration to the masks of the next run."""

import json
import shutil
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import shapely

from dataflows import mask_backends
from dataflows.__main__ import main
from dataflows.config import from_mapping
from dataflows.drivers import recipes_today, run, run_masks
from dataflows.mask_calibration import mask_settings
from dataflows.mask_truth import measured_masks
from store import lance_io
from store.calibration_files import calibration_at
from store.schemas import RUNS
from support import mini_region
from utils.calibration import settings_recipe
from utils.geo import reproject
from utils.refinement import RefinementSteps


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A mini region built twice over: its store, its settings and the truth of most of its arrays."""
    root = tmp_path_factory.mktemp("calibrate")
    region = mini_region.make(root)
    run("build", from_mapping(region.settings))
    truth = root / "truth.geojson"
    boxes = [reproject(box, mini_region.EPSG, 4326) for box in mini_region.pv_boxes()[1:]]
    features = [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(box)} for box in boxes]
    truth.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return region.settings, truth


def calibrate(built, out, *more):
    settings, truth = built
    return main(["calibrate", "--store", settings["store"], "--truth", str(truth), "--out", str(out), *more])


def test_masks_are_measured_and_false_labels_count_as_nothing(built):
    settings, truth = built
    found = measured_masks(settings["store"], truth)
    rows = lance_io.scan(settings["store"], "masks", ["verdict", "mask"]).to_pylist()
    assert len(found.masks) + sum(found.left_out.values()) == len(rows)
    iou = np.array([mask.iou for mask in found.masks])
    assert (iou == 0).any()
    assert iou.max() > 0.85
    assert {mask.backend for mask in found.masks} == {"classical"}
    assert all({"ring_contrast", "stability", "box_agreement"} <= mask.scores.keys() for mask in found.masks)


def test_the_command_writes_a_calibration_the_next_run_uses(built, tmp_path, capsys):
    settings, _ = built
    out = tmp_path / "calibration.json"
    assert calibrate(built, out, "--least", "3", "--name", "mini", "--seed", "1") == 0
    told = capsys.readouterr().out
    calibration = calibration_at(str(out))
    assert calibration.version in told
    assert (calibration.data, calibration.seeds) == (("mini",), (1,))

    again = from_mapping(settings | {"store": str(tmp_path / "store"), "calibration": str(out)})
    run("build", again)
    columns = ["quality", "calibration", "flags", "verdict"]
    names = lance_io.open_table(again.store, "masks").schema.names
    rows = lance_io.scan(again.store, "masks", [name for name in columns if name in names]).to_pylist()
    assert rows
    assert all("uncalibrated" not in row["flags"] for row in rows)
    first = lance_io.scan(settings["store"], "masks", ["flags"]).to_pylist()
    assert all("uncalibrated" in row["flags"] for row in first)
    if "quality" in names:
        assert {row["calibration"] for row in rows} == {calibration.version}
        assert all(0 <= row["quality"] <= 1 for row in rows)
    record = lance_io.scan(again.store, "runs", ["inputs"]).to_pylist()
    assert json.loads(record[0]["inputs"])["calibration"] == calibration.version


def test_figures_as_json(built, tmp_path, capsys):
    assert calibrate(built, tmp_path / "c.json", "--least", "3", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["calibration"] == calibration_at(str(tmp_path / "c.json")).version


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--least", "1000"), "too few"),
        (("--least", "1"), "2 or more"),
        (("--store", "elsewhere"), "one --truth per --store"),
    ],
)
def test_what_cannot_be_fitted_is_refused_and_writes_nothing(built, tmp_path, capsys, more, words):
    out = tmp_path / "c.json"
    assert calibrate(built, out, *more) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_store_without_masks_or_a_truth_without_sense_is_refused(built, tmp_path, capsys):
    settings, truth = built
    missing = ["calibrate", "--store", str(tmp_path / "no store"), "--truth", str(truth), "--out", str(tmp_path / "c")]
    assert main(missing) == 2
    assert "TableNotFoundError" in capsys.readouterr().err
    assert main(["calibrate", "--store", settings["store"], "--truth", "no.geojson", "--out", str(tmp_path / "c")]) == 2
    assert "no.geojson" in capsys.readouterr().err


def test_a_calibration_is_known_by_its_content(built, tmp_path):
    settings, _ = built
    first, second, third = (tmp_path / name for name in ("a.json", "b.json", "c.json"))
    calibrate(built, first, "--least", "3", "--name", "same")
    calibrate(built, second, "--least", "3", "--name", "same")
    calibrate(built, third, "--least", "3", "--name", "other")

    def hashes(place):
        config = from_mapping(settings | {"calibration": place and str(place)})
        return config.build_config, recipes_today(settings_of(config)).recipes["mask"]

    def settings_of(config):
        from dataclasses import asdict

        return asdict(config)

    assert hashes(first) == hashes(second)
    assert hashes(first)[0] != hashes(third)[0]
    assert hashes(first)[1] != hashes(third)[1] != hashes(None)[1]


def test_settings_of_runs_before_calibrations_are_those_without(built):
    from dataclasses import asdict

    settings, _ = built
    told = asdict(from_mapping(settings))
    earlier = {name: value for name, value in told.items() if name != "calibration"}
    assert recipes_today(earlier).recipes == recipes_today(told | {"calibration": None}).recipes


def test_masks_are_measured_by_the_weights_they_were_made_with(built, tmp_path):
    from support import tiny_hf

    settings, truth = built
    store = tmp_path / "store"
    shutil.copytree(settings["store"], store)
    model = tiny_hf.write(tmp_path / "model", "sam2")
    config = from_mapping(
        settings | {"store": str(store), "mask_backend": "sam_hf", "mask_options": {"model_id": str(model)}}
    )
    made = run_masks(config)
    today = recipe_of(config)
    # neither moved nor other weights change what the masks in the store were made with
    moved = tmp_path / "moved"
    model.rename(moved)
    assert made.masks_written == len(mini_region.PV)
    assert recipes_of(store, truth)["sam_hf"] == {today}
    tiny_hf.write(model, "sam2", seed=1)
    assert recipes_of(store, truth)["sam_hf"] == {today} != {recipe_of(config)}
    # the same model elsewhere is the same generation
    elsewhere = from_mapping(settings | {"store": str(store), "mask_backend": "sam_hf"})
    again = run_masks(replace(elsewhere, mask_options={"model_id": str(moved)}))
    assert (again.generation, again.masks_written) == (made.generation, 0)


def recipe_of(config):
    segmenter = mask_backends.get(config.mask_backend, **config.mask_options)
    return settings_recipe(mask_settings(segmenter, config.mask_options, RefinementSteps()))


def recipes_of(store, truth):
    found = defaultdict(set)
    for mask in measured_masks(str(store), truth).masks:
        found[mask.backend].add(mask.settings_recipe)
    return found


def test_settings_this_version_does_not_know_are_left_out_and_told(built, tmp_path):
    settings, truth = built
    store = str(tmp_path / "store")
    shutil.copytree(settings["store"], store)
    (row,) = lance_io.open_table(store, "runs").to_table().to_pylist()
    config = json.dumps(json.loads(row["config"]) | {"mask_options": {"of_an_earlier_version": 1}})
    lance_io.write(store, "runs", pa.Table.from_pylist([row | {"config": config}], schema=RUNS))
    found = measured_masks(store, truth)
    assert not found.masks
    assert found.left_out == {"the run's settings are not recorded, or this version does not know them": 5}
