"""Spectral indices as one declarative table of formula, bands, range and source.

Reflectance goes in; a pixel whose denominator is 0, or whose bands are NaN, comes out NaN.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.errors import BandError, BandTypeError, ConfigError, UnknownNameError
from utils.index_kernels import evaluated, parsed


@dataclass(frozen=True, kw_only=True)
class Index:
    """One spectral index of Sentinel-2 surface reflectance."""

    title: str
    """Short name as the literature writes it."""
    meaning: str
    """Full name."""
    formula: str
    """Text in Sentinel-2 bands, evaluated in float32 in the order it is written."""
    bounds: tuple[float, float]
    """Least and greatest value for reflectance in [0, 1]."""
    unit: str
    """Range or unit of the values."""
    source: str
    """Where the formula comes from."""

    def __post_init__(self) -> None:
        """Refuse a formula that cannot be read."""
        parsed(self.formula)

    @property
    def bands(self) -> tuple[str, ...]:
        """Sentinel-2 bands in the order they first stand in the formula."""
        return parsed(self.formula).bands

    @property
    def is_ratio(self) -> bool:
        """Whether bands stand in a denominator: the value then does not depend on the scale of reflectance."""
        return parsed(self.formula).denominator is not None


_SIGNED, _REFLECTANCE = ((-1.0, 1.0), "-1 to 1"), ((0.0, 1.0), "reflectance 0-1")
_GM_SEUS = "PV feature set of the GM-SEUS solar array data set"


def _index(title: str, meaning: str, formula: str, source: str, span: tuple[Any, str] = _SIGNED) -> tuple[str, Index]:
    spec = Index(title=title, meaning=meaning, formula=formula, source=source, bounds=span[0], unit=span[1])
    return title.lower(), spec


INDICES: dict[str, Index] = dict(
    [
        _index(
            "NDVI",
            "normalised difference vegetation index",
            "(B08 - B04) / (B08 + B04)",
            "Rouse et al. 1974, NASA SP-351",
        ),
        _index(
            "NDBI",
            "normalised difference built-up index",
            "(B11 - B08) / (B11 + B08)",
            "Zha et al. 2003, Int. J. Remote Sens. 24(3)",
        ),
        _index(
            "NDWI",
            "normalised difference water index",
            "(B03 - B08) / (B03 + B08)",
            "McFeeters 1996, Int. J. Remote Sens. 17(7)",
        ),
        _index(
            "MNDWI",
            "modified normalised difference water index",
            "(B03 - B11) / (B03 + B11)",
            "Xu 2006, Int. J. Remote Sens. 27(14)",
        ),
        _index("UI", "urban index", "(B12 - B08) / (B12 + B08)", "Kawamura et al. 1996, ISPRS Archives 31(B7)"),
        _index(
            "BI",
            "bare soil index",
            "((B11 + B04) - (B08 + B02)) / ((B11 + B04) + (B08 + B02))",
            "Rikimaru et al. 2002, Tropical Ecology 43(1)",
        ),
        _index(
            "NDPVI",
            "normalised difference photovoltaic index",
            "(0.5 * B02 - B08) / (0.5 * B02 + B08)",
            _GM_SEUS,
        ),
        _index(
            "NBD",
            "normalised blue deviation",
            "(B02 - (B04 + B03) / 2) / (B02 + (B04 + B03) / 2)",
            _GM_SEUS,
        ),
        _index("Br", "brightness", "(B02 + B03 + B04 + B08) / 4", _GM_SEUS, _REFLECTANCE),
    ]
)
"""Index name → definition. Lower-case names are column and node names."""


def spectral_index(
    name: str, reflectance: Mapping[str, NDArray[Any]], *, scale: float | None = None
) -> NDArray[np.float32]:
    """One index, float32 of the bands' shape, computed in one pass without temporary arrays.

    NaN where a band is NaN or the denominator is 0, without a warning. The first call per index and kind of input
    compiles its loop (about 0.1 s).

    Args:
        name: a key of :data:`INDICES`.
        reflectance: band name → surface reflectance, arrays of one shape: floating point where NaN is nodata, or,
            with ``scale``, uint8 or uint16 digital numbers where 0 is nodata. The range of the values holds for
            reflectance that is not negative.
        scale: digital number of reflectance 1 (``utils.radiometry.REFLECTANCE_SCALE``). The result is bit for bit
            that of ``digital numbers / float32(scale)``.

    Raises:
        UnknownNameError: no such index.
        BandError: a needed band is missing, or the bands differ in shape.
        BandTypeError: a band is not floating point (unsigned integers would wrap on subtraction), or not uint8 or
            uint16 though ``scale`` is given.
        ConfigError: ``scale`` is not a positive number.
    """
    if name not in INDICES:
        raise UnknownNameError("spectral index", name, list(INDICES))
    spec = INDICES[name]
    missing = [band for band in spec.bands if band not in reflectance]
    if missing:
        raise BandError(f"{spec.title} needs {', '.join(spec.bands)}; missing: {', '.join(missing)}")
    planes = [np.asarray(reflectance[band]) for band in spec.bands]
    shapes = {plane.shape for plane in planes}
    if len(shapes) > 1:
        raise BandError(f"{spec.title} needs bands of one shape, got {', '.join(map(str, sorted(shapes)))}")
    _check_types(spec, planes, scale)
    return evaluated(spec.formula, planes, scale=scale)


def indices_table() -> str:
    """The table as Markdown, one row per index."""
    rows = [
        f"| `{name}` | {spec.title} | {spec.meaning} | `{spec.formula}` | {', '.join(spec.bands)} | {spec.unit} "
        f"| {spec.source} |"
        for name, spec in INDICES.items()
    ]
    return "\n".join(["| name | index | meaning | formula | bands | range | source |", "|---|" + "---|" * 6, *rows])


def _check_types(spec: Index, planes: list[NDArray[Any]], scale: float | None) -> None:
    kinds = {str(plane.dtype) for plane in planes}
    if scale is None:
        if not all(np.issubdtype(plane.dtype, np.floating) for plane in planes):
            raise BandTypeError(
                f"{spec.title} takes floating-point reflectance, got {', '.join(sorted(kinds))}; "
                "divide the digital numbers by 10000 first, or give `scale`"
            )
        return
    if not (isfinite(scale) and scale > 0):
        raise ConfigError(f"scale is {scale}; it is the digital number of reflectance 1, 10000 for Sentinel-2")
    # float32 holds every integer up to 2²⁴, so wider types would be rounded on the way in
    if not kinds <= {"uint8", "uint16"}:
        raise BandTypeError(
            f"{spec.title} with a scale takes uint8 or uint16 digital numbers, got {', '.join(sorted(kinds))}"
        )
