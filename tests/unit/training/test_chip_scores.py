"""Pixels of a model chip by chip, against torchmetrics over the same chips."""

import numpy as np
import pytest
import torch
from lightning import Trainer

from store import lance_io
from training.chip_scores import CHIP_SCORES, chip_scores
from training.datamodule import LanceDataModule
from training.litmodule import SegmentationModule
from training.metrics import PVMetrics
from training.predict import load, probabilities
from utils.errors import ConfigError, TableNotFoundError


@pytest.fixture(scope="module")
def checkpoint(store, tmp_path_factory):
    module, data = SegmentationModule(in_channels=3, threshold=0.4), LanceDataModule(store=store)
    data.setup("fit")
    module.use_inputs(data.spec, data.stats)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    path = tmp_path_factory.mktemp("scores") / "model.ckpt"
    trainer.save_checkpoint(path, weights_only=True)
    return path


def test_sums_are_those_of_torchmetrics(store, checkpoint):
    found = chip_scores(checkpoint, store, "split = 'test'", batch_size=2)
    assert found.schema == CHIP_SCORES
    assert len(found) == 5
    spec = load(checkpoint).inputs
    rows = lance_io.open_table(store, "training_data").to_table(filter="split = 'test'")
    metrics = PVMetrics(0.4)
    metrics.update(torch.from_numpy(probabilities(checkpoint, rows)), torch.from_numpy(spec.targets(rows)))
    tp, fp, fn = (found[name].to_numpy().sum() for name in ("tp", "fp", "fn"))
    assert tp / (tp + fp + fn) == pytest.approx(float(metrics.compute()["iou"]), abs=1e-6)
    masks = np.stack([np.frombuffer(one, np.uint8) for one in rows["generated_mask"].to_pylist()])
    assert tp + fn == (masks == 1).sum()


def test_rows_are_chosen_by_the_filter(store, checkpoint):
    assert len(chip_scores(checkpoint, store, "false")) == 0
    with pytest.raises(TableNotFoundError):
        chip_scores(checkpoint, store, "true", table="nothing")
    with pytest.raises(ConfigError):
        chip_scores(checkpoint.with_name("none.ckpt"), store, "true")
