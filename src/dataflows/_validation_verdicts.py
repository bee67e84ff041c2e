"""Verdicts over all detections of a search: one model, one look at each, and a second one at those left undecided."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataflows import mask_agreement
from dataflows._evidence_rows import rows_of
from dataflows._validation_work import ValidationWork
from dataflows.validation_evidence import RULES, VISUAL_RULES
from dataflows.validation_imagery import MSI_GSD_M
from dataflows.validation_supervision import supervision
from store import evidence
from store.detections import read_detections
from store.fingerprint import digest
from utils.cells import s2_parents
from utils.errors import CalibrationError
from utils.evidence import Finding
from utils.verdict_model import VerdictModel, feature_table, fitted, fold_of
from utils.verdicts import Judgement, VerdictLimits, judged, shifted

Findings = dict[str, dict[str, Finding]]

_VERDICTS = ("accept", "review", "reject", "unverifiable")
_ASK_AT_ONCE = 50
_ASKED: Mapping[str, tuple[str, ...]] = {"none": (), "review": ("review",), "all": _VERDICTS}


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """Findings and the confidence that follows from them."""

    work: ValidationWork
    findings: Findings
    confidences: Mapping[str, float]
    """Detection id → probability by the model; empty where rules alone judge."""
    areas_m2: Mapping[str, float]

    def judgement(self, one: str, masks: Finding | None = None) -> Judgement:
        rules, found = self.work.rules, self.findings[one]
        told, cloud = [found[rule] for rule in RULES], found["cloud_cover"]
        confidence = self.confidences.get(one)
        if masks is not None:
            told.append(masks)
            confidence = None if confidence is None else shifted(confidence, masks.log_odds)
        # small ones are judged by what VHR imagery shows, large ones must have been seen by both
        large = self.areas_m2[one] >= rules.min_effective_px * MSI_GSD_M**2
        unseen = cloud.verdict == "abstain" and (
            large or all(found[rule].verdict == "abstain" for rule in VISUAL_RULES)
        )
        return judged(
            told,
            VerdictLimits(accept=rules.accept, review=rules.review),
            confidence=confidence,
            unverifiable=cloud.reason if unseen else None,
            by="rules" if confidence is None else "the calibrated model",
        )


def decide(work: ValidationWork) -> None:
    """Mark the verdict of every detection with today's evidence; what stands already is not written again."""
    findings = _findings_today(work)
    model = _model(work, findings)
    work.summary.model = model.version if model else None
    areas = dict(zip(work.ids, work.detections["area_m2"].to_pylist(), strict=True))
    judge = _Judge(work=work, findings=findings, confidences=_confidences(work, model, findings), areas_m2=areas)
    decides = work.run.recipes["decide"]
    today = {one: digest([decides, work.inputs[one], work.summary.model]) for one in findings}
    stored = dict(zip(work.ids, work.detections["validation_recipe"].to_pylist(), strict=True))
    pending = {one: judge.judgement(one) for one in findings if stored[one] != today[one]}
    asked = {one for one, found in pending.items() if found.verdict in _ASKED[work.rules.mask_agreement]}
    _mark(work, {one: found for one, found in pending.items() if one not in asked}, today)
    for part in _groups(work.cells(sorted(asked))):
        ids = [one for cell in part for one in cell["detection_id"].to_pylist()]
        masks = _asked_masks(work, ids, decides)
        _mark(work, {one: judge.judgement(one, masks.get(one)) for one in ids}, today)
    rows = read_detections(work.store, search_id=work.summary.search_id, columns=["verdict"])
    told = rows["verdict"].to_pylist()
    work.summary.verdicts = {name: told.count(name) for name in _VERDICTS}


def _mark(work: ValidationWork, judgements: Mapping[str, Judgement], recipes: Mapping[str, str]) -> None:
    work.summary.judged += evidence.mark_verdicts(work.store, judgements, recipes)
    work.report(work.summary)


def _findings_today(work: ValidationWork) -> Findings:
    """Findings of detections whose evidence is whole and rests on today's code, settings and inputs."""
    found = evidence.findings_of(work.store, work.ids, recipes=work.inputs)
    return {one: rules for one, rules in found.items() if rules.keys() >= set(RULES)}


