"""Bands of a raster on a grid whose pixels are its own: copied, where a warp would give the same values more slowly."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from store.imagery.header import has_alpha
from store.imagery.scene import Asset
from utils.types import ChipGrid

_DTYPES: Final = {"uint8", "int8", "uint16", "int16"}
_EXACT: Final = {"nearest", "bilinear", "cubic"}
"""Resampling that changes no pixel that lies on one of the source."""
_OFF_PX: Final = 1e-6
"""Offset below which 16-bit values interpolate to themselves."""

Planes = tuple[NDArray[np.generic], NDArray[np.bool_]]
NodataOf = Callable[[rasterio.DatasetReader, Asset], float | None]


def read_aligned(
    raster: rasterio.DatasetReader,
    assets: Sequence[Asset],
    grid: ChipGrid,
    wkt: str,
    *,
    nodata: NodataOf,
    display: bool,
) -> Planes | None:
    """Values (bands, rows, columns) and where they hold data; None where the pixels do not fall together.

    They do in the raster's own CRS, north up, at its resolution, shifted by whole pixels; of integers up to 16 bit, by
    resampling that keeps pixels, and where validity follows from the bands that are read.

    Args:
        raster: open raster.
        assets: bands to read, all of this raster and of one resampling.
        grid: where the pixels go.
        wkt: CRS of the raster.
        nodata: the nodata value of a band; None where no value marks a missing pixel.
        display: whether uint8 values are colours.

    Raises:
        RasterioError: it cannot be read.
    """
    start = _start(raster, grid, wkt)
    dtypes = {raster.dtypes[asset.index - 1] for asset in assets}
    if start is None or not dtypes <= _DTYPES or len(dtypes) > 1 or assets[0].resampling[0] not in _EXACT:
        return None
    top, left = start
    first_row, last_row = max(top, 0), min(top + grid.height, raster.height)
    first_column, last_column = max(left, 0), min(left + grid.width, raster.width)
    # zeros would be fresh pages from the system, which cost more than filling memory that is used again
    values = np.empty((len(assets), grid.height, grid.width), dtypes.pop())
    holds = np.zeros((grid.height, grid.width), bool)
    if first_row >= last_row or first_column >= last_column:
        values.fill(0)
    else:
        window = Window(first_column, first_row, last_column - first_column, last_row - first_row)
        place = slice(first_row - top, last_row - top), slice(first_column - left, last_column - left)
        clear_around(values, *place)
        # read into its place: large arrays that are made and copied cost more than the rest
        inside = values[(slice(None), *place)]
        present = _read_window(raster, assets, window, inside, [nodata(raster, asset) for asset in assets], display)
        if present is None:
            return None
        holds[place] = present
    return values, holds


def clear_around(values: NDArray[np.generic], rows: slice, columns: slice) -> None:
    """Set 0 outside of some rows and columns, in place.

    Args:
        values: shape (bands, rows, columns).
        rows: those that stay.
        columns: those that stay.
    """
    values[:, : rows.start] = 0
    values[:, rows.stop :] = 0
    values[:, rows, : columns.start] = 0
    values[:, rows, columns.stop :] = 0


def _start(raster: rasterio.DatasetReader, grid: ChipGrid, wkt: str) -> tuple[int, int] | None:
    """Row and column of the grid's first pixel in the raster; None where pixels do not fall together."""
    turned = (raster.transform.b, raster.transform.d, grid.affine.b, grid.affine.d)
    if any(turned) or raster.transform.a <= 0 or raster.transform.e >= 0 or not _is_crs(wkt, grid.epsg):
        return None
    place = ~raster.transform
    left, top = place @ (grid.affine @ (0, 0))
    right, bottom = place @ (grid.affine @ (grid.width, grid.height))
    off = (left - round(left), top - round(top), right - left - grid.width, bottom - top - grid.height)
    return None if max(map(abs, off)) > _OFF_PX else (round(top), round(left))


@lru_cache(maxsize=256)
def _is_crs(wkt: str, epsg: int) -> bool:
    return bool(rasterio.CRS.from_wkt(wkt) == rasterio.CRS.from_epsg(epsg))


def _read_window(
    raster: rasterio.DatasetReader,
    assets: Sequence[Asset],
    window: Window,
    values: NDArray[np.generic],
    nodata: list[float | None],
    display: bool,
) -> NDArray[np.bool_] | bool | None:
    """Read a window inside the raster into ``values`` and say where it holds data.

    By the rules of :mod:`store.imagery.warp`; True is everywhere, None where bands that are not read have a say.
    """
    indexes = [asset.index for asset in assets]
    alpha = has_alpha(raster)
    masked = MaskFlags.per_dataset in raster.mask_flag_enums[indexes[0] - 1]
    colours = display and values.dtype == np.uint8
    if not alpha and not masked:
        # colours are missing where all bands of the file are
        whole = sorted(set(indexes)) == list(range(1, raster.count + 1))
        if len(set(nodata)) > 1 or (nodata[0] is not None and colours and not whole):
            return None
    raster.read(indexes, window=window, out=values)
    if alpha:
        return np.asarray(raster.read(raster.colorinterp.index(ColorInterp.alpha) + 1, window=window) > 0)
    if masked:
        return np.asarray(raster.read_masks(indexes[0], window=window) > 0)
    if nodata[0] is None:
        return True
    present = values != np.asarray(nodata[0]).astype(values.dtype)
    return np.asarray(present.any(axis=0) if colours else present.all(axis=0))
