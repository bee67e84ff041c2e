"""Weak labels as prompts: kinds, the margin rule, and where a prompt falls on a pixel grid.

The margin rule
    ===========  =============================================  ==================================
    label        prompt geometry                                what a backend may read from it
    ===========  =============================================  ==================================
    point        square search box, ``point_box_m`` wide,       the object lies at the centre; the
                 centred on the point                           box says nothing about its extent
    box          the envelope, each edge moved outwards by      the object fills the box, roughly
                 ``margin_share`` of the side it bounds
    polygon      the polygon as it is; its envelope is          the polygon is the object, roughly
                 ``Prompt.box``
    ===========  =============================================  ==================================
"""

from dataclasses import replace
from typing import Literal

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely import Geometry, MultiPoint, MultiPolygon, Point, Polygon, affinity

from utils.errors import ConfigError, GeometryError
from utils.types import ChipGrid, Prompt, PromptKind

ClipState = Literal["inside", "clipped", "not_in_chip"]

_BOX_TOLERANCE = 0.01
_POLYGONS = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)
_PIXEL_TOLERANCE = 1e-6


def label_kind(geometry: Geometry) -> PromptKind:
    """What a label is, from its shape alone.

    A polygon that fills 99 % of its envelope is a box. Ask in the CRS the label was drawn in: upright boxes are
    tilted by reprojection.

    Raises:
        GeometryError: the geometry is empty, not finite, without area, a line or a collection.
    """
    _require_finite(geometry)
    if isinstance(geometry, Point | MultiPoint):
        return "point"
    if not isinstance(geometry, Polygon | MultiPolygon):
        raise GeometryError(
            f"a label is a {geometry.geom_type}; labels are points, boxes or polygons: "
            "split collections and buffer lines before they enter the label table"
        )
    if geometry.area <= 0:
        raise GeometryError(f"a {geometry.geom_type} label has no area; drop it or store it as a point")
    return "box" if geometry.area >= (1 - _BOX_TOLERANCE) * geometry.envelope.area else "polygon"


def prompt_geometry(label: Geometry, kind: PromptKind, *, margin_share: float, point_box_m: float) -> Geometry:
    """The prompt a label becomes under the margin rule of this module.

    Args:
        label: the label in a CRS with metre units, the chip's.
        kind: what the label is (:func:`label_kind`).
        margin_share: how far each edge of a box moves outwards, as a share of the side across it: 0.05 makes a
            20 m side 22 m; 0 leaves the box as it is, a negative share shrinks it.
        point_box_m: width of the search box around a point, metres. A multi-point gets its envelope grown by
            half of it on every side.

    Returns:
        A valid polygon (a multi-polygon stays one) in the CRS of ``label``; self-crossing outlines are mended.

    Raises:
        GeometryError: the label is empty, not finite, or no polygon where its kind needs one.
        ConfigError: the margin leaves no box, or the search box has no width.
    """
    _require_finite(label)
    kinds = np.array([kind], object)
    shapes: NDArray[np.object_] = np.array([label], object)
    return prompt_geometries(shapes, kinds, margin_share=margin_share, point_box_m=point_box_m)[0]


def prompt_geometries(
    labels: NDArray[np.object_], kinds: NDArray[np.object_], *, margin_share: float, point_box_m: float
) -> NDArray[np.object_]:
    """:func:`prompt_geometry` of many labels, shape (n,); coordinates must be finite.

    Raises:
        GeometryError: a label is no polygon where its kind needs one.
        ConfigError: the margin leaves no box, or the search box has no width.
    """
    if margin_share <= -0.5:
        raise ConfigError(f"margin_share is {margin_share}; a box keeps some size only above -0.5")
    if point_box_m <= 0:
        raise ConfigError(f"point_box_m is {point_box_m}; a search box needs a width in metres")
    points, boxes = kinds == "point", kinds == "box"
    flat = np.flatnonzero(~points & ~np.isin(shapely.get_type_id(labels), _POLYGONS))
    if len(flat):
        row = int(flat[0])
        raise GeometryError(f"a {kinds[row]} label is a {labels[row].geom_type}; pass the kind that label_kind returns")
    prompts = labels.copy()
    half = point_box_m / 2
    west, south, east, north = shapely.bounds(labels[points]).T
    prompts[points] = shapely.box(west - half, south - half, east + half, north + half)
    prompts[boxes] = _grown(shapely.envelope(labels[boxes]), 1 + 2 * margin_share)
    crossing = np.flatnonzero(~points & ~boxes & ~shapely.is_valid(labels))
    prompts[crossing] = [_valid_polygon(labels[row]) for row in crossing]
    return prompts


def _grown(boxes: NDArray[np.object_], growth: float) -> NDArray[np.object_]:
    """Boxes scaled about their centres."""
    bounds = shapely.bounds(boxes)
    centres = ((bounds[:, :2] + bounds[:, 2:]) / 2)[
        np.repeat(np.arange(len(boxes)), shapely.get_num_coordinates(boxes))
    ]
    grown: NDArray[np.object_] = shapely.transform(boxes, lambda xy: xy * growth + centres * (1 - growth))
    return grown