def _model(work: ValidationWork, findings: Findings) -> VerdictModel | None:
    """The model to judge with: that of the settings, or one fitted on this search; None where rules alone judge.

    Raises:
        CalibrationError: the settings name a file that holds no model.
    """
    rules, summary = work.rules, work.summary
    if rules.model == "none":
        summary.model_note = "rules alone, as the settings ask"
        return None
    if rules.model != "auto":
        model = evidence.read_model(rules.model)
        summary.model_path, summary.model_note = rules.model, _note(model)
        return model
    told = supervision(work.detections, work.distance_m, work.split_rule, rules)
    usable = told.known & _among(work, findings)
    counts = int((usable & told.is_pv).sum()), int((usable & ~told.is_pv).sum())
    if min(counts) < rules.least_labels:
        summary.model_note = (
            f"rules alone: {counts[0]} known photovoltaics and {counts[1]} known others among the detections, "
            f"a model needs {rules.least_labels} of each"
        )
        return None
    chosen = [one for one, use in zip(work.ids, usable, strict=True) if use]
    table = feature_table(_figures(findings), chosen)
    try:
        model = fitted(table, told.is_pv[usable], _folds(work)[usable], supervision=told.source)
    except CalibrationError as error:
        summary.model_note = f"rules alone: {error}"
        return None
    folder = Path(work.config.out) / summary.search_id
    summary.model_path = str(evidence.write_model(model, folder / f"verdict_model-{model.version}.json"))
    summary.model_note = _note(model)
    return model


def _note(model: VerdictModel) -> str:
    figures = ", ".join(f"{name} {value:.3f}" for name, value in model.held_out.items())
    return (
        f"fitted on {model.positives} known photovoltaics and {model.negatives} others by {model.supervision}; "
        f"on held-out cells: {figures}"
    )


def _confidences(work: ValidationWork, model: VerdictModel | None, findings: Findings) -> dict[str, float]:
    if model is None or not findings:
        return {}
    ids = [one for one in work.ids if one in findings]
    told = model.probabilities(feature_table(_figures(findings), ids), _folds(work)[_among(work, findings)])
    return dict(zip(ids, told.tolist(), strict=True))


def _among(work: ValidationWork, findings: Findings) -> NDArray[np.bool_]:
    return np.array([one in findings for one in work.ids], bool)


def _folds(work: ValidationWork) -> NDArray[np.int64]:
    cells = s2_parents(work.detections["s2_cell"].to_numpy(), work.rules.cell_level)
    return np.array([fold_of(int(cell)) for cell in cells], np.int64)


def _figures(findings: Findings) -> dict[str, dict[str, dict[str, float]]]:
    return {one: {rule: _told(found) for rule, found in rules.items()} for one, rules in findings.items()}


def _told(found: Finding) -> dict[str, float]:
    known = dict(found.details)
    return known if found.value is None or found.verdict == "abstain" else known | {"value": found.value}


def _groups(cells: Sequence[pa.Table]) -> Iterator[list[pa.Table]]:
    """Cells in groups of so many detections that a commit is worth its time."""
    group: list[pa.Table] = []
    for cell in cells:
        group.append(cell)
        if sum(map(len, group)) >= _ASK_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _asked_masks(work: ValidationWork, ids: Sequence[str], decides: str) -> dict[str, Finding]:
    """What the mask factory says of detections: stored where today's code and settings said it, else asked, stored."""
    rule, rows = mask_agreement.RULE, list[pa.Table]()
    wanted = {one: digest([decides, work.inputs[one]]) for one in ids}
    found = {one: rules[rule] for one, rules in evidence.findings_of(work.store, ids, recipes=wanted).items()}
    for cell in work.cells([one for one in ids if one not in found]):
        fresh = work.driver.execute([rule], inputs={**work.shared, "detections": cell})[rule]
        rows += [rows_of({one: [told]}, wanted[one], work.run.run_id) for one, told in fresh.items()]
        found |= fresh
    if rows:
        receipt = evidence.write_evidence(work.store, pa.concat_tables(rows))
        work.summary.evidence_written += receipt.inserted + receipt.updated
        work.summary.asked_masks += len(rows)
    return found
