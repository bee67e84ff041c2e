"""What a run would read as labels and what is wrong with it, source by source, in memory bounded by a batch."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from dataflows.config import BuildConfig
from dataflows.drivers import build_driver
from store import ducklake
from store.dataset_manifests import DatasetManifest, manifests_of, read_manifests
from store.ducklake_labels import (
    LabelSource,
    LabelTable,
    Wanted,
    label_batches,
    label_source,
    row_count,
    source_query,
    swapped_count,
)
from utils.errors import AegirError
from utils.geo import h3_cells
from utils.label_check import DUPLICATE, LabelBatch, checked_batch, repeated
from utils.label_geometry import KINDS, REPAIRS

EXAMPLES = 3
"""Label ids shown per finding."""

_TYPES = {0: "Point", 3: "Polygon", 4: "MultiPoint", 6: "MultiPolygon"}
_MEANINGS = (
    "id", "geometry", "lon", "lat", "dataset", "installed_on", "area_m2", "capacity_mw", "h3_index", "positive_points",
    "negative_points",
)  # fmt: skip


@dataclass(kw_only=True)
class Finding:
    """One kind of repair or refusal."""

    count: int = 0
    """Labels it concerns."""
    examples: list[str] = field(default_factory=list)
    """Ids of the first of them."""
    detail: str | None = None
    """What was found at the first of them."""

    def add(self, ids: pa.Array, rows: NDArray[np.intp], details: dict[int, str] | None = None) -> None:
        """Count rows and keep the first ids."""
        self.count += len(rows)
        wanted = rows[: EXAMPLES - len(self.examples)]
        self.examples += [name or "(no id)" for name in ids.take(pa.array(wanted)).to_pylist()]
        if self.detail is None and details and len(rows):
            self.detail = details.get(int(rows[0]))


@dataclass(kw_only=True)
class SourceReport:
    """One label table, or the files of one entry."""

    name: str
    """Table, or ``file:`` and place."""
    problem: str | None = None
    """Why nothing of it can be read."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column → DuckDB type."""
    mapped: dict[str, str] = field(default_factory=dict)
    """Meaning → column."""
    preset: str | None = None
    """Preset that was used."""
    suggestions: dict[str, str] = field(default_factory=dict)
    """Meaning → column that could be mapped to it."""
    crs: str | None = None
    """CRS of its coordinates."""
    files: int = 0
    """Files read; 0 for a table."""
    rows: int = 0
    """Rows of the table or files."""
    read: int = 0
    """Rows in the area and dates, with those that have no place of their own."""
    kept: int = 0
    """Labels that would be used."""
    outside: int = 0
    """Usable labels that turned out to lie outside the area."""
    refused: int = 0
    """Labels that would end in ``errors``."""
    repairs: dict[str, Finding] = field(default_factory=dict)
    """Repair code → labels."""
    refusals: dict[str, Finding] = field(default_factory=dict)
    """Reason → labels."""
    geometry_types: dict[str, int] = field(default_factory=dict)
    """Type of kept labels → count."""
    kinds: dict[str, int] = field(default_factory=dict)
    """point, box, polygon → count."""
    datasets: dict[str, int] = field(default_factory=dict)
    """Dataset → kept labels."""
    bbox_lonlat: list[float] | None = None
    """Bounds of kept labels, degrees."""
    installed: list[str] | None = None
    """First and last date of installation."""
    dated: int = 0
    """Kept labels with a date."""
    with_points: dict[str, int] = field(default_factory=dict)
    """``positive``, ``negative`` → kept labels with points on, or off, the object beside their geometry."""
    points: dict[str, int] = field(default_factory=dict)
    """Likewise → those points."""
    h3_mismatches: int = 0
    """Kept labels whose H3 cell is not that of their centre."""
    in_area_if_swapped: int = 0
    """Labels outside the area whose bounds would touch it with their axes swapped."""
    plan: str | None = None
    """DuckDB's plan of the query."""


