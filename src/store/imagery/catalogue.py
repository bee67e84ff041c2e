"""Scenes found in a folder: STAC items where there are some, else the rasters themselves."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import rasterio
from pyproj import Geod
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.warp import transform_geom
from shapely import Geometry, box, make_valid, segmentize, to_wkb
from shapely.geometry import mapping, shape

from store.fingerprint import digest, place_checksum
from store.schemas import SCENES
from utils.errors import CRSError, ImageryError, RasterReadError
from utils.types import S2_L2A_BANDS

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
_GEOD = Geod(ellps="WGS84")
_COLOURS = {ColorInterp.red: "red", ColorInterp.green: "green", ColorInterp.blue: "blue"}


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One band of one scene in one file."""

    href: str
    """Path or URI of the raster."""
    index: int
    """Band number in the file, from 1."""
    nodata: float | None = None
    """Nodata value stated by the metadata; None leaves it to the file."""
    scale: float | None = None
    """Reflectance per digital number; None for display values."""
    offset: float = 0.0
    """Reflectance at digital number 0."""


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
    """Outline in longitude and latitude (EPSG:4326)."""
    assets: Mapping[str, Asset]
    """Band name → where it is."""
    cloud_fraction: float | None = None
    """Cloud cover stated by the producer, 0 to 1."""
    described_in: str = ""
    """The STAC item or raster that describes it."""


def scene_in_item(item_path: Path) -> Scene:
    """The scene a STAC item describes; hrefs are resolved against the item's folder.

    Raises:
        CRSError: the item states no ``proj:epsg`` or ``proj:code``.
        ImageryError: the item lacks a datetime, a geometry or raster assets.
    """
    item = json.loads(item_path.read_text())
    properties = item["properties"]
    when = properties.get("datetime") or properties.get("start_datetime")
    if when is None or item.get("geometry") is None:
        raise ImageryError(f"{item_path}: the STAC item has no datetime or no geometry")
    assets = {
        band: asset for key, value in item["assets"].items() for band, asset in _bands_of(key, value, item_path.parent)
    }
    if not assets:
        raise ImageryError(f"{item_path}: the STAC item has no raster asset")
    cloud = properties.get("eo:cloud_cover")
    spacings = [
        float(band["spatial_resolution"])
        for asset in item["assets"].values()
        for band in asset.get("raster:bands", [])
        if "spatial_resolution" in band
    ]
    gsd = properties.get("gsd") or min(spacings, default=None)
    if gsd is None:
        raise ImageryError(f"{item_path}: the STAC item states no gsd")
    return Scene(
        scene_id=str(item["id"]),
        sensor=str(properties.get("platform", "unknown")),
        acquired_at=_utc(datetime.fromisoformat(when)),
        epsg=_item_epsg(properties, item_path),
        gsd_m=float(gsd),
        footprint=make_valid(shape(item["geometry"])),
        assets=assets,
        cloud_fraction=None if cloud is None else float(cloud) / 100,
        described_in=str(item_path),
    )


def _item_epsg(properties: Mapping[str, Any], item_path: Path) -> int:
    code = properties.get("proj:epsg") or str(properties.get("proj:code", "")).removeprefix("EPSG:")
    if not code:
        raise CRSError(f"{item_path}: the STAC item states neither proj:epsg nor proj:code")
    return int(code)


def _utc(when: datetime) -> datetime:
    """A time without a zone is UTC."""
    return when.replace(tzinfo=when.tzinfo or UTC).astimezone(UTC)


def _bands_of(key: str, asset: Mapping[str, Any], folder: Path) -> list[tuple[str, Asset]]:
    """Band names and places of one STAC asset; none for thumbnails and metadata files.

    Scale, offset and nodata stand per band in ``raster:bands`` (STAC 1.0), per band in ``bands``, or on the asset
    (STAC 1.1).
    """
    href = str(asset["href"])
    if not href.lower().endswith(RASTER_SUFFIXES):
        return []
    place = href if "://" in href else str((folder / href).resolve())
    described = asset.get("eo:bands") or asset.get("bands") or [{"name": key}]
    stored = asset.get("raster:bands") or [{}] * len(described)
    names = _item_band_names(key, described)
    found = []
    for number, (name, band, raster) in enumerate(zip(names, described, stored, strict=True), start=1):
        scale = _first("scale", raster, band, asset)
        found.append(
            (
                name,
                Asset(
                    href=place,
                    index=number,
                    nodata=_first("nodata", raster, band, asset),
                    scale=None if scale is None else float(scale),
                    offset=float(_first("offset", raster, band, asset) or 0.0),
                ),
            )
        )
    return found


def _first(name: str, *places: Mapping[str, Any]) -> Any:
    """The first stated value of a raster property, with or without the extension's prefix."""
    return next(
        (place[key] for place in places for key in (name, f"raster:{name}") if place.get(key) is not None), None
    )


