"""Rows held against the schema of their table: cast, or refused with what is wrong."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from store.schemas import primary_key, profile_of
from utils.errors import SchemaError


def conform(data: pa.Table, schema: pa.Schema) -> pa.Table:
    """``data`` cast to ``schema``: same columns in the schema's order, exact types, no forbidden null, unique keys.

    Raises:
        SchemaError: columns are missing or unknown, a value does not fit, a null stands where none may, or keys repeat.
    """
    table = (schema.metadata or {}).get(b"table", b"table").decode()
    wanted, given = schema.names, Counter(data.column_names)
    missing = [name for name in wanted if name not in given]
    unknown = sorted(given.keys() - set(wanted))
    twice = sorted(name for name, times in given.items() if times > 1)
    if missing or unknown or twice:
        raise SchemaError(f"{table}: missing columns {missing}, unknown columns {unknown}, repeated columns {twice}")
    ordered = data.select(wanted)
    for field in schema:
        _check_column(ordered[field.name], field, table)
    try:
        result = ordered.cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise SchemaError(f"{table}: a column does not fit its type: {error}") from error
    key = primary_key(schema)
    if pc.count_distinct(result[key]).as_py() != len(result):
        raise SchemaError(f"{table}: {key} repeats among the {len(result)} rows of one write")
    _check_mask_sizes(result, schema, table)
    return result


def _check_column(column: pa.ChunkedArray, field: pa.Field, table: str) -> None:
    """Refuse what a cast would let through: forbidden nulls, text as numbers, times without a zone."""
    place = f"{table}.{field.name}"
    if not field.nullable and column.null_count:
        raise SchemaError(f"{place} holds {column.null_count} nulls and may hold none")
    given, wanted = column.type, field.type
    if pa.types.is_null(given):
        return
    if _is_text(given) != _is_text(wanted):
        raise SchemaError(f"{place} is {given}, the schema wants {wanted}; convert it first")
    if pa.types.is_timestamp(given) and pa.types.is_timestamp(wanted) and given.tz is None:
        raise SchemaError(f"{place} holds times without a time zone; give UTC")
    if pa.types.is_fixed_size_list(wanted) and pc.list_flatten(column).null_count:
        raise SchemaError(f"{place} holds nulls inside its lists of {wanted.list_size}")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _check_mask_sizes(data: pa.Table, schema: pa.Schema, table: str) -> None:
    if b"profile" not in (schema.metadata or {}):
        return
    profile = profile_of(schema)
    sizes = {
        "generated_mask": profile.height * profile.width,
        "mask": profile.height * profile.width,
        "msi_mask": profile.msi_height * profile.msi_width,
    }
    for name in sizes.keys() & set(data.column_names):
        lengths = pc.unique(pc.binary_length(data[name])).drop_null().to_pylist()
        if any(length != sizes[name] for length in lengths):
            raise SchemaError(f"{table}.{name}: masks have {lengths} bytes, the profile wants {sizes[name]}")
