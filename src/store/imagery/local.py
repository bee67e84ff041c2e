"""Rasters in a folder or bucket: GeoTIFF, COG, JPEG 2000, VRT, placed PNG and JPEG in any CRS, with or without STAC."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from shapely import STRtree

from store.imagery.aligned import clear_around
from store.imagery.catalogue import Catalogue, without_stretch
from store.imagery.file_index import FileIndex, default_place
from store.imagery.handles import OpenRasters
from store.imagery.options import LocalOptions, checked
from store.imagery.scene import Asset, Scene, scenes_table
from store.imagery.warp import Planes, read_warped
from store.places import is_remote, normalised
from utils.errors import BandError, ConfigError, ImageryError, NoImageryError
from utils.footprints import outline_lonlat
from utils.radiometry import harmonised, stretched
from utils.scl import checked_scl
from utils.types import ChipGrid, RasterChip

_DEPTHS = {"u", "i", "f"}


class LocalImagery:
    """Scenes of one folder, read window by window onto any grid.

    How pixels are resampled and which hold data is stated in :mod:`store.imagery.warp`; a pixel of a chip is valid
    where every file it is read from holds data. Options are those of :class:`store.imagery.options.LocalOptions`.
    """

    name = "local"

    def __init__(
        self,
        *,
        root: str | Path,
        kind: Literal["vhr", "msi"] = "vhr",
        index: str | Path | None = "auto",
        **options: Any,
    ) -> None:
        """Describe the folder; nothing is opened yet.

        Args:
            root: folder searched with all its sub-folders, or URI of an object store (``s3://bucket/prefix``,
                ``gs://``, ``az://``); on a web server, one raster or STAC item.
            kind: ``vhr`` (uint8 display colours) or ``msi`` (digital numbers of surface reflectance).
            index: file that remembers what rasters say about themselves; ``auto`` is one in the user's cache folder
                (``AEGIR_CACHE``), None reads every raster's header at each start.
            options: see :class:`store.imagery.options.LocalOptions`.

        Raises:
            ConfigError: the folder does not exist, or an option is unknown or cannot be used.
        """
        self.root = normalised(root)
        self.kind = kind
        if kind not in ("vhr", "msi"):
            raise ConfigError(f"kind is {kind!r}; give vhr or msi")
        if not is_remote(self.root) and not Path(self.root).is_dir():
            raise ConfigError(f"no imagery folder {self.root}; set `{kind}.root` to a folder of GeoTIFFs")
        self.options: LocalOptions = checked(kind, options)
        self._index_asked = index != "auto"
        self._index_place = default_place(self.root) if index == "auto" else Path(index) if index else None
        self._rasters = OpenRasters()

    def scenes(self) -> pa.Table:
        """Catalogue of the folder, schema ``store.schemas.SCENES``, the scene on top first."""
        return self._scenes_table

    def unreadable(self) -> dict[str, str]:
        """Path → reason for files that look like imagery and cannot be catalogued."""
        return dict(self._catalogue.refused)

    def read(self, grid: ChipGrid, bands: Sequence[str], *, scene_ids: Sequence[str] | None = None) -> RasterChip:
        """Pixels on ``grid``; see :class:`utils.types.ImagerySource`.

        Raises:
            NoImageryError: no scene touches the grid.
            RasterReadError: a raster is missing, corrupt or truncated.
            BandError: a scene lacks one of ``bands``.
            SceneClassError: a scene classification holds other values than 0 to 11.
            ImageryError: a VHR raster is not uint8 and no stretch is set, or a scale is missing.
        """
        shape = (grid.height, grid.width)
        dtype = np.dtype(np.uint8 if self.kind == "vhr" else np.uint16)
        data: NDArray[Any] | None = None
        valid: NDArray[np.bool_] | None = None
        scl: NDArray[np.uint8] | None = np.zeros(shape, np.uint8) if self.kind == "msi" else None
        used: list[tuple[int, Scene]] = []
        for scene in self._touching(grid, scene_ids):
            pixels, holds = self._scene_pixels(scene, grid, bands)
            fresh = holds if valid is None else holds & ~valid
            count = int(np.count_nonzero(fresh))
            if not count:
                continue
            if data is None:
                # no large array is made before the first scene gives one
                data = (pixels if count == fresh.size else _held(pixels, fresh)).astype(dtype, casting="same_kind", copy=False)
            else:
                np.copyto(data, pixels, where=fresh)
            if scl is not None and "SCL" in scene.assets:
                [classes], classified = self._planes([scene.assets["SCL"]], scene, grid)
                scl[fresh] = checked_scl(np.where(classified, classes, 0)[fresh])
            valid = fresh if valid is None else valid | fresh
            used.append((count, scene))
            if sum(pixels for pixels, _ in used) == valid.size:
                break
        if data is None or valid is None:
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
        self._rasters.close()

    @cached_property
    def _catalogue(self) -> Catalogue:
        index = FileIndex(self._index_place, required=self._index_asked)
        return Catalogue(self.root, self.kind, self.options, index)

    @cached_property
    def _scenes(self) -> list[Scene]:
        return list(self._catalogue.scenes.values())

    @cached_property
    def _scenes_table(self) -> pa.Table:
        return scenes_table(self._scenes, source=self.name, kind=self.kind, checksum_of=self._catalogue.checksum_of)

    @cached_property
    def _tree(self) -> STRtree:
        return STRtree([scene.footprint for scene in self._scenes])

    def _touching(self, grid: ChipGrid, scene_ids: Sequence[str] | None) -> list[Scene]:
        outline = outline_lonlat(grid.footprint, grid.epsg)
        near = [self._scenes[i] for i in sorted(self._tree.query(outline, predicate="intersects"))]
        if scene_ids is None:
            return near
        by_id = {scene.scene_id: scene for scene in near}
        return [by_id[scene_id] for scene_id in scene_ids if scene_id in by_id]

    def _scene_pixels(self, scene: Scene, grid: ChipGrid, bands: Sequence[str]) -> Planes:
        missing = [band for band in bands if band not in scene.assets]
        if missing:
            raise BandError(
                f"scene {scene.scene_id} has bands {', '.join(scene.assets)}; missing: {', '.join(missing)}"
            )
        together: dict[tuple[str, tuple[str, str]], list[int]] = defaultdict(list)
        for position, band in enumerate(bands):
            together[scene.assets[band].href, scene.assets[band].resampling].append(position)
        planes: list[Any] = [None] * len(bands)
        held: list[NDArray[np.bool_]] = []
        for positions in together.values():
            assets = [scene.assets[bands[k]] for k in positions]
            values, there = self._planes(assets, scene, grid)
            if len(together) == 1 and self.kind == "vhr" and values.dtype == np.uint8:
                return values, there
            held.append(there)
            for position, asset, plane in zip(positions, assets, values, strict=True):
                planes[position] = self._stored(scene, bands[position], asset, plane, there)
        return np.stack(planes), np.logical_and.reduce(held)

    def _planes(self, assets: Sequence[Asset], scene: Scene, grid: ChipGrid) -> Planes:
        """Bands of one raster on ``grid``."""
        href = assets[0].href
        read = partial(read_warped, assets=assets, grid=grid, epsg=scene.epsg, display=self.kind == "vhr")
        return self._rasters.read(href, read, alone=is_remote(href) and self._catalogue.is_alone(href))

    def _stored(
        self, scene: Scene, band: str, asset: Asset, plane: NDArray[np.generic], there: NDArray[np.bool_]
    ) -> NDArray[np.generic]:
        """Source values as chips store them."""
        if plane.dtype.kind not in _DEPTHS:
            raise ImageryError(f"scene {scene.scene_id}: {asset.href} holds {plane.dtype} values, not real numbers")
        if self.kind == "msi":
            return harmonised(np.where(there, plane, 0), there, **_radiometry(scene, asset))
        if plane.dtype == np.uint8:
            return plane
        if self.options.stretch is None:
            raise ImageryError(without_stretch(scene.scene_id, asset.href, str(plane.dtype)))
        if asset.stretch is None:
            raise ImageryError(f"scene {scene.scene_id}: `vhr.stretch` names no low and high for band {band}; add them")
        low, high, gamma = asset.stretch
        return stretched(np.where(there, plane, 0), there, low=low, high=high, gamma=gamma)


def _held(pixels: NDArray[Any], holds: NDArray[np.bool_]) -> NDArray[Any]:
    """Pixels (bands, rows, columns) with 0 where a pixel holds no data, in place; faster than a masked copy."""
    rows, columns = (_extent(holds.any(axis=axis)) for axis in (1, 0))
    if holds[rows, columns].all():
        clear_around(pixels, rows, columns)
        return pixels
    held: NDArray[Any] = np.multiply(pixels, holds, out=pixels, casting="unsafe")
    return held


def _extent(line: NDArray[np.bool_]) -> slice:
    """From the first to the last that is true."""
    return slice(int(line.argmax()), len(line) - int(line[::-1].argmax()))


def _radiometry(scene: Scene, asset: Asset) -> dict[str, float]:
    if asset.scale is None:
        raise ImageryError(
            f"scene {scene.scene_id} does not state its reflectance scale (raster:bands); set `msi.scale` and "
            "`msi.offset`: 0.0001 and 0 for Sentinel-2 before baseline 04.00, 0.0001 and -0.1 after"
        )
    return {"scale": asset.scale, "offset": asset.offset}
