"""Commands of backfill: gold rows, generations from detections, promotion and its gate."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dataflows._discovery_commands import discovery_options, settings_changes


def add_backfill_commands(commands: Any) -> None:
    """Add them to the command line."""
    gold = _command(commands, "gold", "digitised truth as masks of the test chips, which models are judged by", _gold)
    gold.add_argument("--truth", type=Path, required=True, help="GeoJSON of polygons, complete on the test ground")
    gold.add_argument("--val", action="store_true", help="chips of the split val too")
    backfill = _command(commands, "backfill", "judged detections as a generation of masks and chips", _backfill)
    backfill.add_argument("--search", metavar="ID", help="search whose detections are taken (default the newest)")
    gate = _command(commands, "gate", "train on a generation, and promote it unless it makes test rows worse", _gate)
    gate.add_argument("--generation", type=int, required=True, metavar="N", help="generation of a backfill")
    gate.add_argument("--current", type=Path, metavar="CKPT", help="model without it (default: it is trained)")
    gate.add_argument("--candidate", type=Path, metavar="CKPT", help="model trained on it (default: it is trained)")
    gate.add_argument("--tag", help="name of the promotion (default generation-N)")
    promote = _command(commands, "promote", "copy a generation's masks into training_data under a tag", _promote)
    promote.add_argument("--generation", type=int, required=True, metavar="N", help="generation of a backfill")
    promote.add_argument("--tag", required=True, help="name of the table's version with it")
    rollback = _command(commands, "rollback", "give the chips of a promotion their earlier masks back", _rollback)
    rollback.add_argument("--tag", required=True, help="name of the promotion")


def _command(
    commands: Any, name: str, told: str, function: Callable[[argparse.Namespace, dict[str, Any]], int]
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=told)
    discovery_options(command)
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.set_defaults(command=lambda arguments: function(arguments, settings_changes(arguments)))
    return command


def _gold(arguments: argparse.Namespace, changes: dict[str, Any]) -> int:
    from dataflows.backfill_terminal import run_gold_command  # noqa: PLC0415 - start-up

    return run_gold_command(arguments, changes)


def _backfill(arguments: argparse.Namespace, changes: dict[str, Any]) -> int:
    from dataflows.backfill_terminal import run_backfill_command  # noqa: PLC0415 - start-up

    return run_backfill_command(arguments, changes)


def _gate(arguments: argparse.Namespace, changes: dict[str, Any]) -> int:
    from dataflows.backfill_terminal import run_gate_command  # noqa: PLC0415 - start-up

    return run_gate_command(arguments, changes)


def _promote(arguments: argparse.Namespace, changes: dict[str, Any]) -> int:
    from dataflows.backfill_terminal import run_promote_command  # noqa: PLC0415 - start-up

    return run_promote_command(arguments, changes)


def _rollback(arguments: argparse.Namespace, changes: dict[str, Any]) -> int:
    from dataflows.backfill_terminal import run_rollback_command  # noqa: PLC0415 - start-up

    return run_rollback_command(arguments, changes)
