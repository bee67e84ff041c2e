import signal
import subprocess
import sys
import time
from pathlib import Path

from hamilton import driver

from dataflows import sample_region
from store.sample_files import finished

RUN = """
import sys
from utils import sample
from store.sample_files import write_sample
land = sample.make_landscape("test", 0)
write_sample(sys.argv[1], land, sample.weak_labels(land))
"""


def test_the_flow_writes_a_region_once(tmp_path: Path) -> None:
    flow = driver.Builder().with_modules(sample_region).build()
    inputs = {"root": str(tmp_path / "region"), "size": "test", "seed": 5}
    first, second = (flow.execute(["sample_region_files"], inputs=inputs)["sample_region_files"] for _ in range(2))
    assert first["fresh"]
    assert not second["fresh"]
    assert first | {"fresh": False} == second
    assert first["bytes"] > 1_000_000
    assert finished(tmp_path / "region", size="test", seed=5) is not None


def test_a_killed_run_leaves_nothing_half_made_and_the_next_one_finishes(tmp_path: Path) -> None:
    root = tmp_path / "region"
    process = subprocess.Popen([sys.executable, "-c", RUN, str(root)])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".region.partial-*/vhr/*/*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not root.exists()
    assert list(tmp_path.glob(".region.partial-*"))
    subprocess.run([sys.executable, "-c", RUN, str(root)], check=True)
    assert finished(root, size="test", seed=0) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["region"]
