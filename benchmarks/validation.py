"""Validation on generated regions: precision and recall of the finds of a weak model before and after, per confuser.

Per seed: ``sample --size flywheel``, the build, a model fitted for a few epochs on weak labels, a search of the whole
region, and validation twice: by rules alone, and with the model of verdicts that is fitted on the search's own
detections by labels (never by truth). Truth is only for the report. Everything is resumable: a second call goes on.

    python benchmarks/validation.py --seeds 42 43 --epochs 8 --out runs/validation

Writes ``validation.json`` and prints the same as tables.
"""

import argparse
import json
import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from dataflows import discovery_config, drivers
from dataflows.backfill_settings import GateSettings
from dataflows.discovery import run_discovery
from dataflows.discovery_config import DiscoveryConfig
from dataflows.model_fits import fit_model
from dataflows.validation import run_validation
from dataflows.validation_report import Report, validation_report

Reports = dict[str, Report]


def main() -> int:
    """Measure every seed, then print and write everything."""
    arguments = _arguments()
    # before torch comes in: its threads otherwise spin while they wait for each other
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    found = {seed: measured(seed, arguments) for seed in arguments.seeds}
    _print(found)
    values = {
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        "reports": {seed: {way: asdict(report) for way, report in reports.items()} for seed, reports in found.items()},
    }
    (arguments.out / "validation.json").write_text(json.dumps(values, indent=1, default=str) + "\n")
    print(arguments.out / "validation.json")
    return 0


def measured(seed: int, arguments: argparse.Namespace) -> Reports:
    """What validation does to the finds on one region, by rules alone and with the model of verdicts."""
    folder = arguments.out / str(seed)
    region = folder / "region"
    drivers.run_sample(root=region, size=arguments.size, seed=seed)
    (folder / "discover.yaml").write_text(yaml.safe_dump(_settings(region, folder), sort_keys=False))
    config = _config(folder)
    drivers.run("build", config.build)
    gate = GateSettings(epochs=arguments.epochs, seed=seed, out=str(folder / "fits"))
    config = _config(folder, model=str(fit_model(config.store, gate)))
    search = run_discovery(config).search_id
    reports = {}
    for way, model in {"rules": "none", "model": "auto"}.items():
        chosen = {"mask_agreement": arguments.mask_agreement, "model": model}
        before = _cpu_s()
        summary = run_validation(_config(folder, model=config.model, validation=chosen), search_id=search)
        spent = _cpu_s() - before
        print(
            f"seed {seed}, {way}: {summary.measured} measured, {summary.judged} judged, {summary.failed} failed, "
            f"mask factory asked about {summary.asked_masks}; {spent:.0f} s CPU; {summary.model_note}",
            file=sys.stderr,
        )
        reports[way] = validation_report(config, search)
    return reports


def _settings(region: Path, folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = yaml.safe_load((region / "discover.yaml").read_text())
    return told | {
        "build": str((region / "flow.yaml").resolve()),
        "truth_confusers": str((region / "truth" / "confusers.geojson").resolve()),
        "out": str((folder / "discovery").resolve()),
        "batch_size": 16,
    }


def _config(folder: Path, **changes: Any) -> DiscoveryConfig:
    return discovery_config.load(folder / "discover.yaml", store=str((folder / "store").resolve()), **changes)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _print(found: Mapping[int, Reports]) -> None:
    scores = Table(title="finds of the weak model, before and after validation")
    for heading in ("seed", "", "detections", "precision", "recall of arrays", "recall of their area"):
        scores.add_column(heading, justify="right" if heading else "left")
    kinds = Table(title="precision per confuser: true detections and those of the kind alone; false ones in brackets")
    for heading in ("seed", "kind", "before", "rules alone", "with the model"):
        kinds.add_column(heading, justify="left" if heading == "kind" else "right")
    for seed, reports in found.items():
        rules, model = reports["rules"], reports["model"]
        rows = {
            "before": model.before, "rules alone, accepted": rules.after, "with the model, accepted": model.after,
            "with the model, not rejected": model.with_review,
        }  # fmt: skip
        for name, score in rows.items():
            shares = (f"{value or 0:.3f}" for value in (score.precision, score.recall, score.area_recall))
            scores.add_row(str(seed), name, str(score.detections), *shares)
        for kind in model.before.per_confuser:
            told = [(model.before, "detections", model), (rules.after, "accept", rules), (model.after, "accept", model)]
            cells = (
                f"{score.per_confuser.get(kind) or 0:.3f} ({of.by_kind[kind][count]})" for score, count, of in told
            )
            kinds.add_row(str(seed), kind, *cells)
    console = Console(width=160)
    console.print(scores)
    console.print(kinds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43])
    parser.add_argument("--epochs", type=int, default=8, help="epochs of the fit (default 8)")
    parser.add_argument("--size", default="flywheel", help="sample size (default flywheel)")
    parser.add_argument(
        "--mask-agreement",
        choices=("none", "review", "all"),
        default="review",
        help="detections the mask factory is asked about (default review)",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/validation"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
