"""Where one coordinator saturates: recorded tasks and commits replayed for 1 to 1000 workers.

Recorded on this machine: seconds per chip and per task of real partitions (pixels staged as files, as workers do it),
and what the coordinator does alone: claims, outcomes, commits of several sizes. They are replayed through
``support.coordinator`` for several numbers of workers, partitions per commit (k) and chips per partition, for the
classical backend as recorded and for one ten times slower, such as SAM on a CPU. The simulator is held against real
runs with 1 and 2 processes.

    python benchmarks/engine_simulation.py [--clock cpu] [--plot docs/images/engine_simulation.svg] [--only validate]
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from hamilton import driver
from numpy.typing import NDArray
from support.coordinator import Costs, simulate

from dataflows import drivers, outcome_loop, partition_loop
from dataflows.config import BuildConfig, from_mapping
from dataflows.work_shares import WorkShares
from support import null_transforms, regions, staged_engine

WORKERS = (1, 10, 100, 1000)
COMMIT_EVERY = (1, 8, 64, 256)
CHIPS = (4, 16, 64, 256)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""What a recording counts; CPU time where the machine is busy with other things."""
SLOWER = {"classical": 1.0, "10 × slower": 10.0}


@dataclass(kw_only=True)
class Recording:
    """What one build took, part by part."""

    tasks: list[tuple[int, float]] = field(default_factory=list)
    """Chips and seconds of each task."""
    commits: list[tuple[int, float]] = field(default_factory=list)
    """Chips and seconds of each commit."""
    claims: list[float] = field(default_factory=list)
    """Seconds of each batch: leases and the look for rows of others."""
    outcomes: list[float] = field(default_factory=list)
    """Seconds of each outcome, without the commit."""
    ends: list[float] = field(default_factory=list)
    """When each outcome was taken over, seconds on the monotonic clock."""


@contextmanager
def recording(clock: Callable[[], float]) -> Iterator[Recording]:
    """Record builds of this process while the block runs."""
    found = Recording()
    take, flush = outcome_loop.OutcomeLoop._take, outcome_loop.OutcomeLoop.flush  # noqa: SLF001 - what is measured
    claim, tasks_of = WorkShares._claim, WorkShares._tasks_of  # noqa: SLF001

    def timed_flush(loop: Any) -> None:
        before, start = loop._summary.chips_written, clock()  # noqa: SLF001
        flush(loop)
        if loop._summary.chips_written > before:  # noqa: SLF001
            found.commits.append((loop._summary.chips_written - before, clock() - start))  # noqa: SLF001

    def timed_take(loop: Any, outcome: Any) -> None:
        start, known = clock(), len(found.commits)
        take(loop, outcome)
        committed = sum(seconds for _, seconds in found.commits[known:])
        found.outcomes.append(clock() - start - committed)
        found.ends.append(time.monotonic())

    def timed_claim(shares: Any, partitions: Any) -> Any:
        start = clock()
        granted = claim(shares, partitions)
        if partitions:
            found.claims.append(clock() - start)
        return granted

    def timed_tasks(shares: Any, granted: Any) -> Any:
        start = clock()
        made = list(tasks_of(shares, granted))
        found.claims[-1] += clock() - start
        return iter(made)

    staged_engine.TASKS.clear()
    staged_engine.CLOCK[0] = clock
    with ExitStack() as stack:
        for owner, name, new in (
            (outcome_loop.OutcomeLoop, "_take", timed_take),
            (outcome_loop.OutcomeLoop, "flush", timed_flush),
            (WorkShares, "_claim", timed_claim),
            (WorkShares, "_tasks_of", timed_tasks),
        ):
            stack.enter_context(mock.patch.object(owner, name, new))
        yield found
    found.tasks = list(staged_engine.TASKS)


def recorded(
    settings: dict[str, Any],
    folder: Path,
    clock: Callable[[], float],
    flow: Callable[[BuildConfig], driver.Driver] | None = None,
    **changes: Any,
) -> Recording:
    """One build under changed settings in a new store, by the real flow unless another is given."""
    store = Path(tempfile.mkdtemp(dir=folder))
    config = from_mapping(settings | {"store": str(store)} | changes)
    with recording(clock) as found:
        summary = partition_loop.run_build(config, flow(config) if flow else drivers.build_driver("build", config))
    if summary.chips_written != summary.chips_pending:
        raise SystemExit(f"{summary.chips_written} of {summary.chips_pending} chips were written")
    return found


