"""From findings to a verdict: decisive objections first, then a confidence, then what may not be accepted unseen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from utils.evidence import Finding

DetectionVerdict = Literal["accept", "review", "reject", "unverifiable"]

PRIOR_LOG_ODDS = -0.5
"""Log-odds of a detection before any rule speaks: of what weak detectors find, less than half is photovoltaics."""
SHRINK = 0.7
"""Rules overlap in what they look at, so that the sum of their log-odds overstates; it is taken at this share."""
MOST_REASONS = 5
"""Reasons named with a verdict, the strongest first."""


@dataclass(frozen=True, kw_only=True)
class VerdictLimits:
    """Where verdicts part."""

    accept: float
    """Least confidence of an accepted detection."""
    review: float
    """Least confidence of one a person is to look at."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What became of a detection."""

    verdict: DetectionVerdict
    """accept, review, reject or unverifiable."""
    confidence: float
    """Probability that it is photovoltaics, 0 to 1."""
    reasons: tuple[str, ...]
    """What it rests on, in words a person reads, the strongest first."""


def rule_confidence(findings: Sequence[Finding]) -> float:
    """``σ(prior + 0.7·Σ log-odds)``: a logistic sum with weights set by hand (naive Bayes, shrunk), 0 to 1."""
    total = PRIOR_LOG_ODDS + SHRINK * sum(found.log_odds for found in findings)
    return float(1 / (1 + np.exp(-total)))


def shifted(confidence: float, log_odds: float) -> float:
    """A probability moved by log-odds, 0 to 1."""
    held = float(np.clip(confidence, 1e-6, 1 - 1e-6))
    return float(1 / (1 + np.exp(-(np.log(held / (1 - held)) + log_odds))))


def judged(
    findings: Sequence[Finding],
    limits: VerdictLimits,
    *,
    confidence: float | None = None,
    unverifiable: str | None = None,
    by: str = "rules",
) -> Judgement:
    """The verdict on one detection.

    1. A decisive finding rejects.
    2. Confidence, of the model where there is one, else of the rules, gives accept, review or reject.
    3. A known label that matches keeps a reject for review: two sources disagree.
    4. What cannot be verified is not accepted, nor left to a person without saying so.

    Args:
        findings: of all rules.
        limits: where verdicts part.
        confidence: of the calibrated model; None takes that of the rules.
        unverifiable: why it cannot be verified; None where it can.
        by: what the confidence is of, for the reasons.
    """
    decisive = [found for found in findings if found.decisive]
    chosen = rule_confidence(findings) if confidence is None else confidence
    reasons = _reasons(findings)
    if decisive:
        words = [f"cannot be photovoltaics: {found.reason}" for found in decisive]
        return Judgement(verdict="reject", confidence=min(chosen, 0.01), reasons=(*words, *reasons)[:MOST_REASONS])
    verdict: DetectionVerdict = (
        "accept" if chosen >= limits.accept else "review" if chosen >= limits.review else "reject"
    )
    first = f"confidence {chosen:.2f} by {by}"
    labelled = any(found.rule == "known_pv" and found.log_odds >= 1 for found in findings)
    if verdict == "reject" and labelled:
        verdict, first = "review", f"{first}, though a known label marks it"
    if verdict != "reject" and unverifiable:
        verdict, first = "unverifiable", f"{unverifiable}; {first}"
    return Judgement(verdict=verdict, confidence=chosen, reasons=(first, *reasons)[:MOST_REASONS])


def _reasons(findings: Sequence[Finding]) -> list[str]:
    strong = sorted((found for found in findings if found.log_odds), key=lambda found: -abs(found.log_odds))
    return [f"{found.verdict}: {found.reason}" for found in strong]
