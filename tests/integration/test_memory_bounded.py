"""Peak memory is set by the partition: not by the area, and not by how many came before."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc"),
]


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    place = tmp_path_factory.mktemp("memory") / "figures.json"
    command = [sys.executable, str(BENCHMARK), "--only", "split", "area", "--side", "6", "--json", str(place)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    print(done.stdout)
    return json.loads(place.read_text())


def test_ten_times_the_area_takes_the_same_memory(figures):
    few, many = figures["area"]["chips"]
    assert many > 7 * few
    small, large = figures["area"]["peaks_mb"]
    assert large < 1.2 * small


def test_memory_does_not_grow_from_partition_to_partition(figures):
    assert figures["area"]["partitions"] >= 50
    # the rows of these partitions alone are over 60 MB
    assert figures["area"]["growth_mb"] < 30


def test_a_partition_too_large_for_the_budget_is_split_and_its_rows_are_the_same(figures):
    few, many = figures["split"]["tasks"]
    assert few > many
    assert figures["split"]["rows"] > 10
    assert figures["split"]["differing"] == 0
