"""Mask refinement in ground units, and the outline of a mask as polygons.

Every mask passes through :func:`refine` before it is scored, stored or learnt from.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError as UnknownCRS
from shapely import MultiPolygon, Polygon, affinity

from utils.errors import ConfigError, CRSError
from utils.mask_shapes import filled, morphed
from utils.types import ChipGrid, Mask

Bools = NDArray[np.bool_]

_WEB_MERCATOR = 3857


@dataclass(frozen=True, kw_only=True)
class RefinementSteps:
    """The steps of refinement in the order they run; 0 turns a step off."""

    close_m: float = 0.6
    """Closing radius, metres: bridges gaps between modules."""
    open_m: float = 0.3
    """Opening radius, metres: cuts threads and burrs."""
    smooth_m: float = 0.2
    """Standard deviation of the Gaussian that smooths the contour, metres."""
    max_hole_m2: float = 4.0
    """Holes up to this area are filled, square metres."""
    min_area_m2: float = 1.0
    """Pieces below this area are dropped, square metres."""
    rectangle_share: float = 0.0
    """A piece that fills more than this share of the least rotated rectangle around it becomes a rectangle, 0 to 1."""

    def __post_init__(self) -> None:
        """Refuse sizes that are negative or not finite, and shares above 1."""
        wrong = {name: value for name, value in vars(self).items() if not 0 <= value < np.inf}
        if wrong:
            raise ConfigError(f"refinement steps are sizes on the ground, 0 turns one off; found {wrong}")
        if self.rectangle_share > 1:
            raise ConfigError(f"refinement: rectangle_share is {self.rectangle_share}, a share lies in 0 to 1")


def refine(mask: Mask, *, steps: RefinementSteps | None = None) -> Mask:
    """``mask`` closed, opened, smoothed, its small holes filled and its specks dropped; the input is left alone.

    The chip's edge is no outline: a mask cut by it is not eaten from there. A mask that loses all its pixels is
    flagged ``empty``. Scores stay those of the backend.

    Raises:
        CRSError: the grid's CRS does not measure the ground in metres.
    """
    require_metres(mask.grid.epsg)
    chosen = steps or RefinementSteps()
    data = refined_pixels(mask.data, mask.grid, chosen)
    flags = mask.flags if data.any() or "empty" in mask.flags else (*mask.flags, "empty")
    return replace(mask, data=data, flags=flags)


def refined_pixels(data: Bools, grid: ChipGrid, steps: RefinementSteps) -> Bools:
    """The array part of :func:`refine`: a new boolean array of the same shape."""
    if not data.any():
        return data.copy()
    image = data.astype(np.uint8)
    if steps.close_m:
        image = morphed(image, cv2.MORPH_CLOSE, steps.close_m, grid)
    if steps.open_m:
        image = morphed(image, cv2.MORPH_OPEN, steps.open_m, grid)
    if steps.smooth_m:
        image = _smoothed(image, grid, steps.smooth_m)
    pixel_m2 = pixel_area_m2(grid)
    if steps.max_hole_m2:
        image = filled(image, steps.max_hole_m2 / pixel_m2).astype(np.uint8)
    if steps.min_area_m2:
        image = _without_specks(image, steps.min_area_m2 / pixel_m2)
    return rectangular(image > 0, grid, steps.rectangle_share) if steps.rectangle_share else image > 0


def pixel_area_m2(grid: ChipGrid) -> float:
    """Ground area of one pixel, square metres, for a grid in a metric CRS."""
    return abs(float(grid.affine.determinant))


def area_m2(mask: Mask) -> float:
    """Ground area of a mask, square metres."""
    return int(mask.data.sum()) * pixel_area_m2(mask.grid)


@lru_cache(maxsize=64)
def require_metres(epsg: int) -> None:
    """Refuse a CRS whose unit is not a metre on the ground: geographic ones, feet, and Web Mercator.

    Raises:
        CRSError: with the name of the CRS.
    """
    try:
        crs = CRS.from_epsg(epsg)
    except UnknownCRS as error:
        raise CRSError(f"EPSG:{epsg} is no known CRS; masks lie on grids in a UTM zone") from error
    metric = crs.is_projected and all(axis.unit_name == "metre" for axis in crs.axis_info[:2])
    if not metric or epsg == _WEB_MERCATOR:
        raise CRSError(
            f"EPSG:{epsg} ({crs.name}) does not measure the ground in metres; put the chip on a grid in its UTM zone"
        )


def outline(mask: Mask, *, simplify_px: float = 0.0) -> MultiPolygon:
    """The mask as polygons in the CRS of its grid, holes kept; empty for an empty mask.

    Without simplification the edges are pixel edges, so that burning the outline gives the mask back exactly.

    Args:
        mask: any grid, rotated ones included.
        simplify_px: how far a vertex may move, pixels, 0 to ½.

    Raises:
        ConfigError: ``simplify_px`` is outside 0 to ½.
    """
    if not 0 <= simplify_px <= 0.5:
        raise ConfigError(f"simplify_px is {simplify_px}; outlines move by at most half a pixel (0 to 0.5)")
    if not mask.data.any():
        return MultiPolygon()
    merged = shapely.unary_union(_pixel_blocks(mask.data))
    parts = [simplified(part, simplify_px) for part in shapely.get_parts(merged)]
    a, b, c, d, e, f = mask.grid.transform
    return MultiPolygon([affinity.affine_transform(part, [a, b, d, e, c, f]) for part in parts])


def rectangular(data: Bools, grid: ChipGrid, least_share: float) -> Bools:
    """``data`` with its rectangle-like pieces as rectangles of the same area; a new array of the same shape.

    A piece that fills more than ``least_share`` of the least rotated rectangle around it, on the ground, is replaced by
    that rectangle, shrunk about its centre to the piece's area. Its holes stay. Pieces at the chip's edge are cut
    there, not ended, and stay as they are, as does one whose rectangle would hold no pixel.

    Args:
        data: boolean, shape (rows, columns).
        grid: of ``data``, in a metric CRS.
        least_share: above which a piece is a rectangle, 0 to 1.
    """
    result = data.copy()
    _, labels, stats, _ = cv2.connectedComponentsWithStats(data.astype(np.uint8), connectivity=8)
    rows, cols = data.shape
    for number, (left, top, width, height, area) in enumerate(stats[1:].tolist(), start=1):
        if left == 0 or top == 0 or left + width == cols or top + height == rows:
            continue
        piece = labels == number
        whole = filled(piece.astype(np.uint8))
        corners, share = _least_rectangle(whole, area, grid)
        if share <= least_share:
            continue
        rectangle = _pixels_in(corners, piece.shape)
        rectangle &= ~(whole & ~piece)
        if rectangle.any():
            result = (result & ~piece) | rectangle
    return result


def _least_rectangle(piece: Bools, area_px: int, grid: ChipGrid) -> tuple[NDArray[np.float64], float]:
    """Pixel corners ``(col, row)`` of the area-scaled least rectangle, shape (4, 2), and the share the piece fills."""
    contours, _ = cv2.findContours(piece.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    points = np.concatenate(contours)[:, 0, :].astype(np.float64)
    corners = np.concatenate([points + shift for shift in ((0, 0), (1, 0), (0, 1), (1, 1))])
    a, b, _, d, e, _ = grid.transform
    to_ground, origin = np.array([[a, b], [d, e]]), corners.mean(axis=0)
    ground = (corners - origin) @ to_ground.T
    centre, sides, angle = cv2.minAreaRect(ground.astype(np.float32))
    share = min(1.0, area_px * pixel_area_m2(grid) / max(sides[0] * sides[1], 1e-12))
    box = cv2.boxPoints((centre, sides, float(angle))).astype(np.float64)
    scaled = np.asarray(centre) + (box - centre) * np.sqrt(share)
    return scaled @ np.linalg.inv(to_ground).T + origin, share


def _pixels_in(corners: NDArray[np.float64], shape: tuple[int, ...]) -> Bools:
    """Pixels whose centres lie in a polygon of pixel corners ``(col, row)``."""
    polygon = Polygon(corners)
    shapely.prepare(polygon)
    rows, cols = np.mgrid[: shape[0], : shape[1]] + 0.5
    return np.asarray(shapely.contains_xy(polygon, cols, rows))


def simplified(part: Polygon, tolerance_px: float) -> Polygon:
    """``part`` with fewer vertices, none of its old ones left further off than the tolerance."""
    exact = part.simplify(0)
    if not tolerance_px:
        return exact
    # keeping the topology may overstep at a ring's start, not keeping it may cross rings
    for step, keep_topology in product((tolerance_px, tolerance_px / 2), (True, False)):
        candidate = part.simplify(step, preserve_topology=keep_topology)
        sound = isinstance(candidate, Polygon) and candidate.is_valid and not candidate.is_empty
        if sound and exact.hausdorff_distance(candidate) <= tolerance_px:
            return candidate
    return exact


def _pixel_blocks(data: Bools) -> NDArray[np.object_]:
    """Rectangles in pixel coordinates that tile the mask: runs of a row, joined downwards while they repeat."""
    padded = np.pad(data, ((0, 0), (1, 1))).astype(np.int8)
    rows, starts = np.nonzero(np.diff(padded, axis=1) == 1)
    stops = np.nonzero(np.diff(padded, axis=1) == -1)[1]
    order = np.lexsort((rows, stops, starts))
    rows, starts, stops = rows[order], starts[order], stops[order]
    first = np.ones(len(rows), dtype=np.bool_)
    first[1:] = (np.diff(rows) != 1) | (np.diff(starts) != 0) | (np.diff(stops) != 0)
    last = np.append(first[1:], True)
    return np.asarray(shapely.box(starts[first], rows[first], stops[first], rows[last] + 1))


def _smoothed(image: NDArray[np.uint8], grid: ChipGrid, sigma_m: float) -> NDArray[np.uint8]:
    a, b, _, d, e, _ = grid.transform
    sigma_x, sigma_y = sigma_m / float(np.hypot(a, d)), sigma_m / float(np.hypot(b, e))
    blurred = cv2.GaussianBlur(
        image.astype(np.float32), (0, 0), sigmaX=sigma_x, sigmaY=sigma_y, borderType=cv2.BORDER_REPLICATE
    )
    return (blurred > 0.5).astype(np.uint8)


def _without_specks(image: NDArray[np.uint8], min_pixels: float) -> NDArray[np.uint8]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(image, connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_pixels
    keep[0] = False
    return np.asarray(keep[labels], dtype=np.uint8)
