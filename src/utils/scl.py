"""Sentinel-2 scene classification (SCL): the twelve classes, which pixels count, and shares of cloud and shadow.

Classes are those of the Level-2A product: Sentinel-2 Products Specification Document and Level-2A Algorithm Theoretical
Basis Document (Sen2Cor), scene classification map.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.errors import SceneClassError


@dataclass(frozen=True, kw_only=True)
class SceneClass:
    """One class of the scene classification."""

    name: str
    """Name in the product definition."""
    dropped: bool
    """Whether its pixels are left out of index statistics and differences."""
    reason: str
    """Why they are left out, or kept."""


def _dropped(name: str, reason: str) -> SceneClass:
    return SceneClass(name=name, dropped=True, reason=reason)


def _kept(name: str, reason: str) -> SceneClass:
    return SceneClass(name=name, dropped=False, reason=reason)


SCENE_CLASSES: tuple[SceneClass, ...] = (
    _dropped("no data", "nothing was measured or classified"),
    _dropped("saturated or defective", "the digital number is not a radiance"),
    _kept("dark area", "dark panels and slate roofs carry it; shadow of terrain is in it too"),
    _dropped("cloud shadow", "the surface is lit by the sky alone"),
    _kept("vegetation", "ground"),
    _kept("not vegetated", "ground, and most panels"),
    _kept("water", "dark panels carry it as well as water"),
    _kept("unclassified", "ground the classifier could not tell; the reflectance is sound"),
    _dropped("cloud, medium probability", "the surface is hidden or mixed with cloud"),
    _dropped("cloud, high probability", "the surface is hidden"),
    _dropped("thin cirrus", "scattering raises the visible bands more than the infrared ones"),
    _dropped("snow or ice", "the surface is covered"),
)
"""The classes by code, 0 to 11."""

DROPPED = tuple(code for code, scene_class in enumerate(SCENE_CLASSES) if scene_class.dropped)
"""Codes whose pixels do not count: 0, 1, 3, 8, 9, 10, 11."""

CLOUD = (8, 9, 10)
"""Codes of cloud: medium and high probability, thin cirrus."""

SHADOW = (3,)
"""Code of cloud shadow."""

_KEPT = np.array([not scene_class.dropped for scene_class in SCENE_CLASSES])


def checked_scl(scl: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The classification as uint8.

    Raises:
        SceneClassError: a value is not one of the twelve codes, or the array does not hold integers.
    """
    if not np.issubdtype(scl.dtype, np.integer):
        raise SceneClassError(f"a scene classification holds integer codes 0 to 11, got {scl.dtype}")
    codes = np.asarray(scl, np.int64) if scl.dtype != np.uint8 else scl.view(np.uint8)
    wrong = np.unique(codes[(codes < 0) | (codes >= len(SCENE_CLASSES))])
    if len(wrong):
        raise SceneClassError(
            f"values {', '.join(map(str, wrong[:5]))} are not scene classes (0 to 11); the raster is no Sentinel-2 SCL "
            "or was resampled by another method than nearest neighbour"
        )
    return codes.astype(np.uint8, copy=False)


def scl_valid(scl: NDArray[np.generic]) -> NDArray[np.bool_]:
    """True where the class is kept, same shape.

    Raises:
        SceneClassError: a value is not one of the twelve codes.
    """
    kept: NDArray[np.bool_] = _KEPT[checked_scl(scl)]
    return kept


def clear_pixels(valid: NDArray[np.bool_], scl: NDArray[np.generic] | None) -> NDArray[np.bool_]:
    """Pixels that hold data and whose class is kept; without any classified pixel, those that hold data.

    Args:
        valid: where all bands hold data, shape (rows, columns).
        scl: scene classification of the same shape; None for imagery without one.

    Raises:
        SceneClassError: a value is not one of the twelve codes.
    """
    if scl is None or not scl.any():
        return valid.copy()
    return valid & scl_valid(scl)


def cloud_fraction(scl: NDArray[np.generic]) -> float | None:
    """Share of cloud (8, 9, 10) among the classified pixels, 0 to 1; None where nothing is classified.

    Raises:
        SceneClassError: a value is not one of the twelve codes.
    """
    return _share(scl, CLOUD)


def shadow_fraction(scl: NDArray[np.generic]) -> float | None:
    """Share of cloud shadow (3) among the classified pixels, 0 to 1; None where nothing is classified.

    Raises:
        SceneClassError: a value is not one of the twelve codes.
    """
    return _share(scl, SHADOW)


def scene_classes_table() -> str:
    """The classes as Markdown, one row per code."""
    rows = [
        f"| {code} | {one.name} | {'dropped' if one.dropped else 'kept'} | {one.reason} |"
        for code, one in enumerate(SCENE_CLASSES)
    ]
    return "\n".join(["| SCL | class | pixels | why |", "|---|---|---|---|", *rows])


def _share(scl: NDArray[np.generic], codes: tuple[int, ...]) -> float | None:
    counts = np.bincount(checked_scl(scl).ravel(), minlength=len(SCENE_CLASSES))
    classified = int(counts[1:].sum())
    return float(counts[list(codes)].sum() / classified) if classified else None
