"""What one raster file says about itself: place, bands, date and the files it consists of."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from pyproj import CRS, Geod
from pyproj.exceptions import CRSError as ProjCRSError
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from shapely import Polygon, from_wkb, to_wkb

from store.fingerprint import text_of
from store.imagery.handles import place_of, read_once
from store.imagery.scene import Asset, Scene
from store.places import stem_of
from utils.errors import CRSError, ImageryError
from utils.footprints import outline_lonlat
from utils.geo import LONLAT, AnyCRS, crs, reproject_points

_GEOD = Geod(ellps="WGS84")
_WEB_MERCATOR = 3857
_STEPS = 16
_COLOURS = {"red", "green", "blue"}


@dataclass(frozen=True, kw_only=True)
class RasterHeader:
    """Facts of one raster, read once without touching its pixels."""

    path: str
    """Absolute path, or URI."""
    epsg: int | None
    """EPSG code of its CRS, from the file or its ``.prj``; None when neither states one."""
    crs_name: str | None
    """Name of the file's own CRS; None when it has none."""
    transform: tuple[float, ...]
    """Affine coefficients ``(a, b, c, d, e, f)``, pixel corner to CRS units."""
    width: int
    """Columns."""
    height: int
    """Rows."""
    dtypes: tuple[str, ...]
    """Numpy type of each band."""
    colours: tuple[str, ...]
    """Colour interpretation of each band."""
    descriptions: tuple[str | None, ...]
    """Description of each band."""
    stamp: str | None
    """``TIFFTAG_DATETIME``."""
    gcps: bool
    """Whether only ground control points place it."""
    files: tuple[str, ...]
    """The raster and its sidecars (world file, ``.prj``, ``.aux.xml``, ``.msk``, ``.ovr``), the parts of a VRT."""
    footprint: str | None = None
    """Outline in longitude and latitude as hexadecimal WKB; None without an EPSG code."""


def read_header(
    path: str | Path, *, alone: bool = False, is_there: Callable[[str], bool] = lambda path: Path(path).is_file()
) -> RasterHeader:
    """The header of a raster.

    Args:
        path: path or URI.
        alone: whether no file beside it belongs to it.
        is_there: whether a file beside it exists.

    Raises:
        RasterReadError: the file cannot be opened.
        CRSError: its ``.prj`` is none.
        GeometryError: its outline has no place on the globe, or holds a pole.
    """
    place = path if isinstance(path, str) else str(path)
    with warnings.catch_warnings():
        # a raster without a place is refused by scene_of, with a way out
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return read_once(place, lambda raster: _header_of(raster, place, is_there), alone=alone)


def _header_of(raster: rasterio.DatasetReader, place: str, is_there: Callable[[str], bool]) -> RasterHeader:
    prj = f"{place[: len(place) - len(Path(place).suffix)]}.prj"
    has_prj = raster.crs is None and is_there(prj)
    epsg = _prj_epsg(prj) if has_prj else raster.crs.to_epsg() if raster.crs else None
    transform = tuple(raster.transform)[:6]
    gcps = bool(raster.gcps[0]) and raster.transform.is_identity
    outline = None
    if epsg is not None and not raster.transform.is_identity:
        outline = to_wkb(_outline(transform, raster.width, raster.height, epsg), hex=True)
    return RasterHeader(
        path=place,
        epsg=epsg,
        crs_name=_name(raster),
        transform=transform,
        width=raster.width,
        height=raster.height,
        dtypes=tuple(raster.dtypes),
        colours=tuple(colour.name for colour in raster.colorinterp),
        descriptions=tuple(raster.descriptions),
        stamp=raster.tags().get("TIFFTAG_DATETIME"),
        gcps=gcps,
        files=tuple(sorted({*map(place_of, map(str, raster.files)), place, *([prj] if has_prj else [])})),
        footprint=outline,
    )


def _name(raster: rasterio.DatasetReader) -> str | None:
    if raster.crs is None:
        return None
    try:
        return str(crs(raster.crs.to_wkt()).name)
    except CRSError:
        return "unnamed"


def _prj_epsg(prj: str) -> int | None:
    """EPSG code of a ``.prj`` (ESRI or OGC WKT)."""
    try:
        code = CRS.from_wkt(text_of(prj)).to_epsg()
    except (ProjCRSError, UnicodeDecodeError) as error:
        raise CRSError(f"{prj}: no CRS in it ({error}); write its WKT, or remove it and set `crs`") from error
    return None if code is None else int(code)


