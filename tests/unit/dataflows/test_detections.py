"""Objects of a search raster: never cut by blocks, exact against rasterio on the whole raster."""

import math

import numpy as np
import pyarrow as pa
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Geod
from rasterio.features import rasterize, shapes
from scipy import ndimage
from shapely.geometry import shape

from dataflows.detections import DetectionRule, detection_table, found_objects
from dataflows.outline_validation import outline_shapes
from store.discovery_schemas import DETECTIONS
from support.detection_rasters import DAY, HeldParts, raster_of
from utils.errors import ConfigError, CRSError, SearchError
from utils.geo import h3_cells, reproject, reproject_points, s2_cells, s2_parents
from utils.types import ChipGrid

EXACT = DetectionRule(min_area_m2=0.0, simplify_px=0.0, rectangularise=False)
EIGHT = np.ones((3, 3), int)


def blobs(seed: int, shape: tuple[int, int], share: float = 0.4, smooth: float = 1.5) -> NDArray[np.uint8]:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    ranks = field.argsort(axis=None).argsort().reshape(shape) / field.size
    data = np.clip(np.rint((ranks - (1 - share)) / share * 127 + 127), 0, 254).astype(np.uint8)
    data[np.random.default_rng(seed + 1).random(shape) < 0.01] = 255
    return data


def oracle(data: NDArray[np.uint8], least: int) -> list[tuple[int, shapely.Geometry]]:
    """First pixel and polygon of each object of the whole raster, by scipy and rasterio."""
    labels, _ = ndimage.label((data >= least) & (data != 255), structure=EIGHT)
    found: dict[int, list[shapely.Geometry]] = {}
    for polygon, value in shapes(labels.astype(np.int32), mask=labels > 0, connectivity=4, transform=Affine.identity()):
        found.setdefault(int(value), []).append(shape(polygon))
    return [(int(np.flatnonzero(labels == label)[0]), shapely.union_all(parts)) for label, parts in found.items()]


def in_pixels(wkb: bytes, raster: ChipGrid) -> shapely.Geometry:
    ground = reproject(shapely.from_wkb(wkb), 4326, raster.epsg)
    return shapely.set_precision(shapely.transform(ground, lambda xy: np.column_stack(~raster.affine @ xy.T)), 1e-4)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    block_px=st.integers(1, 40),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    share=st.floats(0.05, 0.95),
    smooth=st.floats(0.3, 3),
)
def test_objects_are_those_of_the_whole_raster(seed, block_px, rows, columns, share, smooth) -> None:
    data = blobs(seed, (rows, columns), share, smooth)
    parts = HeldParts(data=data, block_px=block_px)
    found = found_objects(parts, parts.raster, parts.blocks, EXACT)
    expected = dict(oracle(data, 127))
    first = [row["row"] * columns + row["column"] for row in found.to_pylist()]
    assert sorted(expected) == first
    for key, row in zip(first, found.to_pylist(), strict=True):
        outline = in_pixels(row["outline"], parts.raster)
        assert outline.symmetric_difference(expected[key]).area < 1e-2
        assert row["pixels"] == expected[key].area
    labels, count = ndimage.label((data >= 127) & (data != 255), structure=EIGHT)
    for row in found.to_pylist():
        values = data[labels == labels[row["row"], row["column"]]]
        assert row["score"] == pytest.approx(values.mean() / 254)
        assert row["score_p90"] == pytest.approx(np.percentile(values, 90, method="inverted_cdf") / 254)
    assert count == len(found)


@pytest.mark.parametrize("rule", [DetectionRule(), DetectionRule(seed_threshold=0.8), EXACT])
def test_rows_do_not_depend_on_the_size_of_blocks(rule) -> None:
    data = blobs(3, (90, 130), 0.3, 2.5)
    whole = HeldParts(data=data, block_px=200)
    wanted = found_objects(whole, whole.raster, whole.blocks, rule).drop_columns(["block_id", "scene_ids"])
    for block_px in (7, 32, 64):
        parts = HeldParts(data=data, block_px=block_px)
        found = found_objects(parts, parts.raster, parts.blocks, rule)
        assert found.drop_columns(["block_id", "scene_ids"]).equals(wanted)
        assert found["scene_ids"].to_pylist() == [[f"scene of {block}"] for block in found["block_id"].to_pylist()]


