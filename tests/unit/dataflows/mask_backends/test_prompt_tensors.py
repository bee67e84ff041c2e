"""Pixel prompts in a model's frame, against the prompt encoders of SAM and by hand."""

import numpy as np
import pytest
import torch

from dataflows.mask_backends._prompt_tensors import (
    at_image_size,
    best_candidate,
    box_tensor,
    point_tensors,
    previous_tensor,
)
from support import tiny_sam2
from utils.pixel_prompts import PixelPrompt


def prompt_of(box=None, points=(), labels=(), previous=None) -> PixelPrompt:
    return PixelPrompt(
        state="inside",
        box=box,
        points=np.array(points, np.float32).reshape(-1, 2),
        point_labels=np.array(labels, np.int32),
        previous=previous,
    )


def test_corners_of_pixels_stay_corners_of_pixels() -> None:
    """The encoder of the real class sees the share of the side that a corner-based coordinate is, exactly."""
    network = tiny_sam2.network()
    encoder, side = network.sam_prompt_encoder, network.image_size
    size = (200, 320)
    prompts = [prompt_of(box=(0, 0, 320, 200)), prompt_of(box=(10, 20, 77.5, 130))]
    told = box_tensor(prompts, (side / size[1], side / size[0]), "cpu")
    with torch.no_grad():
        seen = encoder._embed_boxes(told)
        for number, prompt in enumerate(prompts):
            shares = torch.tensor(prompt.box).reshape(2, 2) / torch.tensor([320.0, 200.0])
            expected = encoder.pe_layer._pe_encoding(shares)
            for corner in (0, 1):
                expected[corner] += encoder.point_embeddings[2 + corner].weight[0]
            torch.testing.assert_close(seen[number], expected, rtol=1e-4, atol=1e-4)


def test_points_keep_their_labels() -> None:
    prompts = [prompt_of(points=[(1, 2), (3, 4)], labels=[1, 0]), prompt_of(points=[(5, 6), (7, 8)], labels=[0, 0])]
    points, labels = point_tensors(prompts, (2.0, 4.0), "cpu")
    assert points.tolist() == [[[1.5, 7.5], [5.5, 15.5]], [[9.5, 23.5], [13.5, 31.5]]]
    assert labels.tolist() == [[1, 0], [0, 0]]
    assert point_tensors([prompt_of(box=(0, 0, 1, 1))], (1.0, 1.0), "cpu") == (None, None)
    assert box_tensor(prompts, (1.0, 1.0), "cpu") is None


def test_earlier_masks_become_logits_with_padding_outside() -> None:
    mask = np.zeros((40, 80), np.bool_)
    mask[:, 40:] = True
    found = previous_tensor([prompt_of(previous=mask)], (16, 16), (8, 16), "cpu")
    assert found.shape == (1, 1, 16, 16)
    assert found.min().item() == -10
    assert found.max().item() == pytest.approx(10)
    assert (found[0, 0, :8, :7] == -10).all()
    assert found[0, 0, :8, 9:].min().item() == pytest.approx(10)
    assert (found[0, 0, 8:] == -10).all()
    assert previous_tensor([prompt_of(box=(0, 0, 1, 1))], (16, 16), (8, 16), "cpu") is None


def test_logits_lose_their_padding() -> None:
    low = torch.full((1, 1, 16, 16), -5.0)
    low[..., :8, :] = 5.0
    assert (at_image_size(low, (50, 100), padded=(64, 28, 64)) > 0).all()
    squeezed = at_image_size(low, (50, 100))
    assert squeezed.shape == (1, 1, 50, 100)
    assert (squeezed > 0).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_the_best_candidate_is_no_nan() -> None:
    logits = torch.arange(12.0).reshape(2, 3, 2, 1)
    rated = torch.tensor([[0.2, float("nan"), 0.1], [0.1, 0.4, 0.9]])
    chosen, score = best_candidate(logits, rated)
    assert chosen.tolist() == [[[[0.0], [1.0]]], [[[10.0], [11.0]]]]
    assert score[:, 0].tolist() == pytest.approx([0.2, 0.9])
