"""Lost races are told apart, tried again a bounded number of times, and end typed."""

import pytest

from store import conflicts
from utils.errors import StoreConflictError, StoreError

LANCE_SAYS = [
    "Retryable commit conflict for version 2: This Overwrite transaction was preempted by concurrent transaction",
    "Commit conflict for version 7: There was a concurrent commit",
    "Incompatible transaction: This Append transaction is incompatible with concurrent transaction Overwrite",
    "Too many concurrent writers. Attempted 20 times, but failed on retry_timeout of 30.000 seconds.",
]


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    spans = []
    monkeypatch.setattr(conflicts.time, "sleep", spans.append)
    return spans


class Losing:
    """Loses some races, then wins."""

    def __init__(self, losses, error):
        self.losses, self.error, self.calls = losses, error, 0

    def __call__(self):
        self.calls += 1
        if self.calls <= self.losses:
            raise self.error
        return "won"


@pytest.mark.parametrize("text", LANCE_SAYS)
def test_a_lost_race_is_tried_again(text, waits):
    commit = Losing(3, OSError(text))
    assert conflicts.retried(commit, what="a write") == "won"
    assert commit.calls == 4
    assert len(waits) == 3
    assert all(0 <= wait <= 5 for wait in waits)


def test_waits_grow_and_stay_bounded(monkeypatch, waits):
    monkeypatch.setattr(conflicts.random, "uniform", lambda low, high: high)
    conflicts.retried(Losing(10, OSError(LANCE_SAYS[0])), what="a write")
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0]


def test_losing_every_time_ends_typed_with_what_and_how_often():
    commit = Losing(99, OSError(LANCE_SAYS[0]))
    with pytest.raises(StoreConflictError, match=r"a write of 3 rows lost the race against other writers 5 times"):
        conflicts.retried(commit, what="a write of 3 rows", attempts=5)
    assert commit.calls == 5
    assert issubclass(StoreConflictError, StoreError)


@pytest.mark.parametrize("error", [OSError("No space left on device"), ValueError("no such column"), KeyError("x")])
def test_other_failures_are_raised_as_they_are_at_once(error, waits):
    commit = Losing(1, error)
    with pytest.raises(type(error)):
        conflicts.retried(commit, what="a write")
    assert (commit.calls, waits) == (1, [])


def test_no_attempt_is_a_mistake():
    with pytest.raises(ValueError, match="at least 1"):
        conflicts.retried(lambda: None, what="nothing", attempts=0)


def test_upkeep_tells_other_failures_as_the_stores():
    with pytest.raises(StoreError, match=r"cleaning 'runs' failed: No space left on device; check") as caught:
        conflicts.committed(Losing(9, OSError("No space left on device")), what="cleaning 'runs'")
    assert not isinstance(caught.value, StoreConflictError)
    with pytest.raises(StoreConflictError):
        conflicts.committed(Losing(99, OSError(LANCE_SAYS[0])), what="cleaning 'runs'")
