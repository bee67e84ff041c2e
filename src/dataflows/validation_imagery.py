"""Imagery of detections: windows of every VHR day, statistics of every multispectral date; read cell by cell."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from hamilton.function_modifiers import dataloader, extract_fields, tag
from numpy.typing import NDArray
from rasterio.features import rasterize

from dataflows._search_imagery import Pixels
from dataflows.validation_config import ValidationRules
from utils.errors import AegirError, NoImageryError
from utils.failures import Failure
from utils.geo import grown_bounds, reproject
from utils.spectral_evidence import Observation, observed
from utils.texture_evidence import Texture, texture
from utils.types import ChipGrid, RasterChip

PAD_M = 6.0
"""Ground around an object that its VHR window shows."""
MSI_GSD_M = 10.0
"""Ground sample distance multispectral pixels are counted in."""


FINE_PX = 10
"""Fine pixels per multispectral pixel and axis that area fractions are counted in."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VhrView:
    """An object on one VHR day."""

    chip: RasterChip
    """Red, green and blue of the window around it."""
    mask: NDArray[np.bool_]
    """The object, shape (rows, columns) of the window."""


@dataclass(kw_only=True)
class Reads:
    """What could be read of one kind of imagery."""

    found: dict[str, list[Any]] = field(default_factory=dict)
    """Detection id → one entry per date, the nearest first."""
    failures: list[Failure] = field(default_factory=list)
    """Detections whose imagery failed."""


@tag(stage="validation")
def detection_outlines(detections: pa.Table) -> dict[str, shapely.Geometry]:
    """Detection id → its outline, EPSG:4326."""
    outlines = shapely.from_wkb(detections["outline"].to_numpy(zero_copy_only=False))
    return dict(zip(detections["detection_id"].to_pylist(), outlines, strict=True))


@tag(stage="validation")
@dataloader()
def vhr_reads(
    detections: pa.Table,
    detection_outlines: dict[str, shapely.Geometry],
    vhr_pixels: Pixels | None,
    rules: ValidationRules,
) -> tuple[Reads, dict[str, Any]]:
    """Windows of the detections on the day they were found on and on the nearest other days.

    A detection that cannot be read on its own day is a failure; a day that does not cover it is left out. Nothing is
    read without ``vhr_pixels``: those found on multispectral imagery have no VHR day of their own.
    """
    reads = Reads()
    if vhr_pixels is None:
        return reads, {"read": 0, "failed": 0}
    for epsg, gsd_m, at, ids in _together(detections):
        shapes = dict(zip(ids, reproject(np.array([detection_outlines[i] for i in ids]), 4326, epsg), strict=True))
        days = vhr_pixels.nearest(at, rules.dates)
        if days[0] != at.date():
            gone = NoImageryError(f"the VHR source holds no image of {at:%Y-%m-%d}, on which it was found")
            reads.failures += [Failure.of("vhr_reads", gone, input_ids=(one,)) for one in ids]
            continue
        for number, day in enumerate(days):
            blocks = vhr_pixels.blocks(shapes, day, epsg=epsg, gsd_m=gsd_m, pad_m=PAD_M)
            for identifier, found in blocks:
                if isinstance(found, NoImageryError) and number:
                    continue
                if isinstance(found, AegirError):
                    reads.failures.append(Failure.of("vhr_reads", found, input_ids=(identifier,)))
                else:
                    view = VhrView(chip=found, mask=_mask(shapes[identifier], found.grid))
                    reads.found.setdefault(identifier, []).append(view)
    return reads, {"read": len(reads.found), "failed": len(reads.failures)}


@tag(stage="validation")
@dataloader()
def msi_reads(
    detections: pa.Table,
    detection_outlines: dict[str, shapely.Geometry],
    search_outlines: shapely.STRtree,
    msi_pixels: Pixels | None,
    rules: ValidationRules,
) -> tuple[Reads, dict[str, Any]]:
    """Statistics of the detections that are large enough, on every multispectral date looked at.

    Other detections of the search, ``search_outlines``, are no surroundings of one, whether they are measured with it
    or not.
    """
    reads = Reads()
    large = detections.filter(large_enough(detections, rules))
    if msi_pixels is None or not len(large):
        return reads, {"read": 0, "failed": 0}
    own = np.array([detection_outlines[one] for one in large["detection_id"].to_pylist()])
    around = search_outlines.geometries[np.unique(surrounding(own, search_outlines, rules.ring_m)[1])]
    for _, _, at, ids in _together(large):
        for day in msi_pixels.nearest(at, rules.dates):
            epsg = msi_pixels.metric_epsg(day, (large["lon"][0].as_py(), large["lat"][0].as_py()))
            shapes = dict(zip(ids, reproject(np.array([detection_outlines[i] for i in ids]), 4326, epsg), strict=True))
            everything = reproject(around, 4326, epsg)
            blocks = msi_pixels.blocks(shapes, day, epsg=epsg, gsd_m=MSI_GSD_M, pad_m=rules.ring_m)
            for identifier, found in blocks:
                if isinstance(found, NoImageryError):
                    continue
                if isinstance(found, AegirError):
                    reads.failures.append(Failure.of("msi_reads", found, input_ids=(identifier,)))
                else:
                    seen = _observation(found, shapes[identifier], everything, rules.ring_m)
                    reads.found.setdefault(identifier, []).append(seen)
    return reads, {"read": len(reads.found), "failed": len(reads.failures)}


