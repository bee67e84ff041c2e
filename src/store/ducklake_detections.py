"""Rows of the label lakehouse's table of detections: what they say, and one of them read back."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from store import ducklake
from store.columns import TIME
from store.ducklake import LAKE
from store.sql import quoted
from utils.errors import LabelTableError

WITHDRAWN = "withdrawn"
"""Verdict of a row whose detection is gone, or is not judged any more."""

ROWS = pa.schema(
    [
        pa.field("detection_id", pa.string(), nullable=False),
        pa.field("geometry", pa.binary(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("confidence", pa.float32()),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("area_m2", pa.float64(), nullable=False),
        pa.field("acquired_at", TIME, nullable=False),
        pa.field("scene_ids", pa.list_(pa.string()), nullable=False),
        pa.field("match", pa.string(), nullable=False),
        pa.field("label_id", pa.string()),
        pa.field("reasons", pa.list_(pa.string()), nullable=False),
        pa.field("evidence", pa.string(), nullable=False),
        pa.field("search_id", pa.string(), nullable=False),
        pa.field("model_id", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("found_run_id", pa.string(), nullable=False),
        pa.field("found_at", TIME, nullable=False),
        pa.field("validation_recipe", pa.string(), nullable=False),
        pa.field("validated_at", TIME, nullable=False),
        pa.field("store", pa.string(), nullable=False),
    ]
)
"""What is written of a detection; ``geometry`` is WKB in longitude and latitude (EPSG:4326)."""

LAKE_COLUMNS: dict[str, str] = {
    "detection_id": "VARCHAR",
    "geometry": "GEOMETRY",
    "verdict": "VARCHAR",
    "confidence": "FLOAT",
    "score": "FLOAT",
    "area_m2": "DOUBLE",
    "acquired_at": "TIMESTAMP WITH TIME ZONE",
    "scene_ids": "VARCHAR[]",
    "match": "VARCHAR",
    "label_id": "VARCHAR",
    "reasons": "VARCHAR[]",
    "evidence": "VARCHAR",
    "search_id": "VARCHAR",
    "model_id": "VARCHAR",
    "model": "VARCHAR",
    "found_run_id": "VARCHAR",
    "found_at": "TIMESTAMP WITH TIME ZONE",
    "validation_recipe": "VARCHAR",
    "validated_at": "TIMESTAMP WITH TIME ZONE",
    "store": "VARCHAR",
    "superseded_by": "VARCHAR",
    "written_run_id": "VARCHAR",
    "written_at": "TIMESTAMP WITH TIME ZONE",
}
"""Column → DuckDB type of the lake's table."""


def lake_row(catalog: str | Path, table: str, detection_id: str) -> dict[str, Any] | None:
    """The lake's row of a detection at the newest snapshot; None where it has none.

    ``snapshot`` in it is the snapshot that wrote the row as it is, ``superseding_verdict`` the verdict of the detection
    in ``superseded_by``. The geometry is left out.

    Raises:
        CatalogNotFoundError: there is no catalogue.
        LabelTableError: the table has not the columns of detections.
    """
    with ducklake.connect(catalog) as connection:
        try:
            newest = ducklake.latest_snapshot(connection)
            known = ducklake.table_columns(connection, table, newest)
        except LabelTableError:
            return None
        if missing := LAKE_COLUMNS.keys() - known.keys():
            raise LabelTableError(
                f"the lake's table {table} has other columns than detections: no {', '.join(sorted(missing))}"
            )
        place = f"{LAKE}.{quoted(table)}"
        columns = ", ".join(f't."{name}"' for name in LAKE_COLUMNS if name != "geometry")
        found = ducklake.query(
            connection,
            f"SELECT {columns}, n.verdict AS superseding_verdict, t.snapshot_id AS snapshot "
            f"FROM {place} AS t LEFT JOIN {place} AS n ON n.detection_id = t.superseded_by WHERE t.detection_id = ?",
            [detection_id],
        ).to_pylist()
    return found[0] if found else None
