"""A region of any number of chips: one VHR file, one 12-band scene, a lake of boxes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.transform import from_origin

from store import ducklake
from utils.geo import ChipLattice, reproject
from utils.types import S2_L2A_BANDS

EPSG = 32632
ARRAY_M = (18.0, 9.0)
"""Width and height of an array, metres."""


def make(
    root: Path,
    side: int,
    *,
    chip_px: int = 256,
    share: float = 0.4,
    pixels: bool = True,
    msi: bool = True,
    **changes: Any,
) -> dict[str, Any]:
    """Write the region under ``root`` and return settings of the build flow.

    Args:
        root: folder, made here.
        side: chips along each side.
        chip_px: rows and columns of a chip.
        share: share of chips with an array.
        pixels: whether the VHR file holds texture and arrays; without, it is a sparse file of zeros.
        msi: whether chips are multispectral, too.
        changes: settings that replace those returned.
    """
    lattice = ChipLattice(epsg=EPSG, gsd_m=0.3, height=chip_px, width=chip_px)
    ix, iy = (int(axis[0]) for axis in lattice.index_of(560_000.0, 5_300_000.0))
    left, bottom, side_m = ix * lattice.width_m, iy * lattice.height_m, side * lattice.width_m
    random = np.random.default_rng(0)
    chosen = np.argwhere(random.random((side, side)) < share)
    corners = chosen * lattice.width_m + random.uniform(10, lattice.width_m - 30, (len(chosen), 2))
    (root / "vhr").mkdir(parents=True)
    _vhr(root / "vhr" / "vhr.tif", side * chip_px, left, bottom + side_m, corners if pixels else None)
    if msi:
        (root / "msi").mkdir()
        _msi(root / "msi", left, bottom, side_m)
    boxes = [shapely.box(left + x, bottom + y, left + x + ARRAY_M[0], bottom + y + ARRAY_M[1]) for x, y in corners]
    _labels(root / "labels.ducklake", boxes)
    return {
        "catalog": str(root / "labels.ducklake"),
        "labels": [{"table": "pv", "id": "id", "geometry": "geometry"}],
        "vhr": {"source": "local", "root": str(root / "vhr"), "acquired_at": "2023-06-14"},
        "msi": {"source": "local", "root": str(root / "msi")} if msi else None,
        "store": str(root / "lancedb"),
        "chip_px": chip_px,
        "guard_m": 0.0,
        "split_level": 17,
        **changes,
    }


def _vhr(path: Path, size_px: int, left: float, top: float, corners: NDArray[np.float64] | None) -> None:
    profile: dict[str, Any] = {
        "driver": "GTiff", "count": 3, "height": size_px, "width": size_px, "dtype": "uint8", "tiled": True,
        "blockxsize": 256, "blockysize": 256, "crs": f"EPSG:{EPSG}", "transform": from_origin(left, top, 0.3, 0.3),
    }  # fmt: skip
    if corners is None:
        with rasterio.open(path, "w", sparse_ok=True, **profile):
            return
    random = np.random.default_rng(1)
    patch = random.normal((95, 120, 70), 8, (1024, 1024, 3)).clip(1, 255).astype(np.uint8).transpose(2, 0, 1)
    times = -(-size_px // 1024)
    image = np.tile(patch, (1, times, times))[:, :size_px, :size_px]
    width, height = (round(axis / 0.3) for axis in ARRAY_M)
    for x, y in corners:
        row, column = size_px - round(y / 0.3) - height, round(x / 0.3)
        image[:, row : row + height, column : column + width] = np.array([35, 45, 80], np.uint8)[:, None, None]
    with rasterio.open(path, "w", nodata=0, **profile) as raster:
        raster.write(image)


def _msi(folder: Path, left: float, bottom: float, side_m: float) -> None:
    random = np.random.default_rng(2)
    margin, left, bottom = 700.0, left - left % 10, bottom - bottom % 10
    size = int((side_m + 2 * margin) // 10)
    top = bottom + side_m + margin
    profile: dict[str, Any] = {
        "driver": "GTiff", "count": 1, "height": size, "width": size, "nodata": 0, "crs": f"EPSG:{EPSG}",
        "transform": from_origin(left - margin, top - top % 10, 10.0, 10.0),
    }  # fmt: skip
    assets: dict[str, Any] = {}
    for number, band in enumerate((*S2_L2A_BANDS, "SCL")):
        is_band = band != "SCL"
        data = random.integers(2500, 2600, (1, size, size)) + 100 * number if is_band else np.full((1, size, size), 4)
        kind = "uint16" if is_band else "uint8"
        with rasterio.open(folder / f"{band}.tif", "w", dtype=kind, **profile) as raster:
            raster.write(data.astype(kind))
        stored = {"nodata": 0, "scale": 1e-4, "offset": -0.1, "spatial_resolution": 10} if is_band else {"nodata": 0}
        assets[band] = {"href": f"./{band}.tif", "raster:bands": [stored]}
        if is_band:
            assets[band]["eo:bands"] = [{"name": band}]
    x, y = left - margin, top - top % 10
    outline = shapely.box(x, y - size * 10, x + size * 10, y)
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "S2_BENCH", "assets": assets, "links": [],
        "geometry": shapely.geometry.mapping(reproject(outline, EPSG, 4326)),
        "properties": {"datetime": "2023-06-10T10:30:00Z", "platform": "sentinel-2b", "proj:epsg": EPSG, "gsd": 10},
    }  # fmt: skip
    (folder / "S2_BENCH.json").write_text(json.dumps(item))


def _labels(catalog: Path, boxes: list[shapely.Polygon]) -> None:
    with ducklake.connect(catalog, data_path=catalog.with_suffix(".files"), create=True) as connection:
        connection.execute("CREATE TABLE lake.pv (id VARCHAR, geometry GEOMETRY)")
        texts = [reproject(box, EPSG, 4326).wkt for box in boxes]
        connection.execute(
            "INSERT INTO lake.pv SELECT i::VARCHAR, ST_GeomFromText(text) FROM "
            "(SELECT unnest(?) AS text, generate_subscripts(?, 1) AS i)",
            [texts, texts],
        )
