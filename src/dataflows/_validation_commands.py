"""Commands of validation: `validate` and its report."""

from typing import Any


def add_validation_commands(commands: Any) -> None:
    """Add them to the command line."""
