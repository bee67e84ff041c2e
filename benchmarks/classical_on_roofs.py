"""The classical backend beside the prompt box and GrabCut, on the Geneva tiles and on the sample region.

Protocol: box prompts whose edges move by a normal deviate of 8 % of the side they bound; truth burnt on the chip's
grid; IoU over all pixels and without ±2 pixels of the outline; masks refined with the default steps. Geneva: 15
objects, also resampled to other ground sample distances (area mean when coarser, cubic when finer). Sample region:
every array built before the newest imagery, on 256-pixel chips at 0.3 m.
GrabCut: 5 iterations on the same window, started from the box. Times are per prompt on one thread, one after the
other in one run: one mask, a mask with its scores (five passes), GrabCut.

    python benchmarks/classical_on_roofs.py [--seeds 3] [--gsd 0.25 0.6] [--per-object]
    python benchmarks/classical_on_roofs.py --seeds 20 --gsd 0.1 0.25 0.3 0.6 --per-object   # long
    python benchmarks/classical_on_roofs.py --sensitivity --seeds 2                            # each setting ±25 %

``--sensitivity`` also prints the mean with the settings of every tile chosen on the other tiles.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
import rasterio.merge
import shapely
from affine import Affine
from classical_on_geneva import JITTER, burnt, data_folder, read_objects, read_tile, spearman
from numpy.typing import NDArray

from dataflows import drivers
from dataflows.mask_backends.classical import ClassicalBackend
from utils.geo import reproject
from utils.prompts import jittered_box, to_pixels
from utils.quality import edge_band, iou
from utils.refinement import refine
from utils.segmentation_settings import ClassicalSettings
from utils.types import ChipGrid, Prompt, RasterChip

GRABCUT_ITERATIONS = 5
SAMPLE_PX = 256
FIXED = ("median_px", "own_colours", "other_colours", "directions", "rounds", "small_px", "point_core_m", "point_box_m")
"""Settings that are counts or mean nothing to boxes."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Roof:
    """One object with truth."""

    name: str
    group: str
    """Tile it lies on."""
    chip: RasterChip
    polygon: shapely.Geometry
    """Outline in the CRS of the chip."""


def chip_of(data: NDArray[np.uint8], grid: ChipGrid, source: str) -> RasterChip:
    return RasterChip(
        data=data,
        valid=np.ones(data.shape[1:], dtype=np.bool_),
        grid=grid,
        bands=("red", "green", "blue"),
        source=source,
        scene_ids=(source,),
        sensor="camera",
        acquired_at=datetime(2023, 6, 1, tzinfo=UTC),
    )


def resampled(chip: RasterChip, gsd_m: float) -> RasterChip:
    if gsd_m == chip.grid.gsd_m:
        return chip
    side = round(chip.grid.width * chip.grid.gsd_m / gsd_m)
    method = cv2.INTER_AREA if gsd_m > chip.grid.gsd_m else cv2.INTER_CUBIC
    image = cv2.resize(np.ascontiguousarray(np.moveaxis(chip.data, 0, -1)), (side, side), interpolation=method)
    transform = tuple(chip.grid.affine @ Affine.scale(chip.grid.width / side))[:6]
    grid = ChipGrid(epsg=chip.grid.epsg, transform=transform, height=side, width=side)
    return chip_of(np.ascontiguousarray(np.moveaxis(image, -1, 0)), grid, chip.source)


def geneva(gsd_m: float) -> list[Roof]:
    folder = data_folder()
    objects = read_objects(folder)
    chips = {tile: resampled(read_tile(folder, tile), gsd_m) for tile in sorted({thing.tile for thing in objects})}
    return [
        Roof(name=str(number), group=thing.tile, chip=chips[thing.tile], polygon=thing.polygon)
        for number, thing in enumerate(objects)
    ]