def test_seed_threshold_keeps_whole_objects_that_reach_it() -> None:
    data = np.zeros((20, 60), np.uint8)
    data[5:15, 5:25] = 150
    data[5:15, 35:55] = 150
    data[8, 36] = 240
    parts = HeldParts(data=data)
    found = found_objects(parts, parts.raster, parts.blocks, DetectionRule(seed_threshold=0.9))
    assert found["pixels"].to_pylist() == [200]
    assert found["column"].to_pylist() == [35]


def test_an_object_over_four_blocks_is_one_and_two_where_a_block_is_missing() -> None:
    data = np.zeros((32, 48), np.uint8)
    data[10:22, 4:44] = 200
    whole = HeldParts(data=data)
    [row] = found_objects(whole, whole.raster, whole.blocks, EXACT).to_pylist()
    assert (row["row"], row["column"], row["pixels"], row["block_id"]) == (10, 4, 480, "r00000-c00000")
    gap = HeldParts(data=data, missing={"r00000-c00001", "r00001-c00001"})
    assert found_objects(gap, gap.raster, gap.blocks, EXACT)["pixels"].to_pylist() == [144, 144]
    corner = HeldParts(data=data, missing={"r00000-c00001"})
    assert found_objects(corner, corner.raster, corner.blocks, EXACT)["pixels"].to_pylist() == [480 - 96]


def test_a_missing_row_of_blocks_parts_what_is_above_and_below() -> None:
    data = np.full((48, 16), 200, np.uint8)
    parts = HeldParts(data=data, missing={"r00001-c00000"})
    assert found_objects(parts, parts.raster, parts.blocks, EXACT)["row"].to_pylist() == [0, 32]


@pytest.mark.parametrize("corner", [(15, 15, 16, 16), (15, 16, 16, 15)])
def test_corners_touch_across_blocks_and_the_outline_is_valid(corner) -> None:
    data = np.zeros((32, 32), np.uint8)
    data[corner[0], corner[1]] = data[corner[2], corner[3]] = 200
    parts = HeldParts(data=data)
    found = found_objects(parts, parts.raster, parts.blocks, EXACT)
    outline = shapely.from_wkb(found["outline"][0].as_py())
    assert len(found) == 1
    assert outline.is_valid
    assert shapely.get_num_geometries(outline) == 2


def test_holes_and_nodata_stay_holes() -> None:
    data = np.zeros((40, 40), np.uint8)
    data[5:35, 5:35] = 200
    data[12:20, 12:20] = 255
    data[25:27, 25:27] = 10
    parts = HeldParts(data=data)
    for rule in (EXACT, DetectionRule()):
        [row] = found_objects(parts, parts.raster, parts.blocks, rule).to_pylist()
        outline = shapely.from_wkb(row["outline"])
        assert len(outline.interiors) == 2
        assert row["pixels"] == 900 - 64 - 4


def test_nothing_found_is_an_empty_table() -> None:
    parts = HeldParts(data=np.full((40, 40), 255, np.uint8))
    found = found_objects(parts, parts.raster, parts.blocks, DetectionRule())
    none = HeldParts(data=np.zeros((0, 0), np.uint8))
    assert len(found) == len(found_objects(none, parts.raster, [], DetectionRule())) == 0
    rows = detection_table(found, search_id="s", model_id="m", model="m.ckpt", run_id="r", gsd_m=0.5, h3_resolution=10)
    assert rows.schema == DETECTIONS
    assert len(rows) == 0


