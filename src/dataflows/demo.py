"""``make demo``: sample region → build → fit → summary, each step skipped when its result is already there."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from dataflows import config, drivers, terminal
from dataflows.drawing import write_drawings
from dataflows.report import TruthScores, contact_sheet, truth_scores
from dataflows.run_summary import RunSummary
from store import lance_io
from store.fingerprint import digest
from training.runs import fit_summary

RUNS = Path("runs/demo")
PICTURES = Path("data/demo")
_DONE = RUNS / "trained"


def run_demo(*, size: str, seed: int, store: str | None) -> int:
    """One turn of the flywheel on the sample region; returns the exit code of the first step that failed, or 0.

    Raises:
        AegirError: a step refused its inputs.
    """
    console = Console()
    start = time.monotonic()
    root = Path("data/sample") / size
    console.rule("[bold]1 of 3  sample region")
    terminal.sample_with_progress(root, size, seed)
    settings = config.load(root / "flow.yaml", store=terminal.store_place(store))
    console.rule("[bold]2 of 3  labels → chips → masks → training samples")
    built = terminal.build_with_progress(settings)
    if built.exit_code:
        terminal.print_summary(built)
        return built.exit_code
    console.rule("[bold]3 of 3  fit")
    code = _fitted(settings.store)
    if code:
        return code
    sheet = contact_sheet(settings.store, PICTURES / "contact_sheet.png")
    pictures = write_drawings({name: drivers.build_driver(name) for name in drivers.FLOWS}, PICTURES / "dags")
    scores = truth_scores(settings.store, settings.truth) if settings.truth else None
    fit = fit_summary(RUNS)
    console.print(_summary(settings, built, scores, fit, seconds=time.monotonic() - start))
    whole = next(path for path in pictures if path.name == "whole.svg")
    console.print(_next_steps(settings.store, sheet, whole, fit["checkpoint"]))
    return 0


def _fitted(store: str) -> int:
    """Train, unless a fit on this version of the table is there; the fit runs in its own process."""
    version = lance_io.open_table(store, "training_data").version
    trained = digest([str(Path(store).resolve()), version])
    if _DONE.is_file() and _DONE.read_text() == trained:
        Console().print(f"training_data version {version} is already trained on (runs/demo)")
        return 0
    arguments = ["fit", f"--data.store={store}", f"--data.version={version}", "--trainer.logger.save_dir=runs"]
    command = [sys.executable, "-m", "training", *arguments, "--trainer.logger.name=demo"]
    code = subprocess.run(command, check=False, env={**os.environ, "PYTHONWARNINGS": "ignore"}).returncode  # noqa: S603
    if code == 0:
        _DONE.write_text(trained)
    return code


def _summary(
    settings: config.BuildConfig, built: RunSummary, scores: TruthScores | None, fit: dict[str, Any], *, seconds: float
) -> Panel:
    chips = lance_io.open_table(settings.store, "training_data")
    masks = lance_io.open_table(settings.store, "masks")
    prompts = lance_io.open_table(settings.store, "prompts").count_rows()
    splits = {name: chips.count_rows(filter=f"split = '{name}'") for name in ("train", "val", "test", "guard")}
    verdicts = {name: masks.count_rows(filter=f"verdict = '{name}'") for name in ("accept", "review", "reject")}
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    rows = {
        "labels": f"{prompts} prompts from {', '.join(t.table for t in settings.labels)} (DuckLake)",
        "chips": f"{chips.count_rows()} ({built.chips_written} new): " + _listed(splits),
        "masks": _listed(verdicts),
    }
    if scores is not None:
        rows["mask IoU against truth"] = (
            f"{scores.mask_iou:.3f} per accepted mask (prompt box alone {scores.box_iou:.3f}), "
            f"{scores.pixel_iou:.3f} over all known pixels; {scores.false_accepts} of {scores.masks} accepted on no PV"
        )
    rows |= {
        "model, validation": f"IoU {_shown(fit['val/iou'])}, F1 {_shown(fit['val/f1'])} against machine masks, "
        f"epoch {fit['best_epoch']} of {fit['epochs']}",
        "tables": f"{settings.store}: {', '.join(lance_io.table_names(settings.store))}",
        "time": f"{seconds:.0f} s",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return Panel(table, title="[bold]one turn of the flywheel", border_style="green", expand=False)


def _next_steps(store: str, sheet: Path, dag: Path, checkpoint: Path | None) -> Panel:
    row = lance_io.scan(store, "training_data", ["uuid"], "n_accepted > 0")["uuid"]
    uuid = row[0].as_py()[:8] if len(row) else "UUID"
    place = "" if store == lance_io.DEFAULT_STORE else f" --store {store}"
    data = "" if store == lance_io.DEFAULT_STORE else f" --data.store={store}"
    lines = [
        f"look     {sheet}",
        f"         {dag}",
        f"browse   python -m store tables{place}",
        f"         python -m store show training_data --columns uuid,split,pv_fraction{place}",
        f"explain  python -m dataflows explain {uuid}{place}",
        f"train    python -m training fit --config msi{data}",
        f"test     python -m training test --ckpt_path={checkpoint}",
        f"find     python -m dataflows discover --model {checkpoint}{place}",
        f"judge    python -m dataflows validate{place}",
        f"turn     python -m dataflows flywheel --rounds 1{place}",
    ]
    return Panel("\n".join(lines), title="[bold]next", border_style="cyan", expand=False)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
