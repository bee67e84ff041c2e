"""Small chips, prompts and judged masks on known pixels, to call nodes of the build flow with."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from dataflows.chip_plan import CHIP_PLAN, PROMPT_PLAN
from dataflows.sam_mask_factory import JudgedMask
from utils.geo import reproject, reproject_points
from utils.types import ChipGrid, ChipProfile, Mask, Prompt, RasterChip, Verdict

EPSG = 32632
LEFT, TOP = 500_000.0, 5_200_000.0
BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
PROFILE = ChipProfile(height=40, width=40, gsd_m=0.5, msi_bands=BANDS, msi_height=8, msi_width=8, msi_gsd_m=10.0)
HALO = 8


def vhr_chip(*, halo: int = HALO, seed: int = 0, valid: np.ndarray | None = None) -> RasterChip:
    """A noisy RGB chip of 40 × 40 pixels of 0.5 m with its halo around."""
    side = 40 + 2 * halo
    grid = ChipGrid(epsg=EPSG, transform=(0.5, 0.0, LEFT, 0.0, -0.5, TOP), height=40, width=40).padded(halo)
    data = np.random.default_rng(seed).integers(1, 256, (3, side, side), dtype=np.uint8)
    holds = np.ones((side, side), bool) if valid is None else valid
    return RasterChip(data=data, valid=holds, grid=grid, bands=("red", "green", "blue"), **_seen("vhr"))


def msi_chip(data: np.ndarray | None = None, *, valid: np.ndarray | None = None, scl: int = 4) -> RasterChip:
    """A multispectral chip of 8 × 8 pixels of 10 m with the VHR chip's centre."""
    grid = ChipGrid.around(LEFT + 10, TOP - 10, epsg=EPSG, gsd_m=10, height=8, width=8)
    pixels = np.random.default_rng(1).integers(200, 6000, (len(BANDS), 8, 8)) if data is None else data
    return RasterChip(
        data=pixels.astype(np.uint16),
        valid=np.ones((8, 8), bool) if valid is None else valid,
        grid=grid,
        bands=BANDS,
        scl=np.full((8, 8), scl, np.uint8),
        **_seen("msi"),
    )


def _seen(kind: str) -> dict[str, Any]:
    when = datetime(2023, 6, 14, 10, tzinfo=UTC)
    return {"source": "local", "scene_ids": (f"{kind} scene",), "sensor": f"{kind} sensor", "acquired_at": when}


def block(rows: tuple[int, int], columns: tuple[int, int], *, side: int = 40) -> np.ndarray:
    """A boolean mask that is True in a rectangle of pixels."""
    mask = np.zeros((side, side), bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def ground(rows: tuple[float, float], columns: tuple[float, float]) -> shapely.Polygon:
    """A rectangle of the chip's pixels (without halo) in UTM metres."""
    return shapely.box(LEFT + columns[0] * 0.5, TOP - rows[1] * 0.5, LEFT + columns[1] * 0.5, TOP - rows[0] * 0.5)


def prompt(name: str, rows: tuple[float, float], columns: tuple[float, float]) -> Prompt:
    """A box prompt over a rectangle of the chip's pixels."""
    return Prompt(prompt_id=name, label_id=f"pv/{name}", kind="box", geometry=ground(rows, columns), dataset="pv")


def judged(name: str, verdict: Verdict, data: np.ndarray, *, score: float = 0.8, **options: Any) -> JudgedMask:
    """A mask on the chip's own grid with its verdict."""
    grid = vhr_chip(halo=0).grid
    return JudgedMask(
        mask=Mask(data=data, grid=grid, prompt_id=name, **options),
        score=score,
        quality=score,
        calibration=None,
        verdict=verdict,
        reasons=() if verdict == "accept" else ("below_accept_score",),
        area_m2=float(data.sum() * 0.25),
    )


def plan_of(*uuids: str) -> pa.Table:
    """Plan rows of these chips."""
    [(lon, lat)] = reproject_points(np.array([[LEFT + 10, TOP - 10]]), EPSG, 4326)
    rows = [
        {
            "uuid": uuid,
            "epsg": EPSG,
            "ix": number,
            "iy": 0,
            "lon": lon + number / 1000,
            "lat": lat,
            "chip_role": "labelled",
            "vhr_scene_ids": ["vhr scene"],
            "msi_scene_ids": ["msi scene"],
            "partition": (1 << 63) + number,
            "split_cell": (1 << 63) + 7,
            "split": "train",
            "input_set": f"inputs of {uuid}",
        }
        for number, uuid in enumerate(uuids)
    ]
    return pa.Table.from_pylist(rows, schema=CHIP_PLAN)


def prompts_of(asked: dict[str, list[Prompt]]) -> pa.Table:
    """Prompts by chip as the plan holds them."""
    rows = [
        {
            "prompt_id": one.prompt_id,
            "uuid": uuid,
            "label_id": one.label_id,
            "dataset": one.dataset,
            "label_table": "pv",
            "kind": one.kind,
            "geometry": shapely.to_wkb(reproject(one.geometry, EPSG, 4326)),
            "label_geometry": shapely.to_wkb(reproject(one.geometry, EPSG, 4326)),
            "utm_geometry": shapely.to_wkb(one.geometry),
            "clipped": False,
            "repairs": [],
            "merged": [],
            "input_set": f"inputs of {uuid}",
        }
        for uuid, found in asked.items()
        for one in found
    ]
    held = [{name: row.get(name) for name in PROMPT_PLAN.names} for row in rows]
    return pa.Table.from_pylist(held, schema=PROMPT_PLAN)
