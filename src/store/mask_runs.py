"""Runs of the flow that makes generations of masks: the numbers they took, and those that were killed."""

import json
from collections.abc import Callable
from pathlib import Path

from store import lance_io, leases
from store.sql import literal, literals

NUMBERING = ("masks", "backfill")
"""Flows whose runs take a number for a generation."""


def claimed_numbers(uri: str | Path) -> dict[str, int]:
    """Mask recipe → generation that a run took for it, whether or not it wrote a mask."""
    rows = lance_io.scan(uri, "runs", ["recipes", "inputs", "started_at"], f"flow IN ({literals(NUMBERING)})")
    found = {}
    for row in rows.sort_by("started_at").to_pylist():
        recipe, number = json.loads(row["recipes"]).get("mask"), json.loads(row["inputs"]).get("generation")
        if recipe is not None and number is not None:
            found[str(recipe)] = int(number)
    return found


def mark_killed(uri: str | Path, flow: str, lease_of: Callable[[str], str]) -> int:
    """Say of runs of ``flow`` that are recorded as running, and nobody holds the lease of, that they were killed."""
    where = f"flow = {literal(flow)} AND status = 'running'"
    running = lance_io.scan(uri, "runs", ["run_id"], where)["run_id"].to_pylist()
    alive = leases.living(uri, [lease_of(run_id) for run_id in running])
    dead = [run_id for run_id in running if lease_of(run_id) not in alive]
    return lance_io.mark(uri, "runs", dead, {"status": "'killed'"}, where="status = 'running'") if dead else 0


def dataset_keys(uri: str | Path) -> dict[str, str]:
    """Dataset → key of its newest manifest in the store."""
    rows = lance_io.scan(uri, "datasets", ["dataset", "dataset_key", "recorded_at"]).sort_by("recorded_at").to_pylist()
    return {row["dataset"]: row["dataset_key"] for row in rows}
