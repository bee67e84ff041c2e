"""Sections of the settings as checked values."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from utils.errors import ConfigError

T = TypeVar("T")


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
