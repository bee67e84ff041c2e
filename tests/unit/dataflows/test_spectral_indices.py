"""Index nodes against spyndex, and their means against sums by hand."""

import numpy as np
import pytest
import spyndex
from hamilton import driver
from rasterio.enums import Resampling
from rasterio.warp import reproject

from dataflows import spectral_indices as module
from support.node_inputs import BANDS, EPSG, LEFT, TOP, msi_chip
from utils.area import area_fractions
from utils.errors import SceneClassError
from utils.indices import INDICES
from utils.scl import DROPPED
from utils.types import IGNORE, ChipGrid, RasterChip

DRIVER = driver.Builder().with_modules(module).build()
SPYNDEX = {"B02": "B", "B03": "G", "B04": "R", "B08": "N", "B11": "S1", "B12": "S2"}


def run(nodes, chips, masks=None):
    return DRIVER.execute(nodes, inputs={"msi_chips": chips, "msi_masks": masks or {}})


def rectangle(rows, columns, fraction):
    mask = np.zeros((8, 8), np.uint8)
    mask[slice(*rows), slice(*columns)] = fraction
    return mask


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("ndvi", "NDVI"), ("ndwi", "NDWI"), ("mndwi", "MNDWI"), ("ndbi", "NDBI"), ("ui", "UI"), ("bi", "BI")],
)
def test_index_images_are_spyndexs(name, theirs):
    chips = {"a": msi_chip(), "b": msi_chip(np.random.default_rng(9).integers(1, 9000, (len(BANDS), 8, 8)))}
    image = run([name], chips)[name]
    pixels = np.stack([chip.data for chip in chips.values()]).astype(np.float64) / 10_000
    wanted = spyndex.computeIndex(theirs, {SPYNDEX[band]: pixels[:, k] for k, band in enumerate(BANDS)})
    assert image.shape == (2, 8, 8)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, wanted, rtol=2e-4, atol=1e-6)


def test_pixels_without_data_are_nan_in_every_index():
    valid = np.ones((8, 8), bool)
    valid[2:4, 5] = False
    images = run(list(INDICES), {"a": msi_chip(valid=valid)})
    for name, image in images.items():
        np.testing.assert_array_equal(np.isnan(image[0]), ~valid, err_msg=name)


def test_reflectance_is_a_ten_thousandth():
    reflectance = run(["msi_reflectance"], {"a": msi_chip(np.full((len(BANDS), 8, 8), 2500))})["msi_reflectance"]
    assert list(reflectance) == list(BANDS)
    assert all((plane == 0.25).all() for plane in reflectance.values())


def by_hand(image, weights):
    total = count = 0.0
    for value, weight in zip(image.ravel(), weights.ravel(), strict=True):
        if np.isfinite(value):
            total += float(value) * weight
            count += weight
    return total / count, count


def test_means_inside_and_around_are_weighted_by_area():
    fractions = rectangle((2, 5), (2, 5), 254)
    fractions[2, 2], fractions[6, 6], fractions[7, 7] = 127, 10, 40
    fractions[0] = IGNORE
    valid = np.ones((8, 8), bool)
    valid[3, 3] = valid[1, 1] = False
    chip = msi_chip(valid=valid)
    results = run(["index_statistics", *INDICES], {"a": chip}, {"a": fractions})
    row = results["index_statistics"]["a"]
    known = fractions != IGNORE
    inside = np.where(known, fractions / 254, 0)
    ring = np.where(known & (inside < 0.05), 1 - inside, 0)
    names = {f"{name}_{place}" for name in INDICES for place in ("chip", "inside", "ring")}
    assert set(row) == names | {"index_inside_px", "index_ring_px"}
    for name in INDICES:
        image = results[name][0]
        for place, weights in (("chip", np.ones((8, 8))), ("inside", inside), ("ring", ring)):
            mean, count = by_hand(image, weights)
            assert row[f"{name}_{place}"] == pytest.approx(mean, rel=1e-5), (name, place)
            if place != "chip":
                assert row[f"index_{place}_px"] == pytest.approx(count)


@pytest.mark.parametrize(
    ("fractions", "inside", "ring"),
    [
        (rectangle((2, 4), (2, 4), 254), True, True),
        (rectangle((2, 4), (2, 4), 253), False, True),
        (rectangle((2, 6), (2, 6), 64), True, True),
        (rectangle((0, 8), (0, 8), 254), True, False),
        (rectangle((0, 0), (0, 0), 0), False, False),
        (rectangle((0, 8), (0, 8), IGNORE), False, False),
        (rectangle((0, 8), (0, 8), 5), False, True),
    ],
    ids=["four whole pixels", "a little less", "sixteen quarters", "PV all over", "no PV", "unknown", "traces"],
)
def test_means_over_too_few_pixels_are_null(fractions, inside, ring):
    row = run(["index_statistics"], {"a": msi_chip()}, {"a": fractions})["index_statistics"]["a"]
    assert (row["ndvi_inside"] is not None, row["ndvi_ring"] is not None) == (inside, ring)
    assert row["ndvi_chip"] is not None


def test_a_chip_without_any_data_has_no_means():
    row = run(
        ["index_statistics"], {"a": msi_chip(valid=np.zeros((8, 8), bool))}, {"a": rectangle((2, 5), (2, 5), 254)}
    )
    row = row["index_statistics"]["a"]
    assert (row.pop("index_inside_px"), row.pop("index_ring_px")) == (0, 0)
    assert set(row.values()) == {None}


