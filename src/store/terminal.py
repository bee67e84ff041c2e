"""What the store's commands share: the terminal, JSON, and reading a version or tag."""

import json
import sys

from rich.console import Console


def console() -> Console:
    """The terminal; anything else gets lines as long as they need to be."""
    return Console() if sys.stdout.isatty() else Console(width=200)


def print_json(value: object) -> None:
    """Print ``value`` as JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def version_or_tag(text: str) -> int | str:
    """A version number where the text is one, else a tag."""
    return int(text) if text.isdecimal() else text


def names(text: str) -> list[str]:
    """The names in ``a,b``."""
    return [name.strip() for name in text.split(",") if name.strip()]
