"""Rows of different lengths, laid end to end: whole arrays in place of loops over rows."""

import numpy as np
from numpy.typing import NDArray

_Ints = NDArray[np.int64]


def ragged(counts: _Ints) -> tuple[_Ints, _Ints]:
    """Row k repeated ``counts[k]`` times, and the place of each repeat within its row; each of shape (sum,)."""
    rows = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    return rows, np.arange(len(rows)) - starts[rows]


def ranges(starts: _Ints, counts: _Ints) -> _Ints:
    """``start … start + count − 1`` of each row, one after another; shape (sum of counts,)."""
    before = np.cumsum(counts) - counts
    found: _Ints = np.arange(int(counts.sum())) + np.repeat(starts - before, counts)
    return found
