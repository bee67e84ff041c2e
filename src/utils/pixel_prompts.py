"""Prompts as promptable models take them: a box, points with labels and an earlier mask, in pixels of one chip."""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely import Geometry

from utils.errors import CRSError
from utils.geo import AnyCRS, reproject, reproject_points
from utils.prompts import ClipState, clip_state, to_pixels
from utils.types import ChipGrid, Mask, Prompt

DENSITY = 21
"""Points along the longer side of a prompt that is reprojected."""

_DEEP = 0.8
_SLIVER = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelPrompt:
    """What a model is told of one object. Coordinates are ``(col, row)``, corner-based: pixel centres lie at .5."""

    state: ClipState
    """Where the prompt lies; a prompt that is ``not_in_chip`` is not for models."""
    box: tuple[float, float, float, float] | None
    """``(col0, row0, col1, row1)`` clipped to the chip; None where points alone are known."""
    points: NDArray[np.float32]
    """Points inside the chip, shape (n, 2); without a box there is at least one."""
    point_labels: NDArray[np.int32]
    """1 on the object, 0 off it, shape (n,)."""
    previous: NDArray[np.bool_] | None
    """An earlier mask on the chip's grid, shape (rows, columns)."""

    @property
    def signature(self) -> tuple[int, bool, bool]:
        """``(points, has a box, has a mask)``: prompts of one signature fit into one call of a model."""
        return len(self.points), self.box is not None, self.previous is not None


def prompt_in(prompt: Prompt, src: AnyCRS, dst: AnyCRS) -> Prompt:
    """``prompt``, given in ``src``, in the CRS of a chip's grid; what it is (kind, id, label) stays.

    Edges are densified (:data:`DENSITY` points along the longer side) before their vertices move, so that the upright
    bounds in ``dst`` hold the whole prompt, as ``rasterio.warp.transform_bounds`` does it; a box becomes the polygon it
    is there.

    Args:
        prompt: its geometry and points in ``src``; an earlier mask carries its own grid and is left alone.
        src: CRS of the prompt.
        dst: CRS of the grid.

    Raises:
        CRSError: a CRS is unknown.
        GeometryError: a vertex is not finite or has no place in ``dst``.
    """
    west, south, east, north = prompt.bounds
    longest = max(east - west, north - south)
    dense = shapely.segmentize(prompt.geometry, longest / DENSITY) if longest > 0 else prompt.geometry
    moved = [reproject_points(np.reshape(points, (-1, 2)), src, dst) for points in (prompt.positive, prompt.negative)]
    positive, negative = (tuple((float(x), float(y)) for x, y in points) for points in moved)
    return replace(prompt, geometry=reproject(dense, src, dst), positive=positive, negative=negative)


def pixel_prompt(prompt: Prompt, grid: ChipGrid, *, interior_points: int = 1) -> PixelPrompt:
    """``prompt`` in pixels of ``grid``; every corner goes through the affine transform.

    A box keeps its points, positive and negative. A point prompt is its positive points, or its centre. A polygon is
    its envelope and up to ``interior_points`` points well inside it. Points off the chip are left out, a box is cut.

    Args:
        prompt: in the CRS of ``grid``.
        grid: of the chip.
        interior_points: points taken from a polygon, 0 or more.
    """
    state = clip_state(prompt, grid)
    chip = np.array([grid.width, grid.height], np.float64)
    positive = list(prompt.positive)
    if prompt.kind == "point" and not positive:
        centre = prompt.geometry.envelope.centroid
        positive = [(centre.x, centre.y)]
    if prompt.kind == "polygon":
        positive += interior(prompt.geometry, interior_points)
    points = np.array([*positive, *prompt.negative], np.float64).reshape(-1, 2)
    labels = np.repeat([1, 0], [len(positive), len(prompt.negative)]).astype(np.int32)
    inverse = ~grid.affine
    pixels = np.column_stack([*(inverse @ (points[:, 0], points[:, 1]))]).reshape(-1, 2)
    inside = np.asarray(((pixels >= 0) & (pixels <= chip)).all(axis=1))
    box = None
    if prompt.kind != "point" and state != "not_in_chip":
        # not prompt.box: where grid and CRS are turned against each other, its corners reach beyond the prompt
        corners = np.array(to_pixels(prompt.geometry, grid).bounds).reshape(2, 2)
        box = cast("tuple[float, float, float, float]", tuple(np.clip(corners, 0, chip).ravel().tolist()))
    return PixelPrompt(
        state=state,
        box=box,
        points=pixels[inside].astype(np.float32),
        point_labels=labels[inside],
        previous=None if prompt.previous is None else on_grid(prompt.previous, grid),
    )


def interior(polygon: Geometry, count: int) -> list[tuple[float, float]]:
    """Up to ``count`` points well inside ``polygon``, the deepest of its largest part first, in its own coordinates.

    Each is the centre of the largest circle in what the circles before it left over
    (:func:`shapely.maximum_inscribed_circle`), or the part's centroid where that lies nearly as deep.
    """
    found: list[tuple[float, float]] = []
    left, least = polygon, _SLIVER * polygon.area
    while len(found) < count and not left.is_empty and left.area > 0:
        part = max(shapely.get_parts(left), key=lambda one: one.area)
        radius = shapely.maximum_inscribed_circle(part, tolerance=0.02 * float(np.sqrt(part.area)))
        centroid = part.centroid
        central = part.contains(centroid) and part.boundary.distance(centroid) >= _DEEP * radius.length
        x, y = (centroid.x, centroid.y) if central else radius.coords[0]
        found.append((float(x), float(y)))
        left = shapely.difference(left, shapely.Point(x, y).buffer(max(2 * radius.length, 1e-9)))
        left = shapely.union_all([one for one in shapely.get_parts(left) if one.area > least])
    return found


def on_grid(mask: Mask, grid: ChipGrid) -> NDArray[np.bool_]:
    """``mask`` on another grid of the same CRS, nearest neighbour, False outside of it; shape (rows, columns).

    Raises:
        CRSError: the grids have different CRSs.
    """
    if mask.grid.epsg != grid.epsg:
        raise CRSError(f"the mask lies in EPSG:{mask.grid.epsg}, the grid in EPSG:{grid.epsg}")
    # pixel centres of the grid, as corner-based pixel coordinates of the mask
    moved: Affine = ~mask.grid.affine @ grid.affine
    cols, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = moved @ (cols, rows)
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    held = (column >= 0) & (column < mask.grid.width) & (row >= 0) & (row < mask.grid.height)
    found = np.zeros(held.shape, np.bool_)
    found[held] = mask.data[row[held], column[held]]
    return found
