"""Change between two dates: differences of spectral indices on one grid, where both dates are clear.

Both dates are read onto the same grid, so they are co-registered to the accuracy of the scenes' own geolocation. The
difference nodes are made from the table in ``utils.indices``: one line there is one node here.
"""

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from hamilton.function_modifiers import dataloader, datasaver, group, inject, parameterize, source, tag, value
from numpy.typing import NDArray

from store import imagery
from store.rasters import write_raster
from utils.errors import BandError, ConfigError, GridError, NoImageryError
from utils.geo import crs, reproject, reproject_bounds, utm_epsg
from utils.indices import INDICES, spectral_index
from utils.radiometry import REFLECTANCE_SCALE
from utils.scl import clear_pixels
from utils.types import ChipGrid, ImagerySource, RasterChip

MAX_GRID_PX = 4096 * 4096
"""Pixels one run reads: every band of both dates is held in memory (4 bytes per band and pixel for the two)."""

_SNAP_PX = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class ScenePair:
    """What is compared."""

    before_ids: tuple[str, ...]
    """Scenes of the first date, first on top."""
    after_ids: tuple[str, ...]
    """Scenes of the second date, first on top."""
    bands: tuple[str, ...]
    """Bands that every scene of both dates holds, sorted."""
    overlap: shapely.Geometry
    """Ground that both dates cover, longitude and latitude (EPSG:4326)."""
    epsg: int
    """EPSG code of the first scene of the first date."""


@tag(stage="change")
@dataloader()
def change_imagery(msi: dict[str, Any]) -> tuple[ImagerySource, dict[str, Any]]:
    """The source of multispectral imagery of both dates, catalogued.

    Raises:
        ConfigError: its options are wrong or its folder is missing.
    """
    options = {key: option for key, option in msi.items() if key != "source"}
    try:
        found = imagery.get(msi["source"], kind="msi", **options)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"msi: give `source` and its options, for instance source and root: {error}") from error
    return found, {"source": found.name, "scenes": len(found.scenes())}


@tag(stage="change")
def unreadable_imagery(change_imagery: ImagerySource) -> dict[str, str]:
    """Place → reason for everything that looks like imagery of the folder and is in no scene."""
    return change_imagery.unreadable()


@tag(stage="change")
def scene_pair(change_imagery: ImagerySource, before: str, after: str) -> ScenePair:
    """Scenes of the two dates: each a scene id, or an ISO 8601 day (UTC) that takes all scenes of that day.

    Raises:
        NoImageryError: a date has no scene, or the two cover no common ground.
        ConfigError: ``before`` is not before ``after``.
    """
    first, second = (_scenes_of(change_imagery, which) for which in (before, after))
    if max(row["acquired_at"] for row in first) >= min(row["acquired_at"] for row in second):
        raise ConfigError(f"`before` ({before}) must be acquired before `after` ({after}); exchange the two")
    grounds = [shapely.union_all(shapely.from_wkb([row["footprint"] for row in rows])) for rows in (first, second)]
    overlap = shapely.intersection(*grounds)
    if shapely.area(overlap) == 0:
        raise NoImageryError(f"scenes of {before} and of {after} cover no common ground")
    return ScenePair(
        before_ids=tuple(row["scene_id"] for row in first),
        after_ids=tuple(row["scene_id"] for row in second),
        bands=tuple(sorted(set.intersection(*(set(row["bands"]) for row in (*first, *second))))),
        overlap=overlap,
        epsg=first[0]["epsg"],
    )


@tag(stage="change")
def change_bands(scene_pair: ScenePair) -> tuple[str, ...]:
    """Bands to read: those of all indices whose bands both dates hold.

    Raises:
        BandError: the pair has the bands of no index.
    """
    wanted = [set(spec.bands) for spec in INDICES.values() if set(spec.bands) <= set(scene_pair.bands)]
    if not wanted:
        raise BandError(
            f"the pair has the bands {', '.join(scene_pair.bands) or '(none)'} on both dates; no index needs only "
            "these: name the rasters' bands as Sentinel-2 does (B04, B08, …) in STAC items"
        )
    return tuple(sorted(set.union(*wanted)))


@tag(stage="change")
def skipped_indices(scene_pair: ScenePair) -> dict[str, str]:
    """Index → what it lacks, for each index that cannot be compared on this pair."""
    lacks = {name: [band for band in spec.bands if band not in scene_pair.bands] for name, spec in INDICES.items()}
    return {
        name: f"{INDICES[name].title} needs {', '.join(missing)}, which not every scene of the pair holds"
        for name, missing in lacks.items()
        if missing
    }


