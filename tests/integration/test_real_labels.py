"""Solar farms of India (Microsoft, CDLA-Permissive-2.0) through a lake: ingestion, duplicates, cells, plan, changes.

No imagery of the country is at hand: one coarse raster stands for it, whose footprint is all that a plan asks for.
"""

import json
import shutil

import h3
import numpy as np
import pyarrow.compute as pc
import pytest
import rasterio
import s2geometry
import shapely
from rasterio.transform import from_bounds

from dataflows import drivers
from dataflows.__main__ import main
from dataflows.config import from_mapping
from store import ducklake
from utils.geo import reproject

COUNT = 1363
COPIES = 300
LARGEST_M = 5000.0


@pytest.fixture(scope="module")
def india(real_data, tmp_path_factory):
    """A lake of the farms and of a second data set: 300 drawn again up to 350 m farther east; a flow over it."""
    folder, root = real_data / "pv_labels_india_microsoft", tmp_path_factory.mktemp("india")
    connection = ducklake.connect(root / "lake.ducklake", data_path=root / "lake", create=True)
    farms = folder / "solar_farms_india_2021_merged_simplified.geojson"
    connection.execute("CREATE TABLE lake.farms AS SELECT fid, State, Area, geom FROM ST_Read(?)", [str(farms)])
    connection.execute(
        "CREATE TABLE lake.registry AS SELECT 'r' || fid AS id, 2015 + fid % 7 AS year, "
        "ST_AsText(ST_Affine(geom, 1, 0, 0, 1, 0.0004 * (fid % 9), 0)) AS wkt "
        "FROM lake.farms WHERE ST_IsValid(geom) ORDER BY fid LIMIT ?",
        [COPIES],
    )
    connection.close()
    (root / "vhr").mkdir()
    transform = from_bounds(68, 6, 98, 37, 30, 31)
    options = {"driver": "GTiff", "count": 3, "height": 31, "width": 30, "dtype": "uint8", "crs": "EPSG:4326"}
    with rasterio.open(root / "vhr" / "country.tif", "w", transform=transform, **options) as raster:
        raster.write(np.full((3, 31, 30), 90, np.uint8))
    settings = {
        "catalog": str(root / "lake.ducklake"),
        "labels": [
            {"table": "farms", "id": "fid", "geometry": "geom", "area_m2": "Area", "dataset_name": "microsoft"},
            {"table": "registry", "id": "id", "geometry": "wkt", "installed_on": "year"},
        ],
        "deduplication": {"min_overlap": 0.3, "priority": ["microsoft"]},
        "datasets": {
            "microsoft": {"licence": "CDLA-Permissive-2.0", "url": "github.com/microsoft/solar-farms-mapping"}
        },
        "vhr": {"source": "local", "root": str(root / "vhr"), "acquired_at": "2021-03-01"},
        "store": str(root / "store"),
        "chip_px": 256,
        "gsd_m": 3.0,
        "max_label_m": LARGEST_M,
        "background_near_ratio": 0.1,
        "background_far_ratio": 0.1,
        "partition_level": 10,
        "split_level": 8,
    }
    return root, folder, settings


@pytest.fixture(scope="module")
def nodes(india):
    """What the plan's nodes say."""
    wanted = [
        "checked_labels",
        "label_failures",
        "labels",
        "label_merges",
        "placement_failures",
        "prompts",
        "chip_plan",
    ]
    driver = drivers.build_driver("build", india[2])
    return driver.execute(wanted)


def farms_of(folder):
    collection = json.loads((folder / "solar_farms_india_2021_merged_simplified.geojson").read_text())
    ids = [feature["properties"]["fid"] for feature in collection["features"]]
    return dict(
        zip(ids, shapely.from_geojson([json.dumps(f["geometry"]) for f in collection["features"]]), strict=True)
    )


def test_every_label_is_accounted_for(nodes, india):
    checked = nodes["checked_labels"]
    farms = pc.starts_with(checked["label_id"], "microsoft/")
    refused = [failure.input_ids[0] for failure in nodes["label_failures"]]
    assert pc.sum(farms).as_py() + sum(name.startswith("microsoft/") for name in refused) == COUNT
    assert len(checked) + len(refused) == COUNT + COPIES
    raw = farms_of(india[1])
    repaired = {row["label_id"]: row["repairs"] for row in checked.select(["label_id", "repairs"]).to_pylist()}
    crossing = {f"microsoft/{fid}" for fid, shape in raw.items() if not shape.is_valid}
    mended = {name for name, repairs in repaired.items() if {"self_crossing", "overlapping_parts"} & set(repairs)}
    assert crossing - set(refused) == mended
    print(f"{len(checked)} kept, {len(refused)} refused, {len(mended)} mended")


def test_geometry_moves_only_where_it_is_mended(nodes, india):
    raw = farms_of(india[1])
    different = 0
    for row in nodes["checked_labels"].select(["label_id", "geometry", "repairs"]).to_pylist():
        dataset, _, name = row["label_id"].partition("/")
        if dataset == "microsoft" and not row["repairs"]:
            different += not shapely.from_wkb(row["geometry"]).equals(raw[int(name)])
    assert different == 0


