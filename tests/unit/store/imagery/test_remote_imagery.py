"""Imagery on other machines: signed links, what is away, what was cut short, what changed."""

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio

from store import imagery
from store.imagery import handles
from support.imagery_layouts import RGB, chip, cogs, geotiffs, stac_items
from support.object_store import MARKED, SECRET, TOKEN
from utils import errors

GRID = chip(25.1, 15.2)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(handles, "ATTEMPTS_S", (0.05, 0.1))


@pytest.fixture
def layout(tmp_path):
    return geotiffs(tmp_path / "scenes")


@pytest.fixture
def uri(layout, told):
    place = f"{told.bucket()}/scenes"
    told.upload(layout.options["root"], place)
    return place


def pixels(root, **options):
    return imagery.get("local", root=root, index=None, **options).read(GRID, RGB).data


def signed(told, uri, suffix=""):
    """A link that opens one object to everyone who has it, as far as its form goes."""
    query = f"X-Amz-Credential={MARKED[0]}%2F20260101&X-Amz-Signature={TOKEN}{suffix}&X-Amz-Expires=600"
    return f"{told.endpoint}/{uri.removeprefix('s3://')}?{query}"


def test_signed_links_open_and_show_nowhere(layout, uri, told, tmp_path, caplog):
    folder = stac_items(tmp_path / "items").options["root"]
    for path in folder.rglob("*.json"):
        item = json.loads(path.read_text())
        item["assets"]["visual"]["href"] = signed(told, f"{uri}/{item['id']}.tif")
        path.write_text(json.dumps(item))
    for path in folder.rglob("stack.tif"):
        path.unlink()
    caplog.set_level(logging.DEBUG)
    source = imagery.get("local", root=folder, index=tmp_path / "index.parquet")
    scenes = source.scenes()
    np.testing.assert_array_equal(source.read(GRID, RGB).data, pixels(layout.options["root"]))
    with told.faults({"kind": "status", "status": 403}), pytest.raises(errors.RasterDeniedError) as caught:
        imagery.get("local", root=folder, index=tmp_path / "index.parquet").read(GRID, RGB)
    index = pq.read_table(tmp_path / "index.parquet").to_pylist() if (tmp_path / "index.parquet").exists() else []
    shown = f"{scenes.to_pylist()} {source.unreadable()} {caught.value!r} {caplog.text} {index} {source.options}"
    assert "X-Amz-Signature=***" in shown
    assert not any(secret in shown for secret in MARKED)
    for path in folder.rglob("*.json"):
        path.write_text(path.read_text().replace(TOKEN, f"{TOKEN}another"))
    again = imagery.get("local", root=folder, index=tmp_path / "index.parquet").scenes()
    assert again["checksum"].equals(scenes["checksum"])


def test_one_raster_of_a_web_server(layout, uri, told, caplog):
    source = imagery.get("local", root=signed(told, f"{uri}/a_top.tif"))
    [scene] = source.scenes().to_pylist()
    assert scene["scene_id"] == "a_top"
    assert source.unreadable() == {}
    local = imagery.get("local", root=layout.options["root"]).read(GRID, RGB, scene_ids=["a_top"])
    np.testing.assert_array_equal(source.read(GRID, RGB).data, local.data)
    assert not any(secret in f"{scene} {source.root!r} {caplog.text}" for secret in MARKED)


def test_a_password_in_a_link_opens_and_shows_nowhere(layout, uri, told, caplog):
    place = told.endpoint.replace("://", "://reader:pass-word-01@") + f"/{uri.removeprefix('s3://')}/a_top.tif"
    source = imagery.get("local", root=place)
    [scene] = source.scenes().to_pylist()
    read = source.read(GRID, RGB)
    with told.faults({"kind": "status", "status": 404}), pytest.raises(errors.AegirError) as caught:
        imagery.get("local", root=place).scenes()
    assert read.scene_ids == ("a_top",)
    assert "reader:***@" in scene["assets"]
    assert "pass-word-01" not in f"{scene} {source.root!r} {caplog.text} {caught.value!r}"


def test_keys_beside_the_prefix_are_not_in_it(layout, uri, told):
    told.put(f"{uri}-other/c.tif", (layout.options["root"] / "a_top.tif").read_bytes())
    assert imagery.get("local", root=f"{uri}/").scenes()["scene_id"].to_pylist() == ["a_top", "b_below"]