def test_threshold_is_met_by_equal_probabilities() -> None:
    data = np.array([[127, 126, 0, 254]], np.uint8)
    parts = HeldParts(data=data)
    found = found_objects(parts, parts.raster, parts.blocks, EXACT)
    assert found["column"].to_pylist() == [0, 3]
    certain = DetectionRule(threshold=1.0, min_area_m2=0, simplify_px=0, rectangularise=False)
    assert found_objects(parts, parts.raster, parts.blocks, certain)["column"].to_pylist() == [3]


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), simplify_px=st.floats(0, 1), rectangularise=st.booleans())
def test_regularised_outlines_are_valid_near_their_pixels_and_hold_their_point(
    seed, simplify_px, rectangularise
) -> None:
    data = blobs(seed, (60, 60), 0.35, 2.0)
    parts = HeldParts(data=data)
    rule = DetectionRule(min_area_m2=1.0, simplify_px=simplify_px, rectangularise=rectangularise)
    found = found_objects(parts, parts.raster, parts.blocks, rule)
    rows = detection_table(
        found, search_id="s", model_id="m", model="m.ckpt", run_id="r", gsd_m=0.5, h3_resolution=10
    ).to_pylist()
    geod = Geod(ellps="WGS84")
    exact = dict(oracle(data, 127))
    for row, object_ in zip(rows, found.to_pylist(), strict=True):
        outline = shapely.from_wkb(row["outline"])
        assert outline.is_valid
        assert outline.covers(shapely.Point(row["lon"], row["lat"]))
        area = sum(abs(geod.geometry_area_perimeter(part)[0]) for part in shapely.get_parts(outline))
        assert row["area_m2"] == pytest.approx(area, rel=1e-3)
        assert row["area_m2"] >= 1
        if not rectangularise:
            pixels = in_pixels(row["outline"], parts.raster)
            traced = exact[object_["row"] * 60 + object_["column"]]
            assert shapely.hausdorff_distance(traced, pixels) <= simplify_px + 0.01


def test_slanted_rectangles_come_back_as_rectangles() -> None:
    truth = shapely.affinity.rotate(shapely.box(20, 30, 70, 55), 27)
    data = rasterize([truth], (90, 90)).astype(np.uint8) * 230
    parts = HeldParts(data=data)
    [row] = found_objects(parts, parts.raster, parts.blocks, DetectionRule()).to_pylist()
    outline = in_pixels(row["outline"], parts.raster)
    assert shapely.get_num_coordinates(outline) == 5
    assert outline.intersection(truth).area / outline.union(truth).area > 0.97


def test_an_array_at_the_edge_of_the_raster_stays_inside_it() -> None:
    data = rasterize([shapely.affinity.rotate(shapely.box(-12, 20, 30, 45), 20)], (60, 60)).astype(np.uint8) * 230
    parts = HeldParts(data=data)
    whole = HeldParts(data=np.pad(data, 20))
    [row] = found_objects(parts, parts.raster, parts.blocks, DetectionRule()).to_pylist()
    [padded] = found_objects(whole, whole.raster, whole.blocks, DetectionRule()).to_pylist()
    assert in_pixels(padded["outline"], whole.raster).bounds[0] < 20 - 0.1
    assert in_pixels(row["outline"], parts.raster).bounds[0] >= -1e-3
    assert (row["row"], row["column"], row["pixels"]) == (padded["row"] - 20, padded["column"] - 20, padded["pixels"])


