"""Files that appear under their name only when they are complete and on the disk."""

import os
import time
from glob import escape
from pathlib import Path
from typing import Final
from uuid import uuid4

LEFTOVER_AGE_S: Final = 3600.0
"""Age from which an unfinished file belongs to a process that was killed: a live one writes more often."""


def unfinished(target: Path) -> Path:
    """A name beside ``target``, this process's own, to write under until the file is complete."""
    return target.with_name(f".{target.name}.{os.getpid()}.{uuid4().hex[:8]}.part")


def finish(part: Path, target: Path) -> None:
    """Give a complete file its name in one step, so that it outlives a power cut.

    Raises:
        OSError: it cannot be written.
    """
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def drop_unfinished(part: Path) -> None:
    """Remove a file that was not finished, and what a library left beside it."""
    for left in part.parent.glob(f"{escape(part.stem)}*"):
        left.unlink(missing_ok=True)


def drop_leftovers(folder: Path) -> None:
    """Remove unfinished files of processes that were killed."""
    for left in folder.glob(".*.part*"):
        try:
            if time.time() - left.stat().st_mtime > LEFTOVER_AGE_S:
                left.unlink()
        except FileNotFoundError:
            continue  # another process was faster
