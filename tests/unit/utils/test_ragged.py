"""Rows of different lengths: the arrays say what loops over the rows say."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from utils.ragged import ragged, ranges

ROWS = st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 5)), max_size=12)


@given(rows=ROWS)
def test_a_loop_says_the_same(rows):
    starts, counts = (np.array([row[i] for row in rows], np.int64) for i in (0, 1))
    row, nth = ragged(counts)
    assert row.tolist() == [k for k, (_, count) in enumerate(rows) for _ in range(count)]
    assert nth.tolist() == [i for _, count in rows for i in range(count)]
    assert ranges(starts, counts).tolist() == [start + i for start, count in rows for i in range(count)]
    assert row.dtype == nth.dtype == ranges(starts, counts).dtype == np.int64
