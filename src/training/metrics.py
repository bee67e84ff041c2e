"""Segmentation metrics of the PV class: pooled over all pixels, and averaged over images."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from utils.types import IGNORE


class PVMetrics(Metric):
    """IoU and F1 of the PV class, ignoring pixels of value 255.

    ``iou``, ``f1``, ``miou`` (mean of PV and background IoU) pool the pixels of all images. ``iou_imagewise`` and
    ``f1_imagewise`` average over the images in which PV is known or predicted: elsewhere the ratio is 0/0 and says
    nothing. A ratio without any pixel to stand on is NaN, never 0 or 1. ``images_with_pv`` and ``images`` count the
    images with known PV and all images.

    Counts are kept per batch rather than by torchmetrics' sample-wise functions, which fail on a batch of one image.

    Args:
        threshold: probability above which a pixel is PV.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor
    imagewise: Tensor
    images: Tensor

    def __init__(self, threshold: float = 0.5, **settings: Any) -> None:
        super().__init__(**settings)
        self.threshold = threshold
        self.add_state("counts", torch.zeros(4, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("imagewise", torch.zeros(2), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(3, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Add ``probabilities`` (n, H, W; in [0, 1]) against ``target`` (n, H, W: 0, 1, 255)."""
        known, positive, predicted = target != IGNORE, target == 1, probabilities > self.threshold
        cells = (positive & predicted, ~positive & predicted, ~positive & ~predicted, positive & ~predicted)
        scores = torch.stack([(known & cell).flatten(1).sum(dim=1) for cell in cells], dim=1)
        tp, fp, _, fn = scores.float().unbind(dim=1)
        defined = (tp + fp + fn) > 0
        iou, f1 = tp / (tp + fp + fn), 2 * tp / (2 * tp + fp + fn)
        self.counts += scores.sum(dim=0)
        self.imagewise += torch.stack([iou[defined].sum(), f1[defined].sum()])
        self.images += torch.stack([defined.sum(), ((tp + fn) > 0).sum(), torch.ones_like(defined).sum()])

    def compute(self) -> dict[str, Tensor]:
        """All metrics by name."""
        tp, fp, tn, fn = self.counts.float().unbind()
        iou, background = tp / (tp + fp + fn), tn / (tn + fp + fn)
        defined, with_pv, images = self.images.float().unbind()
        return {
            "iou": iou,
            "f1": 2 * tp / (2 * tp + fp + fn),
            "miou": (iou + background) / 2,
            "iou_imagewise": self.imagewise[0] / defined,
            "f1_imagewise": self.imagewise[1] / defined,
            "images_with_pv": with_pv,
            "images": images,
        }
