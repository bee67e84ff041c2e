"""Nodes of the change flow: which scenes, which grid, which pixels; refusals before anything is read."""

from dataclasses import replace

import numpy as np
import pytest
import spyndex
from hamilton import driver

from dataflows import drivers
from dataflows import spectral_change as module
from store.imagery import get
from support.node_inputs import BANDS, msi_chip
from support.scene_pairs import EPSG, LEFT, TOP, write_scene
from utils.errors import BandError, ConfigError, CRSError, GridError, NoImageryError, SceneClassError
from utils.geo import reproject_bounds
from utils.indices import INDICES
from utils.scl import DROPPED
from utils.types import ChipGrid

DRIVER = driver.Builder().with_modules(module).build()
ALL = [f"{name}_difference" for name in INDICES]
SPYNDEX = {"B02": "B", "B03": "G", "B04": "R", "B08": "N", "B11": "S1", "B12": "S2"}


def noise(seed, shape=(20, 30), bands=BANDS):
    random = np.random.default_rng(seed)
    return {band: random.integers(1, 9000, shape).astype(np.uint16) for band in bands}


@pytest.fixture
def pair(tmp_path):
    """Two dates of 20 × 30 pixels with all bands of the indices."""
    write_scene(tmp_path, "before", noise(1))
    write_scene(tmp_path, "after", noise(2))
    return tmp_path


def settings(root, **more):
    return {"msi": {"source": "local", "root": str(root)}, "before": "before", "after": "after"} | more


def run(nodes, root, **more):
    return drivers.build_driver("change", settings(root, **more)).execute(nodes)


def test_every_index_is_spyndexs_of_both_dates(pair):
    found = run(ALL, pair)
    for name in ("ndvi", "ndbi", "ndwi", "mndwi", "ui", "bi"):
        dates = [
            spyndex.computeIndex(name.upper(), {SPYNDEX[band]: plane / 1e4 for band, plane in noise(seed).items()})
            for seed in (1, 2)
        ]
        np.testing.assert_allclose(found[f"{name}_difference"], dates[1] - dates[0], rtol=0, atol=5e-7)


def test_the_same_scene_twice_would_not_change():
    chip = msi_chip()
    found = DRIVER.execute(
        ["change_statistics"],
        overrides={"before_scene": chip, "after_scene": chip, "skipped_indices": {}},
        inputs={"change_threshold": 0.2},
    )["change_statistics"]
    assert set(found) == set(INDICES)
    for row in found.values():
        assert (row["n_valid"], row["mean"], row["std"], row["share_loss"], row["share_gain"]) == (64, 0, 0, 0, 0)


@pytest.mark.parametrize("code", range(12))
@pytest.mark.parametrize("date", ["before", "after"])
def test_pixels_count_where_both_classes_are_kept(code, date):
    chips = {"before": msi_chip(scl=4), "after": msi_chip(scl=5)}
    scl = chips[date].scl.copy()
    scl[2] = code
    valid = np.ones((8, 8), bool)
    valid[:, 7] = False
    chips[date] = replace(chips[date], scl=scl)
    chips["before"] = replace(chips["before"], valid=valid)
    found = DRIVER.execute(
        ["change_valid", *ALL],
        overrides={"before_scene": chips["before"], "after_scene": chips["after"], "skipped_indices": {}},
    )
    wanted = valid.copy()
    wanted[2] &= code not in DROPPED
    assert np.array_equal(found["change_valid"], wanted)
    assert all(np.array_equal(np.isnan(found[name]), ~wanted) for name in ALL)


def test_a_date_without_classes_is_valid_where_it_holds_data():
    chips = {"before_scene": msi_chip(scl=0), "after_scene": replace(msi_chip(), scl=None)}
    assert DRIVER.execute(["change_valid"], overrides=chips)["change_valid"].all()
    with pytest.raises(SceneClassError):
        DRIVER.execute(["change_valid"], overrides=chips | {"after_scene": msi_chip(scl=42)})


def test_grids_that_differ_are_refused():
    chip = msi_chip()
    a, b, c, d, e, f = chip.grid.transform
    for grid in (replace(chip.grid, epsg=32633), replace(chip.grid, transform=(a, b, c + 5, d, e, f))):
        with pytest.raises(GridError, match="not co-registered"):
            DRIVER.execute(["change_valid"], overrides={"before_scene": chip, "after_scene": replace(chip, grid=grid)})


