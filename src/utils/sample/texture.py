"""Periodic noise fields and stripe patterns: what makes a flat colour look like ground.

Noise fields are periodic and read at global pixel positions, so neighbouring tiles continue each other although each
is rendered alone.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from utils.sample.spec import stream

Field = NDArray[np.float32]

StripeKind = Literal["rows", "swath", "tramline", "ribs"]


@dataclass(frozen=True, kw_only=True)
class Stripes:
    """Parallel stripes over a surface: crop rows, mown swaths, tractor tramlines, ribs of a roof."""

    kind: StripeKind
    """Profile across the stripes."""
    angle: float
    """Direction along the stripes, radians from the x axis."""
    period_m: float
    """Distance from stripe to stripe, metres."""
    depth: float
    """Largest relative change of brightness."""


@dataclass(frozen=True, kw_only=True)
class ModuleGrid:
    """The modules of a photovoltaic array: a grid of frames and cells with slightly different gains."""

    origin: tuple[float, float]
    """One corner of the grid, UTM metres."""
    angle: float
    """Direction of the first axis, radians from the x axis."""
    module_u_m: float
    """Module length along the first axis on the ground plane, metres."""
    module_v_m: float
    """Module length along the second axis on the ground plane, metres."""
    line_m: float
    """Width of the joints between modules, metres."""
    line_strength: float
    """How far a joint's colour goes from cell towards frame, 0 to 1."""
    glare: float
    """Specular reflectance added at the brightest corner; 0 for none."""


@dataclass(frozen=True, kw_only=True)
class Grain:
    """Relative amplitudes of the three noise fields on a surface."""

    fine: float = 0.02
    """Pixel-sized grain."""
    medium: float = 0.02
    """Clumps of about two metres."""
    coarse: float = 0.02
    """Patches of about twenty metres."""


_SCALES = (("fine", 512, 0.7), ("medium", 900, 5.0), ("coarse", 1260, 60.0))


def _periodic_noise(rng: np.random.Generator, period: int, scale_px: float) -> Field:
    """Gaussian noise, periodic, of zero mean and unit variance, with features of about ``scale_px`` pixels."""
    white = np.fft.rfft2(rng.standard_normal((period, period), dtype=np.float32))
    frequency = np.hypot(np.fft.fftfreq(period)[:, None], np.fft.rfftfreq(period)[None, :])
    band = np.exp(-2 * (np.pi * frequency * scale_px) ** 2) + 0.35 * np.exp(
        -2 * (np.pi * frequency * scale_px / 3) ** 2
    )
    band[0, 0] = 0.0
    field = np.fft.irfft2(white * band, s=(period, period))
    return np.asarray(field / field.std(), np.float32)


@lru_cache(maxsize=4)
def noise_fields(seed: int) -> tuple[Field, Field, Field]:
    """The fine, medium and coarse noise field of a seed."""
    fine, medium, coarse = (
        np.clip(_periodic_noise(stream(seed, "noise", name), period, scale), -3, 3) for name, period, scale in _SCALES
    )
    return fine, medium, coarse


def noise_window(field: Field, row: int, column: int, height: int, width: int) -> Field:
    """``field`` over global pixels ``row … row + height``, ``column … column + width``, shape (height, width)."""
    rows = np.arange(row, row + height) % field.shape[0]
    columns = np.arange(column, column + width) % field.shape[1]
    return np.asarray(field[rows][:, columns])


_PROFILE_SIZE = 1024


def _profile(kind: StripeKind) -> Field:
    """One period of a stripe profile with zero mean, shape (1024,)."""
    phase = np.arange(_PROFILE_SIZE) / _PROFILE_SIZE
    if kind == "rows":
        values = np.sin(2 * np.pi * phase)
    elif kind == "swath":
        values = np.clip(np.sin(2 * np.pi * phase) * 6, -1, 1)
    elif kind == "tramline":
        distance = np.minimum(np.abs(phase - 0.455), np.abs(phase - 0.545))
        values = -np.exp(-((distance / 0.014) ** 2))
    else:
        values = -np.exp(-(((phase - 0.5) / 0.08) ** 2))
    return np.asarray(values - values.mean(), np.float32)


def stripe_pattern(stripes: Stripes, left: float, top: float, gsd_m: float, height: int, width: int) -> Field:
    """Relative brightness change of ``stripes`` on a north-up window, zero mean, shape (height, width).

    Args:
        stripes: the pattern.
        left: x of the window's left edge, UTM metres.
        top: y of the window's upper edge, UTM metres.
        gsd_m: pixel size, metres.
        height: rows.
        width: columns.
    """
    x = left + (np.arange(width) + 0.5) * gsd_m
    y = top - (np.arange(height) + 0.5) * gsd_m
    across_x = (-np.sin(stripes.angle) * x / stripes.period_m) % 1.0
    across_y = (np.cos(stripes.angle) * y / stripes.period_m) % 1.0
    phase = (across_x[None, :] + across_y[:, None]) * _PROFILE_SIZE
    profile = _profile(stripes.kind) * np.float32(stripes.depth)
    return np.asarray(profile[phase.astype(np.int32) % _PROFILE_SIZE], np.float32)
