"""Spectral indices of multispectral chips, and their means over the chip, inside PV masks and in the ring around.

The index nodes are made from the table in ``utils.indices``: one line there is one node here.
"""

from typing import Any

import numpy as np
from hamilton.function_modifiers import group, inject, parameterize, source, tag, value
from numpy.typing import NDArray

from utils.area import FRACTION_SCALE
from utils.indices import INDICES, spectral_index
from utils.radiometry import REFLECTANCE_SCALE
from utils.types import IGNORE, RasterChip

MIN_EFFECTIVE_PIXELS = 4.0
"""Means over fewer multispectral pixels say nothing and are null."""

_NOTHING = np.empty((0, 0), np.float32)


@tag(stage="indices")
def msi_reflectance(msi_chips: dict[str, RasterChip]) -> dict[str, NDArray[np.float32]]:
    """Band → surface reflectance, shape (chips, rows, columns), float32 in [0, 1]; NaN where a chip holds no data."""
    chips = list(msi_chips.values())
    if not chips:
        return {}
    valid = np.stack([chip.valid for chip in chips])
    pixels = np.stack([chip.data for chip in chips]).astype(np.float32) / np.float32(REFLECTANCE_SCALE)
    return {band: np.where(valid, pixels[:, i], np.float32(np.nan)) for i, band in enumerate(chips[0].bands)}


@tag(stage="indices")
@parameterize(
    **{
        name: (
            {"index_name": value(name)},
            f"{spec.title} per chip, (chips, rows, columns), {spec.unit}; empty where the profile lacks its bands.",
        )
        for name, spec in INDICES.items()
    }
)
def spectral_index_image(msi_reflectance: dict[str, NDArray[np.float32]], index_name: str) -> NDArray[np.float32]:
    """{0}."""
    if not set(INDICES[index_name].bands) <= set(msi_reflectance):
        return np.empty((0, 0, 0), np.float32)
    return spectral_index(index_name, msi_reflectance)


@tag(stage="indices")
@inject(index_images=group(**{name: source(name) for name in INDICES}))
def index_statistics(
    index_images: dict[str, NDArray[np.float32]],
    msi_chips: dict[str, RasterChip],
    msi_masks: dict[str, NDArray[np.uint8]],
) -> dict[str, dict[str, float | None]]:
    """Chip id → index means, named ``<index>_chip``, ``<index>_inside`` and ``<index>_ring``.

    Inside weights each known pixel by its PV area fraction, the ring by the rest of it, 0 where PV covers more than
    a twentieth; both are null below :data:`MIN_EFFECTIVE_PIXELS` and on chips without PV. An index whose bands the
    profile lacks is null everywhere.
    """
    return {
        uuid: _means(
            {name: image[i] if len(image) else _NOTHING for name, image in index_images.items()}, msi_masks[uuid]
        )
        for i, uuid in enumerate(msi_chips)
        if uuid in msi_masks
    }


def _means(images: dict[str, NDArray[np.float32]], fractions: NDArray[np.uint8]) -> dict[str, float | None]:
    known = fractions != IGNORE
    inside = np.where(known, fractions / FRACTION_SCALE, 0.0)
    ring = np.where(known & (inside < 0.05), 1.0 - inside, 0.0) * bool(inside.any())
    row: dict[str, float | None] = {}
    for name, image in images.items():
        row[f"{name}_chip"] = _mean(image, np.ones_like(inside), least=1.0)
        row[f"{name}_inside"] = _mean(image, inside, least=MIN_EFFECTIVE_PIXELS)
        row[f"{name}_ring"] = _mean(image, ring, least=MIN_EFFECTIVE_PIXELS)
    return row


def _mean(image: NDArray[np.float32], weights: NDArray[Any], *, least: float) -> float | None:
    if image is _NOTHING:
        return None
    holds = np.isfinite(image)
    total = float(weights[holds].sum())
    return float((image[holds] * weights[holds]).sum() / total) if total >= least else None