@pytest.mark.parametrize("code", range(12))
def test_pixels_of_dropped_classes_do_not_count(code):
    """One row of pixels across mask and ring carries the class; its values would move every mean."""
    data = np.full((len(BANDS), 8, 8), 1000)
    data[BANDS.index("B08"), 3] = 9000
    scl = np.full((8, 8), 5, np.uint8)
    scl[3] = code
    chip = RasterChip(**{**vars(msi_chip(data)), "scl": scl})
    row = run(["index_statistics"], {"a": chip}, {"a": rectangle((2, 5), (2, 5), 254)})["index_statistics"]["a"]
    rows = 2 if code in DROPPED else 3
    share = 0 if code in DROPPED else 1 / 3
    assert row["index_inside_px"] == rows * 3
    assert row["index_ring_px"] == 64 - 9 - (5 if code in DROPPED else 0)
    assert row["ndvi_inside"] == pytest.approx(share * 0.8, abs=1e-6)
    assert (row["ndvi_chip"] > 0) == (row["ndvi_ring"] > 0) == (code not in DROPPED)


def test_a_chip_without_any_class_is_clear_where_it_holds_data():
    masks = {"a": rectangle((2, 5), (2, 5), 254)}
    unclassified = run(["index_statistics"], {"a": msi_chip(scl=0)}, masks)
    without = RasterChip(**{**vars(msi_chip()), "scl": None})
    ground = run(["index_statistics"], {"a": msi_chip(scl=5)}, masks)
    assert unclassified == ground == run(["index_statistics"], {"a": without}, masks)


def test_a_raster_that_is_no_classification_is_refused():
    with pytest.raises(SceneClassError, match="values 77"):
        run(["index_statistics"], {"a": msi_chip(scl=77)}, {"a": rectangle((2, 5), (2, 5), 254)})


def test_means_with_the_area_fractions_of_rasterio():
    """GDAL's average of the fine mask on the coarse grid is the weight, in steps of 1/254 as the table stores it."""
    chip = msi_chip()
    fine = ChipGrid(epsg=EPSG, transform=(0.5, 0.0, LEFT - 20, 0.0, -0.5, TOP + 20), height=128, width=128)
    mask = (np.add.outer((np.arange(128) - 60) ** 2, (np.arange(128) - 71) ** 2) < 45**2).astype(np.uint8)
    shares = np.zeros((8, 8))
    reproject(
        mask.astype(np.float64), shares, src_transform=fine.affine, dst_transform=chip.grid.affine,
        src_crs=f"EPSG:{EPSG}", dst_crs=f"EPSG:{EPSG}", resampling=Resampling.average, src_nodata=None,
    )  # fmt: skip
    fractions = area_fractions(mask, fine, chip.grid)
    known = fractions != IGNORE
    weights = np.where(known, np.rint(shares * 254) / 254, 0)
    assert np.count_nonzero((weights > 0) & (weights < 1)) > 10
    results = run(["index_statistics", *INDICES], {"a": chip}, {"a": fractions})
    row = results["index_statistics"]["a"]
    ring = np.where(known & (weights < 0.05), 1 - weights, 0)
    for name in INDICES:
        image = results[name][0].astype(np.float64)
        assert row[f"{name}_inside"] == pytest.approx(np.average(image, weights=weights), rel=1e-12), name
        assert row[f"{name}_ring"] == pytest.approx(np.average(image, weights=ring), rel=1e-12), name
    assert row["index_inside_px"] == pytest.approx(weights.sum(), rel=1e-12)
    assert row["index_inside_px"] == pytest.approx(shares[known].sum(), abs=64 / 508)


def test_chips_without_masks_and_builds_without_chips():
    assert run(["index_statistics"], {"a": msi_chip(), "b": msi_chip()}, {"b": rectangle((2, 5), (2, 5), 254)})[
        "index_statistics"
    ].keys() == {"b"}
    results = run(["index_statistics", "ndvi", "msi_reflectance"], {})
    assert results["index_statistics"] == results["msi_reflectance"] == {}
    assert results["ndvi"].size == 0


def test_chips_keep_their_own_numbers():
    low, high = (np.full((len(BANDS), 8, 8), 1000), np.full((len(BANDS), 8, 8), 1000))
    high[BANDS.index("B08")] = 3000
    masks = {name: rectangle((2, 5), (2, 5), 254) for name in ("low", "high")}
    rows = run(["index_statistics"], {"low": msi_chip(low), "high": msi_chip(high)}, masks)["index_statistics"]
    assert rows["low"]["ndvi_inside"] == pytest.approx(0)
    assert rows["high"]["ndvi_inside"] == pytest.approx(0.5)


def test_a_profile_that_lacks_bands_has_null_where_it_needs_them():
    full = msi_chip()
    few = ("B02", "B03", "B04", "B08")
    chip = RasterChip(**{**vars(full), "data": full.data[:4], "bands": few})
    row = run(["index_statistics"], {"a": chip}, {"a": rectangle((2, 5), (2, 5), 254)})["index_statistics"]["a"]
    for name, spec in INDICES.items():
        assert (row[f"{name}_chip"] is not None) == (set(spec.bands) <= set(few)), name
