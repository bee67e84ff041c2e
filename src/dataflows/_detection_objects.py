"""From parts of a probability raster to objects with outlines, and from objects to rows of ``detections``."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import Any, Protocol, runtime_checkable
from uuid import uuid5

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from dataflows._polygonisation import label_polygons
from store.columns import TIME
from store.discovery_schemas import DETECTIONS
from utils.connected_objects import ConnectedObject, ObjectStream
from utils.deduplication import EQUAL_AREA
from utils.errors import ConfigError, CRSError, SearchError
from utils.footprints import cut_at_antimeridian
from utils.geo import CHIP_NAMESPACE, LONLAT, h3_cells, reproject, s2_cells, s2_parents
from utils.outline_regularisation import OutlineRule, regularised, valid_outline
from utils.refinement import pixel_area_m2
from utils.search_blocks import PROBABILITY_SCALE, SearchBlock
from utils.types import ChipGrid

OBJECTS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False, metadata={"doc": "first pixel in raster order: row in the raster"}),
        pa.field("column", pa.int64(), nullable=False, metadata={"doc": "column of that pixel"}),
        pa.field("block_id", pa.string(), nullable=False, metadata={"doc": "block that holds that pixel"}),
        pa.field("outline", pa.binary(), nullable=False, metadata={"crs": "EPSG:4326", "axes": "lon, lat"}),
        pa.field("epsg", pa.int32(), nullable=False, metadata={"doc": "CRS of the raster"}),
        pa.field("area_m2", pa.float64(), nullable=False, metadata={"unit": "m²"}),
        pa.field("pixels", pa.int64(), nullable=False),
        pa.field("score", pa.float32(), nullable=False, metadata={"doc": "mean probability"}),
        pa.field("score_p90", pa.float32(), nullable=False, metadata={"doc": "90th percentile"}),
        pa.field("scene_ids", pa.list_(pa.string()), nullable=False),
        pa.field("acquired_at", TIME, nullable=False),
    ]
)
"""Objects of one search raster, in raster order of their first pixels."""

_AT_ONCE = 4096
_Scenes = tuple[list[str], datetime | None]


class ReadBlock(Protocol):
    """Probabilities of one block."""

    @property
    def data(self) -> NDArray[np.uint8]:
        """Stored probabilities, shape (rows, columns)."""
        ...

    @property
    def scene_ids(self) -> Sequence[str]:
        """Scenes under them, most used first."""
        ...

    @property
    def acquired_at(self) -> datetime | None:
        """Acquisition time of the first; None on a block without imagery."""
        ...


@runtime_checkable
class ReadableParts(Protocol):
    """Finished blocks of a search; ``store.probability_rasters.ProbabilityParts`` is one."""

    def done(self) -> set[str]:
        """Ids of the finished blocks."""
        ...

    def read(self, block: SearchBlock) -> ReadBlock:
        """One finished block."""
        ...


@dataclass(frozen=True, kw_only=True)
class DetectionRule:
    """How probabilities become objects."""

    threshold: float = 0.5
    """Least probability of an object's pixels."""
    seed_threshold: float = 0.0
    """Least probability that at least one pixel of an object reaches (hysteresis); 0 is without."""
    min_area_m2: float = 2.0
    """Least area of an outline, square metres; objects of under half of it in pixels are not outlined at all."""
    simplify_px: float = OutlineRule.simplify_px
    """How far a vertex may move, pixels."""
    rectangularise: bool = OutlineRule.rectangularise
    """Whether an outline that is nearly a rectangle becomes one."""
    rectangle_iou: float = OutlineRule.rectangle_iou
    """Least IoU of an outline and its rectangle."""
    max_objects: int = 1_000_000
    """More objects than this in one search are refused."""

    def __post_init__(self) -> None:
        """Refuse thresholds outside 0 to 1 and areas below 0."""
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"detections.threshold is {self.threshold}; give a probability above 0 and at most 1")
        if self.seed_threshold and not self.threshold <= self.seed_threshold <= 1:
            raise ConfigError(
                f"detections.seed_threshold is {self.seed_threshold}; give 0, or from threshold {self.threshold} to 1"
            )
        if not (math.isfinite(self.min_area_m2) and self.min_area_m2 >= 0):
            raise ConfigError(f"detections.min_area_m2 is {self.min_area_m2}; give 0 or more square metres")
        if self.max_objects < 1:
            raise ConfigError(f"detections.max_objects is {self.max_objects}; give 1 or more")
        _ = self.outline

    @property
    def outline(self) -> OutlineRule:
        """What of it concerns outlines."""
        return OutlineRule(
            simplify_px=self.simplify_px, rectangularise=self.rectangularise, rectangle_iou=self.rectangle_iou
        )

    @property
    def least_value(self) -> int:
        """Least stored probability of an object's pixels."""
        return max(1, stored_probability(self.threshold))