def test_places_that_hold_nothing(told, uri):
    bucket = uri.rpartition("/")[0]
    for root in (f"{bucket}/nothing", told.bucket(), "s3://bucket-nobody-made/x"):
        with pytest.raises(errors.ConfigError, match=r"s3://"):
            imagery.get("local", root=root).scenes()
    with pytest.raises(errors.ConfigError, match="bucket"):
        imagery.get("local", root="s3://")
    with pytest.raises(errors.ConfigError) as caught:
        imagery.get("local", root=f"s3://key:{SECRET.replace('/', '')}@bucket/x")
    assert SECRET.replace("/", "") not in str(caught.value)


PASSING = [
    {"kind": "status", "status": 503, "times": 2},
    {"kind": "cut", "times": 1},
    {"kind": "drop", "after": 100, "times": 1, "methods": ["GET"]},
    {"kind": "drop", "after": 9000, "times": 1, "methods": ["GET"]},
]


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("made", [geotiffs, cogs])
def test_what_passes_changes_no_pixel(told, tmp_path, fault, made):
    layout = made(tmp_path / "made")
    place = f"{told.bucket()}/scenes"
    told.upload(layout.options["root"], place)
    source = imagery.get("local", root=place, index=None)
    source.scenes()
    with told.faults(fault):
        read = source.read(GRID, RGB)
    np.testing.assert_array_equal(read.data, pixels(layout.options["root"]))


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "status", "status": 503}, errors.RasterUnreachableError),
        ({"kind": "cut"}, errors.RasterUnreachableError),
        ({"kind": "status", "status": 403}, errors.RasterDeniedError),
    ],
)
def test_what_stays_is_typed_and_over_when_the_server_is_back(layout, uri, told, fault, error):
    source = imagery.get("local", root=uri, index=None)
    source.scenes()
    with told.faults(fault):
        with pytest.raises(error) as caught:
            source.read(GRID, RGB)
        with pytest.raises(error):
            imagery.get("local", root=uri, index=None).scenes()
    assert caught.value.is_transient is (error is errors.RasterUnreachableError)
    np.testing.assert_array_equal(source.read(GRID, RGB).data, pixels(layout.options["root"]))


def test_answers_that_are_always_cut_short_are_no_pixels(layout, uri, told):
    source = imagery.get("local", root=uri, index=None)
    source.scenes()
    with told.faults({"kind": "drop", "after": 700, "methods": ["GET"]}), pytest.raises(errors.RasterReadError):
        source.read(GRID, RGB)
    np.testing.assert_array_equal(source.read(GRID, RGB).data, pixels(layout.options["root"]))


def test_a_scene_that_was_replaced_is_read_anew(layout, uri, told, tmp_path):
    first = pixels(uri)
    path = layout.options["root"] / "a_top.tif"
    with rasterio.open(path, "r+") as raster:
        raster.write(255 - raster.read())
    told.upload(layout.options["root"], uri)
    second = pixels(uri)
    np.testing.assert_array_equal(second, pixels(layout.options["root"]))
    assert (first != second).any()


def test_a_broken_or_missing_scene_is_a_reading_error(layout, uri, told):
    source = imagery.get("local", root=uri, index=None)
    source.scenes()
    told.put(f"{uri}/a_top.tif", b"II*\0nothing")
    told.delete(f"{uri}/b_below.tif")
    for scene in ("a_top", "b_below"):
        with pytest.raises(errors.RasterReadError) as caught:
            source.read(GRID, RGB, scene_ids=[scene])
        assert type(caught.value) is errors.RasterReadError
    broken = imagery.get("local", root=uri, index=None)
    assert len(broken.scenes()) == 0
    assert [reason.partition(":")[0] for reason in broken.unreadable().values()] == ["RasterReadError"]


def test_a_second_start_reads_nothing_but_the_listing(uri, told, tmp_path, monkeypatch):
    # facts of objects written in the last two seconds are not kept
    monkeypatch.setattr("store.imagery.file_index._YOUNG_NS", -(10**18))
    first = imagery.get("local", root=uri, index=tmp_path / "index.parquet").scenes()
    with told.watched() as seen:
        again = imagery.get("local", root=uri, index=tmp_path / "index.parquet").scenes()
    assert again.equals(first)
    assert [request for request in seen if ".tif" in request] == []
    assert seen


def test_names_of_gdal():
    for place in ("s3://b/x y/é.tif", "gs://b/x.tif", "az://c/x.tif", "https://h/x.tif?n=1", str(Path("/x/a.tif"))):
        assert handles.place_of(handles.gdal_path(place)) == place
