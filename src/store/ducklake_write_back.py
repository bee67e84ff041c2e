"""Validated detections in the label lakehouse: one MERGE by id in one transaction, which is one snapshot."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from store import ducklake
from store.catalogue_place import place_of
from store.columns import TIME
from store.ducklake import LAKE
from store.sql import literal, quoted
from utils.errors import CatalogBusyError, CatalogNotFoundError, LabelTableError, LakeWriteError
from utils.retry import RetryPolicy

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

SAME_OBJECT = 0.5
"""Detections of two searches are one object where they share this much of the smaller one's area."""

_WHO = ("written_run_id", "written_at")
_MERGED = [name for name in LAKE_COLUMNS if name not in _WHO]
_BUSY = RetryPolicy(retries=9, first_wait_s=0.2, longest_wait_s=4.0)


@dataclass(frozen=True, kw_only=True)
class WriteBackReceipt:
    """What one write-back did to the lake."""

    snapshot_before: int
    """Newest snapshot before it."""
    snapshot_after: int
    """Snapshot that holds the rows as they are; ``snapshot_before`` where nothing had changed."""
    inserted: int
    """Rows that are new."""
    updated: int
    """Rows that changed."""
    unchanged: int
    """Rows of this search that stood there already, equal."""
    withdrawn: int
    """Of those updated, rows whose detection is gone or no longer judged."""
    superseded: int
    """Of those inserted or updated, rows that a newer search has found again."""


class _LostRaceError(LakeWriteError):
    """Another writer committed to the table in between; the same attempt may work now."""

    is_transient = True


def write_detections(
    catalog: str | Path,
    table: str,
    rows: pa.Table,
    *,
    search_id: str,
    store: str,
    verdicts: tuple[str, ...],
    run_id: str,
) -> WriteBackReceipt:
    """Bring the lake's table up to the judged detections of one search.

    A detection whose verdict is one of ``verdicts`` is inserted; one that stands there already is updated whatever its
    verdict; a row of this search and store whose detection is not among ``rows`` gets the verdict ``withdrawn``. No row
    is deleted. Where a newer search found an object again, the older row names it in ``superseded_by``: one object has
    one row with ``verdict = 'accept' AND superseded_by IS NULL``. All is one transaction: it makes one snapshot, or
    none where nothing changed. Writers at one table wait for each other, and none doubles a row.

    Args:
        catalog: the DuckLake catalogue.
        table: its table, made where there is none; ``schema.name`` names one of another schema.
        rows: all judged detections of the search, schema :data:`ROWS`.
        search_id: the search.
        store: LanceDB store that holds it.
        verdicts: verdicts that bring a detection into the lake.
        run_id: run that writes; it stands in the rows, and in the snapshot's message.

    Raises:
        CatalogNotFoundError: there is no catalogue; CatalogBusyError: another process holds its file all the time.
        LakeWriteError: catalogue, files or table cannot be written; nothing was.
    """

    def attempt() -> WriteBackReceipt:
        check_data_path(catalog)
        with _writable(catalog) as connection:
            return _Merge(connection, table, search_id, store, verdicts, run_id).of(rows.select(ROWS.names).cast(ROWS))

    receipt, _ = _BUSY.call(attempt)
    return receipt


def lake_row(catalog: str | Path, table: str, detection_id: str) -> dict[str, Any] | None:
    """The lake's row of a detection at the newest snapshot; None where it has none.

    ``snapshot`` in it is the snapshot that wrote the row as it is. The geometry is left out.

    Raises:
        CatalogNotFoundError: there is no catalogue.
    """
    with ducklake.connect(catalog) as connection:
        try:
            newest = ducklake.latest_snapshot(connection)
            ducklake.table_columns(connection, table, newest)
        except LabelTableError:
            return None
        columns = ", ".join(f'"{name}"' for name in LAKE_COLUMNS if name != "geometry")
        found = ducklake.query(
            connection,
            f"SELECT {columns}, snapshot_id AS snapshot FROM {LAKE}.{quoted(table)} WHERE detection_id = ?",
            [detection_id],
        ).to_pylist()
    return found[0] if found else None


