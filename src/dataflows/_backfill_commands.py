"""Commands of backfill: gold rows, generations from detections, promotion and its gate."""

from typing import Any


def add_backfill_commands(commands: Any) -> None:
    """Add them to the command line."""
