"""Bands of one open raster on a chip's grid: the one place where resampling and validity are decided.

Validity, first that applies:

1. an alpha band: data where alpha is above 0;
2. a mask band, inside the file or as ``.msk``: its pixels say what is data;
3. a nodata value (the STAC item's, the file's, or the source's ``nodata``). In uint8 display imagery every value is
   also a colour, so a pixel is missing only where all bands hold it (GDAL's ``UNIFIED_SRC_NODATA=YES``): black in one
   band alone is black. Everywhere else the value lies outside what a sensor measures, and one band that holds it makes
   the pixel missing;
4. everything inside the raster is data.

NaN is never data. Pixels come from the full resolution; overviews are not used. Where the grid's pixels are those of
the raster, they are copied (:mod:`store.imagery.aligned`), which gives what the warp gives.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.vrt import WarpedVRT

from store.imagery.aligned import read_aligned
from store.imagery.header import has_alpha
from store.imagery.scene import Asset
from utils.errors import BandError
from utils.geo import reproject_points
from utils.types import ChipGrid

_SLACK = 1e-4
_WEB_MERCATOR_TURN = 2 * math.pi * 6378137

Planes = tuple[NDArray[np.generic], NDArray[np.bool_]]
"""Values of shape (bands, rows, columns) and where they hold data, shape (rows, columns)."""


def read_warped(
    raster: rasterio.DatasetReader, assets: Sequence[Asset], grid: ChipGrid, *, epsg: int, display: bool
) -> Planes:
    """Bands of one raster on ``grid``.

    Args:
        raster: open raster.
        assets: bands to read, all of this raster and of one resampling.
        grid: where the pixels go.
        epsg: CRS of the raster where the file states none.
        display: whether uint8 values are colours (rule 3 above).

    Raises:
        BandError: the raster has fewer bands than an asset says.
        RasterioError: it cannot be read.
    """
    for asset in assets:
        if asset.index > raster.count:
            raise BandError(f"{asset.href} has {raster.count} bands, its STAC item names one more: {asset.index}")
    source = raster.crs or rasterio.CRS.from_epsg(epsg)
    wkt = source.to_wkt()
    copied = None if _turn(wkt) else read_aligned(raster, assets, grid, wkt, nodata=_nodata, display=display)
    if copied is not None:
        return copied
    steps = _source_steps(raster, wkt, grid)
    across, down = np.hypot(*steps)
    finer = bool(math.sqrt(abs(np.linalg.det(steps))) > 2 + _SLACK)
    options = {
        "src_crs": source,
        "crs": f"EPSG:{grid.epsg}",
        "transform": grid.affine,
        "width": grid.width,
        "height": grid.height,
        "resampling": Resampling[assets[0].resampling[finer]],
        "XSCALE": _kernel_scale(across),
        "YSCALE": _kernel_scale(down),
    }
    values, holds = _one_turn(raster, assets, options, display=display)
    for turn in _turns(raster, wkt):
        moved = options | {"src_transform": Affine.translation(turn, 0) @ raster.transform}
        others, there = _one_turn(raster, assets, moved, display=display)
        fresh = there & ~holds
        values[:, fresh] = others[:, fresh]
        holds |= fresh
    return values, holds


def _source_steps(raster: rasterio.DatasetReader, wkt: str, grid: ChipGrid) -> NDArray[np.float64]:
    """Source pixels a step of one chip pixel crosses, at the chip's centre.

    Returns:
        shape (2, 2): a row per step (along a chip row, down a chip column), columns are source columns and rows.
    """
    a, b, _, d, e, _ = grid.transform
    (x, y), reach = grid.centre, max(grid.width, grid.height) / 2
    corners = [(x, y), (x + a * reach, y + d * reach), (x + b * reach, y + e * reach)]
    xy = reproject_points(corners, grid.epsg, wkt)
    moves = xy[1:] - xy[0]
    turn = _turn(wkt)
    if turn is not None:
        moves[:, 0] = (moves[:, 0] + turn / 2) % turn - turn / 2
    a, b, _, d, e, *_ = raster.transform
    steps: NDArray[np.float64] = moves @ np.array([[e, -d], [-b, a]]) / ((a * e - b * d) * reach)
    return steps


def _kernel_scale(source_pixels: float) -> str:
    """Chip pixels per source pixel along a source axis, which widens the resampling kernel below 1.

    GDAL guesses it from the bounding boxes of what is read and written: that blurs turned grids and changes with the
    size of the read. Like GDAL's guess, it is 1 within 5 %.
    """
    return repr(1.0 if source_pixels < 1 / 0.95 else float(1 / source_pixels))


@lru_cache(maxsize=256)
def _turn(wkt: str) -> float | None:
    """Once around the globe in a CRS whose x repeats: degrees, or Web Mercator's metres; None in any other."""
    source = rasterio.CRS.from_wkt(wkt)
    if source.is_geographic:
        return 360.0
    return _WEB_MERCATOR_TURN if source.to_epsg() == 3857 else None