def test_nodata_and_empty_denominators_are_nan(tmp_path):
    first, second = noise(1), noise(2)
    first["B04"][3, 4] = 0
    second["B12"][5, 6] = 0
    write_scene(tmp_path, "before", first)
    write_scene(tmp_path, "after", second)
    found = run(["change_valid", "change_statistics", *ALL], tmp_path)
    wanted = np.ones((20, 30), bool)
    wanted[3, 4] = wanted[5, 6] = False
    assert np.array_equal(found["change_valid"], wanted)
    assert {row["n_valid"] for row in found["change_statistics"].values()} == {598}


def test_nothing_valid_has_no_statistics(tmp_path):
    write_scene(tmp_path, "before", noise(1))
    write_scene(tmp_path, "after", noise(2) | {"SCL": np.full((20, 30), 9, np.uint8)})
    for row in run(["change_statistics"], tmp_path)["change_statistics"].values():
        assert (row["n_pixels"], row["n_valid"]) == (600, 0)
        assert row["mean"] is row["std"] is row["share_loss"] is row["share_gain"] is None


def test_the_threshold_counts_what_is_beyond_it(tmp_path):
    red = np.full((2, 4), 2500, np.uint16)
    write_scene(tmp_path, "before", {"B04": red, "B08": np.full((2, 4), 7500, np.uint16)})
    after = np.array([[7500, 2500, 2500, 2500], [7500, 7500, 7500, 17500]], np.uint16)
    write_scene(tmp_path, "after", {"B04": red, "B08": after})
    rows = {
        threshold: run(["change_statistics"], tmp_path, change_threshold=threshold)["change_statistics"]["ndvi"]
        for threshold in (0.2, 0.5)
    }
    assert (rows[0.2]["share_loss"], rows[0.2]["share_gain"]) == (3 / 8, 1 / 8)
    assert (rows[0.5]["share_loss"], rows[0.5]["share_gain"]) == (0, 0)


def test_missing_bands_skip_their_indices_alone(tmp_path):
    write_scene(tmp_path, "before", noise(1, bands=("B02", "B03", "B04", "B08", "B11")))
    write_scene(tmp_path, "after", noise(2, bands=("B03", "B04", "B08", "B11", "B12")))
    found = run(["skipped_indices", "change_statistics", "change_bands"], tmp_path)
    assert set(found["change_statistics"]) == {"ndvi", "ndwi", "mndwi", "ndbi"}
    assert set(found["skipped_indices"]) == {"ui", "bi", "ndpvi", "nbd", "br"}
    assert found["skipped_indices"]["ui"] == "UI needs B12, which not every scene of the pair holds"
    assert found["change_bands"] == ("B03", "B04", "B08", "B11")


def test_files_that_cannot_be_used_are_told(pair):
    (pair / "torn.tif").write_bytes(b"II*")
    found = drivers.run_change(settings(pair))
    assert [place.rpartition("/")[2] for place in found["unreadable"]] == ["torn.tif"]
    assert set(found["statistics"]) == set(INDICES)


def test_a_pair_without_any_index_is_refused(tmp_path):
    for which in ("before", "after"):
        write_scene(tmp_path, which, noise(1, bands=("B05", "B08")))
    with pytest.raises(BandError, match="bands B05, B08 on both dates"):
        run(["change_statistics"], tmp_path)


class TestScenes:
    """Days and ids."""

    def test_a_day_takes_all_its_scenes(self, pair):
        write_scene(pair, "beside", noise(3), left=LEFT + 300, when="2021-08-12T10:26:20Z")
        source = get("local", root=pair, kind="msi")
        found = module.scene_pair(source, "2020-08-07", "2021-08-12")
        assert found.before_ids == ("before",)
        assert found.after_ids == ("beside", "after")
        assert module.scene_pair(source, "before", "after").after_ids == ("after",)

    @pytest.mark.parametrize("which", ["2020-08-08", "Before", "", "2020-13-40"])
    def test_an_unknown_date_lists_what_there_is(self, pair, which):
        with pytest.raises(NoImageryError, match=r"no scene has .*2020-08-07 before, 2021-08-12 after"):
            run(["scene_pair"], pair, before=which)

    def test_time_runs_forward(self, pair):
        for before, after in (("after", "before"), ("before", "before"), ("2021-08-12", "2021-08-12")):
            with pytest.raises(ConfigError, match="exchange the two"):
                run(["scene_pair"], pair, before=before, after=after)

    def test_scenes_of_two_places_are_refused(self, tmp_path):
        write_scene(tmp_path, "before", noise(1))
        write_scene(tmp_path, "after", noise(2), left=LEFT + 5000)
        with pytest.raises(NoImageryError, match="no common ground"):
            run(["scene_pair"], tmp_path)

    def test_sources_that_cannot_be_made(self, tmp_path):
        for msi, words in (
            ({"source": "moon"}, "unknown imagery source"),
            ({"root": str(tmp_path)}, "give `source`"),
            ({"source": "local", "root": str(tmp_path), "colour": 1}, "colour"),
            ({"source": "local", "root": str(tmp_path / "no")}, "no imagery folder"),
        ):
            with pytest.raises(ConfigError, match=words):
                run(["scene_pair"], tmp_path, msi=msi)

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(NoImageryError, match=r"there are: \(none\)"):
            run(["scene_pair"], tmp_path)


