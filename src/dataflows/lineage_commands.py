"""The commands ``stale`` and ``explain``, and what ``run --only-stale`` leaves."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.tree import Tree

from dataflows import DEFAULT_CONFIG, chain_mermaid, chain_terminal, detection_chain_terminal
from dataflows.config import BuildConfig, load
from dataflows.drivers import recipes_today
from dataflows.stage_recipes import STAGES, StageRecipes
from dataflows.stale_report import StaleReport, StaleStage, stale_because, stale_report
from dataflows.terminal import store_place
from store.chain_differences import Comparison, compare
from store.chains import explain, newest_run
from store.detection_chains import detection_chain, training_rows
from store.schemas import SCHEMA_VERSION
from training.checkpoint_records import checkpoint_record
from utils.errors import AegirError, ConfigError, TableNotFoundError

_MOST = 8
"""Settings and definitions listed per stage; the rest is counted."""


def run_stale(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> int:
    """``python -m dataflows stale``; returns 0 when nothing is stale, 3 when something is."""
    store, today, settings_of = _today(arguments, changes)
    report = stale_report(store, today, settings_of=settings_of, limit=arguments.limit or 0)
    if arguments.json:
        _print_json(report.values())
    else:
        print_stale(report)
    return report.exit_code


def run_explain(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> int:
    """``python -m dataflows explain``: one chain, or why two differ."""
    form = "json" if arguments.json else arguments.format
    store = store_place(arguments.store)
    if arguments.other is None:
        if arguments.other_store is not None:
            raise ConfigError("--other-store is the store of a second chip or mask; name one")
        found_by_model = explained_detection(store, arguments.uuid)
        if found_by_model is not None:
            shown_detection = {
                "json": _print_json,
                "mermaid": _print_mermaid_detection,
                "text": detection_chain_terminal.print_detection,
            }[form]
            shown_detection(found_by_model)
            return 0
        chain = explain(store, arguments.uuid)
        chain["stale"] = _stale_today(chain, arguments.config, changes)
        shown = {"json": _print_json, "mermaid": _print_mermaid, "text": chain_terminal.print_chain}[form]
        shown(chain)
        return 0
    if form == "mermaid":
        raise ConfigError("two masks are compared as text or JSON; draw each with `explain ID --format mermaid`")
    found = compare((store, arguments.uuid), (arguments.other_store or store, arguments.other))
    if form == "json":
        _print_json(_comparison_values(found))
    else:
        chain_terminal.print_comparison(found)
    return 0


def explained_detection(store: str, detection_id: str) -> dict[str, Any] | None:
    """The chain behind a detection, with what its model was trained on; None where the store has none of that id.

    See :func:`store.detection_chains.detection_chain`; beside that it holds ``model``: ``checkpoint`` (None where
    unknown), ``rows`` (of its training) and ``unknown``, why its file cannot be read.

    Raises:
        AegirError: more than one detection has that id.
    """
    chain = detection_chain(store, detection_id)
    if chain is None:
        return None
    model: dict[str, Any] = {"checkpoint": None, "rows": None, "unknown": None}
    try:
        model["checkpoint"] = checkpoint_record(chain["detection"]["model"])
        model["rows"] = training_rows(model["checkpoint"]["record"])
    except ConfigError as error:
        model["unknown"] = str(error)
    return chain | {"model": model}


def stale_after(config: BuildConfig) -> StaleReport:
    """What is stale after ``run --only-stale``."""
    return stale_report(config.store, recipes_today(asdict(config)), settings_of="the run")


def print_stale_after(report: StaleReport) -> None:
    """Say what ``run --only-stale`` left as it was."""
    console = Console(markup=False, emoji=False)
    left = f"{report.stale} rows are still stale: this plan does not ask for them, or they failed"
    console.print(left if report.stale else "nothing is stale any more", highlight=False, soft_wrap=True)
    if report.kept:
        console.print(_kept(report), highlight=False, soft_wrap=True)


def print_stale(report: StaleReport) -> None:
    """Show a report: counts per stage, then per run and recipes, and why."""
    console = Console(markup=False, emoji=False)

    def line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    line(
        f"{report.stale} of {report.rows} rows of {report.store} are stale, under the settings of {report.settings_of}"
    )
    if report.kept:
        line(_kept(report))
    if report.stale:
        line(", ".join(f"{stage} {count}" for stage, count in report.stages.items()))
    for group in report.groups:
        when = f" of {group.started_at:%Y-%m-%d %H:%M}" if group.started_at else ""
        tree = Tree(f"{group.rows} rows of run {group.run_id}{when}")
        for found in group.stages:
            stage = tree.add(f"{found.stage}: {found.recipe} then, {report.recipes[found.stage]} now")
            for text in why_texts(found):
                stage.add(text)
        Console(markup=False, emoji=False, width=max(console.width, 140)).print(tree, highlight=False)
    for row in report.uuids:
        line(f"{row['uuid']}  {', '.join(row['stages'])}")
    if report.schema_version != SCHEMA_VERSION:
        line(
            f"the table has schema version {report.schema_version}, this is {SCHEMA_VERSION}: rows can be read, and "
            "made again once it is upgraded"
        )
    elif report.stale:
        line("make them again: python -m dataflows run --only-stale")


def why_texts(found: StaleStage) -> list[str]:
    """Why a stage is stale, a line each."""
    settings = [f"setting {name}: {then!r} then, {now!r} now" for name, (then, now) in found.settings.items()]
    code = [f"code {where}: {how}" for where, how in found.code]
    return [*_first(settings, "settings"), *_first(code, "definitions"), *found.reasons]


def _first(texts: list[str], what: str) -> list[str]:
    rest = len(texts) - _MOST
    return [*texts[:_MOST], f"… and {rest} {what} more (--json lists all)"] if rest > 0 else texts


def _kept(report: StaleReport) -> str:
    return f"{report.kept} rows of other recipes keep their mask: a person drew or reviewed it, or a backfill made it"


def _today(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> tuple[str, StageRecipes, str]:
    """Store, today's recipes, and whose settings they rest on."""
    path = arguments.config or (Path(DEFAULT_CONFIG) if Path(DEFAULT_CONFIG).is_file() else None)
    if path is not None:
        config = load(path, **changes)
        return config.store, recipes_today(asdict(config)), str(path)
    if changes.keys() - {"store"}:
        raise ConfigError(f"--set changes settings of a file, and there is no {DEFAULT_CONFIG} here; give --config")
    store = store_place(arguments.store)
    run = newest_run(store, "build")
    if run is None:
        raise TableNotFoundError(f"{store} has no run of the build flow to take settings from; give --config")
    return store, recipes_today(run["config"] or {}), f"run {run['run_id']}, its newest"


