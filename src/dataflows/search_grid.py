"""Where a search looks: its imagery and pixel lattice, the area of interest, and the blocks that cover it."""

from collections import Counter
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from hamilton.function_modifiers import dataloader, tag
from numpy.typing import NDArray

from store import imagery
from store.area_of_interest import read_area
from store.scene_grids import grids_of
from training.scene_models import ModelPixels
from utils.errors import BandError, ConfigError, CRSError, EmptyAreaError, ModelError
from utils.failures import Failure
from utils.footprints import cut_at_antimeridian, outline_lonlat
from utils.geo import LONLAT, reproject, utm_epsg
from utils.search_blocks import PixelLattice, SearchBlock, block_boxes, blocks_over, common_lattice
from utils.types import ChipGrid, ImagerySource

COARSEST = 2.0
"""Imagery may be this many times coarser than what the model was trained on."""
_EDGE_DEG = 0.001
_BEYOND_DEG = 10.0


@tag(stage="search")
@dataloader()
def area_of_interest(
    aoi: str | None, aoi_bbox_lonlat: list[float] | None
) -> tuple[shapely.Geometry | None, dict[str, Any]]:
    """Where is searched, EPSG:4326: the polygons, or the box; None is all imagery.

    Raises:
        ConfigError: the polygons cannot be read.
        EmptyAreaError: they have no area.
    """
    area = read_area(aoi, aoi_bbox_lonlat)
    if area is not None and (area.is_empty or area.area == 0):
        raise EmptyAreaError(f"the area of interest {aoi or aoi_bbox_lonlat} is empty")
    return area, {"bounds": None if area is None else list(area.bounds)}


@tag(stage="search")
@dataloader()
def search_imagery(
    vhr: dict[str, Any], msi: dict[str, Any] | None, model_pixels: ModelPixels
) -> tuple[ImagerySource, dict[str, Any]]:
    """The imagery the model takes: very high resolution, or multispectral.

    Raises:
        ConfigError: its options are wrong, its folder is missing, or the settings name none of this kind.
    """
    settings = vhr if model_pixels.kind == "vhr" else msi
    if settings is None:
        raise ConfigError("the model takes multispectral imagery; set `msi` in the settings of the build")
    options = {key: value for key, value in settings.items() if key != "source"}
    try:
        source = imagery.get(settings["source"], kind=model_pixels.kind, **options)
    except TypeError as error:
        raise ConfigError(f"imagery source {settings['source']!r} refuses its options: {error}") from error
    return source, {"source": source.name, "scenes": len(source.scenes())}


@tag(stage="search")
def model_scenes(search_imagery: ImagerySource, model_pixels: ModelPixels, vhr_acquired: str) -> pa.Table:
    """Scenes that are searched, the newest day on top, schema ``store.schemas.SCENES``.

    Args:
        search_imagery: the source.
        model_pixels: what the model takes.
        vhr_acquired: ``latest`` takes all days, or the one day that VHR imagery is taken from.

    Raises:
        BandError: no scene has the model's bands.
        CRSError: there is no scene, because the rasters state no CRS.
        ModelError: all imagery is too coarse for the model.
        EmptyAreaError: there is no scene of that day.
    """
    scenes = search_imagery.scenes()
    usable = scenes.filter(_has_bands(scenes, model_pixels))
    if not len(usable):
        _refuse(search_imagery, scenes, model_pixels)
    days = np.array([when.date() for when in usable["acquired_at"].to_pylist()])
    if model_pixels.kind == "vhr" and vhr_acquired != "latest":
        wanted = days == date.fromisoformat(vhr_acquired)
        if not wanted.any():
            known = ", ".join(str(day) for day in sorted(set(days)))
            raise EmptyAreaError(f"no scene was taken on {vhr_acquired} (`vhr_acquired`); there are scenes of {known}")
        usable, days = usable.filter(pa.array(wanted)), days[wanted]
    finest = min(usable["gsd_m"].to_pylist())
    if finest > COARSEST * model_pixels.gsd_m:
        raise ModelError(
            f"the model takes pixels of {model_pixels.gsd_m} m, the finest scene has {finest} m; "
            "train one on such imagery, or search finer imagery"
        )
    # a stable sort: what the source has on top of a day stays on top
    return usable.take(pa.array(np.argsort([-day.toordinal() for day in days], kind="stable")))


@tag(stage="search")
def search_failures(search_imagery: ImagerySource, model_pixels: ModelPixels) -> list[Failure]:
    """Files that look like imagery and cannot be searched, with the reason; the others are."""
    failures = []
    for place, reason in search_imagery.unreadable().items():
        error_type, _, message = reason.partition(": ")
        failures.append(_failure(error_type, f"{place}: {message}", place))
    scenes = search_imagery.scenes()
    for scene in scenes.filter(pa.array([not has for has in _has_bands(scenes, model_pixels).to_pylist()])).to_pylist():
        message = f"scene {scene['scene_id']} has only bands {', '.join(scene['bands'])}; it is not searched"
        failures.append(_failure("BandError", message, scene["scene_id"]))
    return failures


