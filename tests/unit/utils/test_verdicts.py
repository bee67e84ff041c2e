"""How findings become a verdict."""

import pytest

from utils.evidence import Finding, evidence_id
from utils.verdicts import VerdictLimits, judged, rule_confidence, shifted

LIMITS = VerdictLimits(accept=0.6, review=0.25)


def finding(odds: float, rule: str = "rule", *, decisive: bool = False) -> Finding:
    verdict = "for" if odds > 0 else "against" if odds < 0 else "neutral"
    return Finding(rule=rule, verdict=verdict, reason=f"{rule} says {odds}", log_odds=odds, decisive=decisive)


@pytest.mark.parametrize(
    ("confidence", "verdict"), [(0.9, "accept"), (0.6, "accept"), (0.4, "review"), (0.1, "reject")]
)
def test_confidence_decides(confidence: float, verdict: str) -> None:
    found = judged([finding(1.0)], LIMITS, confidence=confidence, by="the calibrated model")
    assert found.verdict == verdict
    assert found.confidence == confidence
    assert "the calibrated model" in found.reasons[0]


def test_rules_alone_decide_without_a_model() -> None:
    strong = [finding(2.0, name) for name in "abc"]
    assert judged(strong, LIMITS).verdict == "accept"
    assert judged([finding(-2.0, name) for name in "abc"], LIMITS).verdict == "reject"
    assert rule_confidence([]) == pytest.approx(0.3775, abs=1e-3)


def test_a_decisive_finding_rejects_whatever_else_speaks_for() -> None:
    found = judged([finding(5.0, "a"), finding(-4.0, "water_surface", decisive=True)], LIMITS, confidence=0.99)
    assert found.verdict == "reject"
    assert found.confidence <= 0.01
    assert "water_surface" in found.reasons[0]


@pytest.mark.parametrize(("confidence", "verdict"), [(0.9, "unverifiable"), (0.4, "unverifiable"), (0.1, "reject")])
def test_what_cannot_be_verified_is_never_accepted(confidence: float, verdict: str) -> None:
    found = judged([finding(1.0)], LIMITS, confidence=confidence, unverifiable="all under cloud")
    assert found.verdict == verdict
    assert ("all under cloud" in found.reasons[0]) == (verdict == "unverifiable")


def test_a_label_keeps_a_reject_for_a_person() -> None:
    assert judged([finding(2.0, "known_pv")], LIMITS, confidence=0.05).verdict == "review"
    assert judged([finding(0.2, "known_pv")], LIMITS, confidence=0.05).verdict == "reject"


def test_reasons_are_few_and_the_strongest_first() -> None:
    found = judged([finding(odds / 10, f"r{odds}") for odds in range(1, 10)], LIMITS, confidence=0.7)
    assert len(found.reasons) == 5
    assert found.reasons[1] == "for: r9 says 0.9"


def test_shift_and_ids() -> None:
    assert shifted(0.5, 0.0) == pytest.approx(0.5)
    assert shifted(0.5, 1.0) > 0.7
    assert shifted(1.0, 1.0) <= 1
    assert evidence_id("a", "rule") == evidence_id("a", "rule") != evidence_id("b", "rule")
