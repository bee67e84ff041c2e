"""Commands of validation: `validate` and `validation-report`; what they do is imported when they are called."""

import argparse
from typing import Any

from dataflows._discovery_commands import discovery_options, settings_changes


def add_validation_commands(commands: Any) -> None:
    """Add them to the command line."""
    validate = commands.add_parser("validate", help="evidence for and against each detection, and its verdict")
    report = commands.add_parser("validation-report", help="precision and recall before and after, per confuser")
    for command, function in ((validate, _validate), (report, _report)):
        discovery_options(command)
        command.add_argument("--search", metavar="ID", help="search (default the newest)")
        command.add_argument("--json", action="store_true", help="print the result as JSON")
        command.set_defaults(command=function)


def _validate(arguments: argparse.Namespace) -> int:
    from dataflows.validation_terminal import run_validate_command  # noqa: PLC0415 - start-up

    return run_validate_command(arguments, settings_changes(arguments))


def _report(arguments: argparse.Namespace) -> int:
    from dataflows.validation_terminal import run_report_command  # noqa: PLC0415 - start-up

    return run_report_command(arguments, settings_changes(arguments))
