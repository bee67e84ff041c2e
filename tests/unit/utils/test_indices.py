"""Spectral indices against spyndex, and what every index must keep to."""

import numpy as np
import pytest
import spyndex
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from utils.errors import BandError, UnknownNameError
from utils.indices import INDICES, spectral_index

SPYNDEX_BAND = {"B02": "B", "B03": "G", "B04": "R", "B08": "N", "B11": "S1", "B12": "S2"}
SHARED = {"ndvi": "NDVI", "ndbi": "NDBI", "ndwi": "NDWI", "mndwi": "MNDWI", "ui": "UI", "bi": "BI"}
BANDS = sorted({band for spec in INDICES.values() for band in spec.bands})
EVERY_INDEX = pytest.mark.parametrize("name", list(INDICES))
REFLECTANCE = st.fixed_dictionaries(
    {band: arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32, allow_subnormal=False)) for band in BANDS}
)


def noise(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return {band: random.uniform(0.001, 1, (64, 64)).astype(np.float32) for band in BANDS}


@pytest.mark.parametrize("name", list(SHARED))
def test_equals_spyndex(name: str) -> None:
    bands = noise()
    listed = spyndex.indices[SHARED[name]]
    assert {SPYNDEX_BAND[band] for band in INDICES[name].bands} == set(listed.bands)
    wanted = spyndex.computeIndex(
        [SHARED[name]], params={letter: bands[band].astype(np.float64) for band, letter in SPYNDEX_BAND.items()}
    )
    assert np.allclose(spectral_index(name, bands), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "pixel", "value"),
    [
        ("ndpvi", {"B02": 0.2, "B08": 0.3}, (0.1 - 0.3) / (0.1 + 0.3)),
        ("nbd", {"B02": 0.3, "B04": 0.1, "B03": 0.2}, (0.3 - 0.15) / (0.3 + 0.15)),
        ("br", {"B02": 0.1, "B03": 0.2, "B04": 0.3, "B08": 0.4}, 0.25),
        ("ndvi", {"B04": 0.05, "B08": 0.45}, 0.8),
        ("bi", {"B11": 0.4, "B04": 0.3, "B08": 0.2, "B02": 0.1}, 0.4),
    ],
)
def test_worked_by_hand(name: str, pixel: dict[str, float], value: float) -> None:
    bands = {band: np.full((1, 1), number, np.float32) for band, number in pixel.items()}
    assert spectral_index(name, bands)[0, 0] == pytest.approx(value, rel=1e-5)


@given(REFLECTANCE, st.sampled_from(list(INDICES)))
def test_values_keep_shape_type_and_range(bands: dict[str, NDArray[np.float32]], name: str) -> None:
    result = spectral_index(name, bands)
    assert result.shape == (3, 4)
    assert result.dtype == np.float32
    spec = INDICES[name]
    known = result[np.isfinite(result)]
    low = 0.0 if spec.denominator is None else -1.0
    assert ((known >= low - 1e-5) & (known <= 1 + 1e-5)).all()
    assert not np.isinf(result).any()
    if spec.denominator is not None:
        zero = spec.denominator(*(bands[band] for band in spec.bands)) == 0
        assert np.array_equal(np.isnan(result), zero)


@EVERY_INDEX
def test_zero_denominator_and_nodata_are_nan_without_a_warning(name: str) -> None:
    dark = {band: np.zeros((2, 2), np.float32) for band in BANDS}
    with np.errstate(all="raise"):
        result = spectral_index(name, dark)
    if INDICES[name].denominator is None:
        assert (result == 0).all()
    else:
        assert np.isnan(result).all()
    for band in INDICES[name].bands:
        holed = noise()
        holed[band][5, 7] = np.nan
        result = spectral_index(name, holed)
        assert np.isnan(result[5, 7])
        assert np.isnan(result).sum() == 1


@EVERY_INDEX
def test_inputs_are_left_as_they_were(name: str) -> None:
    bands, before = noise(), noise()
    spectral_index(name, bands)
    assert all(np.array_equal(bands[band], before[band]) for band in BANDS)


@EVERY_INDEX
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_digital_numbers_are_refused(name: str, dtype: type) -> None:
    numbers = {band: np.full((2, 2), 100, dtype) for band in BANDS}
    with pytest.raises(TypeError, match="divide the digital numbers by 10000"):
        spectral_index(name, numbers)
    one_left = noise() | {INDICES[name].bands[-1]: np.full((64, 64), 100, dtype)}
    with pytest.raises(TypeError):
        spectral_index(name, one_left)


@EVERY_INDEX
def test_missing_bands_are_named(name: str) -> None:
    bands = noise()
    gone = INDICES[name].bands[0]
    del bands[gone]
    with pytest.raises(BandError, match=f"missing: {gone}"):
        spectral_index(name, bands)


def test_unknown_index_lists_the_known() -> None:
    with pytest.raises(UnknownNameError, match="unknown spectral index 'savi'; known: bi, br"):
        spectral_index("savi", noise())


@EVERY_INDEX
def test_every_index_names_its_source_and_unit(name: str) -> None:
    spec = INDICES[name]
    assert spec.source
    assert spec.unit
    assert name == spec.title.lower()
    assert len(set(spec.bands)) == len(spec.bands)
