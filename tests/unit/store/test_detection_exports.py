"""Exports of detections, read back by other readers."""

import json
import math

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from shapely.geometry import shape

from dataflows.detections import DetectionRule, detection_table, found_objects
from store import ducklake
from store.detection_exports import TILE_PROPERTIES, export_detections, format_of, least_zoom
from support.detection_rasters import HeldParts
from utils.errors import ConfigError, SearchError


@pytest.fixture(scope="module")
def rows():
    data = np.zeros((64, 64), np.uint8)
    data[5:15, 5:20] = 200
    data[8:11, 8:11] = 0
    data[30:32, 30:32] = data[32:34, 32:34] = 220
    data[40:60, 40:60] = 240
    parts = HeldParts(data=data)
    rule = DetectionRule(min_area_m2=1, rectangularise=False, simplify_px=0)
    objects = found_objects(parts, parts.raster, parts.blocks, rule)
    return detection_table(
        objects, search_id="s1", model_id="m", model="m.ckpt", run_id="r", gsd_m=0.5, h3_resolution=10
    )


@pytest.fixture
def spatial():
    with ducklake.connect(None) as connection:
        yield connection


def test_geoparquet_is_read_by_duckdb_with_its_crs_and_boxes(rows, spatial, tmp_path) -> None:
    file = export_detections(rows, tmp_path / "out" / "d.parquet")
    geo = json.loads(pq.read_schema(file).metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert (geo["version"], geo["primary_column"], column["encoding"]) == ("1.1.0", "geometry", "WKB")
    assert column["geometry_types"] == ["MultiPolygon", "Polygon"]
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    # no `crs` is OGC:CRS84 by the specification
    assert "crs" not in column
    query = (
        f"SELECT detection_id, typeof(geometry) AS kind, ST_AsWKB(geometry)::BLOB AS wkb,"
        " ST_IsValid(geometry) AS valid,"
        f" bbox.xmin, bbox.ymax, s2_cell, scene_ids FROM '{file}' ORDER BY detection_id"
    )
    read = spatial.execute(query).to_arrow_table().to_pylist()
    wanted = {row["detection_id"]: row for row in rows.to_pylist()}
    assert len(read) == 3
    for row in read:
        known = wanted[row["detection_id"]]
        outline = shapely.from_wkb(row["wkb"])
        assert row["kind"].startswith("GEOMETRY")
        assert row["valid"]
        assert outline.equals(shapely.from_wkb(known["outline"]))
        assert all(part.exterior.is_ccw for part in shapely.get_parts(outline))
        assert (row["xmin"], row["ymax"]) == (outline.bounds[0], outline.bounds[3])
        assert (row["s2_cell"], row["scene_ids"]) == (known["s2_cell"], known["scene_ids"])
    whole = shapely.total_bounds(shapely.from_wkb(rows["outline"].to_numpy()))
    assert column["bbox"] == pytest.approx(whole.tolist())


def test_geojson_keeps_to_rfc_7946(rows, tmp_path) -> None:
    file = export_detections(rows, tmp_path / "d.geojson")
    collection = json.loads(file.read_text())
    wanted = {row["detection_id"]: row for row in rows.to_pylist()}
    assert collection["type"] == "FeatureCollection"
    assert "crs" not in collection
    assert len(collection["features"]) == 3
    for feature in collection["features"]:
        known, outline = wanted[feature["id"]], shape(feature["geometry"])
        assert outline.is_valid
        assert all(part.exterior.is_ccw for part in shapely.get_parts(outline))
        assert outline.symmetric_difference(shapely.from_wkb(known["outline"])).area < 1e-11
        assert feature["properties"]["s2_cell"] == f"{known['s2_cell']:x}"
        assert feature["properties"]["verdict"] is None
        assert "outline" not in feature["properties"]
        text = json.dumps(feature["geometry"])
        assert (
            max(
                len(number.split(".")[1])
                for number in text.replace("]", " ").replace(",", " ").split()
                if "." in number
            )
            <= 7
        )


def test_lines_carry_what_tippecanoe_asks_for(rows, tmp_path) -> None:
    file = export_detections(rows, tmp_path / "d.geojsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 3
    wanted = {row["detection_id"]: row for row in rows.to_pylist()}
    for line in lines:
        known = wanted[line["properties"]["id"]]
        assert set(line["properties"]) <= set(TILE_PROPERTIES.values())
        assert line["tippecanoe"] == {"layer": "detections", "minzoom": least_zoom(known["area_m2"], known["lat"])}
        assert shape(line["geometry"]).is_valid


def test_zooms_follow_size() -> None:
    assert least_zoom(1.0, 47.0) == 14
    zoom = least_zoom(10_000.0, 0.0)
    pixel_m = 156_543.03392804097 / 2**zoom
    assert pixel_m <= 100 < 2 * pixel_m
    assert least_zoom(1e15, 0.0) == 0
    assert math.isfinite(least_zoom(0.0, 89.9))


@pytest.mark.parametrize("name", ["d.parquet", "d.geojson", "d.geojsonl"])
def test_no_detection_is_a_valid_file(rows, spatial, tmp_path, name) -> None:
    file = export_detections(rows.slice(0, 0), tmp_path / name)
    if name == "d.parquet":
        read = spatial.execute(f"SELECT count(*), any_value(ST_Area(geometry)) FROM '{file}'").fetchone()
        assert read == (0, None)
        assert json.loads(pq.read_schema(file).metadata[b"geo"])["columns"]["geometry"]["geometry_types"] == []
    elif name == "d.geojson":
        assert json.loads(file.read_text()) == {"type": "FeatureCollection", "features": []}
    else:
        assert file.read_text() == ""


def test_the_same_rows_make_the_same_file(rows, tmp_path) -> None:
    for name in ("d.parquet", "d.geojson", "d.geojsonl"):
        one, two = (export_detections(rows, tmp_path / folder / name) for folder in ("a", "b"))
        assert one.read_bytes() == two.read_bytes()


def test_places_that_cannot_be_written_are_refused_and_nothing_is_left(rows, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SearchError, match="cannot be written"):
        export_detections(rows, tmp_path / "file" / "d.geojson")
    (tmp_path / "d.geojson").mkdir()
    with pytest.raises(SearchError, match="cannot be written"):
        export_detections(rows, tmp_path / "d.geojson")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.geojson", "file"]
    with pytest.raises(ConfigError, match="no suffix of a known format"):
        format_of(tmp_path / "d.shp")


def test_duckdb_without_extensions_reads_the_boxes(rows, tmp_path) -> None:
    file = export_detections(rows, tmp_path / "d.parquet")
    assert duckdb.connect().execute(f"SELECT count(bbox.xmin) FROM '{file}'").fetchone() == (3,)
