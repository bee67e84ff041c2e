"""What the commands of backfill show: a progress bar, and panels of what was done."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from dataflows.backfill import run_backfill
from dataflows.backfill_summary import BackfillSummary
from dataflows.discovery_config import DiscoveryConfig, load
from dataflows.gold import GoldSummary, supply_gold
from dataflows.promotion_gate import GateReport, gate_generation
from dataflows.terminal import print_rows, progress_bar
from store import promotion
from store.promotion import PromotionReceipt, RollbackReceipt


def run_gold_command(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> int:
    """``python -m dataflows gold``; returns the exit code."""
    summary = supply_gold(load(arguments.config, **changes), arguments.truth, val=arguments.val)
    _shown(arguments, summary.counts(), lambda: _print_gold(summary))
    return summary.exit_code


def run_backfill_command(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> int:
    """``python -m dataflows backfill``; returns the exit code."""
    summary = backfill_with_progress(load(arguments.config, **changes), search_id=arguments.search)
    _shown(arguments, summary.counts(), lambda: print_backfill_summary(summary))
    return summary.exit_code


def run_gate_command(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> int:
    """``python -m dataflows gate``; returns the exit code: 0 promoted, 3 kept back."""
    report = gate_generation(
        load(arguments.config, **changes),
        generation=arguments.generation,
        current_checkpoint=arguments.current,
        candidate_checkpoint=arguments.candidate,
        tag=arguments.tag,
    )
    _shown(arguments, report.counts(), lambda: print_gate_report(report))
    return report.exit_code


def run_promote_command(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> int:
    """``python -m dataflows promote``; returns the exit code."""
    receipt = promotion.promote(load(arguments.config, **changes).store, arguments.generation, arguments.tag)
    _shown(arguments, asdict(receipt), lambda: _print_promotion(receipt))
    return 0


def run_rollback_command(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> int:
    """``python -m dataflows rollback``; returns the exit code."""
    receipt = promotion.rollback(load(arguments.config, **changes).store, arguments.tag)
    _shown(arguments, asdict(receipt), lambda: _print_rollback(receipt))
    return 0


def backfill_with_progress(config: DiscoveryConfig, *, search_id: str | None) -> BackfillSummary:
    """Backfill under a progress bar of chips: done/total, rate, failed."""
    with progress_bar("failed") as bar:
        task = bar.add_task("backfill", total=None, failed=0)

        def show(summary: BackfillSummary) -> None:
            number = "" if summary.generation is None else f", generation {summary.generation}"
            bar.update(
                task,
                description=f"backfill{number}",
                total=summary.chips_pending,
                completed=summary.chips_made + summary.chips_failed,
                failed=summary.chips_failed,
            )

        return run_backfill(config, search_id=search_id, progress=show)


def print_backfill_summary(summary: BackfillSummary) -> None:
    """Show what a backfill made."""
    drift = "–" if summary.label_drift is None else f"{summary.label_drift:.3f} of the PV ground changes"
    rows = {
        "detections": f"{summary.accepted} accepted, {summary.rejected} rejected, {summary.undecided} undecided of "
        f"search {summary.search_id or '–'}; {summary.held_out} on no chip that may learn",
        "generation": "none: no detection leads to a mask"
        if summary.generation is None
        else f"{summary.generation}, recipe {summary.mask_recipe}; promoted by `gate` or `promote`",
        "chips": f"{summary.chips}: {summary.new_chips} without a mask before, {summary.hard_negatives} with hard "
        f"negatives; {summary.chips_made} made in this run",
        "masks": f"{summary.added} detections added, {summary.replaced} masks replaced; label drift {drift}",
        "failed": f"{summary.chips_failed} chips, {summary.inputs_failed} detections or scenes",
        "written": f"{summary.bytes_written:,} bytes",
    }
    print_rows(summary, rows)


def print_gate_report(report: GateReport) -> None:
    """Show what the gate found."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    rows = {"judged on": f"{report.chips} gold or reviewed test chips in {report.cells} split cells"}
    for name in ("iou", "f1"):
        values = {key: report.metrics[f"{key}/{name}"] for key in ("current", "candidate", "difference", "low", "high")}
        shown = {key: "undefined" if value is None else f"{value:.4f}" for key, value in values.items()}
        rows[name.upper().replace("IOU", "IoU")] = (
            f"{shown['current']} → {shown['candidate']}, difference {shown['difference']} "
            f"({shown['low']} to {shown['high']}), fall let through {report.allowed[name]:.4f}"
        )
    rows["reason"] = report.reason
    if report.receipt is not None:
        rows["promoted"] = _promoted(report.receipt)
    rows["report"] = report.path
    for name, value in rows.items():
        table.add_row(name, value)
    title = f"generation {report.generation}: {'promoted' if report.promoted else 'kept back'}"
    style = "green" if report.promoted else "yellow"
    Console(markup=False, emoji=False).print(Panel(table, title=title, border_style=style, expand=False))


def _promoted(receipt: PromotionReceipt) -> str:
    return (
        f"{receipt.rows} of {receipt.chips} chips written, {receipt.bytes_written:,} bytes; tag {receipt.tag} at "
        f"version {receipt.version}, {receipt.tag_before} at {receipt.version_before}"
    )


def _print_promotion(receipt: PromotionReceipt) -> None:
    sys.stdout.write(f"generation {receipt.generation}: {_promoted(receipt)}\n")


def _print_rollback(receipt: RollbackReceipt) -> None:
    sys.stdout.write(
        f"{receipt.tag}: {receipt.rows} chips have the masks of version {receipt.restored} again; training_data is at "
        f"version {receipt.version}\n"
    )


def _print_gold(summary: GoldSummary) -> None:
    sys.stdout.write(
        f"{summary.chips} chips, {summary.with_pv} of them with true PV: {summary.written} written "
        f"({summary.bytes_written:,} bytes), {summary.kept} kept, {summary.failed} failed\n"
    )


def _shown(arguments: argparse.Namespace, values: Mapping[str, Any], show: Any) -> None:
    if arguments.json:
        sys.stdout.write(json.dumps(values, default=str) + "\n")
    else:
        show()
