"""Rasters in a folder: GeoTIFF, COG, JPEG 2000 or VRT in any CRS, with or without STAC items beside them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from shapely import STRtree, transform
from shapely.errors import ShapelyError

from store.imagery.catalogue import (
    RASTER_SUFFIXES,
    Asset,
    Scene,
    scene_in_item,
    scene_in_raster,
    scenes_table,
    spacing_m,
    unique_ids,
)
from utils.errors import AegirError, BandError, ConfigError, ImageryError, NoImageryError, RasterReadError
from utils.radiometry import harmonised
from utils.scl import checked_scl
from utils.types import ChipGrid, RasterChip

_CATEGORICAL = {"SCL"}
_OPEN_FILES = 64


class LocalImagery:
    """Scenes of one folder, read window by window onto any grid.

    Continuous bands are resampled bilinearly (averaged where the source is more than twice finer), classes by
    nearest neighbour. A pixel is valid where every band holds data.
    """

    name = "local"

    def __init__(
        self,
        *,
        root: str | Path,
        kind: Literal["vhr", "msi"] = "vhr",
        acquired_at: str | date | datetime | None = None,
        sensor: str | None = None,
        scale: float | None = None,
        offset: float = 0.0,
    ) -> None:
        """Describe the folder; nothing is opened yet.

        Args:
            root: folder searched with all its sub-folders.
            kind: ``vhr`` (uint8 display colours) or ``msi`` (digital numbers of surface reflectance).
            acquired_at: acquisition time of rasters that do not state one, ISO 8601.
            sensor: platform of rasters without a STAC item.
            scale: reflectance per digital number of multispectral rasters that do not state one (Sentinel-2: 0.0001).
            offset: reflectance at digital number 0 of those rasters (Sentinel-2 from baseline 04.00 on: -0.1).

        Raises:
            ConfigError: the folder does not exist, or ``acquired_at`` is no date.
        """
        self.root, self.kind, self._sensor = Path(root), kind, sensor
        self._scale, self._offset = scale, offset
        if not self.root.is_dir():
            raise ConfigError(f"no imagery folder {self.root}; set `{kind}.root` to a folder of GeoTIFFs")
        try:
            when = datetime.fromisoformat(str(acquired_at)) if acquired_at is not None else None
        except ValueError as error:
            raise ConfigError(f"{kind}.acquired_at is {acquired_at!r}, not an ISO 8601 date") from error
        self._acquired_at = when.replace(tzinfo=when.tzinfo or UTC) if when else None
        self._files = ExitStack()
        self._handles: dict[str, rasterio.DatasetReader] = {}

    def scenes(self) -> pa.Table:
        """Catalogue of the folder, schema ``store.schemas.SCENES``, newest first."""
        return scenes_table(list(self._catalogue[0].values()), source=self.name, kind=self.kind)

    def unreadable(self) -> dict[str, str]:
        """Path → reason for files that look like imagery and cannot be catalogued."""
        return dict(self._catalogue[1])

    def read(self, grid: ChipGrid, bands: Sequence[str], *, scene_ids: Sequence[str] | None = None) -> RasterChip:
        """Pixels on ``grid``; see :class:`utils.types.ImagerySource`.

        Raises:
            NoImageryError: no scene touches the grid.
            RasterReadError: a raster is missing, corrupt or truncated.
            BandError: a scene lacks one of ``bands``.
            SceneClassError: a scene classification holds other values than 0 to 11.
            ImageryError: a VHR raster is not uint8.
        """
        shape = (grid.height, grid.width)
        data = np.zeros((len(bands), *shape), np.uint8 if self.kind == "vhr" else np.uint16)
        valid = np.zeros(shape, bool)
        scl: NDArray[np.uint8] | None = np.zeros(shape, np.uint8) if self.kind == "msi" else None
        used: list[tuple[int, Scene]] = []
        for scene in self._touching(grid, scene_ids):
            pixels, holds = self._scene_pixels(scene, grid, bands)
            fresh = holds & ~valid
            if not fresh.any():
                continue
            data[:, fresh] = pixels[:, fresh]
            if scl is not None and "SCL" in scene.assets:
                classes, classified = self._band(scene.assets["SCL"], grid, categorical=True)
                scl[fresh] = checked_scl(np.where(classified, classes, 0)[fresh])
            valid |= fresh
            used.append((int(fresh.sum()), scene))
            if valid.all():
                break
        if not used:
            raise NoImageryError(f"no {self.kind} scene under {self.root} holds data on the chip at {grid.centre}")
        used.sort(key=lambda entry: -entry[0])
        return RasterChip(
            data=data,
            valid=valid,
            grid=grid,
            bands=tuple(bands),
            source=self.name,
            scene_ids=tuple(scene.scene_id for _, scene in used),
            sensor=used[0][1].sensor,
            acquired_at=used[0][1].acquired_at,
            scl=scl,
        )

    def close(self) -> None:
        """Close the open rasters."""
        self._files.close()
        self._handles.clear()

    @cached_property
    def _catalogue(self) -> tuple[dict[str, Scene], dict[str, str]]:
        found: list[Scene] = []
        refused: dict[str, str] = {}
        described: set[str] = set()
        for path in _stac_items(self.root):
            try:
                scene = scene_in_item(path)
            except (AegirError, ShapelyError, KeyError, ValueError, TypeError, AttributeError) as error:
                refused[str(path)] = f"{type(error).__name__}: {error}"
                continue
            found.append(scene)
            described |= {asset.href for asset in scene.assets.values()}
        for path in sorted(p for p in self.root.rglob("*") if p.suffix.lower() in RASTER_SUFFIXES):
            if str(path.resolve()) in described:
                continue
            try:
                found.append(scene_in_raster(path.resolve(), acquired_at=self._acquired_at, sensor=self._sensor))
            except (AegirError, ValueError) as error:
                refused[str(path)] = f"{type(error).__name__}: {error}"
        scenes = unique_ids(found, self.root)
        scenes.sort(key=lambda scene: (-scene.acquired_at.timestamp(), scene.scene_id))
        return {scene.scene_id: scene for scene in scenes}, refused

    @cached_property
    def _tree(self) -> STRtree:
        return STRtree([scene.footprint for scene in self._catalogue[0].values()])

    def _touching(self, grid: ChipGrid, scene_ids: Sequence[str] | None) -> list[Scene]:
        to_lonlat = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
        outline = transform(grid.footprint, to_lonlat.transform, interleaved=False)
        scenes = list(self._catalogue[0].values())
        near = [scenes[i] for i in sorted(self._tree.query(outline, predicate="intersects"))]
        if scene_ids is None:
            return near
        by_id = {scene.scene_id: scene for scene in near}
        return [by_id[scene_id] for scene_id in scene_ids if scene_id in by_id]

    def _scene_pixels(
        self, scene: Scene, grid: ChipGrid, bands: Sequence[str]
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        missing = [band for band in bands if band not in scene.assets]
        if missing:
            raise BandError(
                f"scene {scene.scene_id} has bands {', '.join(scene.assets)}; missing: {', '.join(missing)}"
            )
        planes, masks = [], []
        for band in bands:
            asset = scene.assets[band]
            values, holds = self._band(asset, grid, categorical=band in _CATEGORICAL)
            if self.kind == "msi":
                values = harmonised(values, holds, **self._radiometry(scene, asset))
            elif values.dtype != np.uint8:
                raise ImageryError(
                    f"scene {scene.scene_id}: VHR imagery must be uint8, {asset.href} is {values.dtype}; "
                    "convert it with a stretch you choose, for example gdal_translate -ot Byte -scale"
                )
            planes.append(values)
            masks.append(holds)
        return np.stack(planes), np.logical_and.reduce(masks)

    def _radiometry(self, scene: Scene, asset: Asset) -> dict[str, float]:
        if asset.scale is not None:
            return {"scale": asset.scale, "offset": asset.offset}
        if self._scale is None:
            raise ImageryError(
                f"scene {scene.scene_id} does not state its reflectance scale (raster:bands); set `msi.scale` and "
                "`msi.offset`: 0.0001 and 0 for Sentinel-2 before baseline 04.00, 0.0001 and -0.1 after"
            )
        return {"scale": self._scale, "offset": self._offset}

    def _band(
        self, asset: Asset, grid: ChipGrid, *, categorical: bool
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """One band on ``grid`` and where it holds data, shape (rows, columns) each."""
        try:
            raster = self._open(asset.href)
            if asset.index > raster.count:
                raise BandError(f"{asset.href} has {raster.count} bands, its STAC item names one more: {asset.index}")
            nodata = raster.nodata if asset.nodata is None else asset.nodata
            # without nodata or an alpha band, an added one carries the file's own mask and its edge through the warp
            bare = nodata is None and MaskFlags.alpha not in raster.mask_flag_enums[asset.index - 1]
            with WarpedVRT(
                raster,
                crs=f"EPSG:{grid.epsg}",
                transform=grid.affine,
                width=grid.width,
                height=grid.height,
                src_nodata=nodata,
                nodata=nodata,
                add_alpha=bare,
                resampling=_resampling(raster, grid, categorical=categorical),
            ) as warped:
                window = Window(0, 0, grid.width, grid.height)
                values = warped.read(asset.index, window=window)
                alpha = (
                    warped.read(warped.count, window=window) if bare else warped.read_masks(asset.index, window=window)
                )
                return values, alpha > 0
        except RasterioError as error:
            raise RasterReadError(f"{asset.href}: cannot be read ({error}); replace or remove the file") from error

    def _open(self, href: str) -> rasterio.DatasetReader:
        if href not in self._handles:
            if len(self._handles) >= _OPEN_FILES:
                self.close()
            self._handles[href] = self._files.enter_context(rasterio.open(href))
        return self._handles[href]


def _resampling(raster: rasterio.DatasetReader, grid: ChipGrid, *, categorical: bool) -> Resampling:
    if categorical:
        return Resampling.nearest
    finer = grid.gsd_m / spacing_m(raster)
    return Resampling.average if finer > 2 else Resampling.bilinear


def _stac_items(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.json")):
        try:
            content = json.loads(path.read_text())
        except (ValueError, OSError):
            # any other JSON file may lie beside imagery; it is no STAC item and names no raster
            continue
        if isinstance(content, dict) and content.get("type") == "Feature" and "stac_version" in content:
            yield path
