"""How long a search will take: by what earlier runs of the same model took, else by timing it on a few windows."""

import json
import math
import time
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from dataflows._search import FLOW, Search
from store import lance_io
from store.sql import literal
from utils.errors import NoImageryError
from utils.search_blocks import SearchBlock
from utils.types import ChipGrid

_RUNS: Final = 5
_WINDOWS: Final = 2


@dataclass(frozen=True, kw_only=True)
class ExpectedTime:
    """How long the blocks that are left would take."""

    seconds: float | None
    """Expected time, seconds; None where it cannot be told."""
    km2_per_s: float | None
    """Rate it rests on, km² per second."""
    basis: Literal["earlier runs", "windows timed now", "nothing is left", "no imagery to time on"]
    """What it rests on."""


def expected_time(search: Search) -> ExpectedTime:
    """Time for the blocks that are left, by the rate of earlier runs of this model here, or by timing it now."""
    plan = search.plan
    if not plan.pending:
        return ExpectedTime(seconds=0.0, km2_per_s=None, basis="nothing is left")
    left = plan.km2_of(~plan.done & ~plan.pruned)
    rate = _rate_of_runs(search)
    if rate is not None:
        return ExpectedTime(seconds=left / rate, km2_per_s=rate, basis="earlier runs")
    for block in plan.pending[:_RUNS]:
        seconds = _seconds_of_block(search, block)
        if seconds is not None:
            whole = seconds * len(plan.pending)
            return ExpectedTime(seconds=whole, km2_per_s=left / whole, basis="windows timed now")
    return ExpectedTime(seconds=None, km2_per_s=None, basis="no imagery to time on")


def _rate_of_runs(search: Search) -> float | None:
    """km² per second of the newest runs of the same model on the same device with the same windows."""
    build, config = search.config.build, search.config
    where = f"flow = {literal(FLOW)} AND counts IS NOT NULL"
    rows = lance_io.scan(build.store, "runs", ["config", "counts", "started_at"], where)
    km2 = seconds = 0.0
    used = 0
    for row in rows.sort_by([("started_at", "descending")]).to_pylist():
        counts, told = json.loads(row["counts"]), json.loads(row["config"])
        same = all(
            told.get(name) == getattr(config, name) for name in ("device", "tta", "amp", "window_px", "overlap_px")
        )
        if counts.get("model_id") != search.model.model_id or not same or not counts.get("blocks_made"):
            continue
        km2, seconds, used = km2 + counts["km2_made"], seconds + counts["seconds_searching"], used + 1
        if used == _RUNS:
            break
    return km2 / seconds if km2 > 0 and seconds > 0 else None


def _seconds_of_block(search: Search, block: SearchBlock) -> float | None:
    """Time of a whole block: pixels and model of a few windows, scaled; None where it holds no data."""
    window, overlap = search.window_px, search.config.overlap_px
    grid = _windows(block.grid, window)
    start = time.perf_counter()
    try:
        chip = search.source.read(grid, search.model.bands, scene_ids=search.scene_ids)
    except NoImageryError:
        return None
    read_s = (time.perf_counter() - start) / _WINDOWS
    images = np.stack([chip.data[:, :, k * window : (k + 1) * window] for k in range(_WINDOWS)])
    # the first call loads kernels and is no measure
    search.model.probabilities(images[:1])
    start = time.perf_counter()
    search.model.probabilities(images)
    model_s = (time.perf_counter() - start) / _WINDOWS
    per_side = max(1, math.ceil(search.config.block_px / (window - overlap)))
    return per_side**2 * (read_s + model_s)


def _windows(grid: ChipGrid, window: int) -> ChipGrid:
    """Some windows side by side around the middle of a block."""
    x, y = grid.centre
    a, b, _, d, e, _ = grid.transform
    columns, rows = round(window * _WINDOWS / 2), round(window / 2)
    corner = (x - a * columns - b * rows, y - d * columns - e * rows)
    return ChipGrid(
        epsg=grid.epsg, transform=(a, b, corner[0], d, e, corner[1]), height=window, width=window * _WINDOWS
    )
