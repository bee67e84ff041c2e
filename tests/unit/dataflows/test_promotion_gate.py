"""The gate's decision, on scores given by hand, and what it leaves behind."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from dataflows import model_fits, promotion_gate
from dataflows.backfill_settings import BackfillSettings, GateSettings
from dataflows.promotion_gate import TRUTH, run_gate, truth_rows
from store import lance_io
from support.candidate_rows import candidates, rows_of
from support.training_tables import Chips, write_store
from training.chip_scores import CHIP_SCORES
from utils.errors import ConfigError, NoGoldError, PromotionError, StoreNotWritableError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = write_store(tmp_path_factory.mktemp("gate"), Chips(splits={"train": 6, "val": 2, "test": 8}))
    candidates(place, 1)
    tests = [row["uuid"] for row in rows_of(place) if row["split"] == "test"]
    lance_io.mark(place, "training_data", tests, {"mask_source": "'gold'"})
    return place


@pytest.fixture
def gate(made, tmp_path, monkeypatch):
    """A gate whose models have the scores it is given."""
    place = str(tmp_path / "store")
    shutil.copytree(made, place)
    monkeypatch.setattr(promotion_gate.drivers, "recipes_today", lambda _: SimpleNamespace(code={}))
    plain = promotion_gate.asdict
    monkeypatch.setattr(promotion_gate, "asdict", lambda v: vars(v) if isinstance(v, SimpleNamespace) else plain(v))
    for name in ("current", "candidate"):
        (tmp_path / f"{name}.ckpt").write_bytes(name.encode())

    def judge(current, candidate, **settings):
        scores = {"current.ckpt": current, "candidate.ckpt": candidate}
        monkeypatch.setattr(promotion_gate, "_scores", lambda checkpoint, *_: scores[checkpoint.name])
        build = SimpleNamespace(store=place, build_config="b")
        config = SimpleNamespace(build=build, gate={"draws": 300, "out": str(tmp_path / "reports")} | settings)
        return run_gate(
            config,
            generation=1,
            current_checkpoint=tmp_path / "current.ckpt",
            candidate_checkpoint=tmp_path / "candidate.ckpt",
        )

    judge.store = place
    return judge


def scores(true, false_positive, false_negative, spread=0, seed=0):
    """Eight chips in eight cells."""
    rng = np.random.default_rng(seed)
    counts = [
        np.clip(value + rng.integers(-spread, spread + 1, 8), 0, None)
        for value in (true, false_positive, false_negative)
    ]
    columns = [[f"chip-{k}" for k in range(8)], np.arange(8, dtype=np.uint64), *counts]
    return pa.table(
        [pa.array(values, field.type) for values, field in zip(columns, CHIP_SCORES, strict=True)], schema=CHIP_SCORES
    )


def generation_of(store):
    return {row["generation"] for row in rows_of(store) if row["split"] == "train"}


def test_a_better_model_promotes_its_generation(gate):
    report = gate(scores(80, 20, 40), scores(100, 20, 20))
    assert report.promoted
    assert report.receipt.rows == 6
    assert (report.tag, report.exit_code) == ("generation-1", 0)
    assert report.metrics["candidate/iou"] == pytest.approx(100 / 140)
    assert generation_of(gate.store) == {1}
    told = json.loads(Path(report.path).read_text())
    assert (told["generation"], told["promoted"], told["chips"], told["cells"]) == (1, True, 8, 8)
    row = lance_io.scan(gate.store, "runs", ["flow", "status", "counts"], f"run_id = '{report.run_id}'").to_pylist()[0]
    assert (row["flow"], row["status"]) == ("gate", "done")
    assert json.loads(row["counts"])["metrics"] == report.metrics


def test_a_worse_model_keeps_its_generation_back(gate):
    report = gate(scores(100, 20, 20), scores(80, 20, 40))
    assert not report.promoted
    assert (report.tag, report.receipt, report.exit_code) == (None, None, 3)
    assert "iou falls from 0.7143 to 0.5714" in report.reason
    assert generation_of(gate.store) == {0}
    assert json.loads(Path(report.path).read_text())["reason"] == report.reason


def test_a_fall_within_the_noise_passes_and_beyond_the_tolerance_does_not(gate):
    noisy = scores(100, 20, 20, spread=20, seed=1)
    other = scores(99, 20, 21, spread=20, seed=2)
    report = gate(noisy, other)
    assert abs(report.metrics["difference/iou"]) < report.noise["iou"]
    assert report.promoted == (report.metrics["difference/iou"] >= -min(report.noise["iou"], 0.02))
    assert gate(noisy, other, tolerance=1.0).promoted
    # the same small fall in every cell stands out from the noise
    assert not gate(scores(1000, 200, 200), scores(998, 200, 202)).promoted


def test_a_report_that_cannot_be_written_is_refused_before_the_promotion(gate, tmp_path):
    (tmp_path / "reports").write_text("no folder")
    with pytest.raises(StoreNotWritableError, match="report"):
        gate(scores(80, 20, 40), scores(100, 20, 20))
    assert generation_of(gate.store) == {0}


def test_one_cell_has_no_noise_and_lets_no_fall_through(gate):
    one = pa.array(np.zeros(8, np.uint64))
    current, worse = (
        table.set_column(1, CHIP_SCORES.field("split_cell"), one) for table in (scores(100, 20, 20), scores(99, 20, 21))
    )
    report = gate(current, worse)
    assert (report.cells, report.noise, report.promoted) == (1, {"iou": 0.0, "f1": 0.0}, False)
    assert gate(worse, current).promoted


def test_models_that_find_nothing_promote_nothing(gate):
    report = gate(scores(1, 0, 500), scores(2, 0, 499))
    assert not report.promoted
    assert "gate.least_iou" in report.reason
    assert not gate(scores(0, 0, 0), scores(0, 0, 0)).promoted
    assert gate(scores(1, 0, 500), scores(2, 0, 499), least_iou=0.0).promoted


def test_no_truth_and_no_generation_are_refused(made, tmp_path, gate):
    assert truth_rows(made) == 8
    with pytest.raises(PromotionError, match="nothing to promote"):
        run_gate(
            SimpleNamespace(build=SimpleNamespace(store=made), gate={}),
            generation=7,
            current_checkpoint="a",
            candidate_checkpoint="b",
        )
    lance_io.mark(gate.store, "training_data", [r["uuid"] for r in rows_of(gate.store)], {"mask_source": "'machine'"})
    with pytest.raises(NoGoldError, match="gold --truth"):
        truth_rows(gate.store)
    lance_io.mark(
        gate.store,
        "training_data",
        [r["uuid"] for r in rows_of(gate.store) if r["split"] == "test"],
        {"mask_source": "'reviewed'", "pv_fraction": "CAST(0 AS FLOAT)"},
    )
    with pytest.raises(NoGoldError, match="none of them PV"):
        truth_rows(gate.store)
    assert "gold" in TRUTH


def test_a_fit_is_made_once_for_what_it_is_trained_on(made, tmp_path, monkeypatch):
    calls = []

    def run(command, **options):
        calls.append(command)
        place = next(part.split("=")[1] for part in command if part.startswith("--trainer.logger.save_dir"))
        name = next(part.split("=")[1] for part in command if part.startswith("--trainer.logger.name"))
        folder = Path(place) / name / "version_0" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "best.ckpt").write_bytes(b"")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(model_fits.subprocess, "run", run)
    settings = GateSettings(out=str(tmp_path / "fits"), epochs=2, fit_arguments=("--model.lr=0.001",))
    first = model_fits.fit_model(made, settings)
    assert model_fits.fit_model(made, settings) == first
    assert len(calls) == 1
    assert {"--trainer.max_epochs=2", "--model.lr=0.001", "--seed_everything=42"} <= set(calls[0])
    model_fits.fit_model(made, GateSettings(out=str(tmp_path / "fits"), epochs=2, seed=1))
    candidate = model_fits.fit_candidate(made, 1, settings)
    assert len(calls) == 3
    assert "--data.table=training_data_generation_1" in calls[2]
    assert candidate != first
    assert "training_data_generation_1" not in lance_io.table_names(made)
    monkeypatch.setattr(model_fits.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=2))
    with pytest.raises(PromotionError, match="exit code 2"):
        model_fits.fit_model(made, GateSettings(out=str(tmp_path / "other")))


@pytest.mark.parametrize(
    "settings",
    [
        lambda: GateSettings(draws=0),
        lambda: GateSettings(level=1.0),
        lambda: GateSettings(tolerance=-1.0),
        lambda: BackfillSettings(prompt_kind="point"),
        lambda: BackfillSettings(hard_negative_weight=0.5),
        lambda: BackfillSettings(replace_iou=0.0),
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        settings()
