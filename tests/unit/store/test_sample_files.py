import json
import shutil
from pathlib import Path

import duckdb
import jsonschema
import numpy as np
import pytest
import rasterio
import shapely
import yaml

from store import ducklake
from store.sample_files import MANIFEST, Progress, SampleReceipt, finished, write_sample
from store.sample_lake import FIRST_SNAPSHOT, SECOND_SNAPSHOT
from utils import sample
from utils.errors import ConfigError
from utils.sample import Landscape, WeakLabels

ITEM = {
    "type": "object",
    "required": ["type", "stac_version", "id", "geometry", "bbox", "properties", "links", "assets"],
    "properties": {
        "type": {"const": "Feature"},
        "stac_version": {"enum": ["1.0.0", "1.1.0"]},
        "geometry": {"type": "object", "required": ["type", "coordinates"]},
        "bbox": {"type": "array", "minItems": 4, "maxItems": 4, "items": {"type": "number"}},
        "properties": {
            "type": "object",
            "required": ["datetime", "platform", "gsd", "proj:epsg"],
            "properties": {"datetime": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}},
        },
        "assets": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "required": ["href", "type", "roles", "gsd", "raster:bands", "proj:shape", "proj:transform"],
                "properties": {"href": {"pattern": r"^\./[A-Za-z0-9_]+\.tif$"}},
            },
        },
    },
}


@pytest.fixture(scope="module")
def land() -> Landscape:
    return sample.make_landscape("test", 0)


@pytest.fixture(scope="module")
def labels(land: Landscape) -> WeakLabels:
    return sample.weak_labels(land)


@pytest.fixture(scope="module")
def made(land: Landscape, labels: WeakLabels, tmp_path_factory: pytest.TempPathFactory) -> SampleReceipt:
    return write_sample(tmp_path_factory.mktemp("made") / "test", land, labels)


@pytest.fixture
def root(made: SampleReceipt, tmp_path: Path) -> Path:
    """A copy of the sample in another place."""
    copy = tmp_path / "moved" / "test"
    shutil.copytree(made.root, copy)
    return copy


def test_the_folder_holds_what_the_manifest_says(made: SampleReceipt) -> None:
    folder = Path(made.root)
    manifest = json.loads((folder / MANIFEST).read_text())
    there = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    del there[MANIFEST]
    assert manifest["files"] == there
    assert sum(there.values()) == made.bytes == manifest["bytes"]
    assert made.counts["vhr_tiles"] == len(list(folder.glob("vhr/*/*.tif"))) == 8
    assert made.counts["msi_scenes"] == 2
    assert made.fresh


def test_a_complete_sample_is_left_alone(root: Path, land: Landscape, labels: WeakLabels) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    steps: list[str] = []
    receipt = write_sample(root, land, labels, progress=Progress(report=lambda what, *_: steps.append(what)))
    assert not receipt.fresh
    assert not steps
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_it_stays_complete_when_the_lake_grows(root: Path) -> None:
    with (root / "lake" / "catalog.ducklake").open("ab") as catalog:
        catalog.write(bytes(4096))
    assert finished(root, size="test", seed=0) is not None


@pytest.mark.parametrize("broken", ["flow.yaml", MANIFEST, "truth/pv.geojson", "vhr/20230609/r0_c0.tif"])
def test_an_incomplete_sample_is_made_again(
    root: Path, land: Landscape, labels: WeakLabels, broken: str, made: SampleReceipt
) -> None:
    original = (Path(made.root) / "vhr/20210614/r1_c1.tif").read_bytes()
    (root / broken).unlink()
    assert finished(root, size="test", seed=0) is None
    steps: list[tuple[int, int]] = []
    write_sample(root, land, labels, progress=Progress(report=lambda _, done, total: steps.append((done, total))))
    assert steps == [(n + 1, 12) for n in range(12)]
    assert finished(root, size="test", seed=0) is not None
    assert (root / "vhr/20210614/r1_c1.tif").read_bytes() == original
    assert [path.name for path in root.parent.iterdir()] == ["test"]


def test_a_sample_from_before_discovery_is_made_again(root: Path) -> None:
    (root / "discover.yaml").unlink()
    manifest = json.loads((root / MANIFEST).read_text())
    del manifest["files"]["discover.yaml"]
    (root / MANIFEST).write_text(json.dumps(manifest))
    assert finished(root, size="test", seed=0) is None


def test_another_seed_or_size_is_not_this_sample(root: Path) -> None:
    assert finished(root, size="test", seed=1) is None
    assert finished(root, size="demo", seed=0) is None


