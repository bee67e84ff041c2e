"""Options of a local source, checked before a file is opened."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from rasterio.enums import Resampling
from rasterio.warp import SUPPORTED_RESAMPLING

from store.imagery.scene import Asset, Scene
from utils.errors import ConfigError, CRSError
from utils.geo import crs
from utils.types import RGB_BANDS

Order = Literal["newest", "finest", "name"]
_RESAMPLING = {"continuous": "bilinear", "downsampling": "average", "categorical": "nearest"}
_CLASS_SAFE = ("nearest", "mode")
Limits = float | tuple[float, ...] | Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """How VHR imagery of more than 8 bits becomes display values; see :func:`utils.radiometry.stretched`."""

    kind: Literal["linear", "percentile"]
    """``linear``: ``low`` and ``high`` are source values. ``percentile``: they are percentiles of the whole scene."""
    low: Limits
    """Shown as 1: a number, three numbers (red, green, blue), or band → number; one number for percentiles."""
    high: Limits
    """Shown as 255."""
    gamma: float = 1.0
    """Above 1 brightens the shadows."""

    def limits(self, band: str) -> tuple[float, float, float] | None:
        """``(low, high, gamma)`` of a band; None where the stretch names none for it."""
        low, high = _limit(self.low, band), _limit(self.high, band)
        return None if low is None or high is None else (low, high, self.gamma)


@dataclass(frozen=True, kw_only=True)
class LocalOptions:
    """Everything a local source can be told besides its folder and kind."""

    acquired_at: datetime | None = None
    """Acquisition time of rasters that do not state one, ISO 8601; without a zone it is UTC."""
    sensor: str | None = None
    """Platform of rasters without a STAC item."""
    scale: float | None = None
    """Reflectance per digital number of multispectral rasters that do not state one (Sentinel-2: 0.0001)."""
    offset: float = 0.0
    """Reflectance at digital number 0 of those rasters (Sentinel-2 from baseline 04.00 on: -0.1)."""
    crs: int | None = None
    """CRS of rasters that state none, such as ``EPSG:2056``."""
    nodata: float | None = None
    """Nodata value of rasters that state none and have neither a mask nor an alpha band."""
    order: Order | tuple[str, ...] = "newest"
    """Which scene is on top: the newest, the finest, the first by name, or ids and glob patterns, first on top."""
    categorical: tuple[str, ...] = ("SCL",)
    """Bands that hold classes."""
    resampling: Mapping[str, str] = field(default_factory=lambda: dict(_RESAMPLING))
    """``continuous``, ``downsampling`` (continuous bands more than twice finer than the chip) and ``categorical``."""
    stretch: Stretch | None = None
    """Stretch of VHR imagery that is not uint8; uint8 is never stretched."""
    exclude: tuple[str, ...] = ()
    """Glob patterns of paths below the folder that are left out, such as ``masks/*``."""

    def resampling_of(self, band: str) -> tuple[str, str]:
        """Names of the resampling of a band, and of the one where the source is more than twice finer."""
        if band in self.categorical:
            return self.resampling["categorical"], self.resampling["categorical"]
        return self.resampling["continuous"], self.resampling["downsampling"]

    def excludes(self, place: str) -> bool:
        """Whether a path relative to the folder, with forward slashes, is left out."""
        return any(fnmatchcase(place, pattern) for pattern in self.exclude)

    def asset(self, band: str, asset: Asset) -> dict[str, Any]:
        """The fields of an asset these options decide."""
        stated = {} if asset.scale is not None or self.scale is None else {"scale": self.scale, "offset": self.offset}
        return stated | {"nodata_else": self.nodata, "resampling": self.resampling_of(band)}

    def ordered(self, scenes: Sequence[Scene]) -> list[Scene]:
        """The scenes, the one on top first; equals by date (newest first), then by id.

        Raises:
            ConfigError: an id or pattern of ``order`` fits no scene.
        """
        newest = sorted(scenes, key=lambda scene: (-scene.acquired_at.timestamp(), scene.scene_id))
        if self.order == "newest":
            return newest
        if self.order == "finest":
            return sorted(newest, key=lambda scene: scene.gsd_m)
        if self.order == "name":
            return sorted(newest, key=lambda scene: scene.scene_id)
        ranks: dict[str, int] = {}
        for rank, pattern in enumerate(self.order):
            met = [scene.scene_id for scene in newest if _fits(scene.scene_id, pattern)]
            if not met:
                raise ConfigError(
                    f"order names {pattern!r}, which fits none of {len(newest)} scenes "
                    f"({', '.join(scene.scene_id for scene in newest[:5])}); correct or remove it"
                )
            for scene_id in met:
                ranks.setdefault(scene_id, rank)
        return sorted(newest, key=lambda scene: ranks.get(scene.scene_id, len(self.order)))


def checked(kind: str, given: Mapping[str, Any]) -> LocalOptions:
    """Options from plain values.

    Raises:
        ConfigError: an option is unknown or its value cannot be used; the message names it as ``kind.option``.
    """
    known = [option.name for option in fields(LocalOptions)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ConfigError(f"{kind}: unknown options {', '.join(unknown)}; known: root, index, {', '.join(known)}")
    values = {name: _CHECKS[name](f"{kind}.{name}", value) for name, value in given.items() if value is not None}
    return LocalOptions(**values)


def _fits(scene_id: str, pattern: str) -> bool:
    return scene_id == pattern or fnmatchcase(scene_id, pattern)


def _limit(limits: Limits, band: str) -> float | None:
    if isinstance(limits, Mapping):
        return limits.get(band)
    if isinstance(limits, tuple):
        return limits[RGB_BANDS.index(band)] if band in RGB_BANDS else None
    return limits


def _date(name: str, value: str | date | datetime) -> datetime:
    try:
        when = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise ConfigError(f"{name} is {value!r}, not an ISO 8601 date") from error
    return when.replace(tzinfo=when.tzinfo or UTC)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    return float(value)


def _finite(name: str, value: object) -> float:
    number = _number(name, value)
    if math.isnan(number):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    return number


def _positive(name: str, value: object) -> float:
    number = _finite(name, value)
    if not 0 < number < math.inf:
        raise ConfigError(f"{name} must be above 0, got {value!r}")
    return number


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} must be text, got {value!r}")
    return value


def _texts(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{name} must be a list of texts, got {value!r}")
    return tuple(_text(name, entry) for entry in value)


def _crs(name: str, value: object) -> int:
    try:
        code = crs(value if isinstance(value, int) and not isinstance(value, bool) else _text(name, value)).to_epsg()
    except CRSError as error:
        raise ConfigError(f"{name}: {error}") from error
    if code is None:
        raise ConfigError(f"{name} is {value!r}, which has no EPSG code; give one, such as EPSG:2056")
    return int(code)


def _order(name: str, value: object) -> str | tuple[str, ...]:
    if isinstance(value, str) and value in get_args(Order):
        return value
    if isinstance(value, list | tuple) and value:
        return _texts(name, value)
    raise ConfigError(
        f"{name} is {value!r}; give {', '.join(get_args(Order))}, or a list of scene ids and glob patterns"
    )


def _resampling(name: str, value: object) -> dict[str, str]:
    names = [method.name for method in SUPPORTED_RESAMPLING if method is not Resampling.sum]
    if not isinstance(value, Mapping) or not set(value) <= set(_RESAMPLING):
        raise ConfigError(f"{name} must name a resampling for some of {', '.join(_RESAMPLING)}; got {value!r}")
    for part, method in value.items():
        allowed = _CLASS_SAFE if part == "categorical" else names
        if method not in allowed:
            raise ConfigError(f"{name}.{part} is {method!r}; known: {', '.join(allowed)}")
    return _RESAMPLING | dict(value)


def _stretch(name: str, value: object) -> Stretch:
    if not isinstance(value, Mapping) or value.get("kind") not in ("linear", "percentile"):
        raise ConfigError(
            f"{name} is {value!r}; give {{kind: linear, low: 0, high: 3000}} in source units or "
            "{kind: percentile, low: 2, high: 98}"
        )
    unknown = set(value) - {"kind", "low", "high", "gamma"}
    if unknown or not {"low", "high"} <= set(value):
        raise ConfigError(f"{name} takes kind, low, high and gamma, low and high always; got {dict(value)!r}")
    gamma = _finite(f"{name}.gamma", value.get("gamma", 1.0))
    low, high = (_limits(f"{name}.{end}", value[end]) for end in ("low", "high"))
    if gamma <= 0:
        raise ConfigError(f"{name}.gamma is {gamma}; give a number above 0")
    if value["kind"] == "percentile" and not (isinstance(low, float) and isinstance(high, float)):
        raise ConfigError(f"{name}: percentiles are one number for all bands, such as low: 2, high: 98")
    if value["kind"] == "percentile" and not (0 <= low <= 100 and 0 <= high <= 100):  # type: ignore[operator]
        raise ConfigError(f"{name}: percentiles lie in 0 to 100, got {low} and {high}")
    made = Stretch(kind=value["kind"], low=low, high=high, gamma=gamma)
    bands = {*RGB_BANDS, *(low if isinstance(low, Mapping) else ()), *(high if isinstance(high, Mapping) else ())}
    wrong = [band for band in sorted(bands) if (found := made.limits(band)) and not found[0] < found[1]]
    if wrong:
        raise ConfigError(f"{name}: low must lie below high, which it does not for {', '.join(wrong)}")
    return made


def _limits(name: str, value: object) -> Limits:
    if isinstance(value, Mapping) and value:
        return {str(band): _finite(f"{name}.{band}", number) for band, number in value.items()}
    if isinstance(value, list | tuple):
        if len(value) != len(RGB_BANDS):
            raise ConfigError(f"{name} must hold three numbers (red, green, blue), got {value!r}")
        return tuple(_finite(name, number) for number in value)
    return _finite(name, value)


_CHECKS: dict[str, Any] = {
    "acquired_at": _date,
    "sensor": _text,
    "scale": _positive,
    "offset": _finite,
    "crs": _crs,
    "nodata": _number,
    "order": _order,
    "categorical": _texts,
    "resampling": _resampling,
    "stretch": _stretch,
    "exclude": _texts,
}
