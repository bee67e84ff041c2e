"""Many small tiles in one folder: catalogue with and without an index, the first chip, reading beside plain rasterio.

Protocol: a square of deflated GeoTIFF tiles (64 × 64 pixels of 0.3 m, noise under a fixed seed) is written once. Each
repeat then takes, one after the other in one process: a source without index (every header is read), a source whose
index is lost (headers are read and the index is written), a source whose index is there, and a listing of the folder
with ``os.walk`` and ``stat`` as the floor. The page cache is warm throughout, because the tiles were just written.
Reading compares ``LocalImagery.read`` of one tile's chip, and of a chip over many tiles, with WarpedVRTs written by
hand over the same files kept open, in alternation.

    python benchmarks/imagery_index.py [--tiles 10000] [--repeats 3] [--chips 60] [--cpu]
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from store.imagery.local import LocalImagery
from utils.types import RGB_BANDS, ChipGrid

EPSG, LEFT, TOP, GSD_M, SIDE = 32632, 439_000.0, 5_205_000.0, 0.3, 64


def write_tiles(root: Path, count: int) -> int:
    """Write the square of tiles; how many stand in a row."""
    row_length = round(count**0.5)
    data = np.random.default_rng(7).integers(1, 256, (3, SIDE, SIDE)).astype(np.uint8)
    profile = {"driver": "GTiff", "count": 3, "height": SIDE, "width": SIDE, "dtype": "uint8", "compress": "deflate"}
    for number in range(count):
        row, column = divmod(number, row_length)
        place = Affine(GSD_M, 0, LEFT + column * SIDE * GSD_M, 0, -GSD_M, TOP - row * SIDE * GSD_M)
        folder = root / f"row{row:03}"
        folder.mkdir(exist_ok=True)
        with rasterio.open(folder / f"t{number:05}.tif", "w", crs=f"EPSG:{EPSG}", transform=place, **profile) as raster:
            raster.write(data)
    hour_ago = time.time() - 3600
    for path in root.rglob("*.tif"):
        os.utime(path, (hour_ago, hour_ago))
    return row_length


@contextmanager
def counted() -> Iterator[list[str]]:
    """Paths given to ``rasterio.open`` meanwhile."""
    seen: list[str] = []
    real = rasterio.open

    def counting(path: object, *arguments: object, **options: object) -> object:
        seen.append(str(path))
        return real(path, *arguments, **options)

    rasterio.open = counting
    try:
        yield seen
    finally:
        rasterio.open = real


_CLOCK = [time.perf_counter]


def seconds(work: Callable[[], object]) -> float:
    start = _CLOCK[0]()
    work()
    return _CLOCK[0]() - start


def listed(root: Path) -> int:
    return sum(Path(folder, name).stat().st_size for folder, _, names in os.walk(root) for name in names)


def catalogues(root: Path, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as cache:
        place = Path(cache) / "index.parquet"
        times: dict[str, list[float]] = {}
        opened: dict[str, int] = {}
        for _ in range(repeats):
            place.unlink(missing_ok=True)
            for name, index in (("no index", None), ("index lost", place), ("index there", place)):
                with counted() as seen:
                    source = LocalImagery(root=root, acquired_at="2023-06-14", index=index)
                    times.setdefault(name, []).append(seconds(source.scenes))
                opened[name] = len(seen)
                with counted() as seen:
                    grid = chip(0, 0)
                    times.setdefault(f"first chip, {name}", []).append(
                        seconds(lambda s=source, g=grid: s.read(g, RGB_BANDS))
                    )
                opened[f"first chip, {name}"] = len(seen)
                source.close()
            times.setdefault("os.walk and stat", []).append(seconds(lambda: listed(root)))
        for name, found in times.items():
            print(f"  {name:26} {spread(found, 's')}; rasters opened: {opened.get(name, 0)}")
        print(f"  index file: {place.stat().st_size / 1e6:.2f} MB")
        ratio("no index / index there", times["no index"], times["index there"])
        ratio("index lost / no index", times["index lost"], times["no index"])
        ratio("index there / os.walk and stat", times["index there"], times["os.walk and stat"])


def chip(column: float, row: float, size: int = SIDE) -> ChipGrid:
    """A chip whose corner lies ``column`` and ``row`` tiles from the first one's, a third of a pixel off."""
    x, y = LEFT + (column * SIDE + 1 / 3) * GSD_M, TOP - (row * SIDE + 1 / 3) * GSD_M
    return ChipGrid(epsg=EPSG, transform=(GSD_M, 0.0, x, 0.0, -GSD_M, y), height=size, width=size)


def by_hand(rasters: list[rasterio.DatasetReader], grid: ChipGrid) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A mosaic of WarpedVRTs, the first raster on top."""
    data = np.zeros((3, grid.height, grid.width), np.uint8)
    valid = np.zeros((grid.height, grid.width), bool)
    for raster in rasters:
        with WarpedVRT(
            raster,
            crs=f"EPSG:{EPSG}",
            transform=grid.affine,
            width=grid.width,
            height=grid.height,
            resampling=Resampling.bilinear,
            add_alpha=True,
        ) as warped:
            planes = warped.read()
        fresh = (planes[3] > 0) & ~valid
        data[:, fresh] = planes[:3, fresh]
        valid |= fresh
    return data, valid


def reading(root: Path, row_length: int, chips: int) -> None:
    source = LocalImagery(root=root, acquired_at="2023-06-14", index=None)
    source.scenes()
    rng = np.random.default_rng(3)
    for name, size in (("chips of one tile's size", SIDE), ("chips over many tiles", 4 * SIDE)):
        ours, plain, compared, different = [], [], 0, 0
        for _ in range(chips):
            grid = chip(*rng.uniform(0, row_length - 6, 2), size=size)
            scenes = source._touching(grid, None)  # noqa: SLF001 (the same files, chosen once)
            rasters = [source._rasters[next(iter(s.assets.values())).href] for s in scenes]  # noqa: SLF001
            by_hand(rasters, grid)
            plain.append(seconds(lambda r=rasters, g=grid: by_hand(r, g)))
            ours.append(seconds(lambda g=grid: source.read(g, RGB_BANDS)))
            read, (data, valid) = source.read(grid, RGB_BANDS), by_hand(rasters, grid)
            compared += valid.size
            different += int(((read.data != data).any(axis=0) | (read.valid != valid)).sum())
        print(f"  {name}: {compared} pixels compared, {different} different")
        print(f"    LocalImagery {spread(ours, 's')}; WarpedVRTs by hand {spread(plain, 's')}")
        ratio("LocalImagery / by hand", ours, plain)
    source.close()


def spread(values: list[float], unit: str) -> str:
    return f"min {min(values):.4f} median {statistics.median(values):.4f} max {max(values):.4f} {unit}"


def ratio(name: str, over: list[float], under: list[float]) -> None:
    print(f"  {name}: {spread([a / b for a, b in zip(over, under, strict=True)], '×')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--chips", type=int, default=60)
    parser.add_argument("--cpu", action="store_true", help="processor time instead of wall time, for a busy machine")
    arguments = parser.parse_args()
    if arguments.cpu:
        _CLOCK[0] = time.process_time
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        row_length = write_tiles(root, arguments.tiles)
        clock = "processor" if arguments.cpu else "wall"
        print(
            f"{arguments.tiles} tiles of {SIDE} × {SIDE} pixels, {arguments.repeats} repeats, {clock} time", flush=True
        )
        catalogues(root, arguments.repeats)
        print(f"reading, {arguments.chips} chips each")
        reading(root, row_length, arguments.chips)


if __name__ == "__main__":
    main()
