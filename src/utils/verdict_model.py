"""A small calibrated model of whether a detection is photovoltaics: logistic regression on what rules measured.

Features are named figures of findings, some as logarithms, each with its square, so that a figure may speak against
at both ends (too small and too large, too dark and too bright). Missing figures count as the mean. Coefficients carry
an L2 penalty (:func:`scipy.optimize.minimize`, L-BFGS-B). Detections are split into folds by their cell; each fold is
answered by the model of the others, and Platt's scaling (Platt 1999, with his smoothed targets) of those held-out
log-odds makes probabilities. A detection is always answered by the part that has not seen its cell, whether it was
fitted on or not.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped,unused-ignore]
from scipy.stats import rankdata  # type: ignore[import-untyped,unused-ignore]

from utils.errors import CalibrationError

Floats = NDArray[np.float64]

FORMAT: Final = 1
"""Version of the layout of a model's file."""
FOLDS: Final = 5
"""Parts that detections are split into by their cell."""
PENALTY: Final = 3.0
"""L2 penalty on coefficients of standardised features: a normal prior with a standard deviation of 0.58."""
_DIGITS = 6

FEATURES: Final = (
    "model_score", "model_score.p90",
    "log plausible_size", "log plausible_size.width_m", "log plausible_shape.elongation",
    "plausible_shape", "plausible_shape.compactness", "plausible_shape.solidity",
    "module_grid", "module_grid.order",
    "panel_colour", "panel_colour.lightness", "panel_colour.blueness", "panel_colour.redness", "panel_colour.contrast",
    "panel_colour.darker",
    "sharp_outline", "smooth_surface", "visual_persistence",
    "water_surface", "vegetation_cover", "log bright_cover", "pv_spectrum", "ring_contrast",
)  # fmt: skip
"""``rule`` is a finding's value, ``rule.detail`` a figure behind it, ``log`` takes the natural logarithm."""


