"""GeoJSON in: properties and shapes, or one typed error."""

import json

import pytest
import shapely

from store.vectors import read_features
from utils.errors import ConfigError

POINT = {"type": "Point", "coordinates": [8.5, 47.25]}


def write(folder, *features, **collection):
    path = folder / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)} | collection))
    return path


def feature(geometry=POINT, **properties):
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def test_features_come_in_order_with_their_properties(tmp_path):
    square = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}
    first, second = read_features(write(tmp_path, feature(id="a", built="2020-01-01"), feature(square, n=2)))
    assert first == ({"id": "a", "built": "2020-01-01"}, shapely.Point(8.5, 47.25))
    assert second[0] == {"n": 2}
    assert second[1].area == 0.5


def test_null_properties_are_none_at_all(tmp_path):
    [(properties, _)] = read_features(write(tmp_path, {"type": "Feature", "properties": None, "geometry": POINT}))
    assert properties == {}


def test_an_empty_collection_is_empty(tmp_path):
    assert read_features(write(tmp_path)) == []


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[1, 2]",
        "null",
        '"text"',
        "{}",
        json.dumps({"type": "Feature", "geometry": POINT, "properties": {}}),
        json.dumps({"features": None}),
        json.dumps({"features": [1]}),
        json.dumps({"features": [{"geometry": POINT}]}),
        json.dumps({"features": [{"properties": {}}]}),
        json.dumps({"features": [feature({"type": "Blob", "coordinates": []})]}),
        json.dumps({"features": [feature({"type": "Point"})]}),
        json.dumps({"features": [feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]})]}),
        json.dumps({"features": [feature("POINT (1 2)")]}),
        json.dumps({"features": [{"type": "Feature", "properties": {}, "geometry": None}]}),
    ],
)
def test_what_is_no_feature_collection_is_a_typed_error(tmp_path, content):
    path = tmp_path / "a.geojson"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"a\.geojson is no readable GeoJSON"):
        read_features(path)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(ConfigError, match="FileNotFoundError"):
        read_features(tmp_path / "no.geojson")
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UnicodeDecodeError"):
        read_features(tmp_path / "b")
    with pytest.raises(ConfigError, match="IsADirectoryError"):
        read_features(tmp_path)


def test_outlines_that_cross_themselves_are_made_valid_and_others_left_as_they_are(tmp_path):
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}
    square = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]}
    (_, crossed), (_, plain) = read_features(write(tmp_path, feature(bow), feature(square)))
    assert crossed.is_valid
    assert crossed.area == 0.5
    assert shapely.equals_exact(plain, shapely.geometry.shape(square), 0)


def test_metres_are_no_degrees(tmp_path):
    place = {"type": "Point", "coordinates": [500_000.0, 5_200_000.0]}
    with pytest.raises(ConfigError, match=r"500000, 5\.2e\+06.*no longitudes and latitudes"):
        read_features(write(tmp_path, feature(place)))


def test_an_empty_outline_is_no_error(tmp_path):
    [(_, shape)] = read_features(write(tmp_path, feature({"type": "Polygon", "coordinates": []})))
    assert shape.is_empty
