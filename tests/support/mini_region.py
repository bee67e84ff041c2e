"""A region of a few chips, made in a second: two VHR tiles, one 12-band scene, a DuckLake catalogue of five labels."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from rasterio.transform import from_origin

from store import ducklake
from utils.geo import ChipLattice, reproject
from utils.types import S2_L2A_BANDS

EPSG = 32632
LATTICE = ChipLattice(epsg=EPSG, gsd_m=0.3, height=256, width=256)
IX, IY = (int(axis[0]) for axis in LATTICE.index_of(560_000.0, 5_300_000.0))
LEFT, BOTTOM = IX * LATTICE.width_m, IY * LATTICE.height_m
CHIPS = 4
SIDE_M = CHIPS * LATTICE.width_m
PV = [(20, 30, 12, 8), (110, 40, 20, 10), (190, 140, 15, 9), (60, 230, 18, 12), (250, 250, 14, 10)]
"""Arrays: offset east and north of the region's corner, width and height, metres."""


@dataclass(frozen=True)
class MiniRegion:
    """Where the region's files are."""

    root: Path
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def vhr_tiles(self) -> list[Path]:
        return sorted((self.root / "vhr").glob("*.tif"))


def change(region: MiniRegion, *statements: str) -> tuple[int, int]:
    """Run SQL on the region's lake; returns the newest snapshot before and after."""
    data = region.root / "labels.files"
    with ducklake.connect(region.settings["catalog"], data_path=data, create=True) as connection:
        before = ducklake.latest_snapshot(connection)
        for statement in statements:
            connection.execute(statement)
        return before, ducklake.latest_snapshot(connection)


def pv_boxes() -> list[shapely.Polygon]:
    """The arrays as boxes in UTM metres."""
    return [shapely.box(LEFT + x, BOTTOM + y, LEFT + x + w, BOTTOM + y + h) for x, y, w, h in PV]


def make(root: Path, *, store: Path | None = None, **changes: Any) -> MiniRegion:
    """Write the region under ``root``; ``changes`` replace settings of the build flow."""
    (root / "vhr").mkdir(parents=True)
    (root / "msi").mkdir()
    _write_vhr(root / "vhr")
    _write_msi(root / "msi")
    write_labels(root / "labels.ducklake", [("box", reproject(box, EPSG, 4326)) for box in pv_boxes()])
    settings = {
        "catalog": str(root / "labels.ducklake"),
        "labels": [{"table": "pv", "id": "id", "geometry": "geometry"}],
        "vhr": {"source": "local", "root": str(root / "vhr"), "acquired_at": "2023-06-14"},
        "msi": {"source": "local", "root": str(root / "msi")},
        "store": str(store or root / "lancedb"),
        "partition_level": 16,
        "split_level": 17,
        "guard_m": 0.0,
        "commit_every": 2,
        **changes,
    }
    return MiniRegion(root, settings)


def write_labels(catalog: Path, labels: list[tuple[str, Any]], *, column: str = "GEOMETRY") -> None:
    """A catalogue with one table ``pv`` (id, geometry); geometries are shapely, None, or WKT text."""
    connection = ducklake.connect(catalog, data_path=catalog.with_suffix(".files"), create=True)
    connection.execute(f"CREATE TABLE lake.pv (id VARCHAR, geometry {column})")
    for number, (_, geometry) in enumerate(labels):
        text = geometry.wkt if isinstance(geometry, shapely.Geometry) else geometry
        value = "ST_GeomFromText(?)" if column == "GEOMETRY" else "?"
        connection.execute(f"INSERT INTO lake.pv VALUES (?, {value})", [str(number), text])
    connection.close()


def write_raster(path: Path, data: np.ndarray, left: float, top: float, gsd_m: float, **options: Any) -> Path:
    """A GeoTIFF of ``data`` (bands, rows, columns) on the region's UTM grid."""
    bands, rows, columns = data.shape
    profile = {
        "driver": "GTiff",
        "count": bands,
        "height": rows,
        "width": columns,
        "dtype": data.dtype,
        "crs": f"EPSG:{EPSG}",
        "transform": from_origin(left, top, gsd_m, gsd_m),
        **options,
    }
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(data)
    return path


def _write_vhr(folder: Path) -> None:
    rng = np.random.default_rng(1)
    side = CHIPS * 256
    image = rng.normal((95, 120, 70), 8, (side, side, 3)).clip(1, 255).astype(np.uint8)
    for x, y, w, h in PV:
        rows = slice(side - round((y + h) / 0.3), side - round(y / 0.3))
        columns = slice(round(x / 0.3), round((x + w) / 0.3))
        patch = image[rows, columns]
        image[rows, columns] = rng.normal((35, 45, 80), 4, patch.shape).clip(1, 255)
    bands = np.moveaxis(image, -1, 0)
    half = side // 2
    top = BOTTOM + SIDE_M
    write_raster(folder / "west.tif", np.ascontiguousarray(bands[:, :, :half]), LEFT, top, 0.3, nodata=0)
    write_raster(folder / "east.tif", np.ascontiguousarray(bands[:, :, half:]), LEFT + half * 0.3, top, 0.3, nodata=0)


def _write_msi(folder: Path) -> None:
    rng = np.random.default_rng(2)
    margin, left = 500.0, LEFT - LEFT % 10
    size = int((SIDE_M + 2 * margin) // 10)
    top = BOTTOM - BOTTOM % 10 + SIDE_M + margin
    assets = {}
    for number, band in enumerate(S2_L2A_BANDS):
        data = (rng.integers(1500, 1600, (1, size, size)) + 100 * number + 1000).astype(np.uint16)
        write_raster(folder / f"{band}.tif", data, left - margin, top, 10.0, nodata=0)
        stored = {"nodata": 0, "scale": 1e-4, "offset": -0.1, "spatial_resolution": 10}
        assets[band] = {"href": f"./{band}.tif", "eo:bands": [{"name": band}], "raster:bands": [stored]}
    write_raster(folder / "SCL.tif", np.full((1, size, size), 4, np.uint8), left - margin, top, 10.0, nodata=0)
    assets["SCL"] = {"href": "./SCL.tif", "raster:bands": [{"nodata": 0}]}
    outline = shapely.box(left - margin, top - size * 10, left - margin + size * 10, top)
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "S2_MINI",
        "geometry": shapely.geometry.mapping(reproject(outline, EPSG, 4326)),
        "properties": {"datetime": "2023-06-10T10:30:00Z", "platform": "sentinel-2b", "proj:epsg": EPSG, "gsd": 10},
        "assets": assets,
        "links": [],
    }
    (folder / "S2_MINI.json").write_text(json.dumps(item))
