"""Repairs and refusals of label geometry: each rule, nothing lost, nothing guessed."""

import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from utils.errors import CRSError
from utils.label_check import LABELS, LabelTally, checked_batch
from utils.label_geometry import KINDS, REASONS, REPAIRS, GeometryRules, repair_lists, repaired_geometry
from utils.polygon_repair import metric, without_slivers

SQUARE = "POLYGON((8 47,8.1 47,8.1 47.1,8 47.1,8 47))"
TRIANGLE = shapely.from_wkt("POLYGON((8 47,8.1 47,8.1 47.1,8 47))")


def of_text(*texts, **rules):
    return repaired_geometry(pa.nulls(len(texts), pa.binary()), pa.array(texts, pa.string()), GeometryRules(**rules))


def one(text, **rules):
    found = of_text(text, **rules)
    return found.geometry[0], repair_lists(found.repairs)[0].as_py(), found.reasons[0]


@pytest.mark.parametrize(
    ("text", "wanted", "repairs"),
    [
        (SQUARE, SQUARE, []),
        ("POINT(9 47)", "POINT(9 47)", []),
        ("POINT(47 109)", "POINT(109 47)", ["swapped_axes"]),
        ("POLYGON((47 100,47 101,48 101,47 100))", "POLYGON((100 47,101 47,101 48,100 47))", ["swapped_axes"]),
        ("POLYGON((8 47,8.1 47,8.1 47.1))", TRIANGLE.wkt, ["closed_ring"]),
        ("POLYGON Z((8 47 1,8.1 47 2,8.1 47.1 3,8 47 1))", TRIANGLE.wkt, ["z_dropped"]),
        ("SRID=4326;POINT(9 47)", "POINT(9 47)", []),
        ("GEOMETRYCOLLECTION(POINT(1 1),POLYGON((8 47,8.1 47,8.1 47.1,8 47)))", TRIANGLE.wkt, ["collection_parts"]),
        (
            "GEOMETRYCOLLECTION(GEOMETRYCOLLECTION(LINESTRING(1 1,2 2),POLYGON((8 47,8.1 47,8.1 47.1,8 47))))",
            TRIANGLE.wkt,
            ["collection_parts"],
        ),
        ("GEOMETRYCOLLECTION(POINT(8 47),MULTIPOINT(9 47,1 1))", "MULTIPOINT(8 47,9 47,1 1)", ["collection_parts"]),
        ("POLYGON((8 47,8 47,8.1 47,8.1 47.1,8.1 47.1,8 47))", TRIANGLE.wkt, ["repeated_points"]),
        (
            "POLYGON((8 47,8.1 47.1,8.1 47,8 47.1,8 47))",
            "MULTIPOLYGON(((8 47,8.05 47.05,8 47.1,8 47)),((8.05 47.05,8.1 47,8.1 47.1,8.05 47.05)))",
            ["self_crossing", "area_changed"],
        ),
        (
            "MULTIPOLYGON(((8 47,8.2 47,8.2 47.2,8 47.2,8 47)),((8.1 47,8.3 47,8.3 47.2,8.1 47.2,8.1 47)))",
            "POLYGON((8 47,8.3 47,8.3 47.2,8 47.2,8 47))",
            ["overlapping_parts", "area_changed"],
        ),
        (
            "MULTIPOLYGON(((8 47,8.2 47,8.2 47.2,8 47.2,8 47)),((9 47,9.1 47,9.1 47.0000000001,9 47)))",
            "POLYGON((8 47,8.2 47,8.2 47.2,8 47.2,8 47))",
            ["sliver_parts"],
        ),
        ("POLYGON((8 47,8.1 47,8.1 47.1,8 47,8.2 46.9,8 47))", TRIANGLE.wkt, ["self_crossing"]),
        (
            "POLYGON((8 47,8.1 47,8.1 47.1,8 47),(8.05 47.01,8.05 47.01,8.05 47.01,8.05 47.01))",
            TRIANGLE.wkt,
            ["self_crossing"],
        ),
    ],
)
def test_repairs(text, wanted, repairs):
    geometry, made, reason = one(text)
    assert reason is None
    assert made == repairs
    assert geometry.is_valid
    assert (
        shapely.equals(geometry, shapely.from_wkt(wanted))
        or geometry.symmetric_difference(shapely.from_wkt(wanted)).area < 1e-12
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "missing"),
        ("", "unparsable"),
        ("POLYGON", "unparsable"),
        ("junk", "unparsable"),
        ("POLYGON EMPTY", "empty"),
        ("POINT(nan nan)", "not_finite"),
        ("POINT(inf 1)", "not_finite"),
        ("LINESTRING(8 47,9 47)", "line"),
        ("GEOMETRYCOLLECTION(POINT(8 47),LINESTRING(8 47,9 47))", "line"),
        ("GEOMETRYCOLLECTION(GEOMETRYCOLLECTION EMPTY)", "empty"),
        ("POLYGON((8 47,8.1 47,8.2 47,8 47))", "no_area"),
        ("POLYGON((8 47,8 47,8 47,8 47))", "no_area"),
        ("POLYGON((8 47,8.1 47,8.1 47.00000000001,8 47.00000000001,8 47))", "sliver"),
        ("SRID=999999;POINT(8 47)", "unknown_srid"),
        ("POINT(500000 5200000)", "off_globe"),
        ("SRID=4326;POINT(500000 5200000)", "off_globe"),
        ("POINT(181 91)", "off_globe"),
        ("POLYGON((-179 1,179 1,179 2,-179 1))", "antimeridian"),
    ],
)
def test_refusals(text, reason):
    geometry, _, found = one(text)
    assert geometry is None
    assert found == reason in REASONS


