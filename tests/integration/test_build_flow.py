"""The build flow through its real door: rows, alignment, resume, and bad input."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from dataflows import drivers
from dataflows.__main__ import main
from dataflows.config import from_mapping
from store import ducklake, lance_io, lineage
from store.schemas import training_data
from support import mini_region
from utils import errors
from utils.geo import reproject
from utils.quality import iou


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    region = mini_region.make(tmp_path_factory.mktemp("mini") / "region")
    return region, drivers.run("build", region.settings)


@pytest.fixture
def region(tmp_path):
    return mini_region.make(tmp_path / "region")


def rows(region, columns, where=None):
    return lance_io.scan(region.settings["store"], "training_data", columns, where).to_pylist()


def errors_of(region):
    return lance_io.scan(
        region.settings["store"], "errors", ["node", "error_type", "message", "uuid", "attempt"]
    ).to_pylist()


def test_every_label_becomes_an_accepted_mask_on_its_own_pixels(built):
    region, summary = built
    assert (summary.status, summary.exit_code, summary.chips_failed) == ("done", 0, 0)
    assert summary.masks == {"accept": 5, "review": 0, "reject": 0, "not_in_chip": 0}
    truth = mini_region.pv_boxes()
    for row in rows(region, ["vhr_transform", "vhr_epsg", "generated_mask", "n_accepted"], "n_accepted > 0"):
        mask = np.frombuffer(row["generated_mask"], np.uint8).reshape(256, 256) == 1
        wanted = rasterize(truth, out_shape=mask.shape, transform=Affine(*row["vhr_transform"])) > 0
        assert row["vhr_epsg"] == mini_region.EPSG
        assert iou(mask, wanted) > 0.9


def test_vhr_pixels_equal_a_warped_vrt(built):
    region, _ = built
    dataset = lance_io.open_table(region.settings["store"], "training_data")
    table = dataset.to_table(columns=["vhr_image_chip", "vhr_transform", "vhr_scene_ids"])
    compared = 0
    chips = table["vhr_image_chip"].combine_chunks().to_numpy_ndarray()
    for chip, row in zip(chips, table.drop_columns(["vhr_image_chip"]).to_pylist(), strict=True):
        if len(row["vhr_scene_ids"]) != 1:
            continue
        path = region.root / "vhr" / f"{row['vhr_scene_ids'][0]}.tif"
        with (
            rasterio.open(path) as raster,
            WarpedVRT(
                raster,
                crs=f"EPSG:{mini_region.EPSG}",
                transform=Affine(*row["vhr_transform"]),
                width=256,
                height=256,
                resampling=rasterio.enums.Resampling.bilinear,
            ) as oracle,
        ):
            np.testing.assert_array_equal(chip, oracle.read())
        compared += 1
    assert compared >= 2


def test_msi_reflectance_has_no_baseline_offset(built):
    region, _ = built
    table = lance_io.open_table(region.settings["store"], "training_data").to_table(
        columns=["msi_image_chip", "msi_scl"]
    )
    chips = table["msi_image_chip"].combine_chunks().to_numpy_ndarray()
    assert chips.shape[1:] == (12, 64, 64)
    for number in range(12):
        assert 1495 + 100 * number <= chips[:, number].min() <= chips[:, number].max() <= 1605 + 100 * number
    assert (table["msi_scl"].combine_chunks().to_numpy_ndarray() == 4).all()


def test_msi_mask_is_the_area_fraction_under_the_vhr_chip(built):
    region, _ = built
    columns = ["msi_mask", "generated_mask", "vhr_transform", "msi_transform"]
    for row in rows(region, columns):
        fractions = np.frombuffer(row["msi_mask"], np.uint8).reshape(64, 64)
        known = fractions != 255
        assert 36 <= known.sum() <= 64
        fine = np.frombuffer(row["generated_mask"], np.uint8).reshape(256, 256)
        centres = np.meshgrid(np.arange(256) + 0.5, np.arange(256) + 0.5)
        columns_rows = ~Affine(*row["msi_transform"]) @ (Affine(*row["vhr_transform"]) @ tuple(centres))
        column, line = (np.floor(axis).astype(int) for axis in columns_rows)
        pv = np.zeros((64, 64))
        np.add.at(pv, (line, column), (fine == 1) * 0.09 / 100)
        # counting pixel centres is off by at most a rim of one VHR pixel
        np.testing.assert_allclose(fractions[known] / 254, pv[known], atol=0.07)


def test_the_second_run_adds_nothing(built):
    region, first = built
    store = region.settings["store"]
    versions = {name: lance_io.open_table(store, name).version for name in lance_io.table_names(store)}
    again = drivers.run("build", region.settings)
    assert (again.chips_skipped, again.chips_written, again.exit_code) == (first.chips_planned, 0, 0)
    assert versions == {name: lance_io.open_table(store, name).version for name in lance_io.table_names(store)}


def test_tables_have_the_promised_storage(built):
    region, _ = built
    dataset = lance_io.open_table(region.settings["store"], "training_data")
    assert dataset.schema.equals(training_data(), check_metadata=True)
    assert dataset.data_storage_version == "2.2"
    assert dataset.has_stable_row_ids
    assert {name for index in dataset.describe_indices() for name in index.field_names} == {"uuid", "s2_cell"}


def test_split_is_a_function_of_the_cell(built):
    region, _ = built
    found = rows(region, ["split_cell", "split", "uuid"])
    assert {row["split"] for row in found} >= {"train", "val", "test"}
    by_cell: dict[int, set[str]] = {}
    for row in found:
        by_cell.setdefault(row["split_cell"], set()).add(row["split"])
    assert all(len(splits - {"guard"}) <= 1 for splits in by_cell.values())


def test_explain_follows_a_chip_to_label_image_code_and_mask(built, capsys):
    region, summary = built
    store = region.settings["store"]
    uuid = rows(region, ["uuid"], "n_accepted > 0")[0]["uuid"]
    chain = lineage.explain(store, uuid)
    assert [prompt["label_table"] for prompt in chain["prompts"]] == ["pv"]
    assert chain["masks"][0]["verdict"] == "accept"
    assert {scene["source"] for scene in chain["scenes"]} == {"local"}
    assert chain["run"]["run_id"] == summary.run_id
    assert chain["run"]["recipes"]["mask"] == chain["chip"]["mask_recipe"]
    assert "dataflows.mask_backends.classical" in chain["run"]["code"]["mask"]
    assert main(["explain", uuid[:8], "--store", store]) == 0
    assert "pv/" in capsys.readouterr().out
    assert main(["explain", uuid, "--store", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chip"]["uuid"] == uuid
    assert main(["explain", "ffffffff-none", "--store", store]) == 2


def test_backend_is_one_word_and_an_unknown_one_lists_what_exists(region):
    with pytest.raises(errors.UnknownNameError, match="classical"):
        drivers.run("build", region.settings | {"mask_backend": "clasical"})
    with pytest.raises(errors.UnknownNameError, match="local"):
        drivers.run("build", region.settings | {"vhr": {"source": "lokal"}})


def test_a_changed_setting_makes_rows_again_and_keeps_their_ids(region):
    drivers.run("build", region.settings)
    before = {row["uuid"] for row in rows(region, ["uuid"])}
    again = drivers.run("build", region.settings | {"thresholds": {"max_area_m2": 2.0}})
    assert (again.chips_written, again.masks["review"]) == (len(before), 5)
    assert {row["uuid"] for row in rows(region, ["uuid"])} == before


def test_a_change_of_how_imagery_is_read_makes_rows_again(region):
    drivers.run("build", region.settings)
    again = drivers.run("build", region.settings)
    assert again.chips_written == 0
    chips = {row["uuid"] for row in rows(region, ["uuid"])}
    sharper = region.settings["vhr"] | {"resampling": {"continuous": "cubic"}}
    changed = drivers.run("build", region.settings | {"vhr": sharper})
    assert changed.chips_written == len(chips)
    assert {row["uuid"] for row in rows(region, ["uuid"])} == chips
    assert drivers.run("build", region.settings | {"vhr": sharper}).chips_written == 0


def test_a_new_label_makes_only_its_chip_again(region):
    drivers.run("build", region.settings)
    connection = ducklake.connect(region.settings["catalog"], create=True)
    centre = reproject(shapely.Point(mini_region.pv_boxes()[0].centroid), mini_region.EPSG, 4326)
    connection.execute("INSERT INTO lake.pv VALUES ('new', ST_GeomFromText(?))", [centre.wkt])
    connection.close()
    again = drivers.run("build", region.settings)
    assert again.chips_written == 1
    pinned = drivers.plan_build(from_mapping(region.settings | {"snapshot": 6}))
    assert len(pinned.prompts) == 5


def interrupted_at(partition):
    def progress(summary):
        if summary.partitions_done == partition and not summary.seconds:
            raise KeyboardInterrupt

    return progress


def test_interrupt_keeps_finished_partitions_and_the_next_run_goes_on(region, tmp_path):
    stopped = drivers.run("build", region.settings, progress=interrupted_at(2))
    assert (stopped.status, stopped.exit_code) == ("interrupted", 130)
    assert 0 < stopped.chips_written < stopped.chips_planned
    resumed = drivers.run("build", region.settings)
    assert resumed.chips_skipped == stopped.chips_written
    whole = drivers.run("build", region.settings | {"store": str(tmp_path / "other")})
    assert resumed.chips_skipped + resumed.chips_written == whole.chips_written
    assert pixels_of(region.settings["store"]) == pixels_of(str(tmp_path / "other"))


def pixels_of(store):
    table = lance_io.open_table(store, "training_data").to_table(
        columns=["uuid", "vhr_image_chip", "generated_mask", "msi_image_chip", "msi_mask", "split", "input_set"]
    )
    images = [
        column.combine_chunks().to_numpy_ndarray() for column in (table["vhr_image_chip"], table["msi_image_chip"])
    ]
    return {
        row["uuid"]: (
            row["generated_mask"],
            row["msi_mask"],
            row["split"],
            row["input_set"],
            *(im[i].tobytes() for im in images),
        )
        for i, row in enumerate(table.drop_columns(["vhr_image_chip", "msi_image_chip"]).to_pylist())
    }


def test_a_killed_run_loses_and_doubles_nothing(region, tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps(region.settings))
    script = (
        "import json, os, sys; from dataflows import drivers\n"
        "def die(s):\n    if s.partitions_done == 3: os._exit(9)\n"
        "drivers.run('build', json.load(open(sys.argv[1])), progress=die)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "settings.json")]
    assert subprocess.run(command, check=False, env={**os.environ}).returncode == 9
    left = lance_io.open_table(region.settings["store"], "training_data").count_rows()
    resumed = drivers.run("build", region.settings)
    assert 0 < left < resumed.chips_planned
    assert (resumed.chips_skipped, resumed.chips_written) == (left, resumed.chips_planned - left)
    drivers.run("build", region.settings | {"store": str(tmp_path / "other")})
    assert pixels_of(region.settings["store"]) == pixels_of(str(tmp_path / "other"))
    for table, key in (("masks", "mask_id"), ("prompts", "prompt_id")):
        ids = [
            lance_io.scan(s, table, [key])[key].to_pylist() for s in (region.settings["store"], str(tmp_path / "other"))
        ]
        assert len(ids[0]) == len(set(ids[0]))
        assert set(ids[0]) == set(ids[1])


class TestBadInput:
    """Each is a typed error before work, or a row in ``errors`` and a non-zero exit; nothing is half-written."""

    def refused(self, settings, error, match):
        with pytest.raises(error, match=match):
            drivers.run("build", settings)
        assert not Path(settings["store"]).exists()

    def test_missing_catalogue(self, region):
        self.refused(region.settings | {"catalog": "/nowhere.ducklake"}, errors.CatalogNotFoundError, "nowhere")

    def test_a_file_that_is_no_catalogue(self, region, tmp_path):
        (tmp_path / "junk").write_bytes(b"junk" * 999)
        self.refused(
            region.settings | {"catalog": str(tmp_path / "junk")}, errors.CatalogNotFoundError, "not a DuckLake"
        )

    def test_a_duckdb_file_that_is_no_lake(self, region, tmp_path):
        duckdb.connect(tmp_path / "plain.db").execute("CREATE TABLE pv (id INT)").close()
        settings = region.settings | {"catalog": str(tmp_path / "plain.db")}
        self.refused(settings, errors.CatalogNotFoundError, "not a DuckLake")

    def test_empty_catalogue(self, region, tmp_path):
        ducklake.connect(tmp_path / "empty.ducklake", data_path=tmp_path / "files", create=True).close()
        self.refused(
            region.settings | {"catalog": str(tmp_path / "empty.ducklake")}, errors.CatalogEmptyError, "load labels"
        )

    def test_empty_label_table(self, region, tmp_path):
        mini_region.write_labels(tmp_path / "l.ducklake", [])
        self.refused(region.settings | {"catalog": str(tmp_path / "l.ducklake")}, errors.CatalogEmptyError, "no label")

    def test_table_without_the_geometry_column(self, region):
        labels = [{"table": "pv", "id": "id", "geometry": "shape"}]
        self.refused(
            region.settings | {"labels": labels}, errors.LabelTableError, "no column shape; it has id, geometry"
        )

    def test_unknown_table(self, region):
        labels = [{"table": "vp", "id": "id", "geometry": "geometry"}]
        self.refused(region.settings | {"labels": labels}, errors.LabelTableError, "it has: pv")

    def test_unknown_snapshot(self, region):
        self.refused(region.settings | {"snapshot": 999}, errors.LabelTableError, "999")

    def test_unknown_crs(self, region):
        labels = [{"table": "pv", "id": "id", "geometry": "geometry", "crs": "EPSG:999999"}]
        self.refused(region.settings | {"labels": labels}, errors.AegirError, "999999")

    def test_labels_in_another_crs_than_stated(self, region, tmp_path):
        mini_region.write_labels(tmp_path / "l.ducklake", [("box", box) for box in mini_region.pv_boxes()])
        self.refused(region.settings | {"catalog": str(tmp_path / "l.ducklake")}, errors.LabelError, "axis order")

    def test_labels_outside_all_imagery(self, region, tmp_path):
        mini_region.write_labels(tmp_path / "l.ducklake", [("point", shapely.Point(20.0, 40.0))])
        settings = region.settings | {"catalog": str(tmp_path / "l.ducklake")}
        self.refused(settings, errors.LabelsOutsideImageryError, "axis order")

    def test_one_band_where_three_are_needed(self, region):
        for path in region.vhr_tiles:
            with rasterio.open(path) as raster:
                data = raster.read([1])
                left, top = raster.transform @ (0, 0)
            mini_region.write_raster(path, data, left, top, 0.3)
        self.refused(region.settings, errors.BandError, "red, green, blue")

    def test_no_imagery_folder(self, region):
        settings = region.settings | {"vhr": {"source": "local", "root": "/nowhere"}}
        self.refused(settings, errors.ConfigError, "no imagery folder")

    def test_an_unknown_option_of_the_imagery(self, region):
        vhr = region.settings["vhr"] | {"colour": "red"}
        self.refused(region.settings | {"vhr": vhr}, errors.ConfigError, "unknown options colour; known: root")

    def test_deep_vhr_without_a_stretch(self, region):
        for path in region.vhr_tiles:
            with rasterio.open(path) as raster:
                profile, data = raster.profile, raster.read()
            with rasterio.open(path, "w", **profile | {"dtype": "uint16"}) as raster:
                raster.write(data.astype("uint16") * 10)
        self.refused(region.settings, errors.BandError, "stretch: {kind: linear, low: 0, high: 3000}")
        vhr = region.settings["vhr"] | {"stretch": {"kind": "linear", "low": 0, "high": 2550}}
        assert drivers.run("build", region.settings | {"vhr": vhr}).chips_written > 0

    def test_no_date_for_bare_rasters(self, region):
        settings = region.settings | {"vhr": {"source": "local", "root": region.settings["vhr"]["root"]}}
        self.refused(settings, errors.BandError, "acquired_at")

    def test_store_that_cannot_be_written(self, region, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(errors.StoreNotWritableError, match="cannot be written"):
            drivers.run("build", region.settings | {"store": str(tmp_path / "file" / "lancedb")})

    def test_another_profile_in_the_store(self, region):
        drivers.run("build", region.settings)
        with pytest.raises(errors.SchemaError, match="another chip profile"):
            drivers.run("build", region.settings | {"chip_px": 128})

    def test_unusable_geometry_becomes_rows_in_errors(self, region, tmp_path):
        good = [("box", reproject(box, mini_region.EPSG, 4326).wkt) for box in mini_region.pv_boxes()]
        bad = [
            ("nan", "POINT (NaN NaN)"),
            ("empty", "POLYGON EMPTY"),
            ("null", None),
            ("line", "LINESTRING (9 48, 9.1 48)"),
            ("text", "no geometry"),
        ]
        mini_region.write_labels(tmp_path / "l.ducklake", good + bad, column="VARCHAR")
        settings = region.settings | {"catalog": str(tmp_path / "l.ducklake")}
        summary = drivers.run("build", settings)
        assert (summary.exit_code, summary.inputs_failed, summary.chips_failed) == (3, len(bad), 0)
        found = errors_of(region)
        assert {row["error_type"] for row in found} == {"GeometryError"}
        assert len(found) == len(bad)
        again = drivers.run("build", settings)
        assert (again.exit_code, again.inputs_failed_before, again.chips_written) == (3, len(bad), 0)

    def test_bowtie_polygon_is_mended(self, region, tmp_path):
        x, y = mini_region.LEFT, mini_region.BOTTOM
        corners = [(x + 20, y + 30), (x + 32, y + 38), (x + 32, y + 30), (x + 20, y + 38)]
        bowtie = reproject(shapely.Polygon(corners), mini_region.EPSG, 4326)
        others = [("box", reproject(box, mini_region.EPSG, 4326)) for box in mini_region.pv_boxes()[1:]]
        mini_region.write_labels(tmp_path / "l.ducklake", [("bowtie", bowtie), *others])
        summary = drivers.run("build", region.settings | {"catalog": str(tmp_path / "l.ducklake")})
        assert (summary.exit_code, sum(summary.masks.values())) == (0, 5)

    def test_chip_across_the_rasters_edge_is_kept_and_ignored_beyond_it(self, region, tmp_path):
        edge = shapely.box(
            mini_region.LEFT - 30, mini_region.BOTTOM + 40, mini_region.LEFT + 40, mini_region.BOTTOM + 60
        )
        for path in region.vhr_tiles:
            with rasterio.open(path) as raster:
                data, (left, top) = raster.read(), raster.transform @ (0, 0)
            # move the imagery by a third of a chip: chips on its rim are partly empty
            mini_region.write_raster(path, data, left + 25.5, top, 0.3, nodata=0)
        mini_region.write_labels(
            tmp_path / "l.ducklake",
            [
                ("box", reproject(shapely.affinity.translate(b, 25.5), mini_region.EPSG, 4326))
                for b in mini_region.pv_boxes()
            ]
            + [("box", reproject(edge, mini_region.EPSG, 4326))],
        )
        summary = drivers.run("build", region.settings | {"catalog": str(tmp_path / "l.ducklake")})
        assert summary.chips_written
        partly = rows(region, ["vhr_valid_fraction", "generated_mask"], "vhr_valid_fraction < 1")
        assert partly
        for row in partly:
            ignored = np.mean(np.frombuffer(row["generated_mask"], np.uint8) == 255)
            assert ignored >= 1 - row["vhr_valid_fraction"] - 1e-6

    def test_corrupt_tile_fails_its_chips_alone(self, region):
        west = region.root / "vhr" / "west.tif"
        content = bytearray(west.read_bytes())
        content[len(content) // 2 :] = b"\0" * 8
        west.write_bytes(content)
        summary = drivers.run("build", region.settings)
        assert summary.exit_code == 3
        assert summary.chips_written > 0
        found = errors_of(region)
        assert {row["error_type"] for row in found} == {"RasterReadError"}
        assert all("west.tif" in row["message"] for row in found)
        again = drivers.run("build", region.settings)
        assert (again.chips_failed, again.chips_failed_before, again.exit_code) == (0, summary.chips_failed, 3)
        retried = drivers.run("build", region.settings, retry_errors=True)
        assert (retried.chips_failed, retried.exit_code) == (summary.chips_failed, 3)
        assert {row["attempt"] for row in errors_of(region) if row["uuid"]} == {2}

    def test_unreadable_tile_is_reported_and_left_out(self, region):
        (region.root / "vhr" / "north.tif").write_bytes(b"II*\0junk")
        summary = drivers.run("build", region.settings)
        assert (summary.exit_code, summary.inputs_failed, summary.chips_failed) == (3, 1, 0)
        assert "north.tif" in errors_of(region)[0]["message"]

    def test_chips_without_data_fail(self, region):
        for path in region.vhr_tiles[1:]:
            with rasterio.open(path) as raster:
                data, (left, top) = np.zeros_like(raster.read()), raster.transform @ (0, 0)
            mini_region.write_raster(path, data, left, top, 0.3, nodata=0)
        summary = drivers.run("build", region.settings)
        assert summary.exit_code == 3
        assert {row["error_type"] for row in errors_of(region)} <= {"NodataError", "NoImageryError"}
        assert errors_of(region)

    def test_a_failing_backend_fails_its_chips_alone(self, region, monkeypatch):
        from dataflows.mask_backends.classical import ClassicalBackend

        segment = ClassicalBackend.segment

        def picky(self, chip, prompts):
            if chip.grid.centre[0] < mini_region.LEFT + 150:
                raise errors.MaskError("the backend gave up")
            return segment(self, chip, prompts)

        monkeypatch.setattr(ClassicalBackend, "segment", picky)
        summary = drivers.run("build", region.settings)
        assert (summary.exit_code, summary.chips_failed > 0, summary.chips_written > 0) == (3, True, True)
        assert {row["error_type"] for row in errors_of(region)} == {"MaskError"}

    def test_a_partition_that_crashes_is_recorded_and_the_rest_goes_on(self, region, monkeypatch):
        from dataflows import training_sample_builder

        calls = iter(range(99))

        def flaky(scl):
            if next(calls) == 0:
                raise RuntimeError("out of luck")
            return 0.0

        monkeypatch.setattr(training_sample_builder, "cloud_fraction", flaky)
        summary = drivers.run("build", region.settings)
        assert (summary.partitions_failed, summary.exit_code) == (1, 3)
        monkeypatch.undo()
        again = drivers.run("build", region.settings)
        assert again.exit_code == 0
        assert again.chips_skipped + again.chips_written == again.chips_planned

    def test_settings_that_make_no_sense(self, region):
        for change, words in (
            ({"gsd_m": 0}, "gsd_m"),
            ({"chip_px": "big"}, "chip_px must be a whole number"),
            ({"labels": []}, "labels is empty"),
            ({"split_fractions": [0.5, 0.2, 0.2]}, "sum to 1"),
            ({"vhr_acquired": "june"}, "give `latest` or a day"),
            ({"aoi_bbox_lonlat": [10, 0, 9, 1]}, "west, south, east, north"),
            ({"colour": "red"}, "unknown"),
            ({"refinement": {"polish": 1}}, "polish"),
            ({"thresholds": {"sure": 1}}, "sure"),
            ({"vhr": {"root": "x"}}, "source"),
        ):
            self.refused(region.settings | change, errors.ConfigError, words)


def test_command_line_end_to_end(tmp_path, capsys):
    import yaml

    region = mini_region.make(tmp_path / "region")
    settings = dict(region.settings)
    store = settings.pop("store")
    (region.root / "flow.yaml").write_text(yaml.safe_dump(settings))
    options = ["--config", str(region.root / "flow.yaml"), "--store", store]
    assert main(["plan", *options, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["pending"], planned["prompts"]) == (planned["chips"], 5)
    assert not Path(store).exists()
    assert main(["run", *options, "--set", "mask_options={}"]) == 0
    assert "accept" in capsys.readouterr().out
    assert main(["plan", *options]) == 0
    assert "pending" in capsys.readouterr().out
    assert main(["run", "nonsense", *options]) == 2
    assert "known: backfill, build" in capsys.readouterr().err
    assert main(["run", "--config", str(tmp_path / "no.yaml")]) == 2
    assert main(["run", *options, "--set", "nonsense"]) == 2


def test_aoi_is_pushed_down_to_the_lake(region):

    from store.ducklake_labels import LabelTable, label_query

    west = reproject(shapely.box(*mini_region.pv_boxes()[0].bounds), mini_region.EPSG, 4326).bounds
    with ducklake.connect(region.settings["catalog"]) as connection:
        sql, parameters = label_query(connection, LabelTable(table="pv", id="id", geometry="geometry"), 6, west)
        plan = connection.execute(f"EXPLAIN {sql}", parameters).fetchall()[0][1]
    scan = plan[plan.index("DUCKLAKE_SCAN") :]
    assert "st_intersects_extent" in scan.lower()
    drivers.run("build", region.settings)
    build = drivers.plan_build(from_mapping(region.settings | {"aoi_bbox_lonlat": list(west)}))
    assert set(build.prompts["label_id"].to_pylist()) == {"pv/0"}


def test_moved_region_still_builds(region, tmp_path):
    moved = tmp_path / "moved"
    shutil.move(region.root, moved)
    text = json.dumps(region.settings).replace(str(region.root), str(moved))
    assert drivers.run("build", json.loads(text)).exit_code == 0


@pytest.mark.parametrize(("kind", "again"), [("RasterUnreachableError", True), ("RasterReadError", False)])
def test_what_the_network_failed_is_taken_in_by_the_next_run(region, monkeypatch, kind, again):
    source = importlib.import_module("store.imagery.local").LocalImagery
    read, broken = source.read, [True]

    def away(self, grid, bands, **options):
        if broken[0] and self.kind == "vhr":
            raise getattr(errors, kind)("gone")
        return read(self, grid, bands, **options)

    monkeypatch.setattr(source, "read", away)
    settings = region.settings | {"network_wait_s": 0.01}
    first = drivers.run("build", settings)
    assert (first.chips_failed, first.exit_code) == (first.chips_pending, 3)
    assert (first.retried > 0) is again
    broken[0] = False
    second = drivers.run("build", settings)
    assert (second.chips_written, second.chips_failed_before) == ((6, 0) if again else (0, 6))
    assert second.exit_code == (0 if again else 3)
