"""The page that documents every table, rendered from the schemas."""

import pyarrow as pa

from store.listing import tensor_text
from store.schemas import SCHEMA_VERSION, TABLES, primary_key

_HEADER = f"""\
# Tables

Rendered from `src/store/schemas.py` by `python -m store docs --write docs/tables.md`; edit the schemas, not this page.
Schema version {SCHEMA_VERSION}.

A store is a folder of Lance tables, `data/lancedb` by default. Each opens with
`lancedb.connect(uri).open_table(name)`, with `lance.dataset("<uri>/<name>.lance")`, and in DuckDB with
`ATTACH '<uri>' AS ns (TYPE LANCE)` for reading only: its `DELETE` destroys data.
`python -m store tables` lists the tables of a store, `python -m store show TABLE` prints rows.

Every write is cast and checked against these schemas and goes in by `merge_insert` on the key. Tables with a profile
(chip size, ground sample distance, bands) are shown with the default one; the profile of a table on disk is in its
schema metadata.
"""


def render() -> str:
    """The whole page as Markdown."""
    contents = "\n".join(f"- [{name}](#{name}): {_meta(schema, 'doc')}" for name, schema in TABLES.items())
    sections = "\n".join(_section(name, schema) for name, schema in TABLES.items())
    return f"{_HEADER}\n{contents}\n\n{sections}"


def type_text(kind: pa.DataType) -> str:
    """A short name of an Arrow type: ``list<string>``, ``timestamp µs UTC``, ``tensor uint8 3×256×256``."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return tensor_text(kind)
    if pa.types.is_timestamp(kind):
        return f"timestamp {kind.unit.replace('us', 'µs')} {kind.tz or ''}".rstrip()
    if pa.types.is_map(kind):
        return f"map<{type_text(kind.key_type)}, {type_text(kind.item_type)}>"
    if pa.types.is_fixed_size_list(kind):
        return f"{type_text(kind.value_type)}[{kind.list_size}]"
    if pa.types.is_list(kind):
        return f"list<{type_text(kind.value_type)}>"
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def _section(name: str, schema: pa.Schema) -> str:
    lines = [
        f"## {name}",
        "",
        _meta(schema, "doc"),
        "",
        f"Key: `{primary_key(schema)}`. {len(schema)} columns.",
        "",
        "| column | type | null | unit | axes | CRS | meaning |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(field) for field in schema]
    return "\n".join(lines) + "\n"


def _row(field: pa.Field) -> str:
    cells = [f"`{field.name}`", f"`{type_text(field.type)}`", "yes" if field.nullable else ""]
    cells += [_meta(field, name) for name in ("unit", "axes", "crs", "doc")]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _meta(thing: pa.Schema | pa.Field, name: str) -> str:
    return str((thing.metadata or {}).get(name.encode(), b"").decode())
