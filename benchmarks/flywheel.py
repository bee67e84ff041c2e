"""Rounds of the flywheel on generated regions: what each gains or loses against truth, beside the spread of seeds.

Per seed: `sample --size flywheel`, the first model on weak labels, then rounds of search, validation, backfill, fit,
gate and write-back, and a search with the last model. Measures are on frozen test ground: objects against true
polygons, pixels against gold test rows. Everything is resumable: a second call goes on where the first one stopped.

    python benchmarks/flywheel.py --seeds 42 43 44 --rounds 3 --epochs 8 --out runs/flywheel

Writes `ledger.json` (all rounds of all seeds, and the table below) and a picture per seed.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from dataflows import discovery_config, drivers
from dataflows.flywheel_plot import ledger_picture
from dataflows.flywheel_terminal import flywheel_with_progress, print_ledger
from store.rounds import Round, read_rounds

MEASURES = {
    "recall, all detections": ("metrics", "recall_before"),
    "precision, all detections": ("metrics", "precision_before"),
    "F1, all detections": ("metrics", "f1_before"),
    "recall, accepted": ("metrics", "recall_after"),
    "precision, accepted": ("metrics", "precision_after"),
    "F1, accepted": ("metrics", "f1_after"),
    "model IoU, gold test rows": ("metrics", "model_iou"),
    "model F1, gold test rows": ("metrics", "model_f1"),
    "training masks, IoU with truth": ("metrics", "train_mask_iou"),
}
"""Measure → where it stands in a round."""

COUNTS = (
    "detections", "accepted", "review", "rejected", "unverifiable", "masks_replaced", "masks_added", "new_chips",
    "hard_negatives", "rows_train", "km2_searched", "km2_pruned",
)  # fmt: skip


def main() -> int:
    """Run what is missing, then print and write everything."""
    arguments = _arguments()
    # before torch comes in: its threads otherwise spin while they wait for each other
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    start = time.monotonic()
    for seed in arguments.seeds:
        rounds = _seed(seed, arguments)
        Console(stderr=True).print(f"seed {seed}: {len(rounds)} rounds, {time.monotonic() - start:.0f} s so far")
    ledgers = {seed: _ledger(seed, arguments) for seed in arguments.seeds}
    for seed, rounds in ledgers.items():
        print(f"seed {seed}")
        print_ledger(rounds)
        ledger_picture(rounds, arguments.out / f"ledger-{seed}.png")
    table = compared(ledgers)
    _print_table(table, list(ledgers))
    values = {
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        "measures": table,
        "counts": {seed: [counts_of(row) for row in rounds] for seed, rounds in ledgers.items()},
        "rounds": {seed: [asdict(row) for row in rounds] for seed, rounds in ledgers.items()},
    }
    (arguments.out / "ledger.json").write_text(json.dumps(values, indent=1, default=str) + "\n")
    print(arguments.out / "ledger.json")
    return 0


def compared(ledgers: Mapping[int, Sequence[Round]]) -> dict[str, dict[str, Any]]:
    """Measure → its values per seed and round, gain from first to last per seed, mean gain and spread of the seeds.

    The spread is the sample standard deviation over seeds: of the first value (how far seeds lie apart before any
    round), and of the gain.
    """
    table: dict[str, dict[str, Any]] = {}
    for name, (kind, key) in MEASURES.items():
        values = {
            seed: [found for row in rounds if (found := getattr(row, kind).get(key)) is not None]
            for seed, rounds in ledgers.items()
        }
        gains = {seed: found[-1] - found[0] for seed, found in values.items() if len(found) > 1}
        firsts = [found[0] for found in values.values() if found]
        table[name] = {
            "values": values,
            "gains": gains,
            "mean_gain": statistics.fmean(gains.values()) if gains else None,
            "spread_of_gains": _spread(list(gains.values())),
            "spread_of_first": _spread(firsts),
        }
    return table


def counts_of(row: Round) -> dict[str, float]:
    """Counts of a round that the ledger of the benchmark shows."""
    return {name: row.counts[name] for name in COUNTS if name in row.counts}


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _seed(seed: int, arguments: argparse.Namespace) -> list[Round]:
    folder = arguments.out / str(seed)
    region = folder / "region"
    drivers.run_sample(root=region, size=arguments.size, seed=seed)
    (folder / "discover.yaml").write_text(yaml.safe_dump(_settings(region, folder, arguments), sort_keys=False))
    summary = flywheel_with_progress(
        _config(seed, arguments), rounds=arguments.rounds, measure_last=not arguments.no_last_search
    )
    if summary.status == "interrupted":
        raise KeyboardInterrupt
    return summary.ledger


def _settings(region: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The region's own settings with a larger block, for one search of everything, and short fits."""
    told = yaml.safe_load((region / "discover.yaml").read_text())
    told |= {
        "build": str((region / "flow.yaml").resolve()),
        "truth_confusers": str((region / "truth" / "confusers.geojson").resolve()),
        "out": str((folder / "discovery").resolve()),
        "block_px": arguments.block_px,
        "overlap_px": arguments.overlap_px,
        "batch_size": 16,
        "gate": {"epochs": arguments.epochs},
        "validation": {"mask_agreement": arguments.mask_agreement},
    }
    return told | ({"prune": {}} if arguments.no_prune else {})


def _config(seed: int, arguments: argparse.Namespace) -> discovery_config.DiscoveryConfig:
    folder = arguments.out / str(seed)
    return discovery_config.load(folder / "discover.yaml", store=str((folder / "store").resolve()))


def _ledger(seed: int, arguments: argparse.Namespace) -> list[Round]:
    return read_rounds(arguments.out / str(seed) / "store")


def _print_table(table: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> None:
    shown = Table(title="first to last round, per seed; gain is last less first")
    shown.add_column("")
    for seed in seeds:
        shown.add_column(f"seed {seed}", justify="right")
    for name in ("mean gain", "spread of gains", "spread of seeds at first"):
        shown.add_column(name, justify="right")
    for name, found in table.items():
        if not any(found["values"].values()):
            continue
        series = (" ".join(f"{value:.3f}" for value in found["values"][seed]) for seed in seeds)
        figures = (found["mean_gain"], found["spread_of_gains"], found["spread_of_first"])
        signs = ("+", "", "")
        told = ("–" if figure is None else f"{figure:{sign}.3f}" for figure, sign in zip(figures, signs, strict=True))
        shown.add_row(name, *series, *told)
    Console(width=200).print(shown)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8, help="epochs of each fit (default 8)")
    parser.add_argument("--size", default="flywheel", help="sample size (default flywheel)")
    parser.add_argument("--block-px", type=int, default=2048, help="block of the search (default 2048)")
    parser.add_argument("--overlap-px", type=int, default=32, help="pixels windows share (default 32)")
    parser.add_argument(
        "--mask-agreement",
        choices=("none", "review", "all"),
        default="review",
        help="detections the mask factory is asked about (default review)",
    )
    parser.add_argument("--no-prune", action="store_true", help="search everything")
    parser.add_argument("--no-last-search", action="store_true", help="do not measure the last model's finds")
    parser.add_argument("--out", type=Path, default=Path("runs/flywheel"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
