"""docs/spectral_indices.md shows the tables of indices and scene classes as the code has them."""

from pathlib import Path

import pytest

from utils.indices import INDICES, indices_table
from utils.scl import SCENE_CLASSES, scene_classes_table

PAGE = (Path(__file__).parents[3] / "docs" / "spectral_indices.md").read_text()


@pytest.mark.parametrize("table", [indices_table(), scene_classes_table()], ids=["indices", "scene classes"])
def test_the_page_is_fresh(table):
    stale = table not in PAGE
    assert not stale, (
        "docs/spectral_indices.md is not what the code says; `python -m dataflows indices` prints the tables"
    )


def test_a_row_per_index_and_class():
    assert len(indices_table().splitlines()) == len(INDICES) + 2
    assert len(scene_classes_table().splitlines()) == len(SCENE_CLASSES) + 2
    assert all(spec.formula in indices_table() for spec in INDICES.values())
