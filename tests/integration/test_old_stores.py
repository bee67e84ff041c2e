"""Stores written by earlier schema versions still open: frozen ones under ``tests/data``, one a version."""

import shutil
from pathlib import Path

import duckdb
import lance
import lancedb
import pytest

from dataflows import drivers
from dataflows.config import from_mapping
from store import lance_io, listing
from store.__main__ import main
from store.schemas import PROMPTS, SCHEMA_VERSION, profile_of
from support import mini_region
from utils.errors import SchemaError

FROZEN = Path(__file__).parents[1] / "data"
ROWS = {
    1: {"training_data": 60, "masks": 50, "prompts": 50, "scenes": 3, "runs": 1, "splits": 1},
    2: {
        "training_data": 22, "masks": 18, "prompts": 18, "scenes": 3, "runs": 1, "splits": 1, "datasets": 1, "leases": 0
    },
}  # fmt: skip


@pytest.fixture(params=sorted(ROWS))
def version(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def old_store(version: int, tmp_path: Path) -> Path:
    """A copy, so that the frozen files stay as they are."""
    return Path(shutil.copytree(FROZEN / f"store_v{version}", tmp_path / "store"))


def test_every_earlier_version_is_frozen():
    assert sorted(path.name for path in FROZEN.glob("store_v*")) == [f"store_v{n}" for n in range(1, SCHEMA_VERSION)]


def test_tables_open_with_every_reader(old_store, version):
    rows = ROWS[version]
    assert {info.table: info.rows for info in listing.tables(old_store)} == rows
    opened = lancedb.connect(str(old_store)).open_table("training_data")
    assert opened.count_rows() == rows["training_data"]
    dataset = lance.dataset(str(old_store / "training_data.lance"))
    assert profile_of(dataset.schema).height == 16
    chips = dataset.to_table(columns=["vhr_image_chip", "generated_mask", "split"])
    assert chips["vhr_image_chip"].chunk(0).to_numpy_ndarray().shape[1:] == (3, 16, 16)
    assert {len(mask) for mask in chips["generated_mask"].to_pylist()} == {256}
    assert duckdb.sql("SELECT count(*) FROM dataset").fetchone() == (rows["training_data"],)


def test_writing_to_one_is_refused_with_both_versions(old_store, version):
    with pytest.raises(SchemaError, match=rf"schema version {version}, this is version {SCHEMA_VERSION}"):
        lance_io.write(old_store, "prompts", PROMPTS.empty_table())


def test_the_build_flow_goes_on_after_an_upgrade(old_store, version, tmp_path):
    """The frozen store was built from this region: its chips and prompts are found again under their ids."""
    settings = {"chip_px": 16, "halo_px": 8, "msi_px": 4, "background_near_ratio": 0.1, "background_far_ratio": 0.1}
    region = mini_region.make(tmp_path / "region", store=old_store, commit_every=64, **settings)
    with pytest.raises(SchemaError, match="python -m store upgrade"):
        drivers.plan_build(from_mapping(region.settings))
    assert main(["upgrade", "--store", str(old_store)]) == 0
    before = lance_io.scan(old_store, "training_data", ["uuid"])["uuid"].to_pylist()
    prompts = lance_io.scan(old_store, "prompts", ["prompt_id"])["prompt_id"].to_pylist()
    assert len(drivers.plan_build(from_mapping(region.settings)).pending) > 0
    summary = drivers.run("build", region.settings)
    assert (summary.status, summary.failed) == ("done", 0)
    after = lance_io.scan(old_store, "training_data", ["uuid", "index_inside_px"])
    assert len(set(after["uuid"].to_pylist())) == len(after)
    assert set(before) <= set(after["uuid"].to_pylist())
    assert (
        len(set(prompts) & set(lance_io.scan(old_store, "prompts", ["prompt_id"])["prompt_id"].to_pylist()))
        == ROWS[version]["prompts"]
    )
    assert len(drivers.plan_build(from_mapping(region.settings)).pending) == 0
