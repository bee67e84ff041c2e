"""What a box says about the object in it before any colour is looked at.

Arrays are rectangles, seen under an angle that their own edges and grid lines betray. An upright box around a rotated
rectangle leaves few rectangles possible: those whose visible envelope is the box, give or take the annotator's hand.
Their weighted mean is a map of how likely each pixel belongs to the object. Chips cut objects: an envelope is that of
the part that can be seen, so that a triangle in the corner of a chip is a rectangle too.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from affine import Affine
from numpy.typing import NDArray

from utils.types import ChipGrid

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

CELLS = 36
"""Cells of the sampling lattice per axis; the box takes the inner two thirds."""
_MARGIN = 0.25
_EDGES = 13
"""Positions tried for each edge of a rectangle."""
_REACH = 1.1
"""Furthest edge, in halves of the box's breadth across it."""
_EDGE_SD = 1.0
"""Smoothing before edges are measured, pixels."""
_ANGLES = 90
_ANGLE_SD = 2.5
"""Smoothing of the histogram of directions, degrees."""
_NEGLIGIBLE = 6.0
"""Log-weights this far below the best are dropped."""
_SLACK = 0.35
"""Misfit of one side beyond which a rectangle is not drawn, as a share of the side."""
_CONTACT = 0.2
"""Share of a side below which a rectangle only touches it with a corner."""
_COINCIDENCE = -2.0
"""Log-likelihood of such a touch where the chip ends."""
_MISFIT = 0.2
"""Squared misfit above the best beyond which a rectangle does not count."""
_BATCH = 1 << 22

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxShapes:
    """Rectangles a box may stand for, sampled on a lattice over the box."""

    masks: Floats
    """1 inside a rectangle, 0 outside; shape (rectangles, cells²)."""
    log_weights: Floats
    """Logarithm of how well each fits the box, up to a constant; shape (rectangles,)."""
    columns: NDArray[np.int64]
    """Pixel column of each cell, shape (cells²,); cells off the window point at its edge."""
    rows: NDArray[np.int64]
    """Pixel row of each cell, likewise."""
    visible: Bools
    """Whether a cell lies on a valid pixel of the window, shape (cells²,)."""
    to_cells: Affine
    """From pixel coordinates (corner-based) to cells."""

    def likely(self, evidence: Floats | None = None) -> Floats:
        """Weighted share of rectangles over each cell, shape (cells²,), 0 to 1.

        Args:
            evidence: log-odds per cell to be summed over a rectangle and added to its log-weight.
        """
        logs = self.log_weights if evidence is None else self.log_weights + self.masks @ evidence
        weights = np.exp(logs - logs.max())
        return np.asarray((weights / weights.sum()) @ self.masks, dtype=np.float32)

    def on_window(self, cells: Floats, shape: tuple[int, int]) -> Floats:
        """Values of the lattice at the window's pixels, bilinear, 0 off the lattice; shape ``shape``."""
        # cv2 counts from pixel centres
        moved = Affine.translation(-0.5, -0.5) @ self.to_cells @ Affine.translation(0.5, 0.5)
        matrix = np.array([moved.a, moved.b, moved.c, moved.d, moved.e, moved.f]).reshape(2, 3)
        size = (shape[1], shape[0])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(cells.reshape(CELLS, CELLS), matrix, size, flags=flags), dtype=np.float32)


