"""Reference reflectance of photovoltaic modules and of what is taken for them, in Sentinel-2 bands.

All values are *approximations, rounded to about 0.01 to 0.02*, put down band by band from the shape of published
curves; they are no measurements of ours and no copies of a library's records:

- crystalline silicon under glass: 4 to 6 % in the visible and near infrared, where cells absorb; a steep rise beyond
  the band edge of silicon (1.1 µm), where light comes back from the rear sheet; a fall in the short-wave infrared with
  the hydrocarbon features of the encapsulant at 1.73 and 2.3 µm (Czirjak 2017, J. Appl. Remote Sens. 11(2), 026007;
  Ji et al. 2021, Remote Sens. Environ. 266, 112692). Multicrystalline cells reflect more blue, from their
  antireflective layer.
- cadmium telluride: low up to its band edge at 0.86 µm, then higher (same sources).
- water, vegetation, soil, asphalt, slate, plastic film: typical curves of such surfaces in the ECOSTRESS (ASTER)
  spectral library (Baldridge et al. 2009, Remote Sens. Environ. 113; Meerdink et al. 2019, ibid. 230).

The spectra that the sample region is painted with (``utils.sample.spectra``) are not used here and were not looked at:
a reference taken from the generator would only find the generator again.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from utils.types import S2_L2A_BANDS

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ReferenceSpectrum:
    """One surface."""

    name: str
    """What it is, in words a person reads."""
    is_pv: bool
    """Whether it is a photovoltaic module."""
    reflectance: tuple[float, ...]
    """Approximate reflectance in the bands of ``utils.types.S2_L2A_BANDS``, 0 to 1."""


def _pv(name: str, *reflectance: float) -> ReferenceSpectrum:
    return ReferenceSpectrum(name=name, is_pv=True, reflectance=reflectance)


def _other(name: str, *reflectance: float) -> ReferenceSpectrum:
    return ReferenceSpectrum(name=name, is_pv=False, reflectance=reflectance)


#                       B01   B02   B03   B04   B05   B06   B07   B08   B8A   B09   B11   B12
REFERENCE_SPECTRA: Final = (
    _pv("monocrystalline silicon",
                        0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.06, 0.06, 0.06, 0.08, 0.24, 0.15),
    _pv("multicrystalline silicon",
                        0.10, 0.09, 0.06, 0.05, 0.05, 0.05, 0.06, 0.06, 0.07, 0.08, 0.25, 0.16),
    _pv("cadmium telluride",
                        0.05, 0.05, 0.05, 0.05, 0.06, 0.06, 0.07, 0.08, 0.11, 0.15, 0.15, 0.12),
    _other("open water",
                        0.05, 0.05, 0.05, 0.03, 0.02, 0.02, 0.02, 0.01, 0.01, 0.01, 0.01, 0.00),
    _other("green vegetation",
                        0.02, 0.03, 0.06, 0.03, 0.09, 0.28, 0.37, 0.40, 0.41, 0.41, 0.20, 0.09),
    _other("dry vegetation",
                        0.05, 0.07, 0.11, 0.14, 0.18, 0.23, 0.26, 0.29, 0.31, 0.32, 0.34, 0.25),
    _other("bare soil",
                        0.08, 0.10, 0.14, 0.20, 0.22, 0.24, 0.25, 0.27, 0.28, 0.30, 0.38, 0.34),
    _other("asphalt",
                        0.07, 0.08, 0.10, 0.11, 0.12, 0.12, 0.13, 0.13, 0.14, 0.14, 0.17, 0.17),
    _other("slate or dark roofing",
                        0.06, 0.06, 0.07, 0.07, 0.08, 0.08, 0.08, 0.09, 0.09, 0.09, 0.11, 0.11),
    _other("red tiles",
                        0.06, 0.07, 0.11, 0.22, 0.25, 0.28, 0.29, 0.30, 0.31, 0.32, 0.40, 0.38),
    _other("white plastic film or glass",
                        0.25, 0.29, 0.32, 0.34, 0.35, 0.36, 0.37, 0.37, 0.37, 0.37, 0.33, 0.24),
)  # fmt: skip
"""The references, photovoltaics first."""


def spectral_angle(spectrum: Floats, reference: Floats) -> float:
    """Angle between two spectra as vectors, radians, 0 for equal shape whatever the brightness.

    ``arccos(s·r / |s||r|)`` (Kruse et al. 1993, Remote Sens. Environ. 44, spectral angle mapper).
    """
    norm = float(np.linalg.norm(spectrum) * np.linalg.norm(reference))
    return float(np.arccos(np.clip(spectrum @ reference / norm, -1, 1))) if norm > 0 else float(np.pi / 2)


@dataclass(frozen=True, kw_only=True)
class Resemblance:
    """How close a spectrum is to the references."""

    pv_angle: float
    """Angle to the nearest photovoltaic reference, radians."""
    pv_name: str
    """Its name."""
    other_angle: float
    """Angle to the nearest other surface, radians."""
    other_name: str
    """Its name."""


def resemblance(spectrum: Floats, bands: tuple[str, ...]) -> Resemblance:
    """Nearest references of a spectrum, in the bands it has.

    Args:
        spectrum: reflectance, shape (bands,).
        bands: Sentinel-2 names; those the references lack do not count.
    """
    known = [(i, S2_L2A_BANDS.index(band)) for i, band in enumerate(bands) if band in S2_L2A_BANDS]
    own, theirs = [i for i, _ in known], [j for _, j in known]
    angles = [
        (spectral_angle(np.asarray(spectrum, np.float64)[own], np.array(one.reflectance)[theirs]), one)
        for one in REFERENCE_SPECTRA
    ]
    pv = min((pair for pair in angles if pair[1].is_pv), key=lambda pair: pair[0])
    other = min((pair for pair in angles if not pair[1].is_pv), key=lambda pair: pair[0])
    return Resemblance(pv_angle=pv[0], pv_name=pv[1].name, other_angle=other[0], other_name=other[1].name)
