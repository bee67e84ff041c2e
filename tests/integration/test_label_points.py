"""Labels with points on and off the object: from the lake to prompts, chips, generations and the labels check."""

import json

import numpy as np
import pyproj
import pytest
import shapely

from dataflows import drivers
from dataflows.__main__ import main
from dataflows.config import from_mapping
from dataflows.generation_plan import plan_generation
from store import ducklake, lance_io
from support import mini_region
from utils.geo import reproject

SMALL = {"chip_px": 64, "halo_px": 16, "msi_px": 16, "commit_every": 8}
BOX = mini_region.pv_boxes()[0]
WEST, SOUTH, EAST, NORTH = BOX.bounds
ON = [(WEST + 2.0, SOUTH + 2.5), (EAST - 3.25, NORTH - 1.0)]
OFF = [(WEST - 4.0, SOUTH + 1.0)]


@pytest.fixture
def region(tmp_path):
    """The mini region, its labels with two more columns: points in the label's CRS, one of them as WKT."""
    region = mini_region.make(tmp_path / "region", **SMALL)
    region.settings["labels"] = [
        {"table": "pv", "id": "id", "geometry": "geometry", "positive_points": "on_it", "negative_points": "off_it"}
    ]
    change(
        region,
        "ALTER TABLE lake.pv ADD COLUMN on_it GEOMETRY",
        "ALTER TABLE lake.pv ADD COLUMN off_it VARCHAR",
        f"UPDATE lake.pv SET on_it = ST_GeomFromText('{lonlat(ON)}'), off_it = '{lonlat(OFF)}' WHERE id = '0'",
    )
    (region.root / "flow.json").write_text(json.dumps(region.settings))
    return region


def lonlat(points):
    return reproject(shapely.MultiPoint(points), mini_region.EPSG, 4326).wkt


def change(region, *statements):
    with ducklake.connect(
        region.settings["catalog"], data_path=region.root / "labels.files", create=True
    ) as connection:
        for statement in statements:
            connection.execute(statement)


def command(region, name, *more):
    return main([name, "--config", str(region.root / "flow.json"), *more])


def built(region, capsys, code=0):
    capsys.readouterr()
    assert command(region, "run", "--json") == code
    return json.loads(capsys.readouterr().out)


def prompts(region, where=None):
    columns = ["prompt_id", "uuid", "label_id", "kind", "positive_points", "negative_points"]
    return lance_io.scan(region.settings["store"], "prompts", columns, where).to_pylist()


def test_points_travel_from_the_lake_to_the_chip(region, capsys):
    built(region, capsys)
    to_lonlat = pyproj.Transformer.from_crs(mini_region.EPSG, 4326, always_xy=True)
    for row in prompts(region):
        if row["label_id"] != "pv/0":
            assert (row["positive_points"], row["negative_points"]) == (None, None)
            continue
        for name, wanted in (("positive_points", ON), ("negative_points", OFF)):
            found = shapely.from_wkb(row[name])
            assert found.geom_type == "MultiPoint"
            np.testing.assert_allclose(
                shapely.get_coordinates(found), [to_lonlat.transform(*point) for point in wanted], rtol=0, atol=1e-12
            )
    config = from_mapping(region.settings)
    build = drivers.plan_build(config)
    seen = drivers.build_driver("build", config).execute(
        ["chip_prompts", "vhr_chips"],
        inputs={"since_snapshot": None},
        overrides={"chip_plan": build.chips, "prompts": build.prompts},
    )
    mine = [one for found in seen["chip_prompts"].values() for one in found if one.label_id == "pv/0"]
    assert len(mine) >= 1
    for one in mine:
        np.testing.assert_allclose(one.positive, ON, rtol=0, atol=1e-6)
        np.testing.assert_allclose(one.negative, OFF, rtol=0, atol=1e-6)
    others = [one for found in seen["chip_prompts"].values() for one in found if one.label_id != "pv/0"]
    assert {(one.positive, one.negative) for one in others} == {((), ())}
    # a later generation asks with the points the store holds
    driver = drivers.build_driver("masks", config)
    plan = plan_generation(config, driver.execute(["vhr_scenes"])["vhr_scenes"], mask_recipe="other", generation=1)
    again = driver.execute(["chip_prompts"], inputs={"chip_plan": plan.pending, "prompts": plan.prompts})[
        "chip_prompts"
    ]
    asked = {one.prompt_id: (one.positive, one.negative) for found in again.values() for one in found}
    assert asked == {
        one.prompt_id: (one.positive, one.negative) for found in seen["chip_prompts"].values() for one in found
    }


