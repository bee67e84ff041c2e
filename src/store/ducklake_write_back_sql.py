"""SQL of a write-back: judged detections beside the lake's table, as rows that shall stand there."""

from store.ducklake_detections import LAKE_COLUMNS, ROWS, WITHDRAWN
from store.sql import literal, literals

TOLD = "told"
"""Name the judged detections are registered under, schema :data:`store.ducklake_detections.ROWS`."""

SAME_OBJECT = 0.5
"""Detections of two searches are one object where they share this much of the smaller one's area. For a rejection it
is the larger one's: a rejected part says nothing of the whole, and a rejected heap nothing of what stands in it."""

_WHO = ("written_run_id", "written_at")
_MERGED = [name for name in LAKE_COLUMNS if name not in _WHO]


def staging(table: str, *, search_id: str, store: str, verdicts: tuple[str, ...]) -> list[str]:
    """Statements that make the temporary table ``staged``: rows of the lake as they shall stand.

    Args:
        table: the lake's table, quoted.
        search_id: search whose detections are told, beside rejected ones of others.
        store: LanceDB store that holds it.
        verdicts: verdicts that bring a detection into the lake.
    """
    told = ", ".join(f'"{name}"' for name in ROWS.names if name != "geometry")
    shared = [
        f"SELECT {_listed('judged')} FROM judged",
        f"SELECT {_listed('gone', verdict=literal(WITHDRAWN))} FROM gone",
        f"SELECT {_listed('around')} FROM around",
    ]
    own, there = f"search_id = {literal(search_id)}", f"store = {literal(store)}"
    brought = f"({own} AND verdict IN ({literals(verdicts)}))"
    held = f"detection_id IN (SELECT detection_id FROM {table} WHERE {own} OR {there})"
    return [
        _temporary("judgements", f"SELECT {told}, ST_GeomFromWKB(geometry) AS geometry FROM {TOLD}"),
        _temporary(
            "standing",
            f"SELECT {_FINDING} FROM {table} WHERE verdict = 'accept' "
            "AND detection_id NOT IN (SELECT detection_id FROM judgements) "
            f"UNION ALL SELECT {_FINDING} FROM judgements WHERE verdict = 'accept' AND ({brought} OR {held})",
        ),
        _temporary("rejected", f"SELECT {_FINDING} FROM judgements WHERE verdict = 'reject'"),
        _temporary("contested", _pairs("standing", "rejected")),
        _temporary(
            "judged",
            f"SELECT * FROM judgements WHERE {brought} OR {held} "
            f"OR detection_id IN (SELECT newer FROM contested WHERE {_FOUND_AGAIN})",
        ),
        _temporary(
            "gone",
            f"SELECT * FROM {table} WHERE {own} AND {there} AND detection_id NOT IN (SELECT detection_id FROM judged)",
        ),
        # older and newer rows of other searches that share ground with this one's
        _temporary(
            "around",
            f"SELECT t.* FROM {table} AS t WHERE NOT t.{own} AND detection_id NOT IN (SELECT detection_id FROM judged) "
            "AND EXISTS (SELECT 1 FROM (SELECT geometry FROM judged UNION ALL SELECT geometry FROM gone) AS j "
            "WHERE ST_Intersects(t.geometry, j.geometry))",
        ),
        _temporary("shared", " UNION ALL ".join(shared)),
        _temporary(
            "others",
            f"SELECT {_listed('shared')} FROM shared UNION ALL SELECT {_listed('t')} FROM {table} AS t "
            "WHERE detection_id NOT IN (SELECT detection_id FROM shared) "
            "AND EXISTS (SELECT 1 FROM around WHERE ST_Intersects(t.geometry, around.geometry))",
        ),
        _temporary("pairs", _pairs("shared", "others")),
        _temporary(
            "staged",
            "SELECT s.*, n.newer AS superseded_by, n.newer_verdict "
            f"FROM shared AS s LEFT JOIN ({_NEWER}) AS n ON s.detection_id = n.older",
        ),
    ]


