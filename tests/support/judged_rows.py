"""Rows of ``detections`` as discovery and validation leave them, from outlines in UTM metres."""

from datetime import UTC, datetime
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import pyarrow as pa
import shapely

from store import lance_io
from store.schemas import DETECTIONS
from utils.geo import h3_cells, reproject, s2_cells, s2_parents

DAY = datetime(2023, 6, 14, tzinfo=UTC)


def detection(
    outline: shapely.Polygon,
    verdict: str | None,
    *,
    label_id: str | None = None,
    match_iou: float | None = None,
    search: str = "first",
    epsg: int = 32632,
    acquired_at: datetime = DAY,
) -> dict:
    """One row; its id follows from the search and the outline."""
    lonlat = reproject(outline, epsg, 4326)
    point = lonlat.representative_point()
    x, y = np.array([point.x]), np.array([point.y])
    cell = s2_cells(x, y, 30)
    return {
        "detection_id": str(uuid5(NAMESPACE_URL, f"{search}|{outline.wkt}")),
        "search_id": search,
        "model_id": "model",
        "model": "best.ckpt",
        "scene_ids": ["scene"],
        "acquired_at": acquired_at,
        "outline": shapely.to_wkb(lonlat),
        "lon": point.x,
        "lat": point.y,
        "epsg": epsg,
        "gsd_m": 0.3,
        "area_m2": outline.area,
        "pixels": round(outline.area / 0.09),
        "score": 0.8,
        "score_p90": 0.9,
        "s2_cell": int(cell[0]),
        "s2_l10": int(s2_parents(cell, 10)[0]),
        "s2_l13": int(s2_parents(cell, 13)[0]),
        "h3_cell": int(h3_cells(x, y, 10)[0]),
        "match": "new" if label_id is None else "confirmed",
        "label_id": label_id,
        "match_iou": match_iou,
        "match_distance_m": None if label_id is None else 1.0,
        "verdict": verdict,
        "confidence": None if verdict is None else 0.9,
        "reasons": None if verdict is None else ["by hand"],
        "validation_recipe": None if verdict is None else "hand",
        "validated_at": None if verdict is None else DAY,
        "run_id": "run",
        "created_at": datetime.now(UTC),
    }


def write_detections(store: str, rows: list[dict]) -> None:
    """Put rows into the table ``detections``."""
    lance_io.write(store, "detections", pa.Table.from_pylist(rows, schema=DETECTIONS))
