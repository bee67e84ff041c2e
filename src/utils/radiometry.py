"""Digital numbers to comparable values, and mosaicking of partly valid pixels."""

import numpy as np
from numpy.typing import NDArray

REFLECTANCE_SCALE = 10_000
"""Stored value of reflectance 1.0."""


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
