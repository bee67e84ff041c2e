"""Recipes of the build flow's stages: which nodes and settings each has, and what code and weights hash to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hamilton.driver import Driver

from dataflows import mask_backends
from store import imagery
from store.calibration_files import calibration_version
from store.lineage import recipe, stage_code

STAGES = ("image", "mask", "index")
"""Stages in the order they build on each other."""

STAGE_TAGS = {
    "image": ("imagery", "plan"),
    "mask": ("labels", "masks", "samples"),
    "index": ("cells", "indices"),
}
"""Stage → values of the tag ``stage`` its nodes carry."""

STAGE_SETTINGS = {
    "image": ("chip_px", "gsd_m", "halo_px", "msi_bands", "msi_px", "min_valid_fraction"),
    "mask": (
        "mask_backend",
        "mask_options",
        "refinement",
        "thresholds",
        "calibration",
        "margin_share",
        "point_box_m",
        "min_overlap",
    ),
    "index": ("h3_resolution", "partition_level", "split_level", "split_fractions", "guard_m"),
}
"""Stage → settings that shape its part of a row."""

NEW_SETTINGS = {"calibration": None}
"""Settings that runs of earlier versions did not record, and what they did then."""

_ROWS = ("sample_table", "mask_table", "prompt_table")
_REGISTRIES = ("store.imagery:_SOURCES", "dataflows.mask_backends:_BACKENDS")


@dataclass(frozen=True, kw_only=True)
class StageRecipes:
    """What rows made now, under some settings, say of their origin."""

    recipes: dict[str, str]
    """Stage → recipe."""
    code: dict[str, dict[str, dict[str, str]]]
    """Stage → module → definition → hash of its code."""
    settings: dict[str, dict[str, Any]]
    """Stage → setting → value."""
    weights: dict[str, str] | None
    """Name → SHA-256 of the mask backend's files of weights; None where it has none."""
    calibration: str | None
    """Version of the calibration of quality; None where the settings name none."""


def stage_recipes(settings: Mapping[str, Any], driver: Driver) -> StageRecipes:
    """Recipes of the stages; each builds on the one before.

    A stage's code is that of its nodes, as far as rows depend on them, with everything they use. Sources and backends
    are named by settings, so that another entry in their registries changes nothing.

    Args:
        settings: those of a build, by name: fields of ``dataflows.config.BuildConfig``, or as a run recorded them.
        driver: driver of the build flow with the loader of these settings.

    Raises:
        UnknownNameError: the imagery source or the mask backend does not exist.
        ConfigError: a file of weights cannot be read.
        CalibrationError: the calibration cannot be read.
    """
    settings = NEW_SETTINGS | dict(settings)
    sources = {settings[kind]["source"] for kind in ("vhr", "msi") if settings[kind]}
    backend, options = settings["mask_backend"], dict(settings["mask_options"])
    besides = {
        "image": {imagery.place(source) for source in sources},
        "mask": {mask_backends.place(backend)},
        "index": set(),
    }
    weights, version = mask_backends.weights(backend, **options), calibration_version(settings["calibration"])
    recipes: dict[str, str] = {}
    code: dict[str, dict[str, dict[str, str]]] = {}
    chosen: dict[str, dict[str, Any]] = {}
    upstream: tuple[str, ...] = ()
    for stage in STAGES:
        roots = sorted(stage_functions(driver, stage) | besides[stage])
        code[stage] = stage_code(roots, apart=_REGISTRIES)
        chosen[stage] = {name: settings[name] for name in STAGE_SETTINGS[stage]}
        if stage == "mask":
            chosen[stage]["mask_options"] = mask_backends.shaping(options)
        # files are known by their content
        told = chosen[stage] | ({"weights": weights, "calibration": version} if stage == "mask" else {})
        recipes[stage] = recipe(code[stage], told, *upstream)
        upstream = (recipes[stage],)
    return StageRecipes(recipes=recipes, code=code, settings=chosen, weights=weights, calibration=version)


def stage_functions(driver: Driver, stage: str) -> set[str]:
    """Functions (``module:name``) behind the stage's nodes that rows are made from."""
    upstream = {node.name for node in driver.what_is_upstream_of(*_ROWS)}
    return {
        f"{function.__module__}:{function.__qualname__}"
        for name, node in driver.graph.nodes.items()
        if name in upstream and node.tags.get("stage") in STAGE_TAGS[stage]
        for function in node.originating_functions or ()
    }
