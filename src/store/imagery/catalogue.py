"""Catalogue of a folder: STAC items where there are some, else the rasters; read once, then from the index."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from shapely.errors import ShapelyError

from store.fingerprint import place_checksum
from store.imagery.file_index import FileIndex
from store.imagery.folder import PICTURE_SUFFIXES, Folder
from store.imagery.handles import read_once
from store.imagery.header import RasterHeader, read_header, scene_of
from store.imagery.options import LocalOptions
from store.imagery.scene import Asset, Scene, scene_as_json, scene_from_json, unique_ids
from store.imagery.stac_items import RASTER_SUFFIXES, named_files, read_item, scene_in_item
from store.places import below, folder_of, is_remote, name_of
from utils.errors import AegirError, ImageryError, RasterReadError, RasterUnreachableError
from utils.radiometry import percentile_limits
from utils.redaction import Sealed

SAMPLE_PX = 512
"""Percentiles are taken from a read of the scene decimated to this many pixels along its longer side."""

_UNUSABLE = (AegirError, ShapelyError, KeyError, ValueError, TypeError, AttributeError)


class Catalogue:
    """Scenes of a folder, the one on top first, and what could not be catalogued."""

    def __init__(self, root: str, kind: str, options: LocalOptions, index: FileIndex) -> None:
        """Catalogue ``root``; files the index does not know are opened, and the index is written.

        Raises:
            ConfigError: ``order`` names a scene that is not there, or the index cannot be written where it was asked.
            RasterUnreachableError: the server of a remote root does not answer.
            RasterDeniedError: it refuses the credentials.
        """
        self._kind, self._options, self._index = kind, options, index
        self._folder = Folder(root)
        self.refused = dict(self._folder.refused)
        self.checksum_of: Callable[[str], str] = cache(self._checksum)
        usable = []
        for scene in unique_ids([*self._scenes()], self._folder.root):
            try:
                usable.append(self._as_read(scene))
            except AegirError as error:
                self.refused[scene.described_in] = f"{type(error).__name__}: {error}"
        self._note_pictures(usable)
        self.scenes = {scene.scene_id: scene for scene in options.ordered(usable)}
        for scene in self.scenes.values():
            for file in scene.files:
                self.checksum_of(file)
        index.save()

    def _scenes(self) -> list[Scene]:
        found: list[Scene] = []
        described: set[str] = set()
        for path in self._files((".json",)):
            entry = self._item(path)
            described |= set(entry["names"])
            if entry["refused"]:
                self.refused[path] = entry["refused"]
            elif entry["scene"]:
                found.append(scene_from_json(entry["scene"]))
        for path in self._files((*RASTER_SUFFIXES, *PICTURE_SUFFIXES)):
            if self._is_mere_picture(path) or (described and described & _spellings(path)):
                continue
            try:
                found.append(self._scene_in(path))
            except RasterUnreachableError:
                # a scene must not be missing because a server is away for a minute
                raise
            except _UNUSABLE as error:
                self.refused[path] = f"{type(error).__name__}: {error}"
        return found

    def is_alone(self, href: str) -> bool:
        """Whether no file beside a raster belongs to it."""
        return self._folder.is_alone(href)

    def _files(self, suffixes: tuple[str, ...]) -> list[str]:
        return [
            path
            for path in self._folder.files(suffixes)
            if not (self._options.exclude and self._options.excludes(below(path, self._folder.root)))
        ]

    def _item(self, path: str) -> dict[str, Any]:
        """The scene of a STAC item, the files it names, and why it is refused; all empty for another JSON file."""
        stamp = self._folder.stamp(path)
        known = self._index.get("item", path, stamp)
        if known is not None:
            return dict(known)
        entry: dict[str, Any] = {"scene": None, "names": [], "refused": None}
        content = read_item(path)
        if content is not None:
            try:
                entry["names"] = list(named_files(content, folder_of(path)))
                entry["scene"] = scene_as_json(scene_in_item(path, content))
            except _UNUSABLE as error:
                entry |= {"names": [], "refused": f"{type(error).__name__}: {error}"}
        if not _has_secrets(path, entry):
            self._index.put("item", path, stamp, entry, newest_ns=stamp[1] if stamp else 0)
        return entry

    def _scene_in(self, path: str) -> Scene:
        options = self._options
        header = self._header(path)
        scene = scene_of(header, acquired_at=options.acquired_at, sensor=options.sensor, crs_else=options.crs)
        if self._kind == "vhr" and options.stretch is None:
            deep = next((dtype for dtype in header.dtypes if dtype != "uint8"), None)
            if deep:
                raise ImageryError(without_stretch(scene.scene_id, path, deep))
        return scene

    def _header(self, path: str) -> RasterHeader:
        """The header of a raster, from the index while neither it nor a file beside it has changed."""
        if isinstance(path, Sealed):
            return read_header(path)
        family = self._folder.family(path)
        known = self._index.get("header", path, family)
        if known is not None and known["parts"] == self._states(known["parts"]):
            if known["refused"]:
                raise RasterReadError(known["refused"])
            return _header_from_json(known["header"])
        newest = max((stamp[1] for _, stamp in family), default=0)
        try:
            header = read_header(path, alone=self._folder.is_alone(path), is_there=self._folder.__contains__)
        except RasterUnreachableError:
            raise
        except RasterReadError as error:
            entry: dict[str, Any] = {"header": None, "parts": {}, "refused": str(error)}
            self._index.put("header", path, family, entry, newest_ns=newest)
            raise
        beside = {file for file, _ in family}
        parts = self._states(dict.fromkeys(file for file in header.files if file not in beside))
        newest = max(newest, *(state[1] for state in parts.values() if state), 0)
        entry = {"header": asdict(header), "parts": parts, "refused": None}
        self._index.put("header", path, family, entry, newest_ns=newest)
        return header

    def _states(self, files: dict[str, Any]) -> dict[str, list[int] | None]:
        return {file: list(stamp) if (stamp := self._folder.stamp(file)) else None for file in files}

    def _is_mere_picture(self, path: str) -> bool:
        return name_of(path).lower().endswith(PICTURE_SUFFIXES) and not self._folder.is_placed(path)

    def _note_pictures(self, usable: list[Scene]) -> None:
        """Pictures nothing places are thumbnails, unless they are all there is."""
        if usable or self.refused:
            return
        pictures = [path for path in self._files(PICTURE_SUFFIXES) if self._is_mere_picture(path)]
        if pictures:
            first = name_of(pictures[0])
            self.refused[self._folder.root] = (
                f"ImageryError: {len(pictures)} pictures without a place on the ground, such as {first}; "
                "put a world file (.pgw, .jgw, .wld) beside each, and a .prj or the source's option `crs`"
            )

    def _checksum(self, file: str) -> str:
        stamp = self._folder.stamp(file)
        known = self._index.get("checksum", file, stamp) if stamp else None
        if known is not None:
            return str(known)
        found = place_checksum(file)
        if stamp:
            self._index.put("checksum", file, stamp, found, newest_ns=stamp[1])
        return found

    def _as_read(self, scene: Scene) -> Scene:
        """The scene with everything the options decide about its bands."""
        assets = {}
        for band, asset in scene.assets.items():
            stretch = self._limits(scene, band, asset) if self._kind == "vhr" else None
            assets[band] = replace(asset, **self._options.asset(band, asset), stretch=stretch)
        return replace(scene, assets=assets)

    def _limits(self, scene: Scene, band: str, asset: Asset) -> tuple[float, float, float] | None:
        stretch = self._options.stretch
        if stretch is None or stretch.kind == "linear":
            return stretch.limits(band) if stretch else None
        low, high, gamma = stretch.limits(band) or (2.0, 98.0, 1.0)
        stamps = [(file, self._folder.stamp(file)) for file in scene.files]
        asked = f"limits {asset.index} {low} {high} {asset.nodata} {self._options.nodata}"
        found = self._index.get(asked, asset.href, stamps)
        if found is None:
            found = scene_limits(asset, low, high, self._options.nodata)
            newest = max((stamp[1] for _, stamp in stamps if stamp), default=0)
            self._index.put(asked, asset.href, stamps, found, newest_ns=newest)
        if not found:
            return None
        if len(found) == 1:
            raise ImageryError(
                f"{asset.href}: percentiles {low:g} and {high:g} of band {band} are equal or the band is empty; "
                "set `stretch: {kind: linear, low: …, high: …}`"
            )
        return found[0], found[1], gamma


def scene_limits(asset: Asset, low: float, high: float, nodata_else: float | None) -> list[float]:
    """Percentiles of one band of a whole scene, from a read decimated to :data:`SAMPLE_PX` by nearest neighbour.

    GDAL serves such a read from the nearest overview where the file has some.

    Returns:
        the two values; empty for uint8, which is shown as it is; ``[nan]`` where the two do not differ.

    Raises:
        RasterReadError: the raster cannot be read.
    """

    def read(raster: rasterio.DatasetReader) -> list[float]:
        if raster.dtypes[asset.index - 1] == "uint8":
            return []
        step = max(1.0, max(raster.shape) / SAMPLE_PX)
        shape = tuple(max(1, round(side / step)) for side in raster.shape)
        values = raster.read(asset.index, out_shape=shape)
        valid = raster.read_masks(asset.index, out_shape=shape) > 0
        stated = (asset.nodata, raster.nodatavals[asset.index - 1], nodata_else)
        nodata = next((value for value in stated if value is not None), None)
        limits = percentile_limits(values, valid & _measured(values, nodata), low=low, high=high)
        return [float("nan")] if limits is None else [*limits]

    try:
        return read_once(asset.href, read)
    except IndexError as error:
        raise RasterReadError(f"{asset.href}: cannot be read ({error}); replace or remove the file") from error


def _measured(values: NDArray[np.generic], nodata: float | None) -> NDArray[np.bool_]:
    finite = np.isfinite(values)
    return np.asarray(finite if nodata is None else finite & (values != nodata))


def _spellings(path: str) -> set[str]:
    return {path} if is_remote(path) else {path, str(Path(path).resolve())}


def _has_secrets(path: str, entry: dict[str, Any]) -> bool:
    """Whether a file of the index would hold a signed URL, or would lack its signature."""
    assets = (entry["scene"] or {}).get("assets", {}).values()
    return any(isinstance(text, Sealed) for text in (path, *entry["names"], *(asset["href"] for asset in assets)))


def _header_from_json(values: dict[str, Any]) -> RasterHeader:
    made: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return RasterHeader(**made)


def without_stretch(scene_id: str, place: str, dtype: str) -> str:
    """Why VHR imagery of more than 8 bits is refused, and what to set."""
    return (
        f"scene {scene_id}: VHR chips are uint8 and {place} is {dtype}; set the stretch of `vhr`: "
        "`stretch: {kind: linear, low: 0, high: 3000}` with the source values you want dark and bright (best where "
        "several files make a mosaic), or `stretch: {kind: percentile, low: 2, high: 98}` of each scene"
    )
