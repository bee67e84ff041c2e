"""Runs that are killed and started again, and what must hold afterwards.

A :class:`Scenario` is a command line, the store it starts from, and the store an uninterrupted run leaves. ``attack``
kills runs on one copy of that start, one after the other, then lets one go to its end, and tells what does not hold.
"""

import json
import os
import random
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shapely

from store import lance_io
from support import mini_region, store_comparison
from support.kill_points import HARD, MANNERS, Kill, Point, points_of
from support.mini_region import MiniRegion
from support.run_process import RunProcess
from utils.geo import reproject

EXTRA_ARGUMENTS = tuple(shlex.split(os.environ.get("KILL_ARGS", "")))
"""More arguments of every run, such as ``--engine processes``."""
COMMIT_EVERY = 2
EXIT_CODES = {"exit": 9, "SIGKILL": -9, "SIGTERM": 130, "Ctrl-C": 130, "Ctrl-C twice": 130}
"""Manner → exit code of a run that dies of it."""
SMALL_REGION: dict[str, Any] = {
    "chip_px": 64,
    "halo_px": 16,
    "msi_px": 16,
    "partition_level": 18,
    "split_level": 18,
    "commit_every": COMMIT_EVERY,
    "background_near_ratio": 1.0,
    "background_far_ratio": 1.0,
}
"""Settings under which the mini region is a dozen partitions of a chip or two."""


@dataclass(frozen=True)
class Stop:
    """A kill from outside, some time after the command line was entered."""

    delay_s: float
    """When."""
    manner: str
    """``SIGKILL``, ``SIGTERM`` or ``Ctrl-C``."""
    target: str = "driver"
    """``driver``, or ``worker``: a process it started."""


@dataclass(frozen=True)
class Scenario:
    """What is run again and again."""

    name: str
    arguments: tuple[str, ...]
    """Of ``python -m dataflows``, without the store."""
    start: Path | None
    """Store that every attack begins with a copy of; None begins without one."""
    reference: Path
    """What an uninterrupted run leaves."""
    points: tuple[Point, ...]
    """All that run passed."""
    partitions: tuple[int, ...]
    """Units of work it did, in order."""
    seconds: float
    """How long it took from the command line's start."""
    exit_code: int
    """What it ended with."""

    def start_run(self, store: Path, folder: Path, kill: Kill | None = None, more: Sequence[str] = ()) -> RunProcess:
        """Start a run on ``store``, with ``more`` arguments."""
        arguments = [*self.arguments, *EXTRA_ARGUMENTS, *more, "--store", str(store), "--json"]
        return RunProcess(arguments, folder, kill)


@dataclass
class Verdict:
    """What came of one attack."""

    scenario: str
    kills: list[str] = field(default_factory=list)
    """``manner at point`` of every kill that took place."""
    problems: list[str] = field(default_factory=list)
    """What did not hold; empty when all did."""
    redone: int = 0
    """Most partitions one start did again."""
    orphans: int = 0
    """Data files left that no version refers to."""


def scenario(name: str, arguments: Sequence[str], start: Path | None, root: Path) -> Scenario:
    """Run ``arguments`` to the end on a copy of ``start``, and keep what that run passed and left."""
    reference = root / f"{name}-reference"
    if start is not None:
        shutil.copytree(start, reference)
    made = Scenario(name, tuple(arguments), start, reference, (), (), 0.0, 0)
    run = made.start_run(reference, root / f"{name}-watched")
    code = run.wait()
    assert code in (0, 3), run.output
    events = run.events
    seconds = run.wait_for("left")["left"] - run.wait_for("entered")["entered"]
    problems = [
        *store_comparison.duplicates(reference),
        *store_comparison.half_rows(reference, settled=True),
        *store_comparison.engines_disagree(reference),
    ]
    assert not problems, problems
    partitions = tuple(_partitions_done(run, reference))
    assert partitions, "no unit of work was seen on its way to the store"
    return Scenario(name, made.arguments, start, reference, tuple(points_of(events)), partitions, seconds, code)


def _partitions_done(run: RunProcess, reference: Path) -> list[int]:
    """Units of work whose rows the run handed to a buffer, each once, in order."""
    events = run.events
    uuids = {uuid for event in events for uuid in event.get("uuids", ())}
    rows = lance_io.scan(reference, "training_data", ["uuid", "partition"]).to_pylist() if uuids else []
    partition_of = {row["uuid"]: row["partition"] for row in rows}
    done: list[int] = []
    for event in events:
        found = [event["partition"]] if "partition" in event else list(event.get("partitions", ()))
        done += found + [partition_of[uuid] for uuid in event.get("uuids", ()) if uuid in partition_of]
    return list(dict.fromkeys(done))


