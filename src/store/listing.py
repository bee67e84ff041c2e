"""What a store holds, read cheaply: its tables, their versions, and rows without their pixels."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import lance
import pyarrow as pa
import shapely

from store.lance_io import open_table
from store.places import is_remote
from store.remote_errors import typed_errors
from store.schemas import profile_of
from store.table_state import whole_tables
from utils.errors import SchemaError, StoreError

_LONGEST = 60


@dataclass(frozen=True, kw_only=True)
class TableInfo:
    """One table at its newest version."""

    table: str
    """Table name."""
    rows: int
    """Rows."""
    version: int
    """Newest version number."""
    columns: int
    """Columns."""
    bytes_on_disk: int
    """All files of all versions of a local store; the newest version's data files of a remote one. Bytes."""
    storage_version: str
    """Lance storage format version."""
    profile: str | None
    """Chip profile in words; None for tables without one."""


@dataclass(frozen=True, kw_only=True)
class VersionInfo:
    """One version of a table."""

    version: int
    """Version number."""
    written_at: datetime
    """When it was committed, UTC."""
    tags: tuple[str, ...]
    """Tags that pin it, sorted."""
    rows: int
    """Rows in it."""


@typed_errors
def tables(uri: str | Path) -> list[TableInfo]:
    """Every table of the store, sorted by name; folders of unfinished creation or copies are none.

    Raises:
        StoreError: there is no store at ``uri``.
    """
    if not is_remote(uri) and not Path(uri).is_dir():
        raise StoreError(f"no store at {uri}; name one with --store, or make one with `python -m dataflows run build`")
    return [_table_info(uri, name) for name in whole_tables(uri)]


@typed_errors
def versions(uri: str | Path, table: str, limit: int | None = None) -> list[VersionInfo]:
    """Versions of a table, newest first, at most ``limit``.

    Raises:
        TableNotFoundError: the table does not exist.
    """
    dataset = open_table(uri, table)
    tags: dict[int, list[str]] = {}
    for tag, entry in dataset.tags.list().items():
        tags.setdefault(int(entry["version"]), []).append(tag)
    newest_first = sorted(dataset.versions(), key=lambda entry: int(entry["version"]), reverse=True)
    return [
        VersionInfo(
            version=int(entry["version"]),
            written_at=cast("datetime", entry["timestamp"]).astimezone(UTC),
            tags=tuple(sorted(tags.get(int(entry["version"]), []))),
            rows=int(entry["metadata"]["total_rows"]),
        )
        for entry in newest_first[:limit]
    ]


@typed_errors
def rows(
    uri: str | Path,
    table: str,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    limit: int = 5,
    version: int | str | None = None,
) -> list[dict[str, Any]]:
    """Some rows as plain values; a tensor is told by its type and shape, bytes by their size or, for WKB, as text.

    Args:
        uri: the store.
        table: table name.
        columns: columns to show, in this order; all by default. Tensors are never read.
        where: Lance SQL filter.
        limit: most rows to show.
        version: version number or tag; the newest by default.

    Raises:
        TableNotFoundError: the table or the version does not exist.
        SchemaError: a column does not exist.
        StoreError: the filter is refused.
    """
    dataset = open_table(uri, table, version)
    schema: pa.Schema = dataset.schema
    shown = list(columns) if columns is not None else list(schema.names)
    unknown = [name for name in shown if name not in schema.names]
    if unknown:
        raise SchemaError(f"table {table!r} has no column {', '.join(unknown)}; it has: {', '.join(schema.names)}")
    tensors = [name for name in shown if isinstance(schema.field(name).type, pa.FixedShapeTensorType)]
    read = [name for name in shown if name not in tensors]
    found = _scan(dataset, read, where, limit)
    plain = {name: [_plain(value, schema.field(name)) for value in found[name].to_pylist()] for name in read}
    plain |= {name: [tensor_text(schema.field(name).type)] * len(found) for name in tensors}
    return [{name: plain[name][k] for name in shown} for k in range(len(found))]


def tensor_text(kind: pa.FixedShapeTensorType) -> str:
    """``tensor uint8 3×256×256``."""
    return f"tensor {kind.value_type} {'×'.join(str(size) for size in kind.shape)}"


def _scan(dataset: lance.LanceDataset, columns: list[str], where: str | None, limit: int) -> pa.Table:
    try:
        return dataset.scanner(
            columns=columns, filter=where, limit=limit, batch_size=256, with_row_id=not columns
        ).to_table()
    except (ValueError, OSError) as error:
        what = f"{dataset.uri} cannot be read" if where is None else f"the filter {where!r} is refused"
        reason = re.sub(r",? ?/\S+\.rs:\d+:\d+$", "", str(error))
        raise StoreError(f"{what}: {reason}") from error


def _table_info(uri: str | Path, name: str) -> TableInfo:
    dataset = open_table(uri, name)
    return TableInfo(
        table=name,
        rows=dataset.count_rows(),
        version=dataset.version,
        columns=len(dataset.schema),
        bytes_on_disk=_bytes_on_disk(uri, name, dataset),
        storage_version=str(dataset.data_storage_version),
        profile=_profile_text(dataset.schema),
    )


def _bytes_on_disk(uri: str | Path, name: str, dataset: lance.LanceDataset) -> int:
    if not is_remote(uri):
        folder = Path(uri) / f"{name}.lance"
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    newest = max(dataset.versions(), key=lambda entry: int(entry["version"]))
    return int(newest["metadata"]["total_files_size"])


def _profile_text(schema: pa.Schema) -> str | None:
    if b"profile" not in (schema.metadata or {}):
        return None
    profile = profile_of(schema)
    vhr = f"{profile.height}×{profile.width} px at {profile.gsd_m:g} m"
    if not profile.has_msi:
        return f"{vhr}, no MSI"
    return (
        f"{vhr}, MSI {len(profile.msi_bands)} bands {profile.msi_height}×{profile.msi_width} px "
        f"at {profile.msi_gsd_m:g} m"
    )


def _plain(value: Any, field: pa.Field) -> Any:
    """A value that prints on a line and goes into JSON; not-a-number stays visible as text."""
    if isinstance(value, bytes):
        return _wkb_text(value) if b"WKB" in (field.metadata or {}).get(b"doc", b"") else f"{len(value)} bytes"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return _plain_float(value, field.type)
    if isinstance(value, list) and pa.types.is_map(field.type):
        return {key: _plain(item, field.type.item_field) for key, item in value}
    if isinstance(value, list):
        return [_plain(item, field.type.value_field) for item in value]
    return value


def _plain_float(value: float, kind: pa.DataType) -> float | str:
    if not math.isfinite(value):
        return str(value)
    return float(f"{value:.7g}") if pa.types.is_float32(kind) else value


def _wkb_text(value: bytes) -> str:
    try:
        text = str(shapely.to_wkt(shapely.from_wkb(value), rounding_precision=5))
    except shapely.errors.GEOSException:
        return f"{len(value)} bytes (no WKB)"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
