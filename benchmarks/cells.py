"""S2 and H3 cells of a million positions: loops over points against whole arrays, side by side in one run.

Loop and array are timed in turn, round after round, so that a busy machine slows both alike. The ratio is the loop's
time per position over the array's, per round. Loops run on the first ``--loop`` positions of the same data and are
scaled to all of them; the arrays run on all. The kernel's compilation (once per process) is printed apart.

    python benchmarks/cells.py [--positions 1000000] [--loop 100000] [--rounds 7]
"""

import argparse
import time
from collections.abc import Callable

import h3.api.basic_int as h3
import numpy as np
import s2cell

from utils import cells


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(values: list[float], unit: str) -> str:
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    return f"{low:8.1f} {middle:8.1f} {high:8.1f} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=1_000_000)
    parser.add_argument("--loop", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    count = arguments.positions
    lon, lat = random.uniform(-180, 180, count), np.degrees(np.arcsin(random.uniform(-1, 1, count)))
    few = list(zip(lat[: arguments.loop].tolist(), lon[: arguments.loop].tolist(), strict=True))
    scale = count / len(few)
    # as long as fewer than COMPILE_AFTER positions were mapped, and no kernel is there, numpy does the work
    cells.COMPILE_AFTER = 10**12
    numpy_rounds: list[float] = []
    kernel_rounds: list[float] = []
    s2_loop: list[float] = []
    cells.s2_cells(lon[:10], lat[:10], 30)
    s2_loop_numpy: list[float] = []
    for _ in range(arguments.rounds):
        s2_loop_numpy.append(scale * seconds(lambda: [s2cell.lat_lon_to_cell_id(*pair, 30) for pair in few]))
        numpy_rounds.append(seconds(lambda: cells.s2_cells(lon, lat, 30)))
    print(f"kernel import and compilation, once per process: {seconds(cells.compile_kernel):.2f} s")
    for _ in range(arguments.rounds):
        s2_loop.append(scale * seconds(lambda: [s2cell.lat_lon_to_cell_id(*pair, 30) for pair in few]))
        kernel_rounds.append(seconds(lambda: cells.s2_cells(lon, lat, 30)))
    h3_loop: list[float] = []
    h3_array: list[float] = []
    cells.h3_cells(lon[:10], lat[:10], 9)
    for _ in range(arguments.rounds):
        h3_loop.append(scale * seconds(lambda: [h3.latlng_to_cell(*pair, 9) for pair in few]))
        h3_array.append(seconds(lambda: cells.h3_cells(lon, lat, 9)))
    print(
        f"{count} positions, {arguments.rounds} rounds; loops timed on {len(few)} and scaled"
        "        min   median      max"
    )
    for name, loop, array in (
        ("S2: s2cell loop / numpy", s2_loop_numpy, numpy_rounds),
        ("S2: s2cell loop / kernel", s2_loop, kernel_rounds),
        ("H3: h3 loop / h3_cells", h3_loop, h3_array),
    ):
        ratios = [slow / fast for slow, fast in zip(loop, array, strict=True)]
        print(f"{name:26s} ratio {spread(ratios, '×')}")
        print(f"{'':26s} loop  {spread([1e3 * value for value in loop], 'ms')}")
        print(f"{'':26s} array {spread([1e3 * value for value in array], 'ms')}")


if __name__ == "__main__":
    main()
