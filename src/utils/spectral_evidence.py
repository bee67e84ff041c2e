"""Multispectral statistics of one object: weighted by area fraction inside, in its ring, and without its mixture."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from utils.indices import INDICES, spectral_index
from utils.radiometry import REFLECTANCE_SCALE
from utils.scl import CLOUD, SHADOW, clear_pixels
from utils.types import RasterChip

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RING_COVER = 0.05
"""Area fraction from which a pixel is no part of a ring, as in ``dataflows.spectral_indices``."""
WATER = 6
"""Scene class of water."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """An object on one multispectral date."""

    scene_ids: tuple[str, ...]
    """Scenes, most used first."""
    acquired_at: datetime
    """Acquisition time of the first of them."""
    effective_px: float
    """Area of the object in pixels, whether they show it or not."""
    clear_px: float
    """Area of it in clear pixels."""
    ring_px: float
    """Clear pixels of the ring."""
    cloud_share: float
    """Share of the object under cloud or cloud shadow (scene classes 3, 8, 9, 10), 0 to 1."""
    water_share: float
    """Share of the object in scene class 6, 0 to 1."""
    bands: tuple[str, ...]
    """Bands of the spectra."""
    inside: Floats
    """Mean reflectance weighted by area fraction, shape (bands,); NaN where no pixel is clear."""
    ring: Floats
    """Mean reflectance of the ring, shape (bands,)."""
    object: Floats
    """Reflectance of the object itself, see :func:`unmixed`, shape (bands,)."""
    z: Mapping[str, float]
    """Index → z-score of inside less ring, see :func:`z_score`; without those that cannot be told."""

    def index(self, name: str) -> float:
        """Spectral index of the object itself; NaN where bands are missing or the denominator is 0."""
        if not set(INDICES[name].bands) <= set(self.bands):
            return float("nan")
        planes = {band: np.array([self.object[self.bands.index(band)]]) for band in INDICES[name].bands}
        return float(spectral_index(name, planes)[0])

    def band(self, name: str) -> float:
        """Reflectance of the object itself in a band; NaN where it is missing."""
        return float(self.object[self.bands.index(name)]) if name in self.bands else float("nan")


def observed(chip: RasterChip, covered: Floats, elsewhere: Floats, ring: Bools) -> Observation:
    """Statistics of an object on one date.

    Args:
        chip: bands around the object, reflectance × 10000, with its scene classes.
        covered: area fraction of the object, shape (rows, columns).
        elsewhere: area fraction of all objects, this one among them, same shape: they are no surroundings.
        ring: pixels near enough to be surroundings, same shape.
    """
    pixels = chip.data.astype(np.float64) / REFLECTANCE_SCALE
    clear = clear_pixels(chip.valid, chip.scl)
    inside, total = np.where(clear, covered, 0.0), float(covered.sum())
    around = (clear & ring & (elsewhere < RING_COVER)).astype(np.float64)
    classes = np.zeros_like(covered, np.uint8) if chip.scl is None else chip.scl
    shares = [float(covered[np.isin(classes, codes)].sum() / max(total, 1e-9)) for codes in (CLOUD + SHADOW, (WATER,))]
    ring_mean = _mean(pixels, around)
    return Observation(
        scene_ids=chip.scene_ids,
        acquired_at=chip.acquired_at,
        effective_px=total,
        clear_px=float(inside.sum()),
        ring_px=float(around.sum()),
        cloud_share=shares[0],
        water_share=shares[1],
        bands=chip.bands,
        inside=_mean(pixels, inside),
        ring=ring_mean,
        object=unmixed(pixels, inside, ring_mean),
        z=_z_scores(pixels, chip.bands, inside, around),
    )


def unmixed(pixels: Floats, fractions: Floats, surroundings: Floats) -> Floats:
    """Reflectance of an object from pixels that also show its surroundings, shape (bands,).

    Each pixel is ``f·o + (1 − f)·s`` (linear mixture with known fractions; Settle & Drake 1993, Int. J. Remote Sens.
    14(6)), which least squares solve for ``o = Σ f·(p − (1 − f)·s) / Σ f²``; cut to 0 to 1.

    Args:
        pixels: reflectance p, shape (bands, rows, columns).
        fractions: area fraction f, 0 where a pixel does not count, shape (rows, columns).
        surroundings: reflectance s, shape (bands,); NaN leaves the mixture as it is.
    """
    squares = float((fractions**2).sum())
    if squares <= 0:
        return np.full(len(pixels), np.nan)
    if not np.isfinite(surroundings).all():
        return _mean(pixels, fractions)
    own = pixels - (1 - fractions) * surroundings[:, None, None]
    return np.asarray(np.clip((own * fractions).sum(axis=(1, 2)) / squares, 0, 1), np.float64)


def z_score(values: Floats, inside: Floats, around: Floats) -> float | None:
    """``(m₁ − m₂) / √(s₁²/n₁ + s₂²/n₂)`` of weighted means m, variances s² and effective pixels n = Σ w (Welch 1947).

    The variance inside is at least that around: few mixed pixels look more even than they are. None below two effective
    pixels on either side.

    Args:
        values: index values, shape (rows, columns); NaN does not count.
        inside: weights of the object, same shape.
        around: weights of its surroundings, same shape.
    """
    means, variances, counts = [], [], []
    for weights in (inside, around):
        told = np.isfinite(values) & (weights > 0)
        count = float(weights[told].sum())
        if count < 2:
            return None
        mean = float(np.average(values[told], weights=weights[told]))
        means.append(mean)
        variances.append(float(np.average((values[told] - mean) ** 2, weights=weights[told])))
        counts.append(count)
    spread = max(variances) / counts[0] + variances[1] / counts[1]
    return (means[0] - means[1]) / float(np.sqrt(spread)) if spread > 0 else None


def _z_scores(pixels: Floats, bands: tuple[str, ...], inside: Floats, around: Floats) -> dict[str, float]:
    planes = {band: pixels[i].astype(np.float32) for i, band in enumerate(bands)}
    found = {
        name: z_score(spectral_index(name, planes).astype(np.float64), inside, around)
        for name, spec in INDICES.items()
        if set(spec.bands) <= set(bands)
    }
    return {name: value for name, value in found.items() if value is not None}


def _mean(pixels: Floats, weights: Floats) -> Floats:
    total = float(weights.sum())
    if total <= 0:
        return np.full(len(pixels), np.nan)
    return np.asarray((pixels * weights).sum(axis=(1, 2)) / total, np.float64)
