"""True polygons of PV, found by place and day, and as pixels."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize

from store.vectors import read_features
from utils.errors import ConfigError
from utils.geo import reproject
from utils.types import ChipGrid


class Truth:
    """Truth polygons, found by place and day."""

    @classmethod
    def read(cls, path: str | Path) -> "Truth":
        """Polygons of a GeoJSON file; the property ``built``, an ISO day, is optional.

        Raises:
            ConfigError: the file cannot be read.
        """
        return cls(read_features(path))

    def __init__(self, features: list[tuple[dict[str, Any], shapely.Geometry]]) -> None:
        self._built = [_day(properties.get("built")) for properties, _ in features]
        self._shapes = [geometry for _, geometry in features]
        self._tree = shapely.STRtree(self._shapes)

    def __len__(self) -> int:
        """Polygons."""
        return len(self._shapes)

    def standing(self, day: date) -> list[shapely.Geometry]:
        """All polygons that stood on that day, in EPSG:4326."""
        return [shape for shape, when in zip(self._shapes, self._built, strict=True) if when is None or when <= day]

    def on(self, grid: ChipGrid, footprint: shapely.Geometry, day: date) -> list[shapely.Geometry]:
        """Polygons that touch a chip and stood on that day, in the CRS of its grid."""
        near = self._tree.query(footprint, predicate="intersects")
        built = [(i, self._built[i]) for i in near]
        return [reproject(self._shapes[i], 4326, grid.epsg) for i, when in built if when is None or when <= day]


def _day(text: object) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(str(text))
    except ValueError as error:
        raise ConfigError(f"truth: `built` is {text!r}, which is no ISO 8601 day") from error


def rasterised(objects: list[shapely.Geometry], grid: ChipGrid) -> NDArray[np.bool_]:
    """Pixels of ``grid`` whose centre lies in one of the objects, which are in its CRS; shape (rows, columns)."""
    if not objects:
        return np.zeros((grid.height, grid.width), bool)
    burnt = rasterize(objects, out_shape=(grid.height, grid.width), transform=grid.affine, dtype="uint8")
    return np.asarray(burnt, bool)
