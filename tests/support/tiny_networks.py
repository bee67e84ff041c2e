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


class SmoothBlueness(nn.Module):
    """Logit of how much bluer than red and than green a pixel's surroundings are, in display values.

    Roofs are seen in pieces by a pointwise rule; a mean over ``side_px`` pixels joins the cells of a module.
    """

    def __init__(self, over_red: float = 30.0, over_green: float = 5.0, side_px: int = 9) -> None:
        super().__init__()
        self.over_red, self.over_green = over_red, over_green
        self.mean = nn.AvgPool2d(side_px, stride=1, padding=side_px // 2, count_include_pad=False)

    def forward(self, images: Tensor) -> Tensor:
        red, green, blue = self.mean(images).unbind(dim=1)
        return torch.minimum(blue - red - self.over_red, blue - green - self.over_green)[:, None] * 0.3


class IndexAbove(nn.Module):
    """Logit of how far ``(first - second) / (first + second)`` of two bands lies above a threshold, point by point."""

    def __init__(self, threshold: float, steepness: float = 60.0) -> None:
        super().__init__()
        self.threshold, self.steepness = threshold, steepness

    def forward(self, images: Tensor) -> Tensor:
        first, second = images[:, 0], images[:, 1]
        index = (first - second) / (first + second).clamp(min=1e-6)
        return (index - self.threshold)[:, None] * self.steepness
