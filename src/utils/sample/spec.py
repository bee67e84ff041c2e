"""Sizes, place, dates and random streams of the sample region."""

import zlib
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np

from utils.errors import UnknownNameError

GENERATOR_VERSION = 1
"""Raised by any change of the generator that changes pixels, labels or truth."""

EPSG = 32632
"""UTM zone 32N. The place lies in southern Germany; the land on it is invented."""

ORIGIN = (640_020.0, 5_340_000.0)
"""Upper-left corner of the VHR area, UTM metres; a multiple of 60 m, so that the 10, 20 and 60 m grids nest."""

VHR_GSD_M = 0.3
"""Ground sample distance of the VHR imagery, metres."""

MSI_MARGIN_M = 480.0
"""How far the multispectral scene reaches beyond the VHR area on every side, metres."""


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """One date: when each sensor looked, where the sun stood and how the camera behaved."""

    index: int
    """Position among :data:`ACQUISITIONS`."""
    vhr_time: datetime
    """Acquisition time of the VHR imagery, UTC."""
    msi_time: datetime
    """Acquisition time of the multispectral scene, UTC."""
    vhr_sun_deg: tuple[float, float]
    """Azimuth (clockwise from north) and elevation of the sun in the VHR imagery, degrees."""
    msi_sun_deg: tuple[float, float]
    """Azimuth and elevation of the sun in the multispectral scene, degrees."""
    blur_px: float
    """Standard deviation of the VHR point-spread function, VHR pixels."""
    noise_dn: float
    """Standard deviation of the VHR sensor noise, digital numbers."""
    tone: tuple[float, float, float]
    """Gain of red, green and blue: the camera's white balance."""
    haze: tuple[float, float, float]
    """Path radiance of red, green and blue, reflectance."""
    baseline: str
    """Sentinel-2 processing baseline of the multispectral scene."""
    boa_offset_dn: int
    """What the baseline adds to reflectance × 10000 (the ``BOA_ADD_OFFSET`` with its sign turned), digital numbers."""
    cloudy: bool
    """Whether a cloud and its shadow stand in the south-east corner of the multispectral scene."""

    @property
    def day(self) -> date:
        """Day of the VHR imagery."""
        return self.vhr_time.date()


ACQUISITIONS = (
    Acquisition(
        index=0,
        vhr_time=datetime(2021, 6, 14, 10, 12, tzinfo=UTC),
        msi_time=datetime(2021, 6, 16, 10, 20, 31, tzinfo=UTC),
        vhr_sun_deg=(148.0, 62.0),
        msi_sun_deg=(152.0, 63.0),
        blur_px=0.48,
        noise_dn=2.6,
        tone=(1.0, 0.99, 0.95),
        haze=(0.007, 0.010, 0.015),
        baseline="03.01",
        boa_offset_dn=0,
        cloudy=False,
    ),
    Acquisition(
        index=1,
        vhr_time=datetime(2023, 6, 9, 8, 48, tzinfo=UTC),
        msi_time=datetime(2023, 6, 11, 10, 20, 31, tzinfo=UTC),
        vhr_sun_deg=(116.0, 52.0),
        msi_sun_deg=(152.0, 63.0),
        blur_px=0.4,
        noise_dn=2.0,
        tone=(1.02, 1.0, 1.0),
        haze=(0.006, 0.008, 0.011),
        baseline="05.09",
        boa_offset_dn=1000,
        cloudy=True,
    ),
)
"""The two dates, earlier first."""


@dataclass(frozen=True, kw_only=True)
class SampleSize:
    """How large a region is and what stands on it."""

    name: str
    """``test``, ``demo`` or ``flywheel``."""
    tiles: int
    """VHR tiles along each side."""
    tile_px: int
    """Side of a VHR tile, pixels; a multiple of 200, so that tiles start on the 60 m grid."""
    district_m2: float
    """Mean area of a district (what one network of roads encloses), m²."""
    districts: tuple[tuple[str, int], ...]
    """Kind of district and how many of them the VHR area holds; the rest is farmland."""
    village_centres: int
    """Around how many places the villages gather."""
    has_river: bool
    """Whether a river crosses the region."""
    home_pv_share: float
    """Share of village houses with modules, before their roof is looked at."""
    partition_level: int
    """S2 level of the build flow's partitions."""
    split_level: int
    """S2 level of the cells that are split into train, val and test."""

    @property
    def tile_m(self) -> float:
        """Side of a VHR tile, metres."""
        return self.tile_px * VHR_GSD_M

    @property
    def side_m(self) -> float:
        """Side of the VHR area, metres."""
        return self.tiles * self.tile_m

    @property
    def vhr_bounds(self) -> tuple[float, float, float, float]:
        """``(min x, min y, max x, max y)`` of the VHR area, UTM metres."""
        left, top = ORIGIN
        return left, top - self.side_m, left + self.side_m, top

    @property
    def msi_bounds(self) -> tuple[float, float, float, float]:
        """``(min x, min y, max x, max y)`` of the multispectral scene, UTM metres."""
        left, bottom, right, top = self.vhr_bounds
        return left - MSI_MARGIN_M, bottom - MSI_MARGIN_M, right + MSI_MARGIN_M, top + MSI_MARGIN_M


SIZES = {
    size.name: size
    for size in (
        SampleSize(
            name="test",
            tiles=2,
            tile_px=600,
            district_m2=11_000.0,
            districts=(("village", 5), ("industry", 1), ("park", 1), ("nursery", 1), ("lake", 1)),
            village_centres=1,
            has_river=False,
            home_pv_share=0.85,
            partition_level=15,
            split_level=17,
        ),
        SampleSize(
            name="demo",
            tiles=3,
            tile_px=1200,
            district_m2=44_000.0,
            districts=(("village", 8), ("industry", 3), ("park", 2), ("nursery", 2), ("forest", 2), ("lake", 1)),
            village_centres=2,
            has_river=True,
            home_pv_share=0.46,
            partition_level=14,
            split_level=14,
        ),
        SampleSize(
            name="flywheel",
            tiles=8,
            tile_px=1000,
            district_m2=50_000.0,
            districts=(("village", 40), ("industry", 10), ("park", 7), ("nursery", 7), ("forest", 8), ("lake", 2)),
            village_centres=7,
            has_river=True,
            home_pv_share=0.46,
            partition_level=14,
            split_level=15,
        ),
    )
}
"""Name → size."""


def sample_size(name: str) -> SampleSize:
    """The size called ``name``.

    Raises:
        UnknownNameError: no such size.
    """
    if name not in SIZES:
        raise UnknownNameError("sample size", name, list(SIZES))
    return SIZES[name]


def stream(seed: int, *names: object) -> np.random.Generator:
    """A random stream of its own for one part of the region, the same for the same seed and names."""
    words = [zlib.crc32(str(name).encode()) for name in names]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))
