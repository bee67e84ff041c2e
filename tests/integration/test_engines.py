"""Engines: the same rows to the byte whoever makes them, and whoever is killed meanwhile."""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import rasterio

from dataflows import drivers, engines, partition_task
from dataflows.__main__ import main
from dataflows.config import from_mapping
from dataflows.memory import chip_bytes
from dataflows.run_summary import RunSummary
from store import lance_io
from support import engine_faults, mini_region
from support.engine_faults import Fault
from utils import errors

ENGINES = ["processes", pytest.param("ray", marks=pytest.mark.slow)]
_TABLES = {"training_data": "uuid", "masks": "mask_id", "prompts": "prompt_id", "scenes": "scene_id"}
_OF_THE_RUN = {"run_id", "created_at", "recorded_at"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[mini_region.MiniRegion, RunSummary]:
    """The region, made in this process."""
    region = mini_region.make(tmp_path_factory.mktemp("engines") / "region")
    return region, drivers.run("build", region.settings)


@pytest.fixture(autouse=True)
def _ray_is_there(request: pytest.FixtureRequest) -> None:
    if "ray" in getattr(request.node, "callspec", SimpleNamespace(params={})).params.values():
        pytest.importorskip("ray")


def rows_of(store: str) -> dict[str, pa.Table]:
    """Table → rows in order of their key, without what differs from run to run."""
    found = {}
    for name, key in _TABLES.items():
        table = lance_io.open_table(store, name).to_table()
        assert len(set(table[key].to_pylist())) == len(table), f"{name} holds a key twice"
        kept = [column for column in table.column_names if column not in _OF_THE_RUN]
        found[name] = table.sort_by(key).select(kept).combine_chunks()
    return found


def digest(rows: dict[str, pa.Table]) -> str:
    """Hash of all values, pixels as bytes."""
    hashed = hashlib.sha256()
    for table in rows.values():
        for column in table.columns:
            tensor = isinstance(column.type, pa.FixedShapeTensorType)
            hashed.update(
                column.combine_chunks().to_numpy_ndarray().tobytes() if tensor else repr(column.to_pylist()).encode()
            )
    return hashed.hexdigest()[:16]


def assert_same_rows(store: str, other: str, *, what: str) -> None:
    ours, theirs = rows_of(store), rows_of(other)
    print(f"\n{what}: {digest(ours)} and {digest(theirs)}, { ({name: len(t) for name, t in ours.items()}) } rows")
    for name, table in ours.items():
        assert table.schema.equals(theirs[name].schema, check_metadata=True)
        assert table.equals(theirs[name]), name
    assert digest(ours) == digest(theirs)


def assert_complete(summary: RunSummary) -> None:
    assert (summary.status, summary.exit_code) == ("done", 0)
    assert summary.chips_settled == summary.chips_pending
    assert summary.partitions_done + summary.partitions_elsewhere >= summary.partitions


def partitions(settings: dict[str, Any]) -> list[int]:
    return drivers.plan_build(from_mapping(settings)).partitions


def budget(settings: dict[str, Any], *, chips: int, workers: int) -> str:
    """The budget that allows this many chips per task."""
    return str(int(chip_bytes(from_mapping(settings)) * (chips + 0.5) * workers / 0.6))


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_are_the_same_on_every_engine(
    built: tuple[mini_region.MiniRegion, RunSummary],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
) -> None:
    """Partitions are split by the memory budget, and one worker is killed between its files and its answer."""
    region, whole = built
    settings = region.settings | {"store": str(tmp_path / "store"), "engine": engine, "workers": 2}
    settings["memory_budget"] = budget(settings, chips=1, workers=2)
    fault = Fault(kind="kill", partition=partitions(settings)[1], marker=str(tmp_path / "killed"), once=True)
    with engine_faults.met(fault, monkeypatch):
        summary = drivers.run("build", settings)
    assert_complete(summary)
    assert len(Path(fault.marker).read_text().split()) == 1
    assert summary.chips_written == whole.chips_written
    assert summary.masks == whole.masks
    assert_same_rows(settings["store"], region.settings["store"], what=f"{engine} and local")
    left = lance_io.scan(settings["store"], "leases", ["lease_id"])
    assert len(left) == 0
    assert drivers.run("build", settings).chips_pending == 0


def test_a_small_memory_budget_makes_the_same_rows(
    built: tuple[mini_region.MiniRegion, RunSummary], tmp_path: Path
) -> None:
    region, whole = built
    settings = region.settings | {"store": str(tmp_path / "store")}
    settings["memory_budget"] = budget(settings, chips=1, workers=1)
    summary = drivers.run("build", settings)
    assert_complete(summary)
    assert (summary.partitions_done, summary.chips_written) == (whole.partitions, whole.chips_written)
    assert_same_rows(settings["store"], region.settings["store"], what="split and whole partitions")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_task_that_kills_its_worker_every_time_is_one_error(
    built: tuple[mini_region.MiniRegion, RunSummary],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
) -> None:
    region, whole = built
    settings = region.settings | {"store": str(tmp_path / "store"), "engine": engine, "workers": 2}
    poisoned = partitions(settings)[0]
    with engine_faults.met(Fault(kind="kill", partition=poisoned, marker=str(tmp_path / "killed")), monkeypatch):
        summary = drivers.run("build", settings)
    assert len(Path(tmp_path / "killed").read_text().split()) == 3
    assert (summary.status, summary.exit_code, summary.partitions_failed) == ("failed", 3, 1)
    assert summary.chips_settled == summary.chips_pending
    assert summary.chips_written == whole.chips_written - summary.chips_failed
    (row,) = lance_io.scan(
        settings["store"], "errors", ["error_type", "message", "partition", "node", "attempt"]
    ).to_pylist()
    assert (row["error_type"], row["partition"]) == ("WorkerLostError", poisoned)
    assert "3 times" in row["message"]
    made = lance_io.scan(settings["store"], "training_data", ["partition"])["partition"].to_pylist()
    assert poisoned not in made
    assert set(made) == set(partitions(region.settings | {"store": str(tmp_path / "none")})) - {poisoned}
    again = drivers.run("build", settings | {"engine": "local"})
    assert_complete(again)
    assert_same_rows(settings["store"], region.settings["store"], what=f"after a poisoned task on {engine}, and local")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_what_a_worker_cannot_store_ends_the_run(
    built: tuple[mini_region.MiniRegion, RunSummary],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
) -> None:
    region, _ = built
    settings = region.settings | {"store": str(tmp_path / "store"), "engine": engine, "workers": 1}
    fault = Fault(kind="store", partition=partitions(settings)[0], marker=str(tmp_path / "met"))
    with engine_faults.met(fault, monkeypatch), pytest.raises(errors.StoreNotWritableError, match="no space left"):
        drivers.run("build", settings)
    assert lance_io.scan(settings["store"], "runs", ["status"])["status"].to_pylist() == ["failed"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_broken_tile_is_the_same_errors_on_every_engine(tmp_path: Path, engine: str) -> None:
    region = mini_region.make(tmp_path / "region")
    tile = region.root / "vhr" / "east.tif"
    tile.write_bytes(tile.read_bytes()[: tile.stat().st_size // 2])
    found = {}
    for name in ("local", engine):
        settings = region.settings | {"store": str(tmp_path / name), "engine": name, "workers": 1}
        summary = drivers.run("build", settings)
        assert (summary.exit_code, summary.status) == (3, "failed")
        assert summary.chips_settled == summary.chips_pending
        assert summary.chips_failed > 0 < summary.chips_written
        table = lance_io.open_table(settings["store"], "errors").to_table().sort_by("error_id")
        found[name] = table.drop_columns(["run_id", "occurred_at"]).to_pylist()
        assert len(found[name]) == summary.chips_failed
    assert found[engine] == found["local"]
    assert_same_rows(str(tmp_path / engine), str(tmp_path / "local"), what=f"beside a broken tile, {engine} and local")


@pytest.mark.slow
def test_workers_without_weights_are_errors_of_their_tasks(
    built: tuple[mini_region.MiniRegion, RunSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    region, _ = built
    settings = region.settings | {"store": str(tmp_path / "store"), "engine": "processes", "workers": 1}
    settings |= {"network_retries": 2, "network_wait_s": 0.01}
    fault = Fault(kind="setup", partition=0, marker=str(tmp_path / "met"))
    with engine_faults.met(fault, monkeypatch):
        summary = drivers.run("build", settings)
    assert (summary.exit_code, summary.chips_written) == (3, 0)
    assert summary.chips_failed == summary.chips_pending == summary.chips_settled
    types = lance_io.scan(settings["store"], "errors", ["error_type"])["error_type"].to_pylist()
    assert types == ["ConnectionResetError"] * summary.partitions


_DRIVER = """
import json, sys
from dataflows import drivers

def told(summary):
    print(summary.partitions_done, summary.chips_written, flush=True)

if __name__ == "__main__":
    drivers.run("build", json.load(open(sys.argv[1])), progress=told)
"""


def descendants(pid: int) -> set[int]:
    """Process ids below ``pid``."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found, new = set[int](), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def living(pids: set[int]) -> dict[int, str]:
    """Those of the processes that still run, with their command line."""
    found = {}
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:100]
        except OSError:
            continue
    return found


def seconds_until(reached: Callable[[], bool], most: float) -> float:
    """Seconds until something is so."""
    start = time.monotonic()
    while not reached():
        assert time.monotonic() - start < most
        time.sleep(0.2)
    return time.monotonic() - start


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_killed_driver_takes_its_workers_along_and_is_resumed(
    built: tuple[mini_region.MiniRegion, RunSummary], tmp_path: Path, engine: str
) -> None:
    region, whole = built
    settings = region.settings | {"store": str(tmp_path / "store"), "engine": engine, "workers": 2, "commit_every": 1}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "driver.py").write_text(_DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "settings.json")]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert run.stdout is not None
    for line in run.stdout:
        if int(line.split()[1]) > 0:
            break
    else:
        pytest.fail("the run ended before it could be killed")
    workers = descendants(run.pid)
    assert len(workers) >= 2
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    ended = seconds_until(lambda: not any("Agent" not in command for command in living(workers).values()), 60)
    # Ray's agents look for their node for a minute before they end
    agents = seconds_until(lambda: not living(workers), 180)
    print(f"\n{engine}: {len(workers)} processes ended {ended:.1f} s after the run, Ray's agents {agents:.1f} s later")
    assert living(workers) == {}
    left = lance_io.open_table(settings["store"], "training_data").count_rows()
    assert 0 < left <= whole.chips_written
    again = drivers.run("build", settings)
    assert_complete(again)
    assert again.chips_skipped + again.chips_written == whole.chips_written
    assert_same_rows(settings["store"], region.settings["store"], what=f"{engine}, killed and resumed, and local")
    killed = lance_io.scan(settings["store"], "runs", ["status"])["status"].to_pylist()
    assert sorted(killed) == (["done", "killed"] if again.chips_written else killed)


class TestRefusedBeforeWork:
    """Exit code 2, a message that says what to do, and no store."""

    def refused(self, region: mini_region.MiniRegion, tmp_path: Path, capsys: Any, *options: str) -> str:
        (tmp_path / "build.yaml").write_text(json.dumps(region.settings | {"store": str(tmp_path / "store")}))
        assert main(["run", "--config", str(tmp_path / "build.yaml"), *options]) == 2
        assert not (tmp_path / "store").exists()
        return str(capsys.readouterr().err)

    def test_an_unknown_engine(self, built: Any, tmp_path: Path, capsys: Any) -> None:
        said = self.refused(built[0], tmp_path, capsys, "--engine", "nonsense")
        assert "local, processes, ray" in said

    def test_no_workers(self, built: Any, tmp_path: Path, capsys: Any) -> None:
        assert "from 1 on" in self.refused(built[0], tmp_path, capsys, "--set", "workers=0")

    def test_a_budget_that_holds_no_chip(self, built: Any, tmp_path: Path, capsys: Any) -> None:
        said = self.refused(built[0], tmp_path, capsys, "--memory-budget", "1KB")
        assert "too small" in said
        assert "MB" in said

    def test_a_budget_that_is_no_size(self, built: Any, tmp_path: Path, capsys: Any) -> None:
        assert "512MB" in self.refused(built[0], tmp_path, capsys, "--memory-budget", "plenty")

    def test_a_budget_that_does_not_hold_a_chip_per_cpu(
        self, built: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "cpu_count", lambda: 64)
        size = budget(built[0].settings, chips=1, workers=2)
        said = self.refused(built[0], tmp_path, capsys, "--memory-budget", size, "--engine", "processes")
        assert "64 chips at once" in said

    def test_ray_that_is_not_installed(
        self, built: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        monkeypatch.delitem(sys.modules, "dataflows.engines.ray_tasks", raising=False)
        assert "aegir-lightning-lance[ray]" in self.refused(built[0], tmp_path, capsys, "--engine", "ray")


@pytest.mark.parametrize("options", [("--workers", "0"), ("--workers", "two"), ("--memory-budget",)])
def test_misuse_is_argparses_business(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["run", *options])
    assert refused.value.code == 2
    assert options[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379", "127.0.0.1:99999"]
)
def test_no_ray_cluster_at_the_address_is_told_quickly(
    built: tuple[mini_region.MiniRegion, RunSummary], tmp_path: Path, address: str
) -> None:
    pytest.importorskip("ray")
    region, _ = built
    settings = region.settings | {"store": str(tmp_path / "store"), "engine": "ray", "ray_address": address}
    start = time.monotonic()
    with pytest.raises(errors.ConfigError, match="no Ray cluster at"):
        drivers.run("build", settings)
    assert time.monotonic() - start < 60
    assert lance_io.scan(settings["store"], "runs", ["status"])["status"].to_pylist() == ["failed"]


def test_fail_fast_keeps_what_is_done_and_starts_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    region = mini_region.make(tmp_path / "region", commit_every=1)
    order = partitions(region.settings)
    broken = order[1]
    real = drivers.plan_build(from_mapping(region.settings)).pending
    wanted = real.filter(pc.equal(real["partition"], pa.scalar(broken, pa.uint64())))["uuid"].to_pylist()
    made, executed = [], partition_task._executed

    def fail(driver: Any, made_once: Any, task: Any, provenance: Any, **more: Any) -> Any:
        made.append(task.partition)
        if task.partition == broken:
            raise errors.RasterReadError("east.tif is truncated")
        return executed(driver, made_once, task, provenance, **more)

    monkeypatch.setattr(partition_task, "_executed", fail)
    (tmp_path / "build.yaml").write_text(json.dumps(region.settings))
    assert main(["run", "--config", str(tmp_path / "build.yaml"), "--fail-fast", "--json"]) == 3
    summary = json.loads(capsys.readouterr().out)
    assert made == order[:2]
    assert (summary["status"], summary["partitions_done"], summary["partitions_failed"]) == ("failed", 2, 1)
    assert summary["chips_failed"] == len(wanted)
    stored = lance_io.scan(region.settings["store"], "training_data", ["partition"])["partition"].to_pylist()
    assert len(stored) == summary["chips_written"]
    assert set(stored) == {order[0]}
    assert len(lance_io.scan(region.settings["store"], "leases", ["lease_id"])) == 0
    (row,) = lance_io.scan(region.settings["store"], "errors", ["error_type", "partition"]).to_pylist()
    assert row == {"error_type": "RasterReadError", "partition": broken}
    monkeypatch.undo()
    again = drivers.run("build", region.settings)
    assert_complete(again)
    assert again.chips_skipped == summary["chips_written"]


def test_a_commit_the_network_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    region = mini_region.make(tmp_path / "region", network_wait_s=0.01)
    write, left = lance_io.write, [errors.StoreUnreachableError("503"), errors.StoreUnreachableError("503")]

    def unreliable(uri: Any, name: str, *arguments: Any, **options: Any) -> Any:
        if name == "masks" and left:
            raise left.pop()
        return write(uri, name, *arguments, **options)

    monkeypatch.setattr(lance_io, "write", unreliable)
    summary = drivers.run("build", region.settings)
    assert_complete(summary)
    assert (summary.retried, left) == (2, [])
    assert len(rows_of(region.settings["store"])["training_data"]) == summary.chips_planned


@pytest.mark.slow
def test_an_interrupted_pool_ends_and_keeps_what_is_done(
    built: tuple[mini_region.MiniRegion, RunSummary], tmp_path: Path
) -> None:
    region, whole = built
    settings = region.settings | {"store": str(tmp_path / "store"), "engine": "processes", "workers": 2}
    workers: set[int] = set()

    def interrupt(summary: RunSummary) -> None:
        if summary.partitions_done == 1 and summary.status == "running":
            workers.update(descendants(os.getpid()))
            raise KeyboardInterrupt

    summary = drivers.run("build", settings, progress=interrupt)
    assert (summary.status, summary.exit_code) == ("interrupted", 130)
    assert 0 < summary.chips_written < whole.chips_written
    left = living(workers)
    assert not [command for command in left.values() if "spawn_main" in command]
    again = drivers.run("build", settings | {"engine": "local"})
    assert_complete(again)
    assert again.chips_skipped == summary.chips_written
    assert_same_rows(settings["store"], region.settings["store"], what="an interrupted pool, resumed, and local")


def test_progress_ends_at_its_end_with_background_that_is_not_taken(tmp_path: Path) -> None:
    """One background chip lies on a hole of the imagery, which only reading it tells."""
    region = mini_region.make(tmp_path / "region", background_near_ratio=3.0, background_far_ratio=3.0)
    hole = (slice(None), slice(512, 768), slice(0, 256))
    with rasterio.open(region.root / "vhr" / "west.tif", "r+") as raster:
        data = raster.read()
        data[hole] = 0
        raster.write(data)
    seen: list[tuple[int, int]] = []
    summary = drivers.run("build", region.settings, progress=lambda s: seen.append((s.chips_settled, s.chips_pending)))
    assert summary.chips_not_taken > 0
    assert summary.chips_settled == summary.chips_pending
    assert seen[-1][0] == seen[-1][1]
    assert [settled for settled, _ in seen] == sorted(settled for settled, _ in seen)
    again = drivers.run("build", region.settings)
    assert again.chips_not_taken == summary.chips_not_taken
    assert again.chips_settled == again.chips_pending == 0


def test_progress_ends_at_its_end_with_work_made_elsewhere(tmp_path: Path) -> None:
    region = mini_region.make(tmp_path / "region", commit_every=1)
    others: list[RunSummary] = []

    def overtaken(summary: RunSummary) -> None:
        if summary.partitions_done == 1 and not others:
            others.append(summary)
            others[0] = drivers.run("build", region.settings)

    summary = drivers.run("build", region.settings, progress=overtaken)
    assert others[0].chips_written > 0
    assert summary.chips_made_elsewhere == others[0].chips_written
    assert summary.chips_settled == summary.chips_pending
    assert (summary.status, summary.exit_code) == ("done", 0)
    assert summary.chips_written + others[0].chips_written == summary.chips_planned
    assert len(rows_of(region.settings["store"])["training_data"]) == summary.chips_planned


def _classes(base: type[errors.AegirError]) -> list[type[errors.AegirError]]:
    return [base, *(found for kind in base.__subclasses__() for found in _classes(kind))]


@pytest.mark.parametrize("kind", sorted(set(_classes(errors.AegirError)), key=lambda kind: kind.__name__))
def test_every_error_of_ours_travels_between_processes(kind: type[errors.AegirError]) -> None:
    arguments = ("engine", "nonsense", ["local"]) if kind is errors.UnknownNameError else ("what, where, what next",)
    error = kind(*arguments)
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(back) is kind
    assert (str(back), back.args, vars(back)) == (str(error), error.args, vars(error))


def test_engines_are_known_by_name() -> None:
    assert engines.names() == ["local", "processes", "ray"]
    with pytest.raises(errors.UnknownNameError, match="processes"):
        engines.get("procceses")
