"""Mask backends by name: one file and one line each, imported when asked for.

Heavy imports belong inside a backend's constructor or methods, so that listing names costs nothing.
"""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from importlib import import_module
from typing import Any, cast

from dataflows.mask_backends._options import WITHOUT_EFFECT, parsed
from store.fingerprint import file_sha256
from utils.errors import ConfigError, UnknownNameError
from utils.types import MaskBackend, WeightedBackend

_BACKENDS = {
    "classical": "dataflows.mask_backends.classical:ClassicalBackend",
    "sam": "dataflows.mask_backends.sam:SamBackend",
    "sam_hq": "dataflows.mask_backends.sam_hq:HqBackend",
    "sam2": "dataflows.mask_backends.sam2:Sam2Backend",
    "sam_hf": "dataflows.mask_backends.sam_hf:SamHfBackend",
}


def names() -> list[str]:
    """Names that :func:`get` knows, sorted."""
    return sorted(_BACKENDS)


def place(name: str) -> str:
    """Where the backend called ``name`` is defined: ``module:class``.

    Raises:
        UnknownNameError: there is no such backend; the message lists those there are.
    """
    if name not in _BACKENDS:
        raise UnknownNameError("mask backend", name, list(_BACKENDS))
    return _BACKENDS[name]


def get(name: str, **options: object) -> MaskBackend:
    """The backend called ``name``, built with its own options.

    Raises:
        UnknownNameError: there is no such backend, or it has no such option; the message lists those it has.
    """
    return cast("MaskBackend", _class(name)(**options))


def shaping(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that decide what masks are; where and how fast they are computed is no part of a recipe."""
    return {name: value for name, value in options.items() if name not in WITHOUT_EFFECT}


def completed(backend: MaskBackend, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` of a backend with the defaults of those that were not given, as far as it tells them."""
    told = getattr(backend, "settings", None) or getattr(backend, "options", None)
    return asdict(told) if is_dataclass(told) and not isinstance(told, type) else dict(options)


def recorded(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`completed` options of the backend called ``name``, whose weights may be gone.

    Raises:
        UnknownNameError: there is no such backend, or it has no such option.
        ConfigError: an option is refused.
    """
    kind = getattr(_class(name), "options_type", None)
    return asdict(parsed(kind, options, name)) if kind is not None else completed(get(name, **options), options)


def weights(name: str, **options: object) -> dict[str, str] | None:
    """Name → SHA-256 of each file of weights that the backend loads with these options; None where it has none.

    Raises:
        UnknownNameError: there is no such backend.
        ConfigError: a file cannot be read.
    """
    backend = _class(name)
    if not isinstance(backend, WeightedBackend):
        return None
    try:
        return {part: file_sha256(file) for part, file in sorted(backend.weights_files(**options).items())}
    except OSError as error:
        raise ConfigError(f"the weights of the mask backend {name!r} cannot be read: {error}") from error


def _class(name: str) -> Any:
    module, attribute = place(name).split(":")
    return getattr(import_module(module), attribute)