def check_data_path(catalog: str | Path) -> None:
    """Refuse a catalogue that is a copy whose files would be written into the original's folder.

    Raises:
        CatalogNotFoundError: there is no catalogue.
        LakeWriteError: the recorded data folder exists elsewhere, and one of the same name lies beside the catalogue.
    """
    place = place_of(catalog)
    if place.path is None:
        return
    with ducklake.connect(catalog) as connection:
        recorded = _recorded_path(connection)
    beside = place.path.parent / Path(recorded).name
    if Path(recorded).exists() and beside.exists() and beside.resolve() != Path(recorded).resolve():
        raise LakeWriteError(
            f"{place.name} records {recorded} as the folder of its files, and {beside} lies beside it: it looks like "
            "a copy, and writing would go into the original's folder; make the copy a lake of its own with "
            "`python -m dataflows write-back --adopt-files`"
        )


def adopt_files(catalog: str | Path) -> Path:
    """Make a copied catalogue a lake of its own: it records the folder beside it as the folder of its files.

    Raises:
        CatalogNotFoundError: there is no catalogue.
        LakeWriteError: it is on a server, no folder of that name lies beside it, or it cannot be written.
    """
    place = place_of(catalog)
    if place.path is None:
        raise LakeWriteError(f"{place.name} is on a server; no folder lies beside it")
    with ducklake.connect(catalog) as connection:
        recorded = _recorded_path(connection)
    beside = (place.path.parent / Path(recorded).name).resolve()
    if not beside.is_dir():
        raise LakeWriteError(f"no folder {beside} lies beside {place.name}; copy the lake's files there first")
    with ducklake.connect(None) as connection:
        kind = "" if place.kind == "duckdb" else f" (TYPE {place.kind})"
        try:
            if place.kind == "sqlite":
                connection.load_extension("sqlite_scanner")
            connection.execute(f"ATTACH {literal(str(place.path))} AS recorded{kind}")
            connection.execute(
                "UPDATE recorded.ducklake_metadata SET value = ? WHERE key = 'data_path'", [f"{beside}/"]
            )
        except duckdb.Error as error:
            raise LakeWriteError(f"{place.name} cannot be written: {error}") from error
    return beside


def _recorded_path(connection: duckdb.DuckDBPyConnection) -> str:
    """Folder of the lake's files as the catalogue records it, whatever it was attached with."""
    found = connection.execute(
        f"SELECT value FROM __ducklake_metadata_{LAKE}.ducklake_metadata WHERE key = 'data_path'"
    ).fetchone()
    return "" if found is None else str(found[0])


def _writable(catalog: str | Path) -> duckdb.DuckDBPyConnection:
    try:
        return ducklake.connect(catalog, write=True)
    except CatalogBusyError:
        raise
    except CatalogNotFoundError as error:
        # the read-only look before has found it
        raise LakeWriteError(f"the catalogue can be read, but not written: {error}") from error


