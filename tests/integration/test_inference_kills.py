"""A search that is killed at any time goes on where it stood and ends with the same bytes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import killed_search
from support.search_scenes import scene, texture


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> tuple[Path, bytes]:
    """A scene, and the raster of a search that nothing disturbed."""
    folder = tmp_path_factory.mktemp("search")
    pixels = texture(killed_search.HEIGHT, killed_search.WIDTH)
    pixels[:, 200:400, 300:] = 0
    scene(folder / "scene", pixels)
    content = killed_search.search(folder).read_bytes()
    shutil.rmtree(folder / "parts")
    return folder, content


def killed(folder: Path, *, parts: int, wait_s: float) -> bool:
    """Run the search and kill it some time after it has written a number of parts; whether it was still alive."""
    command = [sys.executable, "-m", "support.killed_search", str(folder), "0.02"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list((folder / "parts").glob("r*.tif"))) < parts:
        time.sleep(0.005)
    time.sleep(wait_s)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return alive


def interrupted_twice(folder: Path, scene_at: Path, chance: random.Random) -> tuple[list[int], bytes]:
    """Parts that were done after each of two kills, and the raster of the run after them."""
    (folder / "scene").symlink_to(scene_at / "scene")
    done = []
    every = len(killed_search.parts_of(folder).blocks)
    for parts in sorted(chance.sample(range(1, every), 2)):
        killed(folder, parts=parts, wait_s=chance.uniform(0, 0.05))
        done.append(len(killed_search.parts_of(folder).done()))
    return done, killed_search.search(folder).read_bytes()


def test_a_killed_search_ends_with_the_same_bytes(expected, tmp_path):
    scene_at, content = expected
    done, found = interrupted_twice(tmp_path, scene_at, random.Random(1))  # noqa: S311 - chances, not secrets
    every = len(killed_search.parts_of(tmp_path).blocks)
    assert 0 < done[0] <= done[1] <= every
    assert done[0] < every
    assert found == content


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_times(expected, tmp_path, seed):
    scene_at, content = expected
    done, found = interrupted_twice(tmp_path, scene_at, random.Random(100 + seed))  # noqa: S311
    print(f"done after the kills: {done}")
    assert found == content


def test_a_kill_while_the_raster_is_assembled_leaves_the_old_one(expected, tmp_path):
    scene_at, content = expected
    (tmp_path / "scene").symlink_to(scene_at / "scene")
    killed_search.search(tmp_path)
    raster = tmp_path / "probability.tif"
    raster.write_bytes(b"old")
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom support import killed_search\n"
        "from store import _probability_cog\n"
        "_probability_cog._check_whole = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "killed_search.search(Path(sys.argv[1]))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program, tmp_path], env=environment, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert raster.read_bytes() == b"old"
    assert len(list(tmp_path.glob(".probability.tif.*.part"))) == 1
    killed_search.search(tmp_path)
    assert raster.read_bytes() == content
