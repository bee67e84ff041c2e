"""Fits the calibration that comes with the package on generated sample regions; ``--write`` puts it into the package.

Each region is generated from its seed, built with the default settings, and its masks are held against its truth.
Run it again whenever the default segmenter or refinement changes: a test says when.

    python benchmarks/default_calibration.py [--seeds 42 43 44] [--write] [--out FILE]
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dataflows import drivers
from dataflows.calibrate_command import calibrated, figures, print_calibration
from dataflows.config import load
from dataflows.mask_truth import MeasuredStore
from store import calibration_files
from utils.calibration import Calibration

SEEDS = (42, 43, 44)
TARGET = Path(calibration_files.__file__).with_name(calibration_files.DEFAULT_FILE)


def built_region(root: Path, seed: int) -> tuple[str, Path]:
    """Store and truth of the sample region of one seed."""
    drivers.run_sample(root=root, size="demo", seed=seed)
    # only masks are needed, and their scores do not depend on a calibration
    changes = {"calibration": None, "msi": None, "background_near_ratio": 0.0, "background_far_ratio": 0.0}
    config = load(root / "flow.yaml", store=str(root / "lancedb"), **changes)
    drivers.run("build", config)
    return config.store, Path(str(config.truth))


def fitted_on_regions(folder: Path, seeds: Sequence[int]) -> tuple[Calibration, MeasuredStore]:
    """The calibration fitted on the sample regions of these seeds, made under ``folder``, and their masks."""
    places = [built_region(folder / str(seed), seed) for seed in seeds]
    names = [f"sample region demo, seed {seed}" for seed in seeds]
    return calibrated(places, names=names, seeds=seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--write", action="store_true", help=f"replace {TARGET.name} in the source tree")
    parser.add_argument("--out", type=Path, help="write to this file instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        calibration, measured = fitted_on_regions(Path(folder), arguments.seeds)
        target = arguments.out or (TARGET if arguments.write else Path(folder) / TARGET.name)
        calibration_files.write_calibration(calibration, target)
        print_calibration(calibration, target, measured, figures(measured.masks))


if __name__ == "__main__":
    main()
