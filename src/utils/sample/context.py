"""What is written beside the pixels: truth as GeoJSON, label and context tables as Arrow."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from shapely import Geometry

from utils.sample.features import Landscape
from utils.sample.polygons import sun_vector
from utils.sample.scene import cast_shadow
from utils.sample.spec import ACQUISITIONS, EPSG

if TYPE_CHECKING:
    from utils.sample.labels import LabelState

SMALLEST_SHADOW_M2 = 60.0
"""Cast shadows below this area are not entered as confusers."""
_TALL = frozenset({"barn", "hall", "apartments"})


@lru_cache(maxsize=2)
def _transformer(source: int, target: int) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)


def _projected(geometry: Geometry, source: int, target: int) -> Any:
    def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(_transformer(source, target).transform(points[:, 0], points[:, 1]))

    return shapely.transform(geometry, move)


def to_lonlat(geometry: Geometry) -> Any:
    """``geometry`` from the sample's UTM zone to longitude and latitude, degrees."""
    return _projected(geometry, EPSG, 4326)


def to_utm(geometry: Geometry) -> Any:
    """``geometry`` from longitude and latitude, degrees, to the sample's UTM zone."""
    return _projected(geometry, 4326, EPSG)


def array_id(number: int) -> str:
    """Truth id of the array at a position of ``Landscape.arrays``."""
    return f"pv-{number + 1:05d}"


