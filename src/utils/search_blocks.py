"""Blocks of a search: the unit of large-area inference, cut from one raster grid."""

from dataclasses import dataclass
from typing import Final

from utils.types import ChipGrid

PROBABILITY_SCALE: Final = 254
"""Stored probabilities are uint8: 0 to 254 is 0 to 1."""
PROBABILITY_NODATA: Final = 255
"""Stored probability of pixels without imagery, or that no window covered."""


@dataclass(frozen=True, kw_only=True)
class SearchBlock:
    """One block of a search raster."""

    row: int
    """Row in the lattice of blocks."""
    column: int
    """Column in the lattice of blocks."""
    top_px: int
    """Row of its upper-left pixel in the search raster."""
    left_px: int
    """Column of its upper-left pixel in the search raster."""
    grid: ChipGrid
    """Its pixels, without halo; blocks at the right and lower edge are cut off at the raster's edge."""

    @property
    def block_id(self) -> str:
        """Name of the block, the same in every run on the same raster: ``r00012-c00003``."""
        return f"r{self.row:05d}-c{self.column:05d}"


def search_blocks(raster: ChipGrid, block_px: int) -> list[SearchBlock]:
    """Blocks that cover a raster, row by row.

    Args:
        raster: the search raster.
        block_px: rows and columns of a block.
    """
    blocks = []
    a, b, c, d, e, f = raster.transform
    for top in range(0, raster.height, block_px):
        for left in range(0, raster.width, block_px):
            grid = ChipGrid(
                epsg=raster.epsg,
                transform=(a, b, c + a * left + b * top, d, e, f + d * left + e * top),
                height=min(block_px, raster.height - top),
                width=min(block_px, raster.width - left),
            )
            block = SearchBlock(row=top // block_px, column=left // block_px, top_px=top, left_px=left, grid=grid)
            blocks.append(block)
    return blocks