class _Merge:
    """One attempt at a write-back."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        table: str,
        search_id: str,
        store: str,
        verdicts: tuple[str, ...],
        run_id: str,
    ) -> None:
        self._connection, self._table, self._name = connection, f"{LAKE}.{quoted(table)}", table
        self._search_id, self._store, self._verdicts, self._run_id = search_id, store, verdicts, run_id

    def of(self, rows: pa.Table) -> WriteBackReceipt:
        """Merge the rows in one transaction, taken back whole where it fails."""
        try:
            before = self._newest()
            self._connection.execute("BEGIN")
            counts = self._merged(rows)
            if counts["inserted"] + counts["updated"]:
                self._connection.execute("COMMIT")
                after = self._written()
            else:
                # an empty transaction would still leave a table behind where there was none
                self._connection.execute("ROLLBACK")
                after = before
        except duckdb.Error as error:
            raise self._refused(error) from error
        return WriteBackReceipt(snapshot_before=before, snapshot_after=after, **counts)

    def _refused(self, error: duckdb.Error) -> LakeWriteError:
        text = str(error)
        if "conflict" in text.lower() or ducklake.is_locked(text):
            return _LostRaceError(f"other writers came first at {self._name}, each time; nothing was written: {text}")
        return LakeWriteError(
            f"the lake's table {self._name} cannot be written, and nothing was: {text}; "
            "check the catalogue, its folder of files, their permissions and free space"
        )

    def _newest(self) -> int:
        found = self._connection.execute(f"SELECT max(snapshot_id) FROM ducklake_snapshots('{LAKE}')").fetchone()
        return int(found[0]) if found and found[0] is not None else 0

    def _written(self) -> int:
        """The snapshot this run's commit made; others may have committed since."""
        found = self._connection.execute(
            f"SELECT max(snapshot_id) FROM ducklake_snapshots('{LAKE}') WHERE commit_extra_info = ?",
            [self._extra],
        ).fetchone()
        return int(found[0]) if found and found[0] is not None else self._newest()

    @property
    def _extra(self) -> str:
        return json.dumps({"run_id": self._run_id, "search_id": self._search_id, "store": self._store})

    def _merged(self, rows: pa.Table) -> dict[str, int]:
        connection = self._connection
        self._ensure_table()
        connection.register("told", rows)
        try:
            self._stage()
            counts = self._counts()
            if counts["inserted"] + counts["updated"]:
                self._announce()
                self._merge()
        finally:
            connection.unregister("told")
        return counts

    def _ensure_table(self) -> None:
        columns = ", ".join(f'"{name}" {kind}' for name, kind in LAKE_COLUMNS.items())
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS {self._table} ({columns})")
        found = {name: kind for name, kind, *_ in self._connection.execute(f"DESCRIBE {self._table}").fetchall()}
        differing = [name for name, kind in LAKE_COLUMNS.items() if not found.get(name, "").startswith(kind)]
        if differing or found.keys() - LAKE_COLUMNS.keys():
            self._connection.execute("ROLLBACK")
            raise LakeWriteError(
                f"the lake has a table {self._name} of other columns ({', '.join(found)}), which is no table of "
                "detections; name another one in `write_back_table`"
            )

    def _stage(self) -> None:
        """The temporary table ``staged``: rows as they shall stand, and whether they are there."""
        connection, told = self._connection, ", ".join(f'"{name}"' for name in ROWS.names if name != "geometry")
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE judged AS SELECT {told}, ST_GeomFromWKB(geometry) AS geometry "
            f"FROM told WHERE verdict IN (SELECT unnest(?)) "
            f"OR detection_id IN (SELECT detection_id FROM {self._table})",
            [list(self._verdicts)],
        )
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE gone AS SELECT * FROM {self._table} WHERE search_id = ? AND store = ? "
            "AND detection_id NOT IN (SELECT detection_id FROM judged)",
            [self._search_id, self._store],
        )
        # older and newer rows of other searches that share ground with this one's
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE around AS SELECT t.* FROM {self._table} AS t WHERE t.search_id <> ? "
            "AND EXISTS (SELECT 1 FROM (SELECT geometry FROM judged UNION ALL SELECT geometry FROM gone) AS j "
            "WHERE ST_Intersects(t.geometry, j.geometry))",
            [self._search_id],
        )
        parts = [
            f"SELECT {_listed('judged')} FROM judged",
            f"SELECT {_listed('gone', verdict=literal(WITHDRAWN))} FROM gone",
            f"SELECT {_listed('around')} FROM around",
        ]
        connection.execute(f"CREATE OR REPLACE TEMP TABLE shared AS {' UNION ALL '.join(parts)}")
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE others AS SELECT {_listed('shared')} FROM shared UNION ALL "
            f"SELECT {_listed('t')} FROM {self._table} AS t "
            "WHERE detection_id NOT IN (SELECT detection_id FROM shared) "
            "AND EXISTS (SELECT 1 FROM around WHERE ST_Intersects(t.geometry, around.geometry))"
        )
        connection.execute(_PAIRS)
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE staged AS SELECT s.*, n.newer AS superseded_by "
            f"FROM shared AS s LEFT JOIN ({_NEWER}) AS n ON s.detection_id = n.older"
        )

    def _counts(self) -> dict[str, int]:
        found = self._connection.execute(
            "SELECT count(*) FILTER (t.detection_id IS NULL), "
            f"count(*) FILTER (t.detection_id IS NOT NULL AND ({_DIFFERS})), "
            f"count(*) FILTER (t.detection_id IS NOT NULL AND NOT ({_DIFFERS}) AND s.search_id = ?), "
            f"count(*) FILTER (({_DIFFERS}) AND s.verdict = '{WITHDRAWN}'), "
            "count(*) FILTER (s.superseded_by IS NOT NULL AND t.superseded_by IS DISTINCT FROM s.superseded_by) "
            f"FROM staged AS s LEFT JOIN {self._table} AS t ON t.detection_id = s.detection_id",
            [self._search_id],
        ).fetchone()
        names = ("inserted", "updated", "unchanged", "withdrawn", "superseded")
        return dict(zip(names, map(int, found or (0,) * len(names)), strict=True))

    def _announce(self) -> None:
        """Sign the snapshot, and make it one that no second writer of this table can commit beside.

        DuckLake has no unique keys and lets two transactions insert the same id. A table that one of them alters
        fails the other, which looks again.
        """
        told = f"validated detections; last written by run {self._run_id}"
        self._connection.execute(f"COMMENT ON TABLE {self._table} IS {literal(told)}")
        self._connection.execute(
            f"CALL {LAKE}.set_commit_message('aegir', {literal(f'write-back of search {self._search_id}')}, "
            f"extra_info => {literal(self._extra)})"
        )

    def _merge(self) -> None:
        wanted = [*_MERGED, *_WHO]
        updates = ", ".join(f'"{name}" = s."{name}"' for name in wanted)
        names, values = (", ".join(f'{before}"{name}"' for name in wanted) for before in ("", "s."))
        self._connection.execute(
            f"MERGE INTO {self._table} AS t USING (SELECT *, {literal(self._run_id)} AS written_run_id, "
            "now() AS written_at FROM staged) AS s ON t.detection_id = s.detection_id "
            f"WHEN MATCHED AND ({_DIFFERS}) THEN UPDATE SET {updates} "
            f"WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"
        )


