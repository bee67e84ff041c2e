"""The commands ``validate`` and ``validation-report``: verdicts under a progress bar, and what they are worth."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from dataflows.discovery_config import DiscoveryConfig, load
from dataflows.terminal import print_rows, progress_bar
from dataflows.validation import ValidationSummary, run_validation
from dataflows.validation_report import Report, validation_report
from utils.detection_truth import PV

_WIDTH = 130


def run_validate_command(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> int:
    """``python -m dataflows validate``; returns the exit code."""
    summary = validation_with_progress(load(arguments.config, **changes), search_id=arguments.search)
    if arguments.json:
        sys.stdout.write(json.dumps(summary.counts()) + "\n")
    else:
        print_validation_summary(summary)
    return summary.exit_code


def run_report_command(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> int:
    """``python -m dataflows validation-report``; returns 0."""
    report = validation_report(load(arguments.config, **changes), arguments.search)
    if arguments.json:
        sys.stdout.write(json.dumps(report.values()) + "\n")
    else:
        print_report(report)
    return 0


def validation_with_progress(config: DiscoveryConfig, *, search_id: str | None = None) -> ValidationSummary:
    """Judge under a progress bar of detections: done/total, rate, skipped, failed."""
    with progress_bar("skipped", "failed") as bar:
        task = bar.add_task("evidence", total=None, skipped=0, failed=0)

        def show(summary: ValidationSummary) -> None:
            measuring = summary.judged == 0
            bar.update(
                task,
                description="evidence" if measuring else "verdicts",
                total=summary.detections,
                completed=summary.skipped + summary.measured if measuring else summary.judged,
                skipped=summary.skipped,
                failed=summary.failed,
            )

        return run_validation(config, search_id=search_id, progress=show)


def print_validation_summary(summary: ValidationSummary) -> None:
    """Show what a run judged."""
    rows = {
        "search": f"{summary.search_id}: {summary.detections} detections",
        "evidence": f"{summary.measured} measured, {summary.skipped} known, {summary.evidence_written} rows written",
        "verdicts": ", ".join(f"{count} {verdict}" for verdict, count in summary.verdicts.items()),
        "judged": f"{summary.judged} in this run; the mask factory was asked about {summary.asked_masks}",
        "model": f"{summary.model or 'none'}: {summary.model_note}",
    }
    if summary.failed:
        rows["failed"] = f"{summary.failed} detections whose imagery could not be read, see the table errors"
    print_rows(summary, rows)


def print_report(report: Report) -> None:
    """Show precision and recall before and after, and what happened to each kind."""
    plain = Console(markup=False, emoji=False)
    console = Console(markup=False, emoji=False, width=max(plain.width, _WIDTH))
    scores = Table(title=f"search {report.search_id}: {report.detections} detections, {report.arrays} true arrays")
    for heading in ("", "detections", "true", "precision", "recall", "area recall"):
        scores.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    sets = {"before validation": report.before, "accepted": report.after, "not rejected": report.with_review}
    for name, score in sets.items():
        shares = (_share(value) for value in (score.precision, score.recall, score.area_recall))
        scores.add_row(name, str(score.detections), str(score.true), *shares)
    console.print(scores)
    kinds = Table(title="per kind; precision counts true detections and those of the kind alone")
    for heading in ("kind", "detections", "accept", "review", "reject", "unverifiable", "precision before", "after"):
        kinds.add_column(heading, justify="left" if heading == "kind" else "right", no_wrap=True)
    for kind, counts in report.by_kind.items():
        both = (report.before, report.after)
        told = ["" if kind == PV else _share(score.per_confuser.get(kind)) for score in both]
        kinds.add_row(kind, *map(str, counts.values()), *told)
    console.print(kinds)
    console.print(report.rule, highlight=False)
    if report.unjudged:
        console.print(f"{report.unjudged} detections have no verdict yet", highlight=False)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
