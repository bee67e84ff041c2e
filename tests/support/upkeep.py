"""What other processes do while a store is looked after: read a tag again and again, write, optimise, copy."""

import hashlib
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

from store import copies, lance_io, maintenance
from support.store_rows import SMALL, rows_for

TABLE = "training_data"


def digest(uri: str, version: int | str) -> str:
    """Hash of every value of a pinned version."""
    rows = lance_io.open_table(uri, TABLE, version).to_table().sort_by("uuid")
    return hashlib.sha256(repr(rows.to_pydict()).encode()).hexdigest()


def read_tag(uri: str, tag: str, reading: Event, stop: Event, told: Queue) -> None:
    """Open a tag and read all of it, anew and through one handle kept open, until told to stop."""
    held, seen, reads = lance_io.open_table(uri, TABLE, tag), set(), 0
    while not stop.is_set():
        seen.add(digest(uri, tag))
        seen.add(hashlib.sha256(repr(held.to_table().sort_by("uuid").to_pydict()).encode()).hexdigest())
        reads += 1
        reading.set()
    told.put((sorted(seen), reads))


def write_rows(uri: str, writer: int, commits: int) -> None:
    """Append rows nobody else writes, and update some that others write too."""
    for turn in range(commits):
        lance_io.write(uri, TABLE, rows_for(TABLE, 3, first=1000 * (writer + 1) + 3 * turn), profile=SMALL)
        lance_io.write(uri, TABLE, rows_for(TABLE, 5), profile=SMALL)


def optimise_for_ever(uri: str) -> None:
    """Write and optimise until killed."""
    for turn in range(100_000):
        lance_io.write(uri, TABLE, rows_for(TABLE, 4, first=4 * turn), profile=SMALL)
        maintenance.optimize(uri, TABLE)


def copy_for_ever(uri: str, folder: str) -> None:
    """Copy into one new store after the other until killed."""
    for turn in range(100_000):
        copies.copy(uri, Path(folder) / str(turn))
