"""Precision and recall before and after validation, in all and per confuser, against truth."""

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from dataflows.discovery_config import DiscoveryConfig
from dataflows.truth import Truth
from store import evidence
from store.area_of_interest import read_area
from store.vectors import read_features
from utils.detection_truth import OTHER, PV, Charged, Score, charged, scored
from utils.errors import ConfigError
from utils.geo import reproject, utm_epsg

RULE = (
    "a detection is true when true arrays that stood on the newest day of the imagery cover at least half of it, or "
    "its IoU with one is at least 0.5; else it is charged to the confuser that covers most of it, or to `other`; an "
    "array is found when true detections cover at least half of it"
)
_VERDICTS = ("accept", "review", "reject", "unverifiable")


@dataclass(frozen=True, kw_only=True)
class Report:
    """How good the detections of a search are, before and after validation."""

    search_id: str
    """The search."""
    detections: int
    """Its detections."""
    arrays: int
    """True arrays that stood on the day of the imagery, in the area searched."""
    before: Score
    """All detections."""
    after: Score
    """Accepted ones."""
    with_review: Score
    """Accepted ones, those left for a person, and those that cannot be verified."""
    by_kind: dict[str, dict[str, int]]
    """Kind → ``detections`` and how many got each verdict."""
    unjudged: int
    """Detections without a verdict."""
    rule: str = RULE
    """How detections are held against truth."""

    def values(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)


def validation_report(config: DiscoveryConfig, search_id: str | None = None) -> Report:
    """Hold the detections of a search against ``build.truth`` and ``truth_confusers``.

    Args:
        config: settings.
        search_id: the search; None is the newest.

    Raises:
        ConfigError: no truth is set, or it cannot be read.
        SearchError: there is no such search.
    """
    if config.build.truth is None:
        raise ConfigError("the report needs truth; set `truth` in the build's settings to a GeoJSON of true polygons")
    search = search_id or evidence.newest_search(config.store)
    rows = evidence.detections_of(config.store, search)
    found, areas_m2 = against_truth(config, rows)
    verdicts = np.array([str(verdict) for verdict in rows["verdict"].to_pylist()], object)
    accepted = verdicts == "accept"
    open_ones = accepted | (verdicts == "review") | (verdicts == "unverifiable")
    return Report(
        search_id=search,
        detections=len(rows),
        arrays=len(areas_m2),
        before=scored(found, np.ones(len(rows), bool), areas_m2),
        after=scored(found, accepted, areas_m2),
        with_review=scored(found, open_ones, areas_m2),
        by_kind=_by_kind(found.kinds, verdicts.tolist()),
        unjudged=int((verdicts == "None").sum()),
    )


def against_truth(config: DiscoveryConfig, rows: pa.Table) -> tuple[Charged, NDArray[np.float64]]:
    """What detections show, and the area of each true array, m².

    Arrays and confusers count that stood on the newest day of the detections' imagery.

    Raises:
        ConfigError: the truth cannot be read, or a day in it is no ISO day.
    """
    day = max(at.date() for at in rows["acquired_at"].to_pylist())
    epsg = utm_epsg(rows["lon"][0].as_py(), rows["lat"][0].as_py())
    area = read_area(config.aoi, list(config.aoi_bbox_lonlat) if config.aoi_bbox_lonlat else None)
    standing = Truth.read(str(config.build.truth)).standing(day)
    arrays = _metric([shape for shape in standing if area is None or shape.intersects(area)], epsg)
    confusers = _confusers(config.truth_confusers, day)
    outlines = reproject(shapely.from_wkb(rows["outline"].to_numpy(zero_copy_only=False)), 4326, epsg)
    found = charged(outlines, arrays, _metric([shape for _, shape in confusers], epsg), [kind for kind, _ in confusers])
    return found, shapely.area(arrays)


def _metric(shapes: list[shapely.Geometry], epsg: int) -> NDArray[np.object_]:
    return np.asarray(reproject(np.array(shapes, object), 4326, epsg) if shapes else np.empty(0, object), object)


def _confusers(path: str | None, day: date) -> list[tuple[str, shapely.Geometry]]:
    """``(kind, outline)`` of confusers that were there on a day; one without ``days`` is always there."""
    if path is None:
        return []
    found = []
    for properties, shape in read_features(path):
        days = properties.get("days")
        if days is None or day.isoformat() in days:
            found.append((str(properties.get("kind", OTHER)), shape))
    return found


def _by_kind(kinds: list[str], verdicts: list[str]) -> dict[str, dict[str, int]]:
    pairs = Counter(zip(kinds, verdicts, strict=True))
    order = [PV, *sorted(set(kinds) - {PV, OTHER}), OTHER]
    return {
        kind: {"detections": kinds.count(kind)} | {verdict: pairs[kind, verdict] for verdict in _VERDICTS}
        for kind in order
    }
