from pathlib import Path

import numpy as np
import pytest

from utils.sample.spec import stream
from utils.sample.spectra import MATERIALS, mixture, spectra_table, varied

PAGE = Path(__file__).parents[4] / "docs" / "sample_region.md"


def test_the_page_shows_the_spectra_of_the_code() -> None:
    assert PAGE.read_text().endswith(spectra_table())


def test_spectra_are_reflectances_of_12_bands() -> None:
    for name, spectrum in MATERIALS.items():
        assert spectrum.shape == (12,), name
        assert 0 < spectrum.min() <= spectrum.max() < 1, name


def test_a_mixture_is_the_area_weighted_mean() -> None:
    mixed = mixture(soil=3, grass=1)
    assert mixed == pytest.approx(0.75 * MATERIALS["soil"] + 0.25 * MATERIALS["grass"])


def test_objects_vary_around_their_material() -> None:
    rng = stream(0, "test")
    drawn = np.array([varied(MATERIALS["tile_red"], rng) for _ in range(500)])
    assert drawn.mean(axis=0) == pytest.approx(MATERIALS["tile_red"], rel=0.02)
    assert (drawn.std(axis=0) / MATERIALS["tile_red"]).min() > 0.05


def test_streams_differ_by_name_and_repeat() -> None:
    first, again, other = (stream(1, name).random(4) for name in ("a", "a", "b"))
    assert (first == again).all()
    assert (first != other).any()
