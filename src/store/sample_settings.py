"""Settings of the build flow and of discovery that fit the sample region; paths are relative to its folder."""

from typing import Any

from store.sample_lake import CATALOG
from utils.sample import SampleSize

_FLOW: dict[str, Any] = {
    "flow": "build",
    "catalog": str(CATALOG),
    "labels": [
        {
            "table": "pv_labels",
            "id": "unified_id",
            "dataset": "dataset_name",
            "geometry": "geometry",
            "crs": "EPSG:4326",
        },
        {
            "table": "registry_points",
            "id": "registry_id",
            "dataset_name": "registry",
            "lon": "lon",
            "lat": "lat",
            "crs": "EPSG:4326",
        },
    ],
    "snapshot": None,
    "vhr": {"source": "local", "root": "vhr"},
    "msi": {"source": "local", "root": "msi"},
    "vhr_acquired": "latest",
    "calibration": "default",
    "guard_m": 50.0,
    "min_valid_fraction": 0.1,
    "truth": "truth/pv.geojson",
}

_DISCOVER: dict[str, Any] = {
    "flow": "discover",
    "build": "flow.yaml",
    "model": None,
    "block_px": 768,
    "context": [
        {"name": "buildings", "table": "buildings", "id": "building_id", "columns": ["kind"], "search_m": 1000.0},
        {"name": "land_cover", "table": "landcover", "id": "patch_id", "kind": "classes", "class_column": "class"},
    ],
    "prune": {
        "near_buildings": {"within_m": 100.0, "or_classes": ["cropland", "grassland"], "least_share": 0.1},
        "land_cover_excluded": {"classes": ["forest", "water"], "share": 0.7},
    },
    "truth_confusers": "truth/confusers.geojson",
}


def sample_settings(size: SampleSize) -> dict[str, Any]:
    """Content of a sample's ``flow.yaml``."""
    return _FLOW | {"partition_level": size.partition_level, "split_level": size.split_level}


def discovery_settings() -> dict[str, Any]:
    """Content of a sample's ``discover.yaml``; the model is the user's to name."""
    return dict(_DISCOVER)
