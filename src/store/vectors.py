"""Vector files at the edge: GeoJSON features as properties and shapely geometry."""

import json
from pathlib import Path
from typing import Any

import shapely
from shapely.errors import ShapelyError
from shapely.geometry import shape

from utils.errors import ConfigError


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