def _collection(features: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": features}


def _feature(number: str, geometry: Geometry, properties: dict[str, Any]) -> dict[str, Any]:
    shape = shapely.geometry.mapping(shapely.orient_polygons(to_lonlat(geometry)))
    return {"type": "Feature", "id": number, "properties": {"id": number, **properties}, "geometry": shape}


def pv_truth(landscape: Landscape) -> dict[str, Any]:
    """Exact outlines of all arrays, EPSG:4326: ``id``, ``kind``, ``site``, ``cell``, ``built``, ``area_m2``."""
    return _collection(
        [
            _feature(
                array_id(number),
                array.outline,
                {
                    "kind": array.kind,
                    "site": array.site,
                    "cell": array.cell,
                    "built": array.built.isoformat(),
                    "area_m2": round(array.outline.area, 2),
                },
            )
            for number, array in enumerate(landscape.arrays)
        ]
    )


def park_truth(landscape: Landscape) -> dict[str, Any]:
    """Fenced outlines of the ground-mounted parks, EPSG:4326."""
    return _collection(
        [
            _feature(
                f"park-{number + 1:03d}",
                park.fence,
                {"site": park.site, "built": park.built.isoformat(), "area_m2": round(park.fence.area, 2)},
            )
            for number, park in enumerate(landscape.parks)
        ]
    )


def confuser_truth(landscape: Landscape) -> dict[str, Any]:
    """Outlines of everything that looks like photovoltaics and is none, EPSG:4326, with the days it is there."""
    found = [(c.outline, c.kind, c.epochs) for c in landscape.confusers] + _shadows(landscape)
    days = [acquisition.day.isoformat() for acquisition in ACQUISITIONS]
    return _collection(
        [
            _feature(
                f"confuser-{number + 1:05d}",
                outline,
                {
                    "kind": kind,
                    "area_m2": round(outline.area, 2),
                    "days": [day for day, there in zip(days, epochs, strict=True) if there],
                },
            )
            for number, (outline, kind, epochs) in enumerate(found)
        ]
    )


def _shadows(landscape: Landscape) -> list[tuple[Geometry, str, tuple[bool, bool]]]:
    """Ground shadows of the tall buildings in the VHR imagery of each date."""
    area = shapely.box(*landscape.size.vhr_bounds)
    footprints = [building.footprint for building in landscape.buildings]
    index = shapely.STRtree(footprints)
    found = []
    for acquisition in ACQUISITIONS:
        sun = sun_vector(*acquisition.vhr_sun_deg)
        for building in landscape.buildings:
            if building.kind not in _TALL or not building.epochs[acquisition.index]:
                continue
            shadow = cast_shadow(building.footprint, building.height_m, sun)
            near = shapely.union_all([footprints[i] for i in index.query(shadow)])
            for part in shapely.get_parts(shadow.difference(near.buffer(0.3)).intersection(area)):
                if part.geom_type == "Polygon" and part.area >= SMALLEST_SHADOW_M2:
                    epochs = (acquisition.index == 0, acquisition.index == 1)
                    found.append((part, "shadow", epochs))
    return found


def pv_label_table(state: "LabelState") -> pa.Table:
    """Rows of ``pv_labels``; ``geometry`` is WKB, longitude and latitude."""
    rows = state.labels
    centres = [label.geometry.centroid for label in rows]
    return pa.table(
        {
            "unified_id": pa.array([r.unified_id for r in rows], pa.string()),
            "dataset_name": pa.array([r.dataset for r in rows], pa.string()),
            "label_type": pa.array([r.label_type for r in rows], pa.string()),
            "geometry": pa.array([shapely.to_wkb(r.geometry) for r in rows], pa.binary()),
            "area_m2": pa.array([r.area_m2 for r in rows], pa.float64()),
            "centroid_lon": pa.array([centre.x for centre in centres], pa.float64()),
            "centroid_lat": pa.array([centre.y for centre in centres], pa.float64()),
            "capacity_kw": pa.array([r.capacity_kw for r in rows], pa.float64()),
            "install_date": pa.array([r.install_date for r in rows], pa.date32()),
        }
    )


def registry_table(state: "LabelState") -> pa.Table:
    """Rows of ``registry_points``; positions are columns, in degrees."""
    rows = state.points
    return pa.table(
        {
            "registry_id": pa.array([r.registry_id for r in rows], pa.int64()),
            "lon": pa.array([r.lonlat[0] for r in rows], pa.float64()),
            "lat": pa.array([r.lonlat[1] for r in rows], pa.float64()),
            "capacity_kw": pa.array([r.capacity_kw for r in rows], pa.float64()),
            "commissioned": pa.array([r.commissioned for r in rows], pa.date32()),
        }
    )


def building_table(landscape: Landscape) -> pa.Table:
    """Rows of ``buildings`` as they stand at the second acquisition; ``geometry`` is WKB, longitude and latitude."""
    rows = [building for building in landscape.buildings if building.epochs[-1]]
    return pa.table(
        {
            "building_id": pa.array(np.arange(1, len(rows) + 1), pa.int64()),
            "geometry": pa.array([shapely.to_wkb(to_lonlat(r.footprint)) for r in rows], pa.binary()),
            "kind": pa.array([r.kind for r in rows], pa.string()),
            "height_m": pa.array([round(r.height_m, 1) for r in rows], pa.float64()),
        }
    )


def landcover_table(landscape: Landscape) -> pa.Table:
    """Rows of ``landcover``; ``geometry`` is WKB, longitude and latitude."""
    rows = landscape.patches
    return pa.table(
        {
            "patch_id": pa.array(np.arange(1, len(rows) + 1), pa.int64()),
            "geometry": pa.array([shapely.to_wkb(to_lonlat(r.outline)) for r in rows], pa.binary()),
            "class": pa.array([r.landcover for r in rows], pa.string()),
        }
    )


def label_truth(*states: "LabelState") -> dict[str, Any]:
    """Label or register id → truth ids of what it shows, and what it lies on when it is wrong."""
    answers: dict[str, Any] = {}
    for state in states:
        for label in state.labels:
            answers[label.unified_id] = {"arrays": [array_id(n) for n in label.arrays], "wrong": label.wrong}
        for point in state.points:
            wrong = None if point.arrays else "empty_roof"
            answers[str(point.registry_id)] = {"arrays": [array_id(n) for n in point.arrays], "wrong": wrong}
    return answers