def _turns(raster: rasterio.DatasetReader, wkt: str) -> list[float]:
    """Shifts by whole turns of the globe that bring more of the raster between 180° W and 180° E."""
    turn = _turn(wkt)
    if turn is None:
        return []
    corners = [
        raster.transform @ corner for corner in ((0, 0), (raster.width, 0), (0, raster.height), raster.shape[::-1])
    ]
    west, east = (edge(x for x, _ in corners) for edge in (min, max))
    slack = 1e-9 * turn
    return [k for k in (-turn, turn) if west + k < turn / 2 - slack and east + k > -turn / 2 + slack]


def _one_turn(
    raster: rasterio.DatasetReader, assets: Sequence[Asset], options: dict[str, Any], *, display: bool
) -> Planes:
    flags = raster.mask_flag_enums[assets[0].index - 1]
    masked = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
    if masked or has_alpha(raster):
        return _with_alpha(raster, assets, options, src_nodata=None, add_alpha=not has_alpha(raster))
    groups: dict[str, list[int]] = defaultdict(list)
    nodata = [_nodata(raster, asset) for asset in assets]
    for position, value in enumerate(nodata):
        groups[repr(value)].append(position)
    colours = display and all(raster.dtypes[asset.index - 1] == "uint8" for asset in assets)
    if len(groups) == 1 and (nodata[0] is None or colours):
        return _with_alpha(
            raster, assets, options, src_nodata=nodata[0], add_alpha=True, UNIFIED_SRC_NODATA="YES" if colours else "NO"
        )
    return _by_nodata(raster, assets, options, groups=list(groups.values()), nodata=nodata, colours=colours)


def _with_alpha(
    raster: rasterio.DatasetReader, assets: Sequence[Asset], options: dict[str, Any], **validity: Any
) -> Planes:
    """Values, and validity of the whole raster as an alpha band that goes through the same warp."""
    with WarpedVRT(raster, **options, nodata=None, **validity) as warped:
        alpha = warped.colorinterp.index(ColorInterp.alpha) + 1
        planes = warped.read([*(asset.index for asset in assets), alpha])
    values, holds = planes[:-1], planes[-1] > 0
    return values, holds & _finite(values)


def _by_nodata(
    raster: rasterio.DatasetReader,
    assets: Sequence[Asset],
    options: dict[str, Any],
    *,
    groups: list[list[int]],
    nodata: list[float | None],
    colours: bool,
) -> Planes:
    """Values, and validity by each band's own nodata value."""
    planes: list[Any] = [None] * len(assets)
    masks: list[Any] = [None] * len(assets)
    for group in groups:
        value = nodata[group[0]]
        if value is None:
            values, holds = _with_alpha(raster, [assets[k] for k in group], options, src_nodata=None, add_alpha=True)
            found = [(values[n], holds) for n in range(len(group))]
        else:
            with WarpedVRT(raster, **options, src_nodata=value, nodata=value) as warped:
                indexes = [assets[k].index for k in group]
                found = list(zip(warped.read(indexes), warped.read_masks(indexes) > 0, strict=True))
        for position, (plane, mask) in zip(group, found, strict=True):
            planes[position], masks[position] = plane, mask
    values = np.stack(planes)
    holds = np.logical_or.reduce(masks) if colours else np.logical_and.reduce(masks)
    return values, holds & _finite(values)


def _nodata(raster: rasterio.DatasetReader, asset: Asset) -> float | None:
    stated = (asset.nodata, raster.nodatavals[asset.index - 1], asset.nodata_else)
    value = next((float(value) for value in stated if value is not None), None)
    dtype = np.dtype(raster.dtypes[asset.index - 1])
    if dtype.kind == "f":
        return math.nan if value is None else value
    # a value the type cannot hold marks no pixel, and GDAL would clamp it to one that can
    held = value is not None and math.isfinite(value) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    return value if held else None


def _finite(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    if values.dtype.kind != "f":
        return np.ones(values.shape[1:], bool)
    return np.asarray(np.isfinite(values).all(axis=0))