@tag(stage="search")
@dataloader()
def scene_grids(
    model_scenes: pa.Table, model_pixels: ModelPixels, area_of_interest: shapely.Geometry | None
) -> tuple[dict[str, ChipGrid], dict[str, Any]]:
    """Scene in the area → its pixel grid, that of the band nearest to the model's ground sample distance.

    Raises:
        EmptyAreaError: no scene touches the area of interest.
        RasterReadError: a raster is missing.
    """
    footprints = shapely.from_wkb(model_scenes["footprint"].to_numpy(zero_copy_only=False))
    touching = np.ones(len(footprints), np.bool_)
    if area_of_interest is not None:
        touching = shapely.intersects(footprints, area_of_interest)
    if not touching.any():
        bounds = [round(side, 5) for side in shapely.total_bounds(footprints).tolist()]
        raise EmptyAreaError(
            f"the area of interest lies outside the imagery, which covers {bounds} (west, south, east, north); "
            "check `aoi` or `aoi_bbox_lonlat`, longitude before latitude"
        )
    found = grids_of(model_scenes.filter(pa.array(touching)), model_pixels.bands, model_pixels.gsd_m)
    return found, {"scenes": len(found)}


@tag(stage="search")
def search_scenes(model_scenes: pa.Table, scene_grids: dict[str, ChipGrid]) -> list[str]:
    """Ids of the scenes in the area, the one on top first."""
    return [name for name in model_scenes["scene_id"].to_pylist() if name in scene_grids]


@tag(stage="search")
def search_lattice(
    scene_grids: dict[str, ChipGrid],
    model_scenes: pa.Table,
    model_pixels: ModelPixels,
    area_of_interest: shapely.Geometry | None,
) -> PixelLattice:
    """The pixel lattice of the search: that of the scenes where they share one, so that reads need no resampling.

    Else pixels of the model's ground sample distance in the UTM zone of the area's centre.
    """
    grids = list(scene_grids.values())
    shared = common_lattice(grids, model_pixels.gsd_m)
    # metres of a grid that are no metres on the ground, as Web Mercator's, are not what the model was trained on
    stated = dict(zip(model_scenes["scene_id"].to_pylist(), model_scenes["gsd_m"].to_pylist(), strict=True))
    if shared is not None and all(abs(stated[name] / shared.gsd_m - 1) < 0.01 for name in scene_grids):
        return shared
    outlines = shapely.union_all([outline_lonlat(grid.footprint, grid.epsg, densify=True) for grid in grids])
    if area_of_interest is not None:
        outlines = shapely.intersection(outlines, area_of_interest)
    lon, lat = shapely.get_coordinates(shapely.point_on_surface(outlines))[0]
    west, south, east, north = outlines.bounds
    if east - west < 180:
        lon, lat = (west + east) / 2, (south + north) / 2
    return PixelLattice(epsg=utm_epsg(lon, lat), gsd_m=model_pixels.gsd_m)


@tag(stage="search")
def search_outline(
    area_of_interest: shapely.Geometry | None,
    model_scenes: pa.Table,
    scene_grids: dict[str, ChipGrid],
    search_lattice: PixelLattice,
) -> shapely.Geometry | None:
    """The area of interest in the CRS of the search, long edges divided before they bend; None is everywhere.

    Of an area that goes far beyond the imagery, the part around it: ground on the other side of the globe has no place
    in a projection, or a wrong one.
    """
    if area_of_interest is None:
        return None
    here = pa.array([name in scene_grids for name in model_scenes["scene_id"].to_pylist()], pa.bool_())
    near = _around(shapely.from_wkb(model_scenes.filter(here)["footprint"].to_numpy(zero_copy_only=False)))
    area = area_of_interest
    if not near.covers(area):
        parts = shapely.get_parts(shapely.intersection(area, near))
        area = shapely.union_all(parts[shapely.get_dimensions(parts) == 2])
    return reproject(shapely.segmentize(area, _EDGE_DEG), LONLAT, search_lattice.epsg)


@tag(stage="search")
def imagery_outline(scene_grids: dict[str, ChipGrid], search_lattice: PixelLattice) -> shapely.Geometry:
    """Ground under the scenes in the CRS of the search."""
    outlines = []
    for grid in scene_grids.values():
        outline = grid.footprint
        if grid.epsg != search_lattice.epsg:
            west, south, east, north = outline.bounds
            outline = shapely.segmentize(outline, max(east - west, north - south) / 32)
            outline = reproject(outline, grid.epsg, search_lattice.epsg)
        outlines.append(outline)
    return shapely.union_all(outlines)


