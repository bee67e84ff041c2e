"""What a table's schema is made of: columns with their unit, axes and CRS, the primary key, the version."""

import json
from dataclasses import asdict

import pyarrow as pa

from utils.types import ChipProfile

SCHEMA_VERSION = 3
"""Raised by every change of a column's name, type or meaning."""

LONLAT = "EPSG:4326"
TIME = pa.timestamp("us", tz="UTC")
AFFINE = pa.list_(pa.float64(), 6)
_KEY = {
    "lance-schema:unenforced-primary-key": "true",
    "lance-schema:unenforced-primary-key:position": "1",
}
_ZSTD = {"lance-encoding:compression": "zstd"}


def column(
    name: str,
    kind: pa.DataType,
    doc: str,
    *,
    unit: str | None = None,
    axes: str | None = None,
    crs: str | None = None,
    null: bool = False,
    key: bool = False,
    compressed: bool = False,
) -> pa.Field:
    """One column and what its values mean.

    Args:
        name: column name.
        kind: Arrow type.
        doc: one sentence.
        unit: unit of the values.
        axes: axes of a tensor, raster or geometry, in order.
        crs: CRS of a geometry or raster, or the column that holds its EPSG code.
        null: whether values may be missing.
        key: whether it is the table's primary key.
        compressed: whether Lance is told to compress it; by itself it compresses no value of a few kilobytes.
    """
    metadata = {"doc": doc} | {k: v for k, v in (("unit", unit), ("axes", axes), ("crs", crs)) if v is not None}
    told = (_KEY if key else {}) | (_ZSTD if compressed else {})
    return pa.field(name, kind, nullable=null, metadata=metadata | told)


def table_schema(table: str, doc: str, fields: list[pa.Field], profile: ChipProfile | None = None) -> pa.Schema:
    """Schema of one table, which names itself, its version and its profile."""
    metadata = {"table": table, "doc": doc, "schema_version": str(SCHEMA_VERSION)}
    if profile is not None:
        metadata["profile"] = json.dumps(asdict(profile), sort_keys=True)
    return pa.schema(fields, metadata=metadata)
