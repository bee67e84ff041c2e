"""Dice plus binary cross-entropy over known pixels."""

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from utils.types import IGNORE


class DiceBCE(nn.Module):
    """``dice_weight · Dice + BCE``, both over pixels whose target is not 255.

    Unlike smp's SoftBCE, whose mean runs over ignored pixels too, the cross-entropy is a mean over known pixels, so a
    batch full of ignored pixels weighs as much as another. A batch with no known pixel has loss 0.

    A chip's weight multiplies what its pixels add to the cross-entropy, and to both sums of Dice's ratio: weights of 1
    leave the loss as it is, and a hard negative of weight 2 costs twice as much where the model sees PV on it.

    Args:
        dice_weight: weight of the Dice term.
    """

    def __init__(self, dice_weight: float = 1.0) -> None:
        super().__init__()
        self.dice_weight = dice_weight
        self.dice = smp.losses.DiceLoss(mode="binary", from_logits=True, ignore_index=IGNORE)

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Scalar loss of ``logits`` (n, H, W) against ``target`` (n, H, W: 0, 1, 255), chips weighted by (n,)."""
        known = target != IGNORE
        if not known.any():
            return logits.sum() * 0
        if weight is not None and not (weight == 1).all():
            return self._weighted(logits, target, known, weight.to(logits.dtype))
        cross_entropy = binary_cross_entropy_with_logits(logits[known], target[known].to(logits.dtype))
        dice: Tensor = self.dice(logits.unsqueeze(1), target.to(torch.float32).unsqueeze(1))
        return self.dice_weight * dice + cross_entropy

    def _weighted(self, logits: Tensor, target: Tensor, known: Tensor, weight: Tensor) -> Tensor:
        per_pixel = weight[:, None, None].expand_as(logits)[known]
        score, truth = logits[known], target[known].to(logits.dtype)
        each = binary_cross_entropy_with_logits(score, truth, reduction="none")
        cross_entropy = (per_pixel * each).mean()
        if not truth.any():
            # as smp has it: a batch without PV has no Dice term
            return cross_entropy
        found = torch.sigmoid(score)
        both, sizes = (per_pixel * found * truth).sum(), (per_pixel * (found + truth)).sum()
        dice = 1 - 2 * both / sizes.clamp_min(self.dice.eps)
        return self.dice_weight * dice + cross_entropy
