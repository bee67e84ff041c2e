"""Findings as rows of the table ``evidence``."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from store.discovery_schemas import EVIDENCE
from utils.evidence import DECISIVE, LOG_ODDS, Finding, evidence_id


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
