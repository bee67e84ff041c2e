"""Settings of the context flow: read from YAML, checked before any driver is built."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dataflows._settings_file import catalog_beside, file_values
from store.catalogue_place import sealed
from store.context_targets import TargetTable
from store.ducklake_context import ContextTable
from store.fingerprint import digest
from store.lance_io import DEFAULT_STORE
from store.storage_options import checked, table_store, use
from utils.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """Everything the context flow can be told."""

    catalog: str
    """DuckLake catalogue."""
    context: tuple[ContextTable, ...]
    """Context tables of the catalogue, their columns and search distances."""
    store: str = DEFAULT_STORE
    """LanceDB store: where the targets are and the rows go to; a folder, or a URI such as ``s3://bucket/prefix``."""
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    """How an object store is reached, see docs/object_stores.md; what is secret in it never shows."""
    targets: TargetTable = field(default_factory=TargetTable)
    """Table of chips or detections: ``table``, ``id``, and ``geometry`` or ``lon`` and ``lat``."""
    snapshot: int | None = None
    """Snapshot of the catalogue; None is the newest."""
    aoi_bbox_lonlat: tuple[float, float, float, float] | None = None
    """Targets whose centre lies in it are done: west, south, east, north in degrees (EPSG:4326); None does all."""
    partition_level: int = 12
    """S2 level of the unit of work: features of one cell's targets are in memory at a time."""
    commit_every: int = 8
    """Partitions per commit."""

    def __post_init__(self) -> None:
        """Refuse values no flow could run with; a password in ``catalog`` stays in memory only."""
        object.__setattr__(self, "catalog", sealed(self.catalog))
        object.__setattr__(self, "storage_options", checked(self.storage_options))
        object.__setattr__(self, "store", table_store(self.store))
        use(self.storage_options, [self.store])
        problems = []
        if not self.store or not self.catalog:
            problems.append("store and catalog must name places")
        names = [table.name for table in self.context]
        if not names or len(set(names)) != len(names) or len(names) > 62:
            problems.append("context lists 1 to 62 tables, each under its own name")
        if not 1 <= self.partition_level <= 30:
            problems.append("partition_level is an S2 level, 1 to 30")
        if self.commit_every < 1:
            problems.append("commit_every must be above 0")
        if self.snapshot is not None and self.snapshot < 1:
            problems.append("snapshot is a number from 1 on, or null for the newest")
        if self.aoi_bbox_lonlat is not None:
            west, south, east, north = self.aoi_bbox_lonlat
            if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
                problems.append(f"aoi_bbox_lonlat {self.aoi_bbox_lonlat} is not west, south, east, north in degrees")
        if problems:
            raise ConfigError("; ".join(problems))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A process that is handed the settings can reach their store."""
        self.__dict__.update(state)
        use(self.storage_options, [self.store])

    @property
    def context_config(self) -> str:
        """Hash of the settings that shape rows and failures."""
        return digest({"context": [asdict(table) for table in self.context], "targets": asdict(self.targets)})


def from_mapping(values: Mapping[str, Any]) -> ContextConfig:
    """Checked settings from plain values.

    Raises:
        ConfigError: a setting is unknown, missing or of the wrong kind.
    """
    known = [f.name for f in fields(ContextConfig)]
    unknown = sorted(set(values) - set(known))
    if unknown or not {"catalog", "context"} <= set(values):
        raise ConfigError(
            f"the context flow needs `catalog` and `context`; unknown: {unknown}; known: {', '.join(known)}"
        )
    made = dict(values)
    if not isinstance(made["context"], list | tuple):
        raise ConfigError("context is a list of tables, such as [{name: buildings, table: buildings, id: id}]")
    made["context"] = tuple(
        table if isinstance(table, ContextTable) else ContextTable.from_mapping(table) for table in made["context"]
    )
    targets = made.get("targets", TargetTable())
    made["targets"] = targets if isinstance(targets, TargetTable) else TargetTable.from_mapping(targets)
    for name in ("catalog", "store"):
        if name in made and not isinstance(made[name], str | Path):
            raise ConfigError(f"{name} must be text, got {made[name]!r}")
        made |= {name: str(made[name])} if name in made else {}
    for name in ("snapshot", "partition_level", "commit_every"):
        value = made.get(name)
        if (
            name in made
            and (isinstance(value, bool) or not isinstance(value, int))
            and not (name == "snapshot" and value is None)
        ):
            raise ConfigError(f"{name} must be a whole number, got {value!r}")
    made["aoi_bbox_lonlat"] = _box(made.get("aoi_bbox_lonlat"))
    return ContextConfig(**made)


def _box(value: object) -> tuple[float, float, float, float] | None:
    if value is None:
        return None
    if (
        not isinstance(value, list | tuple)
        or len(value) != 4
        or not all(isinstance(side, int | float) and not isinstance(side, bool) for side in value)
    ):
        raise ConfigError(f"aoi_bbox_lonlat is west, south, east, north in degrees, got {value!r}")
    west, south, east, north = map(float, value)
    return west, south, east, north


def load(path: str | Path, **changes: Any) -> ContextConfig:
    """Settings from a YAML file; its relative paths are relative to the file.

    Args:
        path: the file.
        changes: settings that replace the file's; None takes one away.

    Raises:
        ConfigError: there is no such file, it is no YAML mapping, or a setting is refused.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"no settings at {file}; write a context.yaml for your lake (docs/context.md)")
    values = file_values(file, "context")
    if values.get("catalog"):
        values["catalog"] = catalog_beside(file, values["catalog"])
    merged = {name: value for name, value in (values | changes).items() if value is not None or name not in changes}
    return from_mapping(merged)
