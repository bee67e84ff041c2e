"""Probabilities of a search: one small GeoTIFF per finished block, and the cloud-optimised raster made of them.

Both hold uint8: 0 to 254 is probability 0 to 1, 255 is nodata. A part appears under its name only when it is complete
and on the disk, so a search that was killed goes on where it stood.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from store._durable_files import drop_leftovers, whole_file
from store._probability_cog import write_cog
from store.fingerprint import digest
from utils.errors import GridError, RasterReadError, RasterWriteError
from utils.search_blocks import PROBABILITY_NODATA, SearchBlock, search_blocks
from utils.types import ChipGrid

_LAYOUT: Final = {
    "driver": "GTiff",
    "count": 1,
    "dtype": "uint8",
    "nodata": PROBABILITY_NODATA,
    "compress": "ZSTD",
    "zstd_level": 1,
}
_TILE_PX: Final = 512
_PARTS: Final = "parts"


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockProbabilities:
    """What a model found on one block."""

    data: NDArray[np.uint8]
    """Probabilities, shape (rows, columns): 0 to 254 is 0 to 1, 255 is nodata."""
    scene_ids: tuple[str, ...] = ()
    """Scenes whose pixels were read for it, most used first; none where no scene holds data."""
    acquired_at: datetime | None = None
    """Acquisition time of the first of them, timezone-aware; None where there is none."""
    sensor: str = ""
    """Platform or camera of that scene."""

    @property
    def valid_fraction(self) -> float:
        """Share of pixels that hold a probability, 0 to 1."""
        return float((self.data != PROBABILITY_NODATA).mean())


class ProbabilityParts:
    """Finished blocks of one search in one folder."""

    def __init__(
        self, folder: str | Path, raster: ChipGrid, block_px: int, *, tags: Mapping[str, str] | None = None
    ) -> None:
        """Describe the folder; nothing is read or written yet.

        Args:
            folder: where the parts are; made when the first is written.
            raster: the search raster.
            block_px: rows and columns of a block.
            tags: what tells this search from others (``search_id``, ``model_id``). They are written into every part
                and into the raster; a part with others is not done.
        """
        self.folder, self.raster, self.block_px = Path(folder), raster, block_px
        self.tags = dict(tags or {})
        self.blocks: dict[str, SearchBlock] = {block.block_id: block for block in search_blocks(raster, block_px)}
        self._found: dict[str, tuple[int, int]] = {}
        self._crc32: dict[str, str] = {}

    def path(self, block: SearchBlock) -> Path:
        """The file of a block, whether it is there or not."""
        return self.folder / f"{block.block_id}.tif"

    def done(self) -> set[str]:
        """Ids of blocks whose part is complete, intact and of this search: same grid, same tags, same checksum.

        A part that was looked at before and has not changed is not read again.
        """
        return {block.block_id for block in self._present() if self._is_whole(block)}

    def write(
        self,
        block: SearchBlock,
        data: NDArray[np.uint8],
        scene_ids: Sequence[str],
        acquired_at: datetime | None,
        sensor: str,
    ) -> Path:
        """Write the part of a block; one of that name is replaced in one step.

        Args:
            block: a block of this search.
            data: uint8 probabilities, shape (rows, columns) of the block.
            scene_ids: scenes whose pixels were read, most used first.
            acquired_at: acquisition time of the first; None where no scene holds data.
            sensor: platform or camera.

        Raises:
            GridError: ``data`` is not uint8 of the block's shape, or the block not one of this raster.
            RasterWriteError: the disk is full, or the folder cannot be written; finished parts stay.
        """
        shape = (block.grid.height, block.grid.width)
        if data.shape != shape or data.dtype != np.uint8 or self.blocks.get(block.block_id) != block:
            raise GridError(f"block {block.block_id}: {data.dtype}{data.shape} is no part of this raster, {shape}")
        facts = {
            "scene_ids": json.dumps(list(scene_ids)),
            "acquired_at": acquired_at.isoformat() if acquired_at else "",
            "sensor": sensor,
            "crc32": _crc32(data),
        }
        content = _geotiff(block, data, self._tags_of(block) | facts)
        target = self.path(block)
        _write_durably(target, content)
        self._found[block.block_id], self._crc32[block.block_id] = _stamp(target), facts["crc32"]
        return target

    def read(self, block: SearchBlock) -> BlockProbabilities:
        """The part of a block.

        Raises:
            RasterReadError: it is missing, truncated, changed, or of another search.
        """
        path = self.path(block)
        try:
            # what other programs say in a file beside it is not asked
            with rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.open(path, driver="GTiff") as part:
                tags = part.tags()
                strange = _strange(part, tags, block, self._tags_of(block))
                data: NDArray[np.uint8] = part.read(1)
        except (RasterioError, IndexError) as error:
            raise RasterReadError(f"{path}: cannot be read ({error}); remove it and search again") from error
        if strange is None and tags.get("crc32") != _crc32(data):
            strange = "its pixels do not have the checksum they were written with"
        if strange is not None:
            raise RasterReadError(f"{path}: {strange}; remove it and search again")
        self._crc32[block.block_id] = tags["crc32"]
        acquired_at = datetime.fromisoformat(tags["acquired_at"]) if tags.get("acquired_at") else None
        return BlockProbabilities(
            data=data,
            scene_ids=tuple(json.loads(tags["scene_ids"])),
            acquired_at=acquired_at,
            sensor=tags.get("sensor", ""),
        )

    def assemble(self, path: str | Path) -> Path:
        """Write all finished parts as one tiled, compressed, cloud-optimised GeoTIFF with overviews.

        Pixels of blocks that are not done are nodata. Parts are streamed: memory does not grow with the raster. The
        same parts give the same bytes; a file of that name is replaced in one step. It carries a hash of its parts.

        Args:
            path: the file; its folder is made when missing.

        Raises:
            RasterWriteError: the disk is full or the place cannot be written; the parts stay, and no part of the
                raster is left.
        """
        done = self.done()
        drop_leftovers(self.folder)
        parts = [(block, self.path(block)) for block_id, block in self.blocks.items() if block_id in done]
        return write_cog(Path(path), self.raster, parts, self.tags | {_PARTS: self._parts_hash(done)})

    def is_assembled(self, path: str | Path) -> bool:
        """Whether a file is the raster of exactly the parts that are done.

        Its age would not say so: another process may add a part while this one assembles.
        """
        try:
            with rasterio.open(path) as raster:
                held = raster.tags()
        except RasterioError:
            return False
        return {name: held.get(name) for name in (*self.tags, _PARTS)} == self.tags | {
            _PARTS: self._parts_hash(self.done())
        }

    def _parts_hash(self, done: set[str]) -> str:
        return digest([(block_id, self._crc32[block_id]) for block_id in sorted(done)])

    def _present(self) -> Iterator[SearchBlock]:
        names = {place.name for place in self.folder.iterdir()} if self.folder.is_dir() else set()
        return (block for block_id, block in self.blocks.items() if f"{block_id}.tif" in names)

    def _is_whole(self, block: SearchBlock) -> bool:
        try:
            stamp = _stamp(self.path(block))
            if self._found.get(block.block_id) != stamp:
                self.read(block)
                self._found[block.block_id] = stamp
        except (RasterReadError, FileNotFoundError):
            return False
        return True

    def _tags_of(self, block: SearchBlock) -> dict[str, str]:
        return self.tags | {"block_id": block.block_id, "block_px": str(self.block_px)}


def check_writable(folder: Path) -> None:
    """Make a folder for rasters and try it, before work that ends in it starts.

    Raises:
        RasterWriteError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # a name of its own: another search may try the same folder
        with NamedTemporaryFile(prefix=".writable-", dir=folder):
            pass
    except OSError as error:
        raise RasterWriteError(f"rasters cannot be written to {folder}: {error}; set `out` to another place") from error


