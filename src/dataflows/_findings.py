"""How measurements become findings: a scale between two anchors, and the words around it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

import numpy as np

from utils.evidence import Finding, verdict_of

NEUTRAL = 0.25
"""Log-odds below which a finding is neutral: it moves even odds by less than 6 percent points."""


class Seen(Protocol):
    """What a finding rests on: a chip, or an observation."""

    @property
    def scene_ids(self) -> tuple[str, ...]:
        """Scenes, most used first."""

    @property
    def acquired_at(self) -> datetime:
        """Acquisition time of the first of them."""


class Together:
    """Two images that a finding compares; the first is the one it was made on."""

    def __init__(self, first: Seen, second: Seen) -> None:
        self.scene_ids = (*first.scene_ids, *second.scene_ids)
        self.acquired_at = first.acquired_at


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
    seen: Seen | None = None,
    details: Mapping[str, float | None] | None = None,
    decisive: bool = False,
) -> Finding:
    """A finding whose verdict is the sign of its log-odds, neutral when small.

    Args:
        rule: name of its node.
        value: what was measured.
        unit: of the value.
        log_odds: how far it moves the odds; small ones count as 0.
        words: for a person.
        seen: imagery it rests on.
        details: further figures; those that are not known are left out.
        decisive: whether it settles the verdict alone.
    """
    moved = log_odds if abs(log_odds) >= NEUTRAL else 0.0
    told = (details or {}).items()
    return Finding(
        rule=rule,
        verdict=verdict_of(moved),
        reason=words,
        value=value,
        unit=unit,
        log_odds=moved,
        decisive=decisive,
        details={name: float(figure) for name, figure in told if figure is not None and np.isfinite(figure)},
        scene_ids=() if seen is None else seen.scene_ids,
        acquired_at=None if seen is None else seen.acquired_at,
    )
