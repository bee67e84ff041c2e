"""Spectral indices as one declarative table of formula, bands, range and source.

Reflectance goes in as float32 in [0, 1]; a pixel whose denominator is 0, or whose bands are NaN, comes out NaN.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.errors import BandError, UnknownNameError

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Index:
    """One spectral index of Sentinel-2 surface reflectance."""

    title: str
    """Short name as the literature writes it."""
    bands: tuple[str, ...]
    """Sentinel-2 bands in the order the formula takes them."""
    numerator: Callable[..., Array]
    """Numerator from the bands."""
    denominator: Callable[..., Array] | None
    """Denominator from the bands; None when the index is not a ratio."""
    unit: str
    """Range or unit of the values."""
    source: str
    """Where the formula comes from."""


def _difference(x: Array, y: Array) -> Array:
    return x - y


def _total(x: Array, y: Array) -> Array:
    return x + y


def _normalised(title: str, x: str, y: str, source: str) -> Index:
    return Index(title=title, bands=(x, y), numerator=_difference, denominator=_total, unit="-1 to 1", source=source)


INDICES: dict[str, Index] = {
    "ndvi": _normalised("NDVI", "B08", "B04", "Rouse et al. 1974, NASA SP-351"),
    "ndbi": _normalised("NDBI", "B11", "B08", "Zha et al. 2003, Int. J. Remote Sens. 24(3)"),
    "ndwi": _normalised("NDWI", "B03", "B08", "McFeeters 1996, Int. J. Remote Sens. 17(7)"),
    "mndwi": _normalised("MNDWI", "B03", "B11", "Xu 2006, Int. J. Remote Sens. 27(14)"),
    "ui": _normalised("UI", "B12", "B08", "Kawamura et al. 1996, ISPRS Archives 31(B7)"),
    "bi": Index(
        title="BI",
        bands=("B11", "B04", "B08", "B02"),
        numerator=lambda s, r, n, b: (s + r) - (n + b),
        denominator=lambda s, r, n, b: (s + r) + (n + b),
        unit="-1 to 1",
        source="Rikimaru et al. 2002, Tropical Ecology 43(1) (bare soil index)",
    ),
    "ndpvi": Index(
        title="NDPVI",
        bands=("B02", "B08"),
        numerator=lambda b, n: np.float32(0.5) * b - n,
        denominator=lambda b, n: np.float32(0.5) * b + n,
        unit="-1 to 1",
        source="PV feature set of GM-SEUS (normalised difference photovoltaic index)",
    ),
    "nbd": Index(
        title="NBD",
        bands=("B02", "B04", "B03"),
        numerator=lambda b, r, g: b - (r + g) / np.float32(2),
        denominator=lambda b, r, g: b + (r + g) / np.float32(2),
        unit="-1 to 1",
        source="PV feature set of GM-SEUS (normalised blue deviation)",
    ),
    "br": Index(
        title="Br",
        bands=("B02", "B03", "B04", "B08"),
        numerator=lambda b, g, r, n: (b + g + r + n) / np.float32(4),
        denominator=None,
        unit="reflectance 0-1",
        source="PV feature set of GM-SEUS (brightness)",
    ),
}
"""Index name → definition. Lower-case names are column and node names."""


def spectral_index(name: str, reflectance: Mapping[str, Array]) -> Array:
    """One index, same shape as the bands.

    Args:
        name: a key of :data:`INDICES`.
        reflectance: band name → float32 surface reflectance in [0, 1]; NaN is nodata.

    Raises:
        UnknownNameError: no such index.
        BandError: a needed band is missing.
        TypeError: a band is not floating point (unsigned integers would wrap on subtraction).
    """
    if name not in INDICES:
        raise UnknownNameError("spectral index", name, list(INDICES))
    spec = INDICES[name]
    missing = [band for band in spec.bands if band not in reflectance]
    if missing:
        raise BandError(f"{spec.title} needs {', '.join(spec.bands)}; missing: {', '.join(missing)}")
    planes = [reflectance[band] for band in spec.bands]
    if any(not np.issubdtype(plane.dtype, np.floating) for plane in planes):
        raise TypeError(f"{spec.title} takes floating-point reflectance; divide the digital numbers by 10000 first")
    top = spec.numerator(*planes)
    if spec.denominator is None:
        return top
    bottom = spec.denominator(*planes)
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom != 0)
