"""How large a table is: rows, fragments, versions and bytes, and how wide its rows are."""

import math
from dataclasses import dataclass
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.compute as pc

from store.lance_io import open_table, table_names
from store.schemas import profile_of
from utils.errors import StoreError, TableNotFoundError

_TEXT_BYTES = 40
_WKB_BYTES = 200
# raw masks of 0, 1 and 255 compress to about half a per cent; a fifth of a tenth leaves room for ragged ones
_MASK_SHARE = 0.02


@dataclass(frozen=True, kw_only=True)
class TableState:
    """A table at one moment."""

    version: int
    """Newest version number."""
    versions: int
    """Versions that can be opened."""
    rows: int
    """Rows of the newest version."""
    fragments: int
    """Data fragments of the newest version."""
    bytes_stored: int
    """All files of all versions, bytes."""


def state_of(dataset: lance.LanceDataset) -> TableState:
    """State of an open table."""
    files = dataset.all_files().read_all()
    return TableState(
        version=int(dataset.version),
        versions=len(dataset.version_refs()),
        rows=int(dataset.count_rows()),
        fragments=len(dataset.get_fragments()),
        bytes_stored=int(pc.sum(files["size_bytes"]).as_py() or 0),
    )


def tables_named(uri: str | Path, wanted: list[str] | None) -> list[str]:
    """The tables to work on: those named, each of which must exist, or all of the store.

    Raises:
        StoreError: there is no store at ``uri``.
        TableNotFoundError: a named table does not exist.
    """
    if "://" not in str(uri) and not Path(uri).is_dir():
        raise StoreError(f"no store at {uri}; name one with --store, or make one with `python -m dataflows run build`")
    if wanted is None:
        return whole_tables(uri)
    for name in wanted:
        open_table(uri, name)
    return list(dict.fromkeys(wanted))


def whole_tables(uri: str | Path) -> list[str]:
    """Tables with at least one committed version, sorted; folders of unfinished creation are none.

    Raises:
        StoreError: a table is there and cannot be read.
    """
    whole = []
    for name in table_names(uri):
        try:
            open_table(uri, name)
        except TableNotFoundError:
            continue
        whole.append(name)
    return whole


def row_bytes(schema: pa.Schema, *, stored: bool) -> int:
    """Nominal bytes of one row, from the schema alone so that it is the same before and after compaction.

    Args:
        schema: schema of the table.
        stored: as files hold it, masks compressed; else as memory holds it.
    """
    return max(1, math.ceil(sum(_field_bytes(field, schema, stored=stored) for field in schema)))


def _field_bytes(field: pa.Field, schema: pa.Schema, *, stored: bool) -> float:
    kind = field.type
    if isinstance(kind, pa.FixedShapeTensorType):
        return float(math.prod(kind.shape) * kind.value_type.bit_width / 8)
    if pa.types.is_large_binary(kind):
        return _mask_bytes(field.name, schema) * (_MASK_SHARE if stored else 1.0)
    if pa.types.is_binary(kind):
        return _WKB_BYTES
    if pa.types.is_fixed_size_list(kind):
        return float(kind.list_size * kind.value_type.bit_width / 8)
    try:
        return float(kind.bit_width / 8)
    except ValueError:
        return _TEXT_BYTES


def _mask_bytes(name: str, schema: pa.Schema) -> int:
    if b"profile" not in (schema.metadata or {}):
        return _WKB_BYTES
    profile = profile_of(schema)
    if name.startswith("msi"):
        return profile.msi_height * profile.msi_width
    return profile.height * profile.width
