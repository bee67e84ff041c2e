"""Write validated detections back to the label lakehouse, which stays the system of record."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import shapely

from dataflows.discovery_config import DiscoveryConfig
from dataflows.guarded_run import guarded
from dataflows.run_summary import FlowSummary
from dataflows.work_shares import run_lease_id
from store import lance_io, leases
from store.catalogue_place import place_of, redacted
from store.code_hash import stage_code
from store.ducklake_detections import LAKE_COLUMNS, ROWS
from store.ducklake_write_back import WriteBackReceipt, write_detections
from store.evidence import newest_search
from store.leases import Holder
from store.lineage import Run, table_versions
from store.mask_runs import mark_killed
from store.places import is_remote
from store.sql import literal
from utils.errors import ConfigError, SearchError

FLOW = "write-back"
VERDICTS = ("accept", "review", "reject", "unverifiable")
_CODE = (
    "dataflows.write_back:judged_rows",
    "dataflows.write_back:rejected_elsewhere",
    "store.ducklake_write_back:write_detections",
)
_DETECTION = (
    "detection_id", "outline", "verdict", "confidence", "score", "area_m2", "acquired_at", "scene_ids", "match",
    "label_id", "reasons", "search_id", "model_id", "model", "run_id", "created_at", "validation_recipe",
    "validated_at",
)  # fmt: skip
_EVIDENCE = ("detection_id", "rule", "verdict", "value", "unit", "reason", "validation_recipe")


@dataclass(kw_only=True)
class WriteBackSummary(FlowSummary):
    """What a write-back did."""

    flow: str = FLOW
    search_id: str = ""
    """Search whose detections were written."""
    catalog: str = ""
    """DuckLake catalogue, without passwords."""
    table: str = ""
    """Its table."""
    detections: int = 0
    """Detections of the search."""
    judged: int = 0
    """Those of them with a verdict."""
    inserted: int = 0
    """Rows that are new in the lake."""
    updated: int = 0
    """Rows that changed."""
    unchanged: int = 0
    """Rows that stood there already, equal."""
    withdrawn: int = 0
    """Rows, of those updated, whose detection is gone or no longer judged."""
    superseded: int = 0
    """Rows, of those inserted or updated, whose object a newer search has found again, and accepted or rejected."""
    overruled: int = 0
    """Rows, of those superseded, whose object the newer search rejected."""
    snapshot_before: int | None = None
    """Newest snapshot before."""
    snapshot: int | None = None
    """Snapshot that holds the rows; the one before where nothing changed."""

    @property
    def is_complete(self) -> bool:
        """Whether every detection of the search has been judged, so that nothing waits to be written."""
        return self.judged == self.detections


def run_write_back(
    config: DiscoveryConfig, *, search_id: str | None = None, verdicts: Sequence[str] = ("accept",)
) -> WriteBackSummary:
    """Bring the lake's table up to the judged detections of a search: one snapshot, or none where nothing changed.

    Args:
        config: ``build.catalog`` is the lake, ``write_back_table`` its table.
        search_id: the search; None is the newest.
        verdicts: verdicts that bring a detection into the lake; one that is there follows its verdict whatever it is.

    Raises:
        ConfigError: the settings name no catalogue, or a verdict is unknown.
        SearchError: there is no such search, or nothing of it was judged.
        CatalogNotFoundError, LakeWriteError: the lake cannot be read or written; nothing was.
    """
    start, store = time.monotonic(), config.store
    catalog = _catalog(config)
    _check_verdicts(verdicts)
    search = search_id or newest_search(store)
    rows, detections = judged_rows(store, search)
    run = _described(config, catalog, search, verdicts)
    summary = WriteBackSummary(
        run_id=run.run_id,
        store=store,
        search_id=search,
        catalog=redacted(catalog),
        table=config.write_back_table,
        detections=detections,
        judged=len(rows),
    )
    mark_killed(store, FLOW, run_lease_id)
    holder = Holder(run_id=run.run_id, lease_s=config.build.lease_s)
    leases.claim(store, holder, [run_lease_id(run.run_id)])
    run.record(store, "running")

    def write() -> None:
        receipt = write_detections(
            catalog,
            config.write_back_table,
            pa.concat_tables([rows, rejected_elsewhere(store, search)]),
            search_id=search,
            store=_place(store),
            verdicts=tuple(verdicts),
            run_id=run.run_id,
        )
        _take(summary, receipt)

    guarded(config.build, run, holder, summary, work=write)
    summary.seconds = time.monotonic() - start
    run.settle(store, summary.status, summary.counts())
    return summary


def _take(summary: WriteBackSummary, receipt: WriteBackReceipt) -> None:
    summary.snapshot_before, summary.snapshot = receipt.snapshot_before, receipt.snapshot_after
    for name in ("inserted", "updated", "unchanged", "withdrawn", "superseded", "overruled"):
        setattr(summary, name, getattr(receipt, name))
    summary.status = "done"


def judged_rows(store: str, search_id: str) -> tuple[pa.Table, int]:
    """Judged detections of a search as the lake takes them (``ROWS``), by id; and how many detections it has in all.

    Raises:
        SearchError: the search has detections, and none was judged; or nothing is known of it.
    """
    where = f"search_id = {literal(search_id)}"
    found = lance_io.scan(store, "detections", list(_DETECTION), where).sort_by("detection_id")
    judged = found.filter(pc.is_valid(found["verdict"]))
    if not len(judged) and (len(found) or not _was_run(store, search_id)):
        why = f"none of its {len(found)} detections was judged" if len(found) else "nothing is known of it"
        raise SearchError(f"search {search_id}: {why}; run `python -m dataflows discover`, then `validate`")
    return _rows(store, judged), len(found)


def rejected_elsewhere(store: str, search_id: str) -> pa.Table:
    """Rejected detections of the store's other searches as the lake takes them (``ROWS``), by id.

    They are what takes accepted rows out of force: those of a newer search that found the object again, and those
    whose own row is accepted in the lake from before.
    """
    where = f"search_id <> {literal(search_id)} AND verdict = 'reject'"
    return _rows(store, lance_io.scan(store, "detections", list(_DETECTION), where).sort_by("detection_id"))


def _rows(store: str, judged: pa.Table) -> pa.Table:
    evidence = _evidence(store, judged)
    rows = [_row(row, evidence.get(row["detection_id"], {}), _place(store)) for row in judged.to_pylist()]
    return pa.Table.from_pylist(rows, schema=ROWS)


def _row(detection: Mapping[str, Any], evidence: Mapping[str, Any], store: str) -> dict[str, Any]:
    shape = shapely.from_wkb(detection["outline"])
    valid = detection["outline"] if shape.is_valid else shapely.to_wkb(shapely.make_valid(shape))
    same = {name: detection[name] for name in ROWS.names if name in detection}
    return same | {
        "geometry": valid,
        "reasons": detection["reasons"] or [],
        "evidence": json.dumps(evidence, sort_keys=True),
        "found_run_id": detection["run_id"],
        "found_at": detection["created_at"],
        "store": store,
    }


def _evidence(store: str, judged: pa.Table) -> dict[str, dict[str, Any]]:
    """Detection → rule → its finding, for findings of the validation that stands in the detection's row."""
    recipes = dict(zip(judged["detection_id"].to_pylist(), judged["validation_recipe"].to_pylist(), strict=True))
    where = " OR ".join(f"validation_recipe = {literal(recipe)}" for recipe in sorted(set(recipes.values()))) or "false"
    found: dict[str, dict[str, Any]] = {}
    for row in lance_io.scan(store, "evidence", list(_EVIDENCE), where).to_pylist():
        if recipes.get(row["detection_id"]) == row["validation_recipe"]:
            finding = {name: row[name] for name in ("verdict", "value", "unit", "reason")}
            found.setdefault(row["detection_id"], {})[row["rule"]] = finding
    return found


