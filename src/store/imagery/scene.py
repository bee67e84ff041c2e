"""Scenes and their bands: one acquisition, where its pixels are and how they are read."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pyarrow as pa
from shapely import Geometry, from_wkb, to_wkb

from store.fingerprint import digest
from store.places import below
from store.schemas import SCENES


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One band of one scene in one file, and how its pixels are read."""

    href: str
    """Path or URI of the raster."""
    index: int
    """Band number in the file, from 1."""
    nodata: float | None = None
    """Nodata value stated by the metadata; None leaves it to the file."""
    nodata_else: float | None = None
    """Nodata value where neither the metadata nor the file states one."""
    scale: float | None = None
    """Reflectance per digital number; None for display values."""
    offset: float = 0.0
    """Reflectance at digital number 0."""
    resampling: tuple[str, str] = ("bilinear", "average")
    """Rasterio's name of the resampling, and of the one used where the source is more than twice finer."""
    stretch: tuple[float, float, float] | None = None
    """``(low, high, gamma)`` of :func:`utils.radiometry.stretched` in source units; None for uint8 display values."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One acquisition: its bands, footprint and date."""

    scene_id: str
    """Id, unique within the source."""
    sensor: str
    """Platform or camera."""
    acquired_at: datetime
    """Acquisition time, timezone-aware."""
    epsg: int
    """EPSG code of the rasters."""
    gsd_m: float
    """Ground sample distance of the finest band."""
    footprint: Geometry
    """Outline in longitude and latitude (EPSG:4326), longitudes in -180 to 180."""
    assets: Mapping[str, Asset]
    """Band name → where it is."""
    files: tuple[str, ...] = ()
    """Every file its pixels depend on: rasters, their sidecars, the parts of a VRT; places of remote ones."""
    cloud_fraction: float | None = None
    """Cloud cover stated by the producer, 0 to 1."""
    described_in: str = ""
    """The STAC item or raster that describes it."""


def scene_as_json(scene: Scene) -> dict[str, Any]:
    """A scene as plain values; :func:`scene_from_json` reads it back."""
    values = vars(scene) | {
        "acquired_at": scene.acquired_at.isoformat(),
        "footprint": to_wkb(scene.footprint, hex=True),
        "assets": {band: vars(asset) for band, asset in scene.assets.items()},
    }
    return dict(values)


def scene_from_json(values: Mapping[str, Any]) -> Scene:
    """The scene that :func:`scene_as_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: something else wrote it.
    """
    assets = {
        band: Asset(
            **asset
            | {
                "resampling": tuple(asset["resampling"]),
                "stretch": tuple(asset["stretch"]) if asset["stretch"] else None,
            }
        )
        for band, asset in values["assets"].items()
    }
    return Scene(
        **dict(values)
        | {
            "acquired_at": datetime.fromisoformat(values["acquired_at"]),
            "footprint": from_wkb(values["footprint"]),
            "assets": assets,
            "files": tuple(values["files"]),
        }
    )


def scenes_table(scenes: Sequence[Scene], *, source: str, kind: str, checksum_of: Callable[[str], str]) -> pa.Table:
    """The scenes in the order given, schema ``store.schemas.SCENES``.

    The checksum covers the scene's files and how they are read (nodata, scale, offset, resampling, stretch, CRS), so
    that rows made from it are made again when either changes.

    Args:
        scenes: scenes.
        source: registry name of the source.
        kind: ``vhr`` or ``msi``.
        checksum_of: fingerprint of a file or remote place.
    """
    rows = []
    for scene in scenes:
        assets = {band: vars(asset) for band, asset in scene.assets.items()}
        reading = {band: {k: v for k, v in asset.items() if k != "href"} for band, asset in assets.items()}
        checksum = digest([sorted(checksum_of(file) for file in scene.files), scene.epsg, reading])
        rows.append(
            {
                "scene_key": digest([kind, scene.scene_id, checksum]),
                "scene_id": scene.scene_id,
                "source": source,
                "kind": kind,
                "sensor": scene.sensor,
                "acquired_at": scene.acquired_at,
                "epsg": scene.epsg,
                "gsd_m": scene.gsd_m,
                "bands": list(scene.assets),
                "assets": json.dumps(assets, sort_keys=True),
                "nodata": next((a.nodata for a in scene.assets.values() if a.nodata is not None), None),
                "cloud_fraction": scene.cloud_fraction,
                "footprint": to_wkb(scene.footprint),
                "checksum": checksum,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCENES)


def unique_ids(scenes: Sequence[Scene], root: str) -> list[Scene]:
    """The scenes, with their place under ``root`` for an id where two share one."""
    counts = Counter(scene.scene_id for scene in scenes)
    return [
        scene if counts[scene.scene_id] == 1 else replace(scene, scene_id=below(scene.described_in, root))
        for scene in scenes
    ]
