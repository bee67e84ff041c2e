"""Findings of all rules on a batch of detections, and their rows."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from hamilton.function_modifiers import group, inject, source, tag

from store.discovery_schemas import EVIDENCE
from utils.evidence import DECISIVE, LOG_ODDS, Finding, evidence_id

SPECTRAL_RULES = (
    "cloud_cover", "water_surface", "vegetation_cover", "bright_cover", "pv_spectrum", "ring_contrast",
    "spectral_persistence",
)  # fmt: skip
"""Rules on multispectral imagery."""
VISUAL_RULES = (
    "module_grid", "panel_colour", "sharp_outline", "smooth_surface", "cast_shadow", "parked_vehicle",
    "visual_persistence",
)  # fmt: skip
"""Rules on VHR imagery."""
OUTLINE_RULES = ("model_score", "plausible_size", "plausible_shape", "known_pv")
"""Rules on what the search itself and the labels say."""
RULES = (*SPECTRAL_RULES, *VISUAL_RULES, *OUTLINE_RULES)
"""All rules that are asked of every detection."""


@tag(stage="validation")
@inject(by_rule=group(*(source(rule) for rule in RULES)))
def detection_findings(by_rule: list[dict[str, Finding]], readable: list[str]) -> dict[str, list[Finding]]:
    """Detection id → the finding of every rule, in the order of :data:`RULES`."""
    return {one: [found[one] for found in by_rule] for one in readable}


def rows_of(findings: dict[str, list[Finding]], recipe: str, run_id: str) -> pa.Table:
    """Findings as rows of ``evidence``.

    Args:
        findings: detection id → findings.
        recipe: hash of code and settings behind them.
        run_id: the run.
    """
    now = datetime.now(UTC)
    rows = [_row(one, found) for one, several in findings.items() for found in several]
    made = {"validation_recipe": recipe, "run_id": run_id, "created_at": now}
    return pa.Table.from_pylist([row | made for row in rows], schema=EVIDENCE)


def _row(detection_id: str, found: Finding) -> dict[str, Any]:
    details = {LOG_ODDS: found.log_odds, DECISIVE: float(found.decisive)} | dict(found.details)
    return {
        "evidence_id": evidence_id(detection_id, found.rule),
        "detection_id": detection_id,
        "rule": found.rule,
        "verdict": found.verdict,
        "value": found.value,
        "unit": found.unit,
        "reason": found.reason,
        "details": list(details.items()),
        "scene_ids": list(found.scene_ids),
        "acquired_at": found.acquired_at,
    }
