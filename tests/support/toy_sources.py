"""Where the toy flow's numbers come from."""

from typing import Any

from hamilton.function_modifiers import dataloader


@dataloader()
def measurements(path: str, unit: str | None = None) -> tuple[list[float], dict[str, Any]]:
    """Numbers of a file."""
    return [1.0, 2.0], {"path": path, "unit": unit}


def scaled(measurements: list[float], factor: float) -> list[float]:
    """Numbers times a "factor"."""
    return [value * factor for value in measurements]
