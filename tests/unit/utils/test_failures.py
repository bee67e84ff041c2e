"""What is kept of an exception: who, what, and a hash of where."""

import pytest

from utils.errors import BandError, RasterReadError
from utils.failures import Failure, interrupted


def reading(place):
    raise RasterReadError(f"{place}: cannot be read")


def other_reading(place):
    raise RasterReadError(f"{place}: cannot be read")


def of(action, *arguments, **options):
    try:
        action(*arguments)
    except Exception as error:  # noqa: BLE001 - any will do
        return Failure.of("node", error, **options)
    pytest.fail("nothing was raised")


def test_everything_known_is_kept():
    failure = of(reading, "a.tif", input_ids=("scene",), uuid="chip", partition=7)
    assert (failure.node, failure.error_type, failure.message) == ("node", "RasterReadError", "a.tif: cannot be read")
    assert (failure.input_ids, failure.uuid, failure.partition) == (("scene",), "chip", 7)
    assert len(failure.traceback_hash) == 16


def test_one_cause_has_one_hash_whatever_it_was_about():
    causes = {of(reading, place).traceback_hash for place in ("a.tif", "b.tif", "")}
    assert len(causes) == 1


def test_another_place_or_kind_of_error_has_another_hash():
    def band():
        raise BandError("x")

    def missing():
        return {}["x"]

    assert (
        len({of(f, *a).traceback_hash for f, a in ((reading, "a"), (other_reading, "a"), (band, ()), (missing, ()))})
        == 4
    )


def test_an_error_never_raised_has_no_frames_and_still_a_hash():
    first, second = (Failure.of("node", BandError(text)) for text in ("a", "b"))
    assert first.traceback_hash == second.traceback_hash
    assert first.traceback_hash != Failure.of("node", RasterReadError("a")).traceback_hash
    assert (first.input_ids, first.uuid, first.partition) == ((), None, None)


def test_an_interrupt_is_known_under_another_name():
    query = RuntimeError("Query interrupted")
    query.__cause__ = KeyboardInterrupt()
    assert interrupted(query)
    assert interrupted(ValueError("External error: KeyboardInterrupt: "))
    circle = ValueError("its own cause")
    circle.__cause__ = circle
    assert [interrupted(found) for found in (KeyboardInterrupt(), RuntimeError("Query interrupted"), circle)] == [
        True,
        False,
        False,
    ]
