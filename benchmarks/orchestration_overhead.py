"""What orchestration costs: Hamilton, Arrow, commits, leases, ledger.

Two figures. With null transforms (reading, masks and indices replaced by constants; real loop, leases and commits) the
time per chip, planning left out: at most 2 ms is asked for. And on the sample region, the share of a real build's wall
time that is not spent in nodes that do the work: at most 5 % is asked for. Both with where the time goes; each moment
counts once, for the innermost thing that ran. ``local`` keeps rows in memory until they are committed; ``staged`` is
what the engines with workers do: pixels go to files where they are made, and the loop commits metadata.

    python benchmarks/orchestration_overhead.py [--side 36] [--rounds 3] [--size demo] [--only null demo]
"""

import argparse
import gc
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest import mock

from hamilton import driver
from support.stopwatch import NodeTimes, Stopwatch

from dataflows import config as settings_of
from dataflows import drivers, lance_writer, partition_loop, partition_task, work_shares
from dataflows.config import BuildConfig, from_mapping
from dataflows.flow_inputs import build_inputs
from dataflows.run_summary import RunSummary
from store import fragments, lance_io, leases
from store.lineage import Run
from support import null_transforms, regions, staged_engine

ROWS = {"training_samples", "sample_table", "mask_table", "prompt_table", "chip_prompts"}
"""Nodes that make rows of what other nodes found; `mask_rows` finds outlines, too, and counts as work."""
PLANNING = "planning (not counted)"
WORK = "nodes that do the work"


