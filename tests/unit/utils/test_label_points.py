"""Points beside labels: read by the rules of the label, exact against pyproj, refused with a reason."""

import numpy as np
import pyarrow as pa
import pyproj
import pytest
import shapely

from utils.label_check import LABELS, checked_batch
from utils.label_geometry import GeometryRules
from utils.label_points import as_multipoint, label_points


def raw(geometry, positive=None, negative=None, *, binary=False):
    """Raw labels of one source, geometry as WKT; points as WKT or WKB."""
    n = len(geometry)
    columns = {
        "label_id": pa.array([str(k) for k in range(n)]),
        "dataset": pa.array(["d"] * n),
        "label_table": pa.array(["t"] * n),
        "geometry_wkb": pa.nulls(n, pa.binary()),
        "geometry_wkt": pa.array(geometry, pa.string()),
        "installed_on": pa.nulls(n, pa.date32()),
        "area_m2": pa.nulls(n, pa.float64()),
        "capacity_mw": pa.nulls(n, pa.float64()),
        "unreadable": pa.nulls(n, pa.string()),
    }
    for name, values in (("positive", positive), ("negative", negative)):
        texts = values or [None] * n
        blobs = [None if text is None else shapely.to_wkb(shapely.from_wkt(text)) for text in texts] if binary else None
        columns[f"{name}_points_wkb"] = pa.array(blobs, pa.binary()) if blobs else pa.nulls(n, pa.binary())
        columns[f"{name}_points_wkt"] = pa.nulls(n, pa.string()) if binary else pa.array(texts, pa.string())
    return pa.table(columns)


def xy(wkb):
    return shapely.get_coordinates(shapely.from_wkb(wkb)).tolist()


BOX = "POLYGON((8 47, 8.001 47, 8.001 47.001, 8 47.001, 8 47))"


@pytest.mark.parametrize("binary", [False, True])
def test_points_are_where_pyproj_puts_them(binary):
    box = "POLYGON((560000 5300000, 560020 5300000, 560020 5300010, 560000 5300010, 560000 5300000))"
    positive, negative = "MULTIPOINT((560003.25 5300002.5), (560011 5300007.125))", "POINT(560030 5300001)"
    found = checked_batch(raw([box], [positive], [negative], binary=binary), GeometryRules(crs="EPSG:32632"))
    row = found.labels.to_pylist()[0]
    there = pyproj.Transformer.from_crs(32632, 4326, always_xy=True)
    wanted = [list(there.transform(*point)) for point in ((560003.25, 5300002.5), (560011, 5300007.125))]
    np.testing.assert_allclose(xy(row["positive_points"]), wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(xy(row["negative_points"]), [there.transform(560030, 5300001)], rtol=0, atol=1e-12)
    assert found.labels.schema.equals(LABELS)


def test_latitude_first_counts_for_points_too():
    found = checked_batch(raw([BOX.replace("8", "8")], ["POINT(47.0005 8.0005)"]), GeometryRules(axes="yx"))
    assert xy(found.labels["positive_points"][0].as_py()) == [[8.0005, 47.0005]]


def test_points_that_name_their_own_crs_are_moved_from_it():
    there = pyproj.Transformer.from_crs(4326, 32632, always_xy=True)
    x, y = there.transform(8.0005, 47.0005)
    found = checked_batch(raw([BOX], [f"SRID=32632;POINT({x!r} {y!r})"]), GeometryRules())
    np.testing.assert_allclose(xy(found.labels["positive_points"][0].as_py()), [[8.0005, 47.0005]], atol=1e-10)


def test_a_label_of_several_points_keeps_them_all():
    texts = ["MULTIPOINT((8 47), (8.0002 47.0001), (8 47))", "POINT(8 47)", "MULTIPOINT((8 47))"]
    more = ["MULTIPOINT((8.0003 47), (8.0002 47.0001))", None, None]
    rows = checked_batch(raw(texts, more), GeometryRules()).labels.to_pylist()
    assert [row["kind"] for row in rows] == ["point"] * 3
    assert xy(rows[0]["positive_points"]) == [[8, 47], [8.0002, 47.0001], [8.0003, 47]]
    # one point is the prompt itself
    assert [row["positive_points"] for row in rows[1:]] == [None, None]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("LINESTRING(8 47, 8.1 47)", "line"),
        (BOX, "Polygon"),
        ("MULTIPOINT((8 47), (nan 47))", "NaN"),
        ("MULTIPOINT((8 47), (inf 47))", "NaN"),
        ("eight, forty-seven", "parsed"),
        ("POINT(800 47)", "spans"),
        ("GEOMETRYCOLLECTION(POINT(8 47), LINESTRING(8 47, 8.1 47))", "line"),
    ],
)
@pytest.mark.parametrize("side", ["positive", "negative"])
def test_bad_points_refuse_the_label(text, words, side):
    found = checked_batch(raw([BOX, BOX], **{side: [text, None]}), GeometryRules())
    assert found.labels["label_id"].to_pylist() == ["d/1"]
    [failure] = found.failures()
    assert (failure.error_type, failure.input_ids) == ("GeometryError", ("d/0",))
    assert f"{side}_points" in failure.message
    assert words in failure.message


def test_no_points_is_no_problem():
    found = checked_batch(raw([BOX] * 3, [None, "MULTIPOINT EMPTY", "POINT EMPTY"]), GeometryRules())
    assert found.labels["positive_points"].to_pylist() == [None] * 3
    assert found.failures() == []


def test_bad_points_of_labels_elsewhere_are_nobodys_business():
    area = shapely.box(20, 20, 21, 21)
    found = checked_batch(raw([BOX], ["LINESTRING(8 47, 8.1 47)"]), GeometryRules(), area)
    assert (found.failures(), found.outside.tolist(), len(found.labels)) == ([], [True], 0)


def test_z_is_dropped_and_positions_counted_once():
    found = label_points(
        pa.nulls(1, pa.binary()), pa.array(["MULTIPOINT Z((8 47 1), (8 47 2), (9 47 1))"]), GeometryRules(), "points"
    )
    assert found.points[0].equals(shapely.MultiPoint([(8, 47), (9, 47)]))
    assert not found.points[0].has_z
    assert as_multipoint(shapely.Point(1, 2)).equals(shapely.MultiPoint([(1, 2)]))
