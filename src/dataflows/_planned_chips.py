"""Chips to make, as rows of a plan."""

from typing import Any

import numpy as np
import pyarrow as pa

from dataflows._chips import lattice_of
from dataflows._positions import centres_lonlat
from utils.types import ChipProfile

CHIP_PLAN = pa.schema(
    [
        pa.field("uuid", pa.string(), nullable=False),
        pa.field("epsg", pa.int32(), nullable=False),
        pa.field("ix", pa.int64(), nullable=False),
        pa.field("iy", pa.int64(), nullable=False),
        pa.field("lon", pa.float64(), nullable=False),
        pa.field("lat", pa.float64(), nullable=False),
        pa.field("chip_role", pa.string(), nullable=False),
        pa.field("vhr_scene_ids", pa.list_(pa.string()), nullable=False),
        pa.field("msi_scene_ids", pa.list_(pa.string()), nullable=False),
        pa.field("partition", pa.uint64(), nullable=False),
        pa.field("split_cell", pa.uint64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("input_set", pa.string(), nullable=False),
    ]
)
"""One row per chip to make."""


def planned_rows(covered: list[dict[str, Any]], role: str, profile: ChipProfile) -> pa.Table:
    """Covered positions as rows with id and centre; the columns of CHIP_PLAN that do not depend on other chips."""
    names = ["uuid", "epsg", "ix", "iy", "lon", "lat", "chip_role", "vhr_scene_ids", "msi_scene_ids"]
    schema = pa.schema([CHIP_PLAN.field(name) for name in names])
    epsg, ix, iy = np.array([chip["position"] for chip in covered], np.int64).reshape(-1, 3).T
    lonlat = centres_lonlat(epsg, ix, iy, profile)
    columns = {
        "uuid": [_chip_uuid(chip, profile) for chip in covered],
        "epsg": epsg,
        "ix": ix,
        "iy": iy,
        "lon": lonlat[:, 0],
        "lat": lonlat[:, 1],
        "chip_role": [role] * len(covered),
        "vhr_scene_ids": pa.array([chip["vhr_scene_ids"] for chip in covered], pa.list_(pa.string())),
        "msi_scene_ids": pa.array([chip["msi_scene_ids"] for chip in covered], pa.list_(pa.string())),
    }
    return pa.table(columns).cast(schema)


def _chip_uuid(covered: dict[str, Any], profile: ChipProfile) -> str:
    epsg, ix, iy = covered["position"]
    return lattice_of(epsg, profile).chip_uuid(ix, iy, covered["vhr_day"])
