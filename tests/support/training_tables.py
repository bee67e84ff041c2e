"""Small, valid ``training_data`` stores with panels a network can learn in a few steps."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyproj import Transformer
from shapely import box, to_wkb, transform

from store import lance_io
from store.schemas import SPLITS, training_data
from utils.geo import s2_cells, s2_parents
from utils.types import ChipProfile

EPSG = 32632
ORIGIN = (460_800.0, 5_120_000.0)
WHEN = datetime(2026, 6, 1, 10, tzinfo=UTC)
PROFILE = ChipProfile(height=64, width=64, msi_height=16, msi_width=16)


@dataclass(frozen=True, kw_only=True)
class Chips:
    """How many chips of which split, and how far apart."""

    splits: dict[str, int]
    """Chips per split; each split is one row of chips."""
    step_m: float = 200.0
    """Distance between neighbouring centres, metres."""
    seed: int = 0
    """Seed of the pixels."""
    profile: ChipProfile = PROFILE
    """Profile of the table."""


def panels(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """A mask with one axis-parallel rectangle of PV, shape (height, width)."""
    mask = np.zeros((height, width), np.uint8)
    tall, wide = rng.integers(height // 4, height // 2, 2)
    top, left = rng.integers(0, height - tall), rng.integers(0, width - wide)
    mask[top : top + tall, left : left + wide] = 1
    return mask


def training_table(chips: Chips) -> pa.Table:
    """Rows on a lattice: PV is dark blue in RGB, dark in every multispectral band."""
    schema = training_data(chips.profile)
    rows = [
        _row(chips, name, (column, line), np.random.default_rng([chips.seed, line, column]))
        for line, (name, count) in enumerate(chips.splits.items())
        for column in range(count)
    ]
    columns = {field.name: [row.get(field.name) for row in rows] for field in schema}
    return pa.table({name: _array(values, schema.field(name).type) for name, values in columns.items()}, schema=schema)


def write_store(folder: Path, chips: Chips, *, guard_m: float | None = 50.0) -> str:
    """A store with ``training_data``, and a ``splits`` row unless ``guard_m`` is None; returns its URI."""
    store = str(folder / "lancedb")
    lance_io.write(store, "training_data", training_table(chips), profile=chips.profile)
    if guard_m is not None:
        rule = {"split_rule": "r", "level": 15, "salt": 1, "guard_m": guard_m, "created_at": WHEN}
        shares = {"fractions": [("train", 0.7), ("val", 0.15), ("test", 0.15)], "cells": [("train", 3)]}
        lance_io.write(store, "splits", pa.Table.from_pylist([rule | shares], schema=SPLITS))
    return store


def _array(values: list[object], kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.FixedShapeTensorType):
        flat = np.stack(values).reshape(-1)
        width = int(np.prod(kind.shape))
        return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(pa.array(flat), width))
    return pa.array(values, kind)


def _row(chips: Chips, split: str, at: tuple[int, int], rng: np.random.Generator) -> dict[str, object]:
    profile = chips.profile
    x, y = ORIGIN[0] + at[0] * chips.step_m, ORIGIN[1] - at[1] * chips.step_m
    mask = panels(rng, profile.height, profile.width)
    half_m = profile.width * profile.gsd_m / 2
    footprint = box(x - half_m, y - half_m, x + half_m, y + half_m)
    to_lonlat = Transformer.from_crs(EPSG, 4326, always_xy=True).transform
    leaf = s2_cells(*(np.array([value]) for value in to_lonlat(x, y)), 30)
    cells = {f"s2_l{level}": int(s2_parents(leaf, level)[0]) for level in (10, 13)}
    texts = {f.name: "a1" for f in training_data(profile) if f.type == pa.string() and not f.nullable}
    counts = {"n_prompts": 1, "n_accepted": 1, "n_review": 0, "n_rejected": 0, "generation": 0, "h3_cell": 1}
    return {
        **texts,
        **cells,
        **counts,
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{split}/{at}")),
        "vhr_image_chip": _rgb(mask, rng),
        "generated_mask": mask.tobytes(),
        "vhr_scene_ids": ["v"],
        "vhr_acquired_at": WHEN,
        "vhr_gsd_m": profile.gsd_m,
        "vhr_epsg": EPSG,
        "vhr_transform": [profile.gsd_m, 0, x - half_m, 0, -profile.gsd_m, y + half_m],
        "vhr_valid_fraction": 1.0,
        **_msi(profile, x, y, rng),
        "footprint": to_wkb(transform(footprint, to_lonlat, interleaved=False)),
        "s2_cell": int(leaf[0]),
        "split_cell": int(s2_parents(leaf, 15)[0]),
        "split": split,
        "partition": cells["s2_l13"],
        "chip_role": "labelled",
        "pv_fraction": float(mask.mean()),
        "weight": 1.0,
        "quality_flags": [],
        "mask_source": "machine",
        "created_at": WHEN,
    }


def _rgb(mask: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    ground, panel = np.array([150, 140, 120])[:, None, None], np.array([40, 50, 90])[:, None, None]
    return np.clip(np.where(mask, panel, ground) + rng.normal(0, 12, (3, *mask.shape)), 1, 255).astype(np.uint8)


def _msi(profile: ChipProfile, x: float, y: float, rng: np.random.Generator) -> dict[str, object]:
    height, width, gsd_m = profile.msi_height, profile.msi_width, profile.msi_gsd_m
    fraction = np.full((height, width), 255, np.uint8)
    middle = slice(height // 2 - 3, height // 2 + 3), slice(width // 2 - 3, width // 2 + 3)
    fraction[middle] = panels(rng, 6, 6) * 200
    bands = np.arange(1, 1 + len(profile.msi_bands))[:, None, None] * 300
    dark = np.where(fraction == 200, 0.3, 1.0)
    digital = bands * dark + rng.normal(0, 20, (len(bands), height, width))
    return {
        "msi_image_chip": np.clip(digital, 1, 10000).astype(np.uint16),
        "msi_scl": np.full((height, width), 4, np.uint8),
        "msi_mask": fraction.tobytes(),
        "msi_scene_ids": ["m"],
        "msi_acquired_at": WHEN,
        "msi_gsd_m": gsd_m,
        "msi_epsg": EPSG,
        "msi_transform": [gsd_m, 0, x - width * gsd_m / 2, 0, -gsd_m, y + height * gsd_m / 2],
        "msi_valid_fraction": 1.0,
        "cloud_fraction": 0.0,
        "shadow_fraction": 0.0,
    }
