"""Settings from plain values, as YAML holds them: each of the kind its field or default has."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from datetime import date, datetime
from typing import Any, TypeVar

from utils.errors import ConfigError

T = TypeVar("T")
_SEQUENCES = ("aoi_bbox_lonlat", "split_fractions", "msi_bands", "installed")


def check_names(kind: type, values: Mapping[str, Any]) -> None:
    """Refuse settings that are no fields of the dataclass ``kind``, and the lack of one that has no default.

    Raises:
        ConfigError: a setting is unknown or missing.
    """
    known = {f.name: f for f in fields(kind)}
    unknown = sorted(set(values) - set(known))
    missing = sorted(
        n for n, f in known.items() if n not in values and f.default is MISSING and f.default_factory is MISSING
    )
    if unknown or missing:
        raise ConfigError(f"settings: unknown {unknown}, missing {missing}; known: {', '.join(sorted(known))}")


def section(kind: type[T], values: Mapping[str, Any], name: str) -> T:
    """The dataclass ``kind`` from one section of the settings; each value must be of the kind of the default.

    Raises:
        ConfigError: a setting is unknown, of another kind, or refused by the dataclass.
    """
    defaults = {f.name: f.default for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(defaults))
    if unknown:
        raise ConfigError(f"{name}: unknown {', '.join(unknown)}; known: {', '.join(defaults)}")
    return kind(**{key: _like(value, defaults[key], f"{name}.{key}") for key, value in values.items()})


def _like(value: Any, default: Any, place: str) -> Any:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ConfigError(f"{place} is true or false, got {value!r}")
    elif isinstance(default, int | float):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{place} must be a number, got {value!r}")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise ConfigError(f"{place} must be text, got {value!r}")
    elif isinstance(default, tuple):
        if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
            raise ConfigError(f"{place} must be a list of names, got {value!r}")
        return tuple(value)
    return value


def field_value(name: str, value: Any, kind: Any) -> Any:
    """``value`` as the field ``name`` of type ``kind``.

    Raises:
        ConfigError: it is of another kind.
    """
    if (value is None and "None" in str(kind)) or (kind is bool and isinstance(value, bool)):
        return value
    if kind is bool:
        raise ConfigError(f"{name} is true or false, got {value!r}")
    if name in _SEQUENCES:
        return _sequence(name, value)
    if kind in (int, float) or str(kind) == "int | None":
        return _number(name, value, float if kind is float else int)
    if kind is str or str(kind) == "str | None":
        if value is None or isinstance(value, Mapping | list | tuple | bool):
            raise ConfigError(f"{name} must be text, got {value!r}")
        return str(value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} must be a mapping of settings, got {value!r}")
    if not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{name} must be a mapping of settings by name, got {value!r}")
    return dict(value)


def _sequence(name: str, value: Any) -> tuple[Any, ...]:
    """``value`` as the tuple the field ``name`` is.

    Raises:
        ConfigError: it is of another kind or length.
    """
    if name == "installed":
        return _installed(value)
    if name in ("aoi_bbox_lonlat", "split_fractions"):
        wanted = 4 if name == "aoi_bbox_lonlat" else 3
        if not isinstance(value, list | tuple) or len(value) != wanted:
            raise ConfigError(f"{name} must be {wanted} numbers, got {value!r}")
        return tuple(_number(name, part, float) for part in value)
    if not isinstance(value, list | tuple) or not all(isinstance(band, str) for band in value) or not value:
        raise ConfigError(f"msi_bands must be a list of band names, got {value!r}")
    return tuple(value)


def _installed(value: object) -> tuple[date | None, date | None]:
    """First and last day from ISO text, days or null."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ConfigError(f"installed is a first and a last day, such as [2018-01-01, null]; got {value!r}")
    days: list[date | None] = []
    for part in value:
        try:
            day = part.date() if isinstance(part, datetime) else part
            days.append(day if day is None or isinstance(day, date) else date.fromisoformat(day))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"installed: {part!r} is no day; give ISO days such as 2018-01-01, or null") from error
    return days[0], days[1]


def _number(name: str, value: object, kind: object) -> float:
    what = "whole number" if kind is int else "number"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} must be a {what}, got {value!r}")
    if kind is int and value != int(value):
        raise ConfigError(f"{name} must be a {what}, got {value!r}")
    return int(value) if kind is int else float(value)


def listed(labels: object) -> list[Mapping[str, Any]]:
    """The entries of the setting ``labels``.

    Raises:
        ConfigError: it is no list.
    """
    if not isinstance(labels, list | tuple):
        raise ConfigError("labels is a list of label tables, such as [{table: pv_labels, id: id, geometry: geometry}]")
    return list(labels)
