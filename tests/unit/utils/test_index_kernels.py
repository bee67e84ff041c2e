"""Formulas as text: what may stand in one, and what the compiled loop makes of it."""

import numpy as np
import pytest

from utils.errors import ConfigError
from utils.index_kernels import evaluated, parsed
from utils.indices import INDICES, Index


def test_bands_stand_in_the_order_of_the_text():
    formula = parsed("(B11 - 0.5 * B02) / (B02 + B11 + B8A)")
    assert formula.bands == ("B11", "B02", "B8A")
    assert (formula.numerator, formula.denominator) == ("B11 - 0.5 * B02", "B02 + B11 + B8A")
    assert parsed("(B02 + B03) / 2").denominator is None
    assert parsed("-B02").bands == ("B02",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ("B08 -", "cannot be read"),
        ("1 / 2", "names no band"),
        ("B08 ** 2", "use band names"),
        ("B08 * scale", "holds 'scale'"),
        ("sqrt(B08)", "use band names"),
        ("__import__('os')", "use band names"),
        ("B08.size", "use band names"),
        ("B08[0]", "use band names"),
        ("'a' * B08", "use band names"),
        ("True * B08", "use band names"),
        ("B08 if B04 else B02", "use band names"),
        ("B08 / B04 + 1", "write it as one ratio"),
        ("(B08 / B04) / B02", "write it as one ratio"),
    ],
)
def test_anything_else_is_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        parsed(text)
    with pytest.raises(ConfigError):
        Index(title="X", meaning="x", formula=text, bounds=(0, 1), unit="1", source="nowhere")


def test_constants_do_not_widen_the_arithmetic():
    """A tenth is another number in float32 than in float64: a product in float64, rounded once, would differ."""
    plane = np.random.default_rng(3).uniform(0, 1, 10_000).astype(np.float32)
    narrow = np.float32(0.1) * plane - np.float32(0.07)
    assert np.array_equal(evaluated("0.1 * B02 - 0.07", [plane]), narrow)
    assert not np.array_equal(narrow, (0.1 * plane.astype(np.float64) - 0.07).astype(np.float32))


def test_a_number_over_bands_is_guarded():
    plane = np.array([0, 2, np.nan], np.float32)
    assert np.array_equal(evaluated("1 / B02", [plane]), np.array([np.nan, 0.5, np.nan], np.float32), equal_nan=True)


def test_planes_are_read_once_and_not_copied():
    import tracemalloc

    planes = [np.full((1024, 1024), 0.5, np.float32), np.full((1024, 1024), 0.25, np.float32)]
    evaluated(INDICES["ndvi"].formula, planes)
    tracemalloc.start()
    result = evaluated(INDICES["ndvi"].formula, planes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.nbytes <= peak < 1.05 * result.nbytes
