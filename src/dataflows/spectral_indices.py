"""Spectral indices of multispectral chips, and their means over the chip, inside PV masks and in the ring around.

The index nodes are made from the table in ``utils.indices``: one line there is one node here.
"""

import numpy as np
from hamilton.function_modifiers import group, inject, parameterize, source, tag, value
from numpy.typing import NDArray

from utils.area import FRACTION_SCALE
from utils.indices import INDICES, spectral_index
from utils.radiometry import REFLECTANCE_SCALE
from utils.scl import clear_pixels
from utils.types import IGNORE, RasterChip

MIN_EFFECTIVE_PIXELS = 4.0
"""Means over fewer effective pixels say nothing and are null.

Effective pixels are the sum of the weights: the PV area in multispectral pixels. Kish's (Σw)²/Σw² would count sixteen
pixels of which PV covers a hundredth each as sixteen, though 99 % of what they show is something else. A square array
of four pixels (20 m × 20 m) holds at least one pixel whole, wherever it lies on the grid; a smaller one may hold none.
"""

RING_COVER = 0.05
"""Area fraction from which a pixel is no part of the ring."""


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
def clear_masks(msi_chips: dict[str, RasterChip]) -> dict[str, NDArray[np.bool_]]:
    """Chip id → True where a pixel holds data and its scene class is kept (``utils.scl``), bool (rows, columns).

    A chip without any classified pixel is clear wherever it holds data.

    Raises:
        SceneClassError: a classification holds other values than 0 to 11.
    """
    return {uuid: clear_pixels(chip.valid, chip.scl) for uuid, chip in msi_chips.items()}


@tag(stage="indices")
@inject(index_images=group(**{name: source(name) for name in INDICES}))
def index_statistics(
    index_images: dict[str, NDArray[np.float32]],
    msi_chips: dict[str, RasterChip],
    msi_masks: dict[str, NDArray[np.uint8]],
    clear_masks: dict[str, NDArray[np.bool_]],
) -> dict[str, dict[str, float | None]]:
    """Chip id → index means ``<index>_chip``, ``<index>_inside`` and ``<index>_ring``, and effective pixel counts.

    Only clear pixels count. Inside weights each known pixel by its PV area fraction, the ring by the rest of it, 0
    where PV covers more than a twentieth; both are null below :data:`MIN_EFFECTIVE_PIXELS` and on chips without PV.
    ``index_inside_px`` and ``index_ring_px`` are the sums of those weights. An index whose bands the profile lacks is
    null everywhere.
    """
    return {
        uuid: _statistics(
            {name: image[i] for name, image in index_images.items() if len(image)}, msi_masks[uuid], clear_masks[uuid]
        )
        for i, uuid in enumerate(msi_chips)
        if uuid in msi_masks
    }


def _statistics(
    images: dict[str, NDArray[np.float32]], fractions: NDArray[np.uint8], clear: NDArray[np.bool_]
) -> dict[str, float | None]:
    known = clear & (fractions != IGNORE)
    covered = np.where(fractions != IGNORE, fractions / FRACTION_SCALE, 0.0)
    inside = np.where(known, covered, 0.0)
    ring = np.where(known & (covered < RING_COVER), 1.0 - covered, 0.0) * bool(covered.any())
    row: dict[str, float | None] = {"index_inside_px": float(inside.sum()), "index_ring_px": float(ring.sum())}
    places = (("chip", clear.astype(np.float64), 1.0), ("inside", inside, MIN_EFFECTIVE_PIXELS))
    for name in INDICES:
        for place, weights, least in (*places, ("ring", ring, MIN_EFFECTIVE_PIXELS)):
            row[f"{name}_{place}"] = _mean(images[name], weights, least=least) if name in images else None
    return row


def _mean(image: NDArray[np.float32], weights: NDArray[np.float64], *, least: float) -> float | None:
    counted = np.isfinite(image) & (weights > 0)
    total = float(weights[counted].sum())
    return float((image[counted] * weights[counted]).sum() / total) if total >= least else None
