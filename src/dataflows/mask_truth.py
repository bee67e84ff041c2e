"""Masks of a store against truth polygons: the overlap of each with the objects its prompt touches."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from dataflows._settings import section
from dataflows.mask_calibration import recorded_settings
from dataflows.truth import Truth, rasterised
from store import lance_io
from store.schemas import profile_of
from utils.calibration import MeasuredMask, settings_recipe
from utils.errors import CalibrationError, ConfigError
from utils.geo import reproject
from utils.quality import UNJUDGED, iou
from utils.refinement import RefinementSteps
from utils.types import ChipGrid

_COLUMNS = ("uuid", "prompt_id", "backend", "run_id", "scores", "flags", "verdict", "mask", "epsg", "transform")


@dataclass(frozen=True, kw_only=True)
class MeasuredStore:
    """The masks of a store whose truth is known."""

    masks: list[MeasuredMask]
    """Those with scores and pixels."""
    verdicts: list[str]
    """Verdict of each."""
    left_out: Mapping[str, int]
    """Why masks were left out → how many."""


def measured_masks(store: str, truth: str | Path) -> MeasuredStore:
    """Every judged mask in force with its IoU on its chip; 0 where its prompt touches no object.

    Truth built after a chip's VHR image does not count on that chip (GeoJSON, property ``built`` an ISO day, optional).

    Raises:
        TableNotFoundError: the store has no such table.
        ConfigError: the truth file cannot be read.
    """
    known = Truth.read(truth)
    shape = profile_of(lance_io.open_table(store, "training_data").schema)
    days = {
        row["uuid"]: row["vhr_acquired_at"].date()
        for row in lance_io.scan(store, "training_data", ["uuid", "vhr_acquired_at"]).to_pylist()
    }
    asked = {
        row["prompt_id"]: (row["kind"], shapely.from_wkb(row["geometry"]))
        for row in lance_io.scan(store, "prompts", ["prompt_id", "kind", "geometry"]).to_pylist()
    }
    recipes = _Recipes(store)
    found, verdicts, left_out = [], [], Counter[str]()
    for row in _rows(store):
        recipe = recipes.of(row["run_id"])
        if row["mask"] is None or set(UNJUDGED) & set(row["flags"]):
            left_out["empty, off the chip or unjudged by the backend"] += 1
        elif row["uuid"] not in days or row["prompt_id"] not in asked:
            left_out["chip or prompt is not in the store"] += 1
        elif recipe is None:
            left_out["the run's settings are not recorded, or this version does not know them"] += 1
        else:
            transform = tuple(row["transform"])
            grid = ChipGrid(epsg=row["epsg"], transform=transform, height=shape.height, width=shape.width)
            kind, prompt = asked[row["prompt_id"]]
            found.append(
                MeasuredMask(
                    backend=row["backend"],
                    settings_recipe=recipe,
                    kind=kind,
                    scores={name: float(value) for name, value in row["scores"]},
                    iou=_iou(row["mask"], prompt, known, grid, days[row["uuid"]]),
                    group=row["uuid"],
                )
            )
            verdicts.append(row["verdict"])
    return MeasuredStore(masks=found, verdicts=verdicts, left_out=dict(left_out))


def _rows(store: str) -> Iterator[dict[str, Any]]:
    dataset = lance_io.open_table(store, "masks")
    for batch in dataset.to_batches(columns=list(_COLUMNS), filter="retired_at IS NULL", batch_size=256):
        yield from batch.to_pylist()


def _iou(pixels: bytes, prompt: shapely.Geometry, known: Truth, grid: ChipGrid, day: date) -> float:
    asked = reproject(prompt, 4326, grid.epsg)
    objects = known.on(grid, reproject(grid.footprint, grid.epsg, 4326), day)
    wanted = [pv for pv in objects if pv.intersects(asked)]
    if not wanted:
        return 0.0
    truth = rasterised(wanted, grid)
    return iou(np.frombuffer(pixels, np.uint8).reshape(truth.shape) > 0, truth)


class _Recipes:
    """Settings recipes of runs."""

    def __init__(self, store: str) -> None:
        runs = lance_io.scan(store, "runs", ["run_id", "config", "inputs"]).to_pylist()
        self._runs = {row["run_id"]: (row["config"], row["inputs"]) for row in runs}
        self._known: dict[str, str | None] = {}

    def of(self, run_id: str) -> str | None:
        """Hash of what shaped the masks of a run; None where it is not recorded, or known no more."""
        if run_id not in self._known:
            self._known[run_id] = _recipe(*self._runs.get(run_id, (None, None)))
        return self._known[run_id]


def _recipe(config: str | None, inputs: str | None) -> str | None:
    settings = json.loads(config) if config else {}
    if not {"mask_backend", "mask_options", "refinement"} <= settings.keys():
        return None
    weights = json.loads(inputs).get("weights") if inputs else None
    try:
        steps = section(RefinementSteps, settings["refinement"], "refinement")
        told = recorded_settings(settings["mask_backend"], settings["mask_options"], weights, steps)
    except ConfigError:
        # options and backends come and go between versions
        return None
    return settings_recipe(told)


def require_some(measured: MeasuredStore, store: str) -> None:
    """Refuse a store without a mask to measure.

    Raises:
        CalibrationError: with what was left out, and why.
    """
    if not measured.masks:
        told = "; ".join(f"{count} masks: {why}" for why, count in measured.left_out.items()) or "it holds no mask"
        raise CalibrationError(f"{store} has no mask that can be held against truth ({told})")
