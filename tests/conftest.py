"""Fixtures every test may use: real data, the sample region, a quiet and single-threaded environment."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support.object_store import ObjectStore, serving

os.environ.setdefault("HAMILTON_AUTOLOAD_EXTENSIONS", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("WANDB_MODE", "offline")
# no test reads or leaves anything in the user's cache folder
os.environ["AEGIR_CACHE"] = tempfile.mkdtemp(prefix="aegir-cache-")
atexit.register(shutil.rmtree, os.environ["AEGIR_CACHE"], ignore_errors=True)

# no test asks a cloud machine's metadata service for credentials
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

# an example that takes long on a busy machine is no failure
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real imagery and labels; absent on a user's machine, required in CI."""
    folder = Path(os.environ.get("EO_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        message = f"no real data at {folder}; set EO_REAL_DATA to its folder"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """Connection text of a server for tests; `.ci/postgres COMMAND` starts one."""
    place = os.environ.get("AEGIR_TEST_POSTGRES")
    if not place:
        reason = os.environ.get("AEGIR_TEST_POSTGRES_REASON", "run the tests with `.ci/postgres`, which starts one")
        pytest.skip(f"no PostgreSQL server: {reason}")
    return place


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """An S3 server on loopback, with faults on demand; once per test session."""
    with serving() as store:
        yield store


@pytest.fixture
def told(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The object store, and an environment that says how to reach it, with few retries."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "OBJECT_STORE_"))]:
        monkeypatch.delenv(name)
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("store.storage_options._told", {})
    monkeypatch.setattr("store.object_store._probed", {})
    return object_store


@pytest.fixture(scope="session")
def sample_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest sample region, generated once per test session."""
    from dataflows.drivers import run_sample

    root = tmp_path_factory.mktemp("sample") / "test"
    run_sample(root=root, size="test", seed=7)
    return root
