"""A small scene on disk, models without weights, and a whole search over them, for tests of large-area inference."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.transform import from_origin

from dataflows.large_area_inference import infer_blocks
from store.imagery.local import LocalImagery
from utils.failures import Failure
from utils.search_blocks import PROBABILITY_NODATA, search_blocks
from utils.types import ChipGrid, ImagerySource

EPSG, WEST, NORTH, GSD_M = 32632, 500_000.0, 5_000_000.0, 0.3
RGB = ("red", "green", "blue")


def raster_grid(height: int, width: int, *, top: int = 0, left: int = 0) -> ChipGrid:
    """A search raster whose first pixel is row ``top`` and column ``left`` of the scene."""
    transform = (GSD_M, 0.0, WEST + GSD_M * left, 0.0, -GSD_M, NORTH - GSD_M * top)
    return ChipGrid(epsg=EPSG, transform=transform, height=height, width=width)


def texture(height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth patches with grain, 1 to 254, shape (3, rows, columns)."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(3, height // 16 + 2, width // 16 + 2))
    patches = np.kron(coarse, np.ones((1, 16, 16)))[:, :height, :width]
    return np.clip(110 + 30 * patches + rng.normal(0, 12, patches.shape), 1, 254).astype(np.uint8)


def scene(folder: Path, pixels: NDArray[Any], *, name: str = "a.tif", **options: Any) -> Path:
    """One deflate GeoTIFF of 128-pixel tiles; 0 in all bands is nodata."""
    folder.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff", "count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "nodata": 0,
        "dtype": pixels.dtype, "tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate",
        "crs": f"EPSG:{EPSG}", "transform": from_origin(WEST, NORTH, GSD_M, GSD_M), "interleave": "pixel",
    }  # fmt: skip
    with rasterio.open(folder / name, "w", **(profile | options)) as raster:
        raster.write(pixels)
    return folder / name


def imagery(folder: Path) -> LocalImagery:
    return LocalImagery(root=folder, acquired_at="2023-06-14", index=None)


def scene_ids(source: ImagerySource) -> list[str]:
    return list(source.scenes()["scene_id"].to_pylist())


class PlainModel:
    """A scene model made of a function of arrays; counts the windows it was given."""

    model_id, bands, kind, gsd_m = "plain", RGB, "vhr", GSD_M

    def __init__(self, function: Callable[[NDArray[np.generic]], NDArray[Any]], window_px: int = 64) -> None:
        self.function, self.window_px, self.windows = function, window_px, 0

    def probabilities(self, images: NDArray[np.generic]) -> NDArray[np.float32]:
        self.windows += len(images)
        return self.function(images)


def brightness(images: NDArray[np.generic]) -> NDArray[np.float32]:
    """A pointwise probability."""
    return images.astype(np.float32).mean(axis=1) / np.float32(255)


class TinyNet(torch.nn.Module):
    """Three random convolutions that see 15 pixels across, with zero padding: logits (n, 1, rows, columns)."""

    def __init__(self, seed: int = 0, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(channels, 8, 5, padding=2),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 7, padding=3),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 1, 5, padding=2),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # so that the random network is sure of some pixels and not of others
        return 60 * (self.layers(images / 64 - 2) + 0.04)


def convolved(images: NDArray[np.generic]) -> NDArray[np.float32]:
    """Probabilities of :class:`TinyNet`."""
    with torch.inference_mode():
        return torch.sigmoid(TinyNet()(torch.from_numpy(images.astype(np.float32))))[:, 0].numpy()


def searched(
    source: ImagerySource, model: Any, raster: ChipGrid, *, block_px: int, overlap_px: int, **settings: Any
) -> tuple[NDArray[np.uint8], list[Failure]]:
    """The whole raster of a search, and what failed."""
    found = np.full((raster.height, raster.width), PROBABILITY_NODATA, np.uint8)
    failures = []
    options = {"window_px": model.window_px, "batch_size": 3} | settings
    blocks: Iterable[Any] = search_blocks(raster, block_px)
    for block, result in infer_blocks(
        source, model, raster, blocks, scene_ids(source), overlap_px=overlap_px, **options
    ):
        if isinstance(result, Failure):
            failures.append(result)
            continue
        rows = slice(block.top_px, block.top_px + block.grid.height)
        found[rows, block.left_px : block.left_px + block.grid.width] = result.data
    return found, failures
