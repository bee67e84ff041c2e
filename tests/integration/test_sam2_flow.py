"""From the command line to Lance, offline, with SAM 2 of the real classes and random weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dataflows import mask_backends
from dataflows.__main__ import OFFLINE, main
from store import lance_io
from store.fingerprint import file_sha256
from support import mini_region, tiny_hf, tiny_sam2
from support.hub_cache import put


@pytest.fixture(autouse=True)
def quiet_process(monkeypatch: pytest.MonkeyPatch):
    """One thread, and an environment that `--offline` may change."""
    for name in OFFLINE:
        monkeypatch.setenv(name, "0")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[[str], list[str]]:
    region = mini_region.make(tmp_path / "region")
    path = tmp_path / "flow.yaml"
    path.write_text(yaml.safe_dump(region.settings))

    def options(store: str) -> list[str]:
        return ["--config", str(path), "--store", str(tmp_path / store)]

    return options


def told(backend: str, options: dict[str, Any]) -> list[str]:
    return ["--set", f"mask_backend={backend}", "--set", f"mask_options={json.dumps(options)}"]


def masks(store: Path) -> list[dict[str, Any]]:
    columns = ["prompt_id", "uuid", "mask", "flags", "scores", "verdict"]
    return sorted(
        lance_io.scan(str(store), "masks", columns).to_pylist(), key=lambda row: (row["prompt_id"], row["uuid"])
    )


def check_masks(store: Path, run: dict[str, Any]) -> None:
    found = masks(store)
    assert sum(run["masks"].values()) == len(found)
    filled = [row for row in found if row["mask"] is not None]
    assert len(found) >= 5
    assert filled
    for row in filled:
        assert set(np.unique(np.frombuffer(row["mask"], np.uint8))) <= {0, 1}
        scores = dict(row["scores"])
        assert {"predicted_iou", "logit_stability", "stability"} <= scores.keys()
        assert all(0 <= value <= 1 for value in scores.values())


def test_sam2_from_the_command_line_to_lance(settings_of, tmp_path, capsys) -> None:
    options = tiny_sam2.write(tmp_path / "weights") | {"tile_px": 600}
    assert main(["run", *settings_of("a"), *told("sam2", options), "--offline", "--json"]) == 0
    check_masks(tmp_path / "a", json.loads(capsys.readouterr().out))

    # how the masks are computed is no part of their recipe: nothing is left to do
    assert main(["plan", *settings_of("a"), *told("sam2", options | {"encode_batch": 1}), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pending"] == 0

    # other weights are another recipe
    (uuid,) = {row["uuid"] for row in masks(tmp_path / "a")[:1]}
    assert main(["explain", uuid, "--store", str(tmp_path / "a"), "--json"]) == 0
    recorded = json.loads(capsys.readouterr().out)["run"]
    assert file_sha256(options["checkpoint"]) in json.dumps(recorded)
    other = tiny_sam2.write(tmp_path / "other", seed=1)
    assert mask_backends.weights("sam2", **other) != mask_backends.weights("sam2", **options)


def test_sam_hf_from_an_id_on_the_hub_offline(settings_of, tmp_path, capsys, monkeypatch) -> None:
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    options = {"model_id": "facebook/sam2.1-hiera-tiny", "download": True}
    # not there: refused before any work, and before any network
    assert main(["run", *settings_of("a"), *told("sam_hf", options), "--offline"]) == 2
    assert "forbids downloads" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()

    folder = tiny_hf.write(tmp_path / "weights", "sam2_video")
    put(cache, "facebook/sam2.1-hiera-tiny", {path.name: path for path in folder.iterdir()})
    assert main(["run", *settings_of("a"), *told("sam_hf", options), "--offline", "--json"]) == 0
    check_masks(tmp_path / "a", json.loads(capsys.readouterr().out))


def test_sam3_by_words_from_the_command_line(settings_of, tmp_path, capsys) -> None:
    options = tiny_hf.asked_by_words(tmp_path / "weights") | {"least_score": 0.999}
    assert main(["run", *settings_of("a"), *told("sam_hf", options), "--offline", "--json"]) == 0
    # random weights are sure of nothing: every prompt keeps its row and says why
    found = masks(tmp_path / "a")
    assert len(found) >= 5
    assert all({"empty", "no_instance"} <= set(row["flags"]) or "not_in_chip" in row["flags"] for row in found)
    assert {row["verdict"] for row in found} <= {"reject", "not_in_chip"}
