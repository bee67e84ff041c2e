"""Where the pixels of a scene's raster lie, so that windows can be read without resampling."""

import json

import pyarrow.compute as pc

from store.imagery.handles import read_once
from utils.errors import NoImageryError
from utils.types import ImagerySource


def pixel_corner(source: ImagerySource, scene_id: str, band: str) -> tuple[float, float]:
    """A pixel corner of one band's raster, in the CRS of the scene; ``(0, 0)`` for one that is turned.

    Args:
        source: where the scene is.
        scene_id: a scene of ``source.scenes()``.
        band: one of its bands.

    Raises:
        NoImageryError: the source has no such scene or band.
        RasterReadError: the raster cannot be opened.
    """
    scenes = source.scenes()
    rows = scenes.filter(pc.equal(scenes["scene_id"], scene_id)).select(["assets"]).to_pylist()
    assets = json.loads(rows[0]["assets"]) if rows else {}
    if band not in assets:
        raise NoImageryError(f"no scene {scene_id} with the band {band}")
    transform = read_once(assets[band]["href"], lambda raster: raster.transform)
    if transform is None or transform.b or transform.d:
        return 0.0, 0.0
    return float(transform.c), float(transform.f)
