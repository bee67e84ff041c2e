"""Spectral indices on 2048² beside plain numpy float32 and spyndex: time, peak memory, and whether the pixels agree.

Protocol: every index is computed from the same arrays by the plain numpy expression of its formula in float32, by
``utils.indices.spectral_index`` on float32 reflectance and on uint16 digital numbers, and by spyndex on float32. Rounds
are interleaved (numpy, ours, spyndex, numpy, …) and a ratio is taken within each round: numpy's time over the other's.
Compilation happens before the first round; the first index also pays the import of numba. Ours runs on one thread. For
digital numbers numpy's side includes the division by 10000. Peak memory is what tracemalloc sees beyond the inputs,
over the size of the output. ``differ`` counts pixels where ours is not bit for bit numpy's.

    python benchmarks/indices.py [--side 2048] [--rounds 9] [--clock cpu]

On a machine with other work, ``--clock cpu`` (processor time of this process) is steadier than wall time.
"""

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import spyndex
from numpy.typing import NDArray

from utils.indices import INDICES, spectral_index

SPYNDEX = {"B02": "B", "B03": "G", "B04": "R", "B08": "N", "B11": "S1", "B12": "S2"}
KNOWN = {"ndvi", "ndbi", "ndwi", "mndwi", "ui", "bi"}
Run = Callable[[], NDArray[np.float32]]


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds(run: Run, clock: str = "wall") -> float:
    start = CLOCKS[clock]()
    run()
    return CLOCKS[clock]() - start


def peak_share(run: Run) -> float:
    """Peak memory of a run over the size of its result."""
    tracemalloc.start()
    result = run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / result.nbytes


def spread(ratios: list[float]) -> str:
    return f"{min(ratios):.2f}/{statistics.median(ratios):.2f}/{max(ratios):.2f}"


def contestants(
    name: str, reflectance: dict[str, NDArray[np.float32]], digital: dict[str, NDArray[np.uint16]]
) -> dict[str, Run]:
    expression = compile(INDICES[name].formula, name, "eval")

    def plain() -> NDArray[np.float32]:
        return eval(expression, {}, dict(reflectance))  # type: ignore[no-any-return] # noqa: S307 - our own formula

    def plain_digital() -> NDArray[np.float32]:
        floats = {band: digital[band] / np.float32(10_000) for band in INDICES[name].bands}
        return eval(expression, {}, floats)  # type: ignore[no-any-return] # noqa: S307 - our own formula

    runs: dict[str, Run] = {
        "numpy": plain,
        "ours": lambda: spectral_index(name, reflectance),
        "numpy uint16": plain_digital,
        "ours uint16": lambda: spectral_index(name, digital, scale=10_000),
    }
    if name in KNOWN:
        letters: dict[str, Any] = {letter: reflectance[band] for band, letter in SPYNDEX.items()}
        runs["spyndex"] = lambda: spyndex.computeIndex(name.upper(), params=letters)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    shape = (arguments.side, arguments.side)
    digital = {band: random.integers(1, 10_000, shape).astype(np.uint16) for band in SPYNDEX}
    reflectance = {band: plane / np.float32(10_000) for band, plane in digital.items()}

    protocol = f"{arguments.side}², {arguments.rounds} interleaved rounds, {arguments.clock} time"
    print(f"{protocol}; × plain numpy float32 as min/median/max")
    print(f"{'index':7}{'numpy ms':>9}{'ours':>18}{'ours, uint16':>18}{'spyndex':>18}{'peak ours':>11}{'uint16':>8}"
          f"{'numpy':>7}{'spyndex':>9}{'first call s':>14}{'differ':>8}")  # fmt: skip
    medians: dict[str, list[float]] = {"ours": [], "ours uint16": [], "spyndex": []}
    for name, spec in INDICES.items():
        runs = contestants(name, reflectance, digital)
        first = seconds(runs["ours"])
        results = {who: run() for who, run in runs.items()}
        differ = sum(int((results[who] != results["numpy"]).sum()) for who in ("ours", "ours uint16"))
        times: dict[str, list[float]] = {who: [] for who in runs}
        for _ in range(arguments.rounds):
            for who, run in runs.items():
                times[who].append(seconds(run, arguments.clock))
        shown = {}
        for who, base in (("ours", "numpy"), ("ours uint16", "numpy uint16"), ("spyndex", "numpy")):
            ratios = [b / t for b, t in zip(times[base], times.get(who, []), strict=False)]
            shown[who] = spread(ratios) if ratios else "–"
            if ratios and (spec.is_ratio or who == "spyndex"):
                medians[who].append(statistics.median(ratios))
        peaks = {who: f"{peak_share(run):.2f}" for who, run in runs.items()}
        print(f"{name:7}{statistics.median(times['numpy']) * 1e3:9.1f}{shown['ours']:>18}{shown['ours uint16']:>18}"
              f"{shown['spyndex']:>18}{peaks['ours']:>11}{peaks['ours uint16']:>8}{peaks['numpy']:>7}"
              f"{peaks.get('spyndex', '–'):>9}{first:14.2f}{differ:8}")  # fmt: skip
    means = ", ".join(f"{who} {statistics.geometric_mean(ratios):.2f}" for who, ratios in medians.items())
    print(f"geometric mean of the medians over the ratio indices: {means}")


if __name__ == "__main__":
    main()
