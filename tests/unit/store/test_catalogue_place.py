"""No spelling of a catalogue, known or not, keeps its password."""

import pytest

from store.catalogue_place import place_of, redacted, sealed

SPELLINGS = (
    "postgresql://u:S3CRET@h/db",
    " postgresql://u:S3CRET@h/db",
    "ducklake: postgres:host=h password=S3CRET",
    "postgres:host=h\tPASSWORD = 'S3CRET' dbname=x",
    "postgresql://u:S3CRET@x@h/db?sslpassword=S3CRET",
    "postgresql+psycopg://u:S3CRET@h/db",
    "ducklake:postgresql+psycopg2://u:S3CRET@h/db",
    "postgresql:host=h password=S3CRET",
    "postgres_scanner:host=h password=S3CRET",
)


@pytest.mark.parametrize("text", SPELLINGS)
def test_a_password_is_hidden(text):
    for shown in (redacted(text), sealed(text), repr(place_of(text)), redacted(redacted(text))):
        assert "S3CRET" not in shown
        assert "***" in shown


@pytest.mark.parametrize(
    "path", ["lake.ducklake", "/data/a:b/lake.ducklake", "sqlite:/x/lake.sqlite", "s3://b/l.ducklake"]
)
def test_a_path_stays_as_it_is(path):
    assert redacted(path) == path
