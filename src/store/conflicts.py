"""Commits that lose a race: told apart from other failures, and tried again with jittered back-off."""

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from utils.errors import StoreConflictError, StoreError

ATTEMPTS: Final = 12
"""Attempts at one commit; with the back-off below they span about half a minute, beside the time the commits take."""
_FIRST_S = 0.05
_LONGEST_S = 5.0
# Lance tells conflicts from other failures by their text alone: every one is an OSError
_WORDS = (
    "commit conflict",
    "preempted by concurrent",
    "incompatible transaction",
    "too many concurrent writers",
)

Result = TypeVar("Result")


def is_conflict(error: BaseException) -> bool:
    """Whether ``error`` says that another commit came first, so that the same change can be tried on top of it."""
    return isinstance(error, (OSError, ValueError, RuntimeError)) and any(
        words in str(error).lower() for words in _WORDS
    )


def retried(commit: Callable[[], Result], *, what: str, attempts: int = ATTEMPTS) -> Result:
    """What ``commit`` returns, tried again while others commit first; it must open its table anew each time.

    Waits double from 50 ms to 5 s and are drawn from the whole interval, so that racing writers drift apart.

    Args:
        commit: one attempt, safe to repeat.
        what: what is committed, for the message.
        attempts: most attempts.

    Raises:
        StoreConflictError: every attempt lost; nothing was committed.
    """
    for attempt in range(1, attempts + 1):
        try:
            return commit()
        except (OSError, ValueError, RuntimeError) as error:
            if not is_conflict(error):
                raise
            if attempt == attempts:
                raise StoreConflictError(
                    f"{what} lost the race against other writers {attempts} times and was not committed; "
                    f"run it again, or run fewer writers at once ({error})"
                ) from error
        time.sleep(random.uniform(0, min(_LONGEST_S, _FIRST_S * 2**attempt)))  # noqa: S311 - jitter, no secret
    raise ValueError(f"attempts is {attempts}, at least 1 is needed")


def committed(commit: Callable[[], Result], *, what: str) -> Result:
    """:func:`retried`, for upkeep: any other failure of Lance is told as one of the store.

    Raises:
        StoreConflictError: every attempt lost; nothing was committed.
        StoreError: a file cannot be read or written.
    """
    try:
        return retried(commit, what=what)
    except OSError as error:
        raise StoreError(f"{what} failed: {error}; check the path, its permissions and free space") from error
