"""Old versions, files of killed writers and folders of work that never finished: found, told and removed.

A version is old from the moment it was replaced, not from when it was written: a table nobody wrote to for a month
keeps the version its readers hold. Tagged versions always stay.
"""

import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, cast

import lance

from store import lance_io
from store.conflicts import committed
from store.table_state import TableState, state_of, tables_named
from utils.errors import ConfigError, StoreError

DEFAULT_AGE: Final = timedelta(days=7)
STAGING: Final = "_staging"
"""Folder of a local store where runs keep unfinished work, one folder a run."""
SHORTEST_AGE: Final = timedelta(minutes=10)
"""Younger files may belong to a writer at work."""
# Lance removes unreferenced files from this age on, whatever the limit
_LANCE_AGE = timedelta(days=7)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What cleaning did to one table, or would do."""

    table: str
    """Table name."""
    dry_run: bool
    """Whether nothing was removed; ``after`` then tells what would be."""
    versions_removed: tuple[int, ...]
    """Version numbers that were old enough and no tag pins."""
    versions_kept: dict[int, tuple[str, ...]]
    """Version number → tags, for those that were old enough and are pinned."""
    orphans_removed: int
    """Data files of writers that never committed, beside those that Lance removed with the versions."""
    bytes_removed: int
    """Bytes freed."""
    before: TableState
    """The table before."""
    after: TableState
    """The table after."""


@dataclass(frozen=True, kw_only=True)
class Leftovers:
    """Folders of work that never finished, in a local store."""

    dry_run: bool
    """Whether nothing was removed."""
    unfinished_tables: tuple[str, ...]
    """Folders of tables whose creation or copy was killed: they hold no version."""
    staging: tuple[str, ...]
    """Folders of killed runs under ``_staging``."""
    bytes_removed: int
    """Bytes freed."""


def parse_age(text: str) -> timedelta:
    """An age such as ``7d``, ``12h``, ``30m``, ``1.5d`` or ``0``.

    Raises:
        ConfigError: the text is no age.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip().lower())
    try:
        if match:
            return timedelta(**{_UNITS[match[2]]: float(match[1])})
    except OverflowError as error:
        raise ConfigError(f"{text!r} is too long an age") from error
    if text.strip() == "0":
        return timedelta(0)
    raise ConfigError(f"{text!r} is no age; write a number and s, m, h, d or w, for example 12h or 7d, or 0")


def check_age(older_than: timedelta, *, no_writers: bool) -> None:
    """Refuse an age at which files of writers at work would be removed, unless there are none.

    Raises:
        ConfigError: the age is negative, or shorter than :data:`SHORTEST_AGE` without ``no_writers``.
    """
    if older_than < timedelta(0):
        raise ConfigError(f"an age cannot be negative: {older_than}")
    if older_than < SHORTEST_AGE and not no_writers:
        raise ConfigError(
            f"cleaning what is older than {_told(older_than)} can remove files that a writer has not committed yet; "
            f"name an age from {_told(SHORTEST_AGE)} on, or add --no-writers when nothing else has the store open"
        )


def clean(
    uri: str | Path, table: str, *, older_than: timedelta = DEFAULT_AGE, no_writers: bool = False, dry_run: bool = False
) -> Cleaned:
    """Remove versions replaced longer ago than ``older_than``, and data files that never were committed.

    A version under a tag stays, and so do all files it needs. The newest version always stays. Data files without a
    version go when they are older than ``older_than`` too; in a remote store, from 7 days on. Lance removes them from
    7 days on even where ``older_than`` is longer. With ``older_than`` 0 and ``no_writers`` they all go.

    Raises:
        ConfigError: ``older_than`` is negative, or short while writers may be at work.
        TableNotFoundError: the table does not exist.
        StoreNotWritableError: the store cannot be written.
        StoreError: a file cannot be removed.
    """
    check_age(older_than, no_writers=no_writers)
    if not dry_run:
        lance_io.check_writable(uri)
    dataset = lance_io.open_table(uri, table)
    before = state_of(dataset)
    old, kept = _old_versions(dataset, older_than)
    everything = no_writers and older_than == timedelta(0)
    options: dict[str, Any] = {"error_if_tagged_old_versions": False, "delete_unverified": everything}
    options |= {"versions": list(old)} if old else {"older_than": timedelta(days=36500)}
    orphans = [] if everything else _orphans(uri, table, dataset, older_than)
    orphan_bytes = sum(path.stat().st_size for path in orphans)
    if dry_run:
        freed = int(dataset.explain_cleanup_old_versions(**options).stats.bytes_removed) + orphan_bytes
        after = replace(before, versions=before.versions - len(old), bytes_stored=before.bytes_stored - freed)
    else:
        committed(lambda: lance_io.open_table(uri, table).cleanup_old_versions(**options), what=f"cleaning {table!r}")
        for path in orphans:
            _remove(path)
        after = state_of(lance_io.open_table(uri, table))
        freed = before.bytes_stored - after.bytes_stored
    return Cleaned(
        table=table,
        dry_run=dry_run,
        versions_removed=old,
        versions_kept=kept,
        orphans_removed=len(orphans),
        bytes_removed=freed,
        before=before,
        after=after,
    )


