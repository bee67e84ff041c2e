"""Statistics of an object in multispectral pixels: exact unmixing, z-scores against scipy, and what does not count."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from utils.spectral_evidence import observed, unmixed, z_score
from utils.types import S2_L2A_BANDS, ChipGrid, RasterChip

GRID = ChipGrid(epsg=32632, transform=(10.0, 0.0, 600_000.0, 0.0, -10.0, 5_300_000.0), height=12, width=12)
NOON = datetime(2023, 6, 1, 10, tzinfo=UTC)


def chip(reflectance: np.ndarray, scl: np.ndarray | None = None) -> RasterChip:
    return RasterChip(
        data=np.rint(reflectance * 10_000).astype(np.uint16),
        valid=np.ones((12, 12), bool),
        grid=GRID,
        bands=S2_L2A_BANDS,
        source="made",
        scene_ids=("scene",),
        sensor="S2A",
        acquired_at=NOON,
        scl=scl,
    )


def mixed(obj: np.ndarray, around: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    return fractions * obj[:, None, None] + (1 - fractions) * around[:, None, None]


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_unmixing_gives_back_what_was_mixed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    obj, around = rng.uniform(0.02, 0.5, (2, 12))
    fractions = np.where(rng.random((12, 12)) < 0.2, rng.random((12, 12)), 0)
    fractions[5, 5] = 0.4
    np.testing.assert_allclose(unmixed(mixed(obj, around, fractions), fractions, around), obj, atol=1e-9)


def test_z_is_welchs_statistic_for_whole_pixels() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(12, 12))
    inside, around = np.zeros((12, 12)), np.zeros((12, 12))
    inside[:4], around[6:] = 1, 1
    values[:4] *= 3
    welch = stats.ttest_ind(values[:4].ravel(), values[6:].ravel(), equal_var=False)
    # population variances where scipy takes sample ones
    assert z_score(values, inside, around) == pytest.approx(welch.statistic, rel=0.02)
    assert z_score(values, inside * 0.01, around) is None


def test_clouded_pixels_do_not_count() -> None:
    obj, around = np.full(12, 0.1), np.full(12, 0.3)
    fractions = np.zeros((12, 12))
    fractions[4:8, 4:8] = 1
    reflectance = mixed(obj, around, fractions)
    reflectance[:, :, 6:] = 0.9
    scl = np.full((12, 12), 5, np.uint8)
    scl[:, 6:] = 9
    seen = observed(chip(reflectance, scl), fractions, fractions, np.ones((12, 12), bool))
    assert (seen.effective_px, seen.clear_px, seen.cloud_share) == (16, 8, 0.5)
    np.testing.assert_allclose(seen.object, obj, atol=1e-9)
    np.testing.assert_allclose(seen.ring, around, atol=1e-9)


def test_other_objects_are_no_surroundings() -> None:
    mine, all_of_them = np.zeros((12, 12)), np.zeros((12, 12))
    mine[4:8, 2:6] = 1
    all_of_them[4:8, 2:6] = all_of_them[4:8, 8:12] = 1
    reflectance = np.where(all_of_them > 0, 0.1, 0.3)[None].repeat(12, axis=0)
    seen = observed(chip(reflectance), mine, all_of_them, np.ones((12, 12), bool))
    np.testing.assert_allclose(seen.ring, 0.3, atol=1e-9)
    assert seen.ring_px == 144 - 32


def test_an_object_under_cloud_has_no_spectrum() -> None:
    fractions = np.zeros((12, 12))
    fractions[4:8, 4:8] = 1
    seen = observed(
        chip(np.full((12, 12, 12), 0.5), np.full((12, 12), 9, np.uint8)), fractions, fractions, fractions == 0
    )
    assert seen.clear_px == 0
    assert np.isnan(seen.object).all()
    assert np.isnan(seen.index("ndvi"))
    assert seen.z == {}
