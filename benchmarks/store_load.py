"""A store under load: 100,000 small chips in 1,000 commits, built, appended, filtered, taken.

Two stores get the same commits in turn: one is left alone, the other is optimised every ``--upkeep`` commits. At 10,
30, 100, 300 and 1,000 commits each is measured: time of a commit, of opening, of a filtered read by key and by cell, of
taking 64 chips; versions, fragments, bytes. At the end both are optimised and cleaned, and measured again.

Growth is the slope of log(median time) over log(commits): 1 is linear in the number of commits.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from store import cleaning, lance_io, maintenance
from store.schemas import training_data
from store.table_state import state_of
from utils.types import ChipProfile

PROFILE = ChipProfile(height=16, width=16, msi_bands=("B02", "B03", "B04", "B08"), msi_height=4, msi_width=4)
SCHEMA = training_data(PROFILE)
TABLE = "training_data"
STEPS = (10, 30, 100, 300, 1000)
REPEATS = 9


def keys(numbers: np.ndarray) -> list[str]:
    """Chip ids that, like uuids, come in no order."""
    return [f"{int(number) * 0x9E3779B97F4A7C15 % (1 << 64):016x}" for number in numbers]


def cells(numbers: np.ndarray) -> np.ndarray:
    """S2-like cells above 2^63."""
    return (np.uint64(1 << 63) + numbers.astype(np.uint64) * np.uint64(1 << 20)).astype(np.uint64)


def chips(first: int, count: int) -> pa.Table:
    """``count`` chips with random pixels; everything else is constant."""
    random, numbers = np.random.default_rng(first), np.arange(first, first + count)
    given = {
        "uuid": pa.array(keys(numbers)),
        "s2_cell": pa.array(cells(numbers)),
        "pv_fraction": pa.array(random.random(count), pa.float32()),
    }
    return pa.table([given.get(field.name, _column(field, count, random)) for field in SCHEMA], schema=SCHEMA)


def _column(field: pa.Field, count: int, random: np.random.Generator) -> pa.Array:
    kind = field.type
    if isinstance(kind, pa.FixedShapeTensorType):
        size = int(np.prod(kind.shape))
        values = random.integers(1, 255, count * size).astype(kind.value_type.to_pandas_dtype())
        return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(pa.array(values), size))
    if field.name in ("generated_mask", "msi_mask"):
        pixels = 256 if field.name == "generated_mask" else 16
        return pa.array([bytes(row) for row in random.integers(0, 2, (count, pixels), np.uint8)], kind)
    constants = {
        pa.types.is_string: "constant",
        pa.types.is_binary: bytes(93),
        pa.types.is_timestamp: datetime(2026, 1, 1, tzinfo=UTC),
        pa.types.is_fixed_size_list: [0.3, 0.0, 5e5, 0.0, -0.3, 5e6],
        pa.types.is_list: ["one"],
        pa.types.is_floating: 0.5,
        pa.types.is_integer: 7,
    }
    value = next(value for fits, value in constants.items() if fits(kind))
    return pa.array([value] * count, kind)


def timed(action: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Milliseconds of each of some repeats."""
    spans = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        spans.append((time.perf_counter() - start) * 1e3)
    return spans