@tag(stage="validation")
@extract_fields({"imagery_failures": list[Failure], "readable": list[str]})
def imagery_check(detections: pa.Table, vhr_reads: Reads, msi_reads: Reads) -> dict[str, Any]:
    """What could not be read, once per detection, and the ids of the detections that can be judged."""
    failures = {failure.input_ids[0]: failure for failure in [*vhr_reads.failures, *msi_reads.failures]}
    ids = detections["detection_id"].to_pylist()
    return {"imagery_failures": list(failures.values()), "readable": [one for one in ids if one not in failures]}


@tag(stage="validation")
def vhr_views(vhr_reads: Reads, readable: list[str]) -> dict[str, list[VhrView]]:
    """Detection id → its VHR windows, that of its own day first; none for those found on multispectral imagery."""
    return {one: vhr_reads.found.get(one, []) for one in readable}


@tag(stage="validation")
def vhr_textures(vhr_views: dict[str, list[VhrView]]) -> dict[str, list[Texture | None]]:
    """Detection id → colour and texture per VHR day; None on days that show too few pixels of it."""
    return {one: [_texture(view) for view in views] for one, views in vhr_views.items()}


@tag(stage="validation")
def msi_observations(msi_reads: Reads, readable: list[str]) -> dict[str, list[Observation]]:
    """Detection id → statistics per multispectral date, the nearest first; empty for small ones."""
    return {one: msi_reads.found.get(one, []) for one in readable}


def large_enough(detections: pa.Table, rules: ValidationRules) -> NDArray[np.bool_]:
    """Detections whose area holds as many multispectral pixels as spectral rules need, shape (n,)."""
    return np.asarray(detections["area_m2"]) >= rules.min_effective_px * MSI_GSD_M**2


def surrounding(
    outlines: NDArray[np.object_], search_outlines: shapely.STRtree, ring_m: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Outlines and detections of the search that may cover pixels of their ring, themselves among them.

    Args:
        outlines: EPSG:4326, shape (n,).
        search_outlines: all detections of the search, EPSG:4326.
        ring_m: width of the ring, metres.

    Returns:
        Rows of ``outlines`` and rows of ``search_outlines``, pair by pair.
    """
    reach_m = ring_m + 2 * MSI_GSD_M
    boxes = [shapely.box(*grown_bounds((w, s, e, n), reach_m)) for w, s, e, n in shapely.bounds(outlines).tolist()]
    rows, others = search_outlines.query(np.array(boxes, object))
    return rows, others


def _together(detections: pa.Table) -> Iterator[tuple[int, float, datetime, list[str]]]:
    """Detections of one raster grid and day: ``(epsg, gsd_m, acquired_at, ids)``."""
    groups: dict[tuple[int, float, datetime], list[str]] = {}
    for row in detections.select(["detection_id", "epsg", "gsd_m", "acquired_at"]).to_pylist():
        groups.setdefault((row["epsg"], row["gsd_m"], row["acquired_at"]), []).append(row["detection_id"])
    for (epsg, gsd_m, at), ids in groups.items():
        yield epsg, gsd_m, at, ids


def _texture(view: VhrView) -> Texture | None:
    return texture(np.asarray(view.chip.data, np.uint8), view.chip.valid, view.mask, view.chip.grid.gsd_m)


def _mask(outline: shapely.Geometry, grid: ChipGrid) -> NDArray[np.bool_]:
    shape = (grid.height, grid.width)
    return np.asarray(rasterize([outline], out_shape=shape, transform=grid.affine, dtype="uint8") > 0)


def _observation(
    chip: RasterChip, outline: shapely.Geometry, everything: NDArray[np.object_], ring_m: float
) -> Observation:
    near = everything[shapely.intersects(everything, chip.grid.footprint)]
    ring = _mask(outline.buffer(ring_m), chip.grid)
    return observed(chip, _fractions(outline, chip.grid), _fractions(shapely.union_all(near), chip.grid), ring)


def _fractions(outline: shapely.Geometry, grid: ChipGrid) -> NDArray[np.float64]:
    """Share of each pixel that an outline covers, 0 to 1, counted in fine pixels."""
    a, b, c, d, e, f = grid.transform
    transform = (a / FINE_PX, b / FINE_PX, c, d / FINE_PX, e / FINE_PX, f)
    fine = ChipGrid(epsg=grid.epsg, transform=transform, height=grid.height * FINE_PX, width=grid.width * FINE_PX)
    parts = _mask(outline, fine).reshape(grid.height, FINE_PX, grid.width, FINE_PX)
    return np.asarray(parts.mean(axis=(1, 3)), np.float64)
