"""Files of the hub: the cache before the network, and what the hub's client says as errors of ours."""

from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import errors as theirs

from dataflows.mask_backends._hub import cached_file, hub_file, hub_folder
from support.hub_cache import put
from utils.errors import DownloadForbiddenError, WeightsError, WeightsNotFoundError, WeightsUnreachableError

REPOSITORY = "someone/model"


def refusal(kind: type[Exception], status: int = 404) -> Exception:
    if issubclass(kind, theirs.HfHubHTTPError):
        response = httpx2.Response(status, request=httpx2.Request("GET", "https://hub.test"))
        return kind("the hub said so", response=response)
    return kind("the hub said so")


def test_the_cache_comes_before_the_network(hub, no_network, tmp_path) -> None:
    source = tmp_path / "config.json"
    source.write_text("{}")
    assert cached_file(REPOSITORY, "config.json", backend="sam_hf") is None
    kept = put(hub, REPOSITORY, {"config.json": source})
    place = {"backend": "sam_hf", "download": True}
    assert hub_file(REPOSITORY, "config.json", **place) == kept / "config.json"
    assert hub_folder(REPOSITORY, ["*.json"], **place) == kept
    put(hub, REPOSITORY, {"config.json": source, "more.json": source}, revision="v2")
    assert hub_folder(REPOSITORY, ["*.json"], revision="v2", **place) != kept
    assert hub_folder(REPOSITORY, ["*.json"], revision=kept.name, **place) == kept
    with pytest.raises(WeightsNotFoundError, match=r"other\.json of someone/model is not in the local cache"):
        hub_file(REPOSITORY, "other.json", backend="sam_hf")


def test_a_download_is_asked_for_and_allowed(hub, monkeypatch, tmp_path) -> None:
    asked: list[Any] = []

    def fetch(*told: Any, **more: Any) -> str:
        asked.append((told, more))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert hub_file(REPOSITORY, "model.pt", backend="sam2", revision="v1", download=True) == Path(tmp_path)
    assert hub_folder(REPOSITORY, ["*.json"], backend="sam_hf", download=True) == Path(tmp_path)
    assert asked == [
        ((REPOSITORY, "model.pt"), {"revision": "v1"}),
        ((REPOSITORY,), {"revision": None, "allow_patterns": ["*.json"]}),
    ]
    monkeypatch.setenv("AEGIR_OFFLINE", "1")
    with pytest.raises(DownloadForbiddenError):
        hub_file(REPOSITORY, "model.pt", backend="sam2", download=True)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (refusal(theirs.GatedRepoError, 403), WeightsError, "accepted its licence"),
        (refusal(theirs.RepositoryNotFoundError), WeightsError, "does not exist or lacks a file"),
        (refusal(theirs.RevisionNotFoundError), WeightsError, "does not exist or lacks a file"),
        (refusal(theirs.EntryNotFoundError), WeightsError, "does not exist or lacks a file"),
        (refusal(theirs.LocalEntryNotFoundError), WeightsUnreachableError, "cannot be downloaded"),
        (refusal(theirs.OfflineModeIsEnabled), WeightsUnreachableError, "cannot be downloaded"),
        (refusal(theirs.HfHubHTTPError, 503), WeightsUnreachableError, "cannot be downloaded"),
        (httpx2.ConnectError("no route"), WeightsUnreachableError, "cannot be downloaded"),
        (ConnectionError("cut"), WeightsUnreachableError, "cannot be downloaded"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_the_hub_says(hub, monkeypatch, error, expected, words) -> None:
    def fail(*told: Any, **more: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(expected, match=words) as raised:
        hub_file(REPOSITORY, "model.pt", backend="sam2", download=True)
    assert type(raised.value) is expected
