"""What every mask backend checks and answers alike."""

from dataclasses import replace

import numpy as np

from utils.errors import BandError, MaskError
from utils.radiometry import stretched
from utils.refinement import require_metres
from utils.types import Mask, Prompt, RasterChip

PERTURBATIONS = ((1.1, 0.0, 0.0), (0.9, 0.0, 0.0), (1.0, 0.05, 0.05), (1.0, -0.05, -0.05))
"""Scale and shift (shares of the sides) of the prompts that test stability: edges move by 5 % of the side."""


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
            "stretch it with a stated range, in the loader's settings or the backend's option `stretch`"
        )
    require_metres(chip.grid.epsg)


def displayed(chip: RasterChip, stretch: tuple[float, float] | None) -> RasterChip:
    """``chip`` as uint8, red, green, blue, its values from ``stretch`` shown as 1 to 255, its nodata as 0.

    Without a stretch a uint8 chip is taken as it is. Values that are not finite are nodata.

    Raises:
        BandError: other than three bands.
        MaskError: other than uint8, and no stretch says what its values mean.
        CRSError: the grid's CRS does not measure the ground in metres.
    """
    if stretch is not None:
        low, high = stretch
        finite = np.isfinite(chip.data).all(axis=0)
        valid = chip.valid & finite
        shown = stretched(np.where(finite, chip.data, low), np.broadcast_to(valid, chip.data.shape), low=low, high=high)
        chip = replace(chip, data=shown, valid=valid)
    check_chip(chip)
    return chip


def empty_mask(chip: RasterChip, prompt: Prompt, *flags: str) -> Mask:
    """A mask without pixels on the chip's grid, flagged with the reason."""
    nothing = np.zeros((chip.grid.height, chip.grid.width), dtype=np.bool_)
    return Mask(data=nothing, grid=chip.grid, prompt_id=prompt.prompt_id, flags=flags)