def stored_probability(probability: float) -> int:
    """Least stored value (0 to 254) that stands for at least this probability."""
    return math.ceil(round(probability * PROBABILITY_SCALE, 6))


def found_objects(
    parts: ReadableParts, raster: ChipGrid, blocks: Sequence[SearchBlock], rule: DetectionRule
) -> pa.Table:
    """Objects of a search raster, schema :data:`OBJECTS`; none is cut by a block's edge.

    Blocks that are not done (pruned, failed, or still to be searched) hold no object. Memory is bounded by one row of
    blocks and the objects.

    Args:
        parts: finished blocks.
        raster: the search raster, in metres.
        blocks: blocks of that raster, any of them.
        rule: thresholds, least area and regularisation.

    Raises:
        CRSError: the raster's pixels are not squares.
        SearchError: there are more objects than ``rule.max_objects``.
        RasterReadError: a block cannot be read.
    """
    _require_squares(raster)
    found: list[pa.Table] = []
    count = 0
    seen: dict[str, _Scenes] = {}
    objects = _connected(parts, raster, blocks, rule, seen)
    while chunk := list(islice(objects, _AT_ONCE)):
        table = _rows(chunk, raster, rule, seen)
        count += len(table)
        if count > rule.max_objects:
            raise SearchError(
                f"more than {rule.max_objects} objects lie above the threshold {rule.threshold}; raise "
                "detections.threshold or detections.min_area_m2, train the model further, or raise "
                "detections.max_objects"
            )
        found.append(table)
    table = pa.concat_tables(found) if found else OBJECTS.empty_table()
    return table.sort_by([("row", "ascending"), ("column", "ascending")])


def detection_table(
    objects: pa.Table, *, search_id: str, model_id: str, model: str, run_id: str, gsd_m: float, h3_resolution: int
) -> pa.Table:
    """Rows of ``detections`` (its schema), not yet matched: ``match`` is ``new`` and nothing is judged.

    Args:
        objects: schema :data:`OBJECTS`.
        search_id: hash of imagery, model, grid and inference settings; with the first pixel it makes the ids.
        model_id: hash of the model.
        model: checkpoint or class path.
        run_id: run that found them.
        gsd_m: of the raster, metres.
        h3_resolution: of ``h3_cell``, 0 to 15.
    """
    points = shapely.point_on_surface(shapely.from_wkb(objects["outline"].to_numpy()))
    lon, lat = shapely.get_x(points), shapely.get_y(points)
    leaves = s2_cells(lon, lat, 30)
    keys = zip(objects["row"].to_pylist(), objects["column"].to_pylist(), strict=True)
    count, now = len(objects), datetime.now(UTC)
    same: dict[str, Any] = {
        "search_id": search_id,
        "model_id": model_id,
        "model": model,
        "gsd_m": gsd_m,
        "match": "new",
        "run_id": run_id,
        "created_at": now,
    }
    own: dict[str, Any] = {
        "detection_id": [detection_id(search_id, row, column) for row, column in keys],
        "lon": lon,
        "lat": lat,
        "s2_cell": leaves,
        "s2_l10": s2_parents(leaves, 10),
        "s2_l13": s2_parents(leaves, 13),
        "h3_cell": h3_cells(lon, lat, h3_resolution),
    }
    columns = []
    for field in DETECTIONS:
        if field.name in own:
            columns.append(pa.array(own[field.name], field.type))
        elif field.name in same:
            columns.append(pa.repeat(pa.scalar(same[field.name], field.type), count))
        elif field.name in objects.column_names:
            columns.append(objects[field.name].cast(field.type))
        else:
            columns.append(pa.nulls(count, field.type))
    return pa.table(columns, schema=DETECTIONS)


