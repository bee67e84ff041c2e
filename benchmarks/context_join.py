"""The context join by S2 cell, beside all pairs through one STRtree and, where it is installed, geopandas.

Chips are squares of 76.8 m and buildings boxes of 8 to 30 m, placed at random in a square of the given side around
8.5° E, 47.3° N. Each repeat runs the contestants one after the other on the same data, in another order, from WKB to
the same three numbers per chip: distance to the nearest building within the search distance, buildings that touch the
chip, and the share of it they cover. Results are compared value by value; times are wall time, ratios of one repeat.
The STRtree contestants know from the start that everything lies in one UTM zone; the join by cell finds it out.

    python benchmarks/context_join.py [--chips 10000] [--buildings 200000] [--side-km 20] [--repeats 5]
"""

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from utils.context import context_by_cell
from utils.context_places import in_metres
from utils.context_rule import ContextRule

SEARCH_M = 100.0
EPSG = 32632
Answer = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]


def made(count: int, low_m: float, high_m: float, side_km: float, rng: np.random.Generator) -> list[bytes]:
    half = side_km / 2 / 111.0
    x = 8.5 + rng.uniform(-half, half, count) / np.cos(np.radians(47.3))
    y = 47.3 + rng.uniform(-half, half, count)
    w, h = rng.uniform(low_m, high_m, (2, count)) / 111_000
    boxes = shapely.box(x, y, x + w / np.cos(np.radians(47.3)), y + h)
    return list(shapely.to_wkb(boxes))


def by_cell(chips: list[bytes], buildings: list[bytes]) -> Answer:
    targets = pa.table(
        {"uuid": pa.array([f"{k}" for k in range(len(chips))]), "geometry": pa.array(chips, pa.binary())}
    )
    ids = pa.array([f"{k}" for k in range(len(buildings))])
    features = pa.table({"feature_id": ids, "geometry": pa.array(buildings, pa.binary())})
    found = context_by_cell(targets, features, ContextRule(name="b", search_m=SEARCH_M))
    return tuple(found[f"b_{name}"].to_numpy() for name in ("distance_m", "count", "area_fraction"))


def by_tree(chips: list[bytes], buildings: list[bytes]) -> Answer:
    targets, features = (in_metres(np.asarray(shapely.from_wkb(one), object), EPSG) for one in (chips, buildings))
    tree = shapely.STRtree(features)
    distance = np.full(len(targets), np.nan)
    (t, _), nearest = tree.query_nearest(targets, max_distance=SEARCH_M, return_distance=True, all_matches=False)
    distance[t] = nearest
    t, f = tree.query(targets, predicate="intersects")
    overlaps = shapely.intersection(targets[t], features[f])
    order = np.argsort(t, kind="stable")
    groups, start = np.unique(t[order], return_index=True)
    fraction = np.zeros(len(targets))
    for group, some in zip(groups, np.split(overlaps[order], start[1:]), strict=True):
        fraction[group] = shapely.area(shapely.union_all(some)) / shapely.area(targets[group])
    return distance, np.bincount(t, minlength=len(targets)), fraction


def by_geopandas(chips: list[bytes], buildings: list[bytes]) -> Answer:
    import geopandas  # noqa: PLC0415 - no dependency of ours; measured where it is there

    targets, features = (
        geopandas.GeoDataFrame(geometry=shapely.from_wkb(one), crs=4326).to_crs(EPSG) for one in (chips, buildings)
    )
    near = geopandas.sjoin_nearest(targets, features, max_distance=SEARCH_M, distance_col="distance_m")
    distance = near.groupby(level=0)["distance_m"].first().reindex(targets.index).to_numpy()
    touching = geopandas.sjoin(targets, features, predicate="intersects")
    left = touching.geometry
    right = geopandas.GeoSeries(features.geometry.to_numpy()[touching["index_right"]], index=left.index, crs=EPSG)
    parts = left.intersection(right, align=False)
    joined = geopandas.GeoDataFrame(geometry=parts).dissolve(by=parts.index)
    fraction = (joined.area / targets.area).reindex(targets.index).fillna(0.0).to_numpy()
    return distance, touching.groupby(level=0).size().reindex(targets.index, fill_value=0).to_numpy(), fraction


CONTESTANTS: dict[str, Callable[[list[bytes], list[bytes]], Answer]] = {"by cell": by_cell, "STRtree": by_tree}
if importlib.util.find_spec("geopandas"):
    CONTESTANTS["geopandas"] = by_geopandas


def compared(one: Answer, other: Answer) -> tuple[int, int]:
    different = sum(
        int((~np.isclose(a, b, rtol=1e-7, atol=1e-6, equal_nan=True)).sum()) for a, b in zip(one, other, strict=True)
    )
    return sum(len(a) for a in one), different


def spread(values: list[float]) -> str:
    return f"{min(values):.2f} / {np.median(values):.2f} / {max(values):.2f}"


def peak_mib(name: str, arguments: argparse.Namespace) -> float:
    """Peak resident memory (Linux) of a process that makes the data and lets one contestant run."""
    options = [f"--{key.replace('_', '-')}={value}" for key, value in vars(arguments).items() if key != "only"]
    command = [sys.executable, __file__, *options, "--only", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", type=int, default=10_000)
    parser.add_argument("--buildings", type=int, default=200_000)
    parser.add_argument("--side-km", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rng = np.random.default_rng(7)
    chips = made(arguments.chips, 76.8, 76.8, arguments.side_km, rng)
    buildings = made(arguments.buildings, 8, 30, arguments.side_km, rng)
    if arguments.only:
        if arguments.only in CONTESTANTS:
            CONTESTANTS[arguments.only](chips, buildings)
        status = Path("/proc/self/status").read_text().splitlines()
        print(next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")))
        return
    print(f"{len(chips)} chips, {len(buildings)} buildings, {arguments.side_km} km, search {SEARCH_M:.0f} m, seed 7")
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    answers: dict[str, Answer] = {}
    for repeat in range(arguments.repeats):
        names = list(CONTESTANTS)
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            start = time.perf_counter()
            answers[name] = CONTESTANTS[name](chips, buildings)
            seconds[name].append(time.perf_counter() - start)
    for name in list(CONTESTANTS)[1:]:
        n, different = compared(answers["by cell"], answers[name])
        ratios = [a / b for a, b in zip(seconds[name], seconds["by cell"], strict=True)]
        print(f"{name}: {n} values compared, {different} different; time ÷ ours (min/median/max) {spread(ratios)}")
    for name, values in seconds.items():
        print(f"{name}: {spread(values)} s (min/median/max of {arguments.repeats})")
    base = peak_mib("nothing", arguments)
    for name in CONTESTANTS:
        print(f"{name}: peak memory {peak_mib(name, arguments) - base:.0f} MiB beyond the data's {base:.0f} MiB")


if __name__ == "__main__":
    main()
