"""The build flow with its tables and imagery in an object store: same rows, and it survives what networks do."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dataflows import drivers
from dataflows.config import from_mapping
from store import lance_io
from store.schemas import TABLES
from support import mini_region
from support.object_store import MARKED
from utils import errors

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


OUTAGES = {
    "commit of chips": {
        "kind": "status",
        "status": 503,
        "methods": ["PUT"],
        "path": r"training_data\.lance/_versions",
        "skip": 2,
    },
    "everything": {"kind": "cut", "skip": 160},
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_run_that_loses_its_store_half_way_goes_on_when_it_is_back(remote, local, told, outage):
    with told.faults(OUTAGES[outage]), pytest.raises(errors.StoreUnreachableError, match="does not answer"):
        drivers.run("build", remote)
    written = lance_io.scan(remote["store"], "training_data", ["uuid"])
    summary = drivers.run("build", remote, retry_errors=True)
    print(f"{len(written)} rows before the outage, {summary.chips_written} after it")
    assert summary.status == "done"
    same(remote["store"], local)


FLAKY = [
    {"kind": "status", "status": 503, "every": 9},
    {"kind": "status", "status": 500, "every": 31},
    {"kind": "cut", "every": 17, "path": "tables"},
    {"kind": "lost", "every": 5, "methods": ["PUT"], "path": "tables"},
    {"kind": "drop", "after": 100, "every": 7, "methods": ["GET"]},
    {"kind": "delay", "seconds": 0.5, "every": 23},
]


def test_a_network_that_drops_and_delays_and_answers_503_changes_no_row(remote, local, told):
    with told.faults(*FLAKY), told.watched() as seen:
        summary = drivers.run("build", remote)
    print(f"{len(seen)} requests")
    assert (summary.status, summary.chips_failed) == ("done", 0)
    same(remote["store"], local)
