"""The calibration in the package tells what masks of the default segmenter are worth as it is."""

import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from store.calibration_files import DEFAULT, calibration_at
from utils.risk_coverage import calibration_error, spearman

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "default_calibration.py"
LEAST_MASKS = {"box": 300, "polygon": 150, "point": 100}


@pytest.mark.slow
def test_the_command_makes_the_file_in_the_package(tmp_path):
    """Held to what both say of the same masks: weights trade off against each other, and one mask may move them far."""
    shipped = calibration_at(DEFAULT)
    made, measured = runpy.run_path(str(BENCHMARK))["fitted_on_regions"](tmp_path, shipped.seeds)

    def keys(calibration):
        return {(entry.backend, entry.kind, entry.settings_recipe) for entry in calibration.entries}

    assert keys(made) == keys(shipped), (
        "fitted under other settings: run python benchmarks/default_calibration.py --write"
    )
    counts = Counter(mask.kind for mask in measured.masks)
    assert all(counts[kind] >= least for kind, least in LEAST_MASKS.items())
    for kind in counts:
        masks = [mask for mask in measured.masks if mask.kind == kind]
        overlap = np.array([mask.iou for mask in masks])
        old, new = (
            np.array([one.quality(mask.backend, kind, mask.settings_recipe, mask.scores) for mask in masks])
            for one in (shipped, made)
        )
        assert np.abs(old - new).mean() < 0.02, kind
        # a stale one would tell too much or too little, or put masks in another order
        assert calibration_error(old, overlap) < calibration_error(new, overlap) + 0.02, kind
        assert spearman(old, overlap) > spearman(new, overlap) - 0.05, kind
