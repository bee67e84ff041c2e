"""A flow's settings as they stand in a YAML file, and the places they name."""

import os
from pathlib import Path
from typing import Any

import yaml

from store.catalogue_place import is_server
from utils.errors import ConfigError

WEIGHTS = ("checkpoint", "checkpoint_dir", "config", "model_id")
"""Mask options that name files, or (the last two) may."""


def file_values(file: Path, flow: str, *, has_store: bool = True) -> dict[str, Any]:
    """Settings in a file of the flow ``flow``; a store of its own is ``$AEGIR_STORE`` where the file names none.

    Raises:
        ConfigError: the file is no YAML mapping, or holds settings of another flow.
    """
    try:
        values = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds no settings")
    found = values.pop("flow", flow)
    if found != flow:
        raise ConfigError(f"{file} holds settings of the flow {found!r}, not of `{flow}`")
    if has_store and "store" not in values and (store := os.environ.get("AEGIR_STORE")):
        values["store"] = store
    return values


def beside(file: Path, name: str, place: object) -> str:
    """The path or address ``place``; a relative path is relative to the settings' file.

    Raises:
        ConfigError: it is no text.
    """
    if not isinstance(place, str):
        raise ConfigError(f"{file}: {name} is {place!r}, not a path")
    return place if "://" in place or Path(place).is_absolute() else str(file.parent / place)


def weights_beside(file: Path, options: object) -> object:
    """Mask options, their relative paths of weights relative to the settings' file; names that are no path stay.

    Raises:
        ConfigError: a path is no text.
    """
    if not isinstance(options, dict):
        return options
    placed = dict(options)
    for name, place in options.items():
        named = name in ("config", "model_id") and not (isinstance(place, str) and (file.parent / place).exists())
        home = isinstance(place, str) and place.startswith("~")
        if name in WEIGHTS and place is not None and not named and not home:
            placed[name] = beside(file, f"mask_options.{name}", place)
    return placed


def catalog_beside(file: Path, catalog: object) -> str:
    """A catalogue, its relative path relative to the settings' file; a server stays as it is.

    Raises:
        ConfigError: it is no text.
    """
    if not isinstance(catalog, str) or not catalog or is_server(catalog):
        return str(catalog) if isinstance(catalog, str) else beside(file, "catalog", catalog)
    path, prefix = catalog, ""
    for kind in ("ducklake:", "sqlite:", "duckdb:"):
        if path.lower().startswith(kind):
            path, prefix = path[len(kind) :], prefix + path[: len(kind)]
    return prefix + beside(file, "catalog", path)
