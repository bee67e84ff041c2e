"""Weak labels from a DuckLake catalogue or plain files: read at one snapshot, checked, in longitude and latitude."""

from datetime import date
from typing import Any

import pyarrow as pa
import shapely
from hamilton.function_modifiers import dataloader, extract_fields, tag

from dataflows._labels import checked
from store import ducklake
from store.area_of_interest import read_area
from store.catalogue_place import redacted
from store.ducklake_labels import LAKE_LABELS, LabelTable, read_labels
from utils.errors import LabelError, LabelTableError
from utils.failures import Failure
from utils.geo import grown_bounds
from utils.label_check import LABELS, LabelTally
from utils.types import ChipProfile

__all__ = ["LABELS"]


@tag(stage="labels")
@dataloader()
def label_snapshot(catalog: str | None, snapshot: int | None) -> tuple[int | None, dict[str, Any]]:
    """Snapshot of the catalogue that is read: the pinned one, or the newest; None without a catalogue.

    Raises:
        CatalogNotFoundError: there is no catalogue.
        CatalogEmptyError: it has no snapshot with data.
        LabelTableError: the pinned snapshot does not exist.
    """
    if catalog is None:
        return None, {"catalog": None, "newest": None}
    with ducklake.connect(catalog) as connection:
        newest = ducklake.latest_snapshot(connection)
    if snapshot is not None and not 1 <= snapshot <= newest:
        raise LabelTableError(f"{redacted(catalog)} has snapshots 1 to {newest}, the settings pin {snapshot}")
    return (newest if snapshot is None else snapshot), {"catalog": redacted(catalog), "newest": newest}


@tag(stage="labels")
@dataloader()
def area_of_interest(
    aoi: str | None, aoi_bbox_lonlat: list[float] | None
) -> tuple[shapely.Geometry | None, dict[str, Any]]:
    """Where chips are made, EPSG:4326: the polygon, the box, or what lies in both; None is everywhere.

    Raises:
        ConfigError: the polygon cannot be read, or has nothing in common with the box.
    """
    area = read_area(aoi, aoi_bbox_lonlat)
    return area, {"bounds": None if area is None else list(area.bounds)}


@tag(stage="labels")
def label_bbox_lonlat(area_of_interest: shapely.Geometry | None, chip_profile: ChipProfile) -> list[float] | None:
    """Where labels are read: bounds of the area and the ground its chips may reach beyond it; None is everywhere."""
    if area_of_interest is None:
        return None
    west, south, east, north = area_of_interest.bounds
    reach_m = 2 * chip_profile.gsd_m * max(chip_profile.height, chip_profile.width)
    return list(grown_bounds((west, south, east, north), reach_m))


@tag(stage="labels")
def label_area(
    area_of_interest: shapely.Geometry | None,
    label_bbox_lonlat: list[float] | None,
    changed_area: shapely.Geometry | None,
) -> shapely.Geometry | None:
    """Where labels are kept: the area grown by at least what its chips may reach beyond it; None is everywhere.

    An incremental plan keeps those that decide over changed chips.
    """
    if changed_area is not None:
        return changed_area
    if area_of_interest is None or label_bbox_lonlat is None:
        return None
    reach = max(area_of_interest.bounds[0] - label_bbox_lonlat[0], label_bbox_lonlat[3] - area_of_interest.bounds[3])
    grown = shapely.buffer(area_of_interest, max(reach, 0.0), join_style="mitre").intersection(
        shapely.box(*label_bbox_lonlat)
    )
    shapely.prepare(grown)
    return grown


@tag(stage="labels")
@dataloader()
def lake_labels(
    catalog: str | None,
    label_tables: list[LabelTable],
    label_snapshot: int | None,
    label_area: shapely.Geometry | None,
    changed_area: shapely.Geometry | None,
    installed: list[date | None] | None,
    keep_undated: bool,
) -> tuple[pa.Table, dict[str, Any]]:
    """Labels of all mapped tables and files as they are held, in their own CRS; area and dates pushed to the scan.

    Raises:
        LabelTableError: a table or column is missing.
        LabelFileError: a file is missing or cannot be read.
        CatalogEmptyError: there is no label.
    """
    if label_area is not None and label_area.is_empty:
        return LAKE_LABELS.empty_table(), {"rows": 0, "snapshot": label_snapshot}
    with ducklake.connect(catalog) as connection:
        labels = read_labels(
            connection,
            label_tables,
            label_snapshot,
            area=label_area,
            installed=(installed[0], installed[1]) if installed else None,
            undated=keep_undated,
            none_is_an_error=changed_area is None,
        )
    return labels, {"rows": len(labels), "snapshot": label_snapshot}


@tag(stage="labels")
@extract_fields({"checked_labels": pa.Table, "label_failures": list[Failure]})
def label_check(
    lake_labels: pa.Table,
    label_tables: list[LabelTable],
    label_area: shapely.Geometry | None,
    changed_area: shapely.Geometry | None,
) -> dict[str, Any]:
    """Labels with usable geometry in EPSG:4326 and what was repaired, and the rest with what is wrong.

    Every raw label is kept, a failure, or outside the area; rules of repair are those of ``utils.label_geometry``.

    Raises:
        LabelError: no label is usable; an incremental plan may have none.
    """
    tally = LabelTally()
    for batch in checked(lake_labels, label_tables, label_area):
        tally.take(batch)
    labels = tally.table()
    if not len(labels) and changed_area is None:
        first = tally.failures[0].message if tally.failures else "none lies in the area of interest"
        raise LabelError(f"none of {tally.rows} labels is usable: {first}")
    return {"checked_labels": labels, "label_failures": tally.failures}
