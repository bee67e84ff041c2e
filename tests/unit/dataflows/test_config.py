"""Settings: what is refused before work starts, what files mean, what decides whether rows are made again."""

import dataclasses
import math

import pytest
import yaml

from dataflows.config import BuildConfig, from_mapping, load
from utils.errors import ConfigError

LEAST = {
    "catalog": "labels.ducklake",
    "labels": [{"table": "pv", "id": "id", "geometry": "geometry"}],
    "vhr": {"source": "local", "root": "vhr"},
}


def made(**changes):
    return from_mapping(LEAST | changes)


def test_defaults_make_a_table_of_the_default_profile():
    config = made(msi={"source": "local", "root": "msi"})
    assert (config.profile.height, config.profile.gsd_m, len(config.profile.msi_bands)) == (256, 0.3, 12)
    assert made().profile.has_msi is False
    assert config.labels[0].table == "pv"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "red"}, "unknown .*colour"),
        ({"catalog": None}, "label tables pv are in a lake, and `catalog` is missing"),
        ({"catalog": ""}, "catalog must name"),
        ({"labels": [{"table": "pv", "id": "i", "geometry": "g"}] * 2}, "labels names pv twice"),
        ({"labels": [{"table": "pv", "file": "pv.gpkg"}]}, "either `table`"),
        ({"labels": [{"table": "pv", "preset": "mars"}]}, "unknown preset 'mars'"),
        ({"labels": [{"file": "pv.gpkg", "id": 3}]}, "id must be text"),
        ({"labels": [{"file": "pv.gpkg", "axes": "zx"}]}, "axes is 'zx'"),
        ({"labels": [{"file": "pv.gpkg", "expected_bbox_lonlat": [9, 47, 8, 48]}]}, "expected_bbox_lonlat"),
        ({"labels": [{"file": "pv.gpkg", "override_crs": True}]}, "needs a `crs`"),
        ({"labels": [{"table": "pv", "layer": "a", "id": "i", "geometry": "g"}]}, "`layer` belongs to a `file`"),
        ({"installed": [2018]}, "first and a last day"),
        ({"installed": ["2018-13-01", None]}, "is no day"),
        ({"installed": [2018, None]}, "is no day"),
        ({"installed": ["2019-01-01", "2018-01-01"]}, "the first day comes first"),
        ({"keep_undated": "yes"}, "keep_undated is true or false"),
        ({"datasets": {"a": "b"}}, "datasets.a is a mapping"),
        ({"datasets": {"a": {"colour": "red"}}}, "unknown colour"),
        ({"datasets": {"a": {"retrieved": "soon"}}}, "give a day"),
        ({"labels": {"table": "pv"}}, "labels is a list"),
        ({"labels": "pv"}, "labels is a list"),
        ({"labels": ["pv"]}, "label table"),
        ({"labels": None}, "labels"),
        ({"labels": []}, "labels is empty"),
        ({"vhr": "folder"}, "vhr needs a `source`"),
        ({"vhr": None}, "vhr"),
        ({"msi": {"root": "x"}}, "msi needs a `source`"),
        ({"chip_px": 0}, "chip_px must be above 0"),
        ({"chip_px": -256}, "chip_px must be above 0"),
        ({"chip_px": 256.5}, "chip_px must be a whole number"),
        ({"chip_px": "256"}, "chip_px must be a whole number"),
        ({"chip_px": True}, "chip_px must be a whole number"),
        ({"chip_px": math.inf}, "chip_px"),
        ({"chip_px": math.nan}, "chip_px"),
        ({"gsd_m": "0.3 m"}, "gsd_m must be a number"),
        ({"gsd_m": math.nan}, "gsd_m"),
        ({"gsd_m": math.inf}, "gsd_m"),
        ({"guard_m": -1}, "guard_m must be 0 or more"),
        ({"guard_m": math.nan}, "guard_m"),
        ({"guard_m": math.inf}, "guard_m"),
        ({"halo_px": -1}, "halo_px must be 0 or more"),
        ({"background_far_ratio": -0.1}, "background_far_ratio"),
        ({"background_near_ratio": math.nan}, "background_near_ratio"),
        ({"min_valid_fraction": 1.1}, "min_valid_fraction must lie in 0 to 1"),
        ({"min_overlap": -0.1}, "min_overlap must lie in 0 to 1"),
        ({"margin_share": math.nan}, "margin_share"),
        ({"margin_share": -0.5}, "margin_share"),
        ({"partition_level": 31}, "S2 levels"),
        ({"split_level": -1}, "S2 levels"),
        ({"h3_resolution": 16}, "h3_resolution"),
        ({"split_fractions": [0.5, 0.5]}, "split_fractions"),
        ({"split_fractions": [0.5, 0.2, 0.2]}, "sum to 1"),
        ({"split_fractions": [1.5, -0.25, -0.25]}, "split_fractions"),
        ({"split_fractions": ["a", "b", "c"]}, "split_fractions"),
        ({"split_fractions": 0.7}, "split_fractions"),
        ({"aoi_bbox_lonlat": [1, 2, 3]}, "aoi_bbox_lonlat"),
        ({"aoi_bbox_lonlat": [9, 47, 8, 48]}, "aoi_bbox_lonlat"),
        ({"aoi_bbox_lonlat": [8, 47, 9, 91]}, "aoi_bbox_lonlat"),
        ({"aoi_bbox_lonlat": ["a", 47, 9, 48]}, "aoi_bbox_lonlat"),
        ({"aoi_bbox_lonlat": 8}, "aoi_bbox_lonlat"),
        ({"msi_bands": "B02"}, "msi_bands"),
        ({"msi_bands": ["B02", "B02"]}, "msi_bands"),
        ({"msi_bands": []}, "msi_bands"),
        ({"vhr_acquired": "june"}, "give `latest` or a day"),
        ({"vhr_acquired": "2023-06-31"}, "give `latest` or a day"),
        ({"snapshot": "newest"}, "snapshot"),
        ({"snapshot": -1}, "snapshot"),
        ({"mask_options": ["a"]}, "mask_options"),
        ({"mask_options": {5: 6}}, "by name"),
        ({"thresholds": 0.5}, "thresholds"),
        ({"store": ""}, "store"),
        ({"commit_every": 0}, "commit_every must be above 0"),
    ],
)
def test_settings_that_make_no_sense(changes, words):
    with pytest.raises(ConfigError, match=words):
        made(**({"msi": {"source": "local", "root": "msi"}} | changes))


