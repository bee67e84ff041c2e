"""Scenes described by STAC items."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shapely import make_valid
from shapely.geometry import shape

from store.fingerprint import text_of
from store.imagery.scene import Asset, Scene
from store.places import folder_of, is_remote, joined, name_of
from utils.errors import CRSError, ImageryError
from utils.footprints import cut_at_antimeridian
from utils.types import S2_L2A_BANDS

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
"""Suffixes of rasters; PNG and JPEG assets of an item are its pictures."""


def read_item(path: str | Path) -> dict[str, Any] | None:
    """The content of a JSON file that is a STAC item; None for any other file.

    Raises:
        RasterReadError: its server does not answer, or refuses.
    """
    try:
        content = json.loads(text_of(str(path) if isinstance(path, Path) else path))
    except (ValueError, OSError):
        # any other JSON file may lie beside imagery; it is no STAC item and names no raster
        return None
    if isinstance(content, dict) and content.get("type") == "Feature" and "stac_version" in content:
        return content
    return None


def named_files(item: Mapping[str, Any], folder: str) -> Iterator[str]:
    """All files an item names, pictures and metadata included; those of an item of this machine that are on it."""
    assets = item.get("assets")
    for asset in assets.values() if isinstance(assets, dict) else []:
        href = asset.get("href") if isinstance(asset, dict) else None
        if isinstance(href, str) and (is_remote(folder) or not is_remote(href)):
            yield joined(folder, href)


def scene_in_item(item_path: str | Path, item: Mapping[str, Any] | None = None) -> Scene:
    """The scene a STAC item describes; hrefs are resolved against the item's folder.

    Args:
        item_path: file of the item.
        item: its content, where it is read already.

    Raises:
        CRSError: the item states no ``proj:epsg`` or ``proj:code``.
        ImageryError: the item lacks a datetime, a geometry or raster assets.
    """
    item_path = str(item_path) if isinstance(item_path, Path) else item_path
    item = json.loads(text_of(item_path)) if item is None else item
    properties = item["properties"]
    when = properties.get("datetime") or properties.get("start_datetime")
    if when is None or item.get("geometry") is None:
        raise ImageryError(f"{item_path}: the STAC item has no datetime or no geometry")
    assets = {
        band: asset
        for key, value in item["assets"].items()
        for band, asset in _bands_of(key, value, folder_of(item_path))
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
        footprint=cut_at_antimeridian(make_valid(shape(item["geometry"]))),
        assets=assets,
        cloud_fraction=None if cloud is None else float(cloud) / 100,
        files=tuple(sorted({asset.href for asset in assets.values()})),
        described_in=item_path,
    )


def _item_epsg(properties: Mapping[str, Any], item_path: str) -> int:
    code = properties.get("proj:epsg") or str(properties.get("proj:code", "")).removeprefix("EPSG:")
    if not code:
        raise CRSError(f"{item_path}: the STAC item states neither proj:epsg nor proj:code")
    return int(code)


def _utc(when: datetime) -> datetime:
    """A time without a zone is UTC."""
    return when.replace(tzinfo=when.tzinfo or UTC).astimezone(UTC)


def _bands_of(key: str, asset: Mapping[str, Any], folder: str) -> list[tuple[str, Asset]]:
    """Band names and places of one STAC asset; none for thumbnails and metadata files.

    Scale, offset and nodata stand per band in ``raster:bands`` (STAC 1.0), per band in ``bands``, or on the asset
    (STAC 1.1).
    """
    href = str(asset["href"])
    if not name_of(href).lower().endswith(RASTER_SUFFIXES):
        return []
    place = joined(folder, href)
    described = asset.get("eo:bands") or asset.get("bands") or [{"name": key}]
    stored = asset.get("raster:bands") or [{}] * len(described)
    names = _item_band_names(key, described)
    found = []
    for number, (name, band, raster) in enumerate(zip(names, described, stored, strict=True), start=1):
        scale, nodata = (_first(key, raster, band, asset) for key in ("scale", "nodata"))
        found.append(
            (
                name,
                Asset(
                    href=place,
                    index=number,
                    nodata=None if nodata is None else float(nodata),
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
