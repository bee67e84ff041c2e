"""What a rule finds on a detection, as a value that travels between nodes and ends in the table ``evidence``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal
from uuid import UUID, uuid5

FindingVerdict = Literal["for", "against", "neutral", "abstain"]

LOG_ODDS: Final = "log_odds"
"""Detail of a stored finding: how far it moves the odds that the object is photovoltaics, natural logarithm."""
DECISIVE: Final = "decisive"
"""Detail of a stored finding: 1 where it settles the verdict alone."""

_NAMESPACE = UUID("5b0f3f56-2b43-5c0e-9d52-0c6c1a4f3d70")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One rule's finding on one detection."""

    rule: str
    """Name of the rule's node."""
    verdict: FindingVerdict
    """``for``, ``against``, ``neutral``, or ``abstain`` where the rule cannot say."""
    reason: str
    """The finding in words a person reads."""
    value: float | None = None
    """What was measured; None where nothing could be."""
    unit: str = ""
    """Unit of the value."""
    log_odds: float = 0.0
    """How far it moves the odds that the object is photovoltaics, natural logarithm; 0 when neutral or abstaining."""
    decisive: bool = False
    """Whether it settles the verdict alone: the object cannot be photovoltaics."""
    details: Mapping[str, float] = field(default_factory=dict)
    """Further figures behind it, by name."""
    scene_ids: tuple[str, ...] = ()
    """Scenes it rests on."""
    acquired_at: datetime | None = None
    """Acquisition time of the first of them."""


def abstains(rule: str, reason: str, *, value: float | None = None, unit: str = "") -> Finding:
    """The finding of a rule that cannot say anything."""
    return Finding(rule=rule, verdict="abstain", reason=reason, value=value, unit=unit)


def verdict_of(log_odds: float) -> FindingVerdict:
    """``for`` above 0, ``against`` below, else ``neutral``."""
    return "for" if log_odds > 0 else "against" if log_odds < 0 else "neutral"


def evidence_id(detection_id: str, rule: str) -> str:
    """Id of a finding's row: the same for the same detection and rule."""
    return str(uuid5(_NAMESPACE, f"{detection_id}/{rule}"))
