"""Where a run can be killed, found by watching it: calls of the store's doors and of what commits to Lance.

Nothing in the code under test knows of this. The process that runs the command line wraps the functions before it calls
``main``; each call is a point with a name, an occurrence and a moment. A run that is only watched lists them all, so a
new write site needs no new test.
"""

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from importlib import import_module
from inspect import unwrap
from pathlib import Path
from types import FrameType
from typing import Any

OURS = ("utils", "store", "training", "dataflows")
TABLE_DOORS = {
    "store.lance_io": ("write", "write_chosen", "mark", "delete", "refresh_indexes"),
    "store.fragments": ("stage", "commit", "commit_if_empty"),
}
"""Functions by module whose second argument is a table; those that are not there are no points."""
OBJECT_DOORS = {
    ("store.lineage", "Run"): ("record",),
    ("store.commit_buffer", "CommitBuffer"): ("take", "flush"),
    ("store.context_buffer", "ContextBuffer"): ("add", "flush"),
}
"""Likewise methods by module and class."""
LANCE_COMMITS = {
    ("lance", None): ("write_dataset",),
    ("lance.fragment", None): ("write_fragments",),
    ("lance.dataset", "LanceDataset"): ("commit", "delete", "update", "create_scalar_index"),
    ("lance.dataset", "MergeInsertBuilder"): ("execute",),
    ("lance.dataset", "DatasetOptimizer"): ("optimize_indices", "compact_files"),
}
"""What changes a Lance table, wherever it is called from."""


@dataclass(frozen=True, order=True)
class Point:
    """One moment of one call."""

    what: str
    """The call: ``write masks``, or with what it calls in turn, ``write masks > execute``."""
    nth: int
    """Which of these calls, from 1 on."""
    moment: str
    """``before`` or ``after`` the call; in a call that commits to Lance, ``within``: files are written, the table's new
    version is not; ``during``: a moment after it began; in one of ours, ``line N``: before its N-th line runs."""


@dataclass(frozen=True)
class Kill:
    """One kill: where, and in what manner."""

    point: Point
    manner: str
    """A key of :data:`MANNERS`."""
    after_s: float = 0.0
    """For ``during``: seconds from the call's beginning."""


