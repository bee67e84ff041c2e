import numpy as np
import pyarrow as pa
import pytest

from support.training_tables import PROFILE, Chips, training_table
from training.inputs import InputSpec, input_spec
from utils.errors import ConfigError, UnknownNameError
from utils.types import ChipProfile


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return training_table(Chips(splits={"train": 3}))


def pixels(rows: pa.Table, column: str) -> np.ndarray:
    return rows[column].combine_chunks().to_numpy_ndarray()


def test_vhr_reads_the_chip_and_its_mask(rows: pa.Table) -> None:
    spec = input_spec(PROFILE, "vhr")
    np.testing.assert_array_equal(spec.images(rows), pixels(rows, "vhr_image_chip"))
    expected = [np.frombuffer(value.as_py(), np.uint8).reshape(64, 64) for value in rows["generated_mask"]]
    np.testing.assert_array_equal(spec.targets(rows), expected)
    assert spec.channels == ("red", "green", "blue")
    assert spec.size_m == pytest.approx((19.2, 19.2))


def test_missing_mask_is_ignored_everywhere(rows: pa.Table) -> None:
    nulls = pa.array([None] * len(rows), pa.large_binary())
    without = rows.set_column(rows.column_names.index("generated_mask"), "generated_mask", nulls)
    assert (input_spec(PROFILE, "vhr").targets(without) == 255).all()


def test_msi_window_bands_and_indices_in_the_order_asked(rows: pa.Table) -> None:
    spec = input_spec(PROFILE, "msi", bands=["B08", "B04"], indices=["ndvi", "br"], msi_window_px=10)
    images = spec.images(rows)
    raw = pixels(rows, "msi_image_chip")[:, :, 3:13, 3:13].astype(np.float64) / 10000
    nir, red = raw[:, 7], raw[:, 3]
    assert images.dtype == np.float32
    np.testing.assert_allclose(images[:, 0], nir, rtol=1e-6)
    np.testing.assert_allclose(images[:, 1], red, rtol=1e-6)
    np.testing.assert_allclose(images[:, 2], (nir - red) / (nir + red), atol=1e-5)
    np.testing.assert_allclose(images[:, 3], (raw[:, 1] + raw[:, 2] + red + nir) / 4, rtol=1e-5)


def test_msi_nodata_is_nan_in_bands_and_indices(rows: pa.Table) -> None:
    raw = pixels(rows, "msi_image_chip").copy()
    raw[0, 3, 8, 8] = 0
    kind = rows.schema.field("msi_image_chip").type
    flat = pa.FixedSizeListArray.from_arrays(pa.array(raw.reshape(-1)), raw[0].size)
    at = rows.column_names.index("msi_image_chip")
    holed = rows.set_column(at, "msi_image_chip", pa.ExtensionArray.from_storage(kind, flat))
    images = input_spec(PROFILE, "msi", bands=["B04", "B08"], indices=["ndvi"]).images(holed)
    assert np.isnan(images[0, [0, 2], 6, 6]).all()
    assert np.isfinite(images[0, 1]).all()
    assert np.isnan(images).sum() == 2


@pytest.mark.parametrize(("fraction", "lowest"), [(0.25, 64), (0.5, 127), (1.0, 254)])
def test_msi_target_is_the_thresholded_area_fraction(rows: pa.Table, fraction: float, lowest: int) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    at = rows.column_names.index("msi_mask")
    ramp = rows.set_column(at, "msi_mask", pa.array([values.tobytes()] * len(rows), pa.large_binary()))
    target = input_spec(PROFILE, "msi", msi_positive_fraction=fraction, msi_window_px=16).targets(ramp)[0].ravel()
    assert target[255] == 255
    np.testing.assert_array_equal(target[:255], (np.arange(255) >= lowest).astype(np.uint8))


def test_spec_survives_plain_types() -> None:
    for spec in (input_spec(PROFILE, "vhr"), input_spec(PROFILE, "msi", bands=["B02"], indices=["ndvi"])):
        assert InputSpec.from_dict(spec.as_dict()) == spec


def test_unknown_names_list_what_exists() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown training mode 'both'; known: msi, vhr"):
        input_spec(PROFILE, "both")
    with pytest.raises(UnknownNameError, match=r"unknown band 'B10'; known: B01, .*B8A"):
        input_spec(PROFILE, "msi", bands=["B10"])
    with pytest.raises(UnknownNameError, match=r"unknown spectral index 'pvi'; known: bi, br, .*ndvi"):
        input_spec(PROFILE, "msi", indices=["pvi"])
    with pytest.raises(UnknownNameError, match=r"band \(needed by ndvi\) 'B04'"):
        input_spec(ChipProfile(msi_bands=("B02", "B08")), "msi", indices=["ndvi"])


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "vhr", "bands": ["B02"]},
        {"mode": "vhr", "indices": ["ndvi"]},
        {"mode": "msi", "bands": []},
        {"mode": "msi", "bands": ["B02", "B02"]},
        {"mode": "msi", "msi_window_px": 17},
        {"mode": "msi", "msi_positive_fraction": 0.0},
    ],
)
def test_contradictions_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        input_spec(PROFILE, **settings)


def test_table_without_multispectral_chips_has_no_msi_mode() -> None:
    with pytest.raises(ConfigError, match="no multispectral chips"):
        input_spec(ChipProfile(msi_bands=()), "msi")
