"""Commands of the flywheel: write-back to the lake and rounds with their ledger."""

import argparse
from pathlib import Path
from typing import Any

from dataflows._discovery_commands import discovery_options, settings_changes


def add_flywheel_commands(commands: Any) -> None:
    """Add them to the command line."""
    back = commands.add_parser("write-back", help="validated detections into the lake: one snapshot, or none")
    discovery_options(back)
    back.add_argument("--json", action="store_true", help="print the result as JSON")
    back.add_argument("--search", metavar="ID", help="search whose detections are written (default the newest)")
    back.add_argument(
        "--verdicts", default="accept", help="verdicts that bring a detection into the lake, by comma (default accept)"
    )
    back.add_argument(
        "--adopt-files", action="store_true", help="a copied lake records the folder beside it as that of its files"
    )
    back.set_defaults(command=_write_back)

    wheel = commands.add_parser("flywheel", help="rounds of build, fit, discover, validate, backfill, gate, write-back")
    discovery_options(wheel)
    wheel.add_argument("--json", action="store_true", help="print the ledger as JSON")
    wheel.add_argument(
        "--rounds", type=_rounds, default=1, metavar="N", help="rounds after the first model (default 1)"
    )
    wheel.add_argument("--from-model", action="store_true", help="start from the settings' model, fit none first")
    wheel.add_argument(
        "--no-last-search", action="store_true", help="do not search with the last round's model to measure it"
    )
    wheel.add_argument("--ledger", action="store_true", help="show the ledger; runs nothing")
    wheel.add_argument("--plot", type=Path, metavar="FILE", help="draw the ledger: a .png file")
    wheel.set_defaults(command=_flywheel)


def _rounds(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("N is a whole number from 0 on")
    return int(text)


def _write_back(arguments: argparse.Namespace) -> int:
    from dataflows.flywheel_terminal import run_write_back_command  # noqa: PLC0415 - start-up

    return run_write_back_command(arguments, settings_changes(arguments))


def _flywheel(arguments: argparse.Namespace) -> int:
    from dataflows.flywheel_terminal import run_flywheel_command  # noqa: PLC0415

    return run_flywheel_command(arguments, settings_changes(arguments))