def test_projected_coordinates_under_degrees_get_a_hint():
    found = of_text("POINT(500000 5200000)")
    assert "metres of a projected CRS" in found.details[0]


def test_both_orders_on_the_globe_are_never_guessed():
    geometry, repairs, _ = one("POINT(47 8)")
    assert (geometry.x, geometry.y, repairs) == (47, 8, [])


def test_where_a_data_set_lies_decides_the_order_of_axes():
    swiss = (5.9, 45.8, 10.5, 47.9)
    texts = ("POINT(47 8)", "POINT(8 47)", "POINT(20 20)")
    found = of_text(*texts, expected_bbox_lonlat=swiss)
    assert [geometry and geometry.wkt for geometry in found.geometry] == ["POINT (8 47)", "POINT (8 47)", None]
    assert repair_lists(found.repairs).to_pylist()[:2] == [["swapped_axes"], []]
    assert found.reasons[2] == "outside_expected"


def test_stated_axes_are_no_repair():
    geometry, repairs, _ = one("POINT(47 8)", axes="yx")
    assert (geometry.wkt, repairs) == ("POINT (8 47)", [])


@pytest.mark.parametrize("axes", ["xy", "yx"])
def test_projected_labels_of_either_order_land_where_pyproj_puts_them(axes):
    x, y = Transformer.from_crs(4326, 32632, always_xy=True).transform(8.0, 47.0)
    text = f"POINT({x} {y})" if axes == "xy" else f"POINT({y} {x})"
    geometry, repairs, _ = one(text, crs="EPSG:32632", axes=axes)
    assert geometry.distance(shapely.Point(8, 47)) < 1e-9
    assert repairs == []


class TestSrids:
    """A geometry's own SRID beats the mapping where its coordinates fit."""

    UTM = "POINT(500000 5200000)"

    def test_an_embedded_srid_is_used_and_told(self):
        geometry, repairs, _ = one(f"SRID=32632;{self.UTM}")
        assert abs(geometry.x - 9) < 1e-9
        assert repairs == ["embedded_srid"]

    def test_a_wrong_one_gives_way_to_the_mapping(self):
        geometry, repairs, _ = one(f"SRID=4326;{self.UTM}", crs="EPSG:32632")
        assert abs(geometry.x - 9) < 1e-9
        assert repairs == ["wrong_srid"]

    def test_it_can_be_overruled(self):
        geometry, repairs, _ = one(f"SRID=32633;{self.UTM}", crs="EPSG:32632", override_crs=True)
        assert abs(geometry.x - 9) < 1e-9
        assert repairs == []

    def test_ewkb_says_the_same_as_ewkt(self):
        wkb = shapely.to_wkb(shapely.set_srid(shapely.from_wkt(self.UTM), 32632), include_srid=True)
        found = repaired_geometry(pa.array([wkb], pa.binary()), pa.nulls(1, pa.string()), GeometryRules())
        assert found.geometry[0].equals(one(f"SRID=32632;{self.UTM}")[0])
        assert repair_lists(found.repairs).to_pylist() == [["embedded_srid"]]

    def test_degrees_in_a_projected_crs(self):
        assert one("POINT(8 47)", crs="EPSG:32632")[2] == "degrees"

    def test_an_unknown_mapping_is_an_error(self):
        with pytest.raises(CRSError):
            one("POINT(8 47)", crs="EPSG:999999")


