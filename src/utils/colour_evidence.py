"""How strongly the colour of each pixel speaks for an object, learnt from pixels that are surely on or off it."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

MAX_COLOUR_SAMPLES = 2048
_FEWEST = 8
"""Pixels below which a side is not described."""
_ON, _OFF = 0.85, 0.15
"""Likelihoods beyond which a pixel is sure."""
_SUREST = 0.75
"""Quantile of the likelihood inside the prompt that is sure enough where little is."""
_LEAST_SHARE = 0.01
_COOL = 0.25
"""Quantile of warmth on the object that is its modules': what is between them is warmer."""
_WARM_RISE = 6.0
"""Warmth over which the full loss is reached."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ColourEvidence:
    """What colours say about the pixels of one window."""

    log_odds: Floats
    """Above 0 where a pixel resembles the object more than its surroundings, shape (pixels,)."""
    contrast: float
    """Mean probability of the sure object pixels by colour alone, less that of the sure others; 0 to 1."""


def lab_image(rgb: Bytes, median_px: int) -> Floats:
    """CIELAB planes of a median-filtered RGB image.

    Args:
        rgb: shape (3, rows, columns).
        median_px: side of the median window, pixels, odd; below 3 leaves the pixels as they are.

    Returns:
        Shape (rows, columns, 3): L from 0 to 100, a and b in the same unit.
    """
    image = np.ascontiguousarray(np.moveaxis(rgb, 0, -1))
    calm = cv2.medianBlur(image, median_px) if median_px >= 3 else image
    return np.asarray(cv2.cvtColor(calm.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), dtype=np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Palette:
    """The colours of one side as a mixture of equally wide normal distributions."""

    centres: Floats
    """Shape (colours, planes)."""
    shares: NDArray[np.float64]
    """How much of the side has each colour, shape (colours,), adds up to 1."""


@dataclass(frozen=True, kw_only=True)
class PaletteSizes:
    """How finely colours are described."""

    own_colours: int
    """Colours that describe the object."""
    other_colours: int
    """Colours that describe what is not the object, half of them from inside the prompt."""
    least_spread: float
    """Least standard deviation of a colour, in units of the planes."""
    strongest: float
    """Bound of the log-odds."""
    warm_from: float
    """How much warmer than the object's cool part a pixel may be, CIELAB a + b."""
    warm_weight: float
    """Log-odds a pixel loses that is much warmer."""


def main_colours(samples: Floats, count: int) -> Palette:
    """Up to ``count`` colours, by k-means from a fixed start (equal groups by the first plane).

    Args:
        samples: shape (n, planes), n ≥ 1.
        count: colours wanted; fewer when there are fewer samples.
    """
    # every step-th sample bounds the time a large surrounding takes
    step = -(-len(samples) // MAX_COLOUR_SAMPLES)
    chosen = np.ascontiguousarray(samples[::step], dtype=np.float32)
    clusters = min(count, len(chosen))
    if clusters == len(chosen):
        return Palette(centres=chosen, shares=np.full(clusters, 1 / clusters))
    labels = np.empty((len(chosen), 1), dtype=np.int32)
    labels[np.argsort(chosen[:, 0], kind="stable"), 0] = np.arange(len(chosen)) * clusters // len(chosen)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 15, 0.3)
    _, found, centres = cv2.kmeans(chosen, clusters, labels, stop, 1, cv2.KMEANS_USE_INITIAL_LABELS)
    shares = np.bincount(found.ravel(), minlength=clusters) / len(chosen)
    return Palette(centres=np.asarray(centres, dtype=np.float32), shares=shares)


def joined(palettes: list[Palette]) -> Palette:
    """One palette of several that count alike."""
    return Palette(
        centres=np.concatenate([one.centres for one in palettes]),
        shares=np.concatenate([one.shares for one in palettes]) / len(palettes),
    )


def colour_evidence(
    colours: Floats,
    warmth: Floats,
    likely: Floats,
    near: Bools,
    fixed: tuple[Bools, Bools],
    sizes: PaletteSizes,
) -> ColourEvidence | None:
    """Log-odds of the object: how common a pixel's colour is on it against how common it is off it.

    Args:
        colours: shape (pixels, planes).
        warmth: how red and yellow each pixel is, CIELAB a + b, shape (pixels,).
        likely: how likely each pixel is the object, shape (pixels,).
        near: pixels inside the prompt: those off the object show the roof, which the far ones do not.
        fixed: pixels said to be on and off the object.
        sizes: of the palettes.

    Returns:
        None when either side shows too few pixels.
    """
    on, off = fixed
    sure = np.quantile(likely[near], _SUREST) if near.any() else _ON
    inside = (likely >= min(_ON, sure)) & ~off | on
    outside = (likely < _OFF) & ~on | off
    parts = [part for part in (outside & near, outside & ~near) if part.sum() >= _FEWEST]
    if not inside.any() or not parts:
        return None
    own = [main_colours(colours[part], sizes.own_colours) for part in (inside, on) if part.any()]
    others = [main_colours(colours[part], max(1, sizes.other_colours // len(parts))) for part in parts]
    if off.any():
        others.append(main_colours(colours[off], sizes.own_colours))
    mine, theirs = joined(own), joined(others)
    to_mine, to_theirs = _squared_distances(colours, mine), _squared_distances(colours, theirs)
    variance = max(sizes.least_spread**2, float(np.median(to_mine.min(axis=0)[inside])))
    log_odds = _log_density(to_mine, mine, variance) - _log_density(to_theirs, theirs, variance)
    coolest = np.quantile(warmth[inside], _COOL)
    log_odds -= np.float32(sizes.warm_weight) * np.clip((warmth - coolest - sizes.warm_from) / _WARM_RISE, 0, 1)
    bounded = np.clip(log_odds, -sizes.strongest, sizes.strongest)
    resembles = 1 / (1 + np.exp(-bounded))
    contrast = float(resembles[inside].mean() - resembles[outside].mean())
    return ColourEvidence(log_odds=bounded.astype(np.float32), contrast=max(0.0, contrast))


def _squared_distances(colours: Floats, palette: Palette) -> Floats:
    """Shape (colours of the palette, pixels)."""
    products = palette.centres @ colours.T
    squares = (palette.centres**2).sum(axis=1)[:, None] - 2 * products + (colours**2).sum(axis=1)
    return np.asarray(np.maximum(squares, 0), dtype=np.float32)


def _log_density(squared_distances: Floats, palette: Palette, variance: float) -> Floats:
    """Logarithm of the mixture's density, up to a constant, shape (pixels,)."""
    weights = np.log(palette.shares + _LEAST_SHARE).astype(np.float32)[:, None]
    logs = weights - squared_distances / np.float32(2 * variance)
    most = logs.max(axis=0)
    return np.asarray(most + np.log(np.exp(logs - most).sum(axis=0)), dtype=np.float32)