def test_a_folder_with_other_files_is_refused(tmp_path: Path, land: Landscape, labels: WeakLabels) -> None:
    (tmp_path / "thesis.doc").write_text("precious")
    with pytest.raises(ConfigError, match=r"thesis\.doc"):
        write_sample(tmp_path, land, labels)
    assert (tmp_path / "thesis.doc").read_text() == "precious"
    with pytest.raises(ConfigError, match="is a file"):
        write_sample(tmp_path / "thesis.doc", land, labels)


def test_rasters_are_cogs_that_agree_with_their_stac_items(made: SampleReceipt) -> None:
    items = sorted(Path(made.root).glob("vhr/*/*.json")) + sorted(Path(made.root).glob("msi/*/*.json"))
    assert len(items) == 10
    for path in items:
        item = json.loads(path.read_text())
        jsonschema.validate(item, ITEM)
        box = shapely.box(*item["bbox"])
        assert shapely.geometry.shape(item["geometry"]).within(box.buffer(1e-9))
        for name, asset in item["assets"].items():
            with rasterio.open(path.parent / asset["href"]) as raster:
                assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert raster.crs.to_epsg() == item["properties"]["proj:epsg"] == 32632
                assert list(raster.shape) == asset["proj:shape"]
                assert list(raster.transform)[:6] == asset["proj:transform"]
                assert raster.nodata == 0 == asset["raster:bands"][0]["nodata"]
                assert raster.dtypes[0] == asset["raster:bands"][0]["data_type"]
                assert raster.count == len(asset.get("eo:bands", [name]))
                assert raster.read().min() > 0 or name == "SCL"
        assert len(item["assets"]) == (13 if path.parts[-3] == "msi" else 1)


def test_offsets_bring_both_baselines_to_reflectance(made: SampleReceipt) -> None:
    found = {}
    for path in Path(made.root).glob("msi/*/*.json"):
        item = json.loads(path.read_text())
        scaling = item["assets"]["B08"]["raster:bands"][0]
        with rasterio.open(path.parent / "B08.tif") as raster:
            digital = raster.read(1)
        found[item["properties"]["s2:processing_baseline"]] = (
            scaling["offset"],
            np.median(digital * scaling["scale"] + scaling["offset"]),
            item["properties"]["eo:cloud_cover"],
        )
    assert found["03.01"][0] == 0
    assert found["05.09"][0] == pytest.approx(-0.1)
    assert found["03.01"][1] == pytest.approx(found["05.09"][1], abs=0.05)
    assert found["03.01"][2] == 0 < found["05.09"][2]


def test_the_lake_has_two_states(root: Path, labels: WeakLabels) -> None:
    with ducklake.connect(root / "lake" / "catalog.ducklake") as lake:
        assert ducklake.latest_snapshot(lake) == SECOND_SNAPSHOT
        for snapshot, state in ((FIRST_SNAPSHOT, labels.first), (SECOND_SNAPSHOT, labels.second)):
            at = f"AT (VERSION => {snapshot})"
            stored = ducklake.query(
                lake, f"SELECT * REPLACE (ST_AsWKB(geometry) AS geometry) FROM lake.pv_labels {at} ORDER BY unified_id"
            )
            expected = sample.pv_label_table(state)
            assert stored.to_pydict() == expected.to_pydict()
            points = ducklake.query(lake, f"SELECT * FROM lake.registry_points {at} ORDER BY registry_id")
            assert points.to_pydict() == sample.registry_table(state).to_pydict()
            for table in ("buildings", "landcover", "pv_labels"):
                columns = ducklake.table_columns(lake, table, snapshot)
                assert columns["geometry"] == "GEOMETRY"
                [(bad, rows)] = lake.execute(
                    f"SELECT count(*) FILTER (NOT ST_IsValid(geometry) OR ST_IsEmpty(geometry)), count(*) "
                    f"FROM lake.{table} {at}"
                ).fetchall()
                assert bad == 0 < rows


def test_the_catalogue_records_where_its_files_are(made: SampleReceipt) -> None:
    with duckdb.connect(str(Path(made.root) / "lake" / "catalog.ducklake"), read_only=True) as plain:
        [(folder,)] = plain.execute("SELECT value FROM ducklake_metadata WHERE key = 'data_path'").fetchall()
    assert Path(folder) == Path(made.root) / "lake" / "files"


def test_the_settings_point_at_what_is_there(made: SampleReceipt) -> None:
    flow = yaml.safe_load((Path(made.root) / "flow.yaml").read_text())
    for place in (flow["catalog"], flow["vhr"]["root"], flow["msi"]["root"], flow["truth"]):
        assert (Path(made.root) / place).exists()
    assert [source["table"] for source in flow["labels"]] == ["pv_labels", "registry_points"]
    size = sample.sample_size("test")
    assert (flow["split_level"], flow["partition_level"]) == (size.split_level, size.partition_level)
    assert (flow["guard_m"], flow["snapshot"]) == (50.0, None)
