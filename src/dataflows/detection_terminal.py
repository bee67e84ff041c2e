"""The command ``detections``: what a store holds, by search, and exports."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from dataflows import discovery_config
from dataflows.terminal import store_place
from store.detection_exports import export_detections, format_of
from store.detections import read_detections
from store.lance_io import open_table
from utils.errors import ConfigError

_SHOWN = (
    "search_id", "model", "score", "area_m2", "lon", "lat", "match", "label_id", "verdict", "confidence", "acquired_at",
)  # fmt: skip
_VERDICTS = ("accept", "review", "reject", "unverifiable", "none")


def run_list(arguments: argparse.Namespace) -> int:
    """``python -m dataflows detections list``; returns the exit code."""
    store = _store(arguments)
    rows = _asked(store, arguments, _SHOWN)
    best = rows.sort_by([("score", "descending"), ("detection_id", "ascending")]).slice(0, max(0, arguments.limit))
    searches = search_counts(rows)
    if arguments.json:
        told = {"store": store, "searches": searches, "detections": best.to_pylist()}
        sys.stdout.write(json.dumps(told, default=str) + "\n")
    else:
        print_detections(searches, best, store)
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    """``python -m dataflows detections export``; returns the exit code."""
    kind = arguments.format or format_of(arguments.out)
    rows = _asked(_store(arguments), arguments, ())
    place = export_detections(rows, arguments.out, kind)
    told = {"file": str(place), "format": kind, "detections": len(rows), "bytes": place.stat().st_size}
    if arguments.json:
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        Console(markup=False, emoji=False).print(
            f"{len(rows):,} detections in {place} ({kind}, {told['bytes']:,} bytes)"
        )
    return 0


def search_counts(rows: pa.Table) -> list[dict[str, Any]]:
    """Per search: model, detections, their area, and how many there are of each match and verdict."""
    found = []
    for search_id in sorted(pc.unique(rows["search_id"]).to_pylist()):
        own = rows.filter(pc.equal(rows["search_id"], search_id))
        verdicts = Counter(verdict or "none" for verdict in own["verdict"].to_pylist())
        matches = Counter(own["match"].to_pylist())
        found.append(
            {
                "search_id": search_id,
                "model": own["model"][0].as_py(),
                "detections": len(own),
                "area_m2": pc.sum(own["area_m2"]).as_py(),
                "new": matches["new"],
                "confirmed": matches["confirmed"],
                **{name: verdicts[name] for name in _VERDICTS},
            }
        )
    return found


def print_detections(searches: list[dict[str, Any]], best: pa.Table, store: str) -> None:
    """Show searches, and the detections of the best scores."""
    console = Console(markup=False, emoji=False)
    wide = Console(markup=False, emoji=False, width=max(console.width, 150))
    table = Table(title=f"detections in {store}")
    for name in ("search", "model"):
        table.add_column(name, overflow="fold")
    for name in ("detections", "m²", "new", "confirmed", *_VERDICTS[:-1], "not judged"):
        table.add_column(name, justify="right")
    for row in searches:
        counts = [f"{row[name]:,}" for name in ("new", "confirmed", *_VERDICTS)]
        table.add_row(row["search_id"][:12], row["model"], f"{row['detections']:,}", f"{row['area_m2']:,.0f}", *counts)
    wide.print(table)
    if not len(best):
        return
    table = Table(title=f"{len(best)} with the highest score")
    for name in ("detection", "score", "m²", "lon, lat", "match", "verdict", "day"):
        table.add_column(name, justify="right" if name in ("score", "m²") else "left")
    for row in best.to_pylist():
        match = row["match"] + (f" {row['label_id']}" if row["label_id"] else "")
        verdict = "–" if row["verdict"] is None else f"{row['verdict']} {row['confidence'] or 0:.2f}"
        place = f"{row['lon']:.6f}, {row['lat']:.6f}"
        day = f"{row['acquired_at']:%Y-%m-%d}"
        table.add_row(row["detection_id"], f"{row['score']:.3f}", f"{row['area_m2']:.1f}", place, match, verdict, day)
    wide.print(table)


def _store(arguments: argparse.Namespace) -> str:
    if arguments.store is None and arguments.config is not None:
        return discovery_config.load(arguments.config).store
    return store_place(arguments.store)


def _asked(store: str, arguments: argparse.Namespace, columns: tuple[str, ...]) -> pa.Table:
    """Detections the options ask for.

    Raises:
        ConfigError: a verdict is none, or no search, or several, begin with what was given.
        TableNotFoundError: nothing was ever found in the store.
    """
    open_table(store, "detections")
    verdicts = [name.strip() for name in arguments.verdict.split(",") if name.strip()]
    unknown = sorted(set(verdicts) - set(_VERDICTS))
    if unknown:
        raise ConfigError(f"--verdict: {', '.join(unknown)} is none of {', '.join(_VERDICTS)}")
    search_id = None if arguments.search is None else _search(store, arguments.search)
    return read_detections(store, search_id=search_id, verdicts=verdicts, where=arguments.where, columns=columns)


def _search(store: str | Path, start: str) -> str:
    searches = pc.unique(read_detections(store, columns=["search_id"])["search_id"]).to_pylist()
    fitting = [name for name in searches if name.startswith(start)]
    if len(fitting) != 1:
        known = ", ".join(sorted(searches)) or "(none)"
        raise ConfigError(f"--search {start!r} names {len(fitting)} searches of {store}; there are: {known}")
    return str(fitting[0])
