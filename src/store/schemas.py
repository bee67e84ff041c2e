"""Every table of the store, once: its Arrow schema, its primary key, the version of them all.

Field metadata carries ``doc`` and, where they apply, ``unit``, ``axes`` and ``crs``. A table whose schema carries
an ``unenforced primary key`` is written by ``merge_insert`` on it (``store.lance_io.write``). Columns are declared in
:mod:`store.chip_schemas`, :mod:`store.backfill_schemas`, :mod:`store.discovery_schemas` and
:mod:`store.record_schemas`.
"""

import json

import pyarrow as pa

from store.backfill_schemas import CANDIDATES
from store.chip_schemas import MASKS, PROMPTS, TRAINING_DATA, masks, training_data
from store.columns import LONLAT, SCHEMA_VERSION
from store.discovery_schemas import DETECTIONS, EVIDENCE, ROUNDS
from store.record_schemas import CONTEXT, DATASETS, ERRORS, LEASES, RUNS, SCENES, SPLITS
from utils.errors import SchemaError, UnknownNameError
from utils.types import ChipProfile

__all__ = [
    "CANDIDATES",
    "CONTEXT",
    "DATASETS",
    "DETECTIONS",
    "ERRORS",
    "EVIDENCE",
    "LEASES",
    "LONLAT",
    "MASKS",
    "PROMPTS",
    "ROUNDS",
    "RUNS",
    "SCENES",
    "SCHEMA_VERSION",
    "SPLITS",
    "TABLES",
    "TRAINING_DATA",
    "masks",
    "primary_key",
    "profile_of",
    "schema_for",
    "training_data",
]

_SCHEMAS = (
    *(TRAINING_DATA, MASKS, PROMPTS),
    *(SCENES, RUNS, ERRORS, SPLITS, DATASETS, CONTEXT, LEASES),
    *(DETECTIONS, EVIDENCE, ROUNDS, CANDIDATES),
)
TABLES: dict[str, pa.Schema] = {schema.metadata[b"table"].decode(): schema for schema in _SCHEMAS}
"""Table name → schema (of the default profile where a table has one)."""


def schema_for(table: str, profile: ChipProfile | None = None) -> pa.Schema:
    """The schema of ``table``, for ``profile`` where the table depends on one.

    Raises:
        UnknownNameError: there is no such table.
    """
    if table not in TABLES:
        raise UnknownNameError("table", table, list(TABLES))
    return {"training_data": training_data, "masks": masks}.get(table, lambda _: TABLES[table])(profile)


def primary_key(schema: pa.Schema) -> str:
    """Name of the primary-key column.

    Raises:
        SchemaError: the schema has none.
    """
    for field in schema:
        if field.metadata and b"lance-schema:unenforced-primary-key" in field.metadata:
            return str(field.name)
    raise SchemaError("the schema has no primary key; mark one field as lance-schema:unenforced-primary-key")


def profile_of(schema: pa.Schema) -> ChipProfile:
    """The profile written in a table's schema metadata.

    Raises:
        SchemaError: the schema carries none.
    """
    raw = (schema.metadata or {}).get(b"profile")
    if raw is None:
        raise SchemaError("the table's schema carries no profile; it was not written by this project")
    values = json.loads(raw)
    return ChipProfile(**{**values, "msi_bands": tuple(values["msi_bands"])})