@dataclass(kw_only=True)
class LabelReport:
    """All sources of a configuration."""

    catalog: str | None
    """The catalogue, without passwords."""
    snapshot: int | None
    """Snapshot that is read."""
    sources: list[SourceReport]
    """One report per entry of ``labels``."""
    manifests: dict[str, DatasetManifest]
    """Dataset → manifest, unknown where there is none."""
    limited_to: int | None = None
    """Rows per source that were looked at; None is all."""
    priority_without_labels: list[str] = field(default_factory=list)
    """Datasets ``deduplication.priority`` names and no label read belongs to: elsewhere, or misspelt."""

    @property
    def exit_code(self) -> int:
        """0 when every label read would be used, 2 when a source cannot be read, 3 when labels would end in errors."""
        if any(source.problem for source in self.sources):
            return 2
        return 3 if any(source.refused for source in self.sources) else 0

    def values(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return asdict(self) | {"exit_code": self.exit_code}


def label_report(config: BuildConfig, *, limit: int | None = None, explain: bool = False) -> LabelReport:
    """Read the labels of a configuration as a run would, and say what would become of them; writes nothing.

    Args:
        config: settings of the build flow.
        limit: look at so many rows per source; None is all.
        explain: keep DuckDB's plan of each source's query.

    Raises:
        AegirError: the catalogue, the area or the manifests cannot be read.
    """
    driver = build_driver("build", config)
    found = driver.execute(["label_snapshot", "label_area"], inputs={"since_snapshot": None})
    snapshot, area = found["label_snapshot"], found["label_area"]
    bounds = None if area is None else tuple(area.bounds)
    wanted = Wanted(bbox_lonlat=bounds, installed=config.installed, undated=config.keep_undated)
    known = read_manifests(config.datasets, config.manifest, catalog=config.catalog, snapshot=snapshot)
    seen: list[NDArray[np.int64]] = []
    reports = []
    with ducklake.connect(config.catalog) as connection:
        for mapping in config.labels:
            report = SourceReport(name=mapping.name)
            reports.append(report)
            try:
                source = label_source(connection, mapping, snapshot)
                _describe(connection, source, wanted, report, explain=explain)
                _tally(connection, source, wanted, area, report, seen, limit)
            except AegirError as error:
                report.problem = str(error)
    names = [name for report in reports for name in report.datasets]
    return LabelReport(
        catalog=config.catalog,
        snapshot=snapshot,
        sources=reports,
        manifests=manifests_of(names, known),
        limited_to=limit,
        priority_without_labels=[name for name in config.deduplication_rule.priority if name not in names],
    )


def _describe(
    connection: duckdb.DuckDBPyConnection, source: LabelSource, wanted: Wanted, report: SourceReport, *, explain: bool
) -> None:
    mapping: LabelTable = source.mapping
    report.columns, report.crs, report.preset = dict(source.relation.columns), source.crs, mapping.preset
    report.mapped = {key: value for key in _MEANINGS if (value := getattr(mapping, key)) is not None}
    report.suggestions = source.suggestions
    report.files = len(source.relation.files)
    report.rows = row_count(connection, source)
    if wanted.bbox_lonlat is not None and mapping.expected_bbox_lonlat is None and mapping.axes == "xy":
        report.in_area_if_swapped = swapped_count(connection, source, wanted.bbox_lonlat)
    if explain:
        sql, parameters = source_query(source, wanted)
        report.plan = str(connection.execute(f"EXPLAIN {sql}", parameters).fetchall()[0][1])


def _tally(
    connection: duckdb.DuckDBPyConnection,
    source: LabelSource,
    wanted: Wanted,
    area: shapely.Geometry | None,
    report: SourceReport,
    seen: list[NDArray[np.int64]],
    limit: int | None,
) -> None:
    """Stream one source through the check of the flow."""
    for raw in label_batches(connection, source, wanted, area=area):
        rows = pa.Table.from_batches([raw]).slice(0, None if limit is None else limit - report.read)
        if not len(rows):
            break
        batch = checked_batch(rows, source.rules, area)
        report.read += len(rows)
        again = _met_before(batch, seen)
        report.outside += int(batch.outside.sum())
        _count_findings(batch, again, report)
        _count_labels(batch, rows, again, report)
    report.refused = sum(finding.count for finding in report.refusals.values())


def _count_findings(batch: LabelBatch, again: NDArray[np.bool_], report: SourceReport) -> None:
    kept = batch.kept & ~again
    if again.any():
        report.refusals.setdefault(DUPLICATE, Finding()).add(batch.ids, np.flatnonzero(again))
    for bit, code in enumerate(REPAIRS):
        rows = np.flatnonzero(kept & ((batch.shapes.repairs >> np.uint32(bit)) & 1).astype(bool))
        if len(rows):
            report.repairs.setdefault(code, Finding()).add(batch.ids, rows)
    reasons = batch.shapes.reasons
    for reason in {reason for reason in reasons if reason is not None}:
        finding = report.refusals.setdefault(reason, Finding())
        finding.add(batch.ids, np.flatnonzero(reasons == reason), batch.shapes.details)


def _met_before(batch: LabelBatch, seen: list[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Kept labels whose id was met before, by 64-bit hash: eight bytes per label are kept."""
    kept = np.flatnonzero(batch.kept)
    ids = batch.labels["label_id"]
    hashes = np.fromiter(map(hash, ids.to_pylist()), np.int64, len(ids))
    again = repeated(ids)
    for earlier in seen:
        at = np.minimum(np.searchsorted(earlier, hashes), len(earlier) - 1)
        again |= earlier[at] == hashes
    if len(hashes):
        seen.append(np.sort(hashes))
    while len(seen) > 1 and len(seen[-2]) <= 2 * len(seen[-1]):
        seen[-2:] = [np.sort(np.concatenate(seen[-2:]))]
    met = np.zeros(len(batch.ids), bool)
    met[kept[again]] = True
    return met


def _count_labels(batch: LabelBatch, rows: pa.Table, again: NDArray[np.bool_], report: SourceReport) -> None:
    kept = np.flatnonzero(batch.kept & ~again)
    labels = batch.labels.filter(pa.array(~again[batch.kept]))
    report.kept += len(labels)
    if not len(labels):
        return
    geometry = batch.shapes.geometry[kept]
    report.geometry_types = _summed(report.geometry_types, shapely.get_type_id(geometry), _TYPES)
    report.kinds = _summed(report.kinds, batch.shapes.kinds[kept], dict(enumerate(KINDS)))
    datasets = {pair["values"]: pair["counts"] for pair in pc.value_counts(labels["dataset"]).to_pylist()}
    report.datasets = dict(Counter(report.datasets) + Counter(datasets))
    west, south, east, north = shapely.total_bounds(geometry).tolist()
    old = report.bbox_lonlat or [west, south, east, north]
    report.bbox_lonlat = [min(old[0], west), min(old[1], south), max(old[2], east), max(old[3], north)]
    dates: list[date | None] = list(pc.min_max(labels["installed_on"]).as_py().values())
    days = sorted(str(day) for day in dates if day is not None) + (report.installed or [])
    report.installed = [min(days), max(days)] if days else None
    report.dated += len(labels) - labels["installed_on"].null_count
    _count_points(labels, report)
    cells = rows["h3_index"].take(pa.array(kept))
    if cells.null_count < len(cells):
        report.h3_mismatches += _h3_mismatches(geometry, cells)


def _count_points(labels: pa.Table, report: SourceReport) -> None:
    for sign in ("positive", "negative"):
        held = labels[f"{sign}_points"].drop_null()
        if len(held):
            points = int(shapely.get_num_geometries(shapely.from_wkb(held.to_numpy())).sum())
            report.with_points[sign] = report.with_points.get(sign, 0) + len(held)
            report.points[sign] = report.points.get(sign, 0) + points


def _summed(counts: dict[str, int], codes: NDArray[Any], names: dict[int, str]) -> dict[str, int]:
    found, sizes = np.unique(codes, return_counts=True)
    new = {names[code]: size for code, size in zip(found.tolist(), sizes.tolist(), strict=True)}
    return dict(Counter(counts) + Counter(new))


def _h3_mismatches(geometry: NDArray[np.object_], cells: pa.ChunkedArray) -> int:
    """Labels whose stated H3 cell is not that of their centroid at the cell's own resolution."""
    stated = ~cells.is_null().to_numpy()
    values = cells.fill_null(0).to_numpy().astype(np.uint64)
    centres = shapely.centroid(geometry)
    resolutions = ((values >> np.uint64(52)) & np.uint64(15)).astype(int)
    wrong = 0
    for resolution in np.unique(resolutions[stated]).tolist():
        here = stated & (resolutions == resolution)
        own = h3_cells(shapely.get_x(centres[here]), shapely.get_y(centres[here]), resolution)
        wrong += int((own != values[here]).sum())
    return wrong
