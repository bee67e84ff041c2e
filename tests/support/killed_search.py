"""A search in its own process, to be killed: infers a folder's scene into parts and assembles the raster."""

import sys
import time
from pathlib import Path

import torch

from dataflows.large_area_inference import infer_blocks, written_blocks
from store.probability_rasters import ProbabilityParts
from support.search_scenes import PlainModel, convolved, imagery, raster_grid, scene_ids

HEIGHT, WIDTH, BLOCK_PX = 600, 700, 128


def parts_of(folder: Path) -> ProbabilityParts:
    """Where the search leaves its blocks."""
    return ProbabilityParts(folder / "parts", raster_grid(HEIGHT, WIDTH), BLOCK_PX, tags={"search_id": "s"})


def search(folder: Path, *, pause_s: float = 0.0) -> Path:
    """Infer what is not done and assemble the raster."""
    torch.set_num_threads(1)
    source, parts = imagery(folder / "scene"), parts_of(folder)
    done = parts.done()
    pending = [block for block_id, block in parts.blocks.items() if block_id not in done]
    options = {"window_px": 64, "overlap_px": 16, "batch_size": 4}
    inferred = infer_blocks(source, PlainModel(convolved), parts.raster, pending, scene_ids(source), **options)
    for _ in written_blocks(parts, inferred):
        time.sleep(pause_s)
    print("assembling", flush=True)
    return parts.assemble(folder / "probability.tif")


if __name__ == "__main__":
    search(Path(sys.argv[1]), pause_s=float(sys.argv[2]))