def test_kinds_are_those_of_the_labels_own_crs():
    box = shapely.box(500000, 5200000, 500100, 5200050)
    found = of_text(box.wkt, box.centroid.wkt, TRIANGLE.wkt.replace("8.1", "8.2"), crs="EPSG:32632")
    assert [KINDS[kind] for kind in found.kinds] == ["box", "point", ""]


def test_metres_agree_with_the_ellipsoid():
    geod = Geod(ellps="WGS84")
    for lon, lat in ((8.0, 47.0), (-70.0, -33.0), (25.0, 69.0), (0.0, 0.0)):
        box = shapely.box(lon, lat, lon + 1e-3, lat + 1e-3)
        local = metric(np.array([box], object))[0]
        assert local.area == pytest.approx(abs(geod.geometry_area_perimeter(box)[0]), rel=0.015)


def test_slivers_by_width():
    def strip(width_m):
        return shapely.box(8, 0, 8 + 1e-3, width_m / 111_320)

    kept, dropped = without_slivers(np.array([strip(0.5), strip(0.01)], object), min_area_m2=0.01, min_width_m=0.02)
    assert dropped.tolist() == [False, True]
    assert shapely.is_empty(kept).tolist() == [False, True]


def raw_table(texts, **columns):
    n = len(texts)
    given = {
        "label_id": pa.array([str(k) for k in range(n)], pa.string()),
        "dataset": pa.array(["d"] * n, pa.string()),
        "label_table": pa.array(["t"] * n, pa.string()),
        "geometry_wkb": pa.nulls(n, pa.binary()),
        "geometry_wkt": pa.array(texts, pa.string()),
        "installed_on": pa.nulls(n, pa.date32()),
        "area_m2": pa.nulls(n, pa.float64()),
        "capacity_mw": pa.nulls(n, pa.float64()),
        "unreadable": pa.nulls(n, pa.string()),
        **{f"{name}_points_wkb": pa.nulls(n, pa.binary()) for name in ("positive", "negative")},
        **{f"{name}_points_wkt": pa.nulls(n, pa.string()) for name in ("positive", "negative")},
    }
    return pa.table(given | columns)


NUMBERS = st.one_of(st.floats(-400, 400), st.sampled_from([0.0, 8.0, 47.0, np.nan, np.inf, 5e5, 1e300, 180.0, -90.0]))
RINGS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=7)


