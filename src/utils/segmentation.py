"""Colour-ratio segmentation: which pixels of a window look more like the object than like its surroundings.

Pure array maths behind the ``classical`` mask backend. A pixel belongs to the object when its CIELAB colour is nearer
to the colour of the object's core than to every one of a few colours of the surroundings.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Geometry

from utils.errors import ConfigError
from utils.types import ChipGrid, PromptKind

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

MAX_COLOUR_SAMPLES = 2048


@dataclass(frozen=True, kw_only=True)
class ColourRatio:
    """Settings of the method. Lengths in metres mean ground size, ``_px`` means sensor noise, shares are of the box."""

    median_px: int = 3
    """Median filter against sensor noise and compression, pixels, odd."""
    context_share: float = 0.6
    """Width of the surroundings around the box, as a share of its longest side."""
    min_context_m: float = 3.6
    """Least width of the surroundings, metres."""
    core_share: float = 0.25
    """Semi-axes of the central ellipse that shows the object's colour, as shares of the sides."""
    n_colours: int = 4
    """Colours that describe the surroundings."""
    growth_share: float = 0.06
    """How far the object may reach beyond the box, as a share of its sides."""
    close_m: float = 1.0
    """Closing radius, metres: bridges the gaps between rows of modules."""
    open_m: float = 0.3
    """Opening radius, metres: drops threads."""
    point_core_m: float = 0.75
    """Radius of the disc around a point prompt that shows the object's colour, metres."""
    point_box_m: float = 12.0
    """Width of the search box of a prompt that is a bare point, metres."""
    piece_share: float = 0.1
    """Pieces below this share of the largest are dropped; several arrays in one box stay."""
    min_context_ratio: float = 0.15
    """Least surroundings, as a share of the object's own pixels, that can tell the two apart."""
    small_px: float = 10.0
    """A box whose shortest side is below this many pixels is flagged small."""

    def __post_init__(self) -> None:
        """Refuse settings that leave nothing to compute with."""
        wrong = [name for name, value in vars(self).items() if not value >= 0]
        wrong += [name for name in ("core_share", "n_colours", "point_core_m", "point_box_m") if vars(self)[name] == 0]
        if wrong or self.median_px % 2 == 0 or not self.n_colours == int(self.n_colours):
            raise ConfigError(
                "colour-ratio settings are not negative, median_px is odd, n_colours whole, and core_share, n_colours, "
                f"point_core_m and point_box_m above 0; found {vars(self)}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Regions:
    """What a prompt says about the pixels of one window; boolean arrays of shape (rows, columns)."""

    core: Bools
    """Pixels that show the object's colour."""
    box: Bools
    """Pixels inside the prompt."""
    limit: Bools
    """Pixels the object may hold."""
    context: Bools
    """Pixels that show the surroundings."""
    one_piece: bool
    """Whether the object is the one piece at the core (points) or all that fills the prompt."""


def lab_image(rgb: NDArray[np.uint8], median_px: int) -> Floats:
    """CIELAB planes of a median-filtered RGB image.

    Args:
        rgb: shape (3, rows, columns).
        median_px: side of the median window, pixels, odd; below 3 leaves the pixels as they are.

    Returns:
        Shape (rows, columns, 3), each plane on OpenCV's 8-bit scale: L × 2.55, a + 128, b + 128.
    """
    image = np.ascontiguousarray(np.moveaxis(rgb, 0, -1))
    calm = cv2.medianBlur(image, median_px) if median_px >= 3 else image
    return np.asarray(cv2.cvtColor(calm, cv2.COLOR_RGB2LAB), dtype=np.float32)


def pixel_centres(grid: ChipGrid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """CRS coordinates of all pixel centres, two arrays of shape (rows, columns)."""
    a, b, c, d, e, f = grid.transform
    cols, rows = np.arange(grid.width) + 0.5, (np.arange(grid.height) + 0.5)[:, None]
    return a * cols + b * rows + c, d * cols + e * rows + f


def regions(geometry: Geometry, kind: PromptKind, valid: Bools, grid: ChipGrid, settings: ColourRatio) -> Regions:
    """The regions of a prompt, computed in CRS units so that they are exact on any affine grid.

    Args:
        geometry: box, search box or polygon in the CRS of ``grid`` (metres).
        kind: what the prompt is.
        valid: True where pixels hold data, shape (rows, columns).
        grid: the pixels to decide on.
        settings: of the method.
    """
    x, y = pixel_centres(grid)
    west, south, east, north = geometry.bounds
    width, height = east - west, north - south
    cx, cy = (west + east) / 2, (south + north) / 2
    dx, dy = np.abs(x - cx), np.abs(y - cy)

    def grown(by_x: float, by_y: float) -> Bools:
        return np.asarray((dx <= width / 2 + by_x) & (dy <= height / 2 + by_y))

    reach = max(settings.context_share * max(width, height), settings.min_context_m)
    around = grown(reach, reach)
    semi_x, semi_y = (max(settings.core_share * side, 1e-6) for side in (width, height))
    if kind == "point":
        semi_x = semi_y = max(min(settings.point_core_m, width / 2, height / 2), 1e-6)
    nearest = _at(np.hypot(dx, dy), grid)
    core = np.asarray((dx / semi_x) ** 2 + (dy / semi_y) ** 2 <= 1) | nearest
    box = grown(0, 0) | nearest
    limit = grown(settings.growth_share * width, settings.growth_share * height) | nearest
    if kind == "polygon":
        box, limit, core = _polygon_regions(geometry, x, y, grid, settings)
    return Regions(
        core=core & valid,
        box=box & valid,
        limit=limit & valid,
        context=around & ~limit & valid,
        one_piece=kind == "point",
    )


def _polygon_regions(
    polygon: Geometry, x: NDArray[np.float64], y: NDArray[np.float64], grid: ChipGrid, settings: ColourRatio
) -> tuple[Bools, Bools, Bools]:
    """``(inside, limit, core)`` of a coarse polygon; its core leaves out the outer tenth of its breadth."""
    breadth = 4 * polygon.area / polygon.length
    inner, outer = polygon.buffer(-0.1 * breadth), polygon.buffer(settings.growth_share * breadth)
    shapely.prepare([polygon, inner, outer])
    inside = np.asarray(shapely.contains_xy(polygon, x, y))
    if not inside.any():
        spot = polygon.representative_point()
        inside = _at(np.hypot(x - spot.x, y - spot.y), grid)
    core = np.asarray(shapely.contains_xy(inner, x, y))
    limit = np.asarray(shapely.contains_xy(outer, x, y))
    return inside, limit | inside, core if core.any() else inside


def _at(distance: NDArray[np.float64], grid: ChipGrid) -> Bools:
    """The pixel nearest to a spot, so that objects under a pixel are not lost; none when the spot is off the window."""
    nearest = np.zeros(distance.shape, dtype=np.bool_)
    index = int(distance.argmin())
    nearest.flat[index] = distance.flat[index] <= grid.gsd_m
    return nearest


def has_context(region: Regions, settings: ColourRatio) -> bool:
    """Whether enough surroundings are visible to tell the object from them."""
    return int(region.context.sum()) >= max(1.0, settings.min_context_ratio * int(region.limit.sum()))


def surrounding_colours(samples: Floats, n_colours: int) -> Floats:
    """Up to ``n_colours`` cluster centres of colours, by k-means from a fixed start (equal groups by lightness).

    Args:
        samples: shape (n, 3), n ≥ 1.
        n_colours: clusters wanted; fewer when there are fewer samples.

    Returns:
        Shape (clusters, 3).
    """
    # every step-th sample bounds the time a large surrounding takes
    step = -(-len(samples) // MAX_COLOUR_SAMPLES)
    chosen = np.ascontiguousarray(samples[::step], dtype=np.float32)
    count = min(n_colours, len(chosen))
    if count == len(chosen):
        return chosen
    labels = np.empty((len(chosen), 1), dtype=np.int32)
    labels[np.argsort(chosen[:, 0], kind="stable"), 0] = np.arange(len(chosen)) * count // len(chosen)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    _, _, centres = cv2.kmeans(chosen, count, labels, stop, 1, cv2.KMEANS_USE_INITIAL_LABELS)
    return np.asarray(centres, dtype=np.float32)


def colour_ratio(lab: Floats, region: Regions, grid: ChipGrid, settings: ColourRatio) -> Bools:
    """The object's pixels: nearer to the core's colour than to any colour of the surroundings, tidied.

    Args:
        lab: shape (rows, columns, 3), from :func:`lab_image`.
        region: from :func:`regions`; its core and its context must hold pixels.
        grid: of the window, for the ground size of a pixel.
        settings: of the method.

    Returns:
        Boolean array of shape (rows, columns), inside ``region.limit``; empty when no pixel resembles the core.
    """
    own = np.median(lab[region.core], axis=0)
    others = surrounding_colours(lab[region.context], settings.n_colours)
    to_own = ((lab - own) ** 2).sum(axis=-1)
    to_others = np.min([((lab - other) ** 2).sum(axis=-1) for other in others], axis=0)
    raw = ((to_own < to_others) & region.limit).astype(np.uint8)
    closed = morphed(raw, cv2.MORPH_CLOSE, settings.close_m, grid)
    opened = morphed(closed, cv2.MORPH_OPEN, settings.open_m, grid)
    tidy = filled(opened if opened.any() else closed) & region.limit
    return largest_pieces(tidy, settings.piece_share) if not region.one_piece else piece_at(tidy, region.core)


def morphed(mask: Bytes, operation: int, radius_m: float, grid: ChipGrid) -> Bytes:
    """OpenCV's morphological ``operation`` with an ellipse of a ground radius; nothing happens under half a pixel."""
    a, b, _, d, e, _ = grid.transform
    radius_x, radius_y = round(radius_m / float(np.hypot(a, d))), round(radius_m / float(np.hypot(b, e)))
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_x + 1, 2 * radius_y + 1))
    return np.asarray(cv2.morphologyEx(mask, operation, element), dtype=np.uint8)


def filled(mask: Bytes, max_pixels: float = np.inf) -> Bools:
    """``mask`` with its holes of at most ``max_pixels`` filled; what reaches the window's edge is no hole."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((mask == 0).astype(np.uint8), connectivity=4)
    rows, cols = mask.shape
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    hole = (left > 0) & (top > 0) & (right < cols) & (bottom < rows) & (stats[:, cv2.CC_STAT_AREA] <= max_pixels)
    hole[0] = True
    return np.asarray(hole[labels]) if count > 1 else mask > 0


def largest_pieces(mask: Bools, least_share: float) -> Bools:
    """``mask`` without the connected pieces below ``least_share`` of the largest one's area."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    keep = areas >= max(1.0, least_share * int(areas.max()))
    return np.asarray(keep[labels])


def piece_at(mask: Bools, core: Bools) -> Bools:
    """The connected piece of ``mask`` that covers most of the core; empty when none touches it."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    in_core = np.bincount(labels[core & mask], minlength=count)
    return np.asarray((labels == int(in_core.argmax())) & mask)
