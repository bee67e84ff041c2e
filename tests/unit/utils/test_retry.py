"""What passes by itself is tried again, for as long as the policy says; nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils import errors, retry
from utils.retry import RetryPolicy, is_transient, is_transient_type

NETWORK = [
    ConnectionResetError("reset"),
    ConnectionRefusedError("refused"),
    TimeoutError("late"),
    BrokenPipeError("gone"),
    errors.RasterUnreachableError("no answer"),
    errors.StoreUnreachableError("no answer"),
    errors.CatalogUnreachableError("no answer"),
]
NOT_THE_NETWORK = [
    errors.RasterReadError("truncated"),
    errors.RasterDeniedError("403"),
    errors.StoreDeniedError("403"),
    errors.NodataError("empty"),
    errors.ConfigError("a setting"),
    errors.WorkerLostError("out of memory"),
    errors.StoreConflictError("others came first"),
    OSError("No space left on device"),
    FileNotFoundError("gone"),
    MemoryError(),
    ValueError("timeout is no word that counts"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", NETWORK, ids=lambda error: type(error).__name__)
def test_the_network_passes(error: BaseException) -> None:
    assert is_transient(error)
    assert is_transient_type(type(error).__name__)


@pytest.mark.parametrize("error", NOT_THE_NETWORK, ids=lambda error: type(error).__name__)
def test_bad_data_and_bad_settings_never_pass(error: BaseException) -> None:
    assert not is_transient(error)
    assert not is_transient_type(type(error).__name__)


def test_the_cause_counts_and_the_mere_context_does_not() -> None:
    caused, beside = RuntimeError("read failed"), RuntimeError("read failed")
    caused.__cause__ = errors.ImageryError("as said")
    caused.__cause__.__cause__ = ConnectionResetError("reset")
    beside.__context__ = ConnectionResetError("reset")
    assert is_transient(caused)
    assert not is_transient(beside)


def test_causes_in_a_circle_end() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_transient(first)


def test_every_error_of_ours_that_passes_is_known_by_its_name() -> None:
    """``errors`` holds names alone."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.AegirError)]
    assert len(kinds) > 20
    for kind in kinds:
        assert not kind.is_transient or is_transient_type(kind.__name__)


@given(
    st.integers(0, 12),
    st.floats(0.0, 100.0, allow_nan=False),
    st.floats(0.001, 100.0, allow_nan=False),
)
def test_waits_double_with_jitter_up_to_the_longest(retries: int, first: float, longest: float) -> None:
    waits = [*RetryPolicy(retries=retries, first_wait_s=first, longest_wait_s=longest).waits()]
    assert len(waits) == retries
    for number, wait in enumerate(waits):
        span = min(longest, first * 2**number)
        assert span / 2 <= wait <= span


def test_calls_until_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", waited.append)
    left = [ConnectionResetError("1"), TimeoutError("2")]

    def action() -> str:
        if left:
            raise left.pop()
        return "made"

    assert RetryPolicy(retries=2, first_wait_s=1.0).call(action) == ("made", 2)
    assert len(waited) == 2
    assert 0.5 <= waited[0] <= 1.0 <= waited[1] <= 2.0


@pytest.mark.parametrize("retries", [0, 3])
def test_gives_up_with_the_last_error(monkeypatch: pytest.MonkeyPatch, retries: int) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda _: None)
    calls: list[int] = []

    def action() -> None:
        calls.append(1)
        raise ConnectionResetError(f"call {len(calls)}")

    with pytest.raises(ConnectionResetError, match=f"call {retries + 1}"):
        RetryPolicy(retries=retries).call(action)
    assert len(calls) == retries + 1


@pytest.mark.parametrize("error", [errors.RasterReadError("truncated"), KeyboardInterrupt()])
def test_other_errors_are_not_tried_again(error: BaseException) -> None:
    calls: list[int] = []

    def action() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        RetryPolicy(retries=3, first_wait_s=100.0).call(action)
    assert len(calls) == 1