def scene_of(
    header: RasterHeader, *, acquired_at: datetime | None, sensor: str | None, crs_else: int | None = None
) -> Scene:
    """The scene a raster without a STAC item holds.

    Bands are named by colour interpretation, else by band description, else ``band1``, ``band2``, …; three or four
    undescribed bands are red, green, blue (and one more).

    Args:
        header: the raster's header.
        acquired_at: acquisition time where the file states none.
        sensor: platform or camera.
        crs_else: EPSG code where neither the file nor a ``.prj`` states a CRS.

    Raises:
        CRSError: the raster has no CRS or no EPSG code for it, or nothing but ground control points.
        ImageryError: neither the raster (TIFFTAG_DATETIME) nor ``acquired_at`` says when it was taken.
    """
    path, transform = header.path, header.transform
    if header.gcps:
        raise CRSError(
            f"{path}: only ground control points place this raster; warp it first, for example with "
            "`gdalwarp -t_srs EPSG:<zone> -r bilinear`"
        )
    epsg = header.epsg
    if epsg is None and header.crs_name is None:
        epsg = crs_else
    if epsg is None:
        found = f"its CRS ({header.crs_name}) has no EPSG code" if header.crs_name else "the raster has no CRS"
        raise CRSError(
            f"{path}: {found}; assign one with `gdal_edit.py -a_srs`"
            + ("" if header.crs_name else ", put a .prj beside it, or set the source's option `crs: EPSG:<code>`")
        )
    if transform == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0):
        raise CRSError(f"{path}: the raster has a CRS but no place in it (no transform and no world file)")
    when = datetime.strptime(header.stamp, "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC) if header.stamp else acquired_at
    if when is None:
        raise ImageryError(f"{path}: no acquisition date in the file; set `acquired_at` for this folder")
    outline = from_wkb(header.footprint) if header.footprint else _outline(transform, header.width, header.height, epsg)
    return Scene(
        scene_id=stem_of(path),
        sensor=sensor or "unknown",
        acquired_at=when,
        epsg=epsg,
        gsd_m=spacing_m(transform, header.width, header.height, epsg),
        footprint=outline,
        assets={name: Asset(href=path, index=i) for i, name in enumerate(_band_names(header), start=1)},
        files=header.files,
        described_in=path,
    )


def scene_in_raster(path: Path, *, acquired_at: datetime | None, sensor: str | None) -> Scene:
    """:func:`scene_of` the header of ``path``."""
    return scene_of(read_header(path), acquired_at=acquired_at, sensor=sensor)


def _outline(transform: Sequence[float], width: int, height: int, epsg: int) -> Polygon:
    place = Affine(*transform)
    corners = [place @ corner for corner in ((0, 0), (width, 0), (width, height), (0, height))]
    return outline_lonlat(Polygon(corners), epsg, densify=True)


def spacing_m(transform: Sequence[float], width: int, height: int, src: AnyCRS) -> float:
    """Ground size of a pixel along its row at the raster's centre, metres.

    On the ellipsoid for geographic CRSs and for Web Mercator, whose metres are none.
    """
    a, _, _, d, *_ = transform
    source = crs(src)
    if source.is_projected and source != crs(_WEB_MERCATOR):
        return float(math.hypot(a, d) * source.axis_info[0].unit_conversion_factor)
    x, y = Affine(*transform) @ (width / 2, height / 2)
    ends = np.array([[x, y], [x + _STEPS * a, y + _STEPS * d]])
    lonlat = reproject_points(ends, src, LONLAT) if source.is_projected else ends
    _, _, metres = _GEOD.inv(*lonlat[0], *lonlat[1])
    return float(metres) / _STEPS


def _band_names(header: RasterHeader) -> list[str]:
    named = [
        (colour if colour in _COLOURS else None) or description or f"band{number}"
        for number, (colour, description) in enumerate(zip(header.colours, header.descriptions, strict=True), start=1)
    ]
    named = [name if named.count(name) == 1 else f"band{number}" for number, name in enumerate(named, start=1)]
    if len(named) in (3, 4) and not _COLOURS & set(named) and not any(header.descriptions):
        named[:3] = ["red", "green", "blue"]
    return named


def has_alpha(raster: rasterio.DatasetReader) -> bool:
    """Whether a band of the raster is its alpha band."""
    return ColorInterp.alpha in raster.colorinterp