def directions(lightness: Floats, weight: Floats, grid: ChipGrid, count: int) -> list[tuple[float, float]]:
    """The ``count`` strongest directions of edges, modulo a right angle.

    Args:
        lightness: shape (rows, columns).
        weight: how much each pixel counts, same shape.
        grid: of the pixels.
        count: directions wanted, at least 1.

    Returns:
        ``(angle, share)`` pairs: radians from the x axis of the CRS, 0 to π/2, and their shares of the evidence,
        which add up to 1.
    """
    # the steps of an unblurred slanting edge point along rows and columns
    calm = cv2.GaussianBlur(lightness, (0, 0), _EDGE_SD)
    by_col = cv2.Sobel(calm, cv2.CV_32F, 1, 0, ksize=3)
    by_row = cv2.Sobel(calm, cv2.CV_32F, 0, 1, ksize=3)
    inverse = ~grid.affine
    by_x, by_y = by_col * inverse.a + by_row * inverse.d, by_col * inverse.b + by_row * inverse.e
    strength = np.hypot(by_x, by_y)
    # one bright kerb must not outvote a hundred module joints
    strength = np.minimum(strength, np.quantile(strength[weight > 0], 0.95) if (weight > 0).any() else 0)
    angle = np.mod(np.arctan2(by_y, by_x), np.pi / 2)
    place = np.minimum((angle / (np.pi / 2) * _ANGLES).astype(np.int64), _ANGLES - 1)
    votes = np.bincount(place.ravel(), (strength * weight).ravel(), _ANGLES)
    turn = np.minimum(np.arange(_ANGLES), _ANGLES - np.arange(_ANGLES))
    kernel = np.exp(-0.5 * (turn / _ANGLE_SD) ** 2)
    votes = np.real(np.fft.ifft(np.fft.fft(votes) * np.fft.fft(kernel)))
    votes = np.maximum(votes - np.median(votes), 1e-9 * max(float(votes.max()), 1.0))
    found = []
    for _ in range(count):
        best = int(votes.argmax())
        found.append(((best + 0.5) * np.pi / 2 / _ANGLES, float(votes[best])))
        votes[(best + np.arange(-8, 9)) % _ANGLES] = 0
    total = sum(share for _, share in found)
    return [(angle, share / total) for angle, share in found]


def box_shapes(
    bounds: Bounds, angles: list[tuple[float, float]], valid: Bools, grid: ChipGrid, jitter_share: float
) -> BoxShapes | None:
    """The rectangles that an upright box may stand for; None when nothing of the box can be seen.

    Args:
        bounds: of the box, ``(min x, min y, max x, max y)`` in the CRS of ``grid``.
        angles: from :func:`directions`.
        valid: True where pixels hold data, shape (rows, columns).
        grid: of the window.
        jitter_share: standard deviation of the box's edges, as a share of the side they bound.
    """
    west, south, east, north = bounds
    width, height = max(east - west, 1e-6), max(north - south, 1e-6)
    cell_x, cell_y = width * (1 + 2 * _MARGIN) / CELLS, height * (1 + 2 * _MARGIN) / CELLS
    cells = Affine.translation(west - _MARGIN * width, south - _MARGIN * height) @ Affine.scale(cell_x, cell_y)
    numbers = np.arange(CELLS) + 0.5
    x, y = (numbers - CELLS / 2) * cell_x, (numbers - CELLS / 2) * cell_y
    cols, rows = (~grid.affine @ cells) @ tuple(np.meshgrid(numbers, numbers))
    cols, rows = np.floor(cols).astype(np.int64).ravel(), np.floor(rows).astype(np.int64).ravel()
    on = (cols >= 0) & (cols < grid.width) & (rows >= 0) & (rows < grid.height)
    cols, rows = np.clip(cols, 0, grid.width - 1), np.clip(rows, 0, grid.height - 1)
    visible = on & valid[rows, cols]
    inner = (np.abs(x) < width / 2) & (np.abs(y[:, None]) < height / 2)
    shown = inner.ravel() & visible
    if not shown.any():
        return None
    wanted = _extents(shown.reshape(1, CELLS, CELLS))[0]
    masks, logs = [], []
    for angle, share in angles:
        held, misfit = _rectangles((x, y), (width, height), angle, visible, wanted)
        fit = -misfit / (2 * jitter_share**2) + np.log(max(share, 1e-3)) + _chance(held, visible, wanted)
        masks.append(held)
        logs.append(fit)
    fits = np.concatenate(logs)
    keep = fits > fits.max() - _NEGLIGIBLE
    return BoxShapes(
        masks=np.concatenate(masks)[keep].astype(np.float32),
        log_weights=fits[keep].astype(np.float32),
        columns=cols,
        rows=rows,
        visible=visible,
        to_cells=~cells @ grid.affine,
    )


