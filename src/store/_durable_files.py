"""Files that appear under their name only when they are complete and on the disk."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Final
from uuid import uuid4

LEFTOVER_AGE_S: Final = 3600.0
"""Age from which an unfinished file belongs to a process that was killed: a live one writes more often."""


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A place beside ``target``, the caller's own, whose file takes that name in one step when the block ends.

    The file is on the disk by then, so that it outlives a power cut. Where the block fails, what it wrote goes and a
    file of that name stays as it was. The folder is made.

    Raises:
        OSError: it cannot be written.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.{uuid4().hex[:8]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _finish(part, target)
    finally:
        _drop(part)


def _finish(part: Path, target: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _drop(part: Path) -> None:
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
