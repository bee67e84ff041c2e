"""Commands of discovery: `discover` and exports of detections."""

from typing import Any

from dataflows._detection_commands import add_detection_commands


def add_discovery_commands(commands: Any) -> None:
    """Add them to the command line."""
    add_detection_commands(commands)
