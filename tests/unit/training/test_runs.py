import os
import subprocess
import sys
from pathlib import Path

import pytest

from training import fit_summary
from utils.errors import ConfigError

METRICS = """epoch,step,train/loss,val/f1,val/iou,val/iou_imagewise,val/loss
0,2,,0.4,0.3,0.2,1.5
0,2,1.6,,,,
1,5,,0.7,0.6,0.5,1.1
2,8,,nan,nan,nan,0.9
"""


def finished(folder: Path, metrics: str = METRICS) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "metrics.csv").write_text(metrics)
    (folder / "hparams.yaml").write_text("record:\n  version: 7\n")
    (folder / "checkpoints" / "best.ckpt").touch()
    return folder


def test_summary_is_the_best_epoch_of_the_newest_run(tmp_path: Path) -> None:
    old, new = finished(tmp_path / "fit" / "version_0"), finished(tmp_path / "fit" / "version_1")
    os.utime(old / "metrics.csv", (1, 1))
    summary = fit_summary(tmp_path)
    assert summary["run_dir"] == new
    assert summary["checkpoint"] == new / "checkpoints" / "best.ckpt"
    assert (summary["best_epoch"], summary["epochs"]) == (1, 3)
    assert summary["val/iou"] == 0.6
    assert summary["record"] == {"version": 7}


def test_undefined_metrics_are_none(tmp_path: Path) -> None:
    finished(tmp_path / "r", "epoch,step,val/iou,val/loss\n0,1,nan,0.5\n")
    assert fit_summary(tmp_path)["val/iou"] is None


def test_nothing_to_summarise(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no metrics\.csv"):
        fit_summary(tmp_path)
    finished(tmp_path / "r", "epoch,step,train/loss\n0,1,0.5\n")
    with pytest.raises(ConfigError, match="holds no validation"):
        fit_summary(tmp_path)


def test_help_and_summary_import_no_torch(tmp_path: Path) -> None:
    finished(tmp_path / "r")
    code = (
        "import sys; from training.cli import main; import training\n"
        "assert main(['--help']) == 0 and main([]) == 0 and main(['fitt']) == 2\n"
        f"training.fit_summary({str(tmp_path)!r})\n"
        "heavy = {'torch', 'lightning', 'segmentation_models_pytorch', 'torchmetrics'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m training" in done.stdout
    assert "unknown subcommand 'fitt'; known: fit, predict, test, validate" in done.stderr
