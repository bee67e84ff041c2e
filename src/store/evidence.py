"""Detections and their evidence in the store: what a search found, what rules measured, what became of it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from store import judged_detections, lance_io
from store._durable_files import whole_file
from store.discovery_schemas import DETECTIONS
from store.lance_io import WriteReceipt
from store.sql import literal, literals
from utils.errors import CalibrationError, SearchError, StoreNotWritableError
from utils.evidence import DECISIVE, LOG_ODDS, Finding
from utils.verdict_model import VerdictModel, from_json, to_json
from utils.verdicts import Judgement

_PER_STATEMENT = 2000
_FINDING = (
    "detection_id", "rule", "verdict", "value", "unit", "reason", "details", "scene_ids", "acquired_at",
    "validation_recipe",
)  # fmt: skip


def newest_search(uri: str | Path) -> str:
    """The newest search, see :func:`store.judged_detections.newest_search`.

    Raises:
        SearchError: the store holds no detection.
    """
    found = judged_detections.newest_search(uri)
    if found is None:
        raise SearchError(f"{uri} holds no detection; run `python -m dataflows discover` first")
    return found


def detections_of(uri: str | Path, search_id: str) -> pa.Table:
    """All columns of the detections of a search, schema ``DETECTIONS``, ordered by cell and id.

    Raises:
        SearchError: it found nothing, or there is no such search.
    """
    rows = lance_io.scan(uri, "detections", DETECTIONS.names, f"search_id = {literal(search_id)}")
    if not len(rows):
        raise SearchError(f"{uri} holds no detection of a search {search_id!r}")
    return rows.sort_by([("s2_cell", "ascending"), ("detection_id", "ascending")])


def evidence_recipes(uri: str | Path, detection_ids: Sequence[str]) -> dict[tuple[str, str], str]:
    """``(detection id, rule)`` → recipe of the row the store has."""
    found = {}
    for part in _parts(detection_ids):
        columns = ["detection_id", "rule", "validation_recipe"]
        for row in lance_io.scan(uri, "evidence", columns, f"detection_id IN ({literals(part)})").to_pylist():
            found[row["detection_id"], row["rule"]] = row["validation_recipe"]
    return found


def findings_of(
    uri: str | Path, detection_ids: Sequence[str], *, recipes: Mapping[str, str] | None = None
) -> dict[str, dict[str, Finding]]:
    """Detection id → rule → finding, as the table ``evidence`` holds them.

    Args:
        uri: the store.
        detection_ids: the detections.
        recipes: detection id → recipe its rows must rest on; None takes any.
    """
    found: dict[str, dict[str, Finding]] = {}
    for part in _parts(detection_ids):
        for row in lance_io.scan(uri, "evidence", _FINDING, f"detection_id IN ({literals(part)})").to_pylist():
            if recipes is None or recipes.get(row["detection_id"]) == row["validation_recipe"]:
                found.setdefault(row["detection_id"], {})[row["rule"]] = _finding(row)
    return found


def write_evidence(uri: str | Path, rows: pa.Table) -> WriteReceipt:
    """Upsert rows of ``evidence``."""
    return lance_io.write(uri, "evidence", rows)


def mark_verdicts(uri: str | Path, judgements: Mapping[str, Judgement], recipes: Mapping[str, str]) -> int:
    """Write verdicts beside their detections; all else of the rows stays as it is. Returns how many rows.

    Rows are read and written as one step, so that another writer's changes are not lost; detections that are gone
    meanwhile stay gone.

    Args:
        uri: the store.
        judgements: detection id → judgement.
        recipes: detection id → hash of code and settings behind it.

    Raises:
        StoreConflictError: other writers came first in every attempt.
    """
    now, written = datetime.now(UTC), 0
    for part in _parts(list(judgements)):
        chosen = partial(_marked, ids=part, judgements=judgements, recipes=recipes, now=now)
        receipt = lance_io.write_chosen(uri, "detections", chosen)
        written += receipt.updated
    return written


def _marked(
    dataset: lance.LanceDataset,
    ids: Sequence[str],
    judgements: Mapping[str, Judgement],
    recipes: Mapping[str, str],
    now: datetime,
) -> pa.Table:
    rows = dataset.to_table(filter=f"detection_id IN ({literals(ids)})")
    told = [judgements[one] for one in rows["detection_id"].to_pylist()]
    values: dict[str, list[Any]] = {
        "verdict": [one.verdict for one in told],
        "confidence": [one.confidence for one in told],
        "reasons": [list(one.reasons) for one in told],
        "validation_recipe": [recipes[one] for one in rows["detection_id"].to_pylist()],
        "validated_at": [now] * len(told),
    }
    for name, column in values.items():
        position = rows.schema.get_field_index(name)
        rows = rows.set_column(position, rows.schema.field(name), pa.array(column, rows.schema.field(name).type))
    return rows


def write_model(model: VerdictModel, path: str | Path) -> Path:
    """Write a verdict model as JSON, whole or not at all.

    Raises:
        StoreNotWritableError: its place cannot be written.
    """
    place = Path(path)
    try:
        with whole_file(place) as part:
            part.write_text(to_json(model), encoding="utf-8")
    except OSError as error:
        raise StoreNotWritableError(f"the verdict model cannot be written to {place}: {error}") from error
    return place


def read_model(path: str | Path) -> VerdictModel:
    """The verdict model in a file.

    Raises:
        CalibrationError: it cannot be read, or is no model of this version.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"the verdict model {path} cannot be read: {error}") from error
    return from_json(text, str(path))


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _PER_STATEMENT):
        yield ids[start : start + _PER_STATEMENT]


def _finding(row: Mapping[str, Any]) -> Finding:
    details = dict(row["details"])
    return Finding(
        rule=row["rule"],
        verdict=row["verdict"],
        reason=row["reason"],
        value=row["value"],
        unit=row["unit"],
        log_odds=details.pop(LOG_ODDS, 0.0),
        decisive=bool(details.pop(DECISIVE, 0.0)),
        details=details,
        scene_ids=tuple(row["scene_ids"]),
        acquired_at=row["acquired_at"],
    )
