"""Options of the commands about masks; what they do is imported when they are called."""

import argparse
from pathlib import Path
from typing import Any


def explore_options(commands: Any) -> None:
    """The subcommand ``explore``."""
    explore = commands.add_parser("explore", help="automatic masks over one chip, ranked by PV-likeness; not labels")
    explore.add_argument("uuid", help="chip id in training_data, or its first characters")
    explore.add_argument("--store", help="LanceDB store (default $AEGIR_STORE or data/lancedb)")
    explore.add_argument("--backend", default="sam", help="mask backend (default sam)")
    explore.add_argument(
        "--options", default="{}", metavar="YAML", help="options of the backend, such as {checkpoint: x}"
    )
    explore.add_argument("--points-per-side", type=int, default=16, metavar="N")
    explore.add_argument("--min-predicted-iou", type=float, default=0.88, metavar="SHARE")
    explore.add_argument("--min-stability", type=float, default=0.95, metavar="SHARE")
    explore.add_argument("--out", type=Path, default=Path("exploration.png"), help="picture (default exploration.png)")
    explore.add_argument("--geojson", type=Path, help="also write the regions as GeoJSON")
    explore.add_argument("--json", action="store_true", help="print the regions as GeoJSON")
    explore.set_defaults(command=_explore)


def _explore(arguments: argparse.Namespace) -> int:
    from dataflows.exploration_terminal import run_explore  # noqa: PLC0415 - start-up

    return run_explore(arguments)


def calibrate_options(commands: Any) -> None:
    """The subcommand ``calibrate``."""
    calibrate = commands.add_parser("calibrate", help="fit mask quality on a store's masks with truth")
    calibrate.add_argument("--store", action="append", help="LanceDB store with masks; may be given several times")
    calibrate.add_argument(
        "--truth", action="append", required=True, type=Path, help="GeoJSON of true polygons, per store"
    )
    calibrate.add_argument("--out", required=True, type=Path, help="file to write; settings name it as `calibration`")
    calibrate.add_argument("--name", action="append", default=[], help="name of the data (default the truth files)")
    calibrate.add_argument("--seed", action="append", default=[], type=int, help="seed behind generated data")
    calibrate.add_argument("--least", type=int, default=30, metavar="N", help="fewest masks to fit on (default 30)")
    calibrate.add_argument("--json", action="store_true", help="print the result as JSON")
    calibrate.set_defaults(command=_calibrate)


def _calibrate(arguments: argparse.Namespace) -> int:
    from dataflows.calibrate_command import run_calibrate  # noqa: PLC0415

    return run_calibrate(arguments)
