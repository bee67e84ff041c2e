"""Engines by name: where partitions are run. One file and one line each, imported when asked for.

All of them call :func:`dataflows.partition_task.run_partition`; none of them commits. Rows reach the store through the
run that asked for them, whatever the engine.
"""

from collections.abc import Callable
from importlib import import_module
from typing import cast

from dataflows.engines.base import Engine, EngineOptions, WorkerSpec
from utils.errors import UnknownNameError

__all__ = ["Engine", "EngineOptions", "WorkerSpec", "get", "names"]

_ENGINES = {
    "local": "dataflows.engines.local:LocalEngine",
    "processes": "dataflows.engines.processes:ProcessEngine",
    "ray": "dataflows.engines.ray_tasks:RayEngine",
}


def names() -> list[str]:
    """Names that :func:`get` knows, sorted."""
    return sorted(_ENGINES)


def get(name: str) -> Callable[[WorkerSpec, EngineOptions], Engine]:
    """The engine called ``name``: called with what workers need and how many there are, it is one.

    Raises:
        UnknownNameError: there is no such engine; the message lists those that exist.
        ConfigError: its packages are not installed.
    """
    if name not in _ENGINES:
        raise UnknownNameError("engine", name, list(_ENGINES))
    module, attribute = _ENGINES[name].split(":")
    return cast("Callable[[WorkerSpec, EngineOptions], Engine]", getattr(import_module(module), attribute))
