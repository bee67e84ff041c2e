"""What the command line shows: progress bars, plans and summaries."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dataflows import drivers
from dataflows.build_plan import BuildPlan
from dataflows.config import BuildConfig
from dataflows.context_config import ContextConfig
from dataflows.run_summary import ContextSummary, FlowSummary, RunSummary
from store.lance_io import DEFAULT_STORE


def store_place(store: str | None) -> str:
    """The store asked for, else ``$AEGIR_STORE``, else the default."""
    return store or os.environ.get("AEGIR_STORE") or DEFAULT_STORE


def _console() -> Console:
    """A console that shows names as they are: no markup, no emoji codes."""
    return Console(markup=False, emoji=False)


class _Rate(ProgressColumn):
    """Things per second since the start."""

    def render(self, task: Task) -> Text:
        """The rate of ``task``."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "–/s", style="cyan")


def progress_bar(*fields: str) -> Progress:
    """A bar on stderr: done/total, rate, ``fields`` of the task, time left."""
    counts = [TextColumn(f"{{task.fields[{name}]}} {name}", style="dim") for name in fields]
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        *counts,
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def build_with_progress(
    config: BuildConfig,
    *,
    retry_errors: bool = False,
    since_snapshot: int | None = None,
    only_stale: bool = False,
    fail_fast: bool = False,
) -> RunSummary:
    """Run the build flow under a progress bar of chips: done/total, rate, skipped, failed."""
    with progress_bar("skipped", "failed") as bar:
        task = bar.add_task("chips", total=None, skipped=0, failed=0)

        def show(summary: RunSummary) -> None:
            bar.update(
                task,
                description="chips (waiting for another run)" if summary.partitions_waiting else "chips",
                total=summary.chips_pending,
                completed=summary.chips_settled,
                skipped=summary.chips_skipped + summary.chips_failed_before + summary.chips_not_taken_before,
                failed=summary.failed,
            )

        return drivers.run(
            "build",
            config,
            retry_errors=retry_errors,
            since_snapshot=since_snapshot,
            only_stale=only_stale,
            fail_fast=fail_fast,
            progress=show,
        )


def context_with_progress(config: ContextConfig) -> ContextSummary:
    """Run the context flow under a progress bar of rows: done/total, rate, skipped, failed."""
    with progress_bar("skipped", "failed") as bar:
        task = bar.add_task("context", total=None, skipped=0, failed=0)

        def show(summary: ContextSummary) -> None:
            bar.update(
                task,
                total=summary.rows_pending,
                completed=summary.rows_made + summary.rows_failed,
                skipped=summary.rows_skipped,
                failed=summary.failed,
            )

        return drivers.run("context", config, progress=show)


def sample_with_progress(root: Path, size: str, seed: int) -> dict[str, Any]:
    """Generate the sample region under a progress bar of files; returns what the flow reports."""
    with progress_bar() as bar:
        task = bar.add_task(f"sample region ({size})", total=None)
        receipt = drivers.run_sample(
            root=root,
            size=size,
            seed=seed,
            progress=lambda what, done, total: bar.update(task, completed=done, total=total),  # noqa: ARG005
        )
        if not receipt["fresh"]:
            bar.update(task, total=1, completed=1)
        return receipt


def plan_counts(build: BuildPlan) -> dict[str, Any]:
    """A plan in numbers."""
    counts = {
        "chips": len(build.chips),
        "pending": len(build.pending),
        "failed_before": build.failed_before,
        "not_taken": build.not_taken_before,
        "no_longer_planned": build.no_longer_planned,
        "to_retire": {"prompts": len(build.retirement.prompt_ids), "chips": len(build.retirement.chips)},
        "partitions": len(build.partitions),
        "prompts": len(build.prompts),
        "roles": dict(Counter(build.pending["chip_role"].to_pylist())),
        "splits": dict(Counter(build.chips["split"].to_pylist())),
        "prompt_kinds": dict(Counter(build.prompts["kind"].to_pylist())),
        "labels": build.labels,
        "merged_labels": build.merged_labels,
        "label_snapshot": build.label_snapshot,
        "refused": dict(Counter(f.error_type for f in build.failures)),
    }
    if build.stale is not None:
        counts["stale"] = {"kept": build.stale.kept, "not_planned": build.stale.not_planned}
    return counts