def _rectangles(
    axes: tuple[NDArray[np.floating], NDArray[np.floating]],
    sides: tuple[float, float],
    angle: float,
    visible: Bools,
    wanted: NDArray[np.float64],
) -> tuple[Bools, NDArray[np.float64]]:
    """Rectangles of one direction as masks, and the squared misfit of their visible envelopes, in shares of sides."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = np.meshgrid(*axes)
    along, across = (cos * x + sin * y).ravel(), (cos * y - sin * x).ravel()
    width, height = sides
    low, high = np.triu_indices(_EDGES, 1)
    u = np.linspace(-1, 1, _EDGES) * _REACH * (width * cos + height * sin) / 2
    v = np.linspace(-1, 1, _EDGES) * _REACH * (width * sin + height * cos) / 2
    first, second = (part.ravel() for part in np.meshgrid(np.arange(len(low)), np.arange(len(low)), indexing="ij"))
    u0, u1, v0, v1 = u[low[first]], u[high[first]], v[low[second]], v[high[second]]
    # envelopes of whole rectangles, in shares of the sides about the box's centre
    envelopes = np.stack(
        [(cos * u0 - sin * v1) / width, (cos * u1 - sin * v0) / width,
         (sin * u0 + cos * v0) / height, (sin * u1 + cos * v1) / height]
    )  # fmt: skip
    if visible.all():
        whole = ((envelopes - np.array([[-0.5], [0.5], [-0.5], [0.5]])) ** 2).sum(axis=0)
        chosen = np.flatnonzero(whole < whole.min() + _MISFIT)
    else:
        # what can be seen of a rectangle is no larger than the whole: too small a whole needs no mask
        shown = (wanted[1::2] - wanted[::2]) * (1 + 2 * _MARGIN)
        large = (envelopes[1::2] - envelopes[::2]) > shown[:, None] - _SLACK
        chosen = np.flatnonzero(large.all(axis=0))
    in_u = (along >= u[low][:, None]) & (along <= u[high][:, None]) & visible
    in_v = (across >= v[low][:, None]) & (across <= v[high][:, None])
    kept, misfits = [], []
    step = _BATCH // CELLS**2
    for start in range(0, len(chosen), step):
        some = chosen[start : start + step]
        masks = in_u[first[some]] & in_v[second[some]]
        masks = masks[masks.any(axis=1)]
        if not len(masks):
            continue
        extents = _extents(masks.reshape(-1, CELLS, CELLS))
        misfit = ((1 + 2 * _MARGIN) ** 2) * ((extents - wanted) ** 2).sum(axis=1)
        near = misfit < misfit.min() + _MISFIT
        kept.append(masks[near])
        misfits.append(misfit[near])
    if not kept:
        return np.zeros((0, CELLS**2), dtype=np.bool_), np.zeros(0)
    return np.concatenate(kept), np.concatenate(misfits)


def _chance(masks: Bools, visible: Bools, wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-likelihood that rectangles end where nothing more can be seen, shape (masks,).

    A box that ends where the chip ends was cut there: a rectangle that only happens to touch that edge with a corner
    is a coincidence on every such side.
    """
    held, seen = masks.reshape(-1, CELLS, CELLS), visible.reshape(CELLS, CELLS)
    first_col, last_col, first_row, last_row = np.rint(wanted * CELLS).astype(np.int64)
    across, along = slice(first_col, last_col), slice(first_row, last_row)
    chance = np.zeros(len(masks))
    sides = (
        (seen[along, :first_col].any(), held[:, along, first_col]),
        (seen[along, last_col:].any(), held[:, along, last_col - 1]),
        (seen[:first_row, across].any(), held[:, first_row, across]),
        (seen[last_row:, across].any(), held[:, last_row - 1, across]),
    )
    for more_to_see, contact in sides:
        if not more_to_see:
            chance += np.where(contact.mean(axis=1) < _CONTACT, _COINCIDENCE, 0.0)
    return chance


def _extents(masks: Bools) -> NDArray[np.float64]:
    """``(first, last)`` occupied column, then row, of masks in shares of the lattice, shape (masks, 4)."""
    columns, rows = np.asarray(masks.any(axis=1)), np.asarray(masks.any(axis=2))
    edges = [
        columns.argmax(axis=1),
        CELLS - columns[:, ::-1].argmax(axis=1),
        rows.argmax(axis=1),
        CELLS - rows[:, ::-1].argmax(axis=1),
    ]
    return np.stack(edges, axis=1) / CELLS