def detection_id(search_id: str, row: int, column: int) -> str:
    """Id of the object of a search whose first pixel in raster order is this one of the search raster."""
    return str(uuid5(CHIP_NAMESPACE, f"{search_id}|{row}|{column}"))


def _connected(
    parts: ReadableParts,
    raster: ChipGrid,
    blocks: Sequence[SearchBlock],
    rule: DetectionRule,
    seen: dict[str, _Scenes],
) -> Iterator[ConnectedObject]:
    """Objects that reach the seed threshold; ``seen`` gets the scenes of each block."""
    least_pixels = rule.min_area_m2 / 2 / pixel_area_m2(raster)
    stream = ObjectStream(
        raster.width, least_value=rule.least_value, least_pixels=least_pixels, outliner=label_polygons
    )
    done = parts.done()
    here = sorted((b for b in blocks if b.block_id in done), key=lambda block: (block.top_px, block.left_px))
    seed = stored_probability(rule.seed_threshold)
    for _, row in groupby(here, key=lambda block: block.top_px):
        for block in row:
            read = parts.read(block)
            seen[block.block_id] = list(read.scene_ids), read.acquired_at
            complete = stream.take(read.data, block.top_px, block.left_px, block.block_id)
            yield from (one for one in complete if one.highest >= seed)
    yield from (one for one in stream.rest() if one.highest >= seed)


def _rows(
    objects: list[ConnectedObject],
    raster: ChipGrid,
    rule: DetectionRule,
    seen: dict[str, _Scenes],
) -> pa.Table:
    """Rows of :data:`OBJECTS`, without those under the least area."""
    a, b, c, d, e, f = raster.transform
    footprint = shapely.box(0, 0, raster.width, raster.height)
    pixels = np.array([regularised(one.outline, rule.outline, footprint) for one in objects], object)
    ground = shapely.transform(pixels, lambda xy: xy @ np.array([[a, d], [b, e]]) + (c, f))
    moved = reproject(ground, raster.epsg, LONLAT)
    lonlat = np.array([valid_outline(cut_at_antimeridian(one)) for one in moved], object)
    lonlat = shapely.orient_polygons(lonlat)
    area = shapely.area(reproject(lonlat, LONLAT, EQUAL_AREA))
    kept = np.flatnonzero((area >= rule.min_area_m2) & (area > 0))
    chosen = [objects[k] for k in kept]
    values: dict[str, Any] = {
        "row": [one.row for one in chosen],
        "column": [one.column for one in chosen],
        "block_id": [one.block_id for one in chosen],
        "outline": shapely.to_wkb(lonlat[kept]),
        "epsg": np.full(len(chosen), raster.epsg),
        "area_m2": area[kept],
        "pixels": [one.pixels for one in chosen],
        "score": [one.mean() / PROBABILITY_SCALE for one in chosen],
        "score_p90": [one.quantile(0.9) / PROBABILITY_SCALE for one in chosen],
        "scene_ids": [seen[one.block_id][0] for one in chosen],
        "acquired_at": [seen[one.block_id][1] for one in chosen],
    }
    return pa.table([pa.array(values[field.name], field.type) for field in OBJECTS], schema=OBJECTS)


def _require_squares(raster: ChipGrid) -> None:
    a, b, _, d, e, _ = raster.transform
    if not math.isclose(math.hypot(a, d), math.hypot(b, e), rel_tol=1e-9) or abs(a * b + d * e) > 1e-9 * a * a:
        raise CRSError(f"a search raster has square pixels; this one has the transform {raster.transform}")
