"""What rules prune on the sample region, against every pair by shapely, and the recall that costs by its truth."""

import json

import numpy as np
import pytest
import shapely

from dataflows import drivers
from dataflows.__main__ import main
from dataflows._search import prepared_search
from dataflows.discovery_config import load
from dataflows.discovery_plan import discovery_plan
from store import ducklake
from store.sample_lake import CATALOG
from support import search_region
from utils.geo import reproject
from utils.search_blocks import block_boxes

PRUNE = {
    "near_buildings": {"within_m": 10.0, "or_classes": ["grassland"], "least_share": 0.5},
    "land_cover_excluded": {"classes": ["cropland", "water"], "share": 0.8},
}
SMALL = {"model": search_region.MODEL, "model_options": {"window_px": 64}, "overlap_px": 8, "device": "cpu"}


@pytest.fixture(scope="module")
def search(sample_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("plans")
    settings = load(
        sample_root / "discover.yaml", store=str(out / "store"), out=str(out), block_px=128, prune=PRUNE, **SMALL
    )
    return prepared_search(settings)


@pytest.fixture(scope="module")
def lake(sample_root):
    """Buildings, and land cover with its class, in the raster's CRS."""
    with ducklake.connect(sample_root / CATALOG) as connection:
        found = []
        for columns, table in (("''", "buildings"), ("class", "landcover")):
            rows = connection.execute(f"SELECT {columns}, ST_AsWKB(geometry) FROM lake.{table}").fetchall()
            shapes = shapely.from_wkb(np.array([bytes(wkb) for _, wkb in rows], object))
            found.append((np.array([name for name, _ in rows]), reproject(shapes, 4326, 32632)))
    return found


def share(boxes, shapes):
    """Share of each box that shapes cover together."""
    whole = shapely.union_all(shapely.buffer(shapes, 0))
    return shapely.area(shapely.intersection(boxes, whole)) / shapely.area(boxes)


def test_rules_prune_what_every_pair_says(search, lake):
    (_, buildings), (classes, cover) = lake
    boxes = block_boxes(search.plan.blocks)
    assert len(boxes) == 100
    distance = np.array([shapely.distance(box, buildings).min() for box in boxes])
    farms = share(boxes, cover[classes == "grassland"]) + 1 - share(boxes, cover)
    excluded = share(boxes, cover[np.isin(classes, ["cropland"])]) + share(boxes, cover[classes == "water"])
    found = search.findings
    # blocks so near a limit that the two ways to measure may differ
    sure = (np.abs(distance - 10) > 0.1) & (np.abs(farms - 0.5) > 0.001)
    expected = (distance > 10) & (farms < 0.5)
    assert (found["near_buildings"].pruned == expected)[sure].all()
    sure = np.abs(excluded - 0.8) > 0.001
    assert (found["land_cover_excluded"].pruned == (excluded >= 0.8))[sure].all()
    assert found["near_buildings"].pruned.any()
    assert found["land_cover_excluded"].pruned.any()


def test_a_plan_adds_up(search):
    plan = discovery_plan(search)
    assert plan.blocks == plan.blocks_left + plan.blocks_pruned + plan.blocks_done + plan.blocks_without_imagery
    assert plan.km2 == pytest.approx(plan.km2_left + plan.km2_pruned + plan.km2_done)
    assert plan.km2 == pytest.approx((1200 * 0.3 / 1000) ** 2)
    assert sum(rule.blocks_in_sequence for rule in plan.rules) == plan.blocks_pruned
    assert sum(rule.km2_in_sequence for rule in plan.rules) == pytest.approx(plan.km2_pruned)
    assert all(rule.blocks_in_sequence <= rule.blocks for rule in plan.rules)
    assert plan.rules[0].blocks_in_sequence == plan.rules[0].blocks


def test_the_recall_a_rule_costs_is_that_of_the_truth_on_pruned_ground(search, sample_root):
    plan = discovery_plan(search)
    features = json.loads((sample_root / "truth" / "pv.geojson").read_text())["features"]
    stood = [f for f in features if f["properties"]["built"] <= "2023-06-09"]
    shapes = reproject(np.array([shapely.geometry.shape(f["geometry"]) for f in stood], object), 4326, 32632)
    boxes = block_boxes(search.plan.blocks)
    ground = shapely.union_all(boxes)
    whole = shapely.area(shapely.intersection(shapes, ground))
    for rule in plan.rules:
        lost = shapely.area(shapely.intersection(shapes, shapely.union_all(boxes[search.findings[rule.name].pruned])))
        cost = rule.cost["truth"]
        assert cost.objects == (whole > 0).sum()
        assert cost.objects_lost == ((lost > whole / 2) & (whole > 0)).sum()
        assert cost.area_lost_m2 == pytest.approx(lost.sum(), abs=1e-6)
        assert cost.area_m2 == pytest.approx(whole.sum())


def test_pruned_blocks_are_not_searched_and_their_labels_say_so(sample_root, tmp_path, capsys):
    told = [f"{name}={json.dumps(value)}" for name, value in {**SMALL, "block_px": 240, "out": str(tmp_path)}.items()]
    rule = {"land_cover_excluded": {"classes": ["built_up"], "share": 0.3}}
    told += [f"prune={json.dumps(rule)}", "aoi_bbox_lonlat=null"]
    command = ["discover", "--config", str(sample_root / "discover.yaml"), "--store", str(tmp_path / "store"), "--json"]
    assert main([*command, *(word for text in told for word in ("--set", text))]) == 0
    summary = search_region.printed(capsys.readouterr().out)
    assert summary["blocks_pruned"] > 0
    assert summary["blocks_made"] + summary["blocks_pruned"] == 25
    assert summary["km2_searched"] + summary["km2_pruned"] == pytest.approx(summary["km2"])
    missing = json.loads((tmp_path / summary["search_id"] / "missing.geojson").read_text())["features"]
    assert len(missing) == summary["missing"]
    reasons = {feature["properties"]["reason"] for feature in missing}
    assert "pruned by land_cover_excluded" in reasons


def test_the_driver_knows_the_flow(sample_root, tmp_path):
    assert drivers.build_driver("discover").graph.nodes["search_plan"]
    settings = load(sample_root / "discover.yaml", store=str(tmp_path), **SMALL)
    found = drivers.build_driver("discover", settings).execute(["search_raster", "search_lattice"])
    assert (found["search_raster"].height, found["search_raster"].epsg) == (1200, 32632)
