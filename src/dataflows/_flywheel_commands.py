"""Commands of the flywheel: write-back to the lake and rounds with their ledger."""

from typing import Any


def add_flywheel_commands(commands: Any) -> None:
    """Add them to the command line."""
