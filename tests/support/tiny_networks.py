"""Torch modules that need no training: pointwise, so that a search has one right answer whatever its blocks."""

import time

import torch
from torch import Tensor, nn


class Blueness(nn.Module):
    """Logit of a pixel by how much more blue than red it is, in display values."""

    def __init__(self, least: float = 20.0, pause_s: float = 0.0, fails_above: float | None = None) -> None:
        super().__init__()
        self.least, self.pause_s, self.fails_above = least, pause_s, fails_above

    def forward(self, images: Tensor) -> Tensor:
        if self.pause_s:
            time.sleep(self.pause_s)
        if self.fails_above is not None and images.max() > self.fails_above:
            return torch.full_like(images[:, :1], float("nan"))
        return (images[:, 2:3] - images[:, 0:1] - self.least) * 0.5
