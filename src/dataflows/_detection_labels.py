"""Known labels of a searched area, and what detections are to them: new, confirmed, or labels that were not found."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from shapely import Geometry

from dataflows.discovery_config import DiscoveryConfig
from dataflows.drivers import build_driver
from store.area_of_interest import read_area
from store.discovery_schemas import DETECTIONS
from utils.detection_matching import MatchRule, Pairs, assignment, chosen_pairs, joined_pairs, measured_pairs
from utils.footprints import outline_lonlat
from utils.search_blocks import SearchBlock

MISSING = pa.schema(
    [
        pa.field("label_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False, metadata={"doc": "point, box or polygon"}),
        pa.field("geometry", pa.binary(), nullable=False, metadata={"crs": "EPSG:4326", "axes": "lon, lat"}),
        pa.field(
            "covered",
            pa.float32(),
            nullable=False,
            metadata={
                "doc": "share of the label on detections that are other labels, or overlap it too little; "
                "for a point 1 on such an outline",
                "range": "0 to 1",
            },
        ),
    ]
)
"""Known labels that no detection is; a covered one was found as part of another object."""

_Shapes = NDArray[np.object_]
_EVERYWHERE = shapely.box(-180, -90, 180, 90)


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """Detections and known labels, one to one."""

    detections: pa.Table
    """Schema of ``detections``, in the order they came, with the columns of the match."""
    missing: pa.Table
    """Labels that no detection is, schema :data:`MISSING`, in the order they came."""

    def counts(self) -> dict[str, int]:
        """Detections that are new and confirmed, and labels that are missing."""
        confirmed = self.detections["match"].to_pylist().count("confirmed")
        return {"new": len(self.detections) - confirmed, "confirmed": confirmed, "missing": len(self.missing)}


def known_labels(config: DiscoveryConfig, searched: Geometry | None = None) -> pa.Table:
    """Labels the build would read that touch the searched area; each object once, geometry in EPSG:4326.

    Labels go through the nodes of the flow ``build``: the same tables and files, snapshot, dates, repairs and
    deduplication. No label at all is no error here: new ground has none.

    Args:
        config: settings; the area of the build does not matter.
        searched: where was searched, EPSG:4326; None is the area of interest.

    Raises:
        LabelError: the labels cannot be read.
        ConfigError: the area of interest cannot be read.
    """
    area = searched if searched is not None else read_area(config.aoi, config.aoi_bbox_lonlat)
    build = replace(config.build, aoi=None, aoi_bbox_lonlat=None)
    # labels of a changed area may be none
    told = {"changed_area": _EVERYWHERE if area is None else area}
    labels: pa.Table = build_driver("build", build).execute(["labels"], overrides=told)["labels"]
    return labels


def searched_ground(blocks: Sequence[SearchBlock]) -> Geometry:
    """Ground of blocks of one raster in EPSG:4326; empty without any."""
    if not blocks:
        return shapely.Polygon()
    whole = shapely.union_all([block.grid.footprint for block in blocks])
    parts = shapely.get_parts(whole)
    return shapely.union_all([outline_lonlat(part, blocks[0].grid.epsg, densify=True) for part in parts])


def matched(detections: pa.Table, labels: pa.Table, rule: MatchRule, *, searched: Geometry | None = None) -> Matches:
    """Detections with what they are, and the labels that were not found.

    Args:
        detections: schema of ``detections``.
        labels: ``label_id``, ``dataset``, ``kind`` and ``geometry`` (WKB, EPSG:4326), as :func:`known_labels` gives
            them.
        rule: when a detection is a label.
        searched: where was searched, EPSG:4326: a label is only missing where a point inside it lies there; None is
            everywhere.
    """
    outlines = shapely.from_wkb(detections["outline"].to_numpy())
    known = shapely.from_wkb(labels["geometry"].to_numpy())
    pairs = _pairs(outlines, known, detections["epsg"].to_numpy(), rule)
    matches = chosen_pairs(pairs, np.isin(np.arange(len(pairs.label)), assignment(pairs, rule)))
    return Matches(
        detections=_with_match(detections, labels, matches), missing=_missing(labels, known, pairs, matches, searched)
    )


def _pairs(outlines: _Shapes, known: _Shapes, epsg: NDArray[np.int32], rule: MatchRule) -> Pairs:
    """Candidates, measured in the UTM zone of each detection's raster."""
    found = []
    for code in np.unique(epsg):
        here = np.flatnonzero(epsg == code)
        pairs = measured_pairs(outlines[here], known, int(code), rule.max_distance_m)
        found.append(replace(pairs, detection=here[pairs.detection]))
    return joined_pairs(found)


def _with_match(detections: pa.Table, labels: pa.Table, matches: Pairs) -> pa.Table:
    count = len(detections)
    confirmed = np.zeros(count, bool)
    confirmed[matches.detection] = True
    label_row = np.zeros(count, np.int64)
    label_row[matches.detection] = matches.label
    iou, distance = np.full(count, np.nan, np.float32), np.full(count, np.nan, np.float32)
    iou[matches.detection], distance[matches.detection] = matches.iou, matches.distance_m
    columns = {
        "match": pa.array(np.where(confirmed, "confirmed", "new"), pa.string()),
        "label_id": labels["label_id"].combine_chunks().take(pa.array(label_row, mask=~confirmed)),
        "match_iou": pa.array(iou, mask=np.isnan(iou)),
        "match_distance_m": pa.array(distance, mask=np.isnan(distance)),
    }
    for name, values in columns.items():
        at = DETECTIONS.get_field_index(name)
        detections = detections.set_column(at, DETECTIONS.field(name), values.cast(DETECTIONS.field(name).type))
    return detections


def _missing(labels: pa.Table, known: _Shapes, pairs: Pairs, matches: Pairs, searched: Geometry | None) -> pa.Table:
    left = np.ones(len(labels), bool)
    left[matches.label] = False
    if searched is not None and len(known):
        shapely.prepare(searched)
        left &= shapely.intersects(searched, shapely.point_on_surface(known))
    # outlines of detections do not overlap, so that shares add up
    covered = np.minimum(np.bincount(pairs.label, weights=pairs.shared, minlength=len(labels)), 1)
    table = labels.select(["label_id", "dataset", "kind", "geometry"])
    table = table.append_column("covered", pa.array(covered, pa.float32())).cast(MISSING)
    return table.filter(pa.array(left))
