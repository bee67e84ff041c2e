"""Objects in a raster of probabilities that is read block by block: connected across block edges, one at a time.

Pixels are connected to all eight neighbours: the cells of a thin or slanted array often touch at corners alone, and
four-connectivity would cut it to pieces. Objects are closed as soon as no later row of blocks can touch them, so that
memory is bounded by a row of blocks and the objects that are still open.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Geometry

from utils.search_blocks import PROBABILITY_NODATA

Labels = NDArray[np.int32]
_Keys = NDArray[np.int64]

Outliner = Callable[[Labels, int, int], Mapping[int, list[Geometry]]]
"""Label array, row and column of its first pixel → polygons of each label in pixels of the search raster (x is column,
y is row); see ``dataflows._polygonisation``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ConnectedObject:
    """One connected object, or the part of one that has been read."""

    row: int
    """Row of its first pixel in raster order, in the search raster."""
    column: int
    """Column of that pixel."""
    block_id: str
    """Block that holds that pixel."""
    histogram: NDArray[np.int64]
    """Pixels per stored probability, shape (256,)."""
    pieces: tuple[Geometry, ...]
    """Polygons in pixels of the search raster (x is column, y is row) whose union it is, holes kept."""

    @property
    def pixels(self) -> int:
        """How many pixels it has."""
        return int(self.histogram.sum())

    @property
    def highest(self) -> int:
        """Its highest stored probability."""
        return int(np.flatnonzero(self.histogram)[-1])

    @property
    def outline(self) -> Geometry:
        """Its exact outline along pixel edges, valid, without needless vertices; the same however it was cut."""
        whole = shapely.union_all(self.pieces) if len(self.pieces) > 1 else self.pieces[0]
        # a normalised ring starts at a corner, where simplification keeps it
        return shapely.normalize(shapely.simplify(shapely.normalize(whole), 0))

    def mean(self) -> float:
        """Mean stored probability of its pixels."""
        return float(self.histogram @ np.arange(256)) / self.pixels

    def quantile(self, share: float) -> int:
        """Least stored probability that at least ``share`` of its pixels do not exceed."""
        return int(np.searchsorted(np.cumsum(self.histogram), share * self.pixels))


def joined(parts: list[ConnectedObject]) -> ConnectedObject:
    """Parts of one object as one; at least one part."""
    if len(parts) == 1:
        return parts[0]
    first = min(parts, key=lambda part: (part.row, part.column))
    return ConnectedObject(
        row=first.row,
        column=first.column,
        block_id=first.block_id,
        histogram=np.sum([part.histogram for part in parts], axis=0),
        pieces=tuple(piece for part in parts for piece in part.pieces),
    )


