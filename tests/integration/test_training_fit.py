"""The command line in this process: fit, resume, validate, test, predict on a small store."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from store import lance_io
from support.training_tables import Chips, write_store
from training import fit_summary
from training.cli import main
from training.predict import probabilities

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory whose default store holds chips, and a finished fit of the packaged defaults."""
    folder = tmp_path_factory.mktemp("home")
    write_store(folder / "data", Chips(splits={"train": 48, "val": 8, "test": 6}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", *QUIET, "--trainer.max_epochs", "5"]) == 0
    return folder


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def config(folder: Path, name: str, values: dict[str, object]) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_fit_without_a_setting_learns_the_default_store(here: Path) -> None:
    summary = fit_summary(here / "runs" / "fit" / "version_0")
    assert summary["val/iou"] > 0.4
    assert summary["epochs"] == 5
    record = summary["record"]
    assert record["store"] == "data/lancedb"
    assert record["version"] == lance_io.open_table("data/lancedb", "training_data").version
    assert record["chips"] == {"train": 48, "val": 8, "test": 6}
    assert summary["checkpoint"].name == "best.ckpt"
    assert (summary["checkpoint"].parent / "last.ckpt").exists()
    assert (summary["run_dir"] / "config.yaml").exists()


def test_msi_by_packaged_name_and_own_yaml(here: Path) -> None:
    own = config(here, "tiny", {"data": {"bands": ["B04", "B08"]}, "trainer": {"max_epochs": 1}})
    name = ["--trainer.logger.init_args.name", "msi"]
    assert main(["fit", *QUIET, "--config", "msi", "--config", own, *name]) == 0
    summary = fit_summary("runs/msi")
    assert summary["record"]["channels"] == ["B04", "B08", "ndvi", "ndbi", "ndpvi"]
    assert summary["record"]["inputs"]["msi_window_px"] == 12
    weights = torch.load(summary["checkpoint"], weights_only=True)["state_dict"]
    assert weights["mean"].shape == (5,)
    predicted = probabilities(summary["checkpoint"], lance_io.open_table("data/lancedb", "training_data").take([0, 1]))
    assert predicted.shape == (2, 12, 12)


def test_resume_takes_its_settings_from_the_checkpoint(here: Path) -> None:
    own = config(
        here,
        "small",
        {"data": {"batch_size": 12, "train_crop_px": 32, "crops_per_chip": 1, "where": "cloud_fraction < 1"}},
    )
    name = ["--trainer.logger.init_args.name", "resumed"]
    assert main(["fit", *QUIET, "--config", own, "--trainer.max_epochs", "1", *name]) == 0
    last = str(fit_summary("runs/resumed")["checkpoint"].with_name("last.ckpt"))
    assert main(["fit", *QUIET, "--ckpt_path", last, "--trainer.max_epochs", "2", *name]) == 0
    content = torch.load(fit_summary("runs/resumed")["checkpoint"].with_name("last.ckpt"), weights_only=True)
    assert content["epoch"] == 1
    assert content["global_step"] == 8
    assert content["LanceDataModule"]["settings"]["where"] == "cloud_fraction < 1"


def test_validate_and_test_repeat_the_metrics_of_the_fit(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = fit_summary("runs/fit/version_0")
    assert main(["validate", *QUIET, "--ckpt_path", str(summary["checkpoint"])]) == 0
    printed = capsys.readouterr().out
    assert f"{summary['val/iou']:.4f}" in printed or f"{summary['val/iou']:.6f}"[:7] in printed
    assert main(["test", *QUIET, "--ckpt_path", str(summary["checkpoint"])]) == 0
    assert "test/iou" in capsys.readouterr().out


def test_predict_writes_probabilities_of_every_test_chip(here: Path) -> None:
    checkpoint = fit_summary("runs/fit/version_0")["checkpoint"]
    assert main(["predict", *QUIET, "--ckpt_path", str(checkpoint)]) == 0
    written = pq.read_table("runs/predictions.parquet")
    table = lance_io.open_table("data/lancedb", "training_data").to_table(filter="split = 'test'").sort_by("uuid")
    assert written["uuid"].to_pylist() == table["uuid"].to_pylist()
    assert json.loads(written.schema.metadata[b"inputs"])["mode"] == "vhr"
    stored = np.stack([np.frombuffer(each.as_py(), np.uint8).reshape(64, 64) for each in written["probability"]])
    np.testing.assert_allclose(stored / 255, probabilities(checkpoint, table), atol=0.5 / 255 + 1e-5)
    truth = np.stack([np.frombuffer(each.as_py(), np.uint8).reshape(64, 64) for each in table["generated_mask"]]) == 1
    predicted = probabilities(checkpoint, table) > 0.5
    iou = (predicted & truth).sum(axis=(1, 2)) / (predicted | truth).sum(axis=(1, 2))
    np.testing.assert_allclose(written["iou"].to_numpy(), iou, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["validate"], "validate needs --ckpt_path; the newest here is runs"),
        (["test", "--ckpt_path", "nowhere.ckpt"], "no checkpoint at nowhere.ckpt"),
        (["test", "--ckpt_path", "data/lancedb/training_data.lance"], "no checkpoint"),
        (["fit", "--config", "msy"], "unknown packaged config 'msy'; known: msi, wandb"),
        (["fit", "--data.store", "nowhere"], "no table 'training_data' in the store nowhere"),
        (["fit", "--data.mode", "both"], "unknown training mode 'both'; known: msi, vhr"),
        (["fit", "--data.mode", "msi", "--data.bands", "[B99]"], "unknown band 'B99'; known: B01"),
        (["fit", "--model.encoder_name", "resnet1"], "cannot build Unet with encoder 'resnet1'"),
        (["fit", "--data.where", "split <> 'val'"], "split 'val' holds no chip"),
    ],
)
def test_bad_input_is_said_and_refused(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    before = sorted(here.rglob("*.ckpt"))
    assert main([*arguments, *QUIET]) == 2
    assert text in capsys.readouterr().err
    assert sorted(here.rglob("*.ckpt")) == before


def test_print_config_and_misspelt_options(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["fit", "--config", "msi", "--print_config"])
    assert done.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["mode"] == "msi"
    assert printed["seed_everything"] == 42
    assert printed["model"]["encoder_name"] == "tu-mobilenetv3_small_100"
    with pytest.raises(SystemExit) as done:
        main(["fit", "--trainer.max_epochz", "1"])
    assert done.value.code == 2
    assert "max_epochz" in capsys.readouterr().err