@st.composite
def texts(draw):
    kind = draw(st.sampled_from(["POINT", "POLYGON", "open", "MULTIPOLYGON", "LINESTRING", "COLLECTION", "junk"]))
    ring = [f"{x} {y}" for x, y in draw(RINGS)]
    closed = ", ".join([*ring, ring[0]])
    prefix = draw(st.sampled_from(["", "", "SRID=32632;", "SRID=4326;", "SRID=123456;"]))
    body = {
        "POINT": f"POINT ({ring[0]})",
        "POLYGON": f"POLYGON (({closed}))",
        "open": f"POLYGON (({', '.join(ring)}))",
        "MULTIPOLYGON": f"MULTIPOLYGON ((({closed})), ((8 47, 9 47, 9 48, 8 47)))",
        "LINESTRING": f"LINESTRING ({closed})",
        "COLLECTION": f"GEOMETRYCOLLECTION (POINT ({ring[0]}), POLYGON (({closed})))",
        "junk": draw(st.text(max_size=8)),
    }[kind]
    return draw(st.sampled_from([prefix + body, prefix + body, None]))


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(texts(), st.sampled_from(["a", "b", None])), max_size=12),
    expected=st.sampled_from([None, (5.0, 45.0, 11.0, 48.0)]),
    area=st.sampled_from([None, shapely.box(7, 46, 9, 49)]),
    crs=st.sampled_from(["EPSG:4326", "EPSG:32632", "OGC:CRS84"]),
)
def test_every_label_is_kept_refused_or_outside(rows, expected, area, crs):
    """The accounting holds whatever comes in, and what is kept is valid and on the globe."""
    ids = [f"{name}{k % 3}" if name else None for k, (_, name) in enumerate(rows)]
    raw = raw_table([text for text, _ in rows], label_id=pa.array(ids, pa.string()))
    rules = GeometryRules(crs=crs, expected_bbox_lonlat=expected)
    tally = LabelTally()
    for part in (raw.slice(0, 5), raw.slice(5)):
        tally.take(checked_batch(part, rules, area))
    labels = tally.table()
    assert labels.schema.equals(LABELS)
    assert len(rows) == tally.rows == len(labels) + len(tally.failures) + tally.outside
    assert len(set(labels["label_id"].to_pylist())) == len(labels)
    geometry = shapely.from_wkb(labels["geometry"].to_numpy(zero_copy_only=False))
    assert shapely.is_valid(geometry).all()
    assert not shapely.is_empty(geometry).any()
    bounds = shapely.bounds(geometry)
    assert (np.abs(bounds) <= [180, 90, 180, 90]).all()
    assert all(set(codes) <= set(REPAIRS) for codes in labels["repairs"].to_pylist())
    assert all(failure.message and failure.input_ids for failure in tally.failures)


def test_an_empty_batch_and_repeated_ids():
    assert len(checked_batch(raw_table([]), GeometryRules()).labels) == 0
    tally = LabelTally()
    raw = raw_table([SQUARE, SQUARE, SQUARE], label_id=pa.array(["1", "1", None]))
    tally.take(checked_batch(raw, GeometryRules()))
    tally.take(checked_batch(raw.slice(0, 1), GeometryRules()))
    assert tally.table()["label_id"].to_pylist() == ["d/1"]
    assert sorted(f.message.split(";")[0][-20:] for f in tally.failures) != []
    assert len(tally.failures) == 3


def test_unreadable_columns_are_repairs():
    raw = raw_table([SQUARE, SQUARE], unreadable=pa.array(["installed_on,area_m2", None]))
    labels = checked_batch(raw, GeometryRules()).labels
    assert labels["repairs"].to_pylist() == [["installed_on_unreadable", "area_m2_unreadable"], []]


def test_input_is_left_as_it_was():
    raw = raw_table(["POLYGON((8 47,8.1 47.1,8.1 47,8 47.1,8 47))"])
    before = raw["geometry_wkt"].to_pylist()
    checked_batch(raw, GeometryRules())
    assert raw["geometry_wkt"].to_pylist() == before


def test_curves_are_refused_and_their_neighbours_read():
    wkt = ["POINT (1 1)", "CURVEPOLYGON ((0 0, 1 0, 1 1, 0 0))", "POLYGON ((0 0, 1 0, 1 1, 0 0))", "POINT (2 2)"]
    found = repaired_geometry(pa.nulls(4, pa.binary()), pa.array(wkt), GeometryRules())
    assert found.reasons.tolist() == [None, "unparsable", None, None]
    curve = bytes.fromhex("01") + (8).to_bytes(4, "little") + bytes(4)
    binary = repaired_geometry(pa.array([curve, shapely.Point(1, 1).wkb]), pa.nulls(2, pa.string()), GeometryRules())
    assert binary.reasons.tolist() == ["unparsable", None]


def test_coordinates_no_projection_has_are_refused():
    """PROJ turns them into finite nonsense."""
    texts = ["POLYGON ((0.0 500000.0, -1.0 0.0, 0.0 1e+300, 1.0 0.0, 0.0 500000.0))", "POINT (1e12 5200000)"]
    found = repaired_geometry(pa.nulls(2, pa.binary()), pa.array(texts), GeometryRules(crs="EPSG:32632"))
    assert found.reasons.tolist() == ["no_place", "no_place"]