def reads(uri: Path, rows: int) -> dict[str, list[float]]:
    """Milliseconds of opening and reading, each from a table opened anew."""
    random = np.random.default_rng(1)
    wanted = ", ".join(f"'{key}'" for key in keys(random.choice(rows, 20, replace=False)))
    low = int(cells(np.array([rows // 2]))[0])
    span = f"s2_cell BETWEEN {low} AND {low + 19 * (1 << 20)}"
    taken = sorted(random.choice(rows, 64, replace=False).tolist())
    where = {"filter by key": f"uuid IN ({wanted})", "filter by cell": span}
    spans = {"open": timed(lambda: lance_io.open_table(uri, TABLE))}
    for name, condition in where.items():
        found = lance_io.scan(uri, TABLE, ["uuid", "split"], condition)
        if len(found) != 20:
            raise SystemExit(f"{name} found {len(found)} rows of 20")
        spans[name] = timed(lambda condition=condition: lance_io.scan(uri, TABLE, ["uuid", "split"], condition))
    spans["take 64 chips"] = timed(lambda: lance_io.open_table(uri, TABLE).take(taken, columns=["vhr_image_chip"]))
    return spans


def told(spans: list[float]) -> str:
    """Least, median and greatest."""
    return f"{min(spans):.1f}/{np.median(spans):.1f}/{max(spans):.1f}"


def show(uri: Path, commits: int, found: dict[str, list[float]]) -> None:
    state = state_of(lance_io.open_table(uri, TABLE))
    times = "; ".join(f"{name} {told(spans)}" for name, spans in found.items())
    print(
        f"  {uri.name:5} {commits:5} commits: {times} ms; {state.versions} versions, {state.fragments} fragments, "
        f"{state.bytes_stored / 1e6:.0f} MB",
        flush=True,
    )


def growth(name: str, figures: dict[int, dict[str, list[float]]]) -> None:
    """Print the slope of every figure, and whether it grows faster than the number of commits."""
    steps = sorted(figures)
    for what in figures[steps[0]]:
        medians = [float(np.median(figures[step][what])) for step in steps]
        slope = float(np.polyfit(np.log(steps), np.log(medians), 1)[0])
        last = float(np.log(medians[-1] / medians[-2]) / np.log(steps[-1] / steps[-2]))
        worse = "WORSE THAN LINEAR" if max(slope, last) > 1.1 else "no worse than linear"
        print(f"  {name:5} {what:14} slope {slope:.2f}, between the last two {last:.2f}: {worse}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=1000)
    parser.add_argument("--chips", type=int, default=100, help="per commit")
    parser.add_argument("--upkeep", type=int, default=100, help="commits between two calls of optimize")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="store-load-"))
    try:
        measure(root, options.commits, options.chips, options.upkeep)
    finally:
        shutil.rmtree(root)


def measure(root: Path, commits: int, count: int, upkeep: int) -> None:
    stores = {"alone": root / "alone", "kept": root / "kept"}
    steps = sorted({step for step in STEPS if step <= commits} | {commits})
    figures: dict[str, dict[int, dict[str, list[float]]]] = {name: {} for name in stores}
    spans: dict[str, list[float]] = {name: [] for name in stores}
    optimising: list[float] = []
    for number in range(1, commits + 1):
        rows = chips((number - 1) * count, count)
        for name, uri in stores.items():
            spans[name] += timed(lambda uri=uri, rows=rows: lance_io.write(uri, TABLE, rows, profile=PROFILE), 1)
        if number % upkeep == 0:
            optimising += timed(lambda: maintenance.optimize(stores["kept"], TABLE), 1)
        if number in steps:
            for name, uri in stores.items():
                figures[name][number] = {"commit": spans[name][-REPEATS:], **reads(uri, number * count)}
                show(uri, number, figures[name][number])
    for name in stores:
        total = sum(spans[name]) / 1e3
        print(f"{name}: {commits * count:,} chips in {total:.1f} s of commits, {commits * count / total:,.0f} rows/s")
    print(f"kept: optimize every {upkeep} commits took {told(optimising)} ms")
    print("growth (min/median/max of 9, slope over commits)")
    for name in stores:
        growth(name, figures[name])
    after_upkeep(stores, figures, commits * count, steps[0])


def after_upkeep(
    stores: dict[str, Path], figures: dict[str, dict[int, dict[str, list[float]]]], rows: int, first: int
) -> None:
    for name, uri in stores.items():
        optimise = timed(lambda uri=uri: maintenance.optimize(uri, TABLE), 1)[0]
        clean = timed(
            lambda uri=uri: cleaning.clean(uri, TABLE, older_than=timedelta(0), no_writers=True),
            1,
        )[0]
        found = reads(uri, rows)
        print(f"{name} after optimize ({optimise:.0f} ms) and clean ({clean:.0f} ms):")
        show(uri, max(figures[name]), found)
        for what, after in found.items():
            ratio = float(np.median(after) / np.median(figures["alone"][first][what]))
            verdict = "within 2x" if ratio <= 2 else "MORE THAN 2x"
            print(f"  {what:14} {ratio:.2f}x of the time at {first} commits: {verdict}")


if __name__ == "__main__":
    main()
