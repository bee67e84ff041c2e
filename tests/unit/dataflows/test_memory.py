"""Sizes as people write them, and how many chips fit."""

import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.memory import chip_bytes, most_chips, parsed_bytes, waiting_bytes
from utils.errors import ConfigError
from utils.types import ChipProfile

FACTORS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
FACTORS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "k": 10**3, "gi": 2**30, "B": 1}


DEFAULT = ChipProfile()


@dataclass
class Settings:
    memory_budget: str = "2GB"
    halo_px: int = 32
    profile: ChipProfile = DEFAULT


@given(st.integers(1, 10**15), st.sampled_from(sorted(FACTORS)), st.sampled_from(["", " ", "  "]))
def test_whole_numbers_are_exact(number: int, unit: str, space: str) -> None:
    assert parsed_bytes(f"{number}{space}{unit}") == number * FACTORS[unit]


@given(st.integers(0, 9999), st.integers(0, 999), st.sampled_from(sorted(FACTORS)))
def test_fractions_are_cut_to_bytes(whole: int, thousandths: int, unit: str) -> None:
    expected = (whole * 1000 + thousandths) * FACTORS[unit] // 1000
    text = f"{whole}.{thousandths:03d}{unit}"
    if expected:
        assert parsed_bytes(text) == expected
    else:
        with pytest.raises(ConfigError):
            parsed_bytes(text)


@given(st.text())
def test_any_text_is_a_size_above_0_or_refused(text: str) -> None:
    try:
        assert parsed_bytes(text) > 0
    except ConfigError as error:
        assert repr(text) in str(error)  # noqa: PT017 - both outcomes are right


@pytest.mark.parametrize("text", ["", "0", "0GB", "-1GB", "plenty", "1 G B", "GB", "1e9", "nan", "inf", "2 PB", "1IB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="such as 512MB"):
        parsed_bytes(text)


def test_a_number_of_many_digits_is_one() -> None:
    assert parsed_bytes("9" * 400) > 10**399 - 10**380


@given(
    st.integers(1, 64),
    st.integers(16, 1024),
    st.integers(0, 128),
    st.integers(1, 1000),
)
def test_more_memory_more_chips_and_more_workers_fewer(workers: int, side: int, halo: int, chips: int) -> None:
    profile = ChipProfile(height=side, width=side)
    need = chip_bytes(Settings(profile=profile, halo_px=halo))
    budget = str(int(need * workers * (chips + 0.5) / 0.6))
    settings = Settings(profile=profile, halo_px=halo, memory_budget=budget)
    assert most_chips(settings, workers=workers) == chips
    assert most_chips(settings, workers=1) >= chips * workers
    assert workers * chips * need + waiting_bytes(settings) <= parsed_bytes(budget)


@given(st.integers(1, 64), st.integers(16, 1024))
def test_too_small_a_budget_is_refused_with_one_that_does(workers: int, side: int) -> None:
    settings = Settings(profile=ChipProfile(height=side, width=side), memory_budget="1KB")
    with pytest.raises(ConfigError, match="too small") as refused:
        most_chips(settings, workers=workers)
    found = re.search(r"at least (\d+MB)", str(refused.value))
    assert found
    settings.memory_budget = found[1]
    assert most_chips(settings, workers=workers) >= 1
    assert ("fewer workers" in str(refused.value)) == (workers > 1)


def test_a_chip_needs_more_than_its_pixels() -> None:
    settings = Settings()
    profile = settings.profile
    pixels = 3 * profile.height * profile.width
    assert chip_bytes(settings) > 4 * pixels
    assert chip_bytes(Settings(halo_px=64)) > chip_bytes(settings) > chip_bytes(Settings(halo_px=0))