def counting(table: str, *, search_id: str) -> str:
    """Query for one row: what merging ``staged`` does to the table, see ``WriteBackReceipt``."""
    changes = f"t.detection_id IS NOT NULL AND ({_DIFFERS})"
    return (
        "SELECT count(*) FILTER (t.detection_id IS NULL) AS inserted, "
        f"count(*) FILTER ({changes}) AS updated, "
        f"count(*) FILTER (t.detection_id IS NOT NULL AND NOT ({_DIFFERS}) AND s.search_id = {literal(search_id)}) "
        "AS unchanged, "
        f"count(*) FILTER (({_DIFFERS}) AND s.verdict = '{WITHDRAWN}') AS withdrawn, "
        "count(*) FILTER (s.superseded_by IS NOT NULL AND t.superseded_by IS DISTINCT FROM s.superseded_by) "
        "AS superseded, "
        "count(*) FILTER (t.superseded_by IS DISTINCT FROM s.superseded_by AND s.newer_verdict = 'reject') "
        "AS overruled "
        f"FROM staged AS s LEFT JOIN {table} AS t ON t.detection_id = s.detection_id"
    )


def merging(table: str, *, run_id: str) -> str:
    """Statement that brings the table's rows up to ``staged``; rows that are equal stay as they are."""
    wanted = [*_MERGED, *_WHO]
    updates = ", ".join(f'"{name}" = s."{name}"' for name in wanted)
    names, values = (", ".join(f'{before}"{name}"' for name in wanted) for before in ("", "s."))
    return (
        f"MERGE INTO {table} AS t USING (SELECT *, {literal(run_id)} AS written_run_id, "
        "now() AS written_at FROM staged) AS s ON t.detection_id = s.detection_id "
        f"WHEN MATCHED AND ({_DIFFERS}) THEN UPDATE SET {updates} "
        f"WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"
    )


def _temporary(name: str, query: str) -> str:
    return f"CREATE OR REPLACE TEMP TABLE {name} AS {query}"


def _listed(table: str, **replaced: str) -> str:
    names = [name for name in _MERGED if name != "superseded_by"]
    return ", ".join(f'{replaced[name]} AS "{name}"' if name in replaced else f'{table}."{name}"' for name in names)


def _different(name: str) -> str:
    if name == "geometry":
        return "ST_AsWKB(t.geometry) IS DISTINCT FROM ST_AsWKB(s.geometry)"
    return f't."{name}" IS DISTINCT FROM s."{name}"'


_DIFFERS = " OR ".join(_different(name) for name in _MERGED if name != "detection_id")

_FINDING = "detection_id, search_id, found_at, geometry, verdict"
_FOUND_AGAIN = f"""
newer_search <> older_search AND newer_at > older_at AND verdict IN ('accept', 'reject')
AND ST_Area(ST_Intersection(ST_MakeValid(older_geometry), ST_MakeValid(newer_geometry))) >= {SAME_OBJECT} * CASE verdict
    WHEN 'accept' THEN least(ST_Area(older_geometry), ST_Area(newer_geometry))
    ELSE greatest(ST_Area(older_geometry), ST_Area(newer_geometry)) END
"""
_NEWER = f"""
SELECT older, max_by(newer, (newer_at, newer)) AS newer, max_by(verdict, (newer_at, newer)) AS newer_verdict
FROM pairs WHERE {_FOUND_AGAIN} GROUP BY older
"""


def _pairs(older: str, newer: str) -> str:
    # DuckDB joins by an index of the geometries only where ST_Intersects is the join's one condition
    return (
        "SELECT o.detection_id AS older, o.search_id AS older_search, o.found_at AS older_at, "
        "o.geometry AS older_geometry, n.detection_id AS newer, n.search_id AS newer_search, n.found_at AS newer_at, "
        f"n.geometry AS newer_geometry, n.verdict FROM {older} AS o JOIN {newer} AS n "
        "ON ST_Intersects(o.geometry, n.geometry)"
    )
