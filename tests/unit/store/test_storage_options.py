"""Which option of an object store wins, and what of it shows."""

import json

import pytest

from dataflows.config import BuildConfig
from store import storage_options as options
from utils.errors import ConfigError
from utils.redaction import revealed


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    import os

    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "OBJECT_STORE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(options, "_told", {})


def test_paths_have_no_options():
    assert options.storage_options("data/lancedb") is None


def test_what_was_told_wins_over_the_environment_and_that_over_the_defaults(monkeypatch):
    assert options.storage_options("s3://b/x")["client_max_retries"] == "6"
    monkeypatch.setenv("OBJECT_STORE_CLIENT_MAX_RETRIES", "3")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    found = options.storage_options("s3://b/x")
    assert (found["client_max_retries"], found["aws_region"]) == ("3", "eu-west-1")
    options.use(options.checked({"client_max_retries": 9, "region": "eu-north-1"}), ["s3://b/x"])
    found = options.storage_options("s3://b/other")
    assert (found["client_max_retries"], found["aws_region"]) == ("9", "eu-north-1")
    assert options.storage_options("s3://c/x")["aws_region"] == "eu-west-1"
    assert "aws_region" not in options.storage_options("gs://b/x")


def test_credentials_are_never_mixed(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of the environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the environment")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of the environment")
    options.use(options.checked({"access_key_id": "told", "secret_access_key": "told"}), ["s3://b"])
    with pytest.raises(ConfigError, match="AWS_SESSION_TOKEN"):
        options.storage_options("s3://b/x")
    assert "aws_session_token" not in options.effective_options("s3://b/x")
    assert options.gdal_options("s3://b/x")["AWS_SESSION_TOKEN"] == ""
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    found = options.storage_options("s3://b/x")
    assert (found["aws_access_key_id"], found["aws_secret_access_key"]) == ("told", "told")


def test_the_longest_prefix_wins():
    told = {"s3://b": {"region": "one"}, "S3://b/deep/": {"region": "two"}, "gs://b": {"client_max_retries": 1}}
    options.use(options.checked(told), [])
    assert options.storage_options("s3://b/x")["aws_region"] == "one"
    assert options.storage_options("s3://b/deep/x")["aws_region"] == "two"
    assert options.storage_options("s3://b/deeper")["aws_region"] == "one"
    assert options.storage_options("gs://b/x")["client_max_retries"] == "1"


def test_an_endpoint_decides_scheme_region_and_addressing():
    options.use(options.checked({"endpoint_url": "http://127.0.0.1:9000"}), ["s3://b"])
    found, gdal = options.storage_options("s3://b/x"), options.gdal_options("s3://b/x")
    assert (found["allow_http"], found["aws_region"]) == ("true", "us-east-1")
    assert (gdal["AWS_S3_ENDPOINT"], gdal["AWS_HTTPS"], gdal["AWS_VIRTUAL_HOSTING"]) == (
        "127.0.0.1:9000",
        "NO",
        "FALSE",
    )
    options.use(options.checked({"endpoint_url": "https://s3.example.org"}), ["s3://b"])
    assert "allow_http" not in options.storage_options("s3://b/x")
    assert options.gdal_options("s3://b/x")["AWS_HTTPS"] == "YES"


def test_values_of_the_environment_are_looked_up_when_used(monkeypatch):
    told = options.checked({"aws_secret_access_key": "${MY_SECRET}", "aws_access_key_id": "${MY_ID}"})
    assert list(told.values()) == ["${MY_SECRET}", "${MY_ID}"]
    options.use(told, ["s3://b"])
    with pytest.raises(ConfigError, match="MY_"):
        options.storage_options("s3://b/x")
    monkeypatch.setenv("MY_SECRET", "one")
    monkeypatch.setenv("MY_ID", "two")
    assert {"one", "two"} <= set(options.storage_options("s3://b/x").values())


def test_secrets_are_sealed_and_the_rest_shows():
    told = options.checked({"secret_access_key": "abcdefgh-secret", "region": "x", "allow_http": True})
    assert json.dumps(told) == '{"aws_secret_access_key": "***", "aws_region": "x", "allow_http": "true"}'
    assert revealed(told["aws_secret_access_key"]) == "abcdefgh-secret"
    assert options.checked(told) == told
    assert options.checked({"endpoint": "https://u:password@h"})["aws_endpoint"] == "https://u:***@h"


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"regoin": "x"}, "regoin"),
        ({"region": None}, "aws_region"),
        ({"region": ["x"]}, "aws_region"),
        ("region=x", "mapping"),
        ({"s3://b": "x"}, "mapping"),
        ({"request_timeout": "soon"}, "soon"),
        ({"client_max_retries": -1}, "whole number"),
        ({"secret_access_key": "***"}, "record"),
    ],
)
def test_options_that_are_none(told, message):
    with pytest.raises(ConfigError, match=message):
        options.checked(told)


@pytest.mark.parametrize("place", ["s3://b/a#b", "s3://b/a?b", "s3://b/a%20b", "https://h/x", "s3://"])
def test_places_no_table_can_be_in(place):
    with pytest.raises(ConfigError):
        options.storage_options(place)


@pytest.mark.parametrize(
    ("text", "wanted"), [("30s", 30), ("500ms", 0.5), ("2 minutes", 120), ("7", 7), ("1.5 s", 1.5)]
)
def test_durations(text, wanted):
    assert options.seconds(text) == wanted


def test_google_and_azure_options_reach_gdal_and_lance(monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/keys/a.json")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCESS_KEY", "azure-secret")
    assert options.storage_options("gs://b/x")["google_application_credentials"] == "/keys/a.json"
    assert options.gdal_options("gs://b/x")["GOOGLE_APPLICATION_CREDENTIALS"] == "/keys/a.json"
    found = options.storage_options("az://c/x")
    assert (found["azure_storage_account_name"], found["azure_storage_account_key"]) == ("account", "azure-secret")
    gdal = options.gdal_options("az://c/x")
    assert (gdal["AZURE_STORAGE_ACCOUNT"], gdal["AZURE_STORAGE_ACCESS_KEY"]) == ("account", "azure-secret")


def settings(**changes):
    return {"labels": (), "vhr": {"source": "local", "root": "s3://imagery/vhr/"}, "store": "S3://tables/x/", **changes}


def test_settings_hold_normalised_places_and_use_their_options():
    from store.ducklake_labels import LabelTable

    labels = (LabelTable.from_mapping({"table": "pv", "id": "id", "geometry": "geometry"}),)
    told = {"region": "eu-north-1", "secret_access_key": "abcdefgh-secret"}
    one = BuildConfig(**settings(labels=labels, catalog="x.ducklake", storage_options=told))
    other = BuildConfig(**settings(labels=labels, catalog="x.ducklake"))
    assert (one.store, one.vhr["root"]) == ("s3://tables/x", "s3://imagery/vhr")
    assert one.build_config == other.build_config
    assert "abcdefgh" not in repr(one)
    for place in ("s3://tables/y", "s3://imagery/z"):
        assert options.storage_options(place)["aws_region"] == "eu-north-1"
    with pytest.raises(ConfigError, match="bucket"):
        BuildConfig(**settings(labels=labels, catalog="x.ducklake", store="s3://"))
