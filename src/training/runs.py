"""What a finished fit left behind, read without torch."""

import csv
import math
from pathlib import Path
from typing import Any

import yaml

from utils.errors import ConfigError


def newest_run(run_dir: str | Path) -> Path:
    """The newest folder at or below ``run_dir`` that holds a ``metrics.csv``.

    Raises:
        ConfigError: there is none.
    """
    found = sorted(Path(run_dir).rglob("metrics.csv"), key=lambda path: (path.stat().st_mtime_ns, str(path)))
    if not found:
        raise ConfigError(f"no metrics.csv at or below {run_dir}; `python -m training fit` writes one per run")
    return found[-1].parent


def newest_checkpoint(run_dir: str | Path) -> Path | None:
    """The newest ``best.ckpt`` at or below ``run_dir``; None when there is none."""
    found = sorted(Path(run_dir).rglob("best.ckpt"), key=lambda path: (path.stat().st_mtime_ns, str(path)))
    return found[-1] if found else None


def fit_summary(run_dir: str | Path) -> dict[str, Any]:
    """The best epoch of the newest fit at or below ``run_dir``.

    Returns:
        ``run_dir``, ``checkpoint`` (best, or None), ``epochs`` (validated), ``best_epoch``, the validation metrics of
        that epoch (``val/iou``, ``val/f1``, ``val/iou_imagewise``, ``val/loss``, …; None where undefined) and
        ``record``: what the run was trained on.

    Raises:
        ConfigError: no run is found, or it ended before its first validation.
    """
    folder = newest_run(run_dir)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/loss")]
    if not rows:
        raise ConfigError(f"{folder}/metrics.csv holds no validation; the fit ended before its first epoch did")
    best = max(rows, key=lambda row: -math.inf if (iou := _number(row["val/iou"])) is None else iou)
    recorded = folder / "hparams.yaml"
    hparams = yaml.safe_load(recorded.read_text()) if recorded.exists() else {}
    return {
        "run_dir": folder,
        "checkpoint": newest_checkpoint(folder),
        "epochs": len(rows),
        "best_epoch": int(best["epoch"]),
        **{name: _number(value) for name, value in best.items() if name.startswith("val/")},
        "record": (hparams or {}).get("record"),
    }


def _number(text: str) -> float | None:
    value = float(text) if text else math.nan
    return None if math.isnan(value) else value