def _by_signal(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _ctrl_c() -> None:
    """A terminal sends it to the whole process group."""
    os.killpg(os.getpgid(0), signal.SIGINT)


MANNERS: dict[str, Callable[[], None]] = {
    "exit": lambda: os._exit(9),
    "SIGKILL": _by_signal(signal.SIGKILL),
    "SIGTERM": _by_signal(signal.SIGTERM),
    "Ctrl-C": _ctrl_c,
    "Ctrl-C twice": _ctrl_c,
}
"""Manner → what does it. The second Ctrl-C comes at the next point."""
HOLDS: dict[str, Callable[[], None]] = {"SIGSTOP": _by_signal(signal.SIGSTOP)}
"""What holds a run where it is until it is told to go on."""
HARD = frozenset({"exit", "SIGKILL"})
"""Manners that leave a run no moment to put anything in order."""


class Watch:
    """Tells every point a run passes to a file, line by line, and kills the run at one of them."""

    def __init__(self, events: Path, kill: Kill | None = None) -> None:
        """Watch nothing yet; ``events`` is appended to."""
        self._file = os.open(events, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._kill, self._again = kill, False
        self._seen: Counter[str] = Counter()
        self._stack = threading.local()

    def tell(self, **event: Any) -> None:
        """One line, in the file before this returns."""
        os.write(self._file, (json.dumps(event, default=str) + "\n").encode())

    def install(self) -> None:
        """Wrap the doors and what commits, and every name of ours that stands for one of them."""
        for module, names in TABLE_DOORS.items():
            for name in names:
                self._wrap(module, None, name, lambda arguments, named: str(named.get("name") or arguments[1]))
        for (module, owner), names in {**OBJECT_DOORS, **LANCE_COMMITS}.items():
            for name in names:
                self._wrap(module, owner, name, lambda _, __: "")

    def _wrap(
        self,
        module: str,
        owner: str | None,
        name: str,
        table_of: Callable[[tuple[Any, ...], dict[str, Any]], str],
    ) -> None:
        holder = _holder(module, owner)
        original = getattr(holder, name, None)
        if original is None:
            return
        is_lance = module.partition(".")[0] == "lance"
        label = f"{owner}.{name}" if owner else name
        lines = [] if is_lance else _lines_of(original)

        @wraps(original)
        def watched(*arguments: Any, **named: Any) -> Any:
            with self._call(f"{label} {table_of(arguments, named)}".strip()) as (what, nth):
                self.at(Point(what, nth, "before"))
                if name == "execute":
                    self._within(Point(what, nth, "within"), arguments)
                elif name == "write_dataset":
                    self._within_creation(Point(what, nth, "within"), arguments)
                with self._during(what, nth) if is_lance else self._at_line(what, nth, original, lines):
                    result = original(*arguments, **named)
                self._note_partition(label, arguments)
                self.at(Point(what, nth, "after"))
                return result

        static = isinstance(vars(holder).get(name), staticmethod)
        setattr(holder, name, staticmethod(watched) if static else watched)
        for user in [found for key, found in sys.modules.items() if key.split(".")[0] in OURS]:
            for alias, value in list(vars(user).items()):
                if value is original:
                    setattr(user, alias, watched)

    @contextmanager
    def _call(self, label: str) -> Iterator[tuple[str, int]]:
        stack: list[str] = self._stack.__dict__.setdefault("names", [])
        what = f"{stack[-1]} > {label}" if stack else label
        # callers further up do not make it another point
        stack.append(label)
        self._seen[what] += 1
        try:
            yield what, self._seen[what]
        finally:
            stack.pop()

    def _note_partition(self, label: str, arguments: tuple[Any, ...]) -> None:
        """Tell which unit of work is handed to a buffer."""
        if label == "CommitBuffer.take":
            rows = arguments[1]
            uuids = {key for part in rows.staged for key in part.keys}
            uuids |= {uuid for table in rows.samples for uuid in table["uuid"].to_pylist()}
            self.tell(uuids=sorted(uuids), partitions=sorted({failure.partition for failure in rows.failures}))
        elif label == "ContextBuffer.add" and len(arguments[1]):
            self.tell(partition=arguments[1]["partition"][0].as_py())

    def at(self, point: Point) -> None:
        """Pass ``point``: it is told, and the run dies there if that was asked for."""
        self.tell(point=asdict(point))
        if self._again or (self._kill is not None and self._kill.point == point):
            self._die(point)

    def _die(self, point: Point) -> None:
        assert self._kill is not None
        twice = self._kill.manner == "Ctrl-C twice" and not self._again
        self.tell(killed=asdict(point), manner=self._kill.manner)
        self._again = twice
        (MANNERS | HOLDS)[self._kill.manner]()
        # the signal's handler runs between two instructions of the main thread
        time.sleep(0)

    def _within(self, point: Point, arguments: tuple[Any, ...]) -> None:
        """Write a merge's files and die before its commit, as a kill in the middle of it would leave the table."""
        self.tell(point=asdict(point))
        if self._kill is not None and self._kill.point == point:
            builder, rows = arguments
            builder.execute_uncommitted(rows)
            self._die(point)

    def _within_creation(self, point: Point, arguments: tuple[Any, ...]) -> None:
        """Make the folders of a table and die before its first version is there."""
        self.tell(point=asdict(point))
        if self._kill is not None and self._kill.point == point:
            folder = Path(str(arguments[1]))
            for name in ("_versions", "_transactions", "data"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            self._die(point)

    @contextmanager
    def _during(self, what: str, nth: int) -> Iterator[None]:
        """Kill the run a moment into the call, from another thread."""
        point = Point(what, nth, "during")
        self.tell(point=asdict(point))
        kill = self._kill
        if kill is None or kill.point != point:
            yield
            return

        def later() -> None:
            time.sleep(kill.after_s)
            self._die(point)

        thread = threading.Thread(target=later, daemon=True)
        thread.start()
        yield
        thread.join()

    @contextmanager
    def _at_line(self, what: str, nth: int, function: Callable[..., Any], lines: list[int]) -> Iterator[None]:
        """Kill the run before a line of ``function``, when it is reached for the first time."""
        self.tell(lines=len(lines), what=what, nth=nth)
        kill = self._kill
        if kill is None or (kill.point.what, kill.point.nth) != (what, nth) or "line" not in kill.point.moment:
            yield
            return
        wanted = lines[int(kill.point.moment.removeprefix("line ")) - 1]

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            if frame.f_code is not unwrap(function).__code__:
                return None
            if event == "line" and frame.f_lineno == wanted:
                sys.settrace(None)
                self._die(kill.point)
            return trace

        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(None)


def _holder(module: str, owner: str | None) -> Any:
    try:
        holder = import_module(module)
    except ModuleNotFoundError:
        return None
    return getattr(holder, owner, None) if owner else holder


def _lines_of(function: Callable[..., Any]) -> list[int]:
    """Lines of a function's body."""
    code = unwrap(function).__code__
    return sorted({line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno})


def events_of(path: Path) -> list[dict[str, Any]]:
    """What a watched run told, as far as it came."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def points_of(events: list[dict[str, Any]]) -> list[Point]:
    """The points among ``events``, in the order they were passed."""
    points = []
    for event in events:
        if "point" in event:
            points.append(Point(**event["point"]))
        elif "lines" in event:
            points += [Point(event["what"], event["nth"], f"line {k + 1}") for k in range(event["lines"])]
    return points
