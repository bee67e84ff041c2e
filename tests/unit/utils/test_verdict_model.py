"""The verdict model: held-out answers, calibration, and its file."""

import json

import numpy as np
import pytest

from utils.errors import CalibrationError
from utils.verdict_model import FEATURES, FOLDS, feature_table, fitted, fold_of, from_json, to_json


def made(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of which the first speaks for, the second is best in the middle, and the rest is noise."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n, len(FEATURES)))
    odds = 2 * table[:, 0] - 2 * (table[:, 1] ** 2 - 1)
    is_pv = rng.random(n) < 1 / (1 + np.exp(-odds))
    table[rng.random(table.shape) < 0.1] = np.nan
    return table, is_pv, rng.integers(0, FOLDS, n)


def test_it_learns_both_kinds_of_signs_and_is_calibrated() -> None:
    table, is_pv, fold = made()
    model = fitted(table, is_pv, fold, supervision="made")
    assert model.held_out["auc"] > 0.85
    fresh, truth, other = made(4000, seed=9)
    told = model.probabilities(fresh, other)
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        inside = (told >= low) & (told < low + 0.2)
        assert truth[inside].mean() == pytest.approx(told[inside].mean(), abs=0.09)


def test_a_cell_is_answered_without_what_it_says_itself() -> None:
    table, is_pv, fold = made()
    model = fitted(table, is_pv, fold, supervision="made")
    flipped = fitted(table, np.where(fold == 0, ~is_pv, is_pv), fold, supervision="made")
    assert model.folds[0] == flipped.folds[0]
    assert model.folds[1] != flipped.folds[1]


def test_the_file_gives_back_the_model_and_refuses_changes() -> None:
    model = fitted(*made(), supervision="made")
    text = to_json(model)
    assert from_json(text, "here") == model
    assert from_json(text, "here").version == model.version
    values = json.loads(text)
    for change in (
        {"platt": [1.0, 5.0]},
        {"format": 99},
        {"features": ["a"]},
        {"folds": None},
        {"scales": [0.0] * len(FEATURES)},
    ):
        with pytest.raises(CalibrationError):
            from_json(json.dumps(values | change), "here")
    for broken in ("", "[]", "{}", "null"):
        with pytest.raises(CalibrationError):
            from_json(broken, "here")


def test_one_kind_alone_teaches_nothing() -> None:
    table, is_pv, _ = made()
    with pytest.raises(CalibrationError):
        fitted(table, is_pv, is_pv.astype(np.int64), supervision="made")


def test_figures_that_tell_nothing_apart_make_no_model() -> None:
    table, is_pv, fold = made()
    with pytest.raises(CalibrationError, match="no better than chance"):
        fitted(np.full_like(table, np.nan), is_pv, fold, supervision="made")


def test_equal_answers_count_half_whatever_their_order() -> None:
    table, is_pv, fold = made()
    coarse = np.full_like(table, np.nan)
    coarse[:, 0] = np.where(np.arange(len(table)) % 5 == 0, ~is_pv, is_pv)
    order = np.argsort(is_pv, kind="stable")
    auc = {fitted(coarse[at], is_pv[at], fold[at], supervision="made").held_out["auc"] for at in (order, order[::-1])}
    assert len(auc) == 1
    assert auc.pop() == pytest.approx(0.8, abs=0.02)


def test_features_are_read_by_name() -> None:
    evidence = {"a": {"plausible_size": {"value": 10.0, "width_m": 2.0}, "model_score": {"value": 0.7}}}
    table = feature_table(evidence, ["a", "b"])
    assert table[0, FEATURES.index("log plausible_size")] == pytest.approx(np.log(10))
    assert table[0, FEATURES.index("log plausible_size.width_m")] == pytest.approx(np.log(2))
    assert table[0, FEATURES.index("model_score")] == 0.7
    assert np.isnan(table[1]).all()


def test_folds_are_fixed_and_even() -> None:
    folds = np.bincount([fold_of(cell) for cell in range(5000)], minlength=FOLDS)
    assert folds.min() > 900
    assert fold_of(12) == fold_of(12)
