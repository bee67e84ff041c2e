"""Imagery sources behind one Protocol: one file each, opened only when asked for."""

from importlib import import_module
from typing import Any

from utils.errors import UnknownNameError
from utils.types import ImagerySource

_SOURCES = {
    "local": "store.imagery.local:LocalImagery",
}


def names() -> list[str]:
    """Names of the imagery sources, sorted."""
    return sorted(_SOURCES)


def place(name: str) -> str:
    """Where the imagery source ``name`` is defined: ``module:class``.

    Raises:
        UnknownNameError: no such source; the message lists those that exist.
    """
    if name not in _SOURCES:
        raise UnknownNameError("imagery source", name, names())
    return _SOURCES[name]


def get(name: str, **options: Any) -> ImagerySource:
    """The imagery source ``name``, made with its own options.

    Raises:
        UnknownNameError: no such source; the message lists those that exist.
    """
    module, _, factory = place(name).partition(":")
    source: ImagerySource = getattr(import_module(module), factory)(**options)
    return source
