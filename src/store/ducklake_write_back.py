"""Validated detections in the label lakehouse: one MERGE by id in one transaction, which is one snapshot."""

import json
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from store import ducklake
from store.ducklake import LAKE
from store.ducklake_detections import LAKE_COLUMNS, ROWS
from store.ducklake_files import check_data_path
from store.ducklake_write_back_sql import TOLD, counting, merging, staging
from store.sql import literal, quoted
from utils.errors import CatalogBusyError, CatalogNotFoundError, LakeWriteError
from utils.retry import RetryPolicy

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
    """Of those inserted or updated, rows whose object a newer search has found again, and accepted or rejected."""
    overruled: int
    """Of those superseded, rows whose object the newer search rejected."""


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
    is deleted. Where a newer search found an object again, the older row names it in ``superseded_by``, whether that
    search's detection was accepted or rejected (a rejected one is inserted for it): one object has at most one row with
    ``verdict = 'accept' AND superseded_by IS NULL``, and none where its newest judgement is a rejection. All is one
    transaction: it makes one snapshot, or none where nothing changed. Writers at one table wait for each other, and
    none doubles a row.

    Args:
        catalog: the DuckLake catalogue.
        table: its table, made where there is none; ``schema.name`` names one of another schema.
        rows: all judged detections of the search, and all rejected ones of the store's other searches, schema
            :data:`store.ducklake_detections.ROWS`.
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
        connection.register(TOLD, rows)
        try:
            for statement in staging(
                self._table, search_id=self._search_id, store=self._store, verdicts=self._verdicts
            ):
                connection.execute(statement)
            [counts] = ducklake.query(connection, counting(self._table, search_id=self._search_id)).to_pylist()
            if counts["inserted"] + counts["updated"]:
                self._announce()
                connection.execute(merging(self._table, run_id=self._run_id))
        finally:
            connection.unregister(TOLD)
        return dict(counts)

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
