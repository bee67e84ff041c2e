"""What a run of the build flow goes by: recipes of its stages, code, settings and inputs, for the table ``runs``."""

from dataclasses import asdict
from typing import Any

from hamilton.driver import Driver

from dataflows.build_plan import BuildPlan
from dataflows.config import BuildConfig
from dataflows.stage_recipes import stage_recipes
from store.dataset_manifests import DatasetManifest
from store.ducklake import catalog_fingerprint
from store.label_files import file_checksums
from store.lineage import Run
from store.schemas import SCHEMA_VERSION


def described_run(config: BuildConfig, build: BuildPlan, driver: Driver, manifests: dict[str, DatasetManifest]) -> Run:
    """The run as it will stand in ``runs``; ``manifests`` are those of its datasets, by name."""
    found = stage_recipes(asdict(config), driver)
    return Run(
        flow="build",
        # the newer of two answers is the one that was planned later
        started_at=build.planned_at,
        build_config=config.build_config,
        config=asdict(config),
        recipes=found.recipes,
        code=found.code,
        inputs=_inputs(config, build)
        | {
            "datasets": {name: manifest.key for name, manifest in manifests.items()},
            "weights": found.weights,
            "calibration": found.calibration,
            "schema_version": SCHEMA_VERSION,
        },
    )


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
        "tables": dict(build.table_versions),
    }