def _item_band_names(key: str, described: Sequence[Mapping[str, Any]]) -> list[str]:
    """The asset's key for a single band; else Sentinel-2 names, common names where they are unique, or names."""
    if len(described) == 1:
        return [key]
    common = [band.get("common_name") or band.get("eo:common_name") for band in described]
    return [
        str(name if name in S2_L2A_BANDS or not shared or common.count(shared) > 1 else shared)
        for name, shared in zip((band.get("name") for band in described), common, strict=True)
    ]


def scene_in_raster(path: Path, *, acquired_at: datetime | None, sensor: str | None) -> Scene:
    """The scene a raster without a STAC item holds.

    Bands are named by colour interpretation, else by band description, else ``band1``, ``band2``, …; three or four
    undescribed bands are red, green, blue (and one more).

    Raises:
        RasterReadError: the file cannot be opened.
        CRSError: the raster has no CRS or no EPSG code for it.
        ImageryError: neither the raster (TIFFTAG_DATETIME) nor ``acquired_at`` says when it was taken.
    """
    try:
        with rasterio.open(path) as raster:
            if raster.crs is None or raster.crs.to_epsg() is None:
                raise CRSError(
                    f"{path}: the raster has no CRS with an EPSG code; assign one with `gdal_edit.py -a_srs`"
                )
            stamp = raster.tags().get("TIFFTAG_DATETIME")
            when = datetime.strptime(stamp, "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC) if stamp else acquired_at
            if when is None:
                raise ImageryError(f"{path}: no acquisition date in the file; set `acquired_at` for this folder")
            # straight edges of a large raster bend in longitude and latitude
            outline = segmentize(
                _outline(raster), max(raster.width * raster.res[0], raster.height * raster.res[1]) / 32
            )
            outline = transform_geom(raster.crs, "EPSG:4326", mapping(outline))
            assets = {name: Asset(href=str(path), index=i) for i, name in enumerate(_band_names(raster), start=1)}
            return Scene(
                scene_id=path.stem,
                sensor=sensor or "unknown",
                acquired_at=when,
                epsg=int(raster.crs.to_epsg()),
                gsd_m=spacing_m(raster),
                footprint=shape(outline),
                assets=assets,
                described_in=str(path),
            )
    except RasterioError as error:
        raise RasterReadError(f"{path}: cannot be read ({error}); replace or remove the file") from error


def _outline(raster: rasterio.DatasetReader) -> Geometry:
    if not raster.transform.is_rectilinear:
        corners = [(0, 0), (raster.width, 0), (raster.width, raster.height), (0, raster.height), (0, 0)]
        return shape({"type": "Polygon", "coordinates": [[raster.transform @ c for c in corners]]})
    return box(*raster.bounds)


def spacing_m(raster: rasterio.DatasetReader) -> float:
    """Ground size of a pixel along its row at the raster's centre, metres; on the ellipsoid for geographic CRSs."""
    a, _, _, d, *_ = raster.transform
    if raster.crs.is_projected:
        return float(math.hypot(a, d) * raster.crs.linear_units_factor[1])
    x, y = raster.transform @ (raster.width / 2, raster.height / 2)
    _, _, metres = _GEOD.inv(x, y, x + a, y + d)
    return float(metres)


def _band_names(raster: rasterio.DatasetReader) -> list[str]:
    named = [
        _COLOURS.get(colour) or description or f"band{number}"
        for number, (colour, description) in enumerate(
            zip(raster.colorinterp, raster.descriptions, strict=True), start=1
        )
    ]
    named = [name if named.count(name) == 1 else f"band{number}" for number, name in enumerate(named, start=1)]
    if raster.count in (3, 4) and not set(_COLOURS.values()) & set(named) and not any(raster.descriptions):
        named[:3] = ["red", "green", "blue"]
    return named


def scenes_table(scenes: list[Scene], *, source: str, kind: str) -> pa.Table:
    """The scenes as a table of schema ``store.schemas.SCENES``, newest first."""
    rows = [
        {
            "scene_key": digest([kind, scene.scene_id, files]),
            "scene_id": scene.scene_id,
            "source": source,
            "kind": kind,
            "sensor": scene.sensor,
            "acquired_at": scene.acquired_at,
            "epsg": scene.epsg,
            "gsd_m": scene.gsd_m,
            "bands": list(scene.assets),
            "assets": json.dumps({band: vars(asset) for band, asset in scene.assets.items()}, sort_keys=True),
            "nodata": next((a.nodata for a in scene.assets.values() if a.nodata is not None), None),
            "cloud_fraction": scene.cloud_fraction,
            "footprint": to_wkb(scene.footprint),
            "checksum": files,
        }
        for scene in scenes
        for files in (digest(sorted(place_checksum(href) for href in {a.href for a in scene.assets.values()})),)
    ]
    return pa.Table.from_pylist(rows, schema=SCENES)


def unique_ids(scenes: list[Scene], root: Path) -> list[Scene]:
    """The scenes, with their place under ``root`` for an id where two share one."""
    counts = Counter(scene.scene_id for scene in scenes)
    return [
        scene
        if counts[scene.scene_id] == 1
        else replace(scene, scene_id=Path(scene.described_in).resolve().relative_to(root.resolve()).as_posix())
        for scene in scenes
    ]
