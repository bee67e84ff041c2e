import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.classification import BinaryF1Score, BinaryJaccardIndex

from training.metrics import PVMetrics

shape = (5, 4, 4)
probability = arrays(np.float32, shape, elements=st.floats(0, 1, width=32))
truth = arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 255]))


def metrics(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    metric = PVMetrics()
    for part in (slice(0, 1), slice(1, None)):
        metric.update(torch.from_numpy(probabilities[part]), torch.from_numpy(targets[part]))
    return {name: float(value) for name, value in metric.compute().items()}


@given(probability, truth)
def test_equal_to_torchmetrics_and_to_counting(probabilities: np.ndarray, targets: np.ndarray) -> None:
    ours = metrics(probabilities, targets)
    known, predicted = targets != 255, probabilities > 0.5
    either = known & (predicted | (targets == 1))
    both = known & predicted & (targets == 1)
    if not either.any():
        assert np.isnan(ours["iou"])
        assert np.isnan(ours["iou_imagewise"])
        return
    assert ours["iou"] == pytest.approx(both.sum() / either.sum())
    values, labels = torch.from_numpy(probabilities), torch.from_numpy(targets).long()
    assert ours["iou"] == pytest.approx(float(BinaryJaccardIndex(ignore_index=255)(values, labels)), abs=1e-6)
    assert ours["f1"] == pytest.approx(float(BinaryF1Score(ignore_index=255)(values, labels)), abs=1e-6)
    images = [b.sum() / e.sum() for b, e in zip(both, either, strict=True) if e.any()]
    assert ours["iou_imagewise"] == pytest.approx(np.mean(images), abs=1e-6)
    samplewise = BinaryF1Score(ignore_index=255, multidim_average="samplewise")(values, labels)
    defined = torch.from_numpy(either.any(axis=(1, 2)))
    assert ours["f1_imagewise"] == pytest.approx(float(samplewise[defined].mean()), abs=1e-6)
    assert ours["images_with_pv"] == (targets == 1).any(axis=(1, 2)).sum()
    assert ours["images"] == 5


@given(probability, truth)
def test_ignored_pixels_change_nothing(probabilities: np.ndarray, targets: np.ndarray) -> None:
    other = probabilities.copy()
    other[targets == 255] = 1 - other[targets == 255]
    np.testing.assert_equal(metrics(probabilities, targets), metrics(other, targets))


def test_false_alarm_on_an_image_without_pv_counts_as_zero() -> None:
    probabilities = np.zeros((2, 2, 2), np.float32)
    probabilities[0, 0, 0] = 1
    targets = np.zeros((2, 2, 2), np.uint8)
    found = metrics(probabilities, targets)
    assert found["iou"] == found["iou_imagewise"] == 0
    assert found["images_with_pv"] == 0
