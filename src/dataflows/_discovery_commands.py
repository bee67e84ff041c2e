"""Commands of discovery: `discover`, and the options of `plan discover`; what they do is imported when called."""

import argparse
from pathlib import Path
from typing import Any

from dataflows import DEFAULT_CONFIG as BUILD_CONFIG
from dataflows._detection_commands import add_detection_commands
from dataflows._set_option import set_changes
from utils.errors import ConfigError

DEFAULT_CONFIG = "data/sample/demo/discover.yaml"
"""Settings of the sample region."""


def add_discovery_commands(commands: Any) -> None:
    """Add them to the command line."""
    discover = commands.add_parser("discover", help="search an area for photovoltaics with a trained model")
    discovery_options(discover)
    discover.add_argument(
        "--model", metavar="CKPT", help="checkpoint, or package.module:Class; replaces the settings' one"
    )
    discover.add_argument("--aoi", metavar="FILE", help="polygons that are searched, a vector file or WKT in degrees")
    discover.add_argument("--json", action="store_true", help="print the result as JSON")
    discover.set_defaults(command=_discover)
    add_detection_commands(commands)


def discovery_options(command: argparse.ArgumentParser) -> None:
    """Options of every command that takes settings of discovery."""
    command.add_argument(
        "--config", type=Path, default=Path(DEFAULT_CONFIG), help=f"settings (default {DEFAULT_CONFIG})"
    )
    command.add_argument("--store", help="LanceDB store; replaces that of the build")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="replace one setting, or build.NAME of the build; the value is YAML",
    )


def plan_discover(arguments: argparse.Namespace) -> int:
    """``plan discover``; the settings are those of the sample unless ``--config`` names others."""
    from dataflows.discovery_terminal import run_plan_command  # noqa: PLC0415 - start-up

    if arguments.retry_errors or arguments.only_stale or arguments.since_snapshot is not None:
        raise ConfigError("--retry-errors, --only-stale and --since-snapshot are options of `plan build`")
    if str(arguments.config) == BUILD_CONFIG:
        arguments.config = Path(DEFAULT_CONFIG)
    return run_plan_command(arguments, settings_changes(arguments))


def settings_changes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings that the options ``--store``, ``--model``, ``--aoi`` and ``--set`` replace.

    Raises:
        ConfigError: an option is no NAME=VALUE, or its value no YAML.
    """
    told = {name: getattr(arguments, name, None) for name in ("store", "model", "aoi")}
    return {name: value for name, value in told.items() if value is not None} | set_changes(arguments.set)


def _discover(arguments: argparse.Namespace) -> int:
    from dataflows.discovery_terminal import run_discover_command  # noqa: PLC0415 - start-up

    return run_discover_command(arguments, settings_changes(arguments))