def attack(case: Scenario, folder: Path, kills: Sequence[Kill | Stop]) -> Verdict:
    """Kill runs of ``case`` in turn, let one finish, and judge every state in between."""
    verdict = Verdict(case.name)
    store = folder / "lancedb"
    folder.mkdir(parents=True)
    if case.start is not None:
        shutil.copytree(case.start, store)
    finished: set[int] = set()
    graceful = True
    for number, kill in enumerate([*kills, None]):
        before = _committed(case, store)
        runs_before = {row["run_id"] for row in _runs(store)}
        run = case.start_run(store, folder / f"run-{number}", kill if isinstance(kill, Kill) else None)
        landed = _stopped(run, kill) if isinstance(kill, Stop) else True
        code = run.wait()
        _judge_partitions(case, run, finished, before, graceful, verdict)
        if kill is None:
            _expect(code == case.exit_code, f"the last run ended with {code}, not {case.exit_code}", verdict, run)
            _judge_end(case, store, verdict)
            break
        landed = landed and (run.was_killed or isinstance(kill, Stop)) and not _unharmed(run, kill, code)
        if landed:
            verdict.kills.append(_told(kill))
            graceful = kill.manner not in HARD and kill.manner != "Ctrl-C twice"
            wanted = EXIT_CODES[kill.manner] if not isinstance(kill, Stop) or kill.target == "driver" else None
            _expect(wanted is None or code == wanted, f"{_told(kill)}: exit code {code}, not {wanted}", verdict, run)
            _judge_runs(store, runs_before, kill, verdict)
        else:
            graceful = True
            _expect(code == case.exit_code, f"{_told(kill)} did not land: exit code {code}", verdict, run)
        finished = set(_partitions_done(run, case.reference))
        _judge_state(store, verdict)
    if not verdict.problems:
        shutil.rmtree(folder)
    return verdict


def _stopped(run: RunProcess, stop: Stop) -> bool:
    run.wait_for("entered")
    time.sleep(stop.delay_s)
    return run.send(stop.manner, target=stop.target)


def _unharmed(run: RunProcess, kill: Kill | Stop, code: int) -> bool:
    """Whether the run was through before a signal reached it: it came from outside, or while the end was written."""
    left = any("left" in event and event["code"] != 130 for event in run.events)
    # a run that is through writes how it ended in spite of one interrupt, and ends as if there had been none
    settling = isinstance(kill, Kill) and "write runs" in kill.point.what.split(" > ") and kill.point.nth > 1
    return (isinstance(kill, Stop) or settling) and left and code in (0, 3)


def _told(kill: Kill | Stop) -> str:
    if isinstance(kill, Stop):
        return f"{kill.manner} of the {kill.target} after {kill.delay_s:.3f} s"
    point = kill.point
    return f"{kill.manner} at {point.moment} {point.what} #{point.nth}"


def _expect(holds: bool, message: str, verdict: Verdict, run: RunProcess | None = None) -> None:
    if not holds:
        verdict.problems.append(message + (f"\n{run.output}" if run is not None else ""))


def _judge_state(store: Path, verdict: Verdict) -> None:
    """What must hold straight after a kill: every engine reads every table, no key twice, no half chip."""
    verdict.problems += store_comparison.duplicates(store)
    verdict.problems += store_comparison.half_rows(store, settled=False)
    verdict.problems += store_comparison.listing_fails(store)
    verdict.problems += store_comparison.engines_disagree(store)


def _judge_end(case: Scenario, store: Path, verdict: Verdict) -> None:
    """What must hold when a run has gone to its end: the store of an uninterrupted one."""
    verdict.problems += store_comparison.differences(store, case.reference)
    verdict.problems += store_comparison.duplicates(store)
    verdict.problems += store_comparison.half_rows(store, settled=True)
    verdict.problems += store_comparison.engines_disagree(store)
    verdict.problems += store_comparison.unindexed(store)
    verdict.orphans = len(store_comparison.orphans(store))


