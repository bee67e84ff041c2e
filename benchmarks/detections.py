"""Objects out of a raster of probabilities, by block and whole: CPU time, peak memory, each in its own process.

Data: slanted rectangles of 4 to 40 pixels with blurred edges on a square raster, one per 60 × 60 pixels, and the
same with speckle (every thousandth pixel). Beside it rasterio.features.shapes over the whole array with the same
threshold and connectivity, which gives outlines alone: no scores, no regularisation, no area.

    python benchmarks/detections.py [--sides 4096 8192 16384] [--block 1536]
"""

import argparse
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio.features
from numpy.typing import NDArray
from shapely.geometry import shape

from dataflows.detections import DetectionRule, detection_table, found_objects
from utils.search_blocks import SearchBlock, search_blocks
from utils.types import ChipGrid

CELL = 60


@dataclass(frozen=True)
class Block:
    """What a part holds."""

    data: NDArray[np.uint8]
    scene_ids: tuple[str, ...] = ("scene",)
    acquired_at: datetime = datetime(2023, 6, 9, tzinfo=UTC)


@dataclass(frozen=True)
class FileParts:
    """Blocks of an array on disk."""

    path: Path
    blocks: list[SearchBlock]

    def done(self) -> set[str]:
        """All of them."""
        return {block.block_id for block in self.blocks}

    def read(self, block: SearchBlock) -> Block:
        """One of them."""
        # mapped anew each time, so that pages of other blocks are not counted as memory
        whole = np.load(self.path, mmap_mode="r")
        rows = slice(block.top_px, block.top_px + block.grid.height)
        return Block(np.array(whole[rows, block.left_px : block.left_px + block.grid.width]))


def make(path: Path, side: int, *, speckled: bool, seed: int = 0) -> None:
    """Write the raster, a strip at a time."""
    random = np.random.default_rng(seed)
    whole = np.lib.format.open_memmap(path, "w+", np.uint8, (side, side))
    for top in range(0, side, 20 * CELL):
        rows = min(20 * CELL, side - top)
        strip = np.zeros((rows, side), np.uint8)
        for y in range(CELL // 2, rows, CELL):
            for x in range(CELL // 2, side, CELL):
                size, angle = random.uniform(4, 40, 2), random.uniform(0, 90)
                corners = cv2.boxPoints(((float(x), float(y)), size.tolist(), angle)).astype(np.int32)
                cv2.fillConvexPoly(strip, corners, int(random.integers(160, 254)))
        strip = cv2.GaussianBlur(strip, (0, 0), 1.0)
        if speckled:
            strip[random.random(strip.shape) < 0.001] = 200
        whole[top : top + rows] = strip
    whole.flush()


def by_block(path: Path, side: int, block_px: int) -> dict[str, Any]:
    """What the flow does."""
    raster = _raster(side)
    blocks = search_blocks(raster, block_px)
    start = time.process_time()
    objects = found_objects(FileParts(path, blocks), raster, blocks, DetectionRule())
    found_s = time.process_time() - start
    table = detection_table(objects, search_id="s", model_id="m", model="m", run_id="r", gsd_m=0.3, h3_resolution=10)
    return {"objects": len(table), "seconds": found_s, "rows_s": time.process_time() - start - found_s}


def whole(path: Path, side: int, block_px: int) -> dict[str, Any]:
    """Outlines of the whole array at once."""
    del side, block_px
    start = time.process_time()
    inside = (np.load(path) >= 127).astype(np.uint8)
    count = sum(1 for outline, _ in rasterio.features.shapes(inside, mask=inside, connectivity=8) if shape(outline))
    return {"objects": count, "seconds": time.process_time() - start, "rows_s": 0.0}


def _raster(side: int) -> ChipGrid:
    return ChipGrid(epsg=32632, transform=(0.3, 0.0, 465_000.0, 0.0, -0.3, 5_250_000.0), height=side, width=side)


def _measured(task: tuple[str, Path, int, int]) -> dict[str, Any]:
    name, path, side, block_px = task
    # the high-water mark of a process begins with that of its parent
    Path("/proc/self/clear_refs").write_text("5")
    before = _kib("VmRSS")
    found = {"by block": by_block, "whole": whole}[name](path, side, block_px)
    return found | {"peak_mb": (_kib("VmHWM") - before) / 1024}


def _kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name + ":")).split()[1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sides", type=int, nargs="+", default=[4096, 8192])
    parser.add_argument("--block", type=int, default=1536)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for speckled in (False, True):
            for side in arguments.sides:
                path = Path(folder) / "raster.npy"
                make(path, side, speckled=speckled)
                for name in ("by block", "whole"):
                    with context.Pool(1) as pool:
                        found = pool.apply(_measured, ((name, path, side, arguments.block),))
                    print(
                        f"{side}²{' speckled' if speckled else ''} {name}: {found['objects']:,} objects in "
                        f"{found['seconds']:.1f} s ({found['objects'] / found['seconds']:,.0f}/s), "
                        f"rows {found['rows_s']:.1f} s, peak + {found['peak_mb']:.0f} MB"
                    )


if __name__ == "__main__":
    main()
