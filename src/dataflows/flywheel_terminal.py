"""The commands ``flywheel`` and ``write-back``: rounds under a progress bar, the ledger as a table and a picture."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dataflows.discovery_config import load
from dataflows.flywheel import CLOSING, EACH, FIRST, FlywheelSummary, run_flywheel
from dataflows.flywheel_plot import ledger_picture
from dataflows.terminal import print_rows, store_place
from dataflows.write_back import WriteBackSummary, run_write_back
from store.ducklake_files import adopt_files
from store.rounds import Round, read_rounds
from utils.errors import ConfigError

ROWS = (
    ("model", None),
    ("truth on test ground", None),
    ("recall, all detections", "metrics.recall_before"),
    ("precision, all detections", "metrics.precision_before"),
    ("recall, accepted", "metrics.recall_after"),
    ("precision, accepted", "metrics.precision_after"),
    ("model IoU, gold test rows", "metrics.model_iou"),
    ("model F1, gold test rows", "metrics.model_f1"),
    ("candidate IoU", "metrics.candidate_iou"),
    ("candidate F1", "metrics.candidate_f1"),
    ("training masks, IoU with truth", "metrics.train_mask_iou"),
    ("true objects", "counts.test_truth"),
    ("search", None),
    ("km² searched", "counts.km2_searched"),
    ("km² pruned", "counts.km2_pruned"),
    ("detections", "counts.detections"),
    ("accepted", "counts.accepted"),
    ("review", "counts.review"),
    ("rejected", "counts.rejected"),
    ("unverifiable", "counts.unverifiable"),
    ("backfill", None),
    ("generation", "generation"),
    ("masks replaced", "counts.masks_replaced"),
    ("masks added", "counts.masks_added"),
    ("new chips", "counts.new_chips"),
    ("hard negatives", "counts.hard_negatives"),
    ("label drift", "counts.label_drift"),
    ("promoted", "promoted"),
    ("rows", None),
    ("rows", "counts.rows"),
    ("train", "counts.rows_train"),
    ("val", "counts.rows_val"),
    ("test", "counts.rows_test"),
    ("test, gold", "counts.rows_test_gold"),
    ("lake rows inserted", "counts.lake_inserted"),
    ("lake rows updated", "counts.lake_updated"),
)
"""Lines of the ledger: name, and the field of the round; a name without a field is a heading."""


def run_flywheel_command(arguments: argparse.Namespace, changes: dict[str, Any]) -> int:
    """``python -m dataflows flywheel``; returns the exit code."""
    if arguments.ledger:
        return _show_ledger(arguments, changes)
    config = load(arguments.config, **changes)
    summary = flywheel_with_progress(
        config, rounds=arguments.rounds, from_model=arguments.from_model, measure_last=not arguments.no_last_search
    )
    _show(summary.ledger, arguments, summary)
    return summary.exit_code


def flywheel_with_progress(config: Any, **asked: Any) -> FlywheelSummary:
    """Turn the flywheel under a bar of stages."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as bar:
        rounds = asked["rounds"]
        closing = len(CLOSING) if asked.get("measure_last", True) else 0
        task = bar.add_task("flywheel", total=len(FIRST) + rounds * len(EACH) + closing)

        def show(summary: FlywheelSummary) -> None:
            at = f"round {summary.round}: {summary.stage}" if summary.stage else f"flywheel: {summary.status}"
            bar.update(task, description=at, completed=summary.stages_run + summary.stages_skipped)

        return run_flywheel(config, **asked, progress=show)