def _stale_today(chain: Mapping[str, Any], path: Path | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Stage → whether it is stale, and why; or why that is not known."""
    nothing: dict[str, Any] = {"settings_of": None, "stages": {}, "why": {}, "unknown": None}
    run, row = chain["run"], chain["mask"] or chain["chip"]
    if path is None and run is None:
        return nothing | {"unknown": "the run that made it has no row in `runs`; give --config"}
    try:
        settings = asdict(load(path, **changes)) if path else run["config"] or {}
        today = recipes_today(settings)
    except AegirError as error:
        if path is not None:
            raise
        return nothing | {"unknown": f"the run's settings cannot be used today ({error}); give --config"}
    stages = [stage for stage in STAGES if f"{stage}_recipe" in row]
    known = {f"{stage}_recipe": row.get(f"{stage}_recipe", today.recipes[stage]) for stage in STAGES}
    because = {found.stage: why_texts(found) for found in stale_because(known, run, today)}
    return nothing | {
        "settings_of": str(path) if path else "its run",
        "stages": {stage: stage in because for stage in stages},
        "why": because,
    }


def _comparison_values(found: Comparison) -> dict[str, Any]:
    return {
        "first": found.first,
        "second": found.second,
        "pixels_differ": found.pixels_differ,
        "pixels": found.pixels,
        "differences": [asdict(difference) for difference in found.differences],
        "unknown": list(found.unknown),
    }


def _print_json(values: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(values, default=str) + "\n")


def _print_mermaid_detection(chain: Mapping[str, Any]) -> None:
    sys.stdout.write(chain_mermaid.mermaid_detection(chain))


def _print_mermaid(chain: Mapping[str, Any]) -> None:
    sys.stdout.write(chain_mermaid.mermaid_chain(chain))
