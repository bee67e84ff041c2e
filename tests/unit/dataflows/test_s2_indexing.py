"""Cells of chips against the reference libraries."""

import h3
import numpy as np
import pyarrow as pa
import pytest
import s2cell
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.s2_indexing import chip_cells

PLACES = st.lists(st.tuples(st.floats(-180, 180, exclude_max=True), st.floats(-84, 84)), min_size=1, max_size=20)


def plan(places):
    lon, lat = (np.array(axis, np.float64) for axis in zip(*places, strict=True))
    return pa.table({"uuid": [f"c{k}" for k in range(len(places))], "lon": lon, "lat": lat})


@settings(max_examples=40, deadline=None)
@given(places=PLACES, resolution=st.integers(0, 15))
def test_cells_of_centres(places, resolution):
    table = chip_cells(plan(places), resolution)
    assert table.schema.types[1:] == [pa.uint64()] * 4
    for (lon, lat), row in zip(places, table.to_pylist(), strict=True):
        for name, level in (("s2_cell", 30), ("s2_l10", 10), ("s2_l13", 13)):
            assert row[name] == s2cell.lat_lon_to_cell_id(lat, lon, level)
        assert row["h3_cell"] == h3.str_to_int(h3.latlng_to_cell(lat, lon, resolution))


def test_no_chip_no_cell():
    empty = pa.table(
        {"uuid": pa.array([], pa.string()), "lon": pa.array([], pa.float64()), "lat": pa.array([], pa.float64())}
    )
    assert len(chip_cells(empty, 10)) == 0


@pytest.mark.parametrize(("lon", "beyond"), [(-80.0, True), (8.0, False)])
def test_a_third_of_all_cells_do_not_fit_a_signed_integer(lon, beyond):
    [row] = chip_cells(plan([(lon, 10.0)]), 10).to_pylist()
    assert (row["s2_cell"] >= 1 << 63) == beyond