def _runs(store: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = lance_io.scan(
        store, "runs", ["run_id", "status", "finished_at", "counts", "flow"]
    ).to_pylist()
    return rows


def _judge_runs(store: Path, before: set[str], kill: Kill | Stop, verdict: Verdict) -> None:
    """A run killed hard stays ``running``; one that was interrupted says so, and how many rows it wrote."""
    news = [row for row in _runs(store) if row["run_id"] not in before]
    _expect(len(news) <= 1, f"one run has {len(news)} rows in runs", verdict)
    for row in news:
        open_ended = row["status"] == "running"
        told = f"{_told(kill)}: the run's status is {row['status']}"
        _expect(open_ended == (row["finished_at"] is None), f"{told}, finished at {row['finished_at']}", verdict)
        if kill.manner not in HARD and kill.manner != "Ctrl-C twice":
            _expect(not open_ended, told, verdict)
        if row["counts"] is not None:
            table = "context" if row["flow"] == "context" else "training_data"
            counted = json.loads(row["counts"])["rows_written" if row["flow"] == "context" else "chips_written"]
            held = len(lance_io.scan(store, table, ["run_id"], f"run_id = '{row['run_id']}'"))
            _expect(counted == held, f"{told}; it says {counted} rows written and {held} are its", verdict)


def _committed(case: Scenario, store: Path) -> set[int]:
    """Units of work of which every row of the reference, or its failure, is in the store."""
    is_context = case.arguments[0] == "context"
    table, columns = ("context", ("target_id", "name")) if is_context else ("training_data", ("uuid", "input_set"))

    def done(uri: Path) -> dict[int, set[tuple[Any, ...]]]:
        found: dict[int, set[tuple[Any, ...]]] = {}
        for row in lance_io.scan(uri, table, [*columns, "partition"]).to_pylist():
            found.setdefault(row["partition"], set()).add(tuple(row[name] for name in columns))
        failed = lance_io.scan(uri, "errors", ["uuid", "input_set", "partition"], "uuid IS NOT NULL")
        for row in failed.to_pylist():
            found.setdefault(row["partition"], set()).add((row["uuid"], row["input_set"]))
        return found

    wanted, there = done(case.reference), done(store)
    return {partition for partition in case.partitions if wanted.get(partition, set()) <= there.get(partition, set())}


def _judge_partitions(
    case: Scenario, run: RunProcess, finished: set[int], committed: set[int], graceful: bool, verdict: Verdict
) -> None:
    """At most k units of work are done again, none after an interrupt, and none whose rows are committed."""
    done = _partitions_done(run, case.reference)
    again = finished & set(done)
    verdict.redone = max(verdict.redone, len(again))
    most = 0 if graceful else COMMIT_EVERY
    _expect(len(again) <= most, f"{len(again)} finished partitions were done again, at most {most} may be", verdict)
    twice = committed & set(done)
    _expect(not twice, f"{len(twice)} committed partitions were done again", verdict)


# ---- scenarios


def settings_file(region: MiniRegion, name: str = "flow.json", **changes: Any) -> Path:
    """The region's settings as a file (JSON is YAML)."""
    path = region.root / name
    path.write_text(json.dumps(region.settings | changes))
    return path


def small_region(root: Path, **changes: Any) -> MiniRegion:
    """The mini region with many small partitions: six more labels, of which the imagery shows nothing."""
    region = mini_region.make(root, **{**SMALL_REGION, **changes})
    places = [(40, 130), (100, 190), (150, 250), (210, 60), (270, 170), (30, 280)]
    mini_region.change(region, *(insert(f"more-{k}", box(*place)) for k, place in enumerate(places)))
    return region


def box(x: float, y: float) -> shapely.Polygon:
    """A label of 11 m × 7 m, metres from the region's corner."""
    left, bottom = mini_region.LEFT + x, mini_region.BOTTOM + y
    return shapely.box(left, bottom, left + 11, bottom + 7)


def lonlat(outline: shapely.Polygon) -> str:
    """WKT in degrees of an outline in the region's UTM metres."""
    return str(reproject(outline, mini_region.EPSG, 4326).wkt)


def moved(name: str, outline: shapely.Polygon) -> str:
    """SQL that gives a label another outline."""
    return f"UPDATE lake.pv SET geometry = ST_GeomFromText('{lonlat(outline)}') WHERE id = '{name}'"


def insert(name: str, outline: shapely.Polygon, table: str = "pv") -> str:
    """SQL that adds a label, or a row of another table of id and geometry."""
    return f"INSERT INTO lake.{table} VALUES ('{name}', ST_GeomFromText('{lonlat(outline)}'))"


def new_store(root: Path) -> Scenario:
    """A first run: every table is made."""
    region = small_region(root / "new")
    return scenario("new store", ("run", "--config", str(settings_file(region))), None, root / "new")


def changed_labels(root: Path) -> Scenario:
    """A run after labels were deleted, moved and added: retirement, rows made again, rows taken back."""
    region = small_region(root / "changed")
    file = settings_file(region)
    start = root / "changed" / "start"
    first = RunProcess(["run", "--config", str(file), "--store", str(start)], root / "changed" / "first")
    assert first.wait() == 0, first.output
    mini_region.change(
        region,
        "DELETE FROM lake.pv WHERE id = '0'",
        moved("1", box(120, 55)),
        *(insert(f"new-{k}", box(*place)) for k, place in enumerate([(25, 34), (196, 145), (66, 236), (255, 255)])),
    )
    return scenario("changed labels", ("run", "--config", str(file)), start, root / "changed")


def failing_chips(root: Path) -> Scenario:
    """A run that ends with rows in ``errors``: half of a tile cannot be read, and two labels cannot be used."""
    region = small_region(root / "failing")
    tile = region.root / "vhr" / "west.tif"
    content = bytearray(tile.read_bytes())
    content[len(content) // 2 :] = b"\0" * 8
    tile.write_bytes(content)
    mini_region.change(
        region,
        "INSERT INTO lake.pv VALUES ('empty', ST_GeomFromText('POLYGON EMPTY'))",
        "INSERT INTO lake.pv VALUES ('null', NULL)",
    )
    made = scenario("failing chips", ("run", "--config", str(settings_file(region))), None, root / "failing")
    assert made.exit_code == 3
    return made


def context_flow(root: Path) -> Scenario:
    """The context flow over the chips of a finished build."""
    region = small_region(root / "context")
    start = root / "context" / "start"
    build = RunProcess(
        ["run", "--config", str(settings_file(region)), "--store", str(start)], root / "context" / "build"
    )
    assert build.wait() == 0, build.output
    houses = [insert(f"h{number}", array, "houses") for number, array in enumerate(mini_region.pv_boxes())]
    mini_region.change(region, "CREATE TABLE lake.houses (id VARCHAR, geometry GEOMETRY)", *houses)
    settings = {
        "catalog": region.settings["catalog"],
        "context": [{"name": "houses", "table": "houses"}],
        "store": region.settings["store"],
        "partition_level": 18,
        "commit_every": COMMIT_EVERY,
    }
    file = region.root / "context.json"
    file.write_text(json.dumps(settings))
    return scenario("context flow", ("context", "--config", str(file)), start, root / "context")


SCENARIOS = {
    "new store": new_store,
    "changed labels": changed_labels,
    "failing chips": failing_chips,
    "context flow": context_flow,
}
"""Name → what makes it under a folder."""


# ---- which kills


def kills_at_points(case: Scenario, count: int, rng: random.Random) -> list[Kill]:
    """``count`` kills over the points of ``case``: every kind of call and moment first, then the rest, at random.

    Manners take turns. Before a line of ours only signals tell anything new: what is on disk is what it was after the
    call before.
    """
    order = list(case.points)
    rng.shuffle(order)
    seen: set[tuple[str, str]] = set()
    groups: list[list[Point]] = [[], [], [], []]
    for point in order:
        is_line = point.moment.startswith("line")
        groups[2 * ((point.what, point.moment) in seen) + is_line].append(point)
        seen.add((point.what, point.moment))
    chosen = [point for group in groups for point in group][:count]
    signals = [name for name in MANNERS if name not in HARD]
    kills = []
    for number, point in enumerate(chosen):
        names = signals if point.moment.startswith("line") else list(MANNERS)
        kills.append(Kill(point, names[number % len(names)], after_s=rng.uniform(0.0, 0.02)))
    rng.shuffle(kills)
    return kills


def kill_at(case: Scenario, manner: str, call: str, moment: str, nth: int = 1) -> Kill:
    """The kill at the ``nth`` point of a moment whose name ends with ``call``.

    Raises:
        LookupError: the uninterrupted run passed no such point.
    """
    found = [point for point in case.points if point.moment == moment and f" {point.what}".endswith(f" {call}")]
    if len(found) < nth:
        raise LookupError(f"{len(found)} points {moment} {call} in {case.name}, {nth} wanted")
    return Kill(found[nth - 1], manner)


def kills_at_random(case: Scenario, count: int, rng: random.Random, target: str = "driver") -> list[Stop]:
    """``count`` signals at times drawn evenly over the run."""
    manners = ("SIGKILL", "SIGTERM", "Ctrl-C")
    return [Stop(rng.uniform(0.0, case.seconds), manners[number % 3], target) for number in range(count)]


def series(kills: Sequence[Kill | Stop], rng: random.Random, longest: int = 3) -> list[list[Kill | Stop]]:
    """Kills in rows of 1 to ``longest`` for one store each: half of them come alone."""
    left, rows = list(kills), []
    while left:
        size = 1 if rng.random() < 0.5 else rng.randint(2, longest)
        rows.append(left[:size])
        left = left[size:]
    return rows
