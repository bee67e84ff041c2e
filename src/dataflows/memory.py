"""How many chips may be in the making at once under a memory budget."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from math import ceil
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from utils.errors import ConfigError
from utils.types import ChipProfile

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
# benchmarks/memory.py: peaks of 10 to 40 chips grow by 6 to 9.6 bytes per VHR pixel, halo included, with less than one
# prompt per chip; each further prompt's masks, raw, refined and as a row, add about 4. 16 leaves a margin of 1.7
_BYTES_PER_VHR_PIXEL = 16
# uint16 pixels read and as a row, float32 reflectance, and a share of the index planes
_BYTES_PER_MSI_PIXEL = 12
_PROMPTS_RECKONED = 2
_SHARE_PER_PROMPT = 0.25
_SHARE_IN_THE_MAKING = Fraction(6, 10)
_SHARE_WAITING = Fraction(2, 10)
_SHARE_RASTER_CACHE = Fraction(1, 10)
_MOST_RASTER_CACHE = 64 << 20


class _Settings(Protocol):
    @property
    def memory_budget(self) -> str: ...

    @property
    def halo_px(self) -> int: ...

    @property
    def profile(self) -> ChipProfile: ...


@contextmanager
def settled_heap() -> Iterator[None]:
    """What is loaded so far stays: within the block, collections after each task need not look at it again."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def parsed_bytes(text: str) -> int:
    """Bytes of a size such as ``512MB``, ``2GB``, ``1.5GiB`` or a plain number.

    Raises:
        ConfigError: the text is no size, or not above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", str(text).upper())
    size = int(Fraction(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if size <= 0:
        raise ConfigError(f"memory_budget is {text!r}; give a size such as 512MB, 2GB or 1.5GiB")
    return size


def chip_bytes(settings: _Settings) -> int:
    """Peak memory of one chip in the making, with at most two prompts: pixels with halo, masks, index planes, rows.

    Fitted to the peaks that ``benchmarks/memory.py`` measures, with a margin: see the constants.
    """
    profile, halo = settings.profile, settings.halo_px
    vhr = (profile.height + 2 * halo) * (profile.width + 2 * halo)
    msi = len(profile.msi_bands) * profile.msi_height * profile.msi_width
    return _BYTES_PER_VHR_PIXEL * vhr + _BYTES_PER_MSI_PIXEL * msi


def chip_shares(prompts: NDArray[np.int64]) -> NDArray[np.float64]:
    """What chips with so many prompts count for, (chips,): 1, and a quarter more for each prompt above two."""
    return np.asarray(1.0 + _SHARE_PER_PROMPT * np.maximum(prompts - _PROMPTS_RECKONED, 0))


def most_chips(settings: _Settings, *, workers: int) -> int:
    """Chips one task may hold.

    Raises:
        ConfigError: the budget is no size, or holds not even one chip per worker.
    """
    budget = parsed_bytes(settings.memory_budget)
    most = int(_SHARE_IN_THE_MAKING * budget / workers / chip_bytes(settings))
    if most < 1:
        need = ceil(chip_bytes(settings) * workers / _SHARE_IN_THE_MAKING / 10**6)
        chips, fewer = (
            ("one chip", "") if workers == 1 else (f"{workers} chips at once, one per worker", " or fewer workers")
        )
        raise ConfigError(
            f"memory_budget {settings.memory_budget} is too small for {chips}; give at least {need}MB{fewer}"
        )
    return most


def waiting_bytes(settings: _Settings) -> int:
    """Bytes of rows that may wait for a commit."""
    return int(_SHARE_WAITING * parsed_bytes(settings.memory_budget))


def raster_cache_bytes(settings: _Settings, *, workers: int) -> int:
    """Bytes of blocks GDAL may keep in each process; its own default is a twentieth of the machine's memory."""
    return min(_MOST_RASTER_CACHE, int(_SHARE_RASTER_CACHE * parsed_bytes(settings.memory_budget) / workers))
