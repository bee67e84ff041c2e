"""The notebooks run from top to bottom on the smallest sample region."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from store.ducklake_files import adopt_files

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, sample_root, tmp_path, monkeypatch):
    # the lake is written to, and other tests read it
    sample = tmp_path / "sample" / sample_root.name
    shutil.copytree(sample_root, sample)
    adopt_files(sample / "lake" / "catalog.ducklake")
    monkeypatch.setenv("AEGIR_SAMPLE", str(sample))
    monkeypatch.setenv("AEGIR_STORE", str(tmp_path / "lancedb"))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert any("image/svg+xml" in output["data"] for output in shown), "the driver shows its picture"
    assert any("image/png" in output["data"] for output in shown), "the contact sheet is shown"