class TestGrid:
    """Where the pixels lie."""

    def test_it_is_the_common_ground_on_the_scenes_own_pixels(self, tmp_path):
        write_scene(tmp_path, "before", noise(1))
        write_scene(tmp_path, "after", noise(2), left=LEFT + 70, top=TOP - 30)
        found = run(["change_grid", "ndvi_difference"], tmp_path)
        grid = found["change_grid"]
        assert (grid.epsg, grid.height, grid.width) == (EPSG, 17, 23)
        assert grid.transform == (10, 0, LEFT + 70, 0, -10, TOP - 30)
        first, second = noise(1), noise(2)
        x, y = ({band: plane.astype(np.float64) for band, plane in date.items()} for date in (first, second))
        one = ((x["B08"] - x["B04"]) / (x["B08"] + x["B04"]))[3:, 7:]
        two = ((y["B08"] - y["B04"]) / (y["B08"] + y["B04"]))[:17, :23]
        np.testing.assert_allclose(found["ndvi_difference"], two - one, rtol=0, atol=5e-7)

    def test_another_crs_is_read_on_the_first_dates_grid(self, tmp_path):
        flat = {band: np.full((60, 60), 3000, np.uint16) for band in BANDS}
        write_scene(tmp_path, "before", noise(1))
        west, _, _, north = reproject_bounds((LEFT - 100, TOP - 400, LEFT + 400, TOP + 100), EPSG, 32633)
        write_scene(tmp_path, "after", flat, epsg=32633, left=west, top=north)
        found = run(["change_grid", "change_valid", "br_difference"], tmp_path)
        assert found["change_grid"].epsg == EPSG
        assert found["change_valid"].mean() > 0.9
        level = np.mean([noise(1)[band] for band in INDICES["br"].bands], axis=0) / 1e4
        height, width = found["change_grid"].height, found["change_grid"].width
        assert (height, width) == (20, 30)
        wanted = np.where(found["change_valid"], 0.3 - level, np.nan)
        np.testing.assert_allclose(found["br_difference"], wanted, rtol=0, atol=5e-7)

    def test_degrees_become_the_utm_zone(self, tmp_path):
        for seed, which in enumerate(("before", "after")):
            write_scene(tmp_path, which, noise(seed), epsg=4326, left=9.0, top=47.0, gsd_m=1e-4)
        grid = run(["change_grid"], tmp_path)["change_grid"]
        assert (grid.epsg, grid.gsd_m) == (32632, 10)

    def test_an_area_of_interest_may_reach_beyond(self, pair):
        bounds = reproject_bounds((LEFT + 105, TOP - 95, LEFT + 500, TOP - 5), EPSG, 4326)
        found = run(["change_grid", "change_valid"], pair, aoi_bbox_lonlat=list(bounds))
        grid = found["change_grid"]
        assert (grid.transform[2], grid.transform[5]) == (LEFT + 100, TOP)
        assert found["change_valid"][:, :20].all()
        assert not found["change_valid"][:, 20:].any()

    def test_areas_that_make_no_sense(self, pair):
        for aoi, kind, words in (
            ([9, 46, 8, 47], ConfigError, "west < east"),
            ([9, 46, 10, float("nan")], ConfigError, "west, south, east, north"),
            ([9, 46, 10], ConfigError, "west, south, east, north"),
            ([30, 46, 31, 47], NoImageryError, "outside the ground .* lies within"),
            ([0, 40, 20, 55], ConfigError, "more than one run holds"),
        ):
            with pytest.raises(kind, match=words):
                run(["change_grid"], pair, aoi_bbox_lonlat=aoi)
        for gsd in (0, -10, float("nan"), float("inf")):
            with pytest.raises(ConfigError, match="gsd_m"):
                run(["change_grid"], pair, gsd_m=gsd)
        with pytest.raises(ConfigError, match="change_threshold"):
            run(["change_statistics"], pair, change_threshold=0)

    def test_an_unknown_crs_cannot_be_a_grid(self, pair):
        source = get("local", root=pair, kind="msi")
        found = replace(module.scene_pair(source, "before", "after"), epsg=999_999)
        with pytest.raises(CRSError):
            module.change_grid(found, None, 10.0)
        assert isinstance(module.change_grid(replace(found, epsg=EPSG), None, 10.0), ChipGrid)