@contextmanager
def watched(watch: Stopwatch) -> Iterator[None]:
    """Count the parts of a build while the block runs."""
    collector = SimpleNamespace(collect=gc.collect, freeze=gc.freeze)
    parts: tuple[tuple[Any, str, str | Callable[..., str]], ...] = (
        (partition_loop, "plan", PLANNING),
        (partition_loop, "described_run", "run record"),
        (Run, "record", "run record"),
        (partition_loop, "_record_inputs", "scenes and datasets"),
        (partition_loop, "_tidy_after_kills", "look for killed runs"),
        (lance_io, "refresh_indexes", lambda _, name: f"index {name}"),
        (lance_io, "conform", "conform"),
        (fragments, "conform", "conform"),
        (lance_io, "_merged", lambda _, name, *__, **___: f"merge {name}"),
        (lance_io, "_without_newer", "look for newer rows"),
        (fragments, "write_fragments", "stage files"),
        (fragments, "_parted", "look for staged keys"),
        (fragments, "_merged", "commit staged files"),
        (lance_io, "ensure_table", "open tables"),
        (leases, "claim", "leases"),
        (leases, "release", "leases"),
        (work_shares, "still_missing", "look for rows of others"),
        (work_shares, "partition_tasks", "tasks of a partition"),
        (partition_task, "_executed", "Hamilton"),
        (collector, "collect", "gc.collect"),
        (lance_writer, "_table", "Arrow tables"),
    )
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(partition_task, "gc", collector))
        for owner, name, of in parts:
            stack.enter_context(mock.patch.object(owner, name, watch.wrapped(getattr(owner, name), of)))
        yield


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One build."""

    summary: RunSummary
    seconds: float
    cpu_s: float
    watch: Stopwatch

    @property
    def counted_s(self) -> float:
        """Seconds without planning."""
        return self.seconds - self.watch.seconds[PLANNING]


def build(config: BuildConfig, *modules: Any) -> Measured:
    """One build; ``modules`` replace nodes of the flow."""
    watch = Stopwatch()
    names = [import_module(name) for name in drivers.flow("build").modules]
    builder = driver.Builder().with_modules(*names, *modules).allow_module_overrides()
    own = {name for module in modules for name in vars(module)}

    def name_of(node: str) -> str:
        if watch.is_running(PLANNING):
            return PLANNING
        if node in ROWS:
            return f"rows: {node}"
        return (
            "null transforms"
            if node in own
            else "hand over"
            if node == "sample_write"
            else f"node {node}"
            if own
            else WORK
        )

    flow = builder.with_config(build_inputs(config)).with_adapters(NodeTimes(watch, name_of)).build()
    with watched(watch), watch.of("loop"):
        start, cpu = time.perf_counter(), time.process_time()
        summary = partition_loop.run_build(config, flow)
        return Measured(
            summary=summary, seconds=time.perf_counter() - start, cpu_s=time.process_time() - cpu, watch=watch
        )


def report(title: str, found: Measured, *, apart: tuple[str, ...]) -> None:
    """Print the total and its parts, largest first; those ``apart`` are not in it."""
    chips = found.summary.chips_written
    total = found.seconds - sum(found.watch.seconds[name] for name in apart)
    print(f"{title}: {chips} chips in {found.summary.partitions} partitions, {1e3 * total / chips:.2f} ms per chip")
    print("  ms per chip: wall, CPU")
    for name, seconds in sorted(found.watch.seconds.items(), key=lambda part: -part[1]):
        share = "" if name in apart else f"{seconds / total:6.1%}"
        if seconds >= 0.002 * total:
            cpu = 1e3 * found.watch.cpu_s[name] / chips
            print(f"  {1e3 * seconds / chips:8.3f} {cpu:8.3f} {share:>7}  {name} ({found.watch.calls[name]} ×)")


def null(side: int, rounds: int) -> None:
    """Time per chip with null transforms, engine by engine in turns, after one round to warm up."""
    staged_engine.register()
    found: dict[str, list[Measured]] = {"local": [], "staged": []}
    with tempfile.TemporaryDirectory() as folder:
        settings = regions.make(Path(folder) / "region", side, share=0.65, pixels=False, partition_level=14)
        for number in range(rounds + 1):
            for engine, results in found.items():
                store = f"{folder}/{engine}{number}"
                one = build(from_mapping(settings | {"store": store, "engine": engine, "workers": 1}), null_transforms)
                if one.summary.chips_written != one.summary.chips_pending or one.summary.chips_failed:
                    raise SystemExit(f"{one.summary.chips_written} of {one.summary.chips_pending} chips were written")
                if number:
                    results.append(one)
                shutil.rmtree(store)
    for engine, results in found.items():
        results.sort(key=lambda one: one.counted_s)
        report(f"null transforms, {engine}", results[len(results) // 2], apart=(PLANNING,))
        for what, values in (
            ("wall", [one.counted_s for one in results]),
            ("CPU", [one.cpu_s - one.watch.cpu_s[PLANNING] for one in results]),
        ):
            low, middle, high = (1e3 * value / results[0].summary.chips_written for value in spread(values))
            print(f"  {what}: min / median / max {low:.2f} / {middle:.2f} / {high:.2f} ms per chip")
    print("  asked: wall ≤ 2 ms per chip")


def spread(values: list[float]) -> tuple[float, float, float]:
    return min(values), median(values), max(values)


def demo(size: str) -> None:
    """Share of a real build that is not work."""
    with tempfile.TemporaryDirectory() as folder:
        drivers.run_sample(root=f"{folder}/region", size=size, seed=0)
        found = build(settings_of.load(f"{folder}/region/flow.yaml", store=f"{folder}/store"))
    rest = found.counted_s - found.watch.seconds[WORK]
    once = found.watch.seconds["run record"]
    report(f"sample region {size}", found, apart=())
    print(
        f"  orchestration {rest / found.seconds:.1%} of the wall time, {rest / found.counted_s:.1%} of it "
        f"without planning; asked ≤ 5 %. Hashing the code for the run's record is {once / found.seconds:.1%}, once per "
        "run whatever its size"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=36, help="chips along each side of the region")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="demo", choices=("demo", "flywheel", "test"))
    parser.add_argument("--only", nargs="*", default=["null", "demo"], choices=("null", "demo"))
    arguments = parser.parse_args()
    if "null" in arguments.only:
        null(arguments.side, arguments.rounds)
    if "demo" in arguments.only:
        demo(arguments.size)


if __name__ == "__main__":
    main()