def test_points_that_change_make_their_chips_again_and_no_others(region, capsys):
    built(region, capsys)
    asked = {row["uuid"] for row in prompts(region, "label_id = 'pv/0'")}
    assert built(region, capsys)["chips_pending"] == 0
    change(region, f"UPDATE lake.pv SET off_it = '{lonlat([(WEST - 5.0, SOUTH + 1.0)])}' WHERE id = '0'")
    again = built(region, capsys)
    assert (again["chips_pending"], again["chips_made"]) == (len(asked), len(asked))
    change(region, "UPDATE lake.pv SET on_it = NULL, off_it = NULL WHERE id = '0'")
    assert built(region, capsys)["chips_made"] == len(asked)
    assert {row["positive_points"] for row in prompts(region)} == {None}


def test_columns_that_are_null_change_no_chip(region, capsys):
    change(region, "UPDATE lake.pv SET on_it = NULL, off_it = NULL")
    plain = {**region.settings, "labels": [{"table": "pv", "id": "id", "geometry": "geometry"}]}
    both = [drivers.plan_build(from_mapping(settings)).chips for settings in (plain, region.settings)]
    keys = [dict(zip(chips["uuid"].to_pylist(), chips["input_set"].to_pylist(), strict=True)) for chips in both]
    assert keys[0] == keys[1]
    assert built(region, capsys)["chips_failed"] == 0


def test_bad_points_are_errors_and_other_labels_go_on(region, capsys):
    change(
        region,
        "UPDATE lake.pv SET off_it = 'LINESTRING(8 47, 9 47)' WHERE id = '1'",
        "UPDATE lake.pv SET off_it = 'MULTIPOINT((NaN 47))' WHERE id = '2'",
    )
    done = built(region, capsys, code=3)
    assert done["inputs_failed"] == 2
    rows = lance_io.scan(region.settings["store"], "errors", ["input_ids", "error_type", "node", "message"]).to_pylist()
    assert sorted(row["input_ids"][0] for row in rows) == ["pv/1", "pv/2"]
    assert {(row["error_type"], row["node"]) for row in rows} == {("GeometryError", "label_check")}
    assert all("negative_points" in row["message"] for row in rows)
    assert {row["label_id"] for row in prompts(region)} == {"pv/0", "pv/3", "pv/4"}


def test_labels_check_shows_them(region, capsys):
    assert main(["labels", "check", "--config", str(region.root / "flow.json"), "--json"]) == 0
    [source] = json.loads(capsys.readouterr().out)["sources"]
    assert (source["points"], source["with_points"]) == ({"positive": 2, "negative": 1}, {"positive": 1, "negative": 1})
    assert source["mapped"]["positive_points"] == "on_it"
    assert main(["labels", "check", "--config", str(region.root / "flow.json")]) == 0
    assert "2 positive on 1 labels, 1 negative on 1 labels" in capsys.readouterr().out
    change(region, "UPDATE lake.pv SET off_it = 'POLYGON((8 47, 9 47, 9 48, 8 47))' WHERE id = '1'")
    assert main(["labels", "check", "--config", str(region.root / "flow.json"), "--json"]) == 3
    [source] = json.loads(capsys.readouterr().out)["sources"]
    assert source["refusals"]["bad_points"]["examples"] == ["pv/1"]


def test_columns_of_another_crs_or_type_are_refused(region, capsys):
    region.settings["labels"][0]["negative_points"] = "nosuch"
    (region.root / "flow.json").write_text(json.dumps(region.settings))
    assert command(region, "plan") == 2
    assert "nosuch" in capsys.readouterr().err
    change(region, "ALTER TABLE lake.pv ADD COLUMN number INTEGER")
    region.settings["labels"][0]["negative_points"] = "number"
    (region.root / "flow.json").write_text(json.dumps(region.settings))
    assert command(region, "plan") == 2
    assert "negative_points are GEOMETRY" in capsys.readouterr().err


def test_a_multipoint_label_keeps_all_its_points(tmp_path, capsys):
    region = mini_region.make(tmp_path / "region", **SMALL)
    change(region, f"UPDATE lake.pv SET geometry = ST_GeomFromText('{lonlat(ON)}') WHERE id = '0'")
    (region.root / "flow.json").write_text(json.dumps(region.settings))
    built(region, capsys)
    mine = prompts(region, "label_id = 'pv/0'")
    assert {row["kind"] for row in mine} == {"point"}
    for row in mine:
        again = reproject(shapely.from_wkb(row["positive_points"]), 4326, mini_region.EPSG)
        np.testing.assert_allclose(shapely.get_coordinates(again), ON, rtol=0, atol=1e-6)
