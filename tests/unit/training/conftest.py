"""Small stores and a quiet trainer."""

from pathlib import Path

import pytest
import torch

from support.training_tables import Chips, write_store

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with 22 train, 6 val and 5 test chips of 64 × 64 pixels, 200 m apart."""
    chips = Chips(splits={"train": 22, "val": 6, "test": 5, "guard": 2})
    return write_store(tmp_path_factory.mktemp("training"), chips)


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
