"""Duplicates against an all-pairs oracle (STRtree, pyproj) and the merge rule against a plain loop."""

import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Geod, Transformer
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from utils.deduplication import DeduplicationRule, duplicate_pairs, label_order, merges
from utils.errors import ConfigError, GeometryError

Shapes = NDArray[np.object_]
TO_METRES = Transformer.from_crs(4326, 6933, always_xy=True)


def clustered(count: int, seed: int = 0) -> tuple[Shapes, NDArray[np.int64]]:
    """Hexagon-like outlines from 10 m to 1 km in clusters, each in one of three datasets."""
    random = np.random.default_rng(seed)
    clusters = max(1, count // 60)
    centres = np.column_stack([random.uniform(-170, 170, clusters), random.uniform(-65, 75, clusters)])
    at = centres[random.integers(0, clusters, count)] + random.normal(0, 0.003, (count, 2))
    size = 10 ** random.uniform(-4, -2, count)
    turn = np.sort(random.uniform(0, 2 * np.pi, (count, 6)), axis=1)
    rings = at[:, None] + size[:, None, None] * np.stack([np.cos(turn), np.sin(turn)], -1)
    return shapely.polygons(rings), random.integers(0, 3, count)


def oracle(shapes: Shapes, dataset: NDArray[np.int64], rule: DeduplicationRule) -> dict[tuple[int, int], float]:
    """Duplicates among polygons that stay clear of the antimeridian, by an STRtree over all of them."""
    flat = shapely.transform(shapes, lambda xy: np.column_stack(TO_METRES.transform(*xy.T)))
    first, second = shapely.STRtree(flat).query(flat, predicate="intersects")
    once = first < second
    first, second = first[once], second[once]
    if not rule.within_dataset:
        other = dataset[first] != dataset[second]
        first, second = first[other], second[other]
    shared = shapely.area(shapely.intersection(flat[first], flat[second]))
    area = shapely.area(flat)
    smaller = np.minimum(area[first], area[second])
    overlap = shared / (smaller if rule.overlap == "smaller" else area[first] + area[second] - shared)
    return {
        (int(a), int(b)): float(share)
        for a, b, share in zip(first, second, overlap, strict=True)
        if share >= rule.min_overlap
    }


def found(shapes: Shapes, dataset: NDArray[np.int64], rule: DeduplicationRule) -> dict[tuple[int, int], float]:
    pairs = duplicate_pairs(shapes, dataset, rule)
    keys = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert len(set(keys)) == len(keys)
    assert keys == sorted(keys)
    return dict(zip(keys, pairs.overlap.tolist(), strict=True))


@pytest.mark.parametrize("overlap", ["iou", "smaller"])
@pytest.mark.parametrize("within_dataset", [False, True])
def test_20k_polygons_of_three_datasets_equal_all_pairs(overlap: str, within_dataset: bool) -> None:
    shapes, dataset = clustered(20_000)
    rule = DeduplicationRule(overlap=overlap, min_overlap=0.2, within_dataset=within_dataset)
    expected, got = oracle(shapes, dataset, rule), found(shapes, dataset, rule)
    print(f"{len(expected)} pairs compared, {len(set(expected) ^ set(got))} different")
    assert len(expected) > 1000
    assert set(expected) == set(got)
    assert max(abs(expected[pair] - got[pair]) for pair in expected) < 1e-6


@given(
    st.lists(
        st.tuples(st.floats(-5, 5), st.floats(-1, 1), st.floats(-6, 1.3), st.floats(0.1, 10), st.integers(0, 2)),
        min_size=2,
        max_size=12,
    ),
    st.floats(-89, 89),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_boxes_of_any_size_anywhere(
    rows: list[tuple[float, float, float, float, int]], lat0: float, within: bool
) -> None:
    """From a decimetre to twenty degrees, stretched, up to the poles, touching or equal."""
    shapes = []
    for dx, dy, size, stretch, _ in rows:
        half = 10**size / 2
        south, north = np.clip((lat0 + dy - half, lat0 + dy + half), -90, 90)
        shapes.append(box(dx - half * stretch, south, dx + half * stretch, max(north, south + 1e-7)))
    geometry, dataset = np.array(shapes, object), np.array([row[4] for row in rows])
    inside = shapely.bounds(geometry)
    keep = (inside[:, 3] <= 90) & (np.abs(inside[:, [0, 2]]).max(axis=1) <= 180)
    geometry, dataset = geometry[keep], dataset[keep]
    rule = DeduplicationRule(min_overlap=0.05, overlap="smaller", within_dataset=within)
    expected, got = oracle(geometry, dataset, rule), found(geometry, dataset, rule)
    for pair in set(expected) ^ set(got):
        assert abs(expected.get(pair, got.get(pair, 0)) - 0.05) < 1e-4


@given(st.floats(-80, 80), st.floats(1e-5, 5), st.floats(-1.5, 1.5))
@settings(max_examples=60, deadline=None)
def test_the_antimeridian_is_no_edge(lat: float, size: float, shift: float) -> None:
    """Two boxes around 180° are duplicates exactly where the same two around 0° are."""

    def pair(lon: float) -> Shapes:
        return np.array([_split(lon, lat, size), _split(lon + shift * size, lat, size)], object)

    rule = DeduplicationRule(min_overlap=0.3)
    here, there = (duplicate_pairs(pair(lon), [0, 1], rule) for lon in (0.0, 180.0))
    assert len(here.first) == len(there.first) or abs(shift) == pytest.approx(7 / 13, abs=1e-3)
    if len(here.first) == len(there.first):
        assert np.allclose(here.overlap, there.overlap, atol=1e-4)


def _split(lon: float, lat: float, size: float) -> shapely.Geometry:
    west, east = lon - size / 2, lon + size / 2
    south, north = lat - size / 2, lat + size / 2
    if west >= 180:
        return box(west - 360, south, east - 360, north)
    if east <= 180:
        return box(west, south, east, north)
    return MultiPolygon([box(west, south, 180, north), box(-180, south, east - 360, north)])


@pytest.mark.parametrize("lat", [0.0, 47.0, -71.0])
@pytest.mark.parametrize("metres", [4.9, 5.1])
def test_points_by_distance_in_metres(lat: float, metres: float) -> None:
    geod = Geod(ellps="WGS84")
    rule = DeduplicationRule(point_distance_m=5.0)
    for azimuth in (0, 37, 90, 200, 270):
        lon2, lat2, _ = geod.fwd(180.0, lat, azimuth, metres)
        pairs = duplicate_pairs(np.array([Point(180, lat), Point(lon2, lat2)], object), ["a", "b"], rule)
        assert len(pairs.first) == (metres < 5)
        if len(pairs.first):
            assert pairs.distance_m[0] == pytest.approx(metres, rel=1e-3)
            assert pairs.overlap[0] == 0


def test_a_point_on_a_polygon_is_a_duplicate_however_large_the_polygon() -> None:
    shapes = np.array(
        [Point(8, 47), box(7.999, 46.999, 8.001, 47.001), box(-60, -30, 70, 60), Point(8.0012, 47)], object
    )
    pairs = duplicate_pairs(shapes, ["a", "b", "c", "b"], DeduplicationRule())
    assert list(zip(pairs.first, pairs.second, strict=True)) == [(0, 1), (0, 2), (2, 3)]
    assert pairs.overlap.tolist() == [1, 1, 1]
    assert pairs.distance_m.tolist() == [0, 0, 0]


def test_a_box_around_an_outline_is_met_by_the_smaller_measure() -> None:
    outline = Polygon([(8, 47), (8.001, 47), (8, 47.001)])
    shapes = np.array([outline, outline.envelope.buffer(0.0002)], object)
    assert len(duplicate_pairs(shapes, [0, 1], DeduplicationRule(overlap="iou")).first) == 0
    assert duplicate_pairs(shapes, [0, 1], DeduplicationRule(overlap="smaller")).overlap.tolist() == [1.0]


def test_labels_that_only_touch_are_no_duplicates() -> None:
    shapes = np.array([box(8, 47, 8.001, 47.001), box(8.001, 47, 8.002, 47.001)], object)
    assert len(duplicate_pairs(shapes, [0, 1], DeduplicationRule(min_overlap=1e-6)).first) == 0


def test_a_chain_is_not_merged_across() -> None:
    shapes = np.array([box(x, 47, x + 0.001, 47.001) for x in (8.0, 8.0003, 8.0006)], object)
    pairs = duplicate_pairs(shapes, ["a", "b", "c"], DeduplicationRule())
    assert list(zip(pairs.first, pairs.second, strict=True)) == [(0, 1), (1, 2)]
    in_order = merges(pairs, np.array([0, 1, 2]))
    assert (in_order.kept.tolist(), in_order.merged.tolist()) == ([0], [1])
    from_the_middle = merges(pairs, np.array([1, 0, 2]))
    assert (from_the_middle.kept.tolist(), from_the_middle.merged.tolist()) == ([1, 1], [0, 2])


@given(st.integers(0, 10_000), st.integers(2, 120))
@settings(max_examples=40, deadline=None)
def test_merges_follow_the_rule_and_no_row_order(seed: int, count: int) -> None:
    shapes, dataset = clustered(count, seed)
    ids = np.array([f"label {number}" for number in range(count)])
    kind = np.array(["polygon"] * count)
    rule = DeduplicationRule(min_overlap=0.1, priority=("2", "0"))

    def run(rows: NDArray[np.int64]) -> dict[str, str]:
        order = label_order(dataset[rows], kind[rows], ids[rows], rule)
        gone = merges(duplicate_pairs(shapes[rows], dataset[rows], rule), order)
        return dict(zip(ids[rows][gone.merged].tolist(), ids[rows][gone.kept].tolist(), strict=True))

    rows = np.arange(count)
    got = run(rows)
    overlaps = {frozenset(pair): share for pair, share in found(shapes, dataset, rule).items()}
    kept: list[int] = []
    expected: dict[str, str] = {}
    for label in sorted(range(count), key=lambda row: ({2: 0, 0: 1}.get(int(dataset[row]), 2), str(ids[row]))):
        rivals = [
            (overlaps[frozenset((label, other))], -place, other)
            for place, other in enumerate(kept)
            if frozenset((label, other)) in overlaps
        ]
        if rivals:
            expected[str(ids[label])] = str(ids[max(rivals)[2]])
        else:
            kept.append(label)
    assert got == expected
    assert run(np.random.default_rng(seed).permutation(count)) == got


def test_order_of_labels() -> None:
    order = label_order(
        ["x", "x", "x", "x", "x", "good", "x"],
        ["point", "box", "polygon", "polygon", "polygon", "point", "polygon"],
        ["a", "b", "c", "d", "e", "f", "g"],
        DeduplicationRule(priority=("good",)),
        installed_on=[np.nan, 0, np.nan, 100, 100, np.nan, np.nan],
        area_m2=[np.nan, 9, 5, 1, 2, np.nan, 5],
    )
    assert order.tolist() == [5, 4, 3, 2, 6, 1, 0]


def test_ids_and_kinds_are_checked() -> None:
    with pytest.raises(GeometryError, match="more than once"):
        label_order(["x", "x"], ["box", "box"], ["a", "a"], DeduplicationRule())
    with pytest.raises(GeometryError, match="blob"):
        label_order(["x"], ["blob"], ["a"], DeduplicationRule())


@pytest.mark.parametrize(
    "bad",
    [
        None,
        Point(),
        Point(math.nan, 0),
        box(500_000, 0, 500_010, 10),
        LineString([(0, 0), (1, 1)]),
        Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]),
    ],
)
def test_unusable_labels_are_refused(bad: shapely.Geometry) -> None:
    with pytest.raises(GeometryError, match="first row 1"):
        duplicate_pairs(np.array([Point(0, 0), bad], object), ["a", "b"], DeduplicationRule())