def clean_leftovers(
    uri: str | Path, *, older_than: timedelta = DEFAULT_AGE, no_writers: bool = False, dry_run: bool = False
) -> Leftovers:
    """Remove folders of unfinished tables and of killed runs that nothing was written to for ``older_than``.

    A remote store has no folders: files of unfinished tables there are left to the bucket's own rules.

    Raises:
        ConfigError: ``older_than`` is negative, or short while writers may be at work.
        StoreError: there is no store at ``uri``, or a folder cannot be removed.
        StoreNotWritableError: the store cannot be written.
    """
    check_age(older_than, no_writers=no_writers)
    tables_named(uri, [])
    if not dry_run:
        lance_io.check_writable(uri)
    if "://" in str(uri):
        return Leftovers(dry_run=dry_run, unfinished_tables=(), staging=(), bytes_removed=0)
    unfinished = [path for path in Path(uri).glob("*.lance") if path.is_dir() and not _versions_in(path)]
    staging = [path for path in (Path(uri) / STAGING).glob("*") if path.is_dir()]
    found = {path: _idle_and_size(path) for path in (*unfinished, *staging)}
    old = [path for path, (idle, _) in found.items() if idle >= older_than]
    if not dry_run:
        for path in old:
            # creation may have finished since the folder was looked at
            if not _versions_in(path):
                _remove(path)
    return Leftovers(
        dry_run=dry_run,
        unfinished_tables=tuple(sorted(path.name for path in unfinished if path in old)),
        staging=tuple(sorted(path.name for path in staging if path in old)),
        bytes_removed=sum(found[path][1] for path in old),
    )


def _old_versions(
    dataset: lance.LanceDataset, older_than: timedelta
) -> tuple[tuple[int, ...], dict[int, tuple[str, ...]]]:
    """Versions replaced long enough ago: those without a tag, and those with."""
    entries = sorted(dataset.versions(), key=lambda entry: int(entry["version"]))
    limit = datetime.now(UTC) - older_than
    replaced = {
        int(entry["version"]): cast("datetime", following["timestamp"]).astimezone(UTC)
        for entry, following in pairwise(entries)
    }
    tags: dict[int, tuple[str, ...]] = {}
    for tag, entry in sorted(dataset.tags.list().items()):
        tags[int(entry["version"])] = (*tags.get(int(entry["version"]), ()), tag)
    old = [version for version, at in replaced.items() if at <= limit]
    return tuple(one for one in old if one not in tags), {one: tags[one] for one in old if one in tags}


def _orphans(uri: str | Path, table: str, dataset: lance.LanceDataset, older_than: timedelta) -> Sequence[Path]:
    """Data files of a local table that no version refers to and that are older than asked, though too young for Lance.

    Files are listed before versions are read, so that one committed in between counts as referred to.
    """
    if "://" in str(uri):
        return []
    now = datetime.now(UTC)
    files = dataset.all_files().read_all().to_pylist()
    tracked = set(lance_io.open_table(uri, table).tracked_files().read_all()["path"].to_pylist())
    folder = Path(lance_io.table_uri(uri, table))
    return [
        folder / str(one["path"])
        for one in files
        if str(one["path"]).startswith("data/")
        and one["path"] not in tracked
        and older_than <= now - one["last_modified"] < _LANCE_AGE
    ]


def _versions_in(folder: Path) -> bool:
    return any((folder / "_versions").glob("*.manifest"))


def _idle_and_size(folder: Path) -> tuple[timedelta, int]:
    """Time since anything in a folder was written, and its bytes."""
    found = [path.stat() for path in (folder, *folder.rglob("*"))]
    newest = max(one.st_mtime for one in found)
    return timedelta(seconds=time.time() - newest), sum(one.st_size for one in found)


def _remove(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be removed: {error}") from error


def _told(age: timedelta) -> str:
    seconds = age.total_seconds()
    unit, name = next(
        ((size, name) for size, name in ((86400, "d"), (3600, "h"), (60, "m")) if seconds >= size), (1, "s")
    )
    return f"{seconds / unit:g}{name}"
