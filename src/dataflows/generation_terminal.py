"""The command ``masks``: a generation of masks under a progress bar, and the generations a store holds."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from dataflows import DEFAULT_CONFIG, drivers
from dataflows.config import BuildConfig, load
from dataflows.run_summary import GenerationSummary
from dataflows.terminal import print_rows, progress_bar, store_place
from store.generations import Generation, generations
from utils.errors import ConfigError


def run_masks_command(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> int:
    """``python -m dataflows masks``; returns the exit code."""
    if arguments.list:
        return _list(arguments)
    told = dict(changes)
    if arguments.backend is not None:
        if told.get("mask_backend", arguments.backend) != arguments.backend:
            raise ConfigError(f"--backend is {arguments.backend}, --set mask_backend is {told['mask_backend']}")
        # the options in the file are those of the backend in the file
        told = {"mask_options": {}} | told | {"mask_backend": arguments.backend}
    summary = masks_with_progress(
        load(arguments.config, **told), where=arguments.where, retry_errors=arguments.retry_errors
    )
    if arguments.json:
        sys.stdout.write(json.dumps(summary.counts()) + "\n")
    else:
        print_generation_summary(summary)
    return summary.exit_code


def masks_with_progress(config: BuildConfig, *, where: str | None, retry_errors: bool) -> GenerationSummary:
    """Make a generation under a progress bar of chips: done/total, rate, skipped, failed."""
    with progress_bar("skipped", "failed") as bar:
        task = bar.add_task("masks", total=None, skipped=0, failed=0)

        def show(summary: GenerationSummary) -> None:
            bar.update(
                task,
                description=f"masks, generation {summary.generation}",
                total=summary.chips_pending,
                completed=summary.chips_made + summary.chips_failed + summary.chips_made_elsewhere,
                skipped=summary.chips_skipped + summary.chips_failed_before,
                failed=summary.chips_failed,
            )

        return drivers.run_masks(config, where=where, retry_errors=retry_errors, progress=show)


def print_generation_summary(summary: GenerationSummary) -> None:
    """Show what a run made."""
    rows = {
        "generation": f"{summary.generation}, backend {summary.backend}, recipe {summary.mask_recipe}",
        "chips": f"{summary.chips} asked for, {summary.chips_made} answered, {summary.chips_skipped} already there",
        "failed": f"{summary.chips_failed} chips, {summary.partitions_failed} partitions, "
        f"{summary.chips_failed_before} chips failed before",
        "masks": f"{summary.masks_written} written: "
        + ", ".join(f"{count} {verdict}" for verdict, count in summary.masks.items()),
        "partitions": f"{summary.partitions_done} of {summary.partitions}",
    }
    if summary.chips_made_elsewhere:
        rows["elsewhere"] = f"{summary.chips_made_elsewhere} chips were answered by another run meanwhile"
    if summary.masks_retired:
        rows["retired"] = f"{summary.masks_retired} masks, whose label went meanwhile"
    if summary.retried:
        rows["retried"] = f"{summary.retried} times, because the network failed"
    print_rows(summary, rows)


def print_generations(found: list[Generation], store: str) -> None:
    """Show the generations of a store."""
    table = Table(title=f"generations of masks in {store}")
    for name in ("generation", "backend", "recipe"):
        table.add_column(name, justify="right" if name == "generation" else "left", no_wrap=True)
    for name in ("masks", "accept", "review", "reject", "not in chip", "retired", "mean score", "mean quality"):
        table.add_column(name, justify="right")
    table.add_column("calibration")
    for row in found:
        verdicts = (row.verdicts.get(name, 0) for name in ("accept", "review", "reject", "not_in_chip"))
        means = ("–" if mean is None else f"{mean:.3f}" for mean in (row.mean_score, row.mean_quality))
        counts = [f"{count:,}" for count in (row.masks, *verdicts, row.retired)]
        calibrated = ", ".join(row.calibrations) or "uncalibrated"
        table.add_row(str(row.generation), row.backend, row.mask_recipe, *counts, *means, calibrated)
    console = Console(markup=False, emoji=False)
    Console(markup=False, emoji=False, width=max(console.width, 150)).print(table)


def _list(arguments: argparse.Namespace) -> int:
    store = arguments.store
    if store is None and arguments.config.is_file():
        store = load(arguments.config, labels_only=True).store
    elif store is None and str(arguments.config) != DEFAULT_CONFIG:
        raise ConfigError(f"no settings at {arguments.config}")
    place = store_place(store)
    found = generations(place)
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(row) for row in found], default=str) + "\n")
    else:
        print_generations(found, place)
    return 0
