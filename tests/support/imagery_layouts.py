"""One pair of overlapping scenes laid out in every way an imagery source can be given them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.shutil import copy
from shapely.geometry import mapping

from utils.geo import reproject
from utils.types import ChipGrid

EPSG = 32632
X, Y, GSD_M, SIZE = 439_000.0, 5_205_000.0, 0.3, 200
DAYS = {"a_top": "2023-06-14", "b_below": "2021-06-14"}
"""Scene id → day, the one on top first."""
RGB = ("red", "green", "blue")


@dataclass(frozen=True)
class Layout:
    """A folder and how to read it."""

    source: str
    options: dict[str, Any]
    rasters: dict[str, Path]
    """Scene id → raster an oracle can open, the one on top first."""
    epsg: int = EPSG
    extra: dict[str, Any] = field(default_factory=dict)


def place(name: str) -> Affine:
    """Both scenes are 60 m wide; the lower one lies 30 m east and 20 m south."""
    top = Affine(GSD_M, 0, X, 0, -GSD_M, Y)
    return top if name == "a_top" else top @ Affine.translation(100, 200 / 3)


def pixels(name: str) -> NDArray[np.uint8]:
    """Noise with a rim of nothing inside the upper scene's right edge."""
    data = np.random.default_rng(len(name)).integers(1, 256, (3, SIZE, SIZE)).astype(np.uint8)
    if name == "a_top":
        data[:, :, 180:] = 0
    return data


def chip(dx_m: float, dy_m: float, size: int = 96, *, gsd_m: float = GSD_M) -> ChipGrid:
    """A chip whose upper-left corner lies ``dx_m`` east and ``dy_m`` south of the upper scene's."""
    return ChipGrid(epsg=EPSG, transform=(gsd_m, 0.0, X + dx_m, 0.0, -gsd_m, Y - dy_m), height=size, width=size)


def write_tif(path: Path, name: str, *, day: str | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": 3, "height": SIZE, "width": SIZE, "dtype": "uint8", "nodata": 0} | options
    with rasterio.open(path, "w", crs=f"EPSG:{EPSG}", transform=place(name), **profile) as raster:
        raster.write(pixels(name))
        if day:
            raster.update_tags(TIFFTAG_DATETIME=f"{day.replace('-', ':')} 10:00:00")
    return path


def geotiffs(root: Path, **options: Any) -> Layout:
    """A plain folder of dated GeoTIFFs."""
    made = {name: write_tif(root / f"{name}.tif", name, day=day, **options) for name, day in DAYS.items()}
    return Layout("local", {"root": root}, made)


def cogs(root: Path) -> Layout:
    """Cloud-optimised GeoTIFFs with overviews, below folders."""
    made = {}
    for name, day in DAYS.items():
        plain = write_tif(root.parent / "plain" / f"{name}.tif", name, day=day)
        made[name] = root / "tiles" / f"{name}.tif"
        made[name].parent.mkdir(parents=True, exist_ok=True)
        copy(plain, made[name], driver="COG", BLOCKSIZE=128)
    return Layout("local", {"root": root}, made)


def stac_items(root: Path) -> Layout:
    """One item per scene with a stack, and a thumbnail that is none of the scene's pixels."""
    made = {}
    for name, day in DAYS.items():
        folder = root / name
        made[name] = write_tif(folder / "stack.tif", name)
        write_world_png(folder / "thumbnail.png", name)
        side = GSD_M * SIZE
        corner = place(name)
        outline = shapely.box(corner.c, corner.f - side, corner.c + side, corner.f)
        bands = [{"name": f"B{k}", "common_name": colour} for k, colour in enumerate(RGB)]
        item = {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": name,
            "geometry": mapping(reproject(shapely.segmentize(outline, 5), EPSG, 4326)),
            "properties": {"datetime": f"{day}T10:00:00Z", "proj:epsg": EPSG, "gsd": GSD_M, "platform": "plane"},
            "assets": {
                "visual": {"href": "./stack.tif", "eo:bands": bands},
                "thumbnail": {"href": "./thumbnail.png", "roles": ["thumbnail"]},
            },
            "links": [],
        }
        (folder / f"{name}.json").write_text(json.dumps(item))
    return Layout("local", {"root": root}, made)


def write_world_png(path: Path, name: str, suffix: str = ".pgw") -> Path:
    """A PNG placed by a world file alone (six lines: a, d, b, e, and the centre of the upper-left pixel)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver="PNG", count=3, height=SIZE, width=SIZE, dtype="uint8") as raster:
        raster.write(pixels(name))
    path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)
    t = place(name)
    x, y = t @ (0.5, 0.5)
    path.with_suffix(suffix).write_text("\n".join(repr(float(value)) for value in (t.a, t.d, t.b, t.e, x, y)))
    return path


def world_pngs(root: Path) -> Layout:
    """PNGs with world files; CRS, nodata and date from the source's options."""
    made = {name: write_world_png(root / f"{name}.png", name) for name in DAYS}
    options = {"root": root, "crs": f"EPSG:{EPSG}", "nodata": 0, "acquired_at": "2023-06-14"}
    return Layout("local", options, made, extra={"src_nodata": 0, "src_crs": f"EPSG:{EPSG}"})


def vrts(root: Path) -> Layout:
    """VRTs beside the parts they are made of, which are left out."""
    made = {}
    for name in DAYS:
        part = write_tif(root / "parts" / f"{name}.tif", name)
        made[name] = root / f"{name}.vrt"
        copy(part, made[name], driver="VRT")
    return Layout("local", {"root": root, "acquired_at": "2023-06-14", "exclude": ["parts/*"]}, made)


def jp2s(root: Path) -> Layout:
    """Lossless JPEG 2000; nodata from the source's options, because the format has none."""
    made = {}
    for name in DAYS:
        made[name] = root / f"{name}.jp2"
        root.mkdir(parents=True, exist_ok=True)
        plain = write_tif(root.parent / "plain" / f"{name}.tif", name, nodata=None)
        copy(plain, made[name], driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES", YCBCR420="NO")
    options = {"root": root, "nodata": 0, "acquired_at": "2023-06-14"}
    return Layout("local", options, made, extra={"src_nodata": 0})


LAYOUTS: dict[str, Callable[[Path], Layout]] = {
    "local: GeoTIFF": geotiffs,
    "local: COG": cogs,
    "local: STAC items": stac_items,
    "local: PNG and world file": world_pngs,
    "local: VRT": vrts,
    "local: JPEG 2000": jp2s,
}
"""Every registered source in every layout it reads; a new source adds its own line."""