def test_an_array_across_the_antimeridian_has_a_part_on_either_side() -> None:
    data = np.zeros((60, 60), np.uint8)
    data[20:40, 10:50] = 230
    x, y = reproject_points([(180.0, -17.0)], 4326, 32701)[0]
    raster = ChipGrid(epsg=32701, transform=(0.5, 0.0, x - 15, 0.0, -0.5, y + 15), height=60, width=60)
    parts = HeldParts(data=data, grid=raster)
    objects = found_objects(parts, raster, parts.blocks, DetectionRule())
    [row] = detection_table(
        objects, search_id="s", model_id="m", model="m.ckpt", run_id="r", gsd_m=0.5, h3_resolution=10
    ).to_pylist()
    outline = shapely.from_wkb(row["outline"])
    west, east = sorted(shapely.get_parts(outline), key=lambda part: part.bounds[0])
    assert outline.is_valid
    assert (west.bounds[0], east.bounds[2]) == (-180, 180)
    assert row["area_m2"] == pytest.approx(200, rel=5e-3)
    assert outline.covers(shapely.Point(row["lon"], row["lat"]))
    table = pa.table({"detection_id": ["a"], "lon": [row["lon"]], "lat": [row["lat"]]})
    assert outline_shapes(table, {"a": outline}, ["a"])["a"]["length_m"] == pytest.approx(20, rel=5e-3)


def test_rows_carry_the_search_and_its_cells() -> None:
    data = np.zeros((40, 40), np.uint8)
    data[5:15, 5:15] = 200
    parts = HeldParts(data=data)
    objects = found_objects(parts, parts.raster, parts.blocks, DetectionRule())
    told = {"model_id": "m", "model": "m.ckpt", "run_id": "r", "gsd_m": 0.5, "h3_resolution": 10}
    table = detection_table(objects, search_id="s", **told)
    [row] = table.to_pylist()
    assert table.schema == DETECTIONS
    table.validate(full=True)
    leaf = s2_cells(row["lon"], row["lat"], 30)
    assert row["s2_cell"] == leaf[0]
    assert row["s2_l10"] == s2_parents(leaf, 10)[0]
    assert row["s2_l13"] == s2_parents(leaf, 13)[0]
    assert row["h3_cell"] == h3_cells(row["lon"], row["lat"], 10)[0]
    assert (row["match"], row["verdict"], row["epsg"], row["acquired_at"]) == ("new", None, 32632, DAY)
    assert row["area_m2"] == pytest.approx(25, rel=2e-3)
    assert detection_table(objects, search_id="s", **told)["detection_id"] == table["detection_id"]
    assert detection_table(objects, search_id="t", **told)["detection_id"] != table["detection_id"]


def test_small_objects_go_and_too_many_are_refused() -> None:
    data = np.zeros((64, 64), np.uint8)
    data[::4, ::4] = 200
    data[2:12, 2:12] = 200
    parts = HeldParts(data=data)
    found = found_objects(parts, parts.raster, parts.blocks, DetectionRule(min_area_m2=2.0))
    assert len(found) == 1
    with pytest.raises(SearchError, match="more than 100 objects"):
        found_objects(parts, parts.raster, parts.blocks, DetectionRule(min_area_m2=0, max_objects=100))


def test_pixels_must_be_squares() -> None:
    parts = HeldParts(data=np.zeros((4, 4), np.uint8))
    flat = ChipGrid(epsg=32632, transform=(0.5, 0, 465_000, 0, -0.4, 5_250_000), height=4, width=4)
    with pytest.raises(CRSError, match="square"):
        found_objects(parts, flat, parts.blocks, DetectionRule())
    turned = Affine.rotation(30) @ Affine.scale(0.5, -0.5)
    grid = ChipGrid(
        epsg=32632, transform=(turned.a, turned.b, 465_000, turned.d, turned.e, 5_250_000), height=4, width=4
    )
    assert math.isclose(grid.gsd_m, raster_of(parts.data).gsd_m)
    assert len(found_objects(parts, grid, parts.blocks, DetectionRule())) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.0},
        {"threshold": 1.5},
        {"threshold": 0.5, "seed_threshold": 0.4},
        {"min_area_m2": -1.0},
        {"min_area_m2": math.nan},
        {"simplify_px": 1.5},
        {"rectangle_iou": 0.1},
        {"max_objects": 0},
    ],
)
def test_rules_that_cannot_be_followed_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        DetectionRule(**wrong)
