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


def get(name: str, **options: Any) -> ImagerySource:
    """The imagery source ``name``, made with its own options.

    Raises:
        UnknownNameError: no such source; the message lists those that exist.
    """
    if name not in _SOURCES:
        raise UnknownNameError("imagery source", name, names())
    module, _, factory = _SOURCES[name].partition(":")
    source: ImagerySource = getattr(import_module(module), factory)(**options)
    return source
