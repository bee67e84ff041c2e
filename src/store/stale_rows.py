"""Rows of ``training_data`` whose recipes are not those of today: a scan of key columns, never of pixels."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from store import lance_io
from store.schemas import SCHEMA_VERSION
from store.sql import literal
from utils.errors import TableNotFoundError

STALE_COLUMNS = (
    "uuid", "run_id", "mask_source", "generation", "image_recipe", "mask_recipe", "index_recipe", "created_at",
)  # fmt: skip
"""Columns of :func:`stale_rows`."""


def stale_rows(uri: str | Path, recipes: Mapping[str, str]) -> pa.Table:
    """Rows with another recipe than ``recipes`` (stage → recipe) in any stage, columns :data:`STALE_COLUMNS`.

    A store without ``training_data`` has none.

    Raises:
        StoreError: the table cannot be read, or was written without recipes.
    """
    where = " OR ".join(f"{stage}_recipe != {literal(recipe)}" for stage, recipe in recipes.items())
    return lance_io.scan(uri, "training_data", STALE_COLUMNS, where)


def schema_version(uri: str | Path) -> int:
    """Schema version ``training_data`` was written with; today's without the table or where it does not say."""
    try:
        metadata = lance_io.open_table(uri, "training_data").schema.metadata or {}
    except TableNotFoundError:
        return SCHEMA_VERSION
    return int(metadata.get(b"schema_version", str(SCHEMA_VERSION)))


def row_count(uri: str | Path) -> int:
    """Rows of ``training_data``; 0 without the table."""
    try:
        return int(lance_io.open_table(uri, "training_data").count_rows())
    except TableNotFoundError:
        return 0
