"""Settings of the build flow that fit the sample region; paths are relative to its folder."""

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


def sample_settings(size: SampleSize) -> dict[str, Any]:
    """Content of a sample's ``flow.yaml``."""
    return _FLOW | {"partition_level": size.partition_level, "split_level": size.split_level}