def test_nothing_and_one() -> None:
    for shapes in ([], [Point(1, 2)]):
        pairs = duplicate_pairs(np.array(shapes, object), ["a"] * len(shapes), DeduplicationRule())
        assert len(pairs.first) == 0
        assert len(merges(pairs, np.arange(len(shapes))).merged) == 0


@pytest.mark.parametrize(
    "settings_",
    [
        {"overlap": "area"},
        {"min_overlap": 0},
        {"min_overlap": 1.1},
        {"min_overlap": math.nan},
        {"point_distance_m": -1},
        {"point_distance_m": math.inf},
        {"priority": "abc"},
        {"priority": ("a", "a")},
    ],
)
def test_rules_that_cannot_be_followed(settings_: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        DeduplicationRule(**settings_)


@pytest.mark.slow
def test_100k_labels() -> None:
    shapes, dataset = clustered(100_000, 3)
    rule = DeduplicationRule(min_overlap=0.5)
    expected, got = oracle(shapes, dataset, rule), found(shapes, dataset, rule)
    print(f"{len(expected)} pairs compared, {len(set(expected) ^ set(got))} different")
    assert set(expected) == set(got)


def test_real_outlines_find_their_jittered_copies(real_data: Path) -> None:
    file = real_data / "pv_labels_india_microsoft" / "solar_farms_india_2021_merged_simplified.geojson"
    features = json.loads(file.read_text())["features"]
    first = shapely.make_valid(np.array([shapely.from_geojson(json.dumps(f["geometry"])) for f in features], object))
    size = shapely.bounds(first)[:, 2:] - shapely.bounds(first)[:, :2]
    shift = np.random.default_rng(0).normal(0, 0.02, size.shape) * size
    second = [shapely.transform(shape, lambda xy, by=by: xy + by) for shape, by in zip(first, shift, strict=True)]
    shapes = np.concatenate([first, np.array(second, object)])
    dataset = np.repeat([0, 1], len(first))
    rule = DeduplicationRule(priority=("0",))
    expected, got = oracle(shapes, dataset, rule), found(shapes, dataset, rule)
    assert set(expected) == set(got)
    copies = {(row, row + len(first)) for row in range(len(first))}
    assert len(copies & set(got)) > 0.9 * len(first)
    order = label_order(dataset, ["polygon"] * len(shapes), np.arange(len(shapes)).astype(str), rule)
    gone = merges(duplicate_pairs(shapes, dataset, rule), order)
    print(f"{len(first)} real outlines, {len(gone.merged)} of their copies merged")
    assert (gone.kept < len(first)).all()


def test_ids_that_differ_in_a_trailing_zero_byte_are_two():
    rule = DeduplicationRule()
    assert label_order(["a"] * 3, ["box"] * 3, ["é", "x\0", "x"], rule).tolist() == [2, 1, 0]


def test_one_long_id_does_not_take_its_memory_for_every_label():
    ids = [str(number) for number in range(20_000)] + ["x" * 100_000]
    tracemalloc.start()
    label_order(["a"] * len(ids), ["box"] * len(ids), ids, DeduplicationRule())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
