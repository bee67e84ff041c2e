"""Detections of one search with their verdicts, as backfill takes them."""

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
    """Search whose detections are the newest; None where there are none."""
    rows = lance_io.scan(uri, "detections", ["search_id", "created_at"])
    newest = rows.sort_by([("created_at", "descending"), ("search_id", "ascending")])["search_id"]
    return str(newest[0].as_py()) if len(rows) else None


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
