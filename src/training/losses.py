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

    Args:
        dice_weight: weight of the Dice term.
    """

    def __init__(self, dice_weight: float = 1.0) -> None:
        super().__init__()
        self.dice_weight = dice_weight
        self.dice = smp.losses.DiceLoss(mode="binary", from_logits=True, ignore_index=IGNORE)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of ``logits`` (n, H, W) against ``target`` (n, H, W: 0, 1, 255)."""
        known = target != IGNORE
        if not known.any():
            return logits.sum() * 0
        cross_entropy = binary_cross_entropy_with_logits(logits[known], target[known].to(logits.dtype))
        dice: Tensor = self.dice(logits.unsqueeze(1), target.to(torch.float32).unsqueeze(1))
        return self.dice_weight * dice + cross_entropy
