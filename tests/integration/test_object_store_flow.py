"""The build flow with its tables and imagery in an object store: same rows, and it survives what networks do."""


import pytest

from dataflows import drivers
from store import lance_io
from support import mini_region

VOLATILE = {"created_at", "run_id", "occurred_at", "started_at", "finished_at", "added_at", "label_catalog"}
COMPARED = ("training_data", "masks", "prompts")


@pytest.fixture(scope="module")
def region(tmp_path_factory):
    return mini_region.make(tmp_path_factory.mktemp("mini") / "region")


@pytest.fixture(scope="module")
def local(region):
    drivers.run("build", region.settings)
    return region.settings["store"]


@pytest.fixture
def remote(region, told):
    """Settings of the region with everything but the labels in a new bucket."""
    bucket = told.bucket()
    for kind in ("vhr", "msi"):
        told.upload(region.root / kind, f"{bucket}/imagery/{kind}")
    return region.settings | {
        "store": f"{bucket}/tables",
        "vhr": region.settings["vhr"] | {"root": f"{bucket}/imagery/vhr"},
        "msi": region.settings["msi"] | {"root": f"{bucket}/imagery/msi"},
    }


def table(store, name):
    """All rows by key, without times and run ids."""
    found = lance_io.open_table(store, name).to_table()
    key = found.schema.names[0]
    return found.drop_columns([n for n in found.schema.names if n in VOLATILE]).sort_by(key)


def same(store, other):
    for name in COMPARED:
        one, two = table(store, name), table(other, name)
        differing = [column for column in one.schema.names if not one[column].equals(two[column])]
        print(f"{name}: {len(one)} rows of {len(one.schema)} columns compared, {len(differing)} columns different")
        assert len(one)
        assert differing == []


def test_the_whole_flow_gives_the_rows_of_folders(remote, local):
    summary = drivers.run("build", remote)
    assert (summary.status, summary.chips_failed) == ("done", 0)
    same(remote["store"], local)
    again = drivers.run("build", remote)
    assert (again.chips_pending, again.chips_written) == (0, 0)
