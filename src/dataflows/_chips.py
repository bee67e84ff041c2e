"""What every loader module shares: grids of planned chips and reading them one by one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from utils.errors import AegirError, NodataError
from utils.failures import Failure
from utils.geo import ChipLattice
from utils.types import ChipGrid, ChipProfile, ImagerySource, RasterChip

Position = tuple[int, int, int]
"""EPSG code of a UTM zone, and column and row on its chip lattice."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ChipReads:
    """Chips read, and chips that could not be."""

    chips: dict[str, RasterChip]
    """Chip id → pixels."""
    failures: list[Failure]
    """One per chip that could not be read."""


def lattice_of(epsg: int, profile: ChipProfile) -> ChipLattice:
    """The lattice chips of a profile lie on in one UTM zone."""
    return ChipLattice(epsg=epsg, gsd_m=profile.gsd_m, height=profile.height, width=profile.width)


def planned_grid(row: Mapping[str, Any], profile: ChipProfile, *, msi: bool = False) -> ChipGrid:
    """The VHR grid of a planned chip, or its multispectral grid: same centre, own pixels."""
    grid = lattice_of(row["epsg"], profile).grid(row["ix"], row["iy"])
    if not msi:
        return grid
    x, y = grid.centre
    return ChipGrid.around(
        x, y, epsg=grid.epsg, gsd_m=profile.msi_gsd_m, height=profile.msi_height, width=profile.msi_width
    )


def read_each(
    chip_plan: pa.Table,
    node: str,
    source: ImagerySource,
    bands: tuple[str, ...],
    *,
    grid_of: Callable[[Mapping[str, Any]], ChipGrid],
    scene_ids_of: Callable[[Mapping[str, Any]], list[str]],
    core_px: int,
    min_valid_fraction: float,
) -> ChipReads:
    """Read every planned chip; one that fails is recorded and the rest go on.

    Args:
        chip_plan: planned chips.
        node: node the failures name.
        source: where pixels come from.
        bands: bands to read.
        grid_of: grid of a plan row.
        scene_ids_of: scenes of a plan row, first on top.
        core_px: width of the rim that does not count for the valid share.
        min_valid_fraction: chips with fewer valid pixels inside the rim fail with ``NodataError``.
    """
    chips: dict[str, RasterChip] = {}
    failures: list[Failure] = []
    for row in chip_plan.to_pylist():
        scene_ids = scene_ids_of(row)
        try:
            chip = source.read(grid_of(row), bands, scene_ids=scene_ids)
            core = chip.valid[core_px : chip.grid.height - core_px, core_px : chip.grid.width - core_px]
            share = float(core.mean())
            if share == 0 or share < min_valid_fraction:
                raise NodataError(f"{share:.0%} of the chip's pixels hold data, {min_valid_fraction:.0%} are asked for")
        except AegirError as error:
            where = {"uuid": row["uuid"], "partition": row["partition"], "input_set": row["input_set"]}
            failures.append(Failure.of(node, error, **where, input_ids=tuple(scene_ids)))
            continue
        chips[row["uuid"]] = chip
    return ChipReads(chips=chips, failures=failures)
