"""Chips or detections a context is joined to: any table of the store with an id and a footprint or a position."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import shapely

from store import lance_io
from utils.errors import ConfigError, SchemaError

TARGETS = pa.schema([pa.field("target_id", pa.string()), pa.field("geometry", pa.binary())])
"""Targets as the store holds them: id and WKB in EPSG:4326."""
_BATCH = 16_384


@dataclass(frozen=True, kw_only=True)
class TargetTable:
    """A table of the store and which of its columns mean what."""

    table: str = "training_data"
    """Table name."""
    id: str = "uuid"
    """Column that names a row."""
    geometry: str | None = "footprint"
    """Column of WKB geometry, EPSG:4326; None when ``lon`` and ``lat`` are given."""
    lon: str | None = None
    """Column of longitude, degrees."""
    lat: str | None = None
    """Column of latitude, degrees."""

    def __post_init__(self) -> None:
        """Refuse a mapping without geometry."""
        coordinates = [name for name in (self.lon, self.lat) if name is not None]
        if len(coordinates) != (2 if self.geometry is None else 0):
            raise ConfigError(f"targets {self.table}: give either `geometry`, or both `lon` and `lat`")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "TargetTable":
        """The table described by plain values; ``lon`` and ``lat`` stand in for ``geometry``.

        Raises:
            ConfigError: a key is unknown or of the wrong kind, or the geometry is missing or given twice.
        """
        known = {f.name for f in fields(cls)}
        if not isinstance(values, Mapping) or set(values) - known:
            raise ConfigError(f"targets have the keys {sorted(known)}; got {values!r}")
        if not all(value is None or isinstance(value, str) for value in values.values()):
            raise ConfigError(f"targets: keys name a table and its columns; got {values!r}")
        given = dict(values)
        if "lon" in given or "lat" in given:
            given.setdefault("geometry", None)
        return cls(**given)

    @property
    def columns(self) -> list[str]:
        """Columns that are read."""
        return [name for name in (self.id, self.geometry, self.lon, self.lat) if name is not None]


def read_targets(
    uri: str | Path, targets: TargetTable, *, rows: Sequence[int] | None = None, version: int | None = None
) -> pa.Table:
    """Targets, schema :data:`TARGETS`: all of them in stored order, or the rows at the positions given.

    Raises:
        TableNotFoundError: there is no such table or version.
        SchemaError: a column is missing.
    """
    dataset = _open(uri, targets, version)
    if rows is None:
        return pa.concat_tables([TARGETS.empty_table(), *target_batches(uri, targets, version=version)])
    return _shaped(dataset.take(list(rows), columns=targets.columns), targets)


def target_batches(uri: str | Path, targets: TargetTable, *, version: int | None = None) -> Iterator[pa.Table]:
    """All targets in stored order, a batch at a time; only id and place are read.

    Raises:
        TableNotFoundError: there is no such table or version.
        SchemaError: a column is missing.
    """
    dataset = _open(uri, targets, version)
    for batch in dataset.to_batches(columns=targets.columns, batch_size=_BATCH, batch_readahead=2):
        yield _shaped(pa.table(batch), targets)


def _open(uri: str | Path, targets: TargetTable, version: int | None) -> Any:
    dataset = lance_io.open_table(uri, targets.table, version)
    absent = [name for name in targets.columns if name not in dataset.schema.names]
    if absent:
        raise SchemaError(
            f"table {targets.table} in {uri} has no column {', '.join(absent)}; "
            f"it has {', '.join(dataset.schema.names)}"
        )
    return dataset


def _shaped(rows: pa.Table, targets: TargetTable) -> pa.Table:
    if targets.geometry is not None:
        geometry = rows[targets.geometry]
    else:
        lon, lat = (rows[name].cast(pa.float64()).to_numpy() for name in (str(targets.lon), str(targets.lat)))
        geometry = pa.array(shapely.to_wkb(shapely.points(lon, lat)), pa.binary())
    try:
        return pa.table({"target_id": rows[targets.id], "geometry": geometry}).cast(TARGETS)
    except pa.ArrowException as error:
        raise SchemaError(f"table {targets.table}: id or geometry has an unusable type: {error}") from error