def sample_region(root: Path) -> list[Roof]:
    newest = max(path for path in (root / "vhr").iterdir() if path.is_dir())
    taken = datetime.strptime(newest.name, "%Y%m%d").replace(tzinfo=UTC).date()
    tiles = sorted(newest.glob("*.tif"))
    with rasterio.open(tiles[0]) as raster:
        epsg = raster.crs.to_epsg()
    data, transform = rasterio.merge.merge(tiles)
    roofs = []
    for feature in json.loads((root / "truth" / "pv.geojson").read_text())["features"]:
        if date.fromisoformat(feature["properties"]["built"]) > taken:
            continue
        polygon = reproject(shapely.from_geojson(json.dumps(feature["geometry"])), 4326, epsg)
        col, row = ~transform @ (polygon.centroid.x, polygon.centroid.y)
        left, top = (
            int(np.clip(at - SAMPLE_PX / 2, 0, size - SAMPLE_PX))
            for at, size in ((col, data.shape[2]), (row, data.shape[1]))
        )
        moved = tuple(transform @ Affine.translation(left, top))[:6]
        grid = ChipGrid(epsg=epsg, transform=moved, height=SAMPLE_PX, width=SAMPLE_PX)
        pixels = np.ascontiguousarray(data[:, top : top + SAMPLE_PX, left : left + SAMPLE_PX])
        roofs.append(Roof(name=feature["id"], group="sample", chip=chip_of(pixels, grid, "sample"), polygon=polygon))
    return roofs


def trials(roofs: list[Roof], seeds: int) -> Iterator[tuple[Roof, Prompt, Bools]]:
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        for roof in roofs:
            box = jittered_box(roof.polygon, JITTER, rng)
            prompt = Prompt(prompt_id=f"{roof.name}/{seed}", label_id=roof.name, kind="box", geometry=box)
            yield roof, prompt, burnt(roof.polygon, roof.chip.grid)


