"""Chips gathered into shared images."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.tiles import shared_tiles
from utils.types import ChipGrid, RasterChip

WORLD = np.random.default_rng(3).integers(1, 255, (3, 400, 400), dtype=np.uint8)


def chip_at(col: int, row: int, *, size: int = 40, degrees: float = 0.0, gsd_m: float = 0.3) -> RasterChip:
    lattice = Affine.translation(500_000, 5_200_000) @ Affine.rotation(degrees) @ Affine.scale(gsd_m, -gsd_m)
    transform = tuple(lattice @ Affine.translation(col, row))[:6]
    return RasterChip(
        data=WORLD[:, row : row + size, col : col + size],
        valid=np.ones((size, size), np.bool_),
        grid=ChipGrid(epsg=32632, transform=transform, height=size, width=size),
        bands=("red", "green", "blue"),
        source="toy",
        scene_ids=(f"{col // 100}",),
        sensor="toy",
        acquired_at=datetime(2024, 6, 1, tzinfo=UTC),
    )


@settings(max_examples=40)
@given(
    places=st.lists(st.tuples(st.integers(0, 360), st.integers(0, 360)), min_size=1, max_size=12, unique=True),
    tile_px=st.integers(0, 300),
    degrees=st.sampled_from([0.0, 30.0, -100.0]),
)
def test_every_chip_is_in_one_tile_where_its_pixels_lie(places, tile_px, degrees):
    chips = [chip_at(col, row, degrees=degrees) for col, row in places]
    tiles = shared_tiles(chips, tile_px)
    assert sorted(member for tile in tiles for member in tile.members) == list(range(len(chips)))
    for tile in tiles:
        assert max(tile.chip.grid.height, tile.chip.grid.width) <= max(tile_px, 40)
        for member, (rows, cols) in zip(tile.members, tile.windows, strict=True):
            chip = chips[member]
            assert (tile.chip.data[:, rows, cols] == chip.data).all()
            assert tile.chip.valid[rows, cols].all()
            corner = tile.chip.grid.affine @ (cols.start, rows.start)
            assert corner == pytest.approx(chip.grid.affine @ (0, 0), abs=1e-3)


@given(st.permutations(range(6)))
def test_tiles_do_not_depend_on_order(order):
    chips = [chip_at(60 * n, 25 * n) for n in range(6)]
    sets = {frozenset(tile.members) for tile in shared_tiles(chips, 200)}
    mixed = {frozenset(order[m] for m in tile.members) for tile in shared_tiles([chips[n] for n in order], 200)}
    assert sets == mixed


def test_chips_of_other_lattices_sources_or_times_stay_apart():
    one = chip_at(0, 0)
    others = [
        chip_at(10, 0, gsd_m=0.2),
        replace(chip_at(10, 0), source="other"),
        replace(chip_at(10, 0), acquired_at=datetime(2023, 6, 1, tzinfo=UTC)),
        replace(chip_at(10, 0), grid=replace(chip_at(10, 0).grid, epsg=32633)),
        replace(one, grid=replace(one.grid, transform=(0.3, 0, 500_000.1, 0, -0.3, 5_200_000))),
    ]
    for other in others:
        assert len(shared_tiles([one, other], 4000)) == 2


def test_nodata_of_one_chip_is_filled_from_the_other_and_inputs_stay():
    first, second = chip_at(0, 0), chip_at(20, 0)
    holes = first.valid.copy()
    holes[:, 30:] = False
    first = replace(first, valid=holes, data=np.where(holes, first.data, 0))
    before = first.data.copy()
    (tile,) = shared_tiles([first, second], 4000)
    assert tile.chip.valid.all()
    assert (tile.chip.data == WORLD[:, :40, :60]).all()
    assert tile.chip.scene_ids == ("0",)
    assert (first.data == before).all()


def test_no_chips_no_tiles():
    assert shared_tiles([], 512) == []
