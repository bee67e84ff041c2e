"""Weak labels from a DuckLake catalogue: read at one snapshot, checked, in longitude and latitude."""

from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from hamilton.function_modifiers import dataloader, extract_fields, tag

from store import ducklake
from store.ducklake_labels import LabelTable, read_labels
from utils.errors import AegirError, GeometryError, LabelError, LabelTableError
from utils.failures import Failure
from utils.geo import grown_bounds, reproject
from utils.prompts import label_kind
from utils.types import ChipProfile

LABELS = pa.schema(
    [
        pa.field("label_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("label_table", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("geometry", pa.binary(), nullable=False, metadata={"crs": "EPSG:4326", "axes": "lon, lat"}),
        pa.field("installed_on", pa.date32()),
        pa.field("area_m2", pa.float64()),
        pa.field("capacity_mw", pa.float64()),
        pa.field("repairs", pa.list_(pa.string()), nullable=False),
        pa.field("merged", pa.map_(pa.string(), pa.float32()), nullable=False),
    ]
)
"""Labels every later stage can trust: unique ids, valid geometry, EPSG:4326."""


@tag(stage="labels")
@dataloader()
def label_snapshot(catalog: str, snapshot: int | None) -> tuple[int, dict[str, Any]]:
    """Snapshot of the catalogue that is read: the pinned one, or the newest.

    Raises:
        CatalogNotFoundError: there is no catalogue.
        CatalogEmptyError: it has no snapshot with data.
        LabelTableError: the pinned snapshot does not exist.
    """
    with ducklake.connect(catalog) as connection:
        newest = ducklake.latest_snapshot(connection)
    if snapshot is not None and not 1 <= snapshot <= newest:
        raise LabelTableError(f"{catalog} has snapshots 1 to {newest}, the settings pin {snapshot}")
    return (newest if snapshot is None else snapshot), {"catalog": catalog, "newest": newest}


@tag(stage="labels")
def label_bbox_lonlat(aoi_bbox_lonlat: list[float] | None, chip_profile: ChipProfile) -> list[float] | None:
    """Where labels are read: the area of interest and the ground its chips may reach beyond it; None is everywhere."""
    if aoi_bbox_lonlat is None:
        return None
    west, south, east, north = aoi_bbox_lonlat
    reach_m = 2 * chip_profile.gsd_m * max(chip_profile.height, chip_profile.width)
    return list(grown_bounds((west, south, east, north), reach_m))


@tag(stage="labels")
def area_of_interest(aoi_bbox_lonlat: list[float] | None) -> shapely.Geometry | None:
    """Ground chips are made on, EPSG:4326; None is everywhere."""
    return None if aoi_bbox_lonlat is None else shapely.box(*aoi_bbox_lonlat)


@tag(stage="labels")
@dataloader()
def lake_labels(
    catalog: str,
    label_tables: list[LabelTable],
    label_snapshot: int,
    label_bbox_lonlat: list[float] | None,
) -> tuple[pa.Table, dict[str, Any]]:
    """Labels of all mapped tables as the lake holds them, in their own CRS, the area pushed down to the scan.

    Raises:
        LabelTableError: a table or column is missing.
        CatalogEmptyError: there is no label.
    """
    with ducklake.connect(catalog) as connection:
        labels = read_labels(connection, label_tables, label_snapshot, aoi_bbox_lonlat=label_bbox_lonlat)
    return labels, {"rows": len(labels), "snapshot": label_snapshot}


@tag(stage="labels")
@extract_fields({"labels": pa.Table, "label_failures": list[Failure]})
def label_check(lake_labels: pa.Table, label_bbox_lonlat: list[float] | None) -> dict[str, Any]:
    """Labels with usable geometry in EPSG:4326, and the rest with what is wrong.

    Self-crossing polygons are mended by ``shapely.make_valid`` and keep their areal parts; geometry that is
    missing, empty, not finite, a line, a collection or off the globe is a failure, and so is a repeated id.

    Raises:
        LabelError: no label is usable.
    """
    kept: list[dict[str, Any]] = []
    failures: list[Failure] = []
    seen: set[str] = set()
    area = shapely.box(*label_bbox_lonlat) if label_bbox_lonlat else None
    for row in lake_labels.to_pylist():
        label_id = f"{row['dataset'] or row['label_table']}/{row['label_id']}"
        try:
            if row["label_id"] is None:
                raise LabelError("the label has no id; ids are what masks are traced back by")
            kind, geometry = _usable(row)
            if label_id in seen:
                raise LabelError(f"label id {label_id} is used twice; ids are unique within a dataset")
        except AegirError as error:
            failures.append(Failure.of("label_check", error, input_ids=(label_id,)))
            continue
        seen.add(label_id)
        if area is not None and not geometry.intersects(area):
            continue
        kept.append(
            {
                "label_id": label_id,
                "dataset": row["dataset"] or row["label_table"],
                "label_table": row["label_table"],
                "kind": kind,
                "geometry": shapely.to_wkb(geometry),
                "repairs": [],
                "merged": [],
            }
        )
    if not kept:
        first = failures[0].message if failures else "none lies in the area of interest"
        raise LabelError(f"none of {len(lake_labels)} labels is usable: {first}")
    return {"labels": pa.Table.from_pylist(kept, schema=LABELS), "label_failures": failures}


def _usable(row: dict[str, Any]) -> tuple[str, shapely.Geometry]:
    """Kind and valid geometry in EPSG:4326 of one lake row."""
    geometry = _parsed(row)
    if geometry is None or geometry.is_empty or not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise GeometryError("the geometry is missing, empty or holds NaN; mend or drop the label in the lake")
    if geometry.geom_type in ("Polygon", "MultiPolygon") and not geometry.is_valid:
        parts = shapely.get_parts(shapely.make_valid(geometry))
        geometry = shapely.union_all([part for part in parts if part.geom_type in ("Polygon", "MultiPolygon")])
    kind = label_kind(geometry)
    if row["crs"].upper() != "EPSG:4326":
        geometry = reproject(geometry, row["crs"], 4326)
    west, south, east, north = geometry.bounds
    if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
        raise GeometryError(
            f"the geometry spans {geometry.bounds}, which is no longitude and latitude; "
            f"check the axis order (x before y) and the CRS of the label table ({row['crs']})"
        )
    return kind, geometry


def _parsed(row: dict[str, Any]) -> shapely.Geometry | None:
    try:
        if row["geometry_wkb"] is not None:
            return shapely.from_wkb(row["geometry_wkb"])
        return shapely.from_wkt(row["geometry_wkt"]) if row["geometry_wkt"] is not None else None
    except shapely.errors.ShapelyError as error:
        raise GeometryError(f"the geometry cannot be parsed: {error}") from error