def grabcut(roof: Roof, prompt: Prompt, backend: ClassicalBackend) -> Bools:
    """GrabCut on the window the backend works on, started from the box; the box where nothing is around it."""
    grid, settings = roof.chip.grid, backend.settings
    west, south, east, north = prompt.bounds
    reach = max(settings.context_share * max(east - west, north - south), settings.min_context_m)
    around = prompt.box.buffer(reach, join_style="mitre")
    col0, row0, col1, row1 = (round(value) for value in to_pixels(around, grid).bounds)
    rows, cols = slice(max(0, row0), min(row1, grid.height)), slice(max(0, col0), min(col1, grid.width))
    box = burnt(prompt.geometry, grid)
    state = np.where(box[rows, cols], cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    if min((state == cv2.GC_BGD).sum(), (state == cv2.GC_PR_FGD).sum()) < 10:
        return box
    image = np.ascontiguousarray(np.moveaxis(roof.chip.data[:, rows, cols], 0, -1))
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(image, state, None, *models, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
    found = np.zeros_like(box)
    found[rows, cols] = state == cv2.GC_PR_FGD
    return found


class _Unscored(ClassicalBackend):
    """Masks without their scores."""

    def _scores(self, *_: Any) -> dict[str, float]:
        return {}


def measure(name: str, roofs: list[Roof], seeds: int, *, per_object: bool) -> None:
    backend = ClassicalBackend()
    unscored = _Unscored()
    rows: list[dict[str, Any]] = []
    for roof, prompt, truth in trials(roofs, seeds):
        times = [time.perf_counter()]
        unscored.segment(roof.chip, [prompt])
        times.append(time.perf_counter())
        (mask,) = backend.segment(roof.chip, [prompt])
        times.append(time.perf_counter())
        cut = grabcut(roof, prompt, backend)
        times.append(time.perf_counter())
        row: dict[str, Any] = {"object": roof.name, "area": roof.polygon.area}
        row |= dict(zip(("one mask", "with scores", "GrabCut"), np.diff(times), strict=True))
        masks = {"box": burnt(prompt.geometry, roof.chip.grid), "raw": mask.data, "refined": refine(mask).data}
        for method, found in (masks | {"grabcut": cut}).items():
            row[method] = iou(found, truth)
            row[f"{method} ±2 px"] = iou(found, truth, edge_band(truth, 2))
        rows.append(row | {f"score {part}": value for part, value in mask.scores.items()})
    report(name, rows, per_object=per_object)


def report(name: str, rows: list[dict[str, Any]], *, per_object: bool) -> None:
    print(f"{name}: {len(rows)} trials")
    for band in ("", " ±2 px"):
        means = (f"{method} {np.mean([row[method + band] for row in rows]):.3f}" for method in METHODS)
        print(f"  mean IoU{band or ' (all pixels)'}: {', '.join(means)}")
    for kind in ("one mask", "with scores"):
        ratios = np.array([row[kind] / row["GrabCut"] for row in rows])
        total = sum(row[kind] for row in rows) / sum(row["GrabCut"] for row in rows)
        low, middle, high = np.quantile(ratios, [0.05, 0.5, 0.95])
        spread = f"5 % {low:.2f}, median {middle:.2f}, 95 % {high:.2f}, of the sums {total:.2f}"
        print(f"  time / GrabCut, {kind}: {spread}; {1e3 * np.mean([row[kind] for row in rows]):.0f} ms")
    for part in ("stability", "box_agreement", "rectangularity", "contrast"):
        known = [(row[f"score {part}"], row["refined ±2 px"]) for row in rows if f"score {part}" in row]
        if len(known) > 2:
            print(f"  Spearman of {part} with IoU ±2 px: {spearman(*np.array(known).T):.2f} ({len(known)} masks)")
    for low, high in ((0, 20), (20, 50), (50, 200), (200, 1000), (1000, np.inf)):
        some = [row for row in rows if low <= row["area"] < high]
        if some:
            means = (f"{method} {np.mean([row[f'{method} ±2 px'] for row in some]):.3f}" for method in METHODS)
            print(f"    {low}-{high} m² ({len(some)}): {', '.join(means)}")
    for thing in dict.fromkeys(row["object"] for row in rows) if per_object else ():
        some = [row for row in rows if row["object"] == thing]
        means = (f"{method} {np.mean([row[f'{method} ±2 px'] for row in some]):.3f}" for method in METHODS)
        print(f"    object {thing}: {', '.join(means)}")


METHODS = ("box", "raw", "refined", "grabcut")


def refined_iou(roofs: list[Roof], seeds: int, settings: ClassicalSettings) -> dict[str, list[float]]:
    """Group → IoU ±2 px of its trials."""
    backend = _Unscored(**{field.name: getattr(settings, field.name) for field in fields(ClassicalSettings)})
    found: dict[str, list[float]] = {}
    for roof, prompt, truth in trials(roofs, seeds):
        (mask,) = backend.segment(roof.chip, [prompt])
        found.setdefault(roof.group, []).append(iou(refine(mask).data, truth, edge_band(truth, 2)))
    return found


def sensitivity(roofs: list[Roof], seeds: int) -> None:
    plain = ClassicalSettings()
    names = [field.name for field in fields(plain) if field.name not in FIXED]
    variants = {"as set": plain}
    for name in names:
        variants |= {f"{name} × {by}": replace(plain, **{name: getattr(plain, name) * by}) for by in (0.75, 1.25)}
    for name, by in (("own_colours", 1), ("other_colours", -4), ("other_colours", 4), ("median_px", 2)):
        variants[f"{name} {by:+d}"] = replace(plain, **{name: getattr(plain, name) + by})
    table = {}
    for variant, settings in variants.items():
        table[variant] = refined_iou(roofs, seeds, settings)
        print(f"  {variant}: {_mean(table[variant]):.3f}", flush=True)
    held_out: list[float] = []
    for tile in table["as set"]:
        others = {
            variant: _mean({group: values for group, values in found.items() if group != tile})
            for variant, found in table.items()
        }
        held_out += table[max(others, key=lambda variant: others[variant])][tile]
    means = [_mean(found) for found in table.values()]
    print(f"  lowest {min(means):.3f}, highest {max(means):.3f}; chosen leave-one-tile-out: {np.mean(held_out):.3f}")


def _mean(found: dict[str, list[float]]) -> float:
    return float(np.mean([value for values in found.values() for value in values]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gsd", type=float, nargs="+", default=[0.25, 0.6])
    parser.add_argument("--sample", type=Path, help="a sample region that exists; made anew without")
    parser.add_argument("--per-object", action="store_true")
    parser.add_argument("--sensitivity", action="store_true", help="only this: every setting ±25 %% on Geneva")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.sensitivity:
        sensitivity(geneva(0.25), arguments.seeds)
        return
    for gsd_m in arguments.gsd:
        measure(f"Geneva at {gsd_m} m", geneva(gsd_m), arguments.seeds, per_object=arguments.per_object)
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.sample or Path(folder)
        if arguments.sample is None:
            drivers.run_sample(root=root, size="demo", seed=42)
        measure("Sample region (demo)", sample_region(root), 1, per_object=arguments.per_object)


if __name__ == "__main__":
    main()
