"""Scene classes: which pixels count, and shares of cloud and shadow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from utils.errors import SceneClassError
from utils.scl import (
    CLOUD,
    DROPPED,
    SCENE_CLASSES,
    SHADOW,
    checked_scl,
    clear_pixels,
    cloud_fraction,
    scl_valid,
    shadow_fraction,
)

SCL = arrays(np.uint8, (4, 5), elements=st.integers(0, 11))


def test_the_classes_of_the_product():
    assert len(SCENE_CLASSES) == 12
    assert DROPPED == (0, 1, 3, 8, 9, 10, 11)
    assert {"cloud" in SCENE_CLASSES[code].name or "cirrus" in SCENE_CLASSES[code].name for code in CLOUD} == {True}
    assert [SCENE_CLASSES[code].name for code in SHADOW] == ["cloud shadow"]
    assert all(one.name and one.reason for one in SCENE_CLASSES)


@given(SCL)
def test_against_counting_by_hand(scl):
    codes = scl.ravel().tolist()
    classified = [code for code in codes if code != 0]
    for share, of in ((cloud_fraction(scl), (8, 9, 10)), (shadow_fraction(scl), (3,))):
        wanted = sum(code in of for code in classified) / len(classified) if classified else None
        assert share == (None if wanted is None else pytest.approx(wanted, abs=1e-12))
    assert scl_valid(scl).ravel().tolist() == [code in (2, 4, 5, 6, 7) for code in codes]
    assert scl_valid(scl).shape == scl.shape


@given(SCL, arrays(np.bool_, (4, 5)))
def test_clear_pixels_hold_data_and_a_kept_class(scl, valid):
    clear = clear_pixels(valid, scl)
    assert np.array_equal(clear, valid & scl_valid(scl) if scl.any() else valid)
    assert np.array_equal(clear_pixels(valid, None), valid)
    assert clear is not valid


def test_nothing_is_known_of_an_unclassified_chip():
    assert cloud_fraction(np.zeros((3, 3), np.uint8)) is None
    assert shadow_fraction(np.empty((0, 0), np.uint8)) is None


@pytest.mark.parametrize("function", [checked_scl, scl_valid, cloud_fraction, shadow_fraction])
@pytest.mark.parametrize("code", [12, 100, 255])
def test_other_values_are_refused(function, code):
    scl = np.full((3, 3), 4, np.uint8)
    scl[1, 1] = code
    with pytest.raises(SceneClassError, match=f"values {code} are not scene classes"):
        function(scl)


def test_other_integer_types_do_and_floats_do_not():
    assert checked_scl(np.array([[4, 11]], np.int64)).dtype == np.uint8
    with pytest.raises(SceneClassError, match="values -1, 300"):
        checked_scl(np.array([[-1, 300]], np.int16))
    with pytest.raises(SceneClassError, match="float32"):
        checked_scl(np.array([[4.0]], np.float32))
