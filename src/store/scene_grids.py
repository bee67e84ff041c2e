"""Pixel grids of catalogued scenes, from the headers of their rasters."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from store.imagery.header import RasterHeader, read_header
from utils.errors import CRSError, NoImageryError
from utils.types import ChipGrid, Transform

_READERS = 8


def grids_of(scenes: pa.Table, bands: Sequence[str], gsd_m: float) -> dict[str, ChipGrid]:
    """Scene → pixel grid of that of its bands whose pixels are nearest to a size, in CRS units; pixels are not read.

    Args:
        scenes: catalogue, schema ``store.schemas.SCENES``, all with these bands.
        bands: bands that are to be read.
        gsd_m: pixel size asked for.

    Raises:
        RasterReadError: a raster is missing or corrupt.
        CRSError: a raster has lost its place since it was catalogued.
    """
    rows = scenes.select(["scene_id", "epsg", "assets"]).to_pylist()
    with ThreadPoolExecutor(max_workers=_READERS) as readers:
        grids = readers.map(lambda row: _grid(row["assets"], row["epsg"], bands, gsd_m), rows)
        return dict(zip((row["scene_id"] for row in rows), grids, strict=True))


def pixel_corner(scenes: pa.Table, scene_id: str, band: str) -> tuple[float, float]:
    """A pixel corner of one band's raster, in the CRS of the scene; ``(0, 0)`` for one that is turned.

    Args:
        scenes: catalogue, schema ``store.schemas.SCENES``.
        scene_id: a scene of it.
        band: one of its bands.

    Raises:
        NoImageryError: there is no such scene or band.
        RasterReadError: the raster cannot be opened.
        CRSError: it has lost its place since it was catalogued.
    """
    for row in scenes.filter(pc.equal(scenes["scene_id"], scene_id)).select(["assets", "epsg", "bands"]).to_pylist():
        if band in row["bands"]:
            _, b, x, d, _, y = _grid(row["assets"], row["epsg"], [band], 0.0).transform
            return (0.0, 0.0) if b or d else (x, y)
    raise NoImageryError(f"no scene {scene_id} with the band {band}")


def _grid(assets: str, epsg: int, bands: Sequence[str], gsd_m: float) -> ChipGrid:
    described = json.loads(assets)
    places = dict.fromkeys(described[band]["href"] for band in bands)
    grids = [_grid_of(read_header(place), epsg) for place in places]
    return min(grids, key=lambda grid: abs(grid.gsd_m - gsd_m))


def _grid_of(header: RasterHeader, epsg: int) -> ChipGrid:
    if header.gcps:
        raise CRSError(f"{header.path}: only ground control points place this raster; warp it first")
    a, b, c, d, e, f = header.transform
    place: Transform = (a, b, c, d, e, f)
    return ChipGrid(epsg=header.epsg or epsg, transform=place, height=header.height, width=header.width)
