"""Manifests of datasets: tolerant of other people's files, strict about the settings."""

import json
from datetime import date

import pytest

from store import ducklake
from store.dataset_manifests import DatasetManifest, manifest_table, manifests_of, read_manifests
from utils.errors import ConfigError, LabelTableError

ICE_MELT = {
    "ind_pv": {
        "doi": "https://doi.org/10.1/abc",
        "repo": "github.com/x/y",
        "license": "CC-BY-4.0",
        "label_fmt": "geojson",
    },
    "usa_pv": {"doi": None, "citation": "Someone 2023", "retrieved_at": "2024-05-31T10:00:00"},
}


def test_a_manifest_file_of_another_project(tmp_path):
    (tmp_path / "doi_manifest.json").write_text(json.dumps(ICE_MELT))
    found = read_manifests({"usa_pv": {"licence": "CC0-1.0"}}, str(tmp_path / "doi_manifest.json"))
    ind, usa = found["ind_pv"], found["usa_pv"]
    assert (ind.doi, ind.url, ind.licence, json.loads(ind.extra)) == (
        "10.1/abc", "github.com/x/y", "CC-BY-4.0", {"label_fmt": "geojson"},
    )  # fmt: skip
    assert (usa.doi, usa.licence, usa.retrieved) == (None, "CC0-1.0", date(2024, 5, 31))
    assert (ind.origin, usa.origin) == ("doi_manifest.json", "doi_manifest.json, settings")


def test_yaml_and_lists(tmp_path):
    (tmp_path / "m.yaml").write_text("- {dataset: a, doi: 10.1/a, version: 2}\n- {dataset_name: b}\n")
    found = read_manifests({}, str(tmp_path / "m.yaml"))
    assert (found["a"].doi, found["a"].version, found["b"].known) == ("10.1/a", "2", True)


def test_a_table_of_the_lake(tmp_path):
    catalog = tmp_path / "l.ducklake"
    with ducklake.connect(catalog, data_path=tmp_path / "f", create=True) as connection:
        connection.execute(
            "CREATE TABLE lake.m AS SELECT 'a' AS dataset, '10.1/a' AS doi, DATE '2024-01-02' AS retrieved"
        )
    found = read_manifests({}, "table:m", catalog=str(catalog))
    assert (found["a"].doi, found["a"].retrieved, found["a"].origin) == ("10.1/a", date(2024, 1, 2), "table:m")
    with pytest.raises(LabelTableError, match="it has: m"):
        read_manifests({}, "table:n", catalog=str(catalog))
    with pytest.raises(ConfigError, match="catalog"):
        read_manifests({}, "table:m")


@pytest.mark.parametrize(
    ("text", "words"),
    [("[1]", "names its `dataset`"), ("{a: 1}", "is no manifest"), ("{a: {doi: [1]}}", "doi must be text"),
     ("a: {b", "neither JSON nor YAML"), ("- {dataset: a}\n- {dataset: a}", "twice"),
     ("{a: {retrieved: soon}}", "give a day")],
)  # fmt: skip
def test_files_that_say_something_else(tmp_path, text, words):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_manifests({}, str(tmp_path / "m.yaml"))
    with pytest.raises(ConfigError, match="no manifest at"):
        read_manifests({}, str(tmp_path / "none.json"))


def test_keys_follow_the_content_and_unknown_is_said():
    known = {"a": DatasetManifest(dataset="a", doi="10.1/a", origin="settings")}
    found = manifests_of(["b", "a", "a"], known)
    assert list(found) == ["a", "b"]
    assert (found["a"].known, found["b"].known, found["b"].origin) == (True, False, "unknown")
    assert (
        DatasetManifest(dataset="a", doi="10.1/b").key
        != found["a"].key
        == DatasetManifest(dataset="a", doi="10.1/a").key
    )
    rows = manifest_table(found.values(), "run").to_pylist()
    assert [(row["dataset"], row["doi"], row["origin"]) for row in rows] == [
        ("a", "10.1/a", "settings"),
        ("b", None, "unknown"),
    ]
