"""Detections and evidence of a search, made by hand."""

from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_URL, uuid5

import pyarrow as pa
import shapely

from store import lance_io
from store.schemas import TABLES
from utils.geo import h3_cells, s2_cells, s2_parents

FOUND = datetime(2026, 1, 1, tzinfo=UTC)
RECIPE = "judged-by-hand"


def detection_id(name: str, search: str = "search-1") -> str:
    return str(uuid5(NAMESPACE_URL, f"{search}|{name}"))


def detection(name, lon, lat, *, verdict="accept", search="search-1", hours=0, side=1e-4, **changes):
    """One row of ``detections``: a square of ``side`` degrees around a place."""
    leaf = s2_cells([lon], [lat], 30)
    judged = verdict is not None
    values = {
        "detection_id": detection_id(name, search), "search_id": search, "model_id": "abc", "model": "none.ckpt",
        "scene_ids": ["scene-a"], "acquired_at": FOUND, "lon": lon, "lat": lat, "epsg": 32632, "gsd_m": 0.3,
        "outline": shapely.to_wkb(shapely.box(lon - side / 2, lat - side / 2, lon + side / 2, lat + side / 2)),
        "area_m2": 80.0, "pixels": 900, "score": 0.8, "score_p90": 0.9, "s2_cell": int(leaf[0]),
        "s2_l10": int(s2_parents(leaf, 10)[0]), "s2_l13": int(s2_parents(leaf, 13)[0]),
        "h3_cell": int(h3_cells([lon], [lat], 10)[0]), "match": "new", "label_id": None, "match_iou": None,
        "match_distance_m": None, "verdict": verdict, "confidence": 0.9 if judged else None,
        "reasons": ["bright <frame> & blue"] if judged else None, "validation_recipe": RECIPE if judged else None,
        "validated_at": FOUND if judged else None, "run_id": "found-by", "created_at": FOUND + timedelta(hours=hours),
    }  # fmt: skip
    return values | changes


def finding(name, rule, verdict="for", *, search="search-1", **changes):
    """One row of ``evidence``."""
    one = detection_id(name, search)
    values = {
        "evidence_id": str(uuid5(NAMESPACE_URL, f"{one}|{rule}")), "detection_id": one, "rule": rule,
        "verdict": verdict, "value": 0.25, "unit": "rad", "reason": f"{rule} speaks {verdict}", "details": [],
        "scene_ids": ["msi-a"], "acquired_at": FOUND, "validation_recipe": RECIPE, "run_id": "judged-by",
        "created_at": FOUND,
    }  # fmt: skip
    return values | changes


def stored(store, detections=(), findings=()):
    """Write rows made by :func:`detection` and :func:`finding`."""
    for table, rows in (("detections", detections), ("evidence", findings)):
        if rows:
            lance_io.write(store, table, pa.Table.from_pylist(list(rows), schema=TABLES[table]))
