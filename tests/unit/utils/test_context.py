"""The context join against brute force, at every place where cells, zones and the globe have an edge."""

import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from support.all_pairs import all_pairs, differences
from utils.context import context_by_cell
from utils.context_cells import join_level
from utils.context_places import usable_geometries
from utils.context_rule import ContextRule
from utils.errors import ConfigError, CRSError, GeometryError
from utils.geo import s2_cell_polygon, s2_cells

CLASSES = ["forest", "crops", "urban", "water"]


def table(key, geometries, **columns):
    ids = [f"{key}-{k:06d}" for k in range(len(geometries))]
    wkb = pa.array([shapely.to_wkb(geometry) for geometry in geometries], pa.binary())
    return pa.table({key: pa.array(ids, pa.string()), "geometry": wkb, **columns})


def compared(targets, features, search_m=100.0, *, classes=True):
    """The join's rows, with the number of values compared to brute force and of those that differ."""
    rng = np.random.default_rng(0)
    names = rng.choice(CLASSES, len(features)).tolist() if classes else None
    columns = {"feature_class": pa.array(names, pa.string())} if names is not None else {}
    made = table("feature_id", features, **columns)
    rule = ContextRule(name="c", kind="classes" if classes else "features", search_m=search_m)
    found = context_by_cell(table("uuid", targets), made, rule).to_pylist()
    wanted = all_pairs(targets, features, made["feature_id"].to_pylist(), search_m, names)
    n, different = differences(found, wanted, "c")
    print(f"{n} compared, {different} different")
    return found, n, different


