"""Places taken apart and put together."""

from pathlib import Path

import pytest

from store import places
from utils.errors import ConfigError
from utils.redaction import revealed


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ("S3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/some key/é", "s3://bucket/some key/é"),
        ("GS://b/x//", "gs://b/x"),
        ("az://container/x", "az://container/x"),
        ("https://h:80/a/x.tif?y=1", "https://h:80/a/x.tif?y=1"),
        ("file:///data/some%20folder", "/data/some folder"),
        ("data/lancedb", "data/lancedb"),
        ("/abs/x/", "/abs/x/"),
    ],
)
def test_normalised(place, wanted):
    assert places.normalised(place) == wanted
    assert places.normalised(places.normalised(place)) == wanted
    assert places.is_remote(place) is not wanted.startswith(("/", "data"))


@pytest.mark.parametrize("place", ["s3://", "s3:///x", "ftp://h/x", "s3://key:secret@bucket/x", "https:///x", "s4://b"])
def test_uris_nothing_can_open(place):
    with pytest.raises(ConfigError) as caught:
        places.normalised(place)
    assert "secret" not in str(caught.value)


def test_names():
    assert places.name_of("s3://b/x/scene.tif") == "scene.tif"
    assert places.name_of("https://h/x/scene.tif?sig=1/2") == "scene.tif"
    assert places.stem_of("s3://b/x/scene.v2.tif") == "scene.v2"
    assert places.name_of("/x/scene.tif") == "scene.tif"
    assert places.folder_of("s3://b/x/scene.tif") == "s3://b/x"
    assert places.folder_of("/x/scene.tif") == "/x"
    assert places.below("s3://b/x/y/scene.tif", "s3://b/x") == "y/scene.tif"
    assert places.below("/x/y/scene.tif", "/x") == "y/scene.tif"


@pytest.mark.parametrize(
    ("folder", "href", "wanted"),
    [
        ("s3://b/x/y", "./scene.tif", "s3://b/x/y/scene.tif"),
        ("s3://b/x/y", "../z/scene.tif", "s3://b/x/z/scene.tif"),
        ("s3://b/x", "/z/scene.tif", "s3://b/z/scene.tif"),
        ("s3://b", "scene.tif", "s3://b/scene.tif"),
        ("s3://b/x", "gs://c/scene.tif", "gs://c/scene.tif"),
        ("s3://b/x", "https://h/scene.tif", "https://h/scene.tif"),
        ("https://h/x", "../y/scene.tif", "https://h/y/scene.tif"),
        ("/x/y", "../z/scene.tif", "/x/z/scene.tif"),
        ("/x/y", "file:///z/a%20b.tif", "/z/a b.tif"),
        ("/x/y", "/vsicurl/https://h/a.tif", "/vsicurl/https://h/a.tif"),
    ],
)
def test_links_are_relative_to_their_file(folder, href, wanted):
    assert places.joined(folder, href) == wanted


def test_signatures_stay_with_the_link():
    place = places.joined("s3://b/x", "https://h/scene.tif?X-Amz-Signature=abc")
    assert place == "https://h/scene.tif?X-Amz-Signature=***"
    assert revealed(place).endswith("=abc")
    assert places.name_of(place) == "scene.tif"


def test_paths_are_no_uris():
    assert not places.is_remote(Path("s3:/b"))
    assert not places.is_remote("C:\\data")
