"""Detections as files others read: GeoParquet 1.1, GeoJSON (RFC 7946), and GeoJSON lines ready for tippecanoe.

A file is written under another name beside its place and renamed when it is whole. No detection is a valid file too.
"""

import json
import math
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from store._durable_files import whole_file
from utils.errors import ConfigError, SearchError

ExportFormat = Literal["geoparquet", "geojson", "geojsonseq"]
SUFFIXES: dict[str, ExportFormat] = {
    ".parquet": "geoparquet",
    ".geoparquet": "geoparquet",
    ".geojson": "geojson",
    ".json": "geojson",
    ".geojsonl": "geojsonseq",
    ".geojsons": "geojsonseq",
    ".ndjson": "geojsonseq",
}
"""Suffix of a file → its format."""

TILE_LAYER = "detections"
"""Layer of vector tiles that lines for tippecanoe go to."""
TILE_PROPERTIES = {
    "detection_id": "id",
    "score": "s",
    "area_m2": "a",
    "match": "m",
    "verdict": "v",
    "confidence": "c",
    "acquired_at": "t",
}
"""Column → its short name in vector tiles."""

_CELLS = ("s2_cell", "s2_l10", "s2_l13", "h3_cell")
_BBOX = pa.struct([pa.field(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])
_GRID_DEG = 1e-7
_MOST_ZOOM = 14
# ground metres of a pixel at the equator at zoom 0, tiles of 256 pixels
_METRES_AT_ZOOM_0 = 2 * math.pi * 6_378_137 / 256
_ROWS_AT_ONCE = 4096
_ROWS_PER_GROUP = 50_000

_Shapes = NDArray[np.object_]


def export_detections(rows: pa.Table, path: str | Path, kind: ExportFormat | None = None) -> Path:
    """Write rows of ``detections`` to a file.

    Args:
        rows: schema of ``detections``; none make an empty, valid file.
        path: the file; an existing one is replaced when the new one is whole.
        kind: its format; None follows the suffix.

    Returns:
        The file.

    Raises:
        ConfigError: the suffix stands for no format.
        SearchError: the file cannot be written.
    """
    place = Path(path)
    chosen = kind or format_of(place)
    writers: dict[ExportFormat, Callable[[pa.Table, Path], None]] = {
        "geoparquet": _write_geoparquet,
        "geojson": _write_geojson,
        "geojsonseq": _write_lines,
    }
    try:
        with whole_file(place) as part:
            writers[chosen](rows, part)
    except OSError as error:
        raise SearchError(f"detections cannot be written to {place}: {error}") from error
    return place


def format_of(path: Path) -> ExportFormat:
    """Format the suffix of a file stands for.

    Raises:
        ConfigError: none.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path} has no suffix of a known format; use one of {', '.join(SUFFIXES)}, or say --format")
    return SUFFIXES[path.suffix.lower()]


def least_zoom(area_m2: float, lat: float) -> int:
    """Zoom level, 0 to 14, from which an object is about a pixel wide on a Web Mercator map of 256-pixel tiles.

    Args:
        area_m2: its area, square metres.
        lat: its latitude, degrees.
    """
    pixel_m = _METRES_AT_ZOOM_0 * math.cos(math.radians(lat))
    return min(_MOST_ZOOM, max(0, math.ceil(math.log2(pixel_m / math.sqrt(max(area_m2, 1e-6))))))


def _write_geoparquet(rows: pa.Table, path: Path) -> None:
    """GeoParquet 1.1: WKB in ``geometry``, its box in ``bbox``, longitude and latitude on WGS 84 (OGC:CRS84)."""
    outlines = _outlines(rows)
    bounds = shapely.bounds(outlines).reshape(-1, 4)
    boxes = pa.StructArray.from_arrays([pa.array(column) for column in bounds.T], fields=list(_BBOX))
    table = rows.drop_columns(["outline"])
    table = table.append_column(
        pa.field("geometry", pa.binary(), nullable=False), pa.array(shapely.to_wkb(outlines), pa.binary())
    )
    table = table.append_column(pa.field("bbox", _BBOX, nullable=False), boxes)
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted({shape.geom_type for shape in outlines}),
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}},
    }
    if len(rows):
        column["bbox"] = [*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist()]
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    kept = {key: value for key, value in (rows.schema.metadata or {}).items() if key in (b"table", b"schema_version")}
    pq.write_table(
        table.replace_schema_metadata(kept | {b"geo": json.dumps(geo).encode()}),
        path,
        compression="zstd",
        row_group_size=_ROWS_PER_GROUP,
    )


def _write_geojson(rows: pa.Table, path: Path) -> None:
    """One feature collection; 64-bit cell ids are hexadecimal text, as JSON's numbers end at 2⁵³."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for count, (row, outline) in enumerate(_features(rows)):
            properties = {name: _plain(name, value) for name, value in row.items()}
            feature = {"type": "Feature", "id": row["detection_id"], "geometry": outline, "properties": properties}
            file.write(("," if count else "") + "\n" + json.dumps(feature, ensure_ascii=False))
        file.write("\n]}\n")


def _write_lines(rows: pa.Table, path: Path) -> None:
    """A feature per line, with short property names and, for tippecanoe, the layer and the least zoom by size."""
    with path.open("w", encoding="utf-8") as file:
        for row, outline in _features(rows):
            values = {short: _plain(name, row[name]) for name, short in TILE_PROPERTIES.items()}
            feature = {
                "type": "Feature",
                "tippecanoe": {"layer": TILE_LAYER, "minzoom": least_zoom(row["area_m2"], row["lat"])},
                "geometry": outline,
                "properties": {name: value for name, value in values.items() if value is not None},
            }
            file.write(json.dumps(feature, ensure_ascii=False, separators=(",", ":")) + "\n")


def _features(rows: pa.Table) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every row with its outline as GeoJSON, to 10⁻⁷ degrees (about a centimetre)."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows.slice(start, _ROWS_AT_ONCE)
        # rounding alone could make an outline invalid
        outlines = shapely.orient_polygons(shapely.set_precision(_outlines(some), _GRID_DEG))
        texts = shapely.to_geojson(outlines)
        for row, text in zip(some.drop_columns(["outline"]).to_pylist(), texts, strict=True):
            yield row, _rounded(json.loads(text))


def _outlines(rows: pa.Table) -> _Shapes:
    """Outlines, exterior rings counter-clockwise."""
    outlines: _Shapes = shapely.from_wkb(rows["outline"].to_numpy())
    oriented: _Shapes = shapely.orient_polygons(outlines)
    return oriented


def _rounded(geometry: dict[str, Any]) -> dict[str, Any]:
    """The geometry with the digits of the grid alone."""

    def short(value: Any) -> Any:
        return round(value, 7) if isinstance(value, float) else [short(part) for part in value]

    return geometry | {"coordinates": short(geometry["coordinates"])}


def _plain(name: str, value: Any) -> Any:
    """A value as JSON holds it."""
    if name in _CELLS and value is not None:
        return f"{value:x}"
    if isinstance(value, datetime):
        return value.isoformat()
    return round(value, 6) if isinstance(value, float) else value