@pytest.mark.parametrize("name", ["labels", "vhr"])
def test_what_has_no_default_is_missing(name):
    with pytest.raises(ConfigError, match=rf"missing \['{name}'\]"):
        from_mapping({key: value for key, value in LEAST.items() if key != name})


def test_several_problems_are_told_at_once():
    with pytest.raises(ConfigError, match=r"chip_px.*; .*guard_m"):
        made(chip_px=0, guard_m=-1)


OUTSIDE = {
    "catalog": "other",
    "labels": [{"table": "other", "id": "id", "lon": "x", "lat": "y"}],
    "store": "elsewhere",
    "snapshot": 5,
    "engine": "processes",
    "workers": 3,
    "ray_address": "auto",
    "memory_budget": "4GB",
    "storage_options": {"request_timeout": "30s"},
    "lease_s": 60,
    "network_retries": 0,
    "network_wait_s": 0.1,
    "aoi_bbox_lonlat": [8, 47, 9, 48],
    "aoi": "area.geojson",
    "installed": ["2018-01-01", None],
    "keep_undated": False,
    "deduplication": {"min_overlap": 0.3},
    "datasets": {"pv": {"doi": "10.1/x"}},
    "manifest": "doi_manifest.json",
    "vhr_acquired": "2023-06-14",
    "commit_every": 3,
    "truth": "t.geojson",
    "background_near_ratio": 2,
    "background_far_ratio": 2,
    "vhr": {"source": "local", "root": "moved"},
}
INSIDE = {
    "chip_px": 128,
    "gsd_m": 0.5,
    "halo_px": 32,
    "msi_px": 32,
    "min_valid_fraction": 0.6,
    "mask_backend": "sam",
    "mask_options": {"a": 1},
    "refinement": {"close_m": 1},
    "thresholds": {"accept": 0.8},
    "calibration": "default",
    "margin_share": 0.1,
    "point_box_m": 10,
    "min_overlap": 0.2,
    "partition_level": 12,
    "split_level": 12,
    "split_fractions": [0.8, 0.1, 0.1],
    "guard_m": 10,
    "h3_resolution": 9,
    "vhr": {"source": "stac"},
    "msi": {"source": "local", "root": "msi"},
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_read_and_where_it_goes_makes_no_row_again(name):
    assert made(**{name: OUTSIDE[name]}).build_config == made().build_config


@pytest.mark.parametrize("name", INSIDE)
def test_what_shapes_rows_makes_them_again(name):
    assert made(**{name: INSIDE[name]}).build_config != made().build_config


def test_every_setting_is_on_one_side():
    """A new setting is decided on here."""
    names = {field.name for field in dataclasses.fields(BuildConfig)}
    assert names - {"msi_bands"} - set(OUTSIDE) - set(INSIDE) <= {"max_label_m"}


def test_the_msi_folder_does_not_matter_but_its_bands_do():
    def msi(**changes):
        return made(msi={"source": "local", "root": "a"}, **changes).build_config

    assert msi() == made(msi={"source": "local", "root": "b"}).build_config
    assert msi() != msi(msi_bands=["B02", "B03", "B04", "B08"])


@pytest.mark.parametrize(
    "same",
    [
        ({"guard_m": 50}, {"guard_m": 50.0}),
        ({"split_fractions": [1, 0, 0]}, {"split_fractions": [1.0, 0.0, 0.0]}),
        ({"chip_px": 256}, {"chip_px": 256.0}),
        ({"mask_options": {"a": 1, "b": 2}}, {"mask_options": {"b": 2, "a": 1}}),
        ({}, {"halo_px": 64, "vhr_acquired": "latest"}),
    ],
)
def test_two_ways_to_write_one_setting_are_one_build(same):
    first, second = same
    assert made(**first).build_config == made(**second).build_config


class TestFiles:
    """flow.yaml and what replaces it."""

    def write(self, folder, text=None, **changes):
        path = folder / "region" / "flow.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(LEAST | changes) if text is None else text)
        return path

    def test_relative_places_are_beside_the_file(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("AEGIR_STORE", raising=False)
        path = self.write(tmp_path, truth="truth/pv.geojson", msi={"source": "local", "root": "../msi"})
        config = load(path)
        assert config.catalog == str(path.parent / "labels.ducklake")
        assert config.vhr["root"] == str(path.parent / "vhr")
        assert config.msi["root"] == str(path.parent / "../msi")
        assert config.truth == str(path.parent / "truth/pv.geojson")
        assert load("region/flow.yaml").catalog == "region/labels.ducklake"

    def test_absolute_places_and_addresses_stay(self, tmp_path):
        path = self.write(tmp_path, catalog="/data/x.ducklake", vhr={"source": "local", "root": "s3://bucket/vhr"})
        config = load(path)
        assert (config.catalog, config.vhr["root"]) == ("/data/x.ducklake", "s3://bucket/vhr")

    def test_days_and_flow_names_as_yaml_reads_them(self, tmp_path):
        path = self.write(tmp_path, yaml.safe_dump(LEAST) + "flow: build\nvhr_acquired: 2023-06-14\n")
        assert load(path).vhr_acquired == "2023-06-14"

    def test_changes_replace_the_file(self, tmp_path):
        path = self.write(tmp_path, store="from the file", chip_px=128)
        config = load(path, store="given", chip_px=64)
        assert (config.store, config.chip_px) == ("given", 64)
        assert load(path).store == "from the file"

    def test_the_environment_names_the_store_of_a_file_without_one(self, tmp_path, monkeypatch):
        monkeypatch.setenv("AEGIR_STORE", "from the environment")
        path = self.write(tmp_path)
        assert load(path).store == "from the environment"
        assert load(path, store="given").store == "given"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "holds no settings"),
            ("[1, 2]", "holds no settings"),
            ("just text", "holds no settings"),
            ("a: [1", "is no YAML"),
            ("catalog: \x00", "is no YAML"),
            ("flow: sample\ncatalog: x", "flow 'sample'"),
            ("catalog: x", "missing"),
            ("catalog: 5\nlabels: [{table: t, id: i, geometry: g}]\nvhr: {source: local, root: x}", "catalog"),
            ("catalog: x\nlabels: [{table: t, id: i, geometry: g}]\nvhr: {source: local, root: 5}", "root"),
        ],
    )
    def test_files_that_hold_no_settings(self, tmp_path, text, words):
        with pytest.raises(ConfigError, match=words):
            load(self.write(tmp_path, text))

    def test_a_missing_file_says_how_to_make_one(self, tmp_path):
        for place in (tmp_path / "no.yaml", tmp_path):
            with pytest.raises(ConfigError, match="python -m dataflows sample"):
                load(place)

    def test_a_binary_file(self, tmp_path):
        path = self.write(tmp_path)
        path.write_bytes(b"\xff\xfe\x00\x01")
        with pytest.raises(ConfigError, match=r"flow\.yaml"):
            load(path)


def test_weights_lie_beside_the_settings_file(tmp_path):
    file = tmp_path / "flow.yaml"
    (tmp_path / "model").mkdir()
    options = {"checkpoint": "weights/sam.pth", "model_id": "model", "config": "configs/sam2.1/sam2.1_hiera_t.yaml"}
    file.write_text(yaml.safe_dump(LEAST | {"mask_backend": "sam", "mask_options": options}))
    found = load(file).mask_options
    assert found == {
        "checkpoint": str(tmp_path / "weights" / "sam.pth"),
        "model_id": str(tmp_path / "model"),
        "config": "configs/sam2.1/sam2.1_hiera_t.yaml",
    }
    file.write_text(yaml.safe_dump(LEAST | {"mask_options": {"checkpoint": "~/sam.pth", "model_id": "facebook/sam"}}))
    assert load(file).mask_options == {"checkpoint": "~/sam.pth", "model_id": "facebook/sam"}
