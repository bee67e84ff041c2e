"""The command ``calibrate``: fit quality on a store's masks with truth, say how well it ranks, write the file."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dataflows.mask_truth import MeasuredStore, measured_masks, require_some
from dataflows.terminal import store_place
from store.calibration_files import write_calibration
from utils.calibration import LEAST_MASKS, Calibration, MeasuredMask, fitted, held_out_quality
from utils.errors import ConfigError
from utils.risk_coverage import (
    Interval,
    ReliabilityBin,
    area_under_curve,
    bootstrap,
    calibration_error,
    kept_and_rest,
    reliability,
    spearman,
)

PROTOCOL = (
    "masks in force of the store, refined and cut to their chip, IoU with the truth polygons their prompt touches; "
    "0 where it touches none"
)
SHARE = 0.7
"""Share of masks kept in the figures."""

_LEAST_FIGURES = 10
_WIDTH = 150


@dataclass(frozen=True, kw_only=True)
class KindFigures:
    """How well held-out quality ranks the masks of one kind of prompt."""

    kind: str
    """point, box, polygon or all."""
    n: int
    """Masks."""
    mean_iou: float
    """Their mean IoU."""
    rank_correlation: Interval
    """Spearman correlation of quality and IoU."""
    kept: Interval
    """Mean IoU of the best :data:`SHARE` by quality."""
    rest: Interval
    """Mean IoU of the others."""
    area: Interval
    """Area under the curve of mean IoU kept over coverage."""
    error: float
    """Mean absolute difference of quality and IoU over the bins."""
    bins: list[ReliabilityBin]
    """Reliability."""


def run_calibrate(arguments: argparse.Namespace) -> int:
    """``python -m dataflows calibrate``; returns 0."""
    stores = [store_place(store) for store in arguments.store or [None]]
    if len(stores) != len(arguments.truth):
        raise ConfigError(f"calibrate takes one --truth per --store; got {len(stores)} and {len(arguments.truth)}")
    if arguments.least < 2:
        raise ConfigError("--least is 2 or more: nothing can be learnt from one mask")
    names = arguments.name or [str(path) for path in arguments.truth]
    calibration, measured = calibrated(
        list(zip(stores, arguments.truth, strict=True)), names=names, seeds=arguments.seed, least_masks=arguments.least
    )
    write_calibration(calibration, arguments.out)
    found = figures(measured.masks, least_masks=arguments.least)
    if arguments.json:
        values = {
            "calibration": calibration.version,
            "path": str(arguments.out),
            "left_out": dict(measured.left_out),
            "figures": [asdict(one) for one in found],
        }
        print_json(values)
    else:
        print_calibration(calibration, arguments.out, measured, found)
    return 0


def calibrated(
    places: Sequence[tuple[str, Path]],
    *,
    names: Sequence[str],
    seeds: Sequence[int] = (),
    least_masks: int = LEAST_MASKS,
) -> tuple[Calibration, MeasuredStore]:
    """A calibration fitted on the masks of some stores, and those masks.

    Args:
        places: stores and their truth.
        names: of the data.
        seeds: behind generated data.
        least_masks: fewest masks to fit on.

    Raises:
        CalibrationError: a store has no mask with truth, or there are too few.
        TableNotFoundError: a store has no masks.
        ConfigError: a truth file cannot be read.
    """
    masks: list[MeasuredMask] = []
    verdicts: list[str] = []
    left_out: dict[str, int] = {}
    for number, (store, truth) in enumerate(places):
        found = measured_masks(store, truth)
        require_some(found, store)
        # chips of two stores may have one id
        masks += [replace(mask, group=f"{number}/{mask.group}") for mask in found.masks]
        verdicts += found.verdicts
        for why, count in found.left_out.items():
            left_out[why] = left_out.get(why, 0) + count
    calibration = fitted(masks, data=names, protocol=PROTOCOL, seeds=seeds, least_masks=least_masks)
    return calibration, MeasuredStore(masks=masks, verdicts=verdicts, left_out=left_out)


def figures(masks: Sequence[MeasuredMask], *, least_masks: int = LEAST_MASKS, draws: int = 500) -> list[KindFigures]:
    """What quality from a calibration on other chips (5 folds) says of masks, per kind of prompt and for all."""
    quality = held_out_quality(masks, least_masks=least_masks)
    iou, groups = np.array([mask.iou for mask in masks]), np.array([mask.group for mask in masks])
    kinds = np.array([mask.kind for mask in masks])
    found = []
    for kind in [*sorted(set(kinds.tolist())), "all"]:
        chosen = np.isfinite(quality) & ((kinds == kind) | (kind == "all"))
        if chosen.sum() >= _LEAST_FIGURES:
            found.append(_kind_figures(kind, quality[chosen], iou[chosen], groups[chosen], draws))
    return found


def _kind_figures(kind: str, quality: Any, iou: Any, groups: Any, draws: int) -> KindFigures:
    def interval(statistic: Any) -> Interval:
        return bootstrap(statistic, quality, iou, groups, draws=draws)

    return KindFigures(
        kind=kind,
        n=len(iou),
        mean_iou=float(iou.mean()),
        rank_correlation=interval(spearman),
        kept=interval(lambda q, y: kept_and_rest(q, y, SHARE)[0]),
        rest=interval(lambda q, y: kept_and_rest(q, y, SHARE)[1]),
        area=interval(area_under_curve),
        error=calibration_error(quality, iou),
        bins=reliability(quality, iou),
    )


def print_calibration(
    calibration: Calibration, path: Path, measured: MeasuredStore, found: Sequence[KindFigures]
) -> None:
    """Show what was fitted and how well it ranks."""
    plain = Console(markup=False, emoji=False)
    # the figures of a kind stand in one line, wherever they are printed
    console = Console(markup=False, emoji=False, width=max(plain.width, _WIDTH))
    fit = Table(title=f"calibration {calibration.version}, {len(measured.masks)} masks")
    for heading in ("backend", "prompt", "masks", "mean IoU", "weights"):
        fit.add_column(heading, no_wrap=heading != "weights")
    for entry in calibration.entries:
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in entry.weights)
        fit.add_row(entry.backend, entry.kind, str(entry.n), f"{entry.mean_iou:.3f}", weights)
    console.print(fit)
    if found:
        console.print(curve_table(found, title="quality from other chips (5 folds), 95 % intervals over chips"))
        console.print(reliability_table(found))
    else:
        console.print("too few masks or chips to say how well it ranks masks of other chips")
    for why, count in measured.left_out.items():
        console.print(f"{count} masks left out: {why}", highlight=False)
    console.print(f"written to {path}", highlight=False, soft_wrap=True)


def curve_table(found: Sequence[KindFigures], *, title: str) -> Table:
    """Risk and coverage per kind."""
    table = Table(title=title)
    kept = f"best {SHARE:.0%}"
    for heading in ("prompt", "masks", "mean IoU", kept, "rest", "area under curve", "Spearman", "error"):
        table.add_column(heading, no_wrap=True)
    for one in found:
        intervals = (one.kept, one.rest, one.area, one.rank_correlation)
        table.add_row(one.kind, str(one.n), f"{one.mean_iou:.3f}", *map(str, intervals), f"{one.error:.3f}")
    return table


def reliability_table(found: Sequence[KindFigures]) -> Table:
    """Quality beside measured IoU."""
    table = Table(title="reliability: masks in fifths by quality")
    for heading in ("prompt", "quality", "masks", "mean quality", "mean IoU", "IoU ≥ ½"):
        table.add_column(heading, no_wrap=True)
    for one in found:
        for cell in one.bins:
            span = f"{cell.low:.2f} to {cell.high:.2f}"
            numbers = (str(cell.n), f"{cell.quality:.3f}", f"{cell.iou:.3f}", f"{cell.half:.0%}")
            table.add_row(one.kind, span, *numbers)
    return table


def print_json(values: Any) -> None:
    """Print values as one line of JSON."""
    Console(markup=False, emoji=False, soft_wrap=True, highlight=False).print(json.dumps(values, default=str))
