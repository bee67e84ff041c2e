"""Display values of measurements, against numpy written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from utils.radiometry import percentile_limits, stretched

DEPTHS = st.sampled_from([np.uint16, np.int16, np.uint32, np.float32, np.float64])


@given(
    data=st.data(),
    dtype=DEPTHS,
    low=st.floats(-1000, 30_000),
    span=st.floats(1, 60_000),
    gamma=st.floats(0.2, 5),
)
def test_the_formula(data, dtype, low, span, gamma):
    least = 0 if np.dtype(dtype).kind == "u" else -30_000
    values = data.draw(hnp.arrays(dtype, (3, 4), elements={"min_value": least, "max_value": 30_000}))
    valid = data.draw(hnp.arrays(np.bool_, (3, 4)))
    found = stretched(values, valid, low=low, high=low + span, gamma=gamma)
    for value, holds, grey in zip(values.ravel(), valid.ravel(), found.ravel(), strict=True):
        share = min(max((float(value) - low) / (low + span - low), 0.0), 1.0)
        assert grey == (1 + round(254 * share ** (1 / gamma)) if holds else 0)
    assert found.dtype == np.uint8
    assert (found[valid] >= 1).all()


def test_ends_and_order():
    values = np.array([-5, 100, 200, 300, 9000], np.int16)
    everywhere = np.ones(5, bool)
    assert stretched(values, everywhere, low=100, high=300).tolist() == [1, 1, 128, 255, 255]
    brighter = stretched(values, everywhere, low=100, high=300, gamma=2)
    assert brighter.tolist()[::2] == [1, 181, 255]


def test_input_is_left_alone():
    values, valid = np.arange(6, dtype=np.uint16), np.ones(6, bool)
    stretched(values, valid, low=1, high=4)
    percentile_limits(values, valid, low=0, high=100)
    assert values.tolist() == list(range(6))


@given(values=hnp.arrays(np.uint16, 40), low=st.floats(0, 49), high=st.floats(51, 100))
def test_percentiles_equal_numpy_of_the_valid_values(values, low, high):
    valid = values % 3 > 0
    found = percentile_limits(values, valid, low=low, high=high)
    if not valid.any():
        assert found is None
        return
    wanted = tuple(np.percentile(values[valid].astype(float), (low, high)))
    assert found == (wanted if wanted[0] < wanted[1] else None)


@pytest.mark.parametrize("values", [np.zeros(0, np.uint16), np.full(5, 7, np.uint16)])
def test_nothing_to_tell_apart(values):
    assert percentile_limits(values, np.ones(values.shape, bool), low=2, high=98) is None
