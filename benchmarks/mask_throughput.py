"""Prompts per second of promptable mask backends, beside the same models and weights driven by hand.

Random weights of the real size: what masks show does not matter, what they cost does. One after the other in each
round, on the same chips, boxes and loaded network:

(a) ours: ``segment_many`` of a backend, one candidate of three kept per box, no perturbed prompts, no kept embeddings;
(b) by hand: the library's predictor, ``set_image`` once per chip, then all its boxes in one ``predict``;
(c) one call per prompt: segment-geospatial's ``set_image`` and ``predict`` for each box alone. Two such calls are timed
    per round; what a prompt costs does not depend on how many follow;
(d) the bare network: encoder and decoder on tensors that lie ready, masks left at low resolution;
(e) ours with neighbouring chips in one image (``tile_px``);
(f) ours with the four perturbed prompts per box that the score ``stability`` takes.

Then a whole build with the first model: the share of its wall time that is not spent in nodes that do the work.

Other work on the machine lengthens wall time and hardly CPU time; both are printed. On CUDA only wall time counts, and
everything runs in bfloat16 under autocast, as the backends do there; on the CPU in float32.

    python benchmarks/mask_throughput.py [--models sam2.1_hiera_t vit_tiny] [--rounds 3] [--only hand flow]
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import shapely
import torch
from orchestration_overhead import PLANNING, WORK, build, spread
from support.driven_models import KINDS, quiet

from dataflows.config import from_mapping
from dataflows.mask_backends._devices import autocast
from support import regions
from utils.pixel_prompts import PixelPrompt, pixel_prompt
from utils.types import RGB_BANDS, ChipGrid, Prompt, RasterChip

CALLS = 2
"""Calls of (c) per round."""
WAYS = {
    "a": "ours, segment_many",
    "b": "set_image once, predict(boxes)",
    "c": "one samgeo call per prompt",
    "d": "bare network, tensors ready",
    "e": "ours, all chips in one image",
    "f": "ours, with perturbed prompts",
}
RATIOS = (
    ("speed of ours over set_image + predict, b/a", "b", "a", " (asked ≥ 1.0)"),
    ("speed of ours over one samgeo call per prompt, c/a", "c", "a", " (asked ≥ 5)"),
    ("time of ours over the bare network, a/d", "a", "d", " (asked ≤ 1.1, on a GPU)"),
    ("speed of shared tiles over chips alone, a/e", "a", "e", ""),
    ("time with perturbed prompts over that without, f/a", "f", "a", ""),
)


def chips_of(count: int, side_px: int, prompts: int) -> tuple[list[RasterChip], list[list[Prompt]]]:
    """Chips in a row, each beside the one before, that can share an image, with boxes that lie inside of them."""
    random = np.random.default_rng(0)
    width_m = side_px * 0.3
    west = round(500_000.0 / (count * width_m)) * count * width_m
    chips, asked = [], []
    for number in range(count):
        x = west + (number + 0.5) * width_m
        grid = ChipGrid.around(x, 5_200_000.0, epsg=32632, gsd_m=0.3, height=side_px, width=side_px)
        chips.append(
            RasterChip(
                data=random.integers(1, 255, (3, side_px, side_px), dtype=np.uint8),
                valid=np.ones((side_px, side_px), np.bool_),
                grid=grid,
                bands=RGB_BANDS,
                source="benchmark",
                scene_ids=("scene",),
                sensor="camera",
                acquired_at=datetime(2024, 6, 1, tzinfo=UTC),
            )
        )
        low = random.uniform(0, side_px * 0.7, (prompts, 2))
        corners = np.hstack([low, low + random.uniform(0.1, 0.3, (prompts, 2)) * side_px])
        found = []
        for col0, row0, col1, row1 in corners:
            (left, top), (right, bottom) = grid.affine @ (col0, row0), grid.affine @ (col1, row1)
            name = f"{number}.{len(found)}"
            box = shapely.box(left, bottom, right, top)
            found.append(Prompt(prompt_id=name, label_id=name, kind="box", geometry=box))
        asked.append(found)
    return chips, asked


def beside_hand(name: str, arguments: argparse.Namespace, folder: Path) -> None:
    """Measure one model and print it."""
    driven = KINDS[name](name, folder, arguments.device)
    chips, prompts = chips_of(arguments.chips, arguments.chip_px, arguments.prompts)
    images = [np.ascontiguousarray(np.moveaxis(chip.data, 0, -1)) for chip in chips]
    boxes = [np.array([_pixels(one, chip).box for one in of]) for chip, of in zip(chips, prompts, strict=True)]
    with quiet():
        hand, samgeo, bare = driven.by_hand(), driven.samgeo(), driven.bare(images, boxes)
    # chips share where their centres fall into one block of a tile less a chip
    tiled = driven.variant(tile_px=(arguments.chips + 1) * arguments.chip_px)
    stable = driven.variant(prompt_stability=True)
    total = sum(map(len, prompts))
    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "a": (lambda: driven.ours.segment_many(chips, prompts), total),
        "b": (lambda: [hand(image, of) for image, of in zip(images, boxes, strict=True)], total),
        "c": (lambda: [samgeo(images[0], boxes[0][number].tolist()) for number in range(CALLS)], CALLS),
        "d": (bare, total),
        "e": (lambda: tiled.segment_many(chips, prompts), total),
        "f": (lambda: stable.segment_many(chips, prompts), total),
    }
    ways = {way: ways[way] for way in arguments.ways}
    with quiet():
        # the first call allocates, and on CUDA chooses kernels
        _timed(lambda: driven.ours.segment_many(chips, prompts), driven.device)
        rounds = [
            {way: _timed(call, driven.device) for way, (call, _) in ways.items()} for _ in range(arguments.rounds)
        ]
    size = sum(tensor.numel() for tensor in driven.network.parameters()) / 1e6
    print(
        f"\n{name} ({driven.backend}), {size:.0f} M random weights, {arguments.chips} chips of {arguments.chip_px}² px,"
    )
    print(
        f"{arguments.prompts} boxes each, {arguments.rounds} rounds; prompts per second of wall and CPU time, median:"
    )
    each = {
        way: tuple(np.array([one[way][clock] for one in rounds]) / count for clock in (0, 1))
        for way, (_, count) in ways.items()
    }
    for way, what in WAYS.items():
        if way not in each:
            continue
        wall, cpu = (1 / median(seconds) for seconds in each[way])
        print(f"  ({way}) {wall:8.2f} {cpu:8.2f}  {what}")
    for title, upper, lower, asked in RATIOS:
        if not {upper, lower} <= each.keys():
            continue
        print(f"  {title}{asked}; min / median / max")
        for clock, what in enumerate(("wall", "CPU")):
            low, middle, high = spread((each[upper][clock] / each[lower][clock]).tolist())
            print(f"    {what} {low:6.2f} / {middle:.2f} / {high:.2f}")


def whole_flow(name: str, arguments: argparse.Namespace, folder: Path) -> None:
    """A build of a small region with a model of the real size; where its wall time goes."""
    driven = KINDS[name](name, folder, arguments.device)
    settings = regions.make(
        folder / "region",
        arguments.side,
        share=0.8,
        msi=False,
        partition_level=14,
        mask_backend=driven.backend,
        mask_options=driven.settings,
    )
    del driven
    with quiet():
        found = build(from_mapping(settings))
    print(
        f"\nbuild with {name}: {found.summary.chips_written} chips, {sum(found.summary.masks.values())} masks, "
        f"{found.summary.chips_failed} chips failed; seconds of wall and CPU time"
    )
    for part, seconds in sorted(found.watch.seconds.items(), key=lambda one: -one[1])[:6]:
        print(f"  {seconds:8.2f} {found.watch.cpu_s[part]:8.2f}  {part}")
    for what, whole, parts in (("wall", found.seconds, found.watch.seconds), ("CPU", found.cpu_s, found.watch.cpu_s)):
        counted = whole - parts[PLANNING]
        print(
            f"  orchestration (Hamilton, Arrow, Lance, leases), {what}: {(counted - parts[WORK]) / whole:.1%} of all, "
            f"{(counted - parts[WORK]) / counted:.1%} without planning (asked ≤ 5 %)"
        )


def _pixels(prompt: Prompt, chip: RasterChip) -> PixelPrompt:
    return pixel_prompt(prompt, chip.grid)


def _timed(call: Callable[[], Any], device: str) -> tuple[float, float]:
    """Seconds of wall time, and of CPU time over all threads."""
    start, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode(), autocast(device, "auto"):
        call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["sam2.1_hiera_t", "vit_tiny"], choices=list(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chips", type=int, default=2, help="chips per round, side by side")
    parser.add_argument("--chip-px", type=int, default=256)
    parser.add_argument("--prompts", type=int, default=8, help="boxes per chip")
    parser.add_argument("--side", type=int, default=3, help="chips along each side of the region that is built")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="what is timed (default all)")
    parser.add_argument("--only", nargs="*", default=["hand", "flow"], choices=("hand", "flow"))
    arguments = parser.parse_args()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    machine = platform.processor() or platform.machine()
    print(f"{machine}, torch {torch.__version__}, {torch.get_num_threads()} threads{gpu}")
    with tempfile.TemporaryDirectory() as folder:
        if "hand" in arguments.only:
            for name in arguments.models:
                beside_hand(name, arguments, Path(folder))
        if "flow" in arguments.only:
            whole_flow(arguments.models[0], arguments, Path(folder))


if __name__ == "__main__":
    main()
