"""Rows of ``detections`` made from shapes, as a search would have left them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import shapely

from store.discovery_schemas import DETECTIONS
from utils.cells import h3_cells, s2_cells, s2_parents
from utils.geo import reproject, utm_epsg


def detection_rows(
    shapes: Sequence[shapely.Geometry],
    *,
    acquired_at: datetime,
    gsd_m: float = 0.3,
    search_id: str = "search",
    scene_ids: Sequence[str] = ("scene",),
    **columns: Sequence[Any],
) -> pa.Table:
    """One row per shape (EPSG:4326), ids ``d0``, ``d1`` …; ``columns`` replace values row by row."""
    rows = []
    for number, shape in enumerate(shapes):
        point = shape.representative_point()
        epsg = utm_epsg(point.x, point.y)
        area = reproject(shape, 4326, epsg).area
        leaf = s2_cells([point.x], [point.y], 30)
        row = {
            "detection_id": f"d{number}",
            "search_id": search_id,
            "model_id": "model",
            "model": "model",
            "scene_ids": list(scene_ids),
            "acquired_at": acquired_at,
            "outline": shapely.to_wkb(shape),
            "lon": point.x,
            "lat": point.y,
            "epsg": epsg,
            "gsd_m": gsd_m,
            "area_m2": area,
            "pixels": int(area / gsd_m**2),
            "score": 0.8,
            "score_p90": 0.9,
            "s2_cell": int(leaf[0]),
            "s2_l10": int(s2_parents(leaf, 10)[0]),
            "s2_l13": int(s2_parents(leaf, 13)[0]),
            "h3_cell": int(h3_cells([point.x], [point.y], 10)[0]),
            "match": "new",
            "run_id": "run",
            "created_at": datetime(2024, 1, 1, tzinfo=UTC),
        }
        rows.append(row | {name: values[number] for name, values in columns.items()})
    return pa.Table.from_pylist(rows, schema=DETECTIONS)
