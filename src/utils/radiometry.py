"""Digital numbers to comparable values, and mosaicking of partly valid pixels."""

import numpy as np
from numpy.typing import NDArray

REFLECTANCE_SCALE = 10_000
"""Stored value of reflectance 1.0."""

DISPLAY_MAX = 255
"""Stored value of full brightness."""


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


def stretched(
    values: NDArray[np.generic], valid: NDArray[np.bool_], *, low: float, high: float, gamma: float = 1.0
) -> NDArray[np.uint8]:
    """Display values of measurements: the same value is the same grey on every chip.

    ``t = clip((value - low) / (high - low), 0, 1)`` and ``grey = 1 + round(254 · t^(1 / gamma))``, halves to even;
    float64 throughout. Valid pixels are 1 to 255, nodata is 0.

    Args:
        values: measurements, any shape and real type.
        valid: True where they hold data, same shape.
        low: value shown as 1, source units.
        high: value shown as 255, source units, above ``low``.
        gamma: above 1 brightens the shadows.
    """
    share = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    grey = 1 + np.rint((DISPLAY_MAX - 1) * share ** (1 / gamma))
    return np.where(valid, grey, 0).astype(np.uint8)


def percentile_limits(
    values: NDArray[np.generic], valid: NDArray[np.bool_], *, low: float, high: float
) -> tuple[float, float] | None:
    """The ``low`` and ``high`` percentile of the valid values, interpolated linearly; None where they do not differ.

    Args:
        values: measurements, any shape and real type.
        valid: True where they hold data, same shape.
        low: lower percentile, 0 to 100.
        high: upper percentile, 0 to 100.
    """
    held = values[valid].astype(np.float64)
    if not held.size:
        return None
    least, most = np.percentile(held, (low, high))
    return (float(least), float(most)) if least < most else None
