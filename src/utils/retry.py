"""Which failures pass by themselves, and how long to wait for that."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

_TRANSIENT = frozenset(
    {
        "ConnectionError", "ConnectionResetError", "ConnectionAbortedError", "ConnectionRefusedError",
        "BrokenPipeError", "TimeoutError", "IncompleteRead", "RemoteDisconnected",
    }
)  # fmt: skip

Result = TypeVar("Result")


def is_transient_type(error_type: str) -> bool:
    """Whether errors of the class with this name are the network's: they may be gone the next time."""
    return error_type in _TRANSIENT or error_type.endswith(("UnreachableError", "BusyError"))


def is_transient(error: BaseException) -> bool:
    """Whether ``error``, or one that caused it, is the network's. Bad data and bad settings never are."""
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        if getattr(found, "is_transient", False) or any(
            is_transient_type(kind.__name__) for kind in type(found).__mro__
        ):
            return True
        seen.add(id(found))
        found = found.__cause__
    return False


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often to try again what the network failed, and how long to wait: twice as long each time, with jitter."""

    retries: int = 3
    """Tries after the first."""
    first_wait_s: float = 1.0
    """Longest wait before the first retry, seconds."""
    longest_wait_s: float = 60.0
    """No wait is longer, seconds."""

    def waits(self) -> Iterator[float]:
        """Seconds to wait before each retry: half to all of a span that doubles."""
        for number in range(self.retries):
            span = min(self.longest_wait_s, self.first_wait_s * 2**number)
            yield random.uniform(span / 2, span)  # noqa: S311 - no secret

    def call(self, action: Callable[[], Result]) -> tuple[Result, int]:
        """What ``action`` returns, called again after a wait where the network failed; and how often it was."""
        retried = 0
        for wait in self.waits():
            try:
                return action(), retried
            except Exception as error:
                if not is_transient(error):
                    raise
            retried += 1
            time.sleep(wait)
        return action(), retried
