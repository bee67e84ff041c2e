"""Mask backends by name: one file and one line each, imported when asked for.

Heavy imports belong inside a backend's constructor or methods, so that listing names costs nothing.
"""

from importlib import import_module
from typing import cast

from utils.errors import UnknownNameError
from utils.types import MaskBackend

_BACKENDS = {
    "classical": "dataflows.mask_backends.classical:ClassicalBackend",
}


def names() -> list[str]:
    """Names that :func:`get` knows, sorted."""
    return sorted(_BACKENDS)


def get(name: str, **options: object) -> MaskBackend:
    """The backend called ``name``, built with its own options.

    Raises:
        UnknownNameError: there is no such backend, or it has no such option; the message lists those it has.
    """
    if name not in _BACKENDS:
        raise UnknownNameError("mask backend", name, list(_BACKENDS))
    module, attribute = _BACKENDS[name].split(":")
    return cast("MaskBackend", getattr(import_module(module), attribute)(**options))
