"""Memory of a build: what a chip takes, whether ``memory_budget`` is kept, whether anything grows.

Real nodes on a made region (texture with arrays, classical backend). Every figure comes from its own process; a small
build warms it up first, so that imports, compiled code and open files count for the program and not for the chips.
Peaks are the kernel's (``VmHWM``, reset after planning), so Linux is needed.

    python benchmarks/memory.py [--full] [--only chip budget split area workers] [--json FILE]
"""

import argparse
import ctypes
import gc
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from dataflows import drivers, memory, partition_loop
from dataflows.build_plan import BuildPlan
from dataflows.config import from_mapping
from dataflows.lance_writer import Provenance
from dataflows.partition_task import partition_tasks, run_partition
from store import lance_io
from support import regions
from utils.retry import RetryPolicy

PARTS = ("chip", "budget", "split", "area", "workers")
DIGESTED = ("uuid", "vhr_image_chip", "generated_mask", "msi_image_chip", "msi_mask", "n_accepted", "split")
PROFILES = {
    "256 px, halo 64, 12 bands": {"chip_px": 256, "halo_px": 64, "msi": True},
    "256 px, halo 64": {"chip_px": 256, "halo_px": 64, "msi": False},
    "512 px, halo 64, 12 bands": {"chip_px": 512, "halo_px": 64, "msi": True},
    "512 px, halo 64": {"chip_px": 512, "halo_px": 64, "msi": False},
}


def resident_mb(name: str = "VmRSS", pid: int | str = "self") -> float:
    """A line of ``/proc/PID/status``, MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def start_counting() -> float:
    """Give back what is free, forget the peak so far, and return what is resident now, MB."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident_mb()


def chip_peaks(settings: dict[str, Any], counts: list[int]) -> list[tuple[int, float]]:
    """Peak MB above the program's of one task, by number of chips."""
    config = from_mapping(settings)
    driver = drivers.build_driver("build", config)
    build = partition_loop.plan(config, driver)
    provenance = Provenance(
        run_id="benchmark", build_config="", recipes=dict.fromkeys(("image", "mask", "index"), ""),
        mask_backend=config.mask_backend, label_catalog=config.catalog, label_snapshot=1, margin_share=0.0,
    )  # fmt: skip

    def run(count: int) -> float:
        task = partition_tasks(build, build.partitions[0], most_chips=count)[0]
        base = start_counting()
        outcome = run_partition(driver, build.made_once, task, provenance, RetryPolicy(retries=0, first_wait_s=0.0))
        if outcome.failed or outcome.counts["chips"] != count:
            raise SystemExit(f"{outcome.counts} of {count} chips were made")
        return resident_mb("VmHWM") - base

    run(2)
    return [(count, run(count)) for count in counts]


def whole_build(settings: dict[str, Any]) -> dict[str, Any]:
    """Base, peak and the resident memory after every partition of one build, MB."""
    seen: list[float] = []
    base = [0.0]
    inner = partition_loop.plan

    def planned(*args: Any, **kwargs: Any) -> BuildPlan:
        build = inner(*args, **kwargs)
        base[0] = start_counting()
        return build

    with mock.patch.object(partition_loop, "plan", planned), summed_peak() as summed:
        summary = drivers.run("build", settings, progress=lambda _: seen.append(resident_mb()))
    if summary.chips_written != summary.chips_pending:
        raise SystemExit(f"{summary.chips_written} of {summary.chips_pending} chips were written")
    return {
        "chips": summary.chips_written, "partitions": summary.partitions, "seen": seen, "base": base[0],
        "peak": resident_mb("VmHWM"), "summed": max(summed), "tasks": len(seen) - 2,
    }  # fmt: skip