def _listed(table: str, **replaced: str) -> str:
    names = [name for name in _MERGED if name != "superseded_by"]
    return ", ".join(f'{replaced[name]} AS "{name}"' if name in replaced else f'{table}."{name}"' for name in names)


def _different(name: str) -> str:
    if name == "geometry":
        return "ST_AsWKB(t.geometry) IS DISTINCT FROM ST_AsWKB(s.geometry)"
    return f't."{name}" IS DISTINCT FROM s."{name}"'


_DIFFERS = " OR ".join(_different(name) for name in _MERGED if name != "detection_id")

# DuckDB joins by an index of the geometries only where ST_Intersects is the join's one condition
_PAIRS = """
CREATE OR REPLACE TEMP TABLE pairs AS
SELECT o.detection_id AS older, o.search_id AS older_search, o.found_at AS older_at, o.geometry AS older_geometry,
    n.detection_id AS newer, n.search_id AS newer_search, n.found_at AS newer_at, n.geometry AS newer_geometry,
    n.verdict
FROM shared AS o JOIN others AS n ON ST_Intersects(o.geometry, n.geometry)
"""
_NEWER = f"""
SELECT older, max_by(newer, (newer_at, newer)) AS newer FROM pairs
WHERE verdict = 'accept' AND newer_search <> older_search AND newer_at > older_at
AND ST_Area(ST_Intersection(ST_MakeValid(older_geometry), ST_MakeValid(newer_geometry)))
    >= {SAME_OBJECT} * least(ST_Area(older_geometry), ST_Area(newer_geometry))
GROUP BY older
"""
