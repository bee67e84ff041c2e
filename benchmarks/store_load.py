"""A store under load: 100,000 small chips in 1,000 commits, built, appended, filtered, taken.

Two stores get the same commits in turn: ``alone`` is never looked after, ``kept`` is optimised every ``--upkeep``
commits. Both are set aside at 10, 30, 100, 300 and 1,000 commits. Then all of them are measured side by side, round by
round: a commit of 100 chips, opening, a filtered read by key and by cell (20 rows), taking 64 chips. At last both
stores of 1,000 commits are optimised and cleaned, and measured beside the one of 10 commits.

Times are min/median/max of the rounds. Growth is the slope of log(time) over log(commits), from the least times, which
other processes disturb least: 1 is linear in the number of commits.
"""

import argparse
import itertools
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
ROUNDS = 9
TOLERANCE = 1.2
"""Slope still called linear: a tenth of noise at both ends of a factor of 3.3 moves it by 0.17."""


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


def actions(uri: Path, rows: int) -> dict[str, Callable[[], object]]:
    """What is measured, on a store of ``rows`` chips; every read opens the table anew."""
    random = np.random.default_rng(1)
    wanted = ", ".join(f"'{key}'" for key in keys(random.choice(rows, 20, replace=False)))
    low = int(cells(np.array([rows // 2]))[0])
    taken = sorted(random.choice(rows, 64, replace=False).tolist())
    fresh = itertools.count(10_000_000, 1000)

    def filtered(where: str) -> None:
        if len(lance_io.scan(uri, TABLE, ["uuid", "split"], where)) != 20:
            raise SystemExit(f"{where} does not find 20 rows in {uri}")

    new = [chips(next(fresh), 100) for _ in range(ROUNDS)]
    # reads must not see a table that the commits of earlier rounds made larger
    other = shutil.copytree(uri, Path(tempfile.mkdtemp(dir=uri.parent)) / "commits")
    return {
        "open": lambda: lance_io.open_table(uri, TABLE),
        "filter by key": lambda: filtered(f"uuid IN ({wanted})"),
        "filter by cell": lambda: filtered(f"s2_cell BETWEEN {low} AND {low + 19 * (1 << 20)}"),
        "take 64 chips": lambda: lance_io.open_table(uri, TABLE).take(taken, columns=["vhr_image_chip"]),
        "commit": lambda: lance_io.write(other, TABLE, new.pop(), profile=PROFILE),
    }


def side_by_side(stores: dict[str, Path], rows: dict[str, int]) -> dict[str, dict[str, list[float]]]:
    """Store → action → milliseconds of each round; the stores take turns within a round."""
    work = {name: actions(uri, rows[name]) for name, uri in stores.items()}
    spans: dict[str, dict[str, list[float]]] = {name: {what: [] for what in work[name]} for name in stores}
    for _ in range(ROUNDS):
        for name in stores:
            for what, action in work[name].items():
                spans[name][what].append(timed(action))
    return spans


def timed(action: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1e3


def told(spans: list[float]) -> str:
    """Least, median and greatest."""
    return f"{min(spans):.1f}/{np.median(spans):.1f}/{max(spans):.1f}"


def build(root: Path, commits: int, count: int, upkeep: int) -> dict[str, Path]:
    """Commit to both stores in turn; returns name and commits → store set aside."""
    live = {"alone": root / "alone", "kept": root / "kept"}
    spans: dict[str, list[float]] = {name: [] for name in live}
    optimising, aside = [], {}
    for number in range(1, commits + 1):
        rows = chips((number - 1) * count, count)
        for name, uri in live.items():
            spans[name].append(timed(lambda uri=uri, rows=rows: lance_io.write(uri, TABLE, rows, profile=PROFILE)))
        if number % upkeep == 0:
            optimising.append(timed(lambda: maintenance.optimize(live["kept"], TABLE)))
        if number in STEPS or number == commits:
            for name, uri in live.items():
                aside[f"{name} {number}"] = Path(shutil.copytree(uri, root / f"{name}-{number}"))
    for name in live:
        total = sum(spans[name]) / 1e3
        print(f"{name}: {commits * count:,} chips in {total:.1f} s of commits, {commits * count / total:,.0f} rows/s")
    print(f"kept: optimize every {upkeep} commits took {told(optimising)} ms, {sum(optimising) / 1e3:.1f} s in all")
    return aside


def growth(spans: dict[str, dict[str, list[float]]]) -> None:
    """Print the slope of every figure, and whether it grows faster than the number of commits."""
    for kind in ("alone", "kept"):
        steps = sorted(int(name.split()[1]) for name in spans if name.startswith(kind))
        for what in spans[f"{kind} {steps[0]}"]:
            least = [min(spans[f"{kind} {step}"][what]) for step in steps]
            slope = float(np.polyfit(np.log(steps), np.log(least), 1)[0])
            last = float(np.log(least[-1] / least[-2]) / np.log(steps[-1] / steps[-2]))
            worse = "WORSE THAN LINEAR" if max(slope, last) > TOLERANCE else "no worse than linear"
            print(f"  {kind:5} {what:14} slope {slope:5.2f}, between the last two {last:5.2f}: {worse}")


def stored(uri: Path) -> float:
    """Bytes of all versions."""
    return float(state_of(lance_io.open_table(uri, TABLE)).bytes_stored)


def show(stores: dict[str, Path], spans: dict[str, dict[str, list[float]]]) -> None:
    for name, uri in stores.items():
        state = state_of(lance_io.open_table(uri, TABLE))
        times = "; ".join(f"{what} {told(found)}" for what, found in spans[name].items())
        size = f"{state.versions} versions, {state.fragments} fragments, {state.bytes_stored / 1e6:.0f} MB"
        print(f"  {name:11} {times} ms; {size}", flush=True)


def after_upkeep(aside: dict[str, Path], commits: int, count: int) -> None:
    """Optimise and clean the largest stores, and measure them beside the smallest, as it was and optimised."""
    first = f"alone {STEPS[0]}"
    stores = {name: aside[name] for name in (first, f"alone {commits}", f"kept {commits}")}
    again = Path(shutil.copytree(aside[first], aside[first].with_name("first-optimised")))
    stores = {first: stores.pop(first), f"{first} optimised": again, **stores}
    bases, large = list(stores)[:2], list(stores)[2:]
    for name in (bases[1], *large):
        before = state_of(lance_io.open_table(stores[name], TABLE))
        optimise = timed(lambda name=name: maintenance.optimize(stores[name], TABLE))
        clean = timed(lambda name=name: cleaning.clean(stores[name], TABLE, older_than=timedelta(0), no_writers=True))
        print(f"{name}: {before.fragments} fragments; optimize took {optimise:.0f} ms, clean {clean:.0f} ms")
    spans = side_by_side(stores, {**dict.fromkeys(bases, STEPS[0] * count), **dict.fromkeys(large, commits * count)})
    show(stores, spans)
    for name, base in itertools.product(large, bases):
        for what, after in spans[name].items():
            ratios = [one / other for one, other in zip(after, spans[base][what], strict=True)]
            least = min(after) / min(spans[base][what])
            verdict = "within 2x" if least <= 2 else "MORE THAN 2x"
            print(f"  {name:11} {what:14} {least:.2f}x {base} (round by round {told(ratios)}): {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=1000)
    parser.add_argument("--chips", type=int, default=100, help="per commit")
    parser.add_argument("--upkeep", type=int, default=100, help="commits between two calls of optimize")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="store-load-"))
    try:
        aside = build(root, options.commits, options.chips, options.upkeep)
        print(f"side by side, min/median/max of {ROUNDS} rounds")
        spans = side_by_side(aside, {name: int(name.split()[1]) * options.chips for name in aside})
        show(aside, spans)
        growth(spans | {name: found | {"bytes": [stored(aside[name])]} for name, found in spans.items()})
        after_upkeep(aside, options.commits, options.chips)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
