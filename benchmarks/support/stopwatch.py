"""Time by what it is spent on: each moment counts for the innermost name that is running."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hamilton.lifecycle import NodeExecutionHook


class Stopwatch:
    """Exclusive seconds per name, of wall time and of CPU time over all threads."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu_s: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._running: list[str] = []
        self._since, self._cpu_since = time.perf_counter(), time.process_time()

    def is_running(self, name: str) -> bool:
        """Whether ``name`` runs, or something inside it."""
        return name in self._running

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count the block for ``name``, except what other names inside it take."""
        self.begin(name)
        try:
            yield
        finally:
            self.end()

    def begin(self, name: str) -> None:
        """Count for ``name`` from now on."""
        self._charge()
        self._running.append(name)
        self.calls[name] += 1

    def end(self) -> None:
        """Count for what ran before."""
        self._charge()
        self._running.pop()

    def wrapped(self, inner: Callable[..., Any], name: str | Callable[..., str]) -> Callable[..., Any]:
        """``inner``, every call of it counted for ``name``, or for what ``name`` makes of the arguments."""

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.of(name if isinstance(name, str) else name(*args, **kwargs)):
                return inner(*args, **kwargs)

        return timed

    def _charge(self) -> None:
        now, cpu = time.perf_counter(), time.process_time()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
            self.cpu_s[self._running[-1]] += cpu - self._cpu_since
        self._since, self._cpu_since = now, cpu


class NodeTimes(NodeExecutionHook):
    """Counts node functions for a stopwatch."""

    def __init__(self, watch: Stopwatch, name_of: Callable[[str], str]) -> None:
        """Count node ``n`` for ``name_of(n)``."""
        self._watch, self._name_of = watch, name_of

    def run_before_node_execution(self, *, node_name: str, **_: Any) -> None:
        """Begin."""
        self._watch.begin(self._name_of(node_name))

    def run_after_node_execution(self, **_: Any) -> None:
        """End, whether the node failed or not."""
        self._watch.end()