@tag(stage="search")
def search_area(search_outline: shapely.Geometry | None, imagery_outline: shapely.Geometry) -> shapely.Geometry:
    """Ground that is searched, in the CRS of the search: inside the area of interest and under imagery.

    Raises:
        EmptyAreaError: the two have no ground in common.
    """
    area = imagery_outline
    if search_outline is not None:
        area = shapely.intersection(search_outline, imagery_outline)
    if area.area == 0:
        raise EmptyAreaError("the area of interest has no ground in common with the imagery; check `aoi`")
    parts = shapely.get_parts(area)
    return shapely.union_all(parts[shapely.get_dimensions(parts) == 2])


@tag(stage="search")
def search_ground(search_area: shapely.Geometry, search_lattice: PixelLattice) -> shapely.Geometry:
    """Ground that is searched, EPSG:4326, cut in two at the antimeridian."""
    return cut_at_antimeridian(reproject(search_area, search_lattice.epsg, LONLAT))


@tag(stage="search")
def search_raster(search_lattice: PixelLattice, search_area: shapely.Geometry) -> ChipGrid:
    """The raster of the search: the least part of the lattice that holds the ground that is searched."""
    west, south, east, north = search_area.bounds
    return search_lattice.covering((west, south, east, north))


@tag(stage="search")
def candidate_blocks(
    search_raster: ChipGrid, search_outline: shapely.Geometry | None, block_px: int
) -> list[SearchBlock]:
    """Blocks of the raster that share ground with the area of interest, row by row."""
    return blocks_over(search_raster, block_px, search_raster.footprint if search_outline is None else search_outline)


@tag(stage="search")
def covered_blocks(candidate_blocks: list[SearchBlock], search_area: shapely.Geometry) -> list[SearchBlock]:
    """Those of them with imagery inside the area of interest."""
    shapely.prepare(search_area)
    boxes = block_boxes(candidate_blocks)
    covered = shapely.intersects(search_area, boxes)
    covered[covered] = shapely.relate_pattern(search_area, boxes[covered], "T********")
    return [candidate_blocks[k] for k in np.flatnonzero(covered)]


@tag(stage="search")
def block_targets(covered_blocks: list[SearchBlock]) -> pa.Table:
    """Blocks as targets of context: ``target_id`` and ``geometry`` (WKB, EPSG:4326)."""
    outlines = [outline_lonlat(block.grid.footprint, block.grid.epsg) for block in covered_blocks]
    ids = pa.array([block.block_id for block in covered_blocks], pa.string())
    return pa.table({"target_id": ids, "geometry": pa.array(shapely.to_wkb(outlines), pa.binary())})


def _around(footprints: NDArray[np.object_]) -> shapely.Geometry:
    """Boxes around footprints in longitude and latitude, grown; those across the antimeridian have two parts."""
    west, south, east, north = shapely.bounds(shapely.get_parts(footprints)).T
    left, bottom = (np.maximum(edge - _BEYOND_DEG, -limit) for edge, limit in ((west, 180), (south, 90)))
    right, top = (np.minimum(edge + _BEYOND_DEG, limit) for edge, limit in ((east, 180), (north, 90)))
    return shapely.union_all(shapely.box(left, bottom, right, top))


def _has_bands(scenes: pa.Table, model: ModelPixels) -> pa.Array:
    return pa.array([set(model.bands) <= set(held) for held in scenes["bands"].to_pylist()], pa.bool_())


def _refuse(source: ImagerySource, scenes: pa.Table, model: ModelPixels) -> None:
    """Say why nothing can be searched.

    Raises:
        CRSError: no raster has a CRS.
        BandError: no scene has the model's bands.
    """
    reasons = source.unreadable()
    without_crs = [place for place, why in reasons.items() if why.startswith("CRSError")]
    if without_crs and not len(scenes):
        raise CRSError(reasons[without_crs[0]].partition(": ")[2])
    held = Counter(", ".join(bands) for bands in scenes["bands"].to_pylist())
    told = "; ".join(f"{count} scenes have {bands}" for bands, count in held.most_common(3)) or "there is no scene"
    first = next(iter(reasons.items()), None)
    more = f"; {len(reasons)} files are unreadable, such as {first[0]} ({first[1]})" if first else ""
    raise BandError(f"the model takes the bands {', '.join(model.bands)}: {told}{more}")


def _failure(error_type: str, message: str, place: str) -> Failure:
    return Failure(
        node="search_failures", error_type=error_type, message=message, traceback_hash="", input_ids=(place,)
    )
