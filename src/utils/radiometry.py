"""Digital numbers to comparable values, and mosaicking of partly valid pixels."""

import numpy as np
from numpy.typing import NDArray

REFLECTANCE_SCALE = 10_000
"""Stored value of reflectance 1.0."""

CLOUDY_SCL = (3, 8, 9, 10)
"""Sentinel-2 scene classes counted as cloud: shadow, medium and high probability, thin cirrus."""


def harmonised(
    digital_numbers: NDArray[np.generic], valid: NDArray[np.bool_], *, scale: float, offset: float
) -> NDArray[np.uint16]:
    """Surface reflectance × 10000 as uint16, whatever offset the processing baseline added.

    ``reflectance = digital number · scale + offset`` (STAC raster extension). Sentinel-2 baseline 04.00 and later
    add 1000 to every digital number, which ``offset = -0.1`` removes. Valid pixels are at least 1, nodata is 0.
    """
    reflectance = digital_numbers.astype(np.float64) * scale + offset
    stored = np.clip(np.rint(reflectance * REFLECTANCE_SCALE), 1, np.iinfo(np.uint16).max)
    return np.where(valid, stored, 0).astype(np.uint16)


def cloud_fraction(scl: NDArray[np.uint8]) -> float | None:
    """Share of cloud and cloud shadow among the classified pixels; None where nothing is classified."""
    classified = scl > 0
    if not classified.any():
        return None
    return float(np.isin(scl[classified], CLOUDY_SCL).mean())
