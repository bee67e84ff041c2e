"""Rows of the table ``context``: what a join says of each target, and where it comes from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import pyarrow as pa

from store.ducklake_context import ContextTable
from store.schemas import CONTEXT
from utils.context_rule import MEASURES

_NAMESPACE = UUID("5b0c1f5a-5d0e-5c6e-9a45-0a7f3d1f9c21")


@dataclass(frozen=True, kw_only=True)
class ContextProvenance:
    """What every row of a run says of its origin."""

    run_id: str
    """Run (table ``runs``)."""
    recipe: str
    """Hash of code and settings."""
    catalog: str
    """DuckLake catalogue."""
    snapshots: Mapping[str, int]
    """Context table → snapshot it was read at."""
    configs: Mapping[str, str]
    """Context table → hash of its settings and data."""


def rows_of(
    joined: pa.Table, table: ContextTable, target_table: str, provenance: ContextProvenance, partition: int
) -> pa.Table:
    """Rows of one context table, schema ``store.schemas.CONTEXT``: one per target of ``joined``, in order."""
    made = _row_columns(joined, table)
    constant = {
        "target_table": target_table,
        "name": table.name,
        "kind": table.kind,
        "search_m": float(table.search_m),
        "lake_catalog": provenance.catalog,
        "lake_table": table.table,
        "lake_snapshot": provenance.snapshots[table.name],
        "partition": partition,
        "context_config": provenance.configs[table.name],
        "context_recipe": provenance.recipe,
        "run_id": provenance.run_id,
        "created_at": datetime.now(UTC),
    }
    count = len(joined)
    made |= {name: pa.repeat(pa.scalar(value, CONTEXT.field(name).type), count) for name, value in constant.items()}
    ids = [_row_id(target_table, one, table.name) for one in made["target_id"].to_pylist()]
    made["context_id"] = pa.array(ids, pa.string())
    return pa.table({name: made[name] for name in CONTEXT.names}).cast(CONTEXT)


def _row_id(target_table: str, target_id: str, name: str) -> str:
    """Key of a row of ``context``."""
    return str(uuid5(_NAMESPACE, f"{target_table}/{target_id}/{name}"))


def _row_columns(joined: pa.Table, table: ContextTable) -> dict[str, Any]:
    """Columns of ``context`` that the join says something about."""
    count, prefix = len(joined), f"{table.name}_"
    made: dict[str, Any] = {"target_id": joined["target_id"]}
    made |= {name: joined[prefix + name] for name in MEASURES}
    for column, measure in {
        "class_name": "class",
        "class_fraction": "class_fraction",
        "class_at_centre": "class_at_centre",
        "class_fractions": "class_fractions",
    }.items():
        kind = CONTEXT.field(column).type
        made[column] = joined[prefix + measure] if table.kind == "classes" else pa.nulls(count, kind)
    carried = [joined[prefix + name].to_pylist() for name in table.columns]
    near = joined[prefix + "nearest_id"].is_valid().to_pylist()
    made["attributes"] = pa.array(
        [
            json.dumps({name: values[k] for name, values in zip(table.columns, carried, strict=True)}, default=str)
            if there
            else None
            for k, there in enumerate(near)
        ],
        pa.string(),
    )
    return made
