"""Commands of discovery: `discover` and exports of detections."""

from typing import Any


def add_discovery_commands(commands: Any) -> None:
    """Add them to the command line."""
