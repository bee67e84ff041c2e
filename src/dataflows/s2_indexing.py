"""Cells of every chip: S2 leaf and parents, H3."""

import pyarrow as pa
from hamilton.function_modifiers import tag

from utils.geo import h3_cells, s2_cells, s2_parents


@tag(stage="cells")
def chip_cells(chip_plan: pa.Table, h3_resolution: int) -> pa.Table:
    """S2 and H3 cells (uint64) of the chips' centres, one row per chip: uuid, s2_cell, s2_l10, s2_l13, h3_cell."""
    lon, lat = chip_plan["lon"].to_numpy(), chip_plan["lat"].to_numpy()
    leaves = s2_cells(lon, lat, 30)
    return pa.table(
        {
            "uuid": chip_plan["uuid"],
            "s2_cell": leaves,
            "s2_l10": s2_parents(leaves, 10),
            "s2_l13": s2_parents(leaves, 13),
            "h3_cell": h3_cells(lon, lat, h3_resolution),
        }
    )
