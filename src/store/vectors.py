"""Vector files at the edge: GeoJSON features as properties and shapely geometry."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import shapely
from shapely.errors import ShapelyError
from shapely.geometry import mapping, shape

from utils.errors import ConfigError, RasterWriteError


def read_features(path: str | Path) -> list[tuple[dict[str, Any], shapely.Geometry]]:
    """Features of a GeoJSON file (RFC 7946: longitude and latitude, EPSG:4326) as (properties, geometry).

    Raises:
        ConfigError: the file is missing or is no GeoJSON feature collection.
    """
    try:
        collection = json.loads(Path(path).read_text())
        return [(dict(feature["properties"] or {}), shape(feature["geometry"])) for feature in collection["features"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ShapelyError) as error:
        raise ConfigError(f"{path} is no readable GeoJSON feature collection: {error!r}") from error


def write_features(path: str | Path, features: Sequence[tuple[Mapping[str, Any], shapely.Geometry]]) -> int:
    """Write (properties, geometry) as GeoJSON (RFC 7946), EPSG:4326; a file of that name is replaced in one step.

    Returns:
        bytes written.

    Raises:
        RasterWriteError: the disk is full, or the folder cannot be written.
    """
    rows = [
        {"type": "Feature", "properties": dict(properties), "geometry": mapping(geometry)}
        for properties, geometry in features
    ]
    target = Path(path)
    draft = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps({"type": "FeatureCollection", "features": rows}, default=str) + "\n")
        size = draft.stat().st_size
        draft.replace(target)
    except OSError as error:
        raise RasterWriteError(f"{target} cannot be written: {error}; free some space or set `out`") from error
    finally:
        with suppress(OSError):
            draft.unlink()
    return size