@tag(stage="change")
def change_grid(scene_pair: ScenePair, aoi_bbox_lonlat: list[float] | None, gsd_m: float) -> ChipGrid:
    """The grid both dates are read on: north-up, pixel edges at multiples of ``gsd_m``, as Sentinel-2's own are.

    It covers the area of interest (west, south, east, north in degrees), or without one the ground both dates cover,
    in the CRS of the first scene when that is in metres, else in the UTM zone of the centre.

    Raises:
        ConfigError: the area of interest or ``gsd_m`` makes no sense, or the grid has more than ``MAX_GRID_PX`` pixels.
        NoImageryError: the area of interest lies outside the common ground.
    """
    if not (np.isfinite(gsd_m) and gsd_m > 0):
        raise ConfigError(f"gsd_m is {gsd_m}; it is a pixel size in metres, 10 for Sentinel-2")
    area = scene_pair.overlap if aoi_bbox_lonlat is None else _aoi(aoi_bbox_lonlat)
    if not shapely.intersects(area, scene_pair.overlap):
        ground = ", ".join(f"{edge:.5f}" for edge in scene_pair.overlap.bounds)
        raise NoImageryError(
            f"the area of interest {aoi_bbox_lonlat} lies outside the ground both dates cover; "
            f"that lies within [{ground}] (west, south, east, north)"
        )
    epsg = scene_pair.epsg
    if not (crs(epsg).is_projected and crs(epsg).axis_info[0].unit_name == "metre"):
        epsg = utm_epsg(area.centroid.x, area.centroid.y)
    bounds = (
        reproject(area, 4326, epsg).bounds if aoi_bbox_lonlat is None else reproject_bounds(area.bounds, 4326, epsg)
    )
    left, bottom, right, top = np.array(bounds) / gsd_m + np.array([_SNAP_PX, _SNAP_PX, -_SNAP_PX, -_SNAP_PX])
    left, bottom, right, top = np.floor(left), np.floor(bottom), np.ceil(right), np.ceil(top)
    height, width = int(top - bottom), int(right - left)
    if height * width > MAX_GRID_PX:
        raise ConfigError(
            f"{height} × {width} pixels of {gsd_m} m are more than one run holds ({MAX_GRID_PX}); give a smaller "
            "`aoi_bbox_lonlat` or a larger `gsd_m`"
        )
    transform = (float(gsd_m), 0.0, float(left * gsd_m), 0.0, -float(gsd_m), float(top * gsd_m))
    return ChipGrid(epsg=epsg, transform=transform, height=height, width=width)


@tag(stage="change")
@dataloader()
def before_scene(
    change_imagery: ImagerySource, scene_pair: ScenePair, change_bands: tuple[str, ...], change_grid: ChipGrid
) -> tuple[RasterChip, dict[str, Any]]:
    """Pixels of the first date on the grid, reflectance × 10000 as uint16, with the scene classification if any."""
    chip = change_imagery.read(change_grid, change_bands, scene_ids=scene_pair.before_ids)
    return chip, {"scene_ids": list(chip.scene_ids)}


@tag(stage="change")
@dataloader()
def after_scene(
    change_imagery: ImagerySource, scene_pair: ScenePair, change_bands: tuple[str, ...], change_grid: ChipGrid
) -> tuple[RasterChip, dict[str, Any]]:
    """Pixels of the second date on the grid, reflectance × 10000 as uint16, with the scene classification if any."""
    chip = change_imagery.read(change_grid, change_bands, scene_ids=scene_pair.after_ids)
    return chip, {"scene_ids": list(chip.scene_ids)}


@tag(stage="change")
def change_valid(before_scene: RasterChip, after_scene: RasterChip) -> NDArray[np.bool_]:
    """True where both dates hold data and both scene classes are kept (``utils.scl``), bool (rows, columns).

    A date without any classified pixel is valid wherever it holds data.

    Raises:
        GridError: the two chips lie on different grids.
        SceneClassError: a classification holds other values than 0 to 11.
    """
    if before_scene.grid != after_scene.grid:
        raise GridError(
            f"the dates are not co-registered: {before_scene.grid} before, {after_scene.grid} after; "
            "read both on one grid"
        )
    both = [clear_pixels(chip.valid, chip.scl) for chip in (before_scene, after_scene)]
    return both[0] & both[1]


@tag(stage="change")
@parameterize(
    **{
        f"{name}_difference": (
            {"index_name": value(name)},
            f"{spec.title} after minus before, float32 (rows, columns); empty where the pair lacks its bands.",
        )
        for name, spec in INDICES.items()
    }
)
def spectral_index_difference(
    before_scene: RasterChip,
    after_scene: RasterChip,
    change_valid: NDArray[np.bool_],
    skipped_indices: dict[str, str],
    index_name: str,
) -> NDArray[np.float32]:
    """{0}.

    NaN where a date is not valid or the index has a denominator of 0.
    """
    if index_name in skipped_indices:
        return np.empty((0, 0), np.float32)
    images = [
        spectral_index(index_name, dict(zip(chip.bands, chip.data, strict=True)), scale=REFLECTANCE_SCALE)
        for chip in (before_scene, after_scene)
    ]
    return np.where(change_valid, images[1] - images[0], np.float32(np.nan))


