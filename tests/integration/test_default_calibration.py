"""The calibration in the package is what its command makes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from store.calibration_files import DEFAULT, calibration_at

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_command_makes_the_file_in_the_package(tmp_path):
    shipped = calibration_at(DEFAULT)
    out = tmp_path / "calibration.json"
    seeds = [str(seed) for seed in shipped.seeds]
    command = [sys.executable, "benchmarks/default_calibration.py", "--out", str(out), "--seeds", *seeds]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    made = calibration_at(str(out))
    x = np.linspace(0, 1, 51)
    for new in made.entries:
        old = shipped.entry(new.backend, new.kind, new.settings_recipe)
        assert old, "fitted under other settings: run python benchmarks/default_calibration.py --write"
        assert old.kind == new.kind
        assert dict(new.weights) == pytest.approx(dict(old.weights), abs=0.02)
        curves = [np.interp(x, *np.array(entry.knots).T) for entry in (new, old)]
        assert np.abs(curves[0] - curves[1]).mean() < 0.02
