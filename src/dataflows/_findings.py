"""How measurements become findings: a scale between two anchors, and the words around it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from utils.evidence import Finding, verdict_of

NEUTRAL = 0.25
"""Log-odds below which a finding is neutral: it moves even odds by less than 6 percent points."""


def scaled(value: float, worst: float, best: float, *, against: float, speaks_for: float) -> float:
    """Log-odds of a value: ``-against`` at ``worst`` and beyond, ``speaks_for`` at ``best`` and beyond, a line between.

    Args:
        value: what was measured.
        worst: value that speaks most against photovoltaics; above or below ``best``.
        best: value that speaks most for it.
        against: log-odds taken off at ``worst``, 0 or more.
        speaks_for: log-odds added at ``best``, 0 or more.
    """
    share = float(np.clip((value - worst) / (best - worst), 0, 1))
    return -against + share * (against + speaks_for)


def finding(
    rule: str,
    value: float,
    unit: str,
    log_odds: float,
    words: str,
    *,
    scene_ids: Sequence[str] = (),
    acquired_at: datetime | None = None,
    decisive: bool = False,
    **details: float | None,
) -> Finding:
    """A finding whose verdict is the sign of its log-odds, neutral when small; details that are not known are left out."""
    moved = log_odds if abs(log_odds) >= NEUTRAL else 0.0
    known = {name: float(told) for name, told in details.items() if told is not None and np.isfinite(told)}
    settled: dict[str, Any] = {"scene_ids": tuple(scene_ids), "acquired_at": acquired_at, "decisive": decisive}
    return Finding(
        rule=rule,
        verdict=verdict_of(moved),
        reason=words,
        value=value,
        unit=unit,
        log_odds=moved,
        details=known,
        **settled,
    )
