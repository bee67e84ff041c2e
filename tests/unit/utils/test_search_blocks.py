"""Pixel lattices and blocks: whole coverage, no overlap, the same pixels whatever the area."""

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import EmptyAreaError
from utils.search_blocks import PixelLattice, block_boxes, blocks_over, common_lattice, search_blocks
from utils.types import ChipGrid

GSD = st.sampled_from([0.1, 0.25, 0.3, 0.5, 10.0])


def grid(left, top, *, gsd=0.3, epsg=32632, rows=100, columns=80):
    return ChipGrid(epsg=epsg, transform=(gsd, 0.0, left, 0.0, -gsd, top), height=rows, width=columns)


@given(
    GSD,
    st.floats(0, 0.999),
    st.floats(4e5, 6e5),
    st.floats(5e6, 6e6),
    st.floats(0.01, 3000),
    st.floats(0.01, 3000),
)
def test_a_raster_holds_its_area_and_no_row_or_column_too_many(gsd, phase, west, south, width, height):
    lattice = PixelLattice(epsg=32632, gsd_m=gsd, phase_x=phase, phase_y=phase)
    bounds = (west, south, west + max(width, gsd), south + max(height, gsd))
    raster = lattice.covering(bounds)
    west_px, south_px, east_px, north_px = np.array(raster.footprint.bounds)
    slack = 2e-3 * gsd
    assert west_px <= bounds[0] + slack
    assert south_px <= bounds[1] + slack
    assert east_px >= bounds[2] - slack
    assert north_px >= bounds[3] - slack
    assert west_px > bounds[0] - gsd - slack
    assert north_px < bounds[3] + gsd + slack


@given(GSD, st.floats(0, 0.999), st.lists(st.tuples(st.floats(0, 900), st.floats(0, 900)), min_size=2, max_size=2))
def test_rasters_of_one_lattice_share_pixels(gsd, phase, corners):
    lattice = PixelLattice(epsg=32632, gsd_m=gsd, phase_x=phase, phase_y=phase)
    rasters = [lattice.covering((5e5 + x, 5e6 + y, 5e5 + x + 500, 5e6 + y + 500)) for x, y in corners]
    for axis in (2, 5):
        apart = (rasters[0].transform[axis] - rasters[1].transform[axis]) / gsd
        assert abs(apart - round(apart)) < 1e-5


def test_scenes_on_one_lattice_are_read_without_resampling():
    grids = [grid(500_000.1, 5_000_000.2), grid(500_000.1 + 0.3 * 1000, 5_000_000.2 - 0.3 * 377)]
    lattice = common_lattice(grids, 0.3)
    assert lattice is not None
    raster = lattice.covering(grids[0].footprint.bounds)
    assert (raster.height, raster.width) == (grids[0].height, grids[0].width)
    assert raster.transform == pytest.approx(grids[0].transform, abs=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        grid(500_000.2, 5_000_000.2),
        grid(500_000.1, 5_000_000.2, epsg=32633),
        grid(500_000.1, 5_000_000.2, gsd=0.31),
        ChipGrid(epsg=32632, transform=(0.29, 0.05, 500_000.1, 0.05, -0.29, 5_000_000.2), height=9, width=9),
    ],
    ids=["half a pixel apart", "another zone", "another size", "turned"],
)
def test_scenes_off_the_lattice_are_told(other):
    assert common_lattice([grid(500_000.1, 5_000_000.2), other], 0.3) is None
    assert common_lattice([], 0.3) is None
    assert common_lattice([grid(0, 0)], 0.25) is None


def test_bounds_without_area_are_empty():
    with pytest.raises(EmptyAreaError, match="holds no pixel"):
        PixelLattice(epsg=32632, gsd_m=0.3).covering((5.0, 5.0, 5.0, 9.0))


@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 300))
def test_blocks_tile_the_raster(rows, columns, block_px):
    raster = grid(500_000.0, 5_000_000.0, rows=rows, columns=columns)
    blocks = search_blocks(raster, block_px)
    assert sum(block.grid.height * block.grid.width for block in blocks) == rows * columns
    assert len({block.block_id for block in blocks}) == len(blocks)
    covered = np.zeros((rows, columns), int)
    for block in blocks:
        covered[block.top_px : block.top_px + block.grid.height, block.left_px : block.left_px + block.grid.width] += 1
    assert (covered == 1).all()


@given(
    st.integers(50, 400),
    st.integers(20, 120),
    st.lists(st.tuples(st.floats(-0.2, 1.2), st.floats(-0.2, 1.2)), min_size=3, max_size=6),
)
def test_blocks_over_an_area_are_those_that_share_ground_with_it(side, block_px, points):
    raster = grid(500_000.0, 5_000_000.0, rows=side, columns=side + 13)
    west, south, east, north = raster.footprint.bounds
    area = shapely.MultiPoint([(west + x * (east - west), south + y * (north - south)) for x, y in points]).convex_hull
    if area.area < 1e-3:
        return
    everything = search_blocks(raster, block_px)
    shared = shapely.area(shapely.intersection(block_boxes(everything), area))
    found = {block.block_id for block in blocks_over(raster, block_px, area)}
    assert {block.block_id for block, size in zip(everything, shared, strict=True) if size > 1e-6} <= found
    assert found <= {block.block_id for block, size in zip(everything, shared, strict=True) if size > 0}
    assert [block for block in everything if block.block_id in found] == blocks_over(raster, block_px, area)
