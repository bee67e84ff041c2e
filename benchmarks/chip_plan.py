"""Cost of a plan from 10,000 to 1,000,000 labels: seconds and peak memory per node, each size in its own process.

Data: outlines of 5 m to 50 m in villages of 40 over 5° × 2° in central Europe, one VHR scene over all of it. Beside it,
labels placed one by one with shapely, on 2,000 of them: the ratio of the times per label, in turns, as
min / median / max.

    python benchmarks/chip_plan.py [--sizes 10000 100000 1000000] [--rounds 5]
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from dataflows import chip_plan
from dataflows._placement import PlacementRule, placed_labels
from dataflows.label_deduplication import DISTINCT_LABELS
from store.schemas import SCENES
from utils.geo import ChipLattice, reproject, utm_epsg
from utils.prompts import prompt_geometry
from utils.types import ChipProfile

PROFILE = ChipProfile(msi_bands=())
RULE = PlacementRule(margin_share=0.0, point_box_m=15.0, min_overlap=0.1, max_label_m=5000.0)
VILLAGE = 40


def labels_of(count: int, seed: int = 0) -> pa.Table:
    """``count`` outlines, schema ``DISTINCT_LABELS``."""
    random = np.random.default_rng(seed)
    villages = random.uniform((6, 45), (11, 47), (count // VILLAGE + 1, 2))
    at = villages[np.arange(count) // VILLAGE] + random.normal(0, 0.004, (count, 2))
    width = 10 ** random.uniform(-4.2, -3.2, count)
    shapes = shapely.buffer(shapely.points(at), width / 2, quad_segs=3)
    columns = {
        "label_id": [f"pv/{number}" for number in range(count)],
        "dataset": ["pv"] * count,
        "label_table": ["pv"] * count,
        "kind": ["polygon"] * count,
        "geometry": shapely.to_wkb(shapes),
        "repairs": [[]] * count,
        "merged": [[]] * count,
    }
    fields = [pa.array(columns.get(field.name, [None] * count), field.type) for field in DISTINCT_LABELS]
    return pa.Table.from_arrays(fields, schema=DISTINCT_LABELS)


def scenes() -> pa.Table:
    """One scene over all labels."""
    row: dict[str, Any] = {field.name: None for field in SCENES} | {
        "scene_key": "scene", "scene_id": "scene", "source": "local", "kind": "vhr", "sensor": "made", "epsg": 4326,
        "acquired_at": datetime(2023, 6, 14, tzinfo=UTC), "gsd_m": 0.3, "bands": ["red", "green", "blue"],
        "assets": "{}", "footprint": shapely.to_wkb(shapely.box(5, 44, 12, 48)), "checksum": "",
    }  # fmt: skip
    return pa.Table.from_pylist([row], schema=SCENES)


def planned(count: int) -> list[tuple[str, int, float]]:
    """(node, rows, seconds) for a plan of ``count`` labels; the last entry is memory in MB, before and at most."""
    labels, found, steps = labels_of(count), scenes(), []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    def timed(name: str, node: Callable[[], Any], rows: Callable[[Any], int]) -> Any:
        start = time.perf_counter()
        result = node()
        steps.append((name, rows(result), time.perf_counter() - start))
        return result

    ground, prompts, _ = timed("placement", lambda: placed_labels(labels, PROFILE, RULE), lambda r: len(r[0].chips))
    coverage = chip_plan.scene_coverage(found, None, "latest", PROFILE, 0.5)
    labelled = timed(
        "coverage",
        lambda: chip_plan.labelled_coverage(labels, ground, coverage, PROFILE, None, None)["labelled_chips"],
        len,
    )
    asked = timed("prompts", lambda: chip_plan.prompts(labels, labelled, ground, prompts), len)
    rule = timed(
        "split rule",
        lambda: chip_plan.split_rule(None, labelled, PROFILE, 13, [0.7, 0.15, 0.15], 50.0, None),
        lambda _: 1,
    )
    background = timed(
        "background",
        lambda: chip_plan.background_chips(labels, labelled, ground, coverage, PROFILE, 13, 0.3, 0.3, None, None),
        len,
    )
    timed(
        "chip plan",
        lambda: chip_plan.chip_plan(labelled, background, asked, found, None, rule, PROFILE, 13),
        len,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return [*steps, ("MB before and at most", round(before), peak)]


def one_by_one(labels: pa.Table) -> int:
    """Placement of each label by itself."""
    found = 0
    for wkb in labels["geometry"].to_pylist():
        lonlat = shapely.from_wkb(wkb)
        centre = lonlat.envelope.centroid
        epsg = utm_epsg(centre.x, centre.y)
        lattice = ChipLattice(epsg=epsg, gsd_m=PROFILE.gsd_m, height=PROFILE.height, width=PROFILE.width)
        label = reproject(lonlat, 4326, epsg)
        prompt = prompt_geometry(label, "polygon", margin_share=0.0, point_box_m=15.0)
        reproject(prompt, epsg, 4326)
        for ix, iy in zip(*lattice.touching(label), strict=True):
            chip = lattice.grid(int(ix), int(iy)).footprint
            found += label.intersection(chip).area >= 0 and chip.covers(prompt) in (True, False)
    return found


def main() -> None:
    """Print a table per size, and the ratio of placing one by one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    # a fresh process a size: peak memory is the process's own
    context = multiprocessing.get_context("spawn")
    for size in arguments.sizes:
        with context.Pool(1) as pool:
            *steps, (_, before, peak) = pool.apply(planned, (size,))
        total = sum(seconds for _, _, seconds in steps)
        print(
            f"{size:,} labels: {total:.1f} s, {total / size * 1e6:.0f} µs a label, peak {peak:.0f} MB ({before} before)"
        )
        for name, rows, seconds in steps:
            print(f"  {name:12s} {rows:10,d} rows {seconds:8.2f} s")
    few = labels_of(2_000)
    ratios = []
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        one = one_by_one(few)
        middle = time.perf_counter()
        bulk = len(placed_labels(few, PROFILE, RULE)[0].chips)
        ratios.append((middle - start) / (time.perf_counter() - middle))
        if one != bulk:
            raise SystemExit(f"{one} positions one by one, {bulk} in bulk")
    spread = " / ".join(f"{value:.1f}" for value in np.quantile(ratios, (0, 0.5, 1)))
    print(f"placed one by one / in bulk, 2,000 labels: {spread}")


if __name__ == "__main__":
    main()
