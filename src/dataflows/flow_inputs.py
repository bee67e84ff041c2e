"""Settings of a flow under the names its nodes ask for."""

from dataclasses import replace
from typing import Any

from dataflows import mask_backends
from dataflows._detection_objects import DetectionRule
from dataflows._settings import section
from dataflows.config import BuildConfig
from dataflows.context_config import ContextConfig
from dataflows.discovery_config import DiscoveryConfig
from store.context_targets import TargetTable
from utils.detection_matching import MatchRule
from utils.errors import ConfigError, UnknownNameError


def build_inputs(config: BuildConfig) -> dict[str, Any]:
    """Settings of the build flow under the names its nodes ask for.

    Raises:
        UnknownNameError: the mask backend does not exist.
    """
    if config.mask_backend not in mask_backends.names():
        raise UnknownNameError("mask backend", config.mask_backend, mask_backends.names())
    same = (
        "catalog", "snapshot", "aoi", "keep_undated", "store", "vhr_acquired", "halo_px", "min_valid_fraction",
        "mask_backend", "calibration", "margin_share", "point_box_m", "min_overlap", "max_label_m",
        "background_near_ratio", "background_far_ratio",
        "partition_level", "split_level", "guard_m", "h3_resolution",
    )  # fmt: skip
    return {name: getattr(config, name) for name in same} | {
        "label_tables": list(config.labels),
        "aoi_bbox_lonlat": list(config.aoi_bbox_lonlat) if config.aoi_bbox_lonlat else None,
        "installed": list(config.installed) if config.installed else None,
        "split_fractions": list(config.split_fractions),
        "vhr": dict(config.vhr),
        "msi": dict(config.msi) if config.msi else None,
        "mask_options": dict(config.mask_options),
        "refinement": dict(config.refinement),
        "thresholds": dict(config.thresholds),
        "chip_profile": config.profile,
        "deduplication": config.deduplication_rule,
    }


def mask_inputs(config: BuildConfig) -> dict[str, Any]:
    """Settings of the flow ``masks``: those of a build that reads no multispectral imagery.

    Raises:
        UnknownNameError: the mask backend does not exist.
    """
    vhr_alone = {"msi": None, "chip_profile": replace(config.profile, msi_bands=())}
    return build_inputs(config) | vhr_alone | {"stored_profile": config.profile}


def context_inputs(config: ContextConfig) -> dict[str, Any]:
    """Settings of the context flow under the names its nodes ask for."""
    return {
        "catalog": config.catalog,
        "snapshot": config.snapshot,
        "store": config.store,
        "context_tables": list(config.context),
        "target_table": config.targets,
    }


def discovery_inputs(config: DiscoveryConfig) -> dict[str, Any]:
    """Settings of the flow ``discover``: imagery and labels of the build, and what is searched by what.

    Raises:
        ConfigError: there is no model, or context tables are named without a catalogue.
    """
    if config.model is None:
        raise ConfigError("name the `model`: a checkpoint of `python -m training fit`, or package.module:Class")
    if config.context and config.build.catalog is None:
        raise ConfigError("context tables are in a lake, and `catalog` is missing in the settings of the build")
    same = (
        "aoi", "model", "device", "amp", "tta", "out", "block_px", "window_px", "overlap_px", "batch_size",
    )  # fmt: skip
    return build_inputs(config.build) | {
        **{name: getattr(config, name) for name in same},
        "aoi_bbox_lonlat": list(config.aoi_bbox_lonlat) if config.aoi_bbox_lonlat else None,
        "model_options": dict(config.model_options),
        "context_tables": list(config.context),
        "prune": dict(config.prune),
        "discovery_config": config,
        "detection_rule": section(DetectionRule, config.detections, "detections"),
        "match_rule": section(MatchRule, config.matching, "matching"),
        "target_table": TargetTable(table="blocks", id="block_id", geometry="geometry"),
    }
