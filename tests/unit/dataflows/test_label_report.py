"""`labels check`: counts that add up, findings with examples, exit codes, and what a run then does."""

import csv
import json

import pytest
import shapely

from dataflows import drivers, label_report
from dataflows.__main__ import main
from dataflows.config import load
from store import ducklake_labels, lance_io, lineage
from support import mini_region
from utils.geo import h3_cells

ROWS = [
    ("1", "d", "POLYGON((8 47,8.1 47,8.1 47.1,8 47.1,8 47))", "2018", "5"),
    ("2", "d", "POLYGON((8 47,8.1 47.1,8.1 47,8 47.1,8 47))", "2019-05-01", "x"),
    ("3", "e", "POINT(47 109)", "soon", ""),
    ("4", "e", "junk", "", ""),
    ("5", "e", "", "", ""),
    ("", "e", "POINT(8 47)", "", ""),
    ("1", "d", "POINT(8 47)", "", ""),
    ("6", "d", "LINESTRING(8 47,9 47)", "", ""),
]


@pytest.fixture
def settings(tmp_path):
    cell = f"{int(h3_cells([8.05], [47.05], 8)[0]):x}"
    with (tmp_path / "pv.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["unified_id", "dataset_name", "geometry", "install_date", "area_m2", "h3_index", "Latitude"])
        rows.writerows([*row, cell if row[0] == "1" else "", ""] for row in ROWS)
    (tmp_path / "flow.yaml").write_text("labels: [{file: pv.csv}]\ndatasets: {d: {doi: 10.1/d, licence: CC0-1.0}}\n")
    return tmp_path / "flow.yaml"


def checked(capsys, settings, *more):
    code = main(["labels", "check", "--config", str(settings), "--json", *more])
    return code, json.loads(capsys.readouterr().out)


def test_counts_add_up_and_name_examples(settings, capsys):
    code, report = checked(capsys, settings)
    [source] = report["sources"]
    assert code == report["exit_code"] == 3
    assert source["rows"] == source["read"] == len(ROWS) == source["kept"] + source["refused"] + source["outside"]
    assert {reason: (found["count"], found["examples"]) for reason, found in source["refusals"].items()} == {
        "unparsable": (1, ["e/4"]),
        "missing": (1, ["e/5"]),
        "no_id": (1, ["(no id)"]),
        "duplicate_id": (1, ["d/1"]),
        "line": (1, ["d/6"]),
    }
    assert {code: found["count"] for code, found in source["repairs"].items()} == {
        "self_crossing": 1, "area_changed": 1, "swapped_axes": 1, "installed_on_unreadable": 1, "area_m2_unreadable": 1,
    }  # fmt: skip
    assert (source["preset"], source["crs"], source["dated"]) == ("ice_melt", "EPSG:4326", 2)
    assert source["installed"] == ["2018-01-01", "2019-05-01"]
    assert source["datasets"] == {"d": 2, "e": 1}
    assert source["kinds"] == {"box": 1, "polygon": 1, "point": 1}
    assert source["h3_mismatches"] == 0
    assert {name: found["origin"] for name, found in report["manifests"].items()} == {"d": "settings", "e": "unknown"}


def test_the_terminal_shows_what_the_json_says(settings, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["labels", "check", "--config", str(settings), "--explain"]) == 3
    shown = capsys.readouterr().out
    for words in ("pv.csv", "preset ice_melt", "self_crossing", "duplicate_id", "e/4", "doi:10.1/d", "CC0-1.0",
                  "dataset e: DOI, licence and citation unknown", "3 labels would be used, 5 would end in errors",
                  "READ_CSV"):  # fmt: skip
        assert words in shown


def test_a_priority_nobody_answers_to_is_told(settings, capsys):
    with settings.open("a") as file:
        file.write("deduplication: {priority: [d, misspelt]}\n")
    assert checked(capsys, settings)[1]["priority_without_labels"] == ["misspelt"]
    main(["labels", "check", "--config", str(settings)])
    assert "deduplication.priority names misspelt" in " ".join(capsys.readouterr().out.split())


def test_exit_codes(settings, capsys):
    assert checked(capsys, settings, "--limit", "2")[0] == 0
    code, report = checked(
        capsys, settings, "--set", "labels=[{file: no.csv}, {file: " + str(settings.parent) + "/pv.csv}]"
    )
    assert code == 2
    assert "no label file" in report["sources"][0]["problem"]
    assert report["sources"][1]["kept"] == 3
    assert main(["labels", "check", "--config", str(settings), "--set", "labels=[]"]) == 2
    with pytest.raises(SystemExit):
        main(["labels", "check", "--config", str(settings), "--limit", "0"])


def test_an_area_leaves_out_and_counts_what_swapping_would_bring(settings, capsys):
    code, report = checked(capsys, settings, "--set", "aoi_bbox_lonlat=[46, 7, 48, 9]")
    [source] = report["sources"]
    assert source["kept"] == 0
    assert source["in_area_if_swapped"] == 5
    assert source["rows"] == 8
    assert code == 3


def test_batches_do_not_change_the_counts(settings, monkeypatch):
    config = load(settings, labels_only=True)
    whole = label_report.label_report(config).values()
    monkeypatch.setattr(ducklake_labels, "BATCH_ROWS", 2)
    assert label_report.label_report(config).values() == whole


def test_real_labels_read_well(real_data, tmp_path, capsys):
    folder = real_data / "pv_labels_india_microsoft"
    labels = [
        {"file": str(folder / "solar_farms_india_2021_merged_simplified.geojson"), "id": "fid", "area_m2": "Area"}
    ]
    (tmp_path / "flow.yaml").write_text(json.dumps({"labels": labels}))
    code, report = checked(capsys, tmp_path / "flow.yaml")
    [source] = report["sources"]
    assert code == 0
    assert source["rows"] == source["kept"] == 1363
    assert source["geometry_types"] == {"MultiPolygon": 1363}
    area = folder / "solar_farms_valid_s2_area.geojson"
    _, inside = checked(capsys, tmp_path / "flow.yaml", "--set", f"aoi={area}")
    found = json.loads((folder / "solar_farms_india_2021_merged_simplified.geojson").read_text())["features"]
    shapes = shapely.make_valid([shapely.from_geojson(json.dumps(f["geometry"])) for f in found])
    aoi = shapely.union_all(
        [shapely.from_geojson(json.dumps(f["geometry"])) for f in json.loads(area.read_text())["features"]]
    )
    touching = int(shapely.intersects(aoi, shapes).sum())
    # the area grows by what chips may reach beyond it
    assert touching <= inside["sources"][0]["kept"] <= touching + 5


def test_a_build_without_a_lakehouse(tmp_path):
    """Files alone make chips, with file provenance and a dataset that can be cited."""
    region = mini_region.make(tmp_path / "region")
    shapes = [mini_region.reproject(box, mini_region.EPSG, 4326) for box in mini_region.pv_boxes()]
    features = [
        {
            "type": "Feature",
            "properties": {"name": str(k), "mw": 0.5},
            "geometry": json.loads(shapely.to_geojson(shape)),
        }
        for k, shape in enumerate(shapes)
    ]
    file = tmp_path / "pv.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    changed = {
        "labels": [{"file": str(file), "id": "name", "capacity_mw": "mw"}],
        "store": str(tmp_path / "files"),
        "datasets": {"pv": {"doi": "10.1/pv", "licence": "CC0-1.0"}},
    }
    from_lake = drivers.run("build", region.settings)
    without = {key: value for key, value in region.settings.items() if key != "catalog"}
    summary = drivers.run("build", without | changed)
    assert summary.exit_code == 0
    assert summary.chips_written == from_lake.chips_written > 0
    prompts = lance_io.scan(changed["store"], "prompts", ["label_snapshot", "label_table", "label_catalog"]).to_pylist()
    assert {row["label_snapshot"] for row in prompts} == {None}
    assert {row["label_table"] for row in prompts} == {f"file:{file}"}
    [run] = lance_io.scan(changed["store"], "runs", ["inputs"]).to_pylist()
    assert list(json.loads(run["inputs"])["label_files"]) == [str(file)]
    chips = lance_io.scan(changed["store"], "training_data", ["uuid"], "chip_role = 'labelled'")["uuid"].to_pylist()
    chain = lineage.explain(changed["store"], chips[0])
    assert chain["datasets"]["pv"]["doi"] == "10.1/pv"
    assert drivers.run("build", without | changed).chips_written == 0