def ledger_table(rounds: Sequence[Round]) -> Table:
    """The ledger: a column per round, a line per figure that any round has."""
    table = Table(title=f"flywheel {rounds[0].flywheel_id}" if rounds else "flywheel", title_justify="left")
    table.add_column("")
    for row in rounds:
        table.add_column(f"round {row.number}", justify="right")
    heading: str | None = None
    for name, place in ROWS:
        if place is None:
            heading = name
            continue
        values = [_value(row, place) for row in rounds]
        if all(value is None for value in values):
            continue
        if heading is not None:
            table.add_section()
            heading = None
        table.add_row(name, *(_shown(value) for value in values))
    table.add_section()
    table.add_row("seconds", *(f"{sum(row.seconds.values()):.0f}" for row in rounds))
    for stage in dict.fromkeys((*FIRST, *EACH)):
        if any(row.seconds.get(stage, 0) >= 1 for row in rounds):
            table.add_row(
                f"  {stage}", *(f"{row.seconds[stage]:.0f}" if stage in row.seconds else "" for row in rounds)
            )
    table.add_row("MB written", *(f"{sum(row.bytes.values()) / 1e6:.1f}" for row in rounds))
    table.add_row("status", *(row.status for row in rounds))
    return table


def print_ledger(rounds: Sequence[Round]) -> None:
    """Show the ledger."""
    console = Console(markup=False, emoji=False)
    Console(markup=False, emoji=False, width=max(console.width, 40 + 14 * len(rounds))).print(ledger_table(rounds))


def _value(row: Round, place: str) -> Any:
    kind, _, name = place.partition(".")
    found = getattr(row, kind)
    return found.get(name) if name else found


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.3f}" if math.isfinite(value) else ""
    return f"{int(value):,}"


def _show_ledger(arguments: argparse.Namespace, changes: dict[str, Any]) -> int:
    store = arguments.store
    if store is None and arguments.config.is_file():
        store = load(arguments.config, **changes).store
    rounds = read_rounds(store_place(store))
    if not rounds:
        raise ConfigError(f"{store_place(store)} holds no round of a flywheel; run `python -m dataflows flywheel`")
    _show(rounds, arguments, None)
    return 0


def _show(rounds: Sequence[Round], arguments: argparse.Namespace, summary: FlywheelSummary | None) -> None:
    if arguments.json:
        values = {"rounds": [asdict(row) for row in rounds]} if summary is None else summary.counts()
        sys.stdout.write(json.dumps(values, default=str) + "\n")
    else:
        print_ledger(rounds)
    if arguments.plot is not None:
        sys.stderr.write(f"{ledger_picture(rounds, arguments.plot)}\n")


def run_write_back_command(arguments: argparse.Namespace, changes: dict[str, Any]) -> int:
    """``python -m dataflows write-back``; returns the exit code."""
    config = load(arguments.config, **changes)
    if arguments.adopt_files:
        if config.build.catalog is None:
            raise ConfigError("these settings name no catalogue")
        sys.stderr.write(f"{adopt_files(config.build.catalog)}\n")
    verdicts = tuple(text.strip() for text in arguments.verdicts.split(","))
    summary = run_write_back(config, search_id=arguments.search, verdicts=verdicts)
    if arguments.json:
        sys.stdout.write(json.dumps(summary.counts()) + "\n")
    else:
        print_write_back(summary)
    return summary.exit_code


def print_write_back(summary: WriteBackSummary) -> None:
    """Show what a write-back did."""
    snapshot = f"{summary.snapshot}" + ("" if summary.snapshot != summary.snapshot_before else ": nothing had changed")
    if summary.snapshot is None:
        snapshot = "unknown; a second call finds what is left to write"
    rows = {
        "search": f"{summary.search_id}, {summary.judged} of {summary.detections} detections judged",
        "lake": f"table {summary.table} of {summary.catalog}",
        "snapshot": snapshot,
        "rows": f"{summary.inserted} inserted, {summary.updated} updated, {summary.unchanged} unchanged",
    }
    if summary.withdrawn:
        rows["withdrawn"] = f"{summary.withdrawn}, whose detection is gone or no longer judged"
    if summary.superseded:
        rows["superseded"] = (
            f"{summary.superseded}, whose object a newer search found again; it rejected {summary.overruled}"
        )
    print_rows(summary, rows)
