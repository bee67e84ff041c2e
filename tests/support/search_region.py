"""The mini region as ground to search by a pointwise model: settings, expected pixels, command lines."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from numpy.typing import NDArray

from support import mini_region

MODEL = "support.tiny_networks:Blueness"
BLOCK_PX = 256
SIDE_PX = mini_region.CHIPS * 256


def settings_file(root: Path, *, region: mini_region.MiniRegion | None = None, **changes: Any) -> Path:
    """A region with its ``flow.yaml`` and ``discover.yaml``; ``changes`` replace settings of the latter."""
    if region is None:
        region = mini_region.make(root / "region")
    (root / "flow.yaml").write_text(yaml.safe_dump({"flow": "build", **region.settings}))
    told = {
        "flow": "discover",
        "build": "flow.yaml",
        "model": MODEL,
        "model_options": {"window_px": 128},
        "out": "out",
        "block_px": BLOCK_PX,
        "overlap_px": 16,
        "device": "cpu",
        **changes,
    }
    path = root / "discover.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


def expected_pixels(region: mini_region.MiniRegion) -> NDArray[np.bool_]:
    """Where the pointwise model finds photovoltaics, shape (rows, columns) of the region's VHR tiles side by side."""
    tiles = []
    for name in ("west", "east"):
        with rasterio.open(region.root / "vhr" / f"{name}.tif") as raster:
            tiles.append(raster.read().astype(np.int32))
    pixels = np.concatenate(tiles, axis=2)
    return np.asarray(pixels[2] - pixels[0] > 20)


def printed(text: str) -> dict[str, Any]:
    """What a command with ``--json`` printed."""
    return dict(json.loads(text.strip().splitlines()[-1]))
