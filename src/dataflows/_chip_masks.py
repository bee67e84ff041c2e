"""The mask of one chip from the masks of its prompts, and what its row says of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize

from dataflows.sam_mask_factory import JudgedMask
from utils.types import IGNORE, ChipGrid, Prompt, RasterChip


def chip_mask(chip: RasterChip, judged: list[JudgedMask], prompts: list[Prompt]) -> NDArray[np.uint8]:
    """Mask of one chip as :func:`generated_masks` has it, uint8 (rows, columns)."""
    shape = (chip.grid.height, chip.grid.width)
    accepted, doubtful = np.zeros(shape, bool), np.zeros(shape, bool)
    for found in judged:
        if found.verdict == "accept":
            accepted |= found.mask.data
        elif found.verdict in ("review", "reject"):
            doubtful |= found.mask.data
    verdicts = {found.mask.prompt_id: found.verdict for found in judged}
    for prompt in prompts:
        if verdicts[prompt.prompt_id] != "accept" and not _holds_centre(accepted, prompt, chip.grid):
            doubtful |= rasterize([prompt.geometry], out_shape=shape, transform=chip.grid.affine, dtype="uint8") > 0
    mask = np.where(doubtful, IGNORE, 0).astype(np.uint8)
    mask[accepted] = 1
    mask[~chip.valid] = IGNORE
    return mask


def _holds_centre(accepted: NDArray[np.bool_], prompt: Prompt, grid: ChipGrid) -> bool:
    centre = prompt.geometry.envelope.centroid
    column, row = (int(np.floor(value)) for value in ~grid.affine @ (centre.x, centre.y))
    inside = 0 <= row < grid.height and 0 <= column < grid.width
    return inside and bool(accepted[row, column])


def verdict_columns(judged: list[JudgedMask]) -> dict[str, Any]:
    """What a chip's row says of the masks on it: counts per verdict, quality, flags, weight."""
    scores = [found.score for found in judged if found.verdict == "accept"]
    return {
        "weight": 1.0,
        "n_prompts": len(judged),
        "n_accepted": len(scores),
        "n_review": sum(found.verdict == "review" for found in judged),
        "n_rejected": sum(found.verdict == "reject" for found in judged),
        "quality_score": float(np.mean(scores)) if scores else None,
        "quality_flags": sorted({flag for found in judged for flag in (*found.mask.flags, *found.reasons)}),
    }
