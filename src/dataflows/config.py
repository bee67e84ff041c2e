"""Settings of the build flow: read from YAML, checked before any driver is built."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

from dataflows import mask_backends
from dataflows._settings import check_names, field_value, listed, section
from dataflows._settings_file import beside, catalog_beside, file_values, weights_beside
from dataflows.memory import most_chips
from store.area_of_interest import is_wkt
from store.calibration_files import DEFAULT, calibration_version
from store.catalogue_place import sealed
from store.dataset_manifests import stated_manifests
from store.ducklake_labels import LabelTable
from store.fingerprint import digest
from store.lance_io import DEFAULT_STORE
from store.places import normalised
from store.storage_options import checked, table_store, use
from utils.deduplication import DeduplicationRule
from utils.errors import ConfigError
from utils.types import S2_L2A_BANDS, ChipProfile

_NOT_IN_ROWS = {
    "store", "catalog", "snapshot", "labels", "vhr", "msi", "vhr_acquired", "aoi_bbox_lonlat", "truth", "commit_every",
    "aoi", "installed", "keep_undated", "datasets", "manifest", "deduplication",
    "background_near_ratio", "background_far_ratio", "max_label_m", "storage_options",
    "engine", "workers", "ray_address", "memory_budget", "lease_s", "network_retries", "network_wait_s",
}  # fmt: skip
_PATHS = ("truth", "manifest", "calibration")


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Everything the build flow can be told."""

    labels: tuple[LabelTable, ...]
    """Label tables of the catalogue, or files of labels, and their columns."""
    vhr: Mapping[str, Any]
    """``source`` (imagery source) and its options, such as ``root``."""
    catalog: str | None = None
    """DuckLake catalogue: a DuckDB or SQLite file, ``postgres:…`` or a URL; None where all labels are in files."""
    msi: Mapping[str, Any] | None = None
    """Likewise for multispectral imagery; None builds a table without multispectral chips."""
    store: str = DEFAULT_STORE
    """LanceDB store the tables go to: a folder, or a URI such as ``s3://bucket/prefix``."""
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    """How object stores are reached, see docs/object_stores.md; what is secret in it never shows."""
    snapshot: int | None = None
    """Snapshot of the catalogue; None is the newest."""
    aoi_bbox_lonlat: tuple[float, float, float, float] | None = None
    """Area of interest: west, south, east, north in degrees (EPSG:4326); None is everything."""
    aoi: str | None = None
    """Area of interest as WKT in degrees, or a vector file of polygons; None is everything."""
    installed: tuple[date | None, date | None] | None = None
    """First and last day of installation, each open when null; None is all labels."""
    keep_undated: bool = True
    """Whether labels without a readable date are kept where ``installed`` is set."""
    deduplication: Mapping[str, Any] = field(default_factory=dict)
    """Settings of ``utils.deduplication.DeduplicationRule``: when labels of several datasets are one object."""
    datasets: Mapping[str, Any] = field(default_factory=dict)
    """Dataset name → its manifest: ``doi``, ``title``, ``licence``, ``citation``, ``url``, ``version``, and so on."""
    manifest: str | None = None
    """JSON or YAML file of manifests, or ``table:NAME`` of the catalogue; what ``datasets`` says wins."""
    vhr_acquired: str = "latest"
    """``latest``, or the day (ISO 8601) VHR chips are taken from."""
    chip_px: int = 256
    """Rows and columns of a VHR chip."""
    gsd_m: float = 0.3
    """Ground sample distance of VHR chips, metres."""
    halo_px: int = 64
    """Pixels read around a VHR chip so that masks do not suffer at its edges."""
    msi_bands: tuple[str, ...] = S2_L2A_BANDS
    """Multispectral bands in stored order."""
    msi_px: int = 64
    """Rows and columns of a multispectral chip at 10 m."""
    min_valid_fraction: float = 0.5
    """Chips with fewer valid pixels are errors (labelled) or not taken (background)."""
    mask_backend: str = "classical"
    """Mask backend (registry name)."""
    mask_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the mask backend."""
    refinement: Mapping[str, Any] = field(default_factory=dict)
    """Settings of ``utils.refinement.RefinementSteps``."""
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    """Settings of ``utils.quality.Thresholds``."""
    calibration: str | None = None
    """How scores become quality: a file of ``python -m dataflows calibrate``, ``default`` (sample regions) or None."""
    margin_share: float = 0.0
    """Margin added to a label's box on each side, as a share of that side."""
    point_box_m: float = 15.0
    """Side of the search box around a point label, metres."""
    min_overlap: float = 0.1
    """A label makes a chip labelled when at least this share of the label, or of the chip, lies on it."""
    max_label_m: float = 5000.0
    """Labels larger than this are errors, metres."""
    background_near_ratio: float = 0.3
    """Background chips beside a labelled one, per labelled chip."""
    background_far_ratio: float = 0.3
    """Background chips farther away in the same partition, per labelled chip."""
    partition_level: int = 13
    """S2 level of the unit of work."""
    split_level: int = 13
    """S2 level of the cell that decides the split."""
    split_fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Wanted share of split cells for train, val and test."""
    guard_m: float = 50.0
    """Training footprints nearer than this to validation or test footprints are set aside."""
    h3_resolution: int = 10
    """H3 resolution of ``h3_cell``."""
    commit_every: int = 8
    """Partitions per commit."""
    engine: str = "local"
    """Where partitions are run: ``local``, ``processes`` or ``ray``."""
    workers: int | None = None
    """Worker processes of the engine; None is one per CPU."""
    ray_address: str | None = None
    """Address of a Ray cluster; None starts one on this machine."""
    memory_budget: str = "2GB"
    """Memory for chips in the making and rows waiting to be committed, over all workers."""
    lease_s: float = 300.0
    """Seconds after which other runs may take over a partition of a run that no longer shows a sign of life."""
    network_retries: int = 3
    """Tries after the first of what the network failed."""
    network_wait_s: float = 1.0
    """Longest wait before the first of them, seconds; it doubles each time, up to a minute."""
    truth: str | None = None
    """GeoJSON of true polygons, where a region has them; read by the report alone."""

    def __post_init__(self) -> None:
        """Refuse values no flow could run with; passwords leave the settings here, other secrets are sealed."""
        if self.catalog is not None:
            object.__setattr__(self, "catalog", sealed(self.catalog))
        object.__setattr__(self, "storage_options", checked(self.storage_options))
        object.__setattr__(self, "store", table_store(self.store))
        for name in ("vhr", "msi"):
            if (section := getattr(self, name)) and isinstance(section.get("root"), str):
                object.__setattr__(self, name, {**section, "root": normalised(section["root"])})
        self._use_storage_options()
        self._check_ranges()
        self._check_places()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A process that is handed the settings can reach their places."""
        self.__dict__.update(state)
        self._use_storage_options()

    def _use_storage_options(self) -> None:
        roots = [section.get("root") for section in (self.vhr, self.msi) if section]
        use(self.storage_options, [self.store, *(root for root in roots if isinstance(root, str))])

    def _check_ranges(self) -> None:
        positive = ("chip_px", "gsd_m", "msi_px", "point_box_m", "max_label_m", "commit_every", "lease_s")
        shares = ("min_valid_fraction", "min_overlap")
        problems = [f"{name} must be above 0" for name in positive if not getattr(self, name) > 0]
        problems += [f"{name} must lie in 0 to 1" for name in shares if not 0 <= getattr(self, name) <= 1]
        problems += [
            f"{name} must be 0 or more"
            for name in (
                "halo_px",
                "background_near_ratio",
                "background_far_ratio",
                "guard_m",
                "network_retries",
                "network_wait_s",
            )
            if getattr(self, name) < 0
        ]
        if not 0 <= self.partition_level <= 30 or not 0 <= self.split_level <= 30:
            problems.append("partition_level and split_level are S2 levels, 0 to 30")
        if not 0 <= self.h3_resolution <= 15:
            problems.append("h3_resolution is 0 to 15")
        if len(self.split_fractions) != 3 or min(self.split_fractions) < 0 or abs(sum(self.split_fractions) - 1) > 1e-6:
            problems.append("split_fractions are three shares, train, val and test, that sum to 1")
        if self.margin_share <= -0.5:
            problems.append("margin_share must be above -0.5, or no box is left")
        if self.workers is not None and self.workers < 1:
            problems.append("workers is a number from 1 on, or null for one per CPU")
        if self.snapshot is not None and self.snapshot < 1:
            problems.append("snapshot is a number from 1 on, or null for the newest")
        if len(set(self.msi_bands)) != len(self.msi_bands):
            problems.append("msi_bands names a band twice")
        if problems:
            raise ConfigError("; ".join(problems))
        _ = most_chips(self, workers=self.workers or 1)

    def _check_places(self) -> None:
        if not self.store or self.catalog == "":
            raise ConfigError("store and catalog must name places")
        if not self.labels:
            raise ConfigError("labels is empty; name at least one label table of the catalogue, or a file")
        self._check_labels()
        if self.vhr_acquired != "latest":
            try:
                date.fromisoformat(self.vhr_acquired)
            except ValueError as error:
                raise ConfigError(
                    f"vhr_acquired is {self.vhr_acquired!r}; give `latest` or a day, 2023-06-14"
                ) from error
        if self.aoi_bbox_lonlat is not None:
            west, south, east, north = self.aoi_bbox_lonlat
            if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
                raise ConfigError(f"aoi_bbox_lonlat {self.aoi_bbox_lonlat} is not west, south, east, north in degrees")

    def _check_labels(self) -> None:
        in_lake = [table.table for table in self.labels if table.table]
        if in_lake and self.catalog is None:
            raise ConfigError(
                f"label tables {', '.join(in_lake)} are in a lake, and `catalog` is missing; "
                "set it, or give labels as `file`"
            )
        names = [table.name for table in self.labels]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"labels names {', '.join(twice)} twice; one entry per table, file or layer")
        if self.installed is not None:
            first, last = self.installed
            if first is not None and last is not None and first > last:
                raise ConfigError(f"installed is {first} to {last}; the first day comes first")
        if self.manifest is not None and self.manifest.startswith("table:") and self.catalog is None:
            raise ConfigError(f"manifest {self.manifest} is in a lake, and `catalog` is missing")
        stated_manifests(self.datasets)
        _ = self.deduplication_rule

    @property
    def profile(self) -> ChipProfile:
        """The profile of the tables this build writes."""
        return ChipProfile(
            height=self.chip_px,
            width=self.chip_px,
            gsd_m=self.gsd_m,
            msi_bands=self.msi_bands if self.msi else (),
            msi_height=self.msi_px,
            msi_width=self.msi_px,
        )

    @property
    def deduplication_rule(self) -> DeduplicationRule:
        """When labels are duplicates, and which of them stays."""
        return section(DeduplicationRule, self.deduplication, "deduplication")

    @property
    def has_area(self) -> bool:
        """Whether less than all labels are asked for: an area, or dates."""
        return self.aoi_bbox_lonlat is not None or self.aoi is not None or self.installed is not None

    @property
    def row_settings(self) -> dict[str, Any]:
        """Settings that decide what a row holds; what is read and which chips are chosen is not among them."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_IN_ROWS} | {
            "mask_options": mask_backends.shaping(self.mask_options),
            "calibration": calibration_version(self.calibration),
            "vhr_source": self.vhr["source"],
            "msi_source": self.msi["source"] if self.msi else None,
        }

    @property
    def build_config(self) -> str:
        """Hash of :attr:`row_settings`."""
        return digest(self.row_settings)


def from_mapping(values: Mapping[str, Any]) -> BuildConfig:
    """Checked settings from plain values.

    Raises:
        ConfigError: a setting is unknown, missing or of the wrong kind.
    """
    check_names(BuildConfig, values)
    given = dict(values)
    given["labels"] = tuple(LabelTable.from_mapping(entry) for entry in listed(given["labels"]))
    for name in ("vhr", "msi"):
        section = given.get(name)
        if (section is not None or name == "vhr") and (
            not isinstance(section, Mapping) or not isinstance(section.get("source"), str)
        ):
            raise ConfigError(f"{name} needs a `source`, such as {{source: local, root: folder}}; got {section!r}")
    for f in fields(BuildConfig):
        if f.name in given and f.name not in ("labels", "vhr", "msi", "storage_options"):
            given[f.name] = field_value(f.name, given[f.name], f.type)
    return BuildConfig(**given)


def load(path: str | Path, *, labels_only: bool = False, **changes: Any) -> BuildConfig:
    """Settings from a YAML file; its relative paths are relative to the file.

    Args:
        path: the file.
        labels_only: whether the file may leave imagery out, because only labels are read.
        changes: settings that replace the file's; None takes one away.

    Raises:
        ConfigError: there is no such file, it is no YAML mapping, or a setting is refused.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(
            f"no settings at {file}; make the sample region with `python -m dataflows sample`, "
            "or write a flow.yaml for your data (docs/build_flow.md)"
        )
    values = file_values(file, "build")
    for name in _PATHS:
        if values.get(name) and values[name] != DEFAULT and not str(values[name]).startswith("table:"):
            values[name] = beside(file, name, values[name])
    _place_labels(file, values)
    if "mask_options" in values:
        values["mask_options"] = weights_beside(file, values["mask_options"])
    for name in ("vhr", "msi"):
        if isinstance(values.get(name), dict) and "root" in values[name]:
            values[name] = {**values[name], "root": beside(file, f"{name}.root", values[name]["root"])}
    if labels_only:
        values.setdefault("vhr", {"source": "local", "root": str(file.parent)})
    return from_mapping(values | changes)


def _place_labels(file: Path, values: dict[str, Any]) -> None:
    """Make places of catalogue, area and label files relative to the settings' file."""
    aoi, labels = values.get("aoi"), values.get("labels")
    if values.get("catalog"):
        values["catalog"] = catalog_beside(file, values["catalog"])
    if isinstance(aoi, str) and aoi and not is_wkt(aoi):
        values["aoi"] = beside(file, "aoi", aoi)
    if isinstance(labels, list):
        values["labels"] = [
            {**entry, "file": beside(file, "labels.file", entry["file"])}
            if isinstance(entry, dict) and entry.get("file")
            else entry
            for entry in labels
        ]
