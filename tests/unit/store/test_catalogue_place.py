"""No spelling of a catalogue, known or not, keeps its password."""

import pytest

from store.catalogue_place import place_of, redacted, same_place, sealed

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


@pytest.mark.parametrize(
    ("recorded", "now", "same"),
    [
        ("{here}/lake/labels.ducklake", "{here}/lake/labels.ducklake", True),
        ("lake/labels.ducklake", "{here}/lake/labels.ducklake", True),
        ("../lake/labels.ducklake", "{here}/lake/labels.ducklake", True),
        ("/moved/away/lake/labels.ducklake", "{here}/lake/labels.ducklake", True),
        ("/mount/other/labels.ducklake", "{here}/lake/labels.ducklake", False),
        ("sqlite:lake/labels.ducklake", "sqlite:{here}/lake/labels.ducklake", True),
        ("postgres:host=a dbname=x", "postgres:host=a dbname=x", True),
        ("postgres:host=a dbname=x", "postgres:host=b dbname=x", False),
        ("labels.ducklake", "postgres:host=b dbname=labels.ducklake", False),
    ],
)
def test_which_records_speak_of_the_same_place(tmp_path, recorded, now, same):
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "labels.ducklake").touch()
    assert same_place(recorded.format(here=tmp_path), now.format(here=tmp_path)) is same


def test_another_lake_of_the_same_name_that_is_still_there_is_another(tmp_path):
    for folder in ("a/lake", "b/lake"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "labels.ducklake").touch()
    one, other = (str(tmp_path / folder / "labels.ducklake") for folder in ("a/lake", "b/lake"))
    assert not same_place(one, other)
