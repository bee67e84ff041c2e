"""Per-channel mean and standard deviation of the training split."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.dataset import ChipDataset
from utils.errors import SplitError

_TAKE = 32


@dataclass(frozen=True, kw_only=True)
class ChannelStats:
    """What inputs are normalised with: ``(x − mean) / std``."""

    mean: tuple[float, ...]
    """Mean per channel, in the channel's own unit (digital number 0-255, reflectance, index value)."""
    std: tuple[float, ...]
    """Standard deviation per channel, same unit; 1 for a constant channel."""
    n_chips: int
    """Chips they were computed from."""


def channel_stats(dataset: ChipDataset, *, max_chips: int, seed: int) -> ChannelStats:
    """Statistics over at most ``max_chips`` chips of ``dataset``, drawn by ``seed``, read in small takes.

    Nodata (NaN in a multispectral channel, all-zero RGB) does not count.

    Raises:
        SplitError: a channel has no valid pixel.
    """
    drawn = np.random.default_rng(seed).permutation(len(dataset))[:max_chips]
    count, total, squares = (np.zeros(len(dataset.spec.channels)) for _ in range(3))
    for rows in np.split(drawn, np.arange(_TAKE, len(drawn), _TAKE)):
        pixels = _valid_as_float(dataset.spec.images(dataset.arrow(rows)))
        count += np.isfinite(pixels).sum(axis=(0, 2, 3))
        total += np.nansum(pixels, axis=(0, 2, 3))
        squares += np.nansum(pixels**2, axis=(0, 2, 3))
    if not count.all():
        empty = [name for name, pixels in zip(dataset.spec.channels, count, strict=True) if not pixels]
        raise SplitError(f"channels {', '.join(empty)} hold no valid pixel in {len(drawn)} training chips")
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0)
    std = np.where(variance > 1e-12, np.sqrt(variance), 1.0)
    return ChannelStats(mean=tuple(mean.tolist()), std=tuple(std.tolist()), n_chips=len(drawn))


def _valid_as_float(images: NDArray[np.generic]) -> NDArray[np.float64]:
    pixels = images.astype(np.float64)
    if images.dtype == np.uint8:
        pixels[np.broadcast_to(~images.any(axis=1, keepdims=True), images.shape)] = np.nan
    return pixels