def squares(lon, lat, side_m, rng, turn=True):
    """Squares around places, metres on a side, turned at random."""
    made = []
    for x, y in zip(lon, lat, strict=True):
        up = side_m / 2 / 111_320
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
        angle = rng.uniform(0, np.pi) if turn else 0.0
        corners = corners @ [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        made.append(shapely.Polygon(corners * [up / np.cos(np.radians(y)), up] + [x, y]))
    return made


def around(lon, lat, spread_m, count, rng):
    """Places within a spread."""
    up = spread_m / 111_320
    x, y = rng.uniform(-up, up, (2, count))
    return lon + x / np.cos(np.radians(lat)), lat + y


PLACES = {
    "an ordinary place": (8.53, 47.31),
    "a zone edge": (12.0, 45.0),
    "the equator": (36.82, 0.0),
    "greenwich": (0.0, 51.48),
    "a face edge of the cube": (45.0, 20.0),
    "a corner of the cube": (45.0, 35.264),
    "the far south": (-70.0, -54.8),
    "the far north": (25.0, 81.5),
}


@pytest.mark.parametrize("search_m", [0.0, 30.0, 400.0])
@pytest.mark.parametrize("place", PLACES)
def test_the_join_is_brute_force(place, search_m):
    lon, lat = PLACES[place]
    rng = np.random.default_rng([len(place), int(search_m)])
    targets = squares(*around(lon, lat, 1500, 40, rng), 77, rng)
    features = squares(*around(lon, lat, 1500, 120, rng), 25, rng) + squares(*around(lon, lat, 1500, 15, rng), 300, rng)
    found, n, different = compared(targets, features, search_m)
    assert n == 40 * 8
    assert different == 0
    assert any(row["c_count"] for row in found)
    assert any(row["c_distance_m"] is None for row in found) or search_m > 30


@pytest.mark.parametrize("level", [10, 13, 16])
def test_targets_on_the_corners_and_edges_of_cells(level):
    rng = np.random.default_rng(level)
    ring = shapely.get_coordinates(s2_cell_polygon(int(s2_cells(8.53, 47.31, level)[0])))
    places = np.vstack([ring[:4], (ring[:4] + ring[1:5]) / 2])
    targets = squares(places[:, 0], places[:, 1], 77, rng, turn=False) + [shapely.Point(*place) for place in places]
    features = [f for x, y in places for f in squares(*around(x, y, 150, 12, rng), 12, rng)]
    _, n, different = compared(targets, features, 100.0)
    assert (n, different) == (128, 0)


def test_features_far_larger_than_a_cell():
    rng = np.random.default_rng(5)
    lon, lat = 8.53, 47.31
    angles = np.sort(rng.uniform(0, 2 * np.pi, 400))
    reach = rng.uniform(0.1, 0.35, 400)
    star = shapely.Polygon(np.column_stack([lon + reach * np.cos(angles) * 1.4, lat + reach * np.sin(angles)]))
    land = [
        star.buffer(0),
        shapely.box(lon - 0.4, lat - 0.3, lon + 0.02, lat + 0.3),
        shapely.box(lon + 0.02, lat - 0.3, lon + 0.4, lat + 0.3),
        shapely.LineString([(lon - 0.5, lat - 0.3), (lon, lat), (lon + 0.6, lat + 0.01)]),
        shapely.Polygon(shapely.box(-20, 20, 40, 70).exterior, [shapely.box(lon, lat, lon + 0.1, lat + 0.1).exterior]),
    ]
    targets = squares(*around(lon, lat, 9000, 150, rng), 77, rng)
    found, n, different = compared(targets, land)
    assert (n, different) == (1200, 0)
    assert len({row["c_class"] for row in found}) > 1


def test_the_antimeridian():
    rng = np.random.default_rng(3)
    lon, lat = around(180.0, -17.0, 600, 60, rng)
    every = squares(lon, lat, 77, rng)
    written = [
        shapely.transform(g, lambda xy: np.column_stack([(xy[:, 0] + 180) % 360 - 180, xy[:, 1]])) for g in every
    ]
    divided, problems = usable_geometries([shapely.to_wkb(g) for g in written], "EPSG:4326")
    assert not problems
    assert any(g.geom_type == "MultiPolygon" for g in divided)
    assert np.allclose(shapely.area(divided), shapely.area(every), rtol=1e-9)
    targets, features = (
        list(divided[:25]),
        [
            *divided[25:],
            shapely.MultiPolygon([shapely.box(179.99, -17.01, 180, -17), shapely.box(-180, -17.01, -179.99, -17)]),
        ],
    )
    found, n, different = compared(targets, features, 200.0)
    assert (n, different) == (200, 0)
    assert any(row["c_count"] for row in found)


def test_points_and_lines_have_no_area():
    rng = np.random.default_rng(8)
    lon, lat = 8.53, 47.31
    targets = [shapely.Point(x, y) for x, y in zip(*around(lon, lat, 300, 60, rng), strict=True)]
    x, y = around(lon, lat, 300, 30, rng)
    features = squares(x, y, 120, rng) + [
        shapely.LineString([(a, b), (a + 0.001, b + 0.0005)]) for a, b in zip(x, y, strict=True)
    ]
    features += [shapely.Point(a, b) for a, b in zip(x, y, strict=True)]
    found, n, different = compared(targets, features, 50.0)
    assert (n, different) == (480, 0)
    assert all(row["c_area_fraction"] is None and row["c_class_fraction"] is None for row in found)
    assert {row["c_class"] for row in found} > {None}


def test_overlapping_features_cover_once():
    box = shapely.box(8, 47, 8.001, 47.001)
    left, right = shapely.box(8, 47, 8.0006, 47.001), shapely.box(8.0004, 47, 8.001, 47.001)
    features = table("feature_id", [left, right, left], feature_class=pa.array(["a", "b", "a"]))
    rule = ContextRule(name="land", kind="classes")
    [row] = context_by_cell(table("uuid", [box]), features, rule).to_pylist()
    assert row["land_area_fraction"] == pytest.approx(1.0, abs=1e-6)
    assert dict(row["land_class_fractions"]) == pytest.approx({"a": 0.6, "b": 0.6}, abs=1e-4)
    assert (row["land_count"], row["land_class"], row["land_nearest_id"]) == (3, "a", "feature_id-000000")


def test_what_is_carried_is_the_nearest_features():
    features = table("feature_id", [shapely.Point(8, 47), shapely.Point(8.001, 47)], height=pa.array([3.5, 9.0]))
    targets = table("uuid", [shapely.Point(8.0009, 47), shapely.Point(8.5, 47)]).rename_columns(
        ["detection_id", "geometry"]
    )
    found = context_by_cell(targets, features, ContextRule(name="b", search_m=20), key="detection_id")
    assert found["b_height"].to_pylist() == [9.0, None]
    assert found["b_nearest_id"].to_pylist() == ["feature_id-000001", None]
    assert found.column_names[0] == "detection_id"
    assert found["b_count"].to_pylist() == [0, 0]


@pytest.mark.parametrize(("targets", "features"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_join(targets, features):
    rng = np.random.default_rng(1)
    made = [squares(*around(8, 47, 100, n, rng), 30, rng) for n in (targets, features)]
    columns = {"feature_class": pa.array(["a"] * features, pa.string())}
    for kind in ("features", "classes"):
        rule = ContextRule(name="b", kind=kind)
        found = context_by_cell(table("uuid", made[0]), table("feature_id", made[1], **columns), rule)
        assert len(found) == targets
        assert found["b_distance_m"].null_count == (targets if not features else 0)
        assert found["b_area_fraction"].null_count == 0


def test_features_without_a_class_cover_but_have_none_to_give():
    box = shapely.box(8, 47, 8.001, 47.001)
    features = table("feature_id", [box], feature_class=pa.array([None], pa.string()))
    [row] = context_by_cell(table("uuid", [box]), features, ContextRule(name="c", kind="classes")).to_pylist()
    assert row["c_area_fraction"] == pytest.approx(1)
    assert row["c_class"] is row["c_class_fraction"] is row["c_class_at_centre"] is None


def test_targets_and_features_are_left_as_they_are_and_their_order_does_not_matter():
    rng = np.random.default_rng(2)
    targets = table("uuid", squares(*around(8, 47, 900, 50, rng), 60, rng))
    features = table("feature_id", squares(*around(8, 47, 900, 90, rng), 60, rng))
    rule = ContextRule(name="b")
    first = context_by_cell(targets, features, rule)
    turned = pa.array(rng.permutation(90))
    again = context_by_cell(targets.take(pa.array(range(49, -1, -1))), features.take(turned), rule)
    assert again.take(pa.array(range(49, -1, -1))).equals(first)


@settings(max_examples=60, deadline=None)
@given(
    lon=st.floats(-180, 180),
    lat=st.floats(-79, 83),
    side=st.floats(1, 3000),
    angle=st.floats(0, 6.28),
    gap=st.floats(0, 1.2),
)
def test_no_feature_within_reach_is_lost(lon, lat, side, angle, gap):
    """A feature in any direction, nearer or farther than the search distance, any size, anywhere."""
    search_m = 150.0
    rng = np.random.default_rng(1)
    up = (search_m * gap + side * 0.7) / 111_320
    y = lat + up * np.sin(angle)
    x = lon + up * np.cos(angle) / np.cos(np.radians(lat))
    written = squares([lon, x], [lat, y], side, rng)
    usable, problems = usable_geometries([shapely.to_wkb(g) for g in written], "EPSG:4326")
    assert not problems
    target, feature = usable
    found = context_by_cell(
        table("uuid", [target]), table("feature_id", [feature]), ContextRule(name="b", search_m=search_m)
    ).to_pylist()
    zone = context_zone(target)
    from utils.context_places import in_metres

    here, there = in_metres(np.array([target, feature], object), zone)
    distance = here.distance(there)
    assert found[0]["b_distance_m"] == (pytest.approx(distance, abs=1e-6) if distance <= search_m else None)


def context_zone(target):
    from utils.context_places import centres_lonlat
    from utils.geo import utm_epsg

    return utm_epsg(*centres_lonlat(np.array([target], object))[0])


def test_refusals():
    box = table("uuid", [shapely.box(8, 47, 8.1, 47.1)])
    with pytest.raises(ConfigError, match=r"the features lack \['feature_class'\]"):
        context_by_cell(box, table("feature_id", []), ContextRule(name="c", kind="classes"))
    with pytest.raises(ConfigError, match=r"the targets lack \['detection_id'\]"):
        context_by_cell(box, table("feature_id", []), ContextRule(name="c"), key="detection_id")
    with pytest.raises(GeometryError, match="no geometry"):
        context_by_cell(table("uuid", [shapely.Polygon()]), table("feature_id", []), ContextRule(name="c"))
    with pytest.raises(CRSError, match="UTM ends"):
        context_by_cell(table("uuid", [shapely.Point(0, 88)]), table("feature_id", []), ContextRule(name="c"))
    for wrong in ({"kind": "roads"}, {"search_m": -1}, {"search_m": float("nan")}):
        with pytest.raises(ConfigError, match="context c"):
            ContextRule(name="c", **wrong)
    assert join_level(1e9) < join_level(1e3) < join_level(0)
