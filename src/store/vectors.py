"""Vector files at the edge: GeoJSON features as properties and shapely geometry."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.errors import ShapelyError
from shapely.geometry import mapping, shape

from store._durable_files import whole_file
from utils.errors import ConfigError, RasterWriteError


def read_features(path: str | Path) -> list[tuple[dict[str, Any], shapely.Geometry]]:
    """Features of a GeoJSON file (RFC 7946: longitude and latitude, EPSG:4326) as (properties, geometry).

    Outlines that cross themselves, as digitised ones sometimes do, are made valid by their structure.

    Raises:
        ConfigError: the file is missing, is no GeoJSON feature collection, or its coordinates are no degrees.
    """
    try:
        collection = json.loads(Path(path).read_text())
        found = [(dict(feature["properties"] or {}), shape(feature["geometry"])) for feature in collection["features"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ShapelyError) as error:
        raise ConfigError(f"{path} is no readable GeoJSON feature collection: {error!r}") from error
    bounds = shapely.total_bounds(np.array([geometry for _, geometry in found], object)) if found else np.zeros(4)
    if (np.abs(bounds) > (180, 90, 180, 90)).any():
        west, south, east, north = bounds
        raise ConfigError(
            f"{path} reaches from {west:g}, {south:g} to {east:g}, {north:g}: these are no longitudes and latitudes, "
            "which GeoJSON holds; reproject it to EPSG:4326"
        )
    return [(properties, _valid(geometry)) for properties, geometry in found]


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
    try:
        with whole_file(target) as part:
            part.write_text(json.dumps({"type": "FeatureCollection", "features": rows}, default=str) + "\n")
            return part.stat().st_size
    except OSError as error:
        raise RasterWriteError(f"{target} cannot be written: {error}; free some space or set `out`") from error


def _valid(geometry: shapely.Geometry) -> shapely.Geometry:
    if geometry.is_valid:
        return geometry
    return shapely.make_valid(geometry, method="structure", keep_collapsed=False)
