"""Names for versions: made, moved, deleted; and a table put back to an earlier version by a new one."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from store import lance_io
from store.conflicts import committed
from utils.errors import StoreNotWritableError, TagError

_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A name that pins a version: cleaning never removes what it points at."""

    tag: str
    """Name."""
    version: int
    """Version number."""
    moved_at: datetime
    """When it was made or last moved, UTC."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What restoring did, or would do."""

    table: str
    """Table name."""
    dry_run: bool
    """Whether nothing was changed."""
    restored: int
    """Version whose rows the table has again."""
    replaced: int
    """Version that was newest before; it stays and can be restored in turn."""
    version: int
    """Newest version now; ``replaced`` where the table was at that version already, or in a dry run."""
    rows: int
    """Rows of the restored version."""


def list_tags(uri: str | Path, table: str) -> list[Tag]:
    """Tags of a table, by name.

    Raises:
        TableNotFoundError: the table does not exist.
    """
    entries = lance_io.open_table(uri, table).tags.list()
    return [
        Tag(tag=name, version=int(entry["version"]), moved_at=cast("datetime", entry["updated_at"]).astimezone(UTC))
        for name, entry in sorted(entries.items())
    ]


def create_tag(
    uri: str | Path, table: str, tag: str, version: int | str | None = None, *, dry_run: bool = False
) -> Tag:
    """Pin a version (number or tag; the newest by default) under a name that is not taken.

    Raises:
        TagError: the tag exists, or is no name: letters, digits, ``.``, ``-``, ``_``, and not digits alone.
        TableNotFoundError: the table or the version does not exist.
        StoreNotWritableError: the store cannot be written.
    """
    check_name(tag)
    return _pinned(uri, table, tag, version, exists=False, dry_run=dry_run)


def check_name(tag: str) -> None:
    """Refuse what cannot be a tag.

    Raises:
        TagError: it is no name: letters, digits, ``.``, ``-``, ``_``, and not digits alone.
    """
    if not _NAME.fullmatch(tag) or tag.isdecimal() or ".." in tag or tag.endswith(".lock"):
        raise TagError(
            f"{tag!r} cannot be a tag; use letters, digits, '.', '-' and '_', not digits alone; for example train-v1"
        )


def move_tag(uri: str | Path, table: str, tag: str, version: int | str | None = None, *, dry_run: bool = False) -> Tag:
    """Point a tag that exists at another version (number or tag; the newest by default).

    Raises:
        TagError: the tag does not exist.
        TableNotFoundError: the table or the version does not exist.
        StoreNotWritableError: the store cannot be written.
    """
    return _pinned(uri, table, tag, version, exists=True, dry_run=dry_run)


def delete_tag(uri: str | Path, table: str, tag: str, *, dry_run: bool = False) -> Tag:
    """Delete a tag; its version stays until cleaning finds it old. Returns what it pointed at.

    Raises:
        TagError: the tag does not exist.
        TableNotFoundError: the table does not exist.
        StoreNotWritableError: the store cannot be written.
    """
    found = _known(uri, table, tag)
    if found is None:
        raise _missing(uri, table, tag)
    if not dry_run:
        lance_io.check_writable(uri)
        _changed(uri, table, tag, lambda: lance_io.open_table(uri, table).tags.delete(tag))
    return found


def restore(uri: str | Path, table: str, version: int | str, *, dry_run: bool = False) -> Restored:
    """Make a new version with the rows and columns of an earlier one; every version in between stays.

    Raises:
        TableNotFoundError: the table or the version does not exist, for instance because it was cleaned.
        StoreConflictError: writers committed first every time.
        StoreNotWritableError: the store cannot be written.
    """
    wanted = lance_io.open_table(uri, table, version)
    newest = int(lance_io.open_table(uri, table).version)
    number, now = int(wanted.version), newest
    if not dry_run:
        lance_io.check_writable(uri)
    if not dry_run and number != newest:
        committed(
            lambda: lance_io.open_table(uri, table, number).restore(),  # type: ignore[no-untyped-call]
            what=f"restoring {table!r}",
        )
        now = int(lance_io.open_table(uri, table).version)
    return Restored(
        table=table, dry_run=dry_run, restored=number, replaced=newest, version=now, rows=int(wanted.count_rows())
    )


def _pinned(uri: str | Path, table: str, tag: str, version: int | str | None, *, exists: bool, dry_run: bool) -> Tag:
    number = int(lance_io.open_table(uri, table, version).version)
    found = _known(uri, table, tag)
    if exists and found is None:
        raise _missing(uri, table, tag)
    if not exists and found is not None:
        raise _taken(table, found)
    if not dry_run:
        lance_io.check_writable(uri)
        tags = lance_io.open_table(uri, table).tags
        _changed(uri, table, tag, lambda: (tags.update if exists else tags.create)(tag, number))
    return Tag(tag=tag, version=number, moved_at=datetime.now(UTC))


def _changed(uri: str | Path, table: str, tag: str, change: Callable[[], object]) -> None:
    """Change a tag; what another process did to it since it was looked at is told like what it had done before."""
    try:
        change()
    except ValueError as error:
        found = _known(uri, table, tag)
        raise (_taken(table, found) if found else _missing(uri, table, tag)) from error
    except OSError as error:
        raise StoreNotWritableError(f"tag {tag!r} of table {table!r} in {uri} cannot be written: {error}") from error


def _known(uri: str | Path, table: str, tag: str) -> Tag | None:
    return next((found for found in list_tags(uri, table) if found.tag == tag), None)


def _taken(table: str, found: Tag) -> TagError:
    return TagError(
        f"table {table!r} has a tag {found.tag!r} at version {found.version} already; "
        f"move it with `python -m store tag move {table} {found.tag}`, or choose another name"
    )


def _missing(uri: str | Path, table: str, tag: str) -> TagError:
    known = ", ".join(found.tag for found in list_tags(uri, table)) or "none"
    return TagError(f"table {table!r} has no tag {tag!r}; it has: {known}")
