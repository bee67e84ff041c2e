"""The chain behind one detection: evidence and verdict, model, training rows, table versions, scenes, lake."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from store import lance_io
from store.chains import Moment, Reference, found_rows, run_row, scenes_of
from store.ducklake_detections import lake_row
from store.fingerprint import digest
from store.promotion import candidate_name
from store.schemas import EVIDENCE
from store.sql import literal
from utils.errors import AegirError, CatalogNotFoundError, LabelError, StoreError

_SHOWN = 20
"""Ids of training rows that are named; a hash stands for all of them."""

_COUNTED = ("chip_role", "mask_source", "generation")


def detection_chain(uri: str | Path, detection_id: str) -> dict[str, Any] | None:
    """The chain behind one detection; None where the store has none of that id.

    Args:
        uri: the store.
        detection_id: the id, or its first characters where they are unambiguous; ``@VERSION`` behind it asks for the
            row as it stood at a version (or tag) of ``detections``, and for the other tables as they stood then.

    Returns:
        ``detection``, ``evidence`` (findings by rule), ``search_run`` and ``validation_run`` (None where the row is
        gone), ``scenes``, ``tables`` (table → version the search found), ``chips`` (made for it, or with it as prompt),
        ``lake`` (see :func:`lake_state`) and ``version`` that was asked for.

    Raises:
        AegirError: more than one detection has that id.
    """
    asked = Reference.parse(detection_id)
    found = found_rows(uri, "detections", "detection_id", asked, optional=True)
    if not found:
        return None
    if len(found) > 1:
        raise AegirError(f"more than one detection of {uri} has an id that begins with {asked.start!r}")
    [detection] = found
    moment = Moment(uri, "detections", asked.version)
    evidence = moment.rows("evidence", EVIDENCE.names, f"detection_id = {literal(detection['detection_id'])}")
    search_run = run_row(uri, detection["run_id"])
    inputs = (search_run["inputs"] or {}) if search_run else {}
    judged_by = sorted({finding["run_id"] for finding in evidence})
    return {
        "detection": detection,
        "evidence": sorted(evidence, key=lambda finding: finding["rule"]),
        "search_run": search_run,
        "validation_run": run_row(uri, judged_by[-1]) if judged_by else None,
        "scenes": scenes_of(uri, {"vhr_scene_ids": detection["scene_ids"]}, inputs.get("scenes", {})),
        "tables": inputs.get("tables", {}),
        "chips": _chips(uri, moment, detection["detection_id"]),
        "lake": lake_state(uri, detection),
        "version": asked.version,
    }


def training_rows(record: Mapping[str, Any]) -> dict[str, Any]:
    """The rows a model was trained on, as its checkpoint records table, version and filter.

    A candidate's table is gone after its fit; where its generation was promoted, the rows are those of the promotion.

    Returns:
        ``table`` and ``version`` that the rows are of, ``rows``, ``by`` (column → value → rows), ``uuids`` (the first
        ones), ``digest`` (hash of all), and ``unknown``: why the rows cannot be read any more, else None.
    """
    where = "split = 'train'" + (f" AND ({record['where']})" if record.get("where") else "")
    table, version = str(record.get("table", "training_data")), record.get("version")
    nothing: dict[str, Any] = {"table": table, "version": version, "rows": None, "by": {}, "uuids": [], "digest": None}
    try:
        promoted = None if table == "training_data" else _promotion(record["store"], table)
        if promoted is not None:
            table, version = "training_data", promoted
        # other tables have the columns of training_data, and no schema of their own
        dataset = lance_io.open_table(record["store"], table, version)
        names = [name for name in ("uuid", *_COUNTED) if name in dataset.schema.names]
        found = dataset.to_table(columns=names, filter=where)
    except (StoreError, KeyError, ValueError, OSError) as error:
        return nothing | {"unknown": str(error)}
    uuids = sorted(found["uuid"].to_pylist())
    by = {
        name: {str(entry["values"]): entry["counts"] for entry in pc.value_counts(found[name]).to_pylist()}
        for name in names[1:]
    }
    told = {"rows": len(uuids), "by": by, "uuids": uuids[:_SHOWN], "digest": digest(uuids)}
    return {"table": table, "version": version, "unknown": None} | told


def _promotion(uri: str | Path, table: str) -> int | None:
    """Version of ``training_data`` that a candidate's table was promoted as; None where it was not."""
    for known in lance_io.scan(uri, "runs", ["run_id"], "flow = 'gate'").to_pylist():
        run = run_row(uri, known["run_id"])
        counts = (run["counts"] or {}) if run else {}
        if counts.get("receipt") and candidate_name(counts["generation"]) == table:
            return int(counts["receipt"]["version"])
    return None


def lake_state(uri: str | Path, detection: Mapping[str, Any]) -> dict[str, Any]:
    """Where a detection stands in the lake it was written back to.

    Returns:
        ``catalog`` and ``table`` of the newest write-back of its search (None where there was none), ``snapshot`` that
        wrote its row as it is, ``row`` (the lake's row without geometry, None without one), ``written_run_id``, and
        ``unknown``: why the lake cannot be asked, else None.
    """
    nothing = {"catalog": None, "table": None, "snapshot": None, "row": None, "written_run_id": None, "unknown": None}
    own, others = _write_backs(uri, detection["search_id"])
    for number, inputs in enumerate([*own[:1], *others]):
        state = nothing | {"catalog": inputs["catalog"], "table": inputs["table"]}
        try:
            row = lake_row(inputs["catalog"], inputs["table"], detection["detection_id"])
        except (CatalogNotFoundError, LabelError) as error:
            row, state = None, state | {"unknown": str(error)}
        if row is not None:
            snapshot = row.pop("snapshot")
            return state | {"snapshot": snapshot, "row": row, "written_run_id": row["written_run_id"]}
        if own and number == 0:
            return state
    return nothing


def _write_backs(uri: str | Path, search_id: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Inputs of the write-backs of a search, and those of others, each newest first; not of those that were refused.

    A rejected detection may have come into the lake with another search.
    """
    where = "flow = 'write-back' AND status <> 'failed'"
    runs = lance_io.scan(uri, "runs", ["run_id", "started_at"], where).sort_by([("started_at", "descending")])
    told = [(run_row(uri, run_id) or {}).get("inputs") or {} for run_id in runs["run_id"].to_pylist()]
    own = [inputs for inputs in told if inputs.get("search_id") == search_id]
    places = {(inputs["catalog"], inputs["table"]): inputs for inputs in reversed(told) if inputs not in own}
    return own, list(reversed(places.values()))


def _chips(uri: str | Path, moment: Moment, detection_id: str) -> list[dict[str, Any]]:
    """Chips on which the detection is a prompt: prompts made of it name it in their label's id."""
    prompts = moment.rows("prompts", ["uuid", "prompt_id", "label_id", "kind"], f"label_id LIKE '%{detection_id}%'")
    wanted = " OR ".join(f"uuid = {literal(row['uuid'])}" for row in prompts) or "false"
    columns = ["uuid", "chip_role", "split", "generation", "mask_source", "weight"]
    chips = {row["uuid"]: row for row in lance_io.scan(uri, "training_data", columns, wanted).to_pylist()}
    return [row | {"chip": chips.get(row["uuid"])} for row in prompts]
