"""The command ``compare-masks``: how masks of two generations, or masks and truth, differ, as a table or JSON."""

import argparse
import json
import math
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from dataflows.generation_comparison import ComparisonRule, MaskComparison, compare_generations, compare_with_truth
from dataflows.terminal import store_place
from utils.errors import ConfigError
from utils.mask_comparison import TOLERANCE_PX

_TITLES = {"size": "size", "gsd": "GSD", "kind": "prompt", "backend": "backend"}
_WIDE = 140


def run_compare(arguments: argparse.Namespace) -> int:
    """``python -m dataflows compare-masks``; returns 0, also where masks differ."""
    if (arguments.second is None) == (arguments.truth is None):
        raise ConfigError("give a second generation or backend, or --truth, and not both")
    pixels, metres = arguments.tolerance_px, arguments.tolerance_m
    rule = ComparisonRule(
        tolerance_px=TOLERANCE_PX if pixels is None else pixels,
        tolerance_m=metres,
        by=_names(arguments.by),
        verdicts=_names(arguments.verdict or ""),
    )
    store = store_place(arguments.store)
    if arguments.truth is not None:
        found = compare_with_truth(store, arguments.first, arguments.truth, rule)
    else:
        found = compare_generations(store, arguments.first, arguments.second, rule)
    if arguments.json:
        sys.stdout.write(json.dumps(found.values()) + "\n")
    else:
        print_comparison(found)
    return 0


def print_comparison(found: MaskComparison) -> None:
    """Show a comparison: all masks, then by group."""
    values, truth = found.values(), found.second.startswith("truth ")
    console = Console(markup=False, emoji=False)
    console = Console(markup=False, emoji=False, width=max(console.width, _WIDE))
    table = Table(title=f"{found.first} against {found.second}")
    table.add_column("", no_wrap=True)
    missing = ("no truth", "no mask") if truth else ("only first", "only second")
    for name in ("n", "IoU", "boundary F1", "precision", "recall", "Σ area", "log area", *missing, "both empty"):
        table.add_column(name, justify="right")
    table.add_row("all", *_cells(values["overall"]), style="bold")
    for dimension, groups in values["by"].items():
        table.add_section()
        for group, summary in groups.items():
            table.add_row(f"{_TITLES[dimension]} {group}", *_cells(summary))
    console.print(table)
    verdicts = f"only {', '.join(found.rule.verdicts)}; " if found.rule.verdicts else ""
    console.print(
        f"{verdicts}boundary tolerance {found.rule.stated}; Σ area: first over second; log area: mean of ln(first / "
        "second); means are over n pairs with pixels in a mask",
        style="dim",
        soft_wrap=True,
        highlight=False,
    )
    if found.outdated_first or found.outdated_second:
        console.print(
            f"outdated, left out: {found.outdated_first} of the first, {found.outdated_second} of the second; their "
            "chip was made again since: python -m dataflows masks",
            style="yellow",
            soft_wrap=True,
        )


def _cells(summary: dict[str, Any]) -> list[str]:
    shares = (summary[name] for name in ("iou", "boundary_f1", "boundary_precision", "boundary_recall", "area_ratio"))
    ratio = summary["mean_log_area_ratio"]
    return [
        f"{summary['pairs']:,}",
        *("–" if value is None else f"{value:.3f}" for value in shares),
        "–" if ratio is None else f"{ratio:+.3f} ({math.expm1(ratio):+.0%})",
        *(f"{summary[name]:,}" for name in ("only_first", "only_second", "both_empty")),
    ]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)
