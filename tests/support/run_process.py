"""One run of the command line in a process of its own, watched, that can be killed and stopped.

A fork server holds the imports and the compiled index formulas, and has never opened a table: Lance is not fork-safe
once it has. ``KILLS_START=spawn`` starts every run from a bare interpreter instead.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from support.kill_points import Kill, Watch, events_of

TESTS = Path(__file__).parents[1]
PATIENCE_S = 300.0
"""A run that takes longer than this hangs."""


def run_cli(arguments: Sequence[str], folder: str, kill: Kill | None) -> None:
    """What the process does: the command line with its output in files, watched."""
    os.setsid()
    # a shell starts background jobs with it ignored, and so would all that they start
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, number)
        os.close(file)
    from dataflows.__main__ import main

    watch = Watch(Path(folder) / "events", kill)
    watch.install()
    watch.tell(entered=time.monotonic())
    code = main(list(arguments))
    watch.tell(left=time.monotonic(), code=code)
    sys.exit(code)


@cache
def _processes() -> multiprocessing.context.BaseContext:
    """The start method; the fork server finds the project and the tests through ``PYTHONPATH``."""
    method = os.environ.get("KILLS_START", "forkserver")
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        places = [str(TESTS), *sys.path]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(place for place in places if place))
        context.set_forkserver_preload(["support.warm"])
    return context


@dataclass
class RunProcess:
    """A run that has been started."""

    arguments: Sequence[str]
    """Of ``python -m dataflows``."""
    folder: Path
    """Its output and what it told."""
    kill: Kill | None = None
    """Where it kills itself."""
    process: BaseProcess = field(init=False, repr=False)
    """The process."""

    def __post_init__(self) -> None:
        """Start it."""
        self.folder.mkdir(parents=True)
        self.process = _processes().Process(target=run_cli, args=(list(self.arguments), str(self.folder), self.kill))  # type: ignore[attr-defined]
        self.process.start()

    @property
    def pid(self) -> int:
        """Process id."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it told so far."""
        return events_of(self.folder / "events")

    @property
    def output(self) -> str:
        """What it printed on both streams, for a message."""
        names = [self.folder / name for name in ("stdout", "stderr")]
        return "\n".join(name.read_text() for name in names if name.exists())

    @property
    def summary(self) -> dict[str, Any]:
        """The summary a run with ``--json`` printed; empty when it did not get there."""
        lines = (self.folder / "stdout").read_text().splitlines()
        return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}

    @property
    def was_killed(self) -> bool:
        """Whether it reached the point it was to be killed at."""
        return any("killed" in event for event in self.events)

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """Its exit code once it ended; minus the signal's number when one ended it.

        Raises:
            TimeoutError: it did not end; it is killed.
        """
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"the run {self.arguments} hangs after {seconds} s:\n{self.output}")
        return self.process.exitcode

    def wait_for(self, key: str, seconds: float = PATIENCE_S) -> dict[str, Any]:
        """The first event with ``key``.

        Raises:
            TimeoutError: none came.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = [event for event in self.events if key in event]
            if found:
                return found[0]
            if self.process.exitcode is not None:
                break
            time.sleep(0.002)
        raise TimeoutError(f"the run {self.arguments} told no {key!r}:\n{self.output}")

    def wait_until_held(self) -> None:
        """Wait until it stands still where it was to be held.

        Raises:
            TimeoutError: it does not get there.
        """
        self.wait_for("killed")
        while psutil.Process(self.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.002)

    def end(self) -> None:
        """Make sure that it is gone, held or not."""
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def send(self, manner: str, *, target: str = "driver") -> bool:
        """Kill it from outside; False when it, or any worker, was no longer there.

        Args:
            manner: ``SIGKILL``, ``SIGTERM`` or ``Ctrl-C``.
            target: ``driver``, the process itself, or ``worker``, one of its descendants.
        """
        if self.process.exitcode is not None:
            return False
        try:
            if target == "worker":
                workers = workers_of(self.pid)
                if not workers:
                    return False
                os.kill(workers[-1], signal.SIGKILL)
            elif manner == "Ctrl-C":
                os.killpg(self.pid, signal.SIGINT)
            else:
                os.kill(self.pid, signal.Signals[manner])
        except ProcessLookupError:
            return False
        return True


def workers_of(pid: int) -> list[int]:
    """Descendants of a process that do work: not the helpers ``multiprocessing`` starts beside them."""
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    kept = []
    for child in found:
        try:
            words = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if words and "resource_tracker" not in words and "forkserver" not in words:
            kept.append(child.pid)
    return sorted(kept)