def _was_run(store: str, search_id: str) -> bool:
    """Whether a run that is recorded names the search: it may have found nothing."""
    runs = lance_io.scan(store, "runs", ["counts", "inputs"])
    return any(search_id in (text or "") for name in ("counts", "inputs") for text in runs[name].to_pylist())


def _catalog(config: DiscoveryConfig) -> str:
    if config.build.catalog is None:
        raise ConfigError(
            "the labels of these settings are in files, and there is no lake to write detections to; "
            "set `catalog` in the build's settings"
        )
    return config.build.catalog


def _check_verdicts(verdicts: Sequence[str]) -> None:
    unknown = sorted(set(verdicts) - set(VERDICTS))
    if unknown or not verdicts:
        raise ConfigError(f"verdicts: unknown {', '.join(unknown) or '(none given)'}; known: {', '.join(VERDICTS)}")


def _place(store: str) -> str:
    """The store as the lake's rows name it: an absolute path, so that it means the same everywhere."""
    return store if is_remote(store) else str(Path(store).resolve())


def _lake_place(catalog: str) -> str:
    """The catalogue as the run names it, without passwords: a file by its absolute path, for `explain` elsewhere."""
    place = place_of(catalog)
    if place.path is None:
        return redacted(catalog)
    return f"{'' if place.kind == 'duckdb' else place.kind + ':'}{place.path.resolve()}"


def _described(config: DiscoveryConfig, catalog: str, search_id: str, verdicts: Sequence[str]) -> Run:
    return Run(
        flow=FLOW,
        build_config=config.build.build_config,
        config=asdict(config),
        recipes={},
        code={FLOW: stage_code(list(_CODE))},
        inputs={
            "catalog": _lake_place(catalog),
            "table": config.write_back_table,
            "columns": list(LAKE_COLUMNS),
            "search_id": search_id,
            "verdicts": list(verdicts),
            "tables": table_versions(config.store),
        },
    )
