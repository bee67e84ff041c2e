"""One real round of the flywheel on the smallest region, killed on the way, through the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from dataflows.flywheel import CLOSING, EACH, FIRST
from store import ducklake, lance_io
from store.ducklake_files import adopt_files
from store.rounds import read_rounds

pytestmark = pytest.mark.slow


def asked(root, *more):
    return [
        sys.executable, "-m", "dataflows", "flywheel", "--rounds", "1", "--config", str(root / "region/discover.yaml"),
        "--store", str(root / "store"), "--set", "build.guard_m=0", "--set", f"out={root / 'out'}",
        "--set", "gate={epochs: 2}", "--set", "detections={threshold: 0.05}",
        "--set", "validation={accept: 0.3, review: 0.05}", "--json", *more,
    ]  # fmt: skip


def killed_when(root, done):
    """Run the flywheel in a process group of its own and kill it once ``done`` holds."""
    with subprocess.Popen(asked(root), start_new_session=True, stdout=subprocess.DEVNULL) as run:
        try:
            while run.poll() is None and not done():
                time.sleep(0.2)
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)


def stages(root, number):
    rows = {row.number: row for row in read_rounds(root / "store")}
    return set(rows[number].stages) if number in rows else set()


def test_a_round_that_was_killed_twice_ends_as_one(sample_root, tmp_path):
    shutil.copytree(sample_root, tmp_path / "region")
    adopt_files(tmp_path / "region/lake/catalog.ducklake")
    killed_when(tmp_path, lambda: "gold" in stages(tmp_path, 0))
    assert "fit" not in stages(tmp_path, 0)
    killed_when(tmp_path, lambda: "discover" in stages(tmp_path, 1))
    assert "account" not in stages(tmp_path, 1)
    done = subprocess.run(asked(tmp_path), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == "done"
    assert told["stages_run"] + told["stages_skipped"] == len(FIRST) + len(EACH) + len(CLOSING)
    first, second, last = told["ledger"]
    assert first["counts"]["rows_test_gold"] > 0
    assert set(second["stages"]) == set(EACH)
    assert second["status"] in ("done", "refused")
    assert 0 <= second["metrics"]["recall_before"] <= 1
    assert second["counts"]["km2_searched"] > 0
    assert set(last["stages"]) == set(CLOSING)
    # nothing is run twice, and nothing lies twice
    again = json.loads(subprocess.run(asked(tmp_path), check=True, capture_output=True, text=True).stdout)
    assert again["stages_run"] == 0
    for table, key in (("training_data", "uuid"), ("detections", "detection_id"), ("rounds", "round_id")):
        ids = lance_io.scan(tmp_path / "store", table, [key])[key].to_pylist()
        assert len(ids) == len(set(ids))
    accepted = second["counts"]["accepted"]
    with ducklake.connect(tmp_path / "region/lake/catalog.ducklake") as lake:
        tables = lake.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake'").fetchall()
        found = lake.execute("SELECT count(*) FROM lake.pv_detections").fetchone()[0] if accepted else 0
    assert found == accepted
    assert (("pv_detections",) in tables) == (accepted > 0)
    shown = subprocess.run(asked(tmp_path, "--ledger"), check=True, capture_output=True, text=True)
    assert len(json.loads(shown.stdout)["rounds"]) == 3
