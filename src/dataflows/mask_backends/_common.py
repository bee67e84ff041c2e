"""What every mask backend checks and answers alike."""

import numpy as np

from utils.errors import BandError, MaskError
from utils.refinement import require_metres
from utils.types import Mask, Prompt, RasterChip


def check_chip(chip: RasterChip) -> None:
    """Refuse chips that are not uint8 red, green, blue on a metric grid.

    Raises:
        BandError: other than three bands.
        MaskError: other than uint8.
        CRSError: the grid's CRS does not measure the ground in metres.
    """
    if chip.data.shape[0] != 3:
        raise BandError(
            f"masks are drawn on red, green, blue; the chip of {chip.source} has the bands {', '.join(chip.bands)}: "
            "name three bands in the loader's settings"
        )
    if chip.data.dtype != np.uint8:
        raise MaskError(
            f"masks are drawn on uint8 pixels; the chip of {chip.source} is {chip.data.dtype}: "
            "stretch it to uint8 with a stated range before it comes here"
        )
    require_metres(chip.grid.epsg)


def empty_mask(chip: RasterChip, prompt: Prompt, *flags: str) -> Mask:
    """A mask without pixels on the chip's grid, flagged with the reason."""
    nothing = np.zeros((chip.grid.height, chip.grid.width), dtype=np.bool_)
    return Mask(data=nothing, grid=chip.grid, prompt_id=prompt.prompt_id, flags=flags)
