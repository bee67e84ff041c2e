"""What pixels of a very-high-resolution image say about an object: colour, texture, the regular grid of modules.

Everything is measured on one window around the object, in ground units, so that imagery of other resolutions gives the
same figures as far as it shows the same detail.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.colour_evidence import lab_image

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

PITCH_M = (0.8, 2.4)
"""Spacing of module joints: a module is about 1 m × 1.7 to 2.4 m."""
COARSEST_M = 0.4
"""Ground sample distance above which the joints of modules cannot be told apart: half of the least pitch."""
FEWEST_PX = 24
"""Fewest pixels of an object whose texture is described."""
RING_M = (0.9, 3.0)
"""Distances from the outline between which the surroundings are described."""
_FLAT_M = 1.2
"""Standard deviation of the Gaussian whose blur is taken off before texture is measured: wider than a module."""
_LEAST_SHARE = 0.3
"""Share of the object that a shifted copy must still overlap for a correlation to count."""
_EVEN = 0.5
"""Least standard deviation of lightness that is divided by: an even surface has no texture, not an infinite one."""


@dataclass(frozen=True, kw_only=True)
class Texture:
    """Figures of one object on one image; lightness and colour in CIELAB units."""

    lightness: float
    """Median L inside, 0 to 100."""
    blueness: float
    """Minus the median b inside: above 0 is bluish, below 0 yellowish."""
    redness: float
    """Median a inside: below 0 is greenish."""
    contrast: float | None
    """Distance of the median colour inside from that of the ring around; None where no pixel of the ring holds data."""
    darker: float | None
    """Median L of the ring less that inside: above 0 where the object is darker; None likewise."""
    bluer: float | None
    """Blueness inside less that of the ring; None likewise."""
    roughness: float
    """Standard deviation of L inside, without its slow part."""
    spread: float
    """Standard deviation of a and b inside, whole: several things of different colour have much of it."""
    bright_share: float
    """Share of pixels inside that are 15 and more lighter than the median: frames, paint, white cars."""
    edge: float | None
    """Mean change of L per metre across the outline; None where no pixel along it has data all around."""
    regularity: float | None
    """How strongly texture repeats at the pitch of modules, -1 to 1; None where pixels are too coarse or too few."""
    order: float
    """How much of the texture runs along two directions at right angles, 0 to 1 (fourfold orientational order)."""
    pixels: int
    """Pixels inside."""


def texture(rgb: Bytes, valid: Bools, mask: Bools, gsd_m: float) -> Texture | None:
    """Figures of an object.

    Args:
        rgb: window around it, shape (3, rows, columns).
        valid: where the window holds data, shape (rows, columns).
        mask: the object, same shape.
        gsd_m: ground sample distance, metres.

    Returns:
        None where fewer than :data:`FEWEST_PX` pixels of the object hold data.
    """
    seen = mask & valid
    if int(seen.sum()) < FEWEST_PX:
        return None
    lab = lab_image(rgb, 0)
    ring = _ring(mask, gsd_m) & valid
    middle = np.median(lab[seen], axis=0)
    apart = np.median(lab[ring], axis=0) - middle if ring.any() else None
    lightness = lab[..., 0]
    detail = lightness - _blurred(lightness, seen, _FLAT_M / gsd_m)
    slope_x, slope_y = (cv2.Scharr(lightness, cv2.CV_32F, *axes) / (32 * gsd_m) for axes in ((1, 0), (0, 1)))
    steep = np.hypot(slope_x, slope_y)
    core = _eroded(seen)
    # a gradient beside pixels without data is that of the edge of the image
    whole = cv2.erode(valid.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) > 0
    rim = _rim(mask) & whole
    return Texture(
        lightness=float(middle[0]),
        blueness=float(-middle[2]),
        redness=float(middle[1]),
        contrast=None if apart is None else float(np.linalg.norm(apart)),
        darker=None if apart is None else float(apart[0]),
        bluer=None if apart is None else float(apart[2]),
        roughness=float(detail[core].std()),
        spread=float(np.hypot(*lab[seen][:, 1:].std(axis=0))),
        bright_share=float((lightness[seen] > middle[0] + 15).mean()),
        edge=float(steep[rim].mean()) if rim.any() else None,
        regularity=module_regularity(detail, core, gsd_m),
        order=fourfold_order(*(np.asarray(slope[core & whole], np.float32) for slope in (slope_x, slope_y))),
        pixels=int(seen.sum()),
    )


def module_regularity(detail: Floats, mask: Bools, gsd_m: float) -> float | None:
    """How much better texture agrees with itself one pitch of modules further than half a pitch further.

    ``max over lags d, |d| in PITCH_M, of ρ(d) − ρ(d/2)``, with ρ the autocorrelation of the pixels inside alone
    (masked, Padfield 2012, IEEE Trans. Image Process. 21(5), eq. 10, with one variance for all lags). A line grid with
    the pitch d gives 0.6 to 1.5, a smooth or random surface near 0.

    Args:
        detail: lightness without its slow part, shape (rows, columns).
        mask: the object, same shape.
        gsd_m: ground sample distance, metres.

    Returns:
        None where the pixels are coarser than :data:`COARSEST_M` or fewer than :data:`FEWEST_PX`.
    """
    if gsd_m > COARSEST_M or int(mask.sum()) < FEWEST_PX:
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inside = mask[window].astype(np.float32)
    reach = int(np.ceil(PITCH_M[1] / gsd_m))
    values = (detail[window] - detail[mask].mean()) * inside
    variance = max(float(detail[mask].var()), _EVEN**2)
    shape = tuple(int(cv2.getOptimalDFTSize(size + reach)) for size in inside.shape)
    sums, counts = (_autocorrelated(plane, shape, reach) for plane in (values, inside))
    enough = counts >= max(_LEAST_SHARE * inside.sum(), FEWEST_PX / 2)
    rho = np.where(enough, sums / np.maximum(counts, 1) / variance, np.nan).astype(np.float32)
    lag_y, lag_x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    distance = np.hypot(lag_y, lag_x) * gsd_m
    # the other half is its mirror image
    wanted = (distance >= PITCH_M[0]) & (distance <= PITCH_M[1]) & (lag_y >= 0)
    halves = cv2.remap(rho, reach + lag_x / 2, reach + lag_y / 2, cv2.INTER_LINEAR)
    gains = (rho - halves)[wanted]
    return float(np.nanmax(gains)) if np.isfinite(gains).any() else None


def fourfold_order(slope_x: Floats, slope_y: Floats) -> float:
    """``|Σ w exp(4iθ)| / Σ w`` of the gradient's direction θ, w its square, 0 to 1.

    1 where all edges are parallel or at right angles, 0 where they run anywhere: the orientational order parameter of a
    square lattice (Nelson & Halperin 1979, Phys. Rev. B 19, with 4 for 6).
    """
    weights = slope_x**2 + slope_y**2
    total = float(weights.sum())
    if total <= 0:
        return 0.0
    angles = np.arctan2(slope_y, slope_x)
    return float(np.abs((weights * np.exp(4j * angles)).sum()) / total)


def likeness(first: Bytes, second: Bytes, mask: Bools) -> float | None:
    """Correlation of the lightness of two images of one window on and around an object, -1 to 1.

    Means are taken off, so that another exposure does not count; one standard deviation per image divides.

    Args:
        first: shape (3, rows, columns).
        second: same shape.
        mask: pixels that count.

    Returns:
        None with too few pixels, or where either image is even.
    """
    if int(mask.sum()) < FEWEST_PX:
        return None
    one, two = (lab_image(rgb, 3)[..., 0][mask] for rgb in (first, second))
    if one.std() < _EVEN or two.std() < _EVEN:
        return None
    return float(np.corrcoef(one, two)[0, 1])


def grown(mask: Bools, pixels: int) -> Bools:
    """The mask with every pixel within a square of ``2·pixels + 1`` around it."""
    side = 2 * pixels + 1
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)


def _autocorrelated(plane: Floats, shape: tuple[int, ...], reach: int) -> Floats:
    """Sums of products of a plane with itself at lags up to ``reach``, shape (2·reach + 1, 2·reach + 1)."""
    spectrum = np.fft.rfft2(plane, s=shape)
    sums = np.fft.irfft2(np.abs(spectrum) ** 2, s=shape)
    lags = np.arange(-reach, reach + 1)
    return np.asarray(sums[np.ix_(lags, lags)], np.float32)


def _blurred(plane: Floats, mask: Bools, sigma_px: float) -> Floats:
    """Gaussian mean over the pixels of the mask alone."""
    weights = mask.astype(np.float32)
    top, bottom = (cv2.GaussianBlur(part, (0, 0), max(sigma_px, 0.5)) for part in (plane * weights, weights))
    return np.asarray(top / np.maximum(bottom, 1e-6), np.float32)


def _eroded(mask: Bools) -> Bools:
    """The mask without its outermost pixels, where enough is left."""
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0
    return np.asarray(inner if int(inner.sum()) >= FEWEST_PX else mask)


def _rim(mask: Bools) -> Bools:
    """Pixels on both sides of the outline."""
    image = mask.astype(np.uint8)
    return np.asarray(cv2.morphologyEx(image, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0)


def _ring(mask: Bools, gsd_m: float) -> Bools:
    far = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3) * gsd_m
    return np.asarray((far > RING_M[0]) & (far <= RING_M[1]))