@contextmanager
def summed_peak() -> Iterator[list[float]]:
    """Collect the resident memory of this process's children together, MB, a few times a second."""
    found, done = [0.0], threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            try:
                children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
                found.append(sum(resident_mb(pid=int(child)) for child in children))
            except OSError:
                continue

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def in_child(what: str, **arguments: Any) -> Any:
    """Result of a function of this file in its own process."""
    command = [sys.executable, __file__, "--child", json.dumps([what, arguments])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own command
    return json.loads(done.stdout.splitlines()[-1])


def child(what: str, warm: dict[str, Any] | None, arguments: dict[str, Any]) -> None:
    if warm is not None:
        drivers.run("build", warm | {"store": tempfile.mkdtemp(dir=Path(warm["store"]).parent)})
    print(json.dumps(globals()[what](**arguments)))


def report_chips(root: Path, counts: list[int]) -> None:
    """Peak per chip beside what the budget reckons with."""
    side = int(np.ceil(np.sqrt(max(counts) / 0.6))) + 1
    for number, (name, chosen) in enumerate(PROFILES.items()):
        settings = regions.make(root / f"chip{number}", side, partition_level=8, **chosen)
        peaks = in_child("chip_peaks", settings=settings, counts=counts)
        slope, start = np.polyfit(*zip(*peaks, strict=True), 1)
        reckoned = memory.chip_bytes(from_mapping(settings)) / 1e6
        most = max((peak - max(start, 0)) / count for count, peak in peaks)
        print(
            f"{name}: peak above the program, MB: " + ", ".join(f"{count} chips {peak:.0f}" for count, peak in peaks)
            + f"; {slope:.2f} MB per chip + {start:.0f} MB, at most {most:.2f} per chip; reckoned {reckoned:.2f} "
            f"(ratio {reckoned / slope:.2f})"
        )  # fmt: skip


def report_budgets(root: Path, budgets: list[str], side: int) -> None:
    """Peak above the program for a partition larger than the budget."""
    settings = regions.make(root / "budget", side, partition_level=8)
    warm = regions.make(root / "warm", 3)
    for budget in budgets:
        changed = settings | {"memory_budget": budget, "store": str(root / f"store{budget}")}
        found = in_child("whole_build", settings=changed, warm=warm)
        above, allowed = found["peak"] - found["base"], memory.parsed_bytes(budget) / 1e6
        verdict = "kept" if above <= allowed else "NOT KEPT"
        print(
            f"budget {budget}: {found['chips']} chips of one partition, at most "
            f"{memory.most_chips(from_mapping(changed), workers=1)} in a task; program {found['base']:.0f} MB, "
            f"peak above it {above:.0f} MB = {above / allowed:.0%} of the budget: {verdict}"
        )


def row_digests(store: str) -> dict[str, str]:
    """Chip id → hash of its pixels, masks and verdicts."""
    table = lance_io.scan(store, "training_data", DIGESTED)
    columns = [
        [pixels.tobytes() for pixels in table[name].combine_chunks().to_numpy_ndarray()]
        if isinstance(table[name].type, pa.FixedShapeTensorType)
        else table[name].to_pylist()
        for name in DIGESTED
    ]
    return {row[0]: hashlib.sha256(repr(row).encode()).hexdigest() for row in zip(*columns, strict=True)}


def report_split(root: Path, side: int) -> dict[str, Any]:
    """One partition made in one task and in many: rows compared byte by byte."""
    settings = regions.make(root / "split", side, partition_level=8)
    found = {}
    for budget in (f"{3 * memory.chip_bytes(from_mapping(settings)) / 0.6:.0f}", "4GB"):
        changed = settings | {"memory_budget": budget, "store": str(root / f"split{budget}")}
        built = in_child("whole_build", settings=changed, warm=None)
        found[budget] = {"tasks": built["tasks"], "rows": row_digests(changed["store"])}
    few, many = found.values()
    differing = sum(
        few["rows"].get(uuid) != many["rows"].get(uuid) for uuid in few["rows"].keys() | many["rows"].keys()
    )
    print(f"one partition in {few['tasks']} tasks and in {many['tasks']}: {len(few['rows'])} rows, {differing} differ")
    return {"tasks": [few["tasks"], many["tasks"]], "rows": len(few["rows"]), "differing": differing}


def report_area(root: Path, side: int) -> dict[str, Any]:
    """Peak for 1× and 10× the area in partitions of the same size, and growth from partition to partition."""
    warm = regions.make(root / "warm_area", 3)
    found = {}
    for times in (1, 10):
        area = round(side * times**0.5)
        # a small budget keeps the raster cache from filling slowly, which would look like growth
        settings = regions.make(root / f"area{times}", area, partition_level=16, memory_budget="100MB")
        found[times] = in_child("whole_build", settings=settings, warm=warm)
    small, large = found[1], found[10]
    print(
        f"area 10×: {small['chips']} chips in {small['partitions']} partitions: peak {small['peak']:.0f} MB "
        f"({small['peak'] - small['base']:.0f} above the program); {large['chips']} in {large['partitions']}: "
        f"{large['peak']:.0f} MB ({large['peak'] - large['base']:.0f}); ratio {large['peak'] / small['peak']:.2f}, "
        "asked ≤ 1.2"
    )
    later = large["seen"][len(large["seen"]) // 4 :]
    slope = np.polyfit(np.arange(len(later)), later, 1)[0]
    print(f"growth over the last {len(later)} of {large['partitions']} partitions: {1e3 * slope:+.0f} kB per partition")
    return {
        "peaks_mb": [small["peak"], large["peak"]], "growth_mb": float(slope) * len(later),
        "partitions": large["partitions"], "chips": [small["chips"], large["chips"]],
    }  # fmt: skip


def report_workers(root: Path, side: int, budget: str) -> None:
    """Memory of two workers together, above what they take with one chip at a time."""
    settings = regions.make(root / "workers", side, partition_level=8, engine="processes", workers=2)
    least = memory.chip_bytes(from_mapping(settings)) * 2 / 0.5
    peaks = {}
    for size in (f"{least / 1e6:.0f}MB", budget):
        changed = settings | {"memory_budget": size, "store": str(root / f"workers{size}")}
        built = in_child("whole_build", settings=changed, warm=None)
        if built["tasks"] < 2:
            raise SystemExit(f"{built['tasks']} task for two workers; give a larger region or a smaller budget")
        peaks[size] = built["summed"]
    few, many = peaks.values()
    allowed = memory.parsed_bytes(budget) / 1e6
    print(
        f"2 processes, budget {budget}: {many:.0f} MB together, {many - few:.0f} above {few:.0f} with one chip each = "
        f"{(many - few) / allowed:.0%} of the budget: {'kept' if many - few <= allowed else 'NOT KEPT'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more chips, budgets and partitions")
    parser.add_argument("--only", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--side", type=int, help="chips along each side of the smaller area")
    parser.add_argument("--json", type=Path, help="where figures of `split` and `area` go")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, told = json.loads(arguments.child)
        child(what, told.pop("warm", None), told)
        return
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if "chip" in arguments.only:
            report_chips(root, [10, 20, 40, 80, 160] if arguments.full else [10, 20, 40])
        if "budget" in arguments.only:
            budgets = ["256MB", "512MB", "1GB", "2GB"]
            report_budgets(root, budgets if arguments.full else budgets[:2], 30 if arguments.full else 16)
        figures = {}
        if "split" in arguments.only:
            figures["split"] = report_split(root, 5)
        if "area" in arguments.only:
            figures["area"] = report_area(root, arguments.side or (10 if arguments.full else 7))
        if arguments.json:
            arguments.json.write_text(json.dumps(figures))
        if "workers" in arguments.only:
            report_workers(root, 20 if arguments.full else 10, "512MB" if arguments.full else "256MB")
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
