"""A landscape on one date as flat arrays: polygons in painting order, lit by one sun."""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Geometry, Polygon

from utils.ragged import ranges
from utils.sample.features import Landscape, Layer, Surface
from utils.sample.polygons import GROUND, RAISED, Polygons, shadow_polygons, shadow_reach, sun_vector
from utils.sample.spec import Acquisition
from utils.sample.texture import Grain, ModuleGrid, Stripes
from utils.sample.trees import tree_polygons

_EXACT = (Layer.ROOF, Layer.ROOF_DETAIL, Layer.ROOF_OBJECT, Layer.MODULES, Layer.MARKING, Layer.LOW, Layer.PAVED)
_SKY_SHARE = 0.28
"""Share of sky light on a flat surface in the VHR bands; it does not depend on the slope's aspect."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """What the painter needs of a landscape on one date; axis 0 of all but ``vertices`` is the polygon."""

    acquisition: Acquisition
    """The date."""
    vertices: NDArray[np.float64]
    """Vertices of all polygons, UTM metres, shape (vertices, 2)."""
    inward: NDArray[np.float64]
    """Where a vertex moves when its polygon shrinks by one unit, shape (vertices, 2); zero for inexact outlines."""
    starts: NDArray[np.int64]
    """First vertex of each polygon, and the number of vertices, shape (polygons + 1,)."""
    bounds: NDArray[np.float64]
    """Min x, min y, max x, max y, shape (polygons, 4)."""
    ink: NDArray[np.int8]
    """``GROUND``, ``SHADOW`` or ``RAISED``, shape (polygons,)."""
    reflectance: NDArray[np.float32]
    """Apparent reflectance in the 12 bands, shape (polygons, 12)."""
    grain: NDArray[np.float32]
    """Fine, medium and coarse noise amplitude, shape (polygons, 3)."""
    water: NDArray[np.bool_]
    """Whether it is water, shape (polygons,)."""
    stripes: dict[int, tuple[Stripes, ...]]
    """Stripe patterns by polygon."""
    modules: dict[int, ModuleGrid]
    """Module grids by polygon."""


def illumination(normals: NDArray[np.float64], sun: NDArray[np.float64]) -> NDArray[np.float64]:
    """Irradiance on slopes relative to flat ground: Lambert's cosine for the sun, an isotropic sky for the rest.

    Args:
        normals: unit normals, shape (n, 3).
        sun: unit vector towards the sun, shape (3,).
    """
    direct = np.maximum(normals @ sun, 0.0) / sun[2]
    return np.asarray((1 - _SKY_SHARE) * direct + _SKY_SHARE * (1 + normals[:, 2]) / 2)


def cast_shadow(outline: Polygon, height_m: float, sun: NDArray[np.float64]) -> Polygon:
    """What the prism over ``outline`` hides from the sun on flat ground, footprint included (its convex hull)."""
    ring = shapely.get_coordinates(outline)
    return shapely.MultiPoint(np.vstack([ring, ring + shadow_reach(sun) * height_m])).convex_hull


def compile_scene(landscape: Landscape, acquisition: Acquisition, sun_deg: tuple[float, float]) -> Scene:
    """The polygons of one date, in painting order, lit by a sun.

    Args:
        landscape: what stands there.
        acquisition: the date.
        sun_deg: azimuth (clockwise from north) and elevation of the sun, degrees.
    """
    sun = sun_vector(*sun_deg)
    there = [i for i, surface in enumerate(landscape.surfaces) if surface.epochs[acquisition.index]]
    surfaces = [landscape.surfaces[i] for i in there]
    parts = [_surfaces(surfaces, there, sun), _cast_shadows(surfaces, there, sun)]
    if len(landscape.trees):
        parts += tree_polygons(landscape, sun)
    return _in_painting_order(parts, landscape, acquisition)


def _rings(outlines: list[Polygon] | NDArray[np.object_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices of many outlines without the closing ones, and how many each has."""
    exteriors = shapely.get_exterior_ring(np.asarray(outlines, object))
    vertices, owner = shapely.get_coordinates(exteriors, return_index=True)
    closing = np.append(owner[1:] != owner[:-1], True)
    return vertices[~closing], np.bincount(owner[~closing], minlength=len(exteriors))


