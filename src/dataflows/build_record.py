"""What a run of the build flow goes by: recipes of its stages, code, settings and inputs, for the table ``runs``."""

from dataclasses import asdict
from typing import Any

from hamilton.driver import Driver

from dataflows.build_plan import BuildPlan
from dataflows.config import BuildConfig
from store.dataset_manifests import DatasetManifest
from store.ducklake import catalog_fingerprint
from store.label_files import file_checksums
from store.lineage import Run, recipe, stage_code

_STAGE_SETTINGS = {
    "image": ("chip_px", "gsd_m", "halo_px", "msi_bands", "msi_px", "min_valid_fraction", "vhr_acquired"),
    "mask": ("mask_backend", "mask_options", "refinement", "thresholds", "margin_share", "point_box_m", "min_overlap"),
    "index": ("h3_resolution", "partition_level", "split_level", "split_fractions", "guard_m"),
}


def described_run(config: BuildConfig, build: BuildPlan, driver: Driver, manifests: dict[str, DatasetManifest]) -> Run:
    """The run as it will stand in ``runs``; ``manifests`` are those of its datasets, by name."""
    recipes, code = stage_recipes(config, build, driver)
    return Run(
        flow="build",
        build_config=config.build_config,
        config=asdict(config),
        recipes=recipes,
        code=code,
        inputs=_inputs(config, build) | {"datasets": {name: found.key for name, found in manifests.items()}},
    )


def stage_recipes(
    config: BuildConfig, build: BuildPlan, driver: Driver
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Stage (image, mask, index) → recipe, and stage → module → code hash; each stage builds on the one before."""
    loader = _module_of(driver, "vhr_reads")
    sources = {
        type(build.made_once[name]).__module__ for name in ("vhr_imagery", "msi_imagery") if build.made_once[name]
    }
    modules = {
        "image": (loader, *sorted(sources), "dataflows.chip_plan"),
        "mask": (
            "dataflows.ingest_ducklake_labels",
            "dataflows.sam_mask_factory",
            type(build.made_once["mask_segmenter"]).__module__,
            "dataflows.training_sample_builder",
        ),
        "index": ("dataflows.s2_indexing", "dataflows.spectral_indices"),
    }
    recipes: dict[str, str] = {}
    upstream: tuple[str, ...] = ()
    for stage, names in modules.items():
        settings = {name: getattr(config, name) for name in _STAGE_SETTINGS[stage]}
        recipes[stage] = recipe(names, settings, *upstream)
        upstream = (recipes[stage],)
    return recipes, {stage: stage_code(names) for stage, names in modules.items()}


def _module_of(driver: Driver, node: str) -> str:
    functions = driver.graph.nodes[node].originating_functions
    return str(functions[0].__module__)


def _inputs(config: BuildConfig, build: BuildPlan) -> dict[str, Any]:
    scenes = {}
    for kind in ("vhr", "msi"):
        found = build.made_once[f"{kind}_scenes"]
        if found is not None:
            scenes[kind] = dict(zip(found["scene_id"].to_pylist(), found["checksum"].to_pylist(), strict=True))
    return {
        "catalog": config.catalog,
        "catalog_checksum": catalog_fingerprint(config.catalog) if config.catalog is not None else None,
        "label_snapshot": build.label_snapshot,
        "label_tables": [table.name for table in config.labels],
        "label_files": {
            name: found for table in config.labels if table.file for name, found in file_checksums(table).items()
        },
        "scenes": scenes,
    }