def test_duplicates_are_those_of_all_pairs(nodes):
    checked = nodes["checked_labels"].select(["label_id", "dataset", "geometry"]).to_pylist()
    shapes = shapely.from_wkb([row["geometry"] for row in checked])
    flat = reproject(shapes, 4326, 6933)
    tree = shapely.STRtree(flat)
    expected: dict[str, tuple[str, float]] = {}
    for a, b in tree.query(flat, predicate="intersects").T:
        if (checked[a]["dataset"], checked[b]["dataset"]) != ("microsoft", "registry"):
            continue
        shared = flat[a].intersection(flat[b]).area
        overlap = shared / (flat[a].area + flat[b].area - shared)
        merged = checked[b]["label_id"]
        if overlap >= 0.3 and overlap > expected.get(merged, ("", 0.0))[1]:
            expected[merged] = (checked[a]["label_id"], overlap)
    found = {row["merged_label_id"]: row["label_id"] for row in nodes["label_merges"].to_pylist()}
    assert found == {merged: kept for merged, (kept, _) in expected.items()}
    assert len(nodes["labels"]) == len(checked) - len(found)
    assert COPIES / 4 < len(found) < COPIES
    print(f"{len(found)} of {COPIES} copies merged; {len(nodes['labels'])} labels left")


def test_merged_years_reach_the_prompts_with_their_origin(nodes):
    filled = [row for row in nodes["prompts"].to_pylist() if row["merged"] and row["dataset"] == "microsoft"]
    assert filled
    for row in filled:
        assert row["installed_on"].year in range(2015, 2022)
        assert any(text.startswith("installed_on from merged label registry/r") for text in row["repairs"])


def test_cells_of_chips_are_those_of_the_reference_libraries(nodes, india):
    plan = nodes["chip_plan"]
    lon, lat = plan["lon"].to_numpy(), plan["lat"].to_numpy()
    leaves = [s2geometry.S2CellId(s2geometry.S2LatLng.FromDegrees(y, x)) for x, y in zip(lon, lat, strict=True)]
    assert plan["partition"].to_pylist() == [leaf.parent(10).id() for leaf in leaves]
    assert plan["split_cell"].to_pylist() == [leaf.parent(8).id() for leaf in leaves]
    cells = drivers.build_driver("build", india[2]).execute(["chip_cells"], overrides={"chip_plan": plan})
    assert cells["chip_cells"]["h3_cell"].to_pylist() == [
        h3.str_to_int(h3.latlng_to_cell(y, x, 10)) for x, y in zip(lon, lat, strict=True)
    ]
    print(f"{len(plan)} chips in {len(set(plan['partition'].to_pylist()))} partitions: 0 cells different")


def test_the_plan_covers_every_usable_label(nodes):
    placed = {failure.input_ids[0] for failure in nodes["placement_failures"]}
    asked = set(nodes["prompts"]["label_id"].to_pylist())
    assert asked | placed == set(nodes["labels"]["label_id"].to_pylist())
    assert all("m across" in failure.message for failure in nodes["placement_failures"])
    roles = nodes["chip_plan"]["chip_role"].to_pylist()
    print(f"{len(asked)} labels on {roles.count('labelled')} chips, {len(placed)} too large, {len(roles)} chips in all")


def test_negatives_lie_on_no_prompt(nodes, india):
    """The publisher's negatives: none is a farm, so none may meet a prompt of the farms by more than a rim."""
    negatives = json.loads((india[1] / "solar_farms_935_random_polygons_epsg4326.geojson").read_text())["features"]
    squares = shapely.from_geojson([json.dumps(feature["geometry"]) for feature in negatives])
    labels = shapely.from_wkb(nodes["labels"]["geometry"].to_numpy())
    small = labels[np.ptp(shapely.bounds(labels)[:, [0, 2]], axis=1) < 0.2]
    met = shapely.STRtree(small).query(squares, predicate="intersects")
    print(f"{len(set(met[0].tolist()))} of {len(squares)} negatives meet a label")
    assert len(set(met[0].tolist())) < len(squares) / 10


def test_the_area_of_interest_limits_the_plan(india, nodes):
    _, folder, settings = india
    area = folder / "solar_farms_valid_s2_area.geojson"
    inside = drivers.plan_build(from_mapping(settings | {"aoi": str(area)}))
    shapes = [json.dumps(f["geometry"]) for f in json.loads(area.read_text())["features"]]
    ground = shapely.union_all(shapely.make_valid(shapely.from_geojson(shapes)))
    whole = nodes["chip_plan"].filter(pc.equal(nodes["chip_plan"]["chip_role"], "labelled"))
    wanted = {
        row["uuid"]
        for row in whole.to_pylist()
        if reproject(
            drivers.import_module("dataflows._chips").planned_grid(row, from_mapping(settings).profile).footprint,
            row["epsg"],
            4326,
        ).intersects(ground)
    }
    found = inside.chips.filter(pc.equal(inside.chips["chip_role"], "labelled"))["uuid"].to_pylist()
    assert set(found) == wanted
    assert 0 < len(found) < len(whole)


def test_the_check_shows_what_would_be_read(india, tmp_path, capsys):
    _, folder, settings = india
    file = tmp_path / "flow.yaml"
    shutil.copy(folder / "solar_farms_india_2021_merged_simplified.geojson", tmp_path / "farms.geojson")
    labels = [{"file": "farms.geojson", "id": "fid", "area_m2": "Area"}]
    flow = {key: value for key, value in settings.items() if key not in ("catalog", "datasets")} | {"labels": labels}
    file.write_text(json.dumps(flow))
    code = main(["labels", "check", "--config", str(file), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code in (0, 3)
    assert json.dumps(report).count("self_crossing") >= 1
