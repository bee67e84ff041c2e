"""The notebooks run from top to bottom on the smallest sample region."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, sample_root, tmp_path, monkeypatch):
    monkeypatch.setenv("AEGIR_SAMPLE", str(sample_root))
    monkeypatch.setenv("AEGIR_STORE", str(tmp_path / "lancedb"))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert any("image/svg+xml" in output["data"] for output in shown), "the driver shows its picture"
    assert any("image/png" in output["data"] for output in shown), "the contact sheet is shown"
