"""Settings of discovery, validation and backfill: read from YAML, checked before anything starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dataflows import config as build_config
from dataflows._settings import check_names, field_value
from dataflows._settings_file import beside, file_values
from dataflows.config import BuildConfig
from store.area_of_interest import is_wkt
from store.ducklake_context import ContextTable
from utils.errors import ConfigError

_PATHS = ("out", "truth_confusers")
_COUNTS = ("block_px", "batch_size")


@dataclass(frozen=True, kw_only=True)
class DiscoveryConfig:
    """Everything discovery, validation and backfill can be told; imagery, labels and store are those of the build."""

    build: BuildConfig
    """Settings of the build flow: imagery, labels, catalogue, store, masks, split."""
    model: str | None = None
    """Checkpoint of ``python -m training fit``, or ``package.module:Class`` of a torch module."""
    model_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of a model by class path: its arguments, and which pixels it takes."""
    aoi_bbox_lonlat: tuple[float, float, float, float] | None = None
    """Area that is searched: west, south, east, north in degrees (EPSG:4326); None is all imagery."""
    aoi: str | None = None
    """Area that is searched as WKT in degrees, or a vector file of polygons; None is all imagery."""
    out: str = "data/discovery"
    """Folder of probability rasters and exports, one sub-folder per search."""
    block_px: int = 1536
    """Rows and columns of a block, the unit of work; memory is bounded by one block and its halo."""
    window_px: int | None = None
    """Rows and columns the model sees at a time; None is what it was trained on."""
    overlap_px: int = 64
    """Pixels that neighbouring windows share; they are blended there."""
    batch_size: int = 8
    """Windows a model takes at a time."""
    tta: bool = False
    """Whether probabilities are means over the eight turns and mirror images of each window."""
    amp: bool = True
    """Whether a GPU computes in mixed precision; without effect on a CPU."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:1``."""
    context: tuple[ContextTable, ...] = ()
    """Context tables of the lake that rules may look at."""
    prune: Mapping[str, Any] = field(default_factory=dict)
    """Rules that take blocks out of the search, by name, with their options; none by default."""
    detections: Mapping[str, Any] = field(default_factory=dict)
    """How probabilities become objects: threshold, least area, regularisation."""
    matching: Mapping[str, Any] = field(default_factory=dict)
    """When a detection is a known label: IoU, distance."""
    validation: Mapping[str, Any] = field(default_factory=dict)
    """Rules and thresholds of validation."""
    backfill: Mapping[str, Any] = field(default_factory=dict)
    """How judged detections become prompts, chips and hard negatives."""
    gate: Mapping[str, Any] = field(default_factory=dict)
    """When a generation is promoted, and how the candidate is trained."""
    truth_confusers: str | None = None
    """GeoJSON of known confusers with the property ``kind``, for reports; None is without."""
    write_back_table: str = "pv_detections"
    """Table of the DuckLake catalogue that validated detections go to."""

    def __post_init__(self) -> None:
        """Refuse values nothing could run with."""
        problems = [f"{name} must be above 0" for name in _COUNTS if getattr(self, name) < 1]
        if self.overlap_px < 0 or (self.window_px is not None and not 0 <= 2 * self.overlap_px <= self.window_px):
            problems.append("overlap_px is from 0 to half of window_px")
        if self.window_px is not None and self.window_px < 1:
            problems.append("window_px must be above 0, or null")
        if not self.out or not self.write_back_table:
            problems.append("out and write_back_table must name places")
        if self.aoi is not None and self.aoi_bbox_lonlat is not None:
            problems.append("give aoi or aoi_bbox_lonlat, not both")
        if self.aoi_bbox_lonlat is not None:
            west, south, east, north = self.aoi_bbox_lonlat
            if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
                problems.append(f"aoi_bbox_lonlat {self.aoi_bbox_lonlat} is not west, south, east, north in degrees")
        names = [table.name for table in self.context]
        if len(set(names)) != len(names):
            problems.append("context lists tables, each under its own name")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def store(self) -> str:
        """LanceDB store, that of the build."""
        return self.build.store


def from_mapping(values: Mapping[str, Any]) -> DiscoveryConfig:
    """Checked settings from plain values; ``build`` is a :class:`BuildConfig` or its plain values.

    Raises:
        ConfigError: a setting is unknown, missing or of the wrong kind.
    """
    check_names(DiscoveryConfig, values)
    given = dict(values)
    if not isinstance(given["build"], BuildConfig):
        given["build"] = build_config.from_mapping(given["build"])
    context = given.pop("context", ())
    if not isinstance(context, list | tuple):
        raise ConfigError("context is a list of tables, such as [{name: buildings, table: buildings, id: id}]")
    tables = tuple(t if isinstance(t, ContextTable) else ContextTable.from_mapping(t) for t in context)
    build = given.pop("build")
    told = {f.name: field_value(f.name, given[f.name], f.type) for f in fields(DiscoveryConfig) if f.name in given}
    return DiscoveryConfig(**told, build=build, context=tables)


def load(path: str | Path, *, store: str | None = None, **changes: Any) -> DiscoveryConfig:
    """Settings from a YAML file; its relative paths, that of the build's settings among them, are relative to the file.

    Args:
        path: the file; ``build`` in it names the settings of the build flow.
        store: replaces the build's store.
        changes: settings that replace the file's; a name ``build.NAME`` replaces one of the build.

    Raises:
        ConfigError: there is no such file, it is no YAML mapping, or a setting is refused.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(
            f"no settings at {file}; make the sample region with `python -m dataflows sample`, "
            "or write a discover.yaml for your data (docs/discovery.md)"
        )
    values = file_values(file, "discover", has_store=False)
    if "store" in values:
        raise ConfigError(f"{file}: the store is that of the build; name it in the settings `build` names, or --store")
    inner = {name.removeprefix("build."): value for name, value in changes.items() if name.startswith("build.")}
    outer = {name: value for name, value in changes.items() if not name.startswith("build.")}
    if store is not None:
        inner["store"] = store
    for name in _PATHS:
        if isinstance(values.get(name), str):
            values[name] = beside(file, name, values[name])
    if isinstance(values.get("aoi"), str) and not is_wkt(values["aoi"]):
        values["aoi"] = beside(file, "aoi", values["aoi"])
    model = values.get("model")
    if isinstance(model, str) and ":" not in model:
        values["model"] = beside(file, "model", model)
    build = values.get("build", "flow.yaml")
    if not isinstance(build, str):
        raise ConfigError(f"{file}: build is {build!r}, not the file of the build's settings")
    return from_mapping({**values, "build": build_config.load(beside(file, "build", build), **inner)} | outer)
