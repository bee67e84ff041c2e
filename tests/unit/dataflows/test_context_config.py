"""Settings of the context flow: places relative to their file, passwords in memory only."""

from pathlib import Path

import pytest

from dataflows import context_config

TABLES = [{"name": "buildings", "table": "buildings", "id": "id", "geometry": "geometry", "search_m": 100}]
SECRET = "hunter2-s3cr\u20act"  # noqa: S105 - a made-up one


@pytest.mark.parametrize(
    ("catalog", "wanted"),
    [
        ("lake.ducklake", "{folder}/lake.ducklake"),
        ("sqlite:lake.sqlite", "sqlite:{folder}/lake.sqlite"),
        ("ducklake:duckdb:lake.db", "ducklake:duckdb:{folder}/lake.db"),
        ("/lakes/lake.db", "/lakes/lake.db"),
        ("postgres:host=db dbname=lakes", "postgres:host=db dbname=lakes"),
        ("postgresql://reader@db/lakes", "postgresql://reader@db/lakes"),
    ],
)
def test_catalogues_are_relative_to_the_file(tmp_path: Path, catalog: str, wanted: str):
    file = tmp_path / "context.yaml"
    file.write_text(f"flow: context\ncatalog: '{catalog}'\ncontext: {TABLES}\n")
    assert context_config.load(file).catalog == wanted.format(folder=tmp_path)


@pytest.mark.parametrize(
    "catalog", [f"postgresql://reader:{SECRET}@db/lakes", f"postgres:host=db password={SECRET} dbname=lakes"]
)
def test_a_password_shows_nowhere(catalog: str):
    told = context_config.from_mapping({"catalog": catalog, "context": TABLES})
    assert SECRET not in repr(told) + told.catalog
    assert "***" in told.catalog