def _strange(
    part: rasterio.DatasetReader, tags: Mapping[str, str], block: SearchBlock, wanted: Mapping[str, str]
) -> str | None:
    """Why a part is none of this search; None where it is."""
    grid = block.grid
    if part.count != 1 or part.dtypes[0] != "uint8" or part.shape != (grid.height, grid.width):
        return f"holds {part.count} × {part.dtypes[0]}{part.shape}, the block has {(grid.height, grid.width)}"
    if part.crs is None or part.crs.to_epsg() != grid.epsg or not part.transform.almost_equals(grid.affine):
        return "lies elsewhere than the block"
    other = sorted(name for name, value in wanted.items() if tags.get(name) != value)
    if other or not {"scene_ids", "crc32"} <= tags.keys():
        return f"is of another search ({', '.join(other) or 'it has no tags'})"
    return None


def _geotiff(block: SearchBlock, data: NDArray[np.uint8], tags: Mapping[str, str]) -> bytes:
    """A part as it stands on disk. It is made in memory, because GDAL tells of a full disk late or not at all."""
    grid = block.grid
    tiles: dict[str, Any] = {"tiled": True, "blockxsize": _TILE_PX, "blockysize": _TILE_PX}
    place = {"height": grid.height, "width": grid.width, "crs": f"EPSG:{grid.epsg}", "transform": grid.affine}
    with MemoryFile() as memory:
        with memory.open(**_LAYOUT, **tiles, **place) as part:
            part.update_tags(**tags)
            part.write(data, 1)
        return bytes(memory.getbuffer())


def _write_durably(target: Path, content: bytes) -> None:
    try:
        with whole_file(target) as part:
            part.write_bytes(content)
    except OSError as error:
        raise RasterWriteError(
            f"{target} cannot be written ({error}); {len(content)} bytes are needed: make room or choose another "
            "place, then run again; finished blocks are kept"
        ) from error


def _crc32(data: NDArray[np.uint8]) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(data).data):08x}"


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
