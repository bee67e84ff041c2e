"""Detections of one search with their verdicts, as backfill takes them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from store import lance_io
from store.sql import literal
from utils.errors import SearchError

COLUMNS = (
    "detection_id", "search_id", "outline", "acquired_at", "match", "label_id", "match_iou", "verdict",
    "validation_recipe", "area_m2", "created_at",
)  # fmt: skip


def newest_search(uri: str | Path) -> str | None:
    """Search that ran to its end last, or made a detection after that; None where there is none.

    A search that found nothing counts too: what follows it must not take the finds of an older one for its own.
    """
    rows = lance_io.scan(uri, "detections", ["search_id", "created_at"])
    found = rows.group_by("search_id").aggregate([("created_at", "max")])
    times = list(zip(found["created_at_max"].to_pylist(), found["search_id"].to_pylist(), strict=True))
    runs = lance_io.scan(uri, "runs", ["inputs", "started_at"], "flow = 'discover' AND status IN ('done', 'failed')")
    told = [(row["started_at"], json.loads(row["inputs"]).get("search_id")) for row in runs.to_pylist()]
    times += [(at, search_id) for at, search_id in told if search_id is not None]
    return str(max(times)[1]) if times else None


def judged_detections(uri: str | Path, search_id: str) -> pa.Table:
    """Columns :data:`COLUMNS` of a search's detections, by id; perhaps none.

    Raises:
        SearchError: none of them was validated.
    """
    rows = lance_io.scan(uri, "detections", list(COLUMNS), f"search_id = {literal(search_id)}").sort_by("detection_id")
    if len(rows) and pc.all(pc.is_null(rows["verdict"])).as_py():
        raise SearchError(
            f"none of the {len(rows)} detections of search {search_id} was judged; run `python -m dataflows validate`"
        )
    return rows