@tag(stage="change")
@inject(planes=group(**{name: source(f"{name}_difference") for name in INDICES}))
def index_differences(planes: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Index → difference, float32 (rows, columns), of the indices whose bands the pair holds."""
    return {name: plane for name, plane in planes.items() if plane.size}


@tag(stage="change")
def change_statistics(
    index_differences: dict[str, NDArray[np.float32]], change_threshold: float
) -> dict[str, dict[str, float | int | None]]:
    """Index → pixels compared and what changed; indices the pair lacks bands for are in ``skipped_indices`` instead.

    ``n_pixels`` of the grid, ``n_valid`` compared, ``mean`` and ``std`` of the difference, ``share_loss`` and
    ``share_gain``: shares of the compared pixels that fell or rose by more than the threshold. Null without pixels.

    Raises:
        ConfigError: the threshold is not a positive number.
    """
    if not (np.isfinite(change_threshold) and change_threshold > 0):
        raise ConfigError(f"change_threshold is {change_threshold}; it is a difference of index values above 0")
    return {name: _summary(plane, change_threshold) for name, plane in index_differences.items()}


@tag(stage="change")
@datasaver()
def change_raster(
    index_differences: dict[str, NDArray[np.float32]],
    change_grid: ChipGrid,
    before_scene: RasterChip,
    after_scene: RasterChip,
    raster_path: str,
) -> dict:  # type: ignore[type-arg]  # Hamilton accepts no other annotation
    """The differences as one cloud-optimised GeoTIFF, a band per index, NaN where nothing was compared."""
    planes = {f"{name}_difference": plane for name, plane in index_differences.items()}
    tags = {
        "BEFORE_SCENES": ", ".join(before_scene.scene_ids),
        "AFTER_SCENES": ", ".join(after_scene.scene_ids),
        "BEFORE_ACQUIRED_AT": before_scene.acquired_at.isoformat(),
        "AFTER_ACQUIRED_AT": after_scene.acquired_at.isoformat(),
    }
    return {"path": str(write_raster(raster_path, planes, change_grid, tags=tags)), "bands": list(planes)}


def _scenes_of(imagery_source: ImagerySource, which: str) -> list[dict[str, Any]]:
    scenes: pa.Table = imagery_source.scenes()
    rows = scenes.select(["scene_id", "acquired_at", "bands", "footprint", "epsg"]).to_pylist()
    chosen = [row for row in rows if row["scene_id"] == which]
    if not chosen:
        try:
            day = date.fromisoformat(which)
        except ValueError:
            day = None
        chosen = [row for row in rows if row["acquired_at"].date() == day]
    if not chosen:
        known = sorted({f"{row['acquired_at']:%Y-%m-%d} {row['scene_id']}" for row in rows})
        more = f" and {len(known) - 10} more" if len(known) > 10 else ""
        refused = "; ".join(f"{place}: {why}" for place, why in list(imagery_source.unreadable().items())[:3])
        raise NoImageryError(
            f"no scene has the id or the day {which!r}; there are: {', '.join(known[:10]) or '(none)'}{more}"
            + (f"; unreadable: {refused}" if refused else "")
        )
    return chosen


def _aoi(bbox_lonlat: list[float]) -> shapely.Polygon:
    if len(bbox_lonlat) != 4 or not np.isfinite(bbox_lonlat).all():
        raise ConfigError(f"aoi_bbox_lonlat is {bbox_lonlat}; give west, south, east, north in degrees")
    west, south, east, north = bbox_lonlat
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise ConfigError(f"aoi_bbox_lonlat is {bbox_lonlat}; give west < east and south < north in degrees")
    return shapely.box(west, south, east, north)


def _summary(plane: NDArray[np.float32], threshold: float) -> dict[str, float | int | None]:
    known = plane[~np.isnan(plane)]
    counts: dict[str, float | int | None] = {"n_pixels": plane.size, "n_valid": known.size}
    if not known.size:
        return counts | dict.fromkeys(("mean", "std", "share_loss", "share_gain"))
    return counts | {
        "mean": float(known.mean(dtype=np.float64)),
        "std": float(known.std(dtype=np.float64)),
        "share_loss": float((known < -threshold).mean()),
        "share_gain": float((known > threshold).mean()),
    }
