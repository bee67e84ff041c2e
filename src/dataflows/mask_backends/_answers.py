"""What a promptable model answers: candidates, the best of them, and the moved prompts that test its stability."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataflows.mask_backends._common import PERTURBATIONS
from utils.pixel_prompts import PixelPrompt

STABILITY_OFFSET = 1.0
"""Logit by which the threshold moves for ``logit_stability`` (the default of segment-anything's mask generator)."""

_LEAST_SPREAD_PX = 20.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """What a model answers to n prompts with k candidate masks each."""

    logits: Any
    """torch.Tensor float32 on the model's device, shape (n, k, rows, columns) of the image: above 0 is inside."""
    predicted_iou: Any
    """torch.Tensor float32, shape (n, k): the model's own estimate, which may leave 0 to 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """The best candidate for one prompt."""

    data: NDArray[np.bool_]
    """True inside, shape (rows, columns) of the image."""
    predicted_iou: float
    """The model's own estimate, cut to 0 to 1."""
    logit_stability: float
    """IoU of the mask at thresholds one :data:`STABILITY_OFFSET` up and down, 0 to 1; 0 for an empty mask."""


def perturbed(prompt: PixelPrompt, size: tuple[int, int]) -> list[PixelPrompt]:
    """``prompt`` as four hurried annotators would have given it: scaled by ±10 % and shifted by ±5 % of its sides.

    Points move with the box; points without one move by 5 % of their spread, a pixel at least.

    Args:
        prompt: in pixels of an image.
        size: ``(rows, columns)`` of the image; nothing leaves it.
    """
    limits = np.array([size[1], size[0]], np.float64)
    corners = prompt.points if prompt.box is None else np.array(prompt.box).reshape(2, 2)
    low, high = corners.min(axis=0), corners.max(axis=0)
    sides = np.maximum(high - low, _LEAST_SPREAD_PX) if prompt.box is None else high - low
    moved = []
    for scale, right, up in PERTURBATIONS:
        centre, shift = (low + high) / 2, sides * (right, -up)
        box = None
        if prompt.box is not None:
            around = np.stack([centre - scale * sides / 2 + shift, centre + scale * sides / 2 + shift])
            col0, row0, col1, row1 = np.clip(around, 0, limits).ravel().tolist()
            box = (col0, row0, col1, row1)
        points = np.clip(centre + scale * (prompt.points - centre) + shift, 0, limits).astype(np.float32)
        moved.append(replace(prompt, box=box, points=points))
    return moved


def best(decoded: Decoded) -> list[Answer]:
    """Of each prompt's candidates the one the model rates best, on the CPU."""
    import torch  # noqa: PLC0415 - heavy

    with torch.inference_mode():
        rated = torch.nan_to_num(decoded.predicted_iou.float(), nan=0.0)
        chosen = rated.argmax(dim=1)
        rows = torch.arange(len(chosen), device=chosen.device)
        logits = decoded.logits[rows, chosen]
        inner = (logits > STABILITY_OFFSET).flatten(1).sum(dim=1)
        outer = (logits > -STABILITY_OFFSET).flatten(1).sum(dim=1)
        stable = torch.where(outer > 0, inner / outer.clamp(min=1), 0.0)
        masks = (logits > 0).cpu().numpy()
        values = torch.stack([rated[rows, chosen].clamp(0, 1), stable.float()], dim=1).cpu().numpy()
    return [
        Answer(data=mask, predicted_iou=float(score), logit_stability=float(stability))
        for mask, (score, stability) in zip(masks, values, strict=True)
    ]