def _surfaces(surfaces: list[Surface], numbers: list[int], sun: NDArray[np.float64]) -> Polygons:
    vertices, counts = _rings([surface.outline for surface in surfaces])
    layers = np.array([surface.layer for surface in surfaces])
    gain = illumination(np.array([surface.normal for surface in surfaces]), sun)
    spectra = np.array([surface.spectrum for surface in surfaces])
    return Polygons(
        vertices=vertices,
        counts=counts,
        order=np.column_stack([layers, numbers]),
        ink=np.where(layers >= Layer.LOW, RAISED, GROUND).astype(np.int8),
        exact=np.isin(layers, _EXACT),
        reflectance=(spectra * gain[:, None]).astype(np.float32),
        grain=np.array([_amplitudes(surface.grain) for surface in surfaces], np.float32),
        surface=np.asarray(numbers, np.int64),
    )


def _amplitudes(grain: Grain) -> tuple[float, float, float]:
    return grain.fine, grain.medium, grain.coarse


def _shadow_layer(layer: Layer) -> Layer:
    if layer == Layer.ROOF_OBJECT:
        return Layer.ROOF_SHADOW
    return Layer.MARKING if layer == Layer.LOW else Layer.SHADOW


def _cast_shadows(surfaces: list[Surface], numbers: list[int], sun: NDArray[np.float64]) -> Polygons:
    tall = [(n, surface) for n, surface in zip(numbers, surfaces, strict=True) if surface.height_m > 0]
    hulls: list[Geometry] = [cast_shadow(surface.outline, surface.height_m, sun) for _, surface in tall]
    vertices, counts = _rings(hulls)
    order = np.array([(_shadow_layer(surface.layer), n) for n, surface in tall], np.int64)
    return shadow_polygons(vertices, counts, order)


def _in_painting_order(parts: list[Polygons], landscape: Landscape, acquisition: Acquisition) -> Scene:
    order = np.concatenate([part.order for part in parts])
    rank = np.lexsort((order[:, 1], order[:, 0]))
    counts = np.concatenate([part.counts for part in parts])
    begins = np.cumsum(counts) - counts
    counts = counts[rank]
    starts = np.concatenate([[0], np.cumsum(counts)])
    gather = ranges(begins[rank], counts)
    vertices = np.concatenate([part.vertices for part in parts])[gather]
    exact = np.concatenate([part.exact for part in parts])[rank]
    surface = np.concatenate([part.surface for part in parts])[rank]
    own = {i: landscape.surfaces[n] for i, n in enumerate(surface) if n >= 0}
    water = np.zeros(len(rank), np.bool_)
    water[[i for i, there in own.items() if there.water]] = True
    return Scene(
        acquisition=acquisition,
        vertices=vertices,
        inward=_inward(vertices, starts) * np.repeat(exact, counts)[:, None],
        starts=starts,
        bounds=np.column_stack(
            [np.minimum.reduceat(vertices, starts[:-1]), np.maximum.reduceat(vertices, starts[:-1])]
        ),
        ink=np.concatenate([part.ink for part in parts])[rank],
        reflectance=np.concatenate([part.reflectance for part in parts])[rank],
        grain=np.concatenate([part.grain for part in parts])[rank],
        water=water,
        stripes={i: there.stripes for i, there in own.items() if there.stripes},
        modules={i: there.modules for i, there in own.items() if there.modules is not None},
    )


def _inward(vertices: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mitre direction of every vertex: its displacement when all edges move inwards by one, at most two."""
    index = np.arange(len(vertices))
    owner = np.searchsorted(starts, index, side="right") - 1
    following = np.where(index + 1 == starts[owner + 1], starts[owner], index + 1)
    before = np.where(index == starts[owner], starts[owner + 1] - 1, index - 1)
    edge = vertices[following] - vertices
    length = np.maximum(np.hypot(edge[:, 0], edge[:, 1]), 1e-9)
    left = np.column_stack([-edge[:, 1], edge[:, 0]]) / length[:, None]
    origin = vertices[starts[:-1]][owner]
    here, there = vertices - origin, vertices[following] - origin
    twice_area = np.add.reduceat(here[:, 0] * there[:, 1] - there[:, 0] * here[:, 1], starts[:-1])
    left *= np.sign(twice_area)[owner][:, None]
    both = left + left[before]
    return np.asarray(2 * both / np.maximum((both**2).sum(axis=1), 1.0)[:, None])
