"""Masks of a backend on the 15 PV objects of the Geneva tiles, beside the prompt box itself.

Protocol: each object's envelope is jittered (every edge by a normal deviate of 8 % of the side it bounds) under 20
seeds and segmented on its tile; truth is the object's polygon burnt on the tile's grid. IoU is pooled as the mean over
objects and seeds, with and without ignoring ±2 pixels of the hand-drawn edge. Points are the object's centroid moved by
the same share; polygons are the object simplified to 2 m and moved by 1 m.

    python benchmarks/classical_on_geneva.py [--seeds 20] [--backend classical]

The data's place is ``EO_REAL_DATA`` or ``../shared/data`` beside the repository.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.features
import shapely
from numpy.typing import NDArray
from shapely import Geometry, affinity

from dataflows import mask_backends
from utils.prompts import jittered_box, prompt_geometry
from utils.quality import edge_band, iou, mask_score, verdict
from utils.refinement import area_m2, refine
from utils.types import ChipGrid, MaskBackend, Prompt, PromptKind, RasterChip

JITTER = 0.08
POINT_BOX_M = 12.0
SWISS = 21781


@dataclass(frozen=True, kw_only=True)
class PVObject:
    """One hand-drawn array."""

    tile: str
    """Tile it lies on."""
    polygon: Geometry
    """Outline, EPSG:21781."""


def data_folder() -> Path:
    root = os.environ.get("EO_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    return Path(root) / "geneva_swissimage_pv"


def read_objects(folder: Path) -> list[PVObject]:
    features = json.loads((folder / "pv_polygons_epsg21781.geojson").read_text())["features"]
    return [
        PVObject(tile=feature["properties"]["tile"], polygon=shapely.from_geojson(json.dumps(feature["geometry"])))
        for feature in features
    ]


def read_tile(folder: Path, tile: str) -> RasterChip:
    with rasterio.open(folder / "images_geotiff" / f"{tile}.tif") as raster:
        data = raster.read()
        transform = tuple(raster.transform)[:6]
    grid = ChipGrid(epsg=SWISS, transform=transform, height=data.shape[1], width=data.shape[2])
    return RasterChip(
        data=data,
        valid=np.ones(data.shape[1:], dtype=np.bool_),
        grid=grid,
        bands=("red", "green", "blue"),
        source="geneva",
        scene_ids=(tile,),
        sensor="SWISSIMAGE",
        acquired_at=datetime(2015, 6, 1, tzinfo=UTC),
    )


def burnt(geometry: Geometry, grid: ChipGrid) -> NDArray[np.bool_]:
    shape = (grid.height, grid.width)
    image = rasterio.features.rasterize([geometry], out_shape=shape, transform=grid.affine, dtype="uint8")
    return np.asarray(image > 0)


def weak_label(polygon: Geometry, kind: PromptKind, rng: np.random.Generator) -> Geometry:
    """What a hurried annotator would have left of the object."""
    if kind == "box":
        return jittered_box(polygon, JITTER, rng)
    west, south, east, north = polygon.bounds
    if kind == "point":
        dx, dy = rng.normal(0.0, JITTER, 2) * (east - west, north - south)
        return affinity.translate(polygon.centroid, dx, dy)
    return affinity.translate(polygon.simplify(2.0), *rng.normal(0.0, 1.0, 2))


def trials(
    objects: list[PVObject], chips: dict[str, RasterChip], kind: PromptKind, seed: int
) -> Iterator[tuple[PVObject, RasterChip, Prompt]]:
    rng = np.random.default_rng(seed)
    for number, thing in enumerate(objects):
        label = weak_label(thing.polygon, kind, rng)
        geometry = prompt_geometry(label, kind, margin_share=0.0, point_box_m=POINT_BOX_M)
        prompt = Prompt(prompt_id=f"{number}/{seed}", label_id=str(number), kind=kind, geometry=geometry)
        yield thing, chips[thing.tile], prompt


def measure(folder: Path, backend: MaskBackend, kind: PromptKind, seeds: int) -> dict[str, NDArray[Any]]:
    """Named results, each of shape (seeds × objects,)."""
    objects = read_objects(folder)
    chips = {thing.tile: read_tile(folder, thing.tile) for thing in objects}
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        for thing, chip, prompt in trials(objects, chips, kind, seed):
            start = time.perf_counter()
            (raw,) = backend.segment(chip, [prompt])
            middle = time.perf_counter()
            refined = refine(raw)
            end = time.perf_counter()
            truth = burnt(thing.polygon, chip.grid)
            row: dict[str, Any] = {"ms segment": 1e3 * (middle - start), "ms refine": 1e3 * (end - middle)}
            row["score"] = mask_score(raw.scores, raw.flags)
            row["verdict"], _ = verdict(row["score"], refined.flags, area_m2(refined))
            row["object"] = int(prompt.label_id)
            masks = {"prompt": burnt(prompt.geometry, chip.grid), "raw": raw.data, "refined": refined.data}
            for name, mask in masks.items():
                row[name] = iou(mask, truth)
                row[f"{name} ±2 px"] = iou(mask, truth, edge_band(truth, 2))
            rows.append(row | {f"part {part}": value for part, value in raw.scores.items()})
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in sorted({k for r in rows for k in r})}


def report(kind: PromptKind, results: dict[str, NDArray[Any]]) -> str:
    lines = [f"{kind} prompts ({len(results['raw'])} trials)"]
    for band in ("", " ±2 px"):
        means = {name: results[name + band].mean() for name in ("prompt", "raw", "refined")}
        change = results["refined" + band] - results["raw" + band]
        lines.append(
            f"  mean IoU{band or ' (all pixels)'}: "
            + ", ".join(f"{name} {value:.3f}" for name, value in means.items())
            + f"; refinement made {np.mean(change < -0.001):.1%} worse, {np.mean(change > 0.001):.1%} better"
        )
    times = (results["ms segment"].mean(), results["ms refine"].mean())
    lines.append(f"  {times[0]:.1f} ms per prompt (one per tile, scores included) + {times[1]:.1f} ms refinement")
    judged = np.isfinite(results["part stability"])
    score, overlap = results["score"][judged], results["refined"][judged]
    kept = score >= np.quantile(score, 0.3)
    lines.append(
        f"  score of the {judged.mean():.0%} judged: Spearman with IoU {spearman(score, overlap):.2f}; "
        f"best 70 % IoU {overlap[kept].mean():.3f}, rest {overlap[~kept].mean():.3f}"
    )
    for name in ("accept", "review", "reject"):
        chosen = results["verdict"] == name
        if chosen.any():
            lines.append(
                f"  {name}: {chosen.mean():.0%} of the masks, mean IoU {results['refined'][chosen].mean():.3f}"
            )
    return "\n".join(lines)


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Rank correlation; equal values share the mean of their ranks."""
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--backend", default="classical", choices=mask_backends.names())
    parser.add_argument("--per-object", action="store_true", help="also the mean IoU of each object")
    arguments = parser.parse_args()
    backend = mask_backends.get(arguments.backend)
    kinds: tuple[PromptKind, ...] = ("box", "point", "polygon")
    for kind in kinds:
        results = measure(data_folder(), backend, kind, arguments.seeds)
        print(report(kind, results))
        if arguments.per_object:
            for number in np.unique(results["object"]):
                chosen = results["object"] == number
                values = (f"{k} {results[k][chosen].mean():.3f}" for k in ("prompt", "raw", "refined", "score"))
                print(f"    object {number:.0f}: " + ", ".join(values))


if __name__ == "__main__":
    main()
