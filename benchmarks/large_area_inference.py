"""Large-area inference around an identity model: what windows, blending, parts and the raster cost besides the model.

A made RGB scene (smooth patches and grain, seed 0, deflate tiles of 512) goes to a COG of probabilities, windows of 512
with 64 shared. Side by side, in rounds of random order, in one process:

- the limit: every tile read once, then the same COG written from a raw raster; no windows, no model
- ours: ``LocalImagery`` → ``infer_blocks`` → a part per block, on the disk → ``assemble``
- a full-scene accumulator: a window at a time with rasterio, two float32 rasters, then the same COG
- a plain loop: a window at a time with rasterio, centres kept, no blending, then the same COG
- torchgeo's GridGeoSampler before the full-scene accumulator, where ``--peers`` names a Python that has torchgeo

``--memory`` measures the peak of ours at a quarter of the area and at the whole, each in its own process (Linux).

    python benchmarks/large_area_inference.py [--size 8192] [--rounds 5] [--block 2048] [--peers PYTHON] [--memory]
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.shutil import copy
from rasterio.transform import from_origin
from rasterio.windows import Window

WINDOW, OVERLAP, TILE, GSD_M, WEST, NORTH = 512, 64, 512, 0.3, 500_000.0, 5_000_000.0
STEP = WINDOW - OVERLAP
COG = {
    "driver": "COG", "compress": "DEFLATE", "level": 6, "blocksize": "512", "overview_resampling": "AVERAGE",
    "num_threads": "ALL_CPUS",
}  # fmt: skip


def profile(size: int) -> dict[str, Any]:
    place = {"crs": "EPSG:32632", "transform": from_origin(WEST, NORTH, GSD_M, GSD_M)}
    return {"driver": "GTiff", "width": size, "height": size, "dtype": "uint8", **place}


def make_scene(path: Path, size: int) -> None:
    """Rows of tiles, one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    tiles = {"tiled": True, "blockxsize": TILE, "blockysize": TILE, "compress": "deflate", "predictor": 2}
    with rasterio.open(path, "w", **profile(size), **tiles, count=3, interleave="pixel", photometric="RGB") as raster:
        for top in range(0, size, TILE):
            coarse = rng.normal(size=(3, TILE // 16, size // 16)).astype(np.float32)
            fine = np.repeat(np.repeat(coarse, 16, axis=1), 16, axis=2)
            pixels = np.clip(110 + 28 * fine + rng.normal(0, 6, fine.shape), 1, 254).astype(np.uint8)
            raster.write(pixels, window=Window(0, top, size, TILE))


class Identity:
    """The first band as the probability."""

    model_id, bands, kind, gsd_m, window_px = "identity", ("red", "green", "blue"), "vhr", GSD_M, WINDOW

    def probabilities(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Of every window."""
        return images[:, 0] * np.float32(1 / 255)


def ours(folder: Path, size: int, block: int) -> Path:
    from dataflows.large_area_inference import infer_blocks, written_blocks  # noqa: PLC0415
    from store.imagery.local import LocalImagery  # noqa: PLC0415
    from store.probability_rasters import ProbabilityParts  # noqa: PLC0415
    from utils.types import ChipGrid  # noqa: PLC0415

    raster = ChipGrid(epsg=32632, transform=(GSD_M, 0.0, WEST, 0.0, -GSD_M, NORTH), height=size, width=size)
    source = LocalImagery(root=folder / "scene", acquired_at="2023-06-14", index=None)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        parts = ProbabilityParts(place, raster, block)
        found = infer_blocks(
            source, Identity(), raster, parts.blocks.values(), source.scenes()["scene_id"].to_pylist(),
            window_px=WINDOW, overlap_px=OVERLAP, batch_size=8,
        )  # fmt: skip
        for _ in written_blocks(parts, found):
            pass
        source.close()
        return parts.assemble(folder / "ours.tif")


def limit(folder: Path, size: int) -> Path:
    with rasterio.open(folder / "scene" / "scene.tif") as raster:
        for _, window in raster.block_windows(1):
            raster.read(window=window)
    copy(folder / f"raw{size}.tif", folder / "limit.tif", **COG)
    return folder / "limit.tif"


def places(size: int) -> list[tuple[int, int]]:
    starts = [*range(0, size - WINDOW, STEP), size - WINDOW]
    return [(top, left) for top in starts for left in starts]


def windows(folder: Path, size: int) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    model = Identity()
    with rasterio.open(folder / "scene" / "scene.tif") as raster:
        for top, left in places(size):
            pixels = raster.read(window=Window(left, top, WINDOW, WINDOW))
            yield top, left, model.probabilities(pixels[None])[0]


def accumulated(found: Iterator[tuple[int, int, NDArray[np.float32]]], folder: Path, size: int) -> Path:
    total, weights = (np.zeros((size, size), np.float32) for _ in range(2))
    line = np.minimum(np.hanning(2 * OVERLAP + 1)[1 : OVERLAP + 1].max(), 1) * np.ones(WINDOW, np.float32)
    line[:OVERLAP] = np.hanning(2 * OVERLAP + 2)[1 : OVERLAP + 1]
    line[-OVERLAP:] = line[:OVERLAP][::-1]
    kernel = np.outer(line, line)
    for top, left, data in found:
        total[top : top + WINDOW, left : left + WINDOW] += kernel * data
        weights[top : top + WINDOW, left : left + WINDOW] += kernel
    np.divide(total, weights, out=total)
    return written(np.rint(total * np.float32(254)).astype(np.uint8), folder / "accumulated.tif", size)


def accumulator(folder: Path, size: int) -> Path:
    return accumulated(windows(folder, size), folder, size)


def plain_loop(folder: Path, size: int) -> Path:
    whole, half = np.empty((size, size), np.uint8), OVERLAP // 2
    for top, left, data in windows(folder, size):
        rows = slice(half if top else 0, WINDOW if top + WINDOW == size else WINDOW - half)
        columns = slice(half if left else 0, WINDOW if left + WINDOW == size else WINDOW - half)
        kept = np.rint(data[rows, columns] * np.float32(254)).astype(np.uint8)
        whole[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop] = kept
    return written(whole, folder / "plain.tif", size)


def written(whole: NDArray[np.uint8], path: Path, size: int) -> Path:
    with rasterio.open(path, "w", **(profile(size) | COG), count=1, nodata=255) as raster:
        raster.write(whole, 1)
    return path


def torchgeo(folder: Path, size: int) -> Path:
    """For a Python of its own; nothing of ours is imported."""
    import torch  # noqa: PLC0415
    from torchgeo.datasets import RasterDataset  # noqa: PLC0415
    from torchgeo.samplers import GridGeoSampler  # noqa: PLC0415

    class Scene(RasterDataset):
        filename_glob = "scene.tif"
        is_image = True

        @property
        def dtype(self) -> Any:
            return torch.uint8

    def found() -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        data = Scene(str(folder / "scene"))
        sampler = GridGeoSampler(data, size=WINDOW, stride=STEP)
        loader = torch.utils.data.DataLoader(data, batch_size=1, sampler=sampler, collate_fn=lambda rows: rows[0])
        for sample, (top, left) in zip(loader, cycled(size), strict=False):
            yield (
                top,
                left,
                Identity().probabilities(sample["image"].numpy()[None].astype(np.uint8)[..., :WINDOW, :WINDOW])[0],
            )

    def cycled(side: int) -> Iterator[tuple[int, int]]:
        while True:
            yield from places(side)

    return accumulated(found(), folder, size)


def timed(task: Callable[[], Path]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, used = time.perf_counter(), cpu()
    task()
    return time.perf_counter() - wall, cpu() - used


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def child(python: str, *arguments: str) -> Any:
    command = [python, __file__, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own command
    return json.loads(done.stdout.splitlines()[-1])


def report_times(folder: Path, size: int, block: int, rounds: int, peers: str | None) -> None:
    tasks: dict[str, Callable[[], Path]] = {
        "read + write limit": lambda: limit(folder, size),
        "ours": lambda: ours(folder, size, block),
        "full-scene accumulator": lambda: accumulator(folder, size),
        "plain rasterio loop": lambda: plain_loop(folder, size),
    }
    with rasterio.open(ours(folder, size, block)) as raster:
        made = raster.read(1)
    with rasterio.open(folder / "scene" / "scene.tif") as raster:
        wanted = np.rint(raster.read(1) * np.float32(1 / 255) * np.float32(254)).astype(np.uint8)
    print(f"ours: {(made != wanted).sum()} of {made.size} pixels differ from the identity")
    raw = {"tiled": True, "blockxsize": TILE, "blockysize": TILE, "count": 1, "nodata": 255}
    with rasterio.open(folder / f"raw{size}.tif", "w", **profile(size), **raw) as raster:
        raster.write(made, 1)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    if peers:
        found["torchgeo GridGeoSampler"] = []
    for _ in range(rounds):
        for name in random.sample(list(found), len(found)):
            if name in tasks:
                found[name].append(timed(tasks[name]))
            else:
                found[name].append(tuple(child(peers or "", "--torchgeo", str(folder), "--size", str(size))))
    reference = found["ours"]
    print(
        f"{size}² px, blocks of {block}; rate of ours ÷ rate of the other, median [lowest – highest] of {rounds} rounds"
    )
    for name, taken in found.items():
        wall, used = (sorted(other[k] / mine[k] for other, mine in zip(taken, reference, strict=True)) for k in (0, 1))
        rate = size * size / 1e6 / statistics.median(each[0] for each in taken)
        print(
            f"{name}: {rate:.1f} Mpx/s; ours is {statistics.median(wall):.2f} × as fast "
            f"[{wall[0]:.2f} – {wall[-1]:.2f}], "
            f"by CPU time {statistics.median(used):.2f} × [{used[0]:.2f} – {used[-1]:.2f}]"
        )


def report_memory(folder: Path, size: int, block: int) -> None:
    peaks = []
    for side in (size // 2, size):
        inner = folder / f"memory{side}"
        make_scene(inner / "scene" / "scene.tif", side)
        peaks.append(child(sys.executable, "--peak", str(inner), "--size", str(side), "--block", str(block)))
    base, quarter, whole = peaks[0][0], peaks[0][1], peaks[1][1]
    print(
        f"peak memory: {quarter:.0f} MB at {size // 2}², {whole:.0f} MB at {size}² (program {base:.0f} MB): "
        f"{whole / quarter:.2f} × for four times the area, asked ≤ 1.2"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block", type=int, default=2048)
    parser.add_argument("--peers", metavar="PYTHON", help="a Python that has torchgeo")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--torchgeo", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.torchgeo:
        print(json.dumps(timed(lambda: torchgeo(told.torchgeo, told.size))))
        return
    if told.peak:
        import dataflows.large_area_inference  # noqa: F401, PLC0415

        base = peak_mb()
        ours(told.peak, told.size, told.block)
        print(json.dumps([base, peak_mb()]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if told.memory:
            report_memory(folder, told.size, told.block)
            return
        make_scene(folder / "scene" / "scene.tif", told.size)
        report_times(folder, told.size, told.block, told.rounds, told.peers)


if __name__ == "__main__":
    main()
