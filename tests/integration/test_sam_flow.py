"""The build flow with SAM and HQ-SAM of the real classes, from the command line to Lance, without a network.

The weights are tiny and random: what masks look like says nothing, where they lie and what is recorded of them does.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import yaml

from dataflows.__main__ import EXIT_REFUSED, main
from dataflows.engines import processes
from store import lance_io
from support import mini_region, tiny_sam
from support.mini_region import MiniRegion

TESTS = Path(__file__).parents[1]
MANY_PARTITIONS: dict[str, Any] = {"chip_px": 128, "msi_px": 32, "partition_level": 18, "commit_every": 1}
STALE = 3


@pytest.fixture(autouse=True)
def unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may open a connection; what ``--offline`` sets in the environment ends with the test."""
    for name in ("AEGIR_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "0")
    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX, f"a connection to {address} was opened"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> MiniRegion:
    ratios = {"background_near_ratio": 0.0, "background_far_ratio": 0.0}
    return mini_region.make(tmp_path_factory.mktemp("sam") / "region", **ratios)


class Flow:
    """A store of its own for the region, and the command line."""

    def __init__(self, region: MiniRegion, folder: Path, capsys: pytest.CaptureFixture[str], **settings: Any) -> None:
        self.store = str(folder / "lancedb")
        self.config = folder / "flow.yaml"
        self.config.write_text(yaml.safe_dump(region.settings | settings | {"store": self.store}))
        self._capsys = capsys

    def main(
        self, command: str, options: dict[str, Any] | None, *more: str, backend: str = "sam"
    ) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self._capsys.readouterr()
        code = main([command, *self.arguments(options, backend), *more])
        return code, *self._capsys.readouterr()

    def arguments(self, options: dict[str, Any] | None, backend: str = "sam") -> list[str]:
        chosen = (
            []
            if options is None
            else ["--set", f"mask_backend={backend}", "--set", f"mask_options={json.dumps(options)}"]
        )
        return ["--config", str(self.config), *chosen]

    def run(self, options: dict[str, Any], *more: str, backend: str = "sam") -> dict[str, Any]:
        code, out, err = self.main("run", options, "--offline", "--json", *more, backend=backend)
        assert code == 0, (out, err)
        return json.loads(out)

    def masks(self) -> list[dict[str, Any]]:
        columns = [
            "mask_id",
            "prompt_id",
            "uuid",
            "backend",
            "mask_recipe",
            "verdict",
            "flags",
            "scores",
            "mask",
            "run_id",
        ]
        return lance_io.scan(self.store, "masks", columns).to_pylist()

    def weights(self) -> list[Any]:
        """What the runs recorded, the latest last."""
        runs = lance_io.scan(self.store, "runs", ["started_at", "inputs"]).sort_by("started_at")
        return [json.loads(inputs)["weights"] for inputs in runs["inputs"].to_pylist()]


@pytest.fixture
def flow(region: MiniRegion, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Flow:
    return Flow(region, tmp_path, capsys)


def sha256_of(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize("backend", ["sam", "sam_hq"])
def test_from_the_command_line_to_rows_with_scores(flow: Flow, weights: Path, backend: str) -> None:
    options = tiny_sam.options(weights, backend)
    summary = flow.run(options, backend=backend)
    assert (summary["status"], summary["chips_failed"]) == ("done", 0)
    assert os.environ["AEGIR_OFFLINE"] == "1"
    rows = flow.masks()
    assert len(rows) == sum(summary["masks"].values())
    assert {row["prompt_id"] for row in rows} == set(
        lance_io.scan(flow.store, "prompts", ["prompt_id"])["prompt_id"].to_pylist()
    )
    assert {row["backend"] for row in rows} == {backend}
    for row in rows:
        scores = dict(row["scores"])
        assert all(0 <= value <= 1 for value in scores.values())
        if row["mask"] is not None and "not_in_chip" not in row["flags"]:
            assert {"predicted_iou", "logit_stability", "stability", "box_agreement"} <= scores.keys()
            assert np.frombuffer(row["mask"], np.uint8).max() == 1
    assert any(row["mask"] is not None for row in rows)
    chips = lance_io.scan(flow.store, "training_data", ["uuid", "vhr_epsg", "vhr_transform"]).to_pylist()
    grids = {chip["uuid"]: (chip["vhr_epsg"], chip["vhr_transform"]) for chip in chips}
    for row in lance_io.scan(flow.store, "masks", ["uuid", "epsg", "transform", "outline"]).to_pylist():
        assert (row["epsg"], row["transform"]) == grids[row["uuid"]]
        assert row["outline"] is None or shapely.from_wkb(row["outline"]).is_valid
    assert flow.weights() == [{tiny_sam.MODEL_TYPE: sha256_of(options["checkpoint"])}]
    again = flow.run(options, backend=backend)
    assert again["chips_written"] == 0
    assert len(flow.masks()) == len(rows)


def test_other_weights_are_another_recipe_and_the_same_elsewhere_are_not(
    flow: Flow, weights: Path, tmp_path: Path
) -> None:
    first, second = tiny_sam.options(weights, seed=0), tiny_sam.options(weights, seed=1)
    written = flow.run(first)["chips_written"]
    before = {row["mask_id"]: row["mask_recipe"] for row in flow.masks()}
    moved = shutil.copy(first["checkpoint"], tmp_path / "another name.pth")
    code, out, err = flow.main("stale", first | {"checkpoint": str(moved), "prompts_per_call": 7}, "--json")
    assert (code, json.loads(out)["stale"]) == (0, 0), err
    code, out, err = flow.main("stale", second, "--json")
    found = json.loads(out)
    assert (code, found["stale"]) == (STALE, written), err
    reasons = [reason for group in found["groups"] for stage in group["stages"] for reason in stage["reasons"]]
    assert any(reason.startswith("weights: tiny_test ") for reason in reasons), reasons
    assert flow.run(second, "--only-stale")["chips_written"] == written
    after = {row["mask_id"]: row["mask_recipe"] for row in flow.masks()}
    assert before.items() <= after.items()
    assert len(set(before.values())) == 1
    assert len(set(after.values())) == 2
    assert flow.weights() == [{tiny_sam.MODEL_TYPE: sha256_of(one["checkpoint"])} for one in (first, second)]
    code, out, _ = flow.main("stale", second, "--json")
    assert (code, json.loads(out)["stale"]) == (0, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model_type": "vit_b", "checkpoint": "{folder}/missing.pth"}, "nothing was downloaded"),
        ({"model_type": "vit_b", "checkpoint_dir": "{folder}", "download": True}, "AEGIR_OFFLINE forbids"),
        ({"model_type": "vit_l", "checkpoint": "{tiny}"}, "of no published model, not a vit_l"),
        ({"model_type": "tiny_test", "checkpoint": "{hq}"}, "unknown"),
        ({"model_type": "tiny_test", "checkpoint": "{tiny}", "device": "cuda:77"}, "cuda:77"),
        ({}, "give a checkpoint"),
    ],
    ids=str,
)
def test_weights_that_cannot_be_used_are_refused_before_anything_is_written(
    flow: Flow, weights: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    places = {"folder": tmp_path, "tiny": tiny_sam.checkpoint(weights), "hq": tiny_sam.checkpoint(weights, "sam_hq")}
    told = {name: value.format(**places) if isinstance(value, str) else value for name, value in options.items()}
    code, out, err = flow.main("run", told, "--offline")
    assert code == EXIT_REFUSED, (out, err)
    assert words in err
    assert "Traceback" not in err
    assert out == ""
    for table in ("training_data", "masks", "runs", "errors"):
        assert not Path(flow.store, f"{table}.lance").exists()


_DRIVER = """
import json, os, signal, sys
sys.path.insert(0, sys.argv.pop(1))
from support import tiny_sam

def begin(summary):
    if summary.chips_written:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    tiny_sam.register()
    from dataflows import terminal
    from dataflows.__main__ import main

    real = terminal.build_with_progress

    def watched(*told, **more):
        from dataflows import drivers

        run = drivers.run
        drivers.run = lambda *a, **k: run(*a, **{**k, "progress": begin})
        return real(*told, **more)

    terminal.build_with_progress = watched
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_and_resumed_are_the_rows_of_one_run(
    region: MiniRegion, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = tiny_sam.options(weights)
    whole, killed = (Flow(region, folder(tmp_path, name), capsys, **MANY_PARTITIONS) for name in ("whole", "killed"))
    expected = whole.run(options)
    assert expected["partitions"] > 3
    (tmp_path / "driver.py").write_text(_DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), str(TESTS), "run", *killed.arguments(options), "--offline"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = lance_io.open_table(killed.store, "training_data").count_rows()
    assert 0 < kept < expected["chips_written"]
    again = killed.run(options)
    assert again["chips_skipped"] + again["chips_written"] == expected["chips_written"]
    assert again["chips_written"] > 0

    def rows(flow: Flow) -> list[Any]:
        return sorted([row["mask_id"], row["verdict"], row["scores"], row["mask"]] for row in flow.masks())

    assert rows(whole) == rows(killed)


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


_begin = processes._begin


def begin(spec: Any) -> None:
    """What a worker process begins with: the tiny model is known, and every model that is built leaves a line."""
    _begin(spec)
    tiny_sam.register()
    from dataflows.mask_backends import _samgeo

    predictor, notes = _samgeo.predictor, Path(os.environ["AEGIR_TEST_NOTES"])

    def noted(*told: Any) -> Any:
        with notes.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return predictor(*told)

    _samgeo.predictor = noted


@pytest.mark.slow
def test_worker_processes_build_the_model_once_each(
    region: MiniRegion,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = tiny_sam.options(weights)
    whole, shared = (Flow(region, folder(tmp_path, name), capsys, **MANY_PARTITIONS) for name in ("whole", "shared"))
    expected = whole.run(options)
    monkeypatch.setattr(processes, "_begin", begin)
    monkeypatch.setenv("AEGIR_TEST_NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(TESTS), *sys.path])))
    summary = shared.run(options, "--engine", "processes", "--workers", "2")
    assert summary["chips_written"] == expected["chips_written"]
    built = (tmp_path / "notes").read_text().split()
    assert 1 <= len(built) <= 2 < summary["partitions"]
    assert len(set(built)) == len(built)
    assert str(os.getpid()) not in built

    def rows(flow: Flow) -> list[Any]:
        return sorted([row["mask_id"], row["verdict"], row["scores"], row["mask"]] for row in flow.masks())

    assert rows(whole) == rows(shared)
