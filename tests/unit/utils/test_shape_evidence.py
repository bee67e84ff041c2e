"""Shape figures of rectangles and discs, however they are turned."""

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely import affinity

from utils.shape_evidence import shapes

SIDES = st.floats(1, 200)


@given(SIDES, SIDES, st.floats(0, 180))
def test_a_rectangle_is_one_whatever_its_turn(width: float, height: float, turn: float) -> None:
    found = shapes(np.array([affinity.rotate(shapely.box(0, 0, width, height), turn)]))
    assert found.rectangularity[0] == pytest.approx(1, abs=1e-6)
    assert found.solidity[0] == pytest.approx(1, abs=1e-9)
    assert found.elongation[0] == pytest.approx(max(width, height) / min(width, height), rel=1e-6)
    assert found.area_m2[0] == pytest.approx(width * height, rel=1e-9)


def test_a_disc_is_compact_and_an_angle_is_not() -> None:
    disc = shapely.Point(0, 0).buffer(10, 64)
    angle = shapely.union_all([shapely.box(0, 0, 20, 4), shapely.box(0, 0, 4, 20)])
    found = shapes(np.array([disc, angle]))
    assert found.compactness[0] == pytest.approx(1, abs=0.01)
    assert found.rectangularity[0] == pytest.approx(np.pi / 4, abs=0.01)
    assert found.rectangularity[1] < 0.6
    assert found.solidity[1] < 0.75


def test_nothing_gives_nothing() -> None:
    assert len(shapes(np.empty(0, object)).area_m2) == 0
