"""Spectral indices against spyndex, and what every index must keep to."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import spyndex
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from utils.errors import BandError, BandTypeError, ConfigError, UnknownNameError
from utils.indices import INDICES, spectral_index
from utils.types import S2_L2A_BANDS

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


def written_out(name: str, bands: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The formula as numpy evaluates it, operation by operation in the bands' type; NaN for a denominator of 0."""
    with np.errstate(all="ignore"):
        value = eval(INDICES[name].formula, {}, dict(bands))  # noqa: S307 - our own table
    return np.where(np.isinf(value), np.nan, value).astype(value.dtype)


@settings(deadline=None)
@given(REFLECTANCE, st.sampled_from(list(INDICES)))
def test_values_keep_shape_type_and_range_and_are_numpys(bands: dict[str, NDArray[np.float32]], name: str) -> None:
    result = spectral_index(name, bands)
    assert (result.shape, result.dtype) == ((3, 4), np.float32)
    spec = INDICES[name]
    low, high = spec.bounds
    known = result[~np.isnan(result)]
    assert ((known >= low) & (known <= high)).all()
    assert np.array_equal(result, written_out(name, bands), equal_nan=True)


@settings(deadline=None)
@given(REFLECTANCE, st.sampled_from([name for name, spec in INDICES.items() if spec.is_ratio]), st.integers(-6, 6))
def test_ratios_do_not_know_the_scale(bands: dict[str, NDArray[np.float32]], name: str, power: int) -> None:
    """A power of two moves no rounding unless it makes a number subnormal, so the results are the same bits."""
    coarse = {band: np.round(plane, 4) for band, plane in bands.items()}
    scaled = {band: plane * np.float32(2.0**power) for band, plane in coarse.items()}
    assert np.array_equal(spectral_index(name, coarse), spectral_index(name, scaled), equal_nan=True)


@settings(deadline=None)
@given(REFLECTANCE, st.sampled_from(list(INDICES)), st.data())
def test_nodata_in_any_band_is_nodata_in_the_index(
    bands: dict[str, NDArray[np.float32]], name: str, data: st.DataObject
) -> None:
    holes = {band: data.draw(arrays(np.bool_, (3, 4)), label=band) for band in INDICES[name].bands}
    holed = bands | {band: np.where(hole, np.float32(np.nan), bands[band]) for band, hole in holes.items()}
    whole, result = spectral_index(name, bands), spectral_index(name, holed)
    anywhere = np.logical_or.reduce(list(holes.values()))
    assert np.isnan(result[anywhere]).all()
    assert np.array_equal(result[~anywhere], whole[~anywhere], equal_nan=True)


@settings(deadline=None)
@given(
    st.fixed_dictionaries({band: arrays(np.uint16, (2, 5)) for band in BANDS}),
    st.sampled_from(list(INDICES)),
)
def test_digital_numbers_give_what_their_reflectance_gives(bands: dict[str, NDArray[np.uint16]], name: str) -> None:
    nodata = np.logical_or.reduce([bands[band] == 0 for band in INDICES[name].bands])
    floats = {
        band: np.where(nodata, np.float32(np.nan), plane / np.float32(10_000)).astype(np.float32)
        for band, plane in bands.items()
    }
    result = spectral_index(name, bands, scale=10_000)
    assert np.array_equal(result, spectral_index(name, floats), equal_nan=True)
    assert np.array_equal(np.isnan(result), nodata)


LAYOUTS = {
    "transposed": lambda plane: plane.T,
    "every other": lambda plane: plane[::2, 1::3],
    "upside down": lambda plane: plane[::-1],
    "one band of chips": lambda plane: np.stack([plane, plane * 2], axis=1).reshape(8, 2, 8, 64)[:, 1],
    "big endian": lambda plane: plane.astype(">f4"),
    "read only": lambda plane: np.frombuffer(plane.tobytes(), np.float32).reshape(plane.shape),
    "empty": lambda plane: plane[:0],
    "one number": lambda plane: plane[3, 4],
    "many blocks": lambda plane: np.tile(plane, (40, 7))[:, :-1],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
@EVERY_INDEX
def test_any_layout(name: str, layout: Any) -> None:
    bands = {band: layout(plane) for band, plane in noise().items()}
    native = {band: np.asarray(plane, np.float32) for band, plane in bands.items()}
    result = spectral_index(name, bands)
    assert result.dtype == np.float32
    assert np.array_equal(result, written_out(name, native))


@EVERY_INDEX
def test_float64_is_rounded_first_and_types_may_mix(name: str) -> None:
    bands = noise()
    wide = {band: plane.astype(np.float64) + 1e-12 for band, plane in bands.items()}
    assert np.array_equal(spectral_index(name, wide), spectral_index(name, bands))
    first = INDICES[name].bands[0]
    assert np.array_equal(spectral_index(name, bands | {first: wide[first]}), spectral_index(name, bands))


@EVERY_INDEX
def test_numbers_beyond_float32_do_not_warn(name: str) -> None:
    bands = {band: np.full((2, 2), 1e300) for band in BANDS}
    with np.errstate(all="raise"):
        result = spectral_index(name, bands)
    assert np.isnan(result).all() if INDICES[name].is_ratio else np.isinf(result).all()


def test_threads_share_one_compiled_loop() -> None:
    bands = noise()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: spectral_index("ndbi", bands), range(16)))
    assert all(np.array_equal(result, written_out("ndbi", bands)) for result in results)


@EVERY_INDEX
def test_zero_denominator_and_nodata_are_nan_without_a_warning(name: str) -> None:
    dark = {band: np.zeros((2, 2), np.float32) for band in BANDS}
    with np.errstate(all="raise"):
        result = spectral_index(name, dark)
    assert np.isnan(result).all() if INDICES[name].is_ratio else (result == 0).all()
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
    with pytest.raises(BandTypeError, match="divide the digital numbers by 10000"):
        spectral_index(name, numbers)
    one_left = noise() | {INDICES[name].bands[-1]: np.full((64, 64), 100, dtype)}
    with pytest.raises(TypeError):
        spectral_index(name, one_left)


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.float32, np.complex64, np.bool_])
def test_only_uint8_and_uint16_are_digital_numbers(dtype: type) -> None:
    with pytest.raises(BandTypeError, match="uint8 or uint16"):
        spectral_index("ndvi", {band: np.ones((2, 2), dtype) for band in BANDS}, scale=10_000)


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf")])
def test_a_scale_is_a_positive_number(scale: float) -> None:
    with pytest.raises(ConfigError, match="10000 for Sentinel-2"):
        spectral_index("ndvi", {band: np.ones((2, 2), np.uint16) for band in BANDS}, scale=scale)


def test_bands_of_two_shapes_are_refused() -> None:
    bands = noise() | {"B04": np.ones((64, 1), np.float32)}
    with pytest.raises(BandError, match=r"one shape, got \(64, 1\), \(64, 64\)"):
        spectral_index("ndvi", bands)


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
    assert set(spec.bands) <= set(S2_L2A_BANDS)
