"""The raster of a whole search, streamed from its parts by GDAL's COG driver."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.shutil import copy

from store._durable_files import drop_leftovers, whole_file
from utils.errors import RasterWriteError
from utils.search_blocks import PROBABILITY_NODATA, PROBABILITY_SCALE, SearchBlock
from utils.types import ChipGrid

_TILE: Final = "512"
_COG: Final = {
    "driver": "COG",
    "compress": "DEFLATE",
    "level": 6,
    "blocksize": _TILE,
    "overview_resampling": "AVERAGE",
    "bigtiff": "IF_SAFER",
    "num_threads": "ALL_CPUS",
}


def write_cog(
    target: Path, raster: ChipGrid, parts: Sequence[tuple[SearchBlock, Path]], tags: Mapping[str, str]
) -> Path:
    """Write parts as one COG; see :meth:`store.probability_rasters.ProbabilityParts.assemble`.

    Raises:
        RasterWriteError: the disk is full, or the place cannot be written.
    """
    free: int | str = "unknown"
    try:
        with whole_file(target) as part:
            drop_leftovers(target.parent)
            free = shutil.disk_usage(target.parent).free
            listing = part.with_name(f"{part.name}.vrt")
            listing.write_bytes(_vrt(raster, parts, tags))
            # each part that is kept open takes a megabyte
            with rasterio.Env(GDAL_MAX_DATASET_POOL_SIZE="16"):
                copy(listing, part, **_COG)
            _check_whole(part)
    except (OSError, RasterioError, CPLE_BaseError) as error:
        raise RasterWriteError(
            f"{target} cannot be written ({error}); about {_bytes_needed(parts)} bytes are needed, {free} "
            "were free: make room or choose another place, then run again; finished blocks are kept"
        ) from error
    return target


def _bytes_needed(parts: Sequence[tuple[SearchBlock, Path]]) -> int:
    """Bytes the raster takes with its overviews, and these once more while they are made; parts are packed less."""
    return sum(path.stat().st_size for _, path in parts) * 5 // 3


def _vrt(raster: ChipGrid, parts: Sequence[tuple[SearchBlock, Path]], tags: Mapping[str, str]) -> bytes:
    """GDAL's description of a raster made of files (https://gdal.org/drivers/raster/vrt.html)."""
    root = ET.Element("VRTDataset", rasterXSize=str(raster.width), rasterYSize=str(raster.height))
    a, b, c, d, e, f = raster.transform
    _leaf(root, "SRS", rasterio.CRS.from_epsg(raster.epsg).to_wkt())
    _leaf(root, "GeoTransform", ", ".join(repr(float(value)) for value in (c, a, b, f, d, e)))
    facts = _leaf(root, "Metadata")
    for key, value in sorted({**tags, "probability_scale": f"1/{PROBABILITY_SCALE}", "AREA_OR_POINT": "Area"}.items()):
        _leaf(facts, "MDI", value, key=key)
    band = _leaf(root, "VRTRasterBand", dataType="Byte", band="1", blockXSize=_TILE, blockYSize=_TILE)
    _leaf(band, "Description", "probability of photovoltaics")
    _leaf(band, "NoDataValue", str(PROBABILITY_NODATA))
    _leaf(band, "ColorInterp", "Gray")
    _leaf(band, "Offset", "0")
    _leaf(band, "Scale", repr(1 / PROBABILITY_SCALE))
    for block, path in parts:
        _source(band, block, path)
    return bytes(ET.tostring(root))


def _source(band: ET.Element, block: SearchBlock, path: Path) -> None:
    width, height = str(block.grid.width), str(block.grid.height)
    source = _leaf(band, "SimpleSource")
    _leaf(source, "SourceFilename", str(path.resolve()), relativeToVRT="0")
    _leaf(source, "SourceBand", "1")
    # what GDAL would otherwise open every part for
    _leaf(source, "SourceProperties", RasterXSize=width, RasterYSize=height, DataType="Byte")
    _leaf(source, "SrcRect", xOff="0", yOff="0", xSize=width, ySize=height)
    _leaf(source, "DstRect", xOff=str(block.left_px), yOff=str(block.top_px), xSize=width, ySize=height)


def _leaf(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    leaf = ET.SubElement(parent, tag, attributes)
    leaf.text = text
    return leaf


def _check_whole(path: Path) -> None:
    """Refuse a file with a tile beyond its end: GDAL does not always tell that a write failed.

    Raises:
        OSError: the file is cut off.
    """
    size = path.stat().st_size
    with rasterio.open(path) as written:
        levels: list[dict[str, int]] = [{}, *({"overview_level": k} for k in range(len(written.overviews(1))))]
    for level in levels:
        with rasterio.open(path, **level) as view:
            if _last_byte(view) > size:
                raise OSError(f"it was cut off after {size} bytes")


def _last_byte(view: rasterio.DatasetReader) -> int:
    """Where the last tile of one level ends in the file."""
    (tile_rows, tile_columns), (rows, columns) = view.block_shapes[0], view.shape
    ends = [0]
    for row in range(-(-rows // tile_rows)):
        for column in range(-(-columns // tile_columns)):
            place = [view.get_tag_item(f"BLOCK_{name}_{column}_{row}", "TIFF", bidx=1) for name in ("OFFSET", "SIZE")]
            ends.append(sum(int(number) for number in place if number is not None))
    return max(ends)
