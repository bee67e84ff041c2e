"""Windows of a search raster and how their probabilities become one: a lattice, and Hann flanks where windows meet.

Windows lie on one endless lattice that is anchored at the raster's upper-left pixel, so that a pixel's windows, and
with them its value, do not depend on which block asks for it. The outer quarter of the overlap counts nothing on either
side, because a network sees nothing beyond its window; what is left of a window is its core. A pixel lies in at most
two cores per axis. Where two meet, the weight goes over from one to the other along half a Hann window,
``w(i) = sin²(π (i + ½) / (2 blend))`` (Pielawski and Wählby 2020, "Introducing Hann windows for reducing edge-effects
in patch-based image segmentation", PLOS ONE 15(3) e0229839); elsewhere one core counts alone. The two sum to 1.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.errors import ConfigError
from utils.search_blocks import PROBABILITY_NODATA, PROBABILITY_SCALE


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Pixels to read along one axis of a raster, some of them perhaps beyond its edges."""

    first: int
    """First pixel, counted from the raster's first; below 0 before it."""
    count: int
    """How many."""
    raster_length: int
    """Pixels of the raster along the axis."""

    @property
    def beyond(self) -> list[slice]:
        """Those before the raster's first pixel, and those after its last, where there are any."""
        last = self.raster_length - self.first
        return [
            part
            for part in (slice(0, max(-self.first, 0)), slice(last, max(self.count, last)))
            if part.stop > part.start
        ]

    @property
    def mirrored(self) -> NDArray[np.int64]:
        """Which of them each shows where the raster's edges are mirrors, shape (count,); those inside show themselves.

        The pixel before the first shows the first, as in numpy's ``symmetric`` padding.
        """
        turned = np.mod(self.first + np.arange(self.count), 2 * self.raster_length)
        shown = np.where(turned < self.raster_length, turned, 2 * self.raster_length - 1 - turned)
        return np.asarray(shown - self.first, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class WindowLattice:
    """Square windows, one every stride, rows and columns alike, on and on beyond the raster's edges."""

    window_px: int
    """Rows and columns of a window."""
    overlap_px: int
    """Pixels that neighbouring windows share, at most half a window."""

    def __post_init__(self) -> None:
        """Refuse windows that more than two of would meet in a pixel.

        Raises:
            ConfigError: ``window_px`` is below 1, or ``overlap_px`` not from 0 to half of it.
        """
        if self.window_px < 1 or not 0 <= 2 * self.overlap_px <= self.window_px:
            raise ConfigError(
                f"windows of {self.window_px} px cannot share {self.overlap_px} px: the overlap is from 0 to half a "
                "window; set window_px or overlap_px"
            )

    @property
    def stride_px(self) -> int:
        """Pixels from one window to the next."""
        return self.window_px - self.overlap_px

    @property
    def margin_px(self) -> int:
        """Pixels along each edge of a window that count nothing."""
        return self.overlap_px // 4

    @property
    def core_px(self) -> int:
        """Rows and columns of a window that count."""
        return self.window_px - 2 * self.margin_px

    @property
    def anchor_px(self) -> int:
        """First pixel of the first window whose core holds the raster's first pixel, 0 or less.

        The core of the window before it ends at the raster's edge: one earlier would add a row of windows, one later
        would show the edge less beyond it than two windows that meet share.
        """
        return self.margin_px - self.overlap_px

    def starts(self, first: int, length: int) -> range:
        """First pixels of all windows whose core holds one of the ``length`` pixels from ``first`` on, on one axis."""
        stride, beyond = self.stride_px, first - self.anchor_px - self.margin_px
        begin = (beyond - self.core_px) // stride + 1
        end = -(-(beyond + length) // stride)
        return range(begin * stride + self.anchor_px, end * stride + self.anchor_px, stride)

    def reach(self, first: int, length: int, raster_length: int) -> "Reach":
        """What must be read for ``length`` pixels from ``first`` on, along one axis of a raster.

        All windows that hold one of them, and where these reach beyond the raster, as many pixels inside of its edge.
        """
        starts = self.starts(first, length)
        begin, end = starts[0], starts[-1] + self.window_px
        inner_begin = max(0, 2 * raster_length - end) if end > raster_length else begin
        inner_end = min(raster_length, -begin) if begin < 0 else end
        begin, end = min(begin, inner_begin), max(end, inner_end)
        return Reach(first=begin, count=end - begin, raster_length=raster_length)

    @property
    def flank(self) -> NDArray[np.float32]:
        """Weight of the later of two cores on the pixels they share, shape (blend,), rising from 0 to 1."""
        shared = self.overlap_px - 2 * self.margin_px
        steps = (np.arange(shared) + 0.5) / max(shared, 1)
        return (np.sin(np.pi / 2 * steps) ** 2).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class PlacedWindow:
    """A window's probabilities and where they belong."""

    top: int
    """Row of its upper-left pixel, counted from the block's."""
    left: int
    """Column of its upper-left pixel, counted from the block's."""
    data: NDArray[np.float32]
    """Probabilities 0 to 1, shape (window_px, window_px)."""


def blended(windows: Iterable[PlacedWindow], lattice: WindowLattice, valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Probabilities of a block from those of its windows, quantised.

    Two windows are mixed as ``first + w · (second − first)``: where they agree, the result is that value, to the bit.
    Rows that no later window reaches are quantised at once, so one row of windows is held in float32.

    Args:
        windows: windows whose core holds a pixel of the block, row by row, left to right. Where ``valid`` is true, all
            of them must be there; others may be left out.
        lattice: where windows lie.
        valid: where the block holds imagery, shape (rows, columns).

    Returns:
        uint8 of the shape of ``valid``: 0 to 254 is 0 to 1 (rounded, halves to even), 255 where it is false.
    """
    height, width = valid.shape
    found = np.zeros((height, width), np.uint8)
    flank, core = lattice.flank, lattice.core_px
    strip = np.zeros((core, width), np.float32)
    carried = np.zeros((len(flank), width), np.float32)
    for top, row in _rows(windows):
        for window in row:
            _mix_in(strip, window, flank, lattice.margin_px)
        strip[: len(flank)] = carried + flank[:, None] * (strip[: len(flank)] - carried)
        carried[:] = strip[lattice.stride_px :]
        begin = top + lattice.margin_px
        first, last = max(begin, 0), min(begin + core, height)
        found[first:last] = _quantised(strip[first - begin : last - begin])
    np.copyto(found, PROBABILITY_NODATA, where=~valid)
    return found


def _rows(windows: Iterable[PlacedWindow]) -> Iterator[tuple[int, list[PlacedWindow]]]:
    row: list[PlacedWindow] = []
    for window in windows:
        if row and window.top != row[0].top:
            yield row[0].top, row
            row = []
        row.append(window)
    if row:
        yield row[0].top, row


def _mix_in(strip: NDArray[np.float32], window: PlacedWindow, flank: NDArray[np.float32], margin: int) -> None:
    """Lay the core of a window over what lies to its left: mixed along its left flank, alone beyond."""
    core = window.data[margin : margin + len(strip), margin : margin + len(strip)]
    begin = window.left + margin
    first, last = max(begin, 0), min(begin + len(strip), strip.shape[1])
    inner = min(max(begin + len(flank), first), last)
    if first < inner:
        shared = core[:, first - begin : inner - begin]
        left = strip[:, first:inner]
        left += flank[first - begin : inner - begin] * (shared - left)
    strip[:, inner:last] = core[:, inner - begin : last - begin]


def _quantised(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    scaled = probabilities * np.float32(PROBABILITY_SCALE)
    return np.asarray(np.rint(scaled, out=scaled), dtype=np.uint8)