def jittered_box(geometry: Geometry, share: float, rng: np.random.Generator) -> Polygon:
    """The envelope of ``geometry`` as a hurried annotator draws it.

    Each of the four edges moves independently by a normal deviate of ``share`` × the side it bounds.
    """
    west, south, east, north = geometry.bounds
    width, height = east - west, north - south
    moves = rng.normal(0.0, share, 4) * (width, height, width, height)
    xs = sorted((west + moves[0], east + moves[2]))
    ys = sorted((south + moves[1], north + moves[3]))
    return shapely.box(xs[0], ys[0], xs[1], ys[1])


def perturbed(prompt: Prompt, share: float = 0.05) -> list[Prompt]:
    """``prompt`` as four hurried annotators would have given it: scaled by 1 ± 2·``share``, shifted by ±``share``.

    Every edge of the box moves by ``share`` of the side across it. Points on and off the object move with it; a bare
    point, which has no side, stays where it is. The mean IoU of a mask with the masks of these prompts is the score
    ``stability`` (:func:`utils.quality.agreement`).

    Args:
        prompt: in any CRS; an earlier mask is kept as it is.
        share: of the sides, 0 to ½.

    Raises:
        ConfigError: ``share`` is outside 0 to ½.
    """
    if not 0 <= share < 0.5:
        raise ConfigError(f"share is {share}; prompts move by 0 to ½ of their sides")
    west, south, east, north = prompt.bounds
    centre = np.array([(west + east) / 2, (south + north) / 2])
    moves = ((1 + 2 * share, 0.0), (1 - 2 * share, 0.0), (1.0, share), (1.0, -share))
    return [_moved(prompt, centre, scale, shift * np.array([east - west, north - south])) for scale, shift in moves]


def _moved(prompt: Prompt, centre: NDArray[np.float64], scale: float, shift: NDArray[np.float64]) -> Prompt:
    def placed(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(centre + scale * (xy - centre) + shift)

    def points(found: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        return tuple((float(x), float(y)) for x, y in placed(np.array(found).reshape(-1, 2)))

    return replace(
        prompt,
        geometry=shapely.transform(prompt.geometry, placed),
        positive=points(prompt.positive),
        negative=points(prompt.negative),
    )


def to_pixels(geometry: Geometry, grid: ChipGrid) -> Geometry:
    """``geometry`` from CRS units to pixel coordinates ``(col, row)``, corner-based, for any affine grid."""
    inverse: Affine = ~grid.affine
    return affinity.affine_transform(geometry, [inverse.a, inverse.b, inverse.d, inverse.e, inverse.c, inverse.f])


def pixel_box(prompt: Prompt, grid: ChipGrid) -> tuple[float, float, float, float]:
    """``(col0, row0, col1, row1)``: the upright pixel rectangle around the prompt's box, all four corners transformed.

    Coordinates are corner-based and not clipped: they may lie outside the grid.
    """
    col0, row0, col1, row1 = to_pixels(prompt.box, grid).bounds
    return float(col0), float(row0), float(col1), float(row1)


def clip_state(prompt: Prompt, grid: ChipGrid) -> ClipState:
    """Whether the prompt lies ``inside`` the grid, is ``clipped`` by its edge, or is ``not_in_chip``.

    A point prompt whose centre falls off the grid is not in the chip, wherever its search box reaches. Touching
    the edge from outside does not count as being in.
    """
    shape = to_pixels(prompt.geometry, grid)
    chip = shapely.box(0, 0, grid.width, grid.height)
    if prompt.kind == "point" and not chip.covers(shape.envelope.centroid):
        return "not_in_chip"
    col0, row0, col1, row1 = shape.bounds
    low, high = min(col0, row0), max(col1 - grid.width, row1 - grid.height)
    if low >= -_PIXEL_TOLERANCE and high <= _PIXEL_TOLERANCE:
        return "inside"
    if not shape.is_valid:
        shape = shapely.make_valid(shape)
    return "clipped" if shape.intersection(chip).area > _PIXEL_TOLERANCE else "not_in_chip"


def _valid_polygon(polygon: Polygon | MultiPolygon) -> Polygon | MultiPolygon:
    if polygon.is_valid:
        return polygon
    mended = shapely.unary_union([part for part in _flat_parts(shapely.make_valid(polygon)) if part.area > 0])
    if mended.is_empty:
        raise GeometryError("a polygon label has no area once its crossing outline is mended; drop it or redraw it")
    return mended


def _flat_parts(geometry: Geometry) -> list[Geometry]:
    parts = list(getattr(geometry, "geoms", []))
    return [leaf for part in parts for leaf in _flat_parts(part)] if parts else [geometry]


def _require_finite(geometry: Geometry) -> None:
    if geometry is None or geometry.is_empty or not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise GeometryError(
            "a label has an empty geometry or coordinates that are not finite; mend or drop it in the label table"
        )
