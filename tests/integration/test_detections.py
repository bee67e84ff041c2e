"""From probabilities of the sample region's truth to detections, matched with its labels, listed and exported."""

import json

import numpy as np
import pytest
import shapely
from rasterio.features import rasterize

from dataflows import config as build_config
from dataflows.__main__ import main
from dataflows.detections import (
    DetectionRule,
    MatchRule,
    detection_table,
    found_objects,
    known_labels,
    matched,
    searched_ground,
    store_detections,
)
from dataflows.discovery_config import from_mapping
from store.probability_rasters import ProbabilityParts
from store.vectors import read_features
from support.detection_rasters import DAY, HeldParts, raster_of, raster_over
from utils.geo import reproject


@pytest.fixture(scope="module")
def search(sample_root):
    """Truth burnt as certain probabilities over the whole region, in blocks of 333 pixels, and the settings."""
    build = build_config.load(sample_root / "flow.yaml")
    truth = [shape for _, shape in read_features(sample_root / "truth" / "pv.geojson")]
    grid = raster_over(reproject(np.array(truth, object), 4326, 32632))
    burnt = rasterize(reproject(np.array(truth, object), 4326, 32632), (grid.height, grid.width), transform=grid.affine)
    parts = HeldParts(data=burnt.astype(np.uint8) * 250, block_px=333, grid=grid)
    return parts, from_mapping({"build": build}), truth


def detections_of(parts, rule=DetectionRule()):  # noqa: B008
    objects = found_objects(parts, parts.raster, parts.blocks, rule)
    return detection_table(
        objects, search_id="s1", model_id="m", model="m.ckpt", run_id="r", gsd_m=parts.raster.gsd_m, h3_resolution=10
    )


def test_truth_comes_back_and_labels_are_told_apart(search) -> None:
    parts, config, truth = search
    table = detections_of(parts)
    outlines = shapely.from_wkb(table["outline"].to_numpy())
    tree = shapely.STRtree(outlines)
    large = [shape for shape in truth if shape.area > 2e-9]
    assert all(len(tree.query(shape, predicate="intersects")) for shape in large)
    ground = searched_ground(parts.blocks)
    labels = known_labels(config, ground)
    matches = matched(table, labels, MatchRule(), searched=ground)
    rows = matches.detections.to_pylist()
    counts = matches.counts()
    assert counts["confirmed"] > 0.5 * len(labels)
    assert counts["new"] + counts["confirmed"] == len(table)
    confirmed = [row["label_id"] for row in rows if row["match"] == "confirmed"]
    missing = matches.missing["label_id"].to_pylist()
    assert len(set(confirmed)) == len(confirmed)
    assert not set(confirmed) & set(missing)
    assert set(confirmed) | set(missing) <= set(labels["label_id"].to_pylist())
    points = {row["label_id"] for row in labels.to_pylist() if row["kind"] == "point"}
    for row in rows:
        assert (row["match"] == "new") == (row["label_id"] is None) == (row["match_distance_m"] is None)
        assert (row["match_iou"] is None) == (row["label_id"] is None or row["label_id"] in points)
    again = matched(table, labels, MatchRule(), searched=ground)
    assert again.detections.equals(matches.detections)
    assert again.missing.equals(matches.missing)


def test_a_part_of_the_region_misses_no_label_outside_of_it(search) -> None:
    parts, config, _ = search
    left = [block for block in parts.blocks if block.column == 0]
    ground = searched_ground(left)
    labels = known_labels(config, ground)
    assert 0 < len(labels) < len(known_labels(config))
    objects = found_objects(parts, parts.raster, left, DetectionRule())
    table = detection_table(objects, search_id="s1", model_id="m", model="m", run_id="r", gsd_m=0.3, h3_resolution=10)
    missing = matched(table, labels, MatchRule(), searched=ground).missing
    inside = shapely.intersects(ground, shapely.point_on_surface(shapely.from_wkb(missing["geometry"].to_numpy())))
    assert inside.all()
    assert not len(known_labels(config, shapely.box(0, 0, 1, 1)))


def test_list_and_export_by_the_command_line(search, tmp_path, capsys) -> None:
    parts, config, _ = search
    matches = matched(detections_of(parts), known_labels(config), MatchRule())
    store = str(tmp_path / "store")
    assert main(["detections", "list", "--store", store]) == 2
    store_detections(store, matches.detections, "s1")
    capsys.readouterr()
    assert main(["detections", "list", "--store", store, "--json", "--limit", "3"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["searches"][0]["detections"] == len(matches.detections)
    assert told["searches"][0]["confirmed"] == matches.counts()["confirmed"]
    assert len(told["detections"]) == 3
    assert main(["detections", "list", "--store", store, "--where", "match = 'new'"]) == 0
    assert "new" in capsys.readouterr().out
    for name in ("d.parquet", "d.geojson", "d.geojsonl"):
        command = ["detections", "export", "--store", store, "--search", "s", "--out", str(tmp_path / name), "--json"]
        assert main([*command, "--verdict", "none"]) == 0
        assert json.loads(capsys.readouterr().out)["detections"] == len(matches.detections)
        assert main([*command, "--verdict", "accept,reject"]) == 0
        assert json.loads(capsys.readouterr().out)["detections"] == 0
    assert main([*command, "--verdict", "good"]) == 2
    assert main([*command, "--where", "no such column > 3"]) == 2
    assert main(["detections", "list", "--store", store, "--search", "z"]) == 2
    assert "there are: s1" in capsys.readouterr().err


def test_parts_on_disk_give_the_same_and_a_corrupt_one_is_ground_not_searched(tmp_path) -> None:
    data = np.zeros((96, 96), np.uint8)
    data[10:60, 20:80] = 200
    data[70:90, 5:25] = 255
    data[75:80, 30:90] = 230
    held = HeldParts(data=data, block_px=32)
    parts = ProbabilityParts(tmp_path, raster_of(data), 32)
    for block in parts.blocks.values():
        read = held.read(block)
        parts.write(block, read.data, read.scene_ids, DAY, "camera")
    blocks = list(parts.blocks.values())
    found = found_objects(parts, parts.raster, blocks, DetectionRule())
    assert found.equals(found_objects(held, held.raster, held.blocks, DetectionRule()))
    assert len(found) == 2
    whole = parts.path(blocks[4])
    whole.write_bytes(whole.read_bytes()[:-40])
    held.missing = {blocks[4].block_id}
    assert parts.done() == held.done()
    left = found_objects(parts, parts.raster, blocks, DetectionRule())
    assert left.equals(found_objects(held, held.raster, held.blocks, DetectionRule()))
    assert left["pixels"][0].as_py() == 50 * 60 - 28 * 32