@dataclass(frozen=True, kw_only=True)
class VerdictModel:
    """A fitted model."""

    features: tuple[str, ...]
    """Names as in :data:`FEATURES`."""
    means: tuple[float, ...]
    """Mean of each feature where it is known."""
    scales: tuple[float, ...]
    """Standard deviation of each, above 0."""
    folds: tuple[tuple[float, ...], ...]
    """Per fold the coefficients: of the features, of their squares, and the intercept."""
    platt: tuple[float, float]
    """Slope and intercept that turn held-out log-odds into log-odds of probabilities."""
    positives: int
    """Detections it was fitted on that are photovoltaics."""
    negatives: int
    """Detections it was fitted on that are not."""
    supervision: str
    """Where that is known from."""
    held_out: Mapping[str, float]
    """Figures on held-out detections: ``auc``, ``brier``, ``accuracy``, and the mean probability of both kinds."""

    @property
    def version(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the content."""
        return hashlib.sha256(json.dumps(content(self), sort_keys=True).encode()).hexdigest()[:16]

    def probabilities(self, table: Floats, fold: NDArray[np.int64]) -> Floats:
        """Probability of photovoltaics, shape (n,).

        Args:
            table: features, shape (n, features); NaN where one is not known.
            fold: part the detection's cell belongs to, whose model has not seen it, shape (n,).
        """
        design = _design(table, np.array(self.means), np.array(self.scales))
        odds = design @ np.array(self.folds).T
        own = odds[np.arange(len(odds)), fold]
        return np.asarray(1 / (1 + np.exp(-(self.platt[0] * own + self.platt[1]))), np.float64)


def feature_table(evidence: Mapping[str, Mapping[str, Mapping[str, float]]], ids: Sequence[str]) -> Floats:
    """Features of detections, shape (n, features); NaN where one is not known.

    Args:
        evidence: detection id → rule → name of a figure (``value`` is the finding's own) → figure.
        ids: detections, in the order wanted.
    """
    table = np.full((len(ids), len(FEATURES)), np.nan)
    for column, feature in enumerate(FEATURES):
        name = feature.removeprefix("log ")
        rule, _, detail = name.partition(".")
        for row, one in enumerate(ids):
            value = evidence.get(one, {}).get(rule, {}).get(detail or "value")
            if value is not None:
                table[row, column] = np.log(max(value, 1e-3)) if name != feature else value
    return table


def fold_of(cell: int) -> int:
    """Part that detections of a cell belong to, 0 to :data:`FOLDS` − 1, the same in every run."""
    return int.from_bytes(hashlib.sha256(str(cell).encode()).digest()[:4], "big") % FOLDS


def fitted(table: Floats, is_pv: NDArray[np.bool_], fold: NDArray[np.int64], *, supervision: str) -> VerdictModel:
    """A model of these detections.

    Args:
        table: features, shape (n, features).
        is_pv: what they are, shape (n,).
        fold: part each belongs to, shape (n,).
        supervision: where that is known from.

    Raises:
        CalibrationError: a fold leaves only one kind to learn from, or held-out answers do not rise with the truth.
    """
    known = np.isfinite(table)
    counts = np.maximum(known.sum(axis=0), 1)
    means = np.where(known, table, 0).sum(axis=0) / counts
    spreads = np.sqrt(np.where(known, (table - means) ** 2, 0).sum(axis=0) / counts)
    means = np.asarray(np.round(means, _DIGITS), np.float64)
    scales = np.asarray(np.round(np.where(spreads > 1e-6, spreads, 1.0), _DIGITS), np.float64)
    design, target = _design(table, means, scales), is_pv.astype(np.float64)
    odds, weights = np.zeros(len(table)), []
    for number in range(FOLDS):
        others = fold != number
        if len(set(is_pv[others].tolist())) < 2:
            raise CalibrationError(
                "detections of one kind all lie in one part of the area; too few cells to learn from"
            )
        weights.append(np.round(_logistic(design[others], target[others], PENALTY), _DIGITS))
        odds[~others] = design[~others] @ weights[-1]
    positives, negatives = int(is_pv.sum()), int((~is_pv).sum())
    smooth = np.where(is_pv, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    slope, intercept = np.round(_logistic(np.column_stack([odds, np.ones(len(odds))]), smooth, 1e-6), _DIGITS)
    if slope <= 0:
        raise CalibrationError("on held-out cells a model does no better than chance; the figures tell nothing apart")
    told = 1 / (1 + np.exp(-(slope * odds + intercept)))
    return VerdictModel(
        features=FEATURES,
        means=tuple(means.tolist()),
        scales=tuple(scales.tolist()),
        folds=tuple(tuple(one.tolist()) for one in weights),
        platt=(float(slope), float(intercept)),
        positives=positives,
        negatives=negatives,
        supervision=supervision,
        held_out=_figures(told, is_pv),
    )


def _design(table: Floats, means: Floats, scales: Floats) -> Floats:
    """Standardised features, their squares and a column of ones; beyond three deviations features stay at three."""
    plain = np.clip(np.where(np.isfinite(table), (table - means) / scales, 0.0), -3, 3)
    squares = np.where(np.isfinite(table), plain**2 - 1, 0.0)
    return np.column_stack([plain, squares, np.ones(len(table))])


def _logistic(design: Floats, target: Floats, penalty: float) -> Floats:
    """Coefficients of least penalised logistic loss; the last, the intercept, carries no penalty."""

    def loss(weights: Floats) -> tuple[float, Floats]:
        odds = design @ weights
        pull = penalty * np.append(weights[:-1], 0.0)
        value = float((np.logaddexp(0, odds) - target * odds).sum() + (pull * weights).sum() / 2)
        return value, design.T @ (1 / (1 + np.exp(-odds)) - target) + pull

    found = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return np.asarray(found.x, np.float64)


def _figures(told: Floats, is_pv: NDArray[np.bool_]) -> dict[str, float]:
    ranks = rankdata(told)
    n, m = int(is_pv.sum()), int((~is_pv).sum())
    auc = (ranks[is_pv].sum() - n * (n + 1) / 2) / (n * m)
    figures = {
        "auc": auc,
        "brier": ((told - is_pv) ** 2).mean(),
        "accuracy": ((told >= 0.5) == is_pv).mean(),
        "mean_pv": told[is_pv].mean(),
        "mean_other": told[~is_pv].mean(),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def content(model: VerdictModel) -> dict[str, Any]:
    """The model as plain values, without its version."""
    return {"format": FORMAT} | {
        name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
        for name, value in vars(model).items()
    }


def to_json(model: VerdictModel) -> str:
    """The model as the text of a file, its version first."""
    return json.dumps({"version": model.version, **content(model)}, indent=1) + "\n"


def from_json(text: str, place: str) -> VerdictModel:
    """The model in the text of a file.

    Raises:
        CalibrationError: it is no model of this format, lacks a field, or was changed by hand.
    """
    try:
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise CalibrationError(f"{place} is a verdict model of format {values['format']}, this is {FORMAT}")
        model = VerdictModel(
            features=tuple(str(name) for name in values["features"]),
            means=tuple(float(value) for value in values["means"]),
            scales=tuple(float(value) for value in values["scales"]),
            folds=tuple(tuple(float(value) for value in fold) for fold in values["folds"]),
            platt=(float(values["platt"][0]), float(values["platt"][1])),
            positives=int(values["positives"]),
            negatives=int(values["negatives"]),
            supervision=str(values["supervision"]),
            held_out={str(name): float(value) for name, value in values["held_out"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CalibrationError(f"{place} is no verdict model: {error!r}") from error
    lengths = {len(model.means), len(model.scales), *((len(fold) - 1) // 2 for fold in model.folds)}
    if model.features != FEATURES or lengths != {len(FEATURES)} or min(model.scales) <= 0:
        raise CalibrationError(f"{place} is a verdict model on other features than this version measures")
    if values.get("version") != model.version:
        raise CalibrationError(f"{place} was changed by hand: its content is version {model.version}")
    return model
