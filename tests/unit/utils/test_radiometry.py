"""Reflectance on one scale whatever the processing baseline, and clouds by class."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from utils.radiometry import harmonised

NUMBERS = hnp.arrays(np.uint16, (4, 5), elements=st.integers(0, 65_535))
FLAGS = hnp.arrays(np.bool_, (4, 5))


@given(numbers=NUMBERS, valid=FLAGS)
def test_the_baseline_offset_is_a_shift_of_1000(numbers, valid):
    """Digital numbers and reflectance × 10000 differ by whole numbers, so the result is exact."""
    found = harmonised(numbers, valid, scale=1e-4, offset=-0.1)
    wanted = np.where(valid, np.maximum(numbers.astype(int) - 1000, 1), 0)
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == np.uint16


@given(numbers=NUMBERS, valid=FLAGS)
def test_without_offset_valid_numbers_are_kept(numbers, valid):
    found = harmonised(numbers, valid, scale=1e-4, offset=0)
    np.testing.assert_array_equal(found, np.where(valid, np.maximum(numbers, 1), 0))
    np.testing.assert_array_equal(found > 0, valid)


@pytest.mark.parametrize(
    ("number", "scale", "offset", "wanted"),
    [(250, 4e-3, 0.0, 10_000), (2, 0.5, 0.0, 10_000), (65_535, 1e-3, 0.0, 65_535), (0, 1e-4, -0.1, 1), (3, 5e-5, 0, 2)],
)
def test_scales_and_limits(number, scale, offset, wanted):
    one = harmonised(np.array([[number]], np.uint16), np.array([[True]]), scale=scale, offset=offset)
    assert one.item() == wanted


def test_reflectance_stored_as_fractions_keeps_its_digits():
    given_as = np.array([[0.1234, 0.0, 1.2]], np.float32)
    assert harmonised(given_as, given_as > 0, scale=1.0, offset=0.0).tolist() == [[1234, 0, 12_000]]
