"""Detections: objects in the probabilities of a search, matched with known labels, in the table ``detections``."""

from typing import Any

import pyarrow as pa
from hamilton.function_modifiers import dataloader, datasaver, tag
from shapely import Geometry

from dataflows._detection_labels import MISSING, Matches, known_labels, matched, searched_ground
from dataflows._detection_objects import (
    OBJECTS,
    DetectionRule,
    ReadableParts,
    detection_id,
    detection_table,
    found_objects,
)
from dataflows.discovery_config import DiscoveryConfig
from store.detections import StoredDetections, read_detections, store_detections
from utils.detection_matching import MatchRule
from utils.search_blocks import SearchBlock
from utils.types import ChipGrid

__all__ = [
    "MISSING",
    "OBJECTS",
    "DetectionRule",
    "MatchRule",
    "Matches",
    "ReadableParts",
    "StoredDetections",
    "detection_id",
    "detection_table",
    "found_objects",
    "known_labels",
    "matched",
    "read_detections",
    "searched_ground",
    "store_detections",
]


@tag(stage="detections")
@dataloader()
def detection_objects(
    probability_parts: ReadableParts,
    search_raster: ChipGrid,
    search_blocks: list[SearchBlock],
    detection_rule: DetectionRule,
) -> tuple[pa.Table, dict[str, Any]]:
    """Objects above the threshold with outlines and scores, none cut by a block's edge.

    Raises:
        RasterReadError: a finished block cannot be read.
        SearchError: there are more objects than the rule allows.
    """
    objects = found_objects(probability_parts, search_raster, search_blocks, detection_rule)
    return objects, {"objects": len(objects)}


@tag(stage="detections", table="detections")
def unmatched_detections(
    detection_objects: pa.Table,
    search_id: str,
    model_id: str,
    model: str,
    discovery_run_id: str,
    search_raster: ChipGrid,
    h3_resolution: int,
) -> pa.Table:
    """Rows of ``detections`` with deterministic ids, positions and cells."""
    return detection_table(
        detection_objects,
        search_id=search_id,
        model_id=model_id,
        model=model,
        run_id=discovery_run_id,
        gsd_m=search_raster.gsd_m,
        h3_resolution=h3_resolution,
    )


@tag(stage="detections")
def searched_area(search_blocks: list[SearchBlock], probability_parts: ReadableParts) -> Geometry:
    """Ground of the finished blocks, EPSG:4326."""
    done = probability_parts.done()
    return searched_ground([block for block in search_blocks if block.block_id in done])


@tag(stage="detections")
@dataloader()
def area_labels(discovery_config: DiscoveryConfig, searched_area: Geometry) -> tuple[pa.Table, dict[str, Any]]:
    """Labels of the searched area as the build reads them, each object once.

    Raises:
        LabelError: the labels cannot be read.
    """
    labels = known_labels(discovery_config, searched_area)
    return labels, {"labels": len(labels)}


@tag(stage="detections")
def label_matches(
    unmatched_detections: pa.Table, area_labels: pa.Table, match_rule: MatchRule, searched_area: Geometry
) -> Matches:
    """Detections that are known labels, those that are new, and labels that were not found; one to one."""
    return matched(unmatched_detections, area_labels, match_rule, searched=searched_area)


@tag(stage="detections")
@datasaver()
def detections_write(store: str, label_matches: Matches, search_id: str) -> dict:  # type: ignore[type-arg]
    """Make the search's rows in the store those found; returns counts."""
    stored = store_detections(store, label_matches.detections, search_id)
    return {**label_matches.counts(), **stored.counts()}
