"""Which column of a label table or file means what: stated in the settings, or known from a preset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from utils.errors import ConfigError, LabelTableError
from utils.geo import crs
from utils.label_geometry import GeometryRules

FILE = "file:"
"""Prefix of ``label_table`` where labels come from files; a place follows."""

PRESETS: dict[str, dict[str, str]] = {
    "ice_melt": {
        "id": "unified_id",
        "geometry": "geometry",
        "dataset": "dataset_name",
        "installed_on": "install_date",
        "area_m2": "area_m2",
        "capacity_mw": "capacity_mw",
        "h3_index": "h3_index",
    },
}
"""Preset → meaning → column. A column a table lacks is left out, unless it is its id or geometry."""

_LIKELY: dict[str, tuple[str, ...]] = {
    "id": ("id", "unified_id", "fid", "uid", "uuid", "gid", "objectid", "ogc_fid", "osm_id"),
    "geometry": ("geometry", "geom", "the_geom", "wkb_geometry", "wkt", "wkb", "shape"),
    "lon": ("lon", "longitude", "lng", "long", "x", "centroid_lon"),
    "lat": ("lat", "latitude", "y", "centroid_lat"),
    "dataset": ("dataset", "dataset_name", "source"),
    "installed_on": (
        "install_date",
        "installed_on",
        "installation_date",
        "date",
        "year",
        "constructed",
        "commissioned",
    ),
    "area_m2": ("area_m2", "area", "area_sqm", "shape_area"),
    "capacity_mw": ("capacity_mw", "capacity", "mw", "power_mw"),
    "positive_points": ("positive_points", "points_on", "foreground_points"),
    "negative_points": ("negative_points", "points_off", "background_points"),
}
POINTS = ("positive_points", "negative_points")
"""Meanings of columns that hold points beside a label's geometry."""
_OPTIONAL = ("dataset", "installed_on", "area_m2", "capacity_mw", "h3_index", *POINTS)
_COLUMNS = ("id", "geometry", "lon", "lat", *_OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """One label table of the lake, or labels in files, and which of their columns mean what."""

    table: str = ""
    """Table of the catalogue, or ``schema.table``; empty where ``file`` is given."""
    file: str | None = None
    """File, folder or glob pattern of labels: GeoParquet, GeoJSON, GeoPackage, shapefile, FlatGeobuf, CSV, Parquet."""
    layer: str | None = None
    """Layer of a file that has several."""
    preset: str | None = None
    """Name of a known set of columns (:data:`PRESETS`); columns named here win over it."""
    id: str | None = None
    """Column that names a label within its dataset."""
    geometry: str | None = None
    """Column of geometry: DuckDB GEOMETRY, WKB (BLOB) or WKT (VARCHAR); None when ``lon`` and ``lat`` are given."""
    lon: str | None = None
    """Column of the x coordinate (longitude in a geographic CRS) of point labels."""
    lat: str | None = None
    """Column of the y coordinate (latitude in a geographic CRS) of point labels."""
    crs: str | None = None
    """CRS of the geometry, x before y; None is what the table or file says, else EPSG:4326."""
    override_crs: bool = False
    """Whether ``crs`` replaces what the file and its geometries say."""
    axes: str = "xy"
    """``xy``, or ``yx`` where coordinates are stored y (latitude) first."""
    expected_bbox_lonlat: tuple[float, float, float, float] | None = None
    """Where the data set is known to lie; labels outside that lie inside with their axes swapped are swapped."""
    dataset: str | None = None
    """Column that names the dataset."""
    dataset_name: str | None = None
    """Name of the dataset where no column does; by default the table's, file's or folder's name."""
    installed_on: str | None = None
    """Column of the installation date: a date, a time, ISO text, or a year (text or number), which is its first day."""
    area_m2: str | None = None
    """Column of the area the dataset states, m²."""
    capacity_mw: str | None = None
    """Column of the capacity the dataset states, MW."""
    h3_index: str | None = None
    """Column of an H3 cell (number or hexadecimal text); compared with the geometry by ``labels check``."""
    positive_points: str | None = None
    """Column of points on the object: a point or multi-point, GEOMETRY, WKB or WKT, in the label's CRS."""
    negative_points: str | None = None
    """Column of points off the object, likewise."""

    def __post_init__(self) -> None:
        """Refuse a mapping that cannot be read."""
        if bool(self.table) == bool(self.file):
            raise ConfigError("a label table needs either `table` (in the catalogue) or `file`")
        if self.table and self.layer:
            raise ConfigError(f"label table {self.table}: `layer` belongs to a `file`")
        if self.preset is not None and self.preset not in PRESETS:
            raise ConfigError(f"label table {self.name}: unknown preset {self.preset!r}; known: {', '.join(PRESETS)}")
        if self.axes not in ("xy", "yx"):
            raise ConfigError(f"label table {self.name}: axes is {self.axes!r}; give xy, or yx for latitude first")
        if self.override_crs and self.crs is None:
            raise ConfigError(f"label table {self.name}: `override_crs` needs a `crs`")
        self._check_columns()
        if self.expected_bbox_lonlat is not None:
            west, south, east, north = self.expected_bbox_lonlat
            if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
                raise ConfigError(
                    f"label table {self.name}: expected_bbox_lonlat {self.expected_bbox_lonlat} is not west, south, "
                    "east, north in degrees"
                )

    def _check_columns(self) -> None:
        coordinates = [name for name in (self.lon, self.lat) if name is not None]
        placed = self.geometry is not None or bool(coordinates)
        if placed and len(coordinates) != (2 if self.geometry is None else 0):
            raise ConfigError(f"label table {self.name}: give either `geometry`, or both `lon` and `lat`")
        if len(set(coordinates)) == 1 < len(coordinates):
            raise ConfigError(f"label table {self.name}: lon and lat are both {self.lon}; name a column for each")
        if self.preset is None and self.table and (self.id is None) == placed:
            raise ConfigError(
                f"label table {self.name}: give `id` and either `geometry`, or both `lon` and `lat`; or a `preset`"
            )

    @property
    def name(self) -> str:
        """Name of the source as it goes into ``label_table``."""
        return self.table or f"{FILE}{self.file}" + (f"#{self.layer}" if self.layer else "")

    def rules(self, system: str) -> GeometryRules:
        """How geometry in the CRS ``system`` is read and repaired."""
        return GeometryRules(
            crs=system,
            override_crs=self.override_crs,
            axes=self.axes,
            expected_bbox_lonlat=self.expected_bbox_lonlat,
        )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "LabelTable":
        """The table described by plain values.

        Raises:
            ConfigError: a key is unknown, a value of the wrong kind, or table, id or geometry is missing.
        """
        known = {f.name for f in fields(cls)}
        if not isinstance(values, Mapping) or set(values) - known or not {"table", "file"} & set(values):
            raise ConfigError(
                "a label table needs `table` or `file`, and columns or a preset; "
                f"known keys: {sorted(known)}; got {values!r}"
            )
        given = dict(values)
        for key, value in values.items():
            if key == "expected_bbox_lonlat" and value is not None:
                given[key] = _bbox(value)
            elif key == "override_crs":
                if not isinstance(value, bool):
                    raise ConfigError(f"label table: override_crs is true or false, got {value!r}")
            elif key == "crs" and isinstance(value, int) and not isinstance(value, bool):
                given[key] = f"EPSG:{value}"
            elif value is not None and not isinstance(value, str):
                raise ConfigError(f"label table: {key} must be text, got {value!r}")
        return cls(**given)


def resolved(mapping: LabelTable, columns: Mapping[str, str]) -> LabelTable:
    """The mapping with its preset and the only geometry column of a file filled in, checked against the columns.

    A table without any mapping takes the preset whose id and geometry columns it has.

    Args:
        mapping: what the settings say.
        columns: column name → DuckDB type.

    Raises:
        LabelTableError: a mapped column is missing, or id or geometry is not mapped.
    """
    full = _with_preset(mapping, columns)
    if full.geometry is None and full.lon is None and full.file is not None:
        taken = {getattr(full, key) for key in POINTS}
        shapes = [name for name, kind in columns.items() if kind.upper().startswith("GEOMETRY") and name not in taken]
        full = replace(full, geometry=shapes[0]) if len(shapes) == 1 else full
    absent = [name for name in (getattr(full, key) for key in _COLUMNS) if name is not None and name not in columns]
    if absent:
        raise LabelTableError(
            f"label table {mapping.name} has no column {', '.join(absent)}; it has {', '.join(columns)}"
        )
    missing = [] if full.id is not None else ["id"]
    if full.geometry is None and full.lon is None:
        missing.append("geometry (or lon and lat)")
    if missing:
        hints = "; ".join(f"{key}: {name}" for key, name in suggestions(full, columns).items())
        raise LabelTableError(
            f"label table {mapping.name}: no column is mapped to {' and '.join(missing)}; "
            f"it has {', '.join(columns)}" + (f"; perhaps {{{hints}}}" if hints else "")
        )
    return full


def _with_preset(mapping: LabelTable, columns: Mapping[str, str]) -> LabelTable:
    name = mapping.preset
    if name is None and mapping.id is None and mapping.geometry is None and mapping.lon is None:
        name = next((key for key, kept in PRESETS.items() if {kept["id"], kept["geometry"]} <= set(columns)), None)
    if name is None:
        return mapping
    known = PRESETS[name]
    filled: dict[str, Any] = {
        key: column
        for key, column in known.items()
        if getattr(mapping, key) is None
        and (column in columns or key not in _OPTIONAL)
        and not (key == "geometry" and mapping.lon is not None)
        and not (key == "dataset" and mapping.dataset_name is not None)
    }
    return replace(mapping, preset=name, **filled)


def suggestions(mapping: LabelTable, columns: Mapping[str, str]) -> dict[str, str]:
    """Meaning → column that could be mapped to it and is not."""
    used = {getattr(mapping, key) for key in _COLUMNS}
    lower = {name.lower(): name for name in columns if name not in used}
    placed = mapping.geometry is not None or mapping.lon is not None
    found = {}
    for key, names in _LIKELY.items():
        if getattr(mapping, key) is not None or (placed and key in ("geometry", "lon", "lat")):
            continue
        if key == "dataset" and mapping.dataset_name is not None:
            continue
        hit = next((lower[name] for name in names if name in lower), None)
        if hit is not None:
            found[key] = hit
    if "geometry" in found or not {"lon", "lat"} <= set(found):
        found = {key: name for key, name in found.items() if key not in ("lon", "lat")}
    return found


def stated_crs(mapping: LabelTable, kind: str | None, *, needed: bool = False) -> str:
    """CRS of a source: the mapping's, the one its geometry type carries, else EPSG:4326.

    Args:
        mapping: what the settings say.
        kind: DuckDB type of the geometry column, such as ``GEOMETRY('EPSG:32632')``; None for coordinates.
        needed: whether a source that names no CRS is refused.

    Raises:
        CRSError: the CRS is unknown.
        LabelTableError: mapping and source contradict each other, or neither names a CRS that is needed.
    """
    own = None
    if kind is not None and "'" in kind:
        own = kind[kind.index("'") + 1 : kind.rindex("'")].replace("''", "'")
    if mapping.crs is None:
        if own is None and needed:
            raise LabelTableError(f"{mapping.name} does not say its CRS; state it with `crs`, such as EPSG:32632")
        chosen = own or "EPSG:4326"
        crs(chosen)
        return chosen
    given = crs(mapping.crs)
    if own is not None and not mapping.override_crs and not given.equals(crs(own), ignore_axis_order=True):
        raise LabelTableError(
            f"{mapping.name} says its CRS is {crs(own).name}, the settings say {given.name}; take `crs` away, "
            "or add `override_crs: true` if the source is wrong"
        )
    return mapping.crs


def label_place(label_table: str, catalog: str | None, snapshot: int | None) -> tuple[str, int | None]:
    """Place and snapshot a label was read from: the catalogue's, or the file's and None.

    Args:
        label_table: column ``label_table`` of a label.
        catalog: catalogue of the run, redacted; None without one.
        snapshot: its snapshot.
    """
    if label_table.startswith(FILE):
        return label_table.removeprefix(FILE), None
    return catalog or "", snapshot


def _bbox(value: object) -> tuple[float, ...]:
    numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if len(numbers) != 4 or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise ConfigError(f"expected_bbox_lonlat must be 4 numbers, got {value!r}")
    return tuple(float(n) for n in numbers)