def line(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Slope and start of the line through (n, seconds), neither below 0."""
    n, seconds = np.array(points, float).T
    slope = max(0.0, float(np.polyfit(n, seconds, 1)[0])) if np.ptp(n) else 0.0
    return slope, max(0.0, float(np.median(seconds - slope * n)))


def costs_of(runs: list[Recording]) -> Costs:
    """The coordinator's steps, from several runs."""
    chip_s, commit_s = line([commit for run in runs for commit in run.commits])
    return Costs(
        outcome_s=float(np.median([value for run in runs for value in run.outcomes])),
        claim_s=float(np.median([value for run in runs for value in run.claims])),
        commit_s=commit_s,
        commit_chip_s=chip_s,
    )


def commit_costs(folder: Path, clock: Callable[[], float]) -> Costs:
    """What the coordinator does alone, recorded on commits of few and many chips; null transforms make the rows."""
    settings = regions.make(folder / "commits", 20, share=0.65, pixels=False, partition_level=15)
    runs = [
        recorded(settings, folder, clock, null_transforms.driver_of, engine=staged_engine.NAME, commit_every=k)
        for k in (16, 1, 4, 16)
    ]
    return costs_of(runs[1:])


def replayed(chips: int, count: int, chip_times: NDArray[np.float64], task_s: float, times: float) -> NDArray[Any]:
    """Seconds of ``count`` tasks of ``chips`` chips, drawn from recorded tasks' seconds per chip."""
    drawn = np.random.default_rng(chips).choice(chip_times, (count, chips)).mean(axis=1)
    return np.asarray(task_s + times * chips * drawn)


def table(chip_times: NDArray[np.float64], task_s: float, costs: Costs) -> list[dict[str, Any]]:
    """Simulated figures for every combination; ``kept`` is the speed beside a coordinator that costs nothing."""
    rows = []
    free = Costs(outcome_s=0.0, claim_s=0.0, commit_s=0.0, commit_chip_s=0.0)
    for (speed, times), workers, chips in itertools.product(SLOWER.items(), WORKERS, CHIPS):
        count = max(10 * workers, 256)
        tasks = replayed(chips, count, chip_times, task_s, times)
        out = workers + max(1, workers // 2)
        told: dict[str, Any] = {"workers": workers, "out": out}
        best = simulate(tasks, [chips] * count, free, commit_every=1, **told).seconds
        for k in COMMIT_EVERY:
            found = simulate(tasks, [chips] * count, costs, commit_every=k, **told)
            rows.append(
                {
                    "speed": speed, "workers": workers, "chips": chips, "k": k, "kept": best / found.seconds,
                    "coordinator": found.coordinator, "rate": count * chips / found.seconds,
                }
            )  # fmt: skip
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    """Speed kept: one line per speed, workers and chips, one column per k."""
    for speed in SLOWER:
        print(f"\n{speed}: speed beside a coordinator that costs nothing, by partitions per commit (k)")
        print(
            "| workers | chips per partition | "
            + " | ".join(f"k = {k}" for k in COMMIT_EVERY)
            + " | chips/s at the best k |"
        )
        print("|" + "---|" * (3 + len(COMMIT_EVERY)))
        for workers in WORKERS:
            for chips in CHIPS:
                chosen = [r for r in rows if (r["speed"], r["workers"], r["chips"]) == (speed, workers, chips)]
                cells = " | ".join(f"{row['kept']:.0%}" for row in chosen)
                print(f"| {workers} | {chips} | {cells} | {max(row['rate'] for row in chosen):,.0f} |")


def plot(rows: list[dict[str, Any]], place: Path) -> None:
    """Speed kept over the number of workers, one panel per speed and size, one line per k."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, needed for the picture alone

    mpl.use("svg" if place.suffix == ".svg" else "agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    mpl.rcParams.update(
        {"font.size": 9, "svg.hashsalt": "engines", "axes.spines.top": False, "axes.spines.right": False}
    )
    figure, axes = plt.subplots(
        len(SLOWER), len(CHIPS), figsize=(10, 4.6), sharex=True, sharey=True, layout="constrained"
    )
    colours = ("#c7522a", "#e0a458", "#4f9d8f", "#1f4e5f")
    for line_number, speed in enumerate(SLOWER):
        for column, chips in enumerate(CHIPS):
            axis = axes[line_number][column]
            for k, colour in zip(COMMIT_EVERY, colours, strict=True):
                chosen = [r for r in rows if (r["speed"], r["chips"], r["k"]) == (speed, chips, k)]
                axis.plot(
                    [r["workers"] for r in chosen], [100 * r["kept"] for r in chosen], "o-", ms=3.5, lw=1.6,
                    color=colour, label=f"k = {k}",
                )  # fmt: skip
            axis.set_xscale("log")
            axis.set_ylim(0, 104)
            axis.grid(axis="y", color="#dddddd", lw=0.6)
            axis.set_xticks(WORKERS, [f"{workers:,}" for workers in WORKERS])
            axis.set_title(f"{chips} chips per partition" if not line_number else "", fontsize=9)
        axes[line_number][0].set_ylabel(f"{speed}\nspeed kept, %")
    figure.supxlabel("workers", fontsize=9)
    axes[0][-1].legend(title="partitions per commit", frameon=False, fontsize=8, title_fontsize=8)
    figure.savefig(place, metadata={"Date": None} if place.suffix == ".svg" else None)


def validate(settings: dict[str, Any], folder: Path, local: Recording, costs: Costs) -> None:
    """Measured beside predicted seconds from the first outcome to the last, for 1 and 2 processes."""
    chips = [count for count, _ in local.tasks]
    tasks = np.array([seconds for _, seconds in local.tasks])
    for workers in (1, 2):
        found = recorded(settings, folder, time.perf_counter, engine="processes", workers=workers)
        measured = found.ends[-1] - found.ends[0]
        predicted = simulate(
            tasks[1:], chips[1:], costs, workers=workers, commit_every=8, out=workers + 1
        ).seconds  # fmt: skip
        print(
            f"{workers} processes: {measured:.2f} s from first to last outcome, {predicted:.2f} s predicted, "
            f"ratio {measured / predicted:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=14, help="chips along each side of the recorded region")
    parser.add_argument("--plot", type=Path, help="where the picture goes, .svg or .png")
    parser.add_argument("--save", type=Path, help="where the recording goes, JSON")
    parser.add_argument("--only", nargs="*", default=["table", "validate"], choices=("table", "validate"))
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu where the machine is busy otherwise")
    arguments = parser.parse_args()
    clock = CLOCKS[arguments.clock]
    staged_engine.register()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.only:
            settings = regions.make(folder / "region", arguments.side, partition_level=15)
            _ = recorded(settings, folder, clock, engine=staged_engine.NAME)
            local = recorded(settings, folder, clock, engine=staged_engine.NAME)
            tasks, costs = local.tasks, commit_costs(folder, clock)
            chip_s, task_s = line(tasks)
            chip_times = np.array([max(0.0, seconds - task_s) / count for count, seconds in tasks])
            print(
                f"recorded {len(tasks)} tasks ({arguments.clock} time): {1e3 * chip_s:.1f} ms per chip "
                f"+ {1e3 * task_s:.1f} ms; claim "
                f"{1e3 * costs.claim_s:.1f} ms, outcome {1e3 * costs.outcome_s:.2f} ms, commit "
                f"{1e3 * costs.commit_s:.1f} ms + {1e3 * costs.commit_chip_s:.3f} ms per chip"
            )
            if arguments.save:
                arguments.save.write_text(json.dumps({"tasks": tasks, "costs": vars(costs)}))
            if "validate" in arguments.only:
                validate(settings, folder, local, costs)
            rows = table(chip_times, task_s, costs)
            print_table(rows)
            if arguments.plot:
                plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