def print_plan(build: BuildPlan) -> None:
    """Show what a run would do."""
    counts = plan_counts(build)
    table = Table(title="plan: build", show_header=False)
    for name, value in counts.items():
        shown = ", ".join(f"{k} {v}" for k, v in sorted(value.items())) if isinstance(value, dict) else str(value)
        table.add_row(name.replace("_", " "), shown or "–")
    _console().print(table)


def print_summary(summary: RunSummary) -> None:
    """Show what a run did."""
    made = f"{summary.chips_written} written, {summary.chips_skipped} already there"
    failed = f"{summary.chips_failed} chips, {summary.partitions_failed} partitions, {summary.inputs_failed} inputs"
    rows = {
        "chips": f"{summary.chips_planned} planned, {made}",
        "failed": failed,
        "failed before": f"{summary.chips_failed_before} chips, {summary.inputs_failed_before} inputs",
        "retired": f"{summary.prompts_retired} prompts, {summary.masks_retired} masks, {summary.chips_retired} chips",
        "left": f"{summary.chips_not_taken} background chips without data, "
        f"{summary.chips_no_longer_planned} rows no longer planned",
        "masks": ", ".join(f"{count} {verdict}" for verdict, count in summary.masks.items()),
        "partitions": f"{summary.partitions_done} of {summary.partitions}",
    }
    if summary.partitions_elsewhere:
        rows["elsewhere"] = f"{summary.chips_made_elsewhere} chips were made by another run meanwhile"
    if summary.retried:
        rows["retried"] = f"{summary.retried} times, because the network failed"
    print_rows(summary, rows)


def print_rows(summary: FlowSummary, rows: dict[str, str]) -> None:
    """Show what a run did, how long it took and where, and how to see what failed."""
    table = Table(title=f"run {summary.run_id}: {summary.status}", show_header=False)
    for name, value in (rows | {"time": f"{summary.seconds:.1f} s", "store": summary.store}).items():
        table.add_row(name, value)
    console = _console()
    console.print(table)
    if not summary.is_complete:
        console.print(f"what failed: python -m store errors --store {summary.store}", style="yellow")


def print_context_summary(summary: ContextSummary) -> None:
    """Show what a run of the context flow did."""
    rows = {
        "targets": str(summary.targets),
        "rows": f"{summary.rows_written} written, {summary.rows_skipped} already there, {summary.rows_failed} failed",
        "features": f"{summary.features} looked at",
        "failed": f"{summary.failed} features, targets and partitions, {summary.failed_before} failed before",
        "partitions": f"{summary.partitions_done} of {summary.partitions}, {summary.partitions_failed} failed",
    }
    print_rows(summary, rows)


def print_change(found: dict[str, Any]) -> None:
    """Show what changed between two dates, and what could not be compared."""
    table = Table(title="after minus before")
    columns = ("n_valid", "n_pixels", "mean", "std", "share_loss", "share_gain")
    for name in ("index", *columns):
        table.add_column(name.replace("_", " "), justify="left" if name == "index" else "right")
    for name, row in found["statistics"].items():
        values = (row[column] for column in columns)
        table.add_row(name, *("–" if v is None else str(v) if isinstance(v, int) else f"{v:.4f}" for v in values))
    console = _console()
    console.print(table)
    for name, reason in found["skipped"].items():
        console.print(f"{name} skipped: {reason}", style="dim")
    for place, reason in found["unreadable"].items():
        console.print(f"{place} not used: {reason}", style="yellow", soft_wrap=True)
    if found["raster"]:
        console.print(f"written: {found['raster']['path']}", soft_wrap=True)
