"""Trees as polygons: a shadow, a crown, and two caps lit by the sun."""

import numpy as np
from numpy.typing import NDArray

from utils.sample.features import Landscape, Layer
from utils.sample.polygons import RAISED, Polygons, shadow_polygons, shadow_reach
from utils.sample.spec import stream
from utils.sample.spectra import MATERIALS, varied

_CROWN_VERTICES, _CROWN_SHAPES, _TREE_TINTS = 14, 24, 16
_CAPS = ((1.0, 0.0, 0.80), (0.74, 0.22, 1.06), (0.4, 0.4, 1.30))
"""A crown and its two lit caps: scale, shift towards the sun in radii, brightness."""

Offsets = NDArray[np.float64]


def tree_polygons(landscape: Landscape, sun: NDArray[np.float64]) -> list[Polygons]:
    """Shadows, crowns and lit caps of all trees; taller crowns stand over lower ones.

    Args:
        landscape: where they stand.
        sun: unit vector towards the sun, shape (3,).
    """
    rng = stream(landscape.seed, "trees")
    trees = landscape.trees[np.argsort(landscape.trees["height_m"], kind="stable")]
    centre = np.column_stack([trees["x"], trees["y"]])[:, None]
    crown, angle = _crowns(trees, rng)
    first = len(landscape.surfaces) + np.arange(len(trees)) * len(_CAPS)
    counts = np.full(len(trees), _CROWN_VERTICES)
    away = shadow_reach(sun)
    ahead = (np.column_stack([np.cos(angle), np.sin(angle)]) @ away > 0)[None, :, None]
    tip = away * (0.8 * trees["height_m"][:, None, None].astype(np.float64))
    order = np.column_stack([np.full(len(trees), Layer.SHADOW), first])
    parts = [shadow_polygons((centre + crown + np.where(ahead, tip, 0.0)).reshape(-1, 2), counts, order)]
    spectra = _spectra(trees, rng)
    towards = sun[:2] / np.hypot(sun[0], sun[1]) * trees["radius_m"][:, None, None].astype(np.float64)
    for number, (scale, shift, gain) in enumerate(_CAPS):
        cap = (centre + scale * crown + shift * towards).reshape(-1, 2)
        parts.append(_canopy(cap, counts, first + number, (spectra * np.float32(gain)).astype(np.float32)))
    return parts


def _crowns(trees: NDArray[np.void], rng: np.random.Generator) -> tuple[Offsets, Offsets]:
    """Outlines of the crowns around their centres, shape (trees, vertices, 2), and the vertices' directions."""
    angle = np.linspace(0, 2 * np.pi, _CROWN_VERTICES, endpoint=False)
    rough = 1 + rng.uniform(-0.2, 0.2, (_CROWN_SHAPES, _CROWN_VERTICES))
    reach = rough[rng.integers(_CROWN_SHAPES, size=len(trees))] * trees["radius_m"][:, None]
    return np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=-1), angle


def _spectra(trees: NDArray[np.void], rng: np.random.Generator) -> NDArray[np.float32]:
    """One of a few shades of its kind for every tree, shape (trees, 12)."""
    broadleaf, conifer = (
        np.array([varied(MATERIALS[kind], rng, gain=0.2, tint=0.07) for _ in range(_TREE_TINTS)])
        for kind in ("broadleaf", "conifer")
    )
    tint = rng.integers(_TREE_TINTS, size=len(trees))
    return np.where(trees["conifer"][:, None], conifer[tint], broadleaf[tint])


def _canopy(
    vertices: Offsets, counts: NDArray[np.int64], rank: NDArray[np.int64], reflectance: NDArray[np.float32]
) -> Polygons:
    n = len(counts)
    return Polygons(
        vertices=vertices,
        counts=counts,
        order=np.column_stack([np.full(n, Layer.CANOPY), rank]),
        ink=np.full(n, RAISED, np.int8),
        exact=np.zeros(n, np.bool_),
        reflectance=reflectance,
        grain=np.tile(np.array([0.15, 0.14, 0.0], np.float32), (n, 1)),
        surface=np.full(n, -1, np.int64),
    )
