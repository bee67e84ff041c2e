"""How much a region looks like solar panels from above, for ranking alone: no probability, no verdict, no label."""

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.quality import rectangularity
from utils.refinement import pixel_area_m2
from utils.types import ChipGrid

Bools = NDArray[np.bool_]

LEAST_AREA_M2, MOST_AREA_M2 = 1.5, 5000.0
"""About one module, and a large plant's table of modules; likeness falls off by a decade of area beyond."""

_RING_M = 2.0
_CONTRAST_LAB = 30.0
_EVEN_L = 25.0
_BLUE_B = 15.0


def pv_likeness(rgb: NDArray[np.uint8], mask: Bools, grid: ChipGrid) -> dict[str, float]:
    """Signs of solar panels in a region, each 0 to 1, and their mean as ``likeness``.

    Signs, in CIELAB (L 0–100): ``darkness`` 1 − L/100 of the median colour; ``blueness`` (15 − b)/30 cut to 0–1;
    ``evenness`` 1 − σ(L)/25; ``contrast`` distance of the median colour from that of a ring 2 m wide, over 30;
    ``rectangularity`` area over that of the least rotated rectangle; ``size`` 1 from 1.5 to 5000 m², less by the
    decades beyond. Modules are dark, bluish to black, even and rectangular; the weights are equal because nothing was
    fitted.

    Args:
        rgb: shape (3, rows, columns).
        mask: the region, shape (rows, columns), with at least one pixel.
        grid: of both, in a CRS with metre units.
    """
    lab = cv2.cvtColor(np.ascontiguousarray(np.moveaxis(rgb, 0, -1)).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    inside = lab[mask]
    middle = np.median(inside, axis=0)
    radius_px = max(1, round(_RING_M / grid.gsd_m))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
    ring = (cv2.dilate(mask.astype(np.uint8), kernel) > 0) & ~mask
    away = float(np.linalg.norm(middle - np.median(lab[ring], axis=0))) if ring.any() else 0.0
    area_m2 = int(mask.sum()) * pixel_area_m2(grid)
    decades = max(np.log10(LEAST_AREA_M2 / area_m2), np.log10(area_m2 / MOST_AREA_M2), 0.0)
    signs = {
        "darkness": 1 - middle[0] / 100,
        "blueness": (_BLUE_B - middle[2]) / (2 * _BLUE_B),
        "evenness": 1 - inside[:, 0].std() / _EVEN_L,
        "contrast": away / _CONTRAST_LAB,
        "rectangularity": rectangularity(mask),
        "size": 1 - decades,
    }
    cut = {name: float(np.clip(value, 0, 1)) for name, value in signs.items()}
    return cut | {"likeness": float(np.mean(list(cut.values())))}
