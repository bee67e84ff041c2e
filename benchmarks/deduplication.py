"""Cost of de-duplication from 10,000 to 1,000,000 labels: time per label and peak memory, each size in its own process.

Data: objects of six vertices, 10 m to 300 m wide, in towns of 300 whose density does not depend on the size of the run;
every object is in one dataset, half of them also in a second one, jittered by a twentieth of their width. The ratio is
the time per label over that of the smallest run: 1 is linear. ``--labels FILE`` measures a GeoJSON file of polygons
against a jittered copy of itself instead.

    python benchmarks/deduplication.py [--sizes 10000 30000 100000 300000 1000000] [--labels FILE]
"""

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from utils.deduplication import DeduplicationRule, duplicate_pairs, label_order, merges

TOWN = 300
RULE = DeduplicationRule(priority=("first",))


def towns(count: int, seed: int = 0) -> tuple[NDArray[np.object_], NDArray[np.str_]]:
    """``count`` labels, EPSG:4326, and the dataset of each."""
    random = np.random.default_rng(seed)
    objects = count * 2 // 3
    centres = np.column_stack(
        [random.uniform(-180, 179, objects // TOWN + 1), random.uniform(-60, 70, objects // TOWN + 1)]
    )
    at = centres[np.arange(objects) // TOWN] + random.normal(0, 0.01, (objects, 2))
    width = 10 ** random.uniform(-4, -2.5, objects)
    turn = (np.arange(6) + random.uniform(0, 0.8, (objects, 6))) * np.pi / 3
    rings = at[:, None] + width[:, None, None] / 2 * np.stack([np.cos(turn), np.sin(turn)], -1)
    again = count - objects
    moved = rings[:again] + (random.normal(0, 0.05, (again, 1, 2)) * width[:again, None, None])
    geometry = shapely.polygons(np.clip(np.concatenate([rings, moved]), (-180, -90), (180, 90)))
    return geometry, np.repeat(["first", "second"], [objects, again])


def jittered(file: Path) -> tuple[NDArray[np.object_], NDArray[np.str_]]:
    """Polygons of a GeoJSON file and a copy of each moved by about a twentieth of its width."""
    features = json.loads(file.read_text())["features"]
    first = np.array([shapely.make_valid(shapely.from_geojson(json.dumps(f["geometry"]))) for f in features], object)
    bounds = shapely.bounds(first)
    shift = np.random.default_rng(0).normal(0, 0.05, (len(first), 2)) * (bounds[:, 2:] - bounds[:, :2])
    second = [shapely.transform(shape, lambda xy, by=by: xy + by) for shape, by in zip(first, shift, strict=True)]
    return np.concatenate([first, np.array(second, object)]), np.repeat(["first", "second"], len(first))


def measure(geometry: NDArray[np.object_], dataset: NDArray[np.str_]) -> tuple[int, int, float]:
    """Pairs, merged labels and seconds."""
    start = time.perf_counter()
    ids = np.char.add(dataset, np.char.mod("/%d", np.arange(len(dataset))))
    order = label_order(dataset, np.full(len(dataset), "polygon"), ids, RULE)
    pairs = duplicate_pairs(geometry, dataset, RULE)
    gone = merges(pairs, order)
    return len(pairs.first), len(gone.merged), time.perf_counter() - start


def one_size(count: int) -> tuple[int, int, float, float, float]:
    """Pairs, merged, seconds, MB before and peak MB of this process."""
    measure(*towns(2000))
    geometry, dataset = towns(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = measure(geometry, dataset)
    return *result, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--labels", type=Path)
    arguments = parser.parse_args()
    if arguments.labels:
        geometry, dataset = jittered(arguments.labels)
        pairs, merged, seconds = measure(geometry, dataset)
        print(f"{len(dataset)} labels, {pairs} duplicate pairs, {merged} merged, {seconds:.2f} s")
        return
    print("  labels    pairs   merged        s  µs/label  ratio   MB before   MB peak")
    base = None
    for size in arguments.sizes:
        # a fresh process: peak memory is that of the process's whole life
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pairs, merged, seconds, before, peak = pool.apply(one_size, (size,))
        cost = seconds / size * 1e6
        base = base or cost
        print(
            f"{size:8d} {pairs:8d} {merged:8d} {seconds:8.2f} {cost:9.1f} {cost / base:6.2f}"
            f" {before:11.0f} {peak:9.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
