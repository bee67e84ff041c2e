"""The commands `discover` and `plan discover`: a bar of blocks, what was found, and what a search would cost."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from dataflows.discovery import plan_discovery, run_discovery
from dataflows.discovery_config import DiscoveryConfig, load
from dataflows.discovery_plan import DiscoveryPlan, RecallCost
from dataflows.run_summary import DiscoverySummary
from dataflows.terminal import print_rows, progress_bar


def run_discover_command(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> int:
    """``python -m dataflows discover``; returns the exit code."""
    summary = discover_with_progress(load(arguments.config, **changes))
    if arguments.json:
        sys.stdout.write(json.dumps(summary.counts()) + "\n")
    else:
        print_discovery(summary)
    return summary.exit_code


def run_plan_command(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> int:
    """``python -m dataflows plan discover``; returns the exit code."""
    plan = plan_discovery(load(arguments.config, **changes))
    if arguments.json:
        sys.stdout.write(json.dumps(plan.values()) + "\n")
    else:
        print_discovery_plan(plan)
    return 0


def discover_with_progress(config: DiscoveryConfig) -> DiscoverySummary:
    """Search under a progress bar of blocks: done/total, rate, skipped, failed."""
    with progress_bar("skipped", "failed") as bar:
        task = bar.add_task("blocks", total=None, skipped=0, failed=0)

        def show(summary: DiscoverySummary) -> None:
            waits = " (waiting for another run)" if summary.partitions_waiting else ""
            rate = summary.km2_made / summary.seconds_searching if summary.seconds_searching else 0.0
            bar.update(
                task,
                description=f"blocks, {rate:.4f} km²/s{waits}",
                total=summary.blocks_pending,
                completed=summary.blocks_settled,
                skipped=summary.blocks_done_before + summary.blocks_pruned,
                failed=summary.blocks_failed,
            )

        return run_discovery(config, progress=show)


def print_discovery(summary: DiscoverySummary) -> None:
    """Show what a search did and found."""
    rows = {
        "search": f"{summary.search_id}, model {summary.model_id[:16]} ({summary.model})",
        "ground": f"{summary.km2:.3f} km², {summary.km2_searched:.3f} searched, {summary.km2_pruned:.3f} pruned",
        "blocks": f"{summary.blocks}: {summary.blocks_made} done, {summary.blocks_done_before} before, "
        f"{summary.blocks_pruned} pruned, {summary.blocks_without_imagery} without imagery",
        "failed": f"{summary.blocks_failed} blocks, {summary.inputs_failed} files or features",
        "detections": f"{summary.detections}: {summary.detections_new} new, {summary.detections_confirmed} confirmed",
        "missing": f"{summary.missing} of {summary.labels} known labels: {summary.missing_file}",
        "raster": summary.raster or "none yet",
    }
    if summary.blocks_made_elsewhere:
        rows["elsewhere"] = f"{summary.blocks_made_elsewhere} blocks were done by another run meanwhile"
    print_rows(summary, rows)


def print_discovery_plan(plan: DiscoveryPlan) -> None:
    """Show what a search would do and cost."""
    console = Console(markup=False, emoji=False)
    table = Table(title=f"plan: discover, search {plan.search_id}", show_header=False)
    for name, value in _overview(plan).items():
        table.add_row(name, value)
    console.print(table)
    if plan.rules:
        console.print(_rules_table(plan))


def _overview(plan: DiscoveryPlan) -> dict[str, str]:
    rows, columns = plan.shape
    rows_shown = {
        "model": f"{plan.model} ({plan.model_id[:16]})",
        "raster": f"{rows} × {columns} pixels of {plan.gsd_m:g} m, EPSG:{plan.epsg}, {plan.scenes} scenes",
        "ground": f"{plan.km2:.3f} km²: {plan.km2_done:.3f} done, {plan.km2_pruned:.3f} pruned, "
        f"{plan.km2_left:.3f} left",
        "blocks": f"{plan.blocks}: {plan.blocks_done} done, {plan.blocks_without_imagery} without imagery, "
        f"{plan.blocks_pruned} pruned, {plan.blocks_left} left",
        "time": _time(plan),
    }
    rows_shown |= {f"recall cost, {name}": _told(cost) for name, cost in plan.cost.items()}
    if plan.inputs_failed:
        rows_shown["cannot be used"] = f"{plan.inputs_failed} files of imagery or features of context"
    return rows_shown


def _time(plan: DiscoveryPlan) -> str:
    if plan.time.seconds is None:
        return plan.time.basis
    rate = f" at {plan.time.km2_per_s:.4f} km²/s" if plan.time.km2_per_s else ""
    return f"{plan.time.seconds:.0f} s{rate} ({plan.time.basis})"


def _rules_table(plan: DiscoveryPlan) -> Table:
    table = Table(title="what each rule prunes; recall is that of known objects")
    for name in ("rule", "", "blocks", "km²", *(f"{name} lost" for name in plan.cost)):
        table.add_column(name, justify="left" if name in ("rule", "") else "right", no_wrap=True)
    for rule in plan.rules:
        lost = [_lost(rule.cost[name]) for name in plan.cost]
        table.add_row(rule.name, "alone", str(rule.blocks), f"{rule.km2:.3f}", *lost)
        table.add_row("", "in sequence", str(rule.blocks_in_sequence), f"{rule.km2_in_sequence:.3f}")
        table.add_row("", "cannot judge", str(rule.unjudged))
    return table


def _lost(cost: RecallCost) -> str:
    return f"{cost.objects_lost} ({cost.objects_share:.1%})" if cost.objects_share is not None else "–"


def _told(cost: RecallCost) -> str:
    if not cost.objects:
        return "none known here"
    objects = f"{cost.objects_lost} of {cost.objects} objects ({cost.objects_share or 0:.1%})"
    return objects if cost.area_share is None else f"{objects}, {cost.area_share:.1%} of their area"