class ObjectStream:
    """Takes blocks row by row, from left to right, and gives back the objects that are complete.

    Blocks may be missing: nothing is an object there.
    """

    def __init__(self, width: int, *, least_value: int, least_pixels: float, outliner: Outliner) -> None:
        """Start above the first row.

        Args:
            width: columns of the search raster.
            least_value: least stored probability of an object's pixels, 1 to 254.
            least_pixels: objects of fewer pixels are left out.
            outliner: how a label array becomes polygons.
        """
        self._least_value, self._least_pixels, self._outliner = least_value, least_pixels, outliner
        # key of the object at each pixel of the row above, 0 for none, one more at both ends
        self._above: _Keys = np.zeros(width + 2, np.int64)
        self._below: _Keys = np.zeros(width + 2, np.int64)
        self._right: _Keys = np.zeros(0, np.int64)
        self._top, self._bottom, self._right_edge = -1, -1, -1
        self._next = 1
        self._parent: dict[int, int] = {}
        self._parts: dict[int, ConnectedObject] = {}

    def take(self, data: NDArray[np.uint8], top: int, left: int, block_id: str) -> Iterator[ConnectedObject]:
        """Add one block; gives the objects that this block's row leaves behind.

        Args:
            data: stored probabilities, shape (rows, columns).
            top: row of its first pixel in the search raster.
            left: column of its first pixel.
            block_id: name of the block.
        """
        if top != self._top:
            yield from self._next_row(top, top + data.shape[0])
        labels, keys = self._own_objects(data, top, left, block_id)
        here = keys[labels]
        rows, columns = data.shape
        for shift in (0, 1, 2):
            self._join(self._above[left + shift : left + shift + columns], here[0])
        if self._right_edge == left:
            padded = np.pad(self._right, 1)
            for shift in (0, 1, 2):
                self._join(padded[shift : shift + rows], here[:, 0])
        self._below[left + 1 : left + 1 + columns] = here[-1]
        self._right, self._right_edge = here[:, -1].copy(), left + columns

    def rest(self) -> Iterator[ConnectedObject]:
        """The objects that are still open, after the last block."""
        yield from self._next_row(-1, -1)

    def _next_row(self, top: int, bottom: int) -> Iterator[ConnectedObject]:
        """Close what the row below cannot touch, and start that row."""
        goes_on = top == self._bottom and top >= 0
        if not goes_on:
            self._below[:] = 0
        live = np.unique(self._below[self._below > 0])
        roots = {int(key): self._root(int(key)) for key in live}
        groups: defaultdict[int, list[ConnectedObject]] = defaultdict(list)
        for key, part in self._parts.items():
            groups[self._root(key)].append(part)
        still_open = set(roots.values())
        done = [joined(parts) for root, parts in groups.items() if root not in still_open]
        self._parts = {root: joined(groups[root]) for root in still_open}
        self._parent = {root: root for root in still_open}
        if roots:
            of_key = np.zeros(int(live[-1]) + 1, np.int64)
            of_key[list(roots)] = list(roots.values())
            self._below = of_key[self._below]
        self._above, self._below = self._below, np.zeros_like(self._below)
        self._top, self._bottom, self._right_edge = top, bottom, -1
        done.sort(key=lambda part: (part.row, part.column))
        yield from (one for one in done if one.pixels >= self._least_pixels)

    def _own_objects(self, data: NDArray[np.uint8], top: int, left: int, block_id: str) -> tuple[Labels, _Keys]:
        """Labels of one block's objects and the key of each label; those too small to count are left out."""
        inside = (data >= self._least_value) & (data != PROBABILITY_NODATA)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
        keep = stats[:, cv2.CC_STAT_AREA] >= self._least_pixels
        for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            keep[edge] = True
        keep[0] = False
        kept = np.flatnonzero(keep)
        number = np.zeros(count, np.int32)
        number[kept] = np.arange(1, len(kept) + 1)
        labels = number[labels]
        keys = np.zeros(len(kept) + 1, np.int64)
        keys[1:] = self._next + np.arange(len(kept))
        self._next += len(kept)
        if not len(kept):
            return labels, keys
        flat = np.flatnonzero(labels)
        owner = labels.ravel()[flat]
        first = np.zeros(len(kept) + 1, np.int64)
        # of a repeated index the last value is assigned
        first[owner[::-1]] = flat[::-1]
        pieces = self._outliner(labels, top, left)
        for one, histogram in _histograms(owner, data.ravel()[flat]):
            row, column = divmod(int(first[one]), data.shape[1])
            key = int(keys[one])
            self._parent[key] = key
            self._parts[key] = ConnectedObject(
                row=top + row, column=left + column, block_id=block_id, histogram=histogram, pieces=tuple(pieces[one])
            )
        return labels, keys

    def _join(self, first: _Keys, second: _Keys) -> None:
        both = (first > 0) & (second > 0)
        for one, two in np.unique(np.stack([first[both], second[both]], axis=1), axis=0).tolist():
            roots = self._root(one), self._root(two)
            self._parent[max(roots)] = min(roots)

    def _root(self, key: int) -> int:
        while self._parent[key] != key:
            self._parent[key] = self._parent[self._parent[key]]
            key = self._parent[key]
        return key


def _histograms(owner: Labels, values: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Every label with its pixels per value, shape (256,), in the order of labels."""
    keys, counts = np.unique(owner.astype(np.int64) * 256 + values, return_counts=True)
    owners, starts = np.unique(keys // 256, return_index=True)
    for one, own, number in zip(
        owners.tolist(), np.split(keys % 256, starts[1:]), np.split(counts, starts[1:]), strict=True
    ):
        histogram = np.zeros(256, np.int64)
        histogram[own] = number
        yield one, histogram
