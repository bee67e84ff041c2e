"""Copies of tables and of whole stores, at one version each: the same rows, row ids, indexes and schema metadata.

A table is there once it is whole: its version is committed after all of its files. What a killed copy leaves is no
table; run again, the copy goes on with the tables that are missing.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import lance

from store import lance_io
from store.cleaning import STAGING
from store.table_state import tables_named, whole_tables
from utils.errors import ConfigError, StoreError, StoreNotWritableError, TableNotFoundError, TagError

_LAST = "training_data"


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What was done about one table, or would be."""

    table: str
    """Table name."""
    dry_run: bool
    """Whether nothing was written."""
    version: int
    """Version number that was copied; the copy has the same."""
    rows: int
    """Rows of that version."""
    bytes_copied: int
    """Size of its data files, bytes; 0 for a table that was there already."""
    already_there: bool
    """Whether the destination held this very version before."""
    tags: tuple[str, ...]
    """Tags that were copied along."""
    tags_left_out: tuple[str, ...]
    """Tags at other versions, which a copy of one version cannot hold."""


def copy(
    uri: str | Path,
    destination: str | Path,
    *,
    tables: Sequence[str] | None = None,
    version: int | str | None = None,
    tags: bool = False,
    dry_run: bool = False,
) -> list[Copied]:
    """Copy tables of one store into another, each at one version.

    Of a store that is being written to, every chip that is copied finds its prompts and masks in the copy: their
    versions are read after that of ``training_data``, which is copied last.

    Args:
        uri: the store.
        destination: store to copy into, a folder or a URI; made where it does not exist.
        tables: tables to copy; all by default.
        version: version number (of a single table) or tag (which every table has); the newest by default.
        tags: whether tags at that version come along.
        dry_run: check everything, write nothing.

    Raises:
        ConfigError: a store onto itself, or one version number for several tables.
        TableNotFoundError: a table or version does not exist.
        StoreError: there is no store, or the destination holds another table of the name.
        StoreNotWritableError: the destination cannot be written.
    """
    if _place(uri) == _place(destination):
        raise ConfigError(f"{uri} would be copied onto itself; name another destination")
    names = tables_named(uri, list(tables) if tables is not None else None)
    if isinstance(version, int) and len(names) != 1:
        raise ConfigError(f"version {version} is asked of {len(names)} tables; name one table, or a tag they all have")
    lance_io.check_writable(destination)
    pinned = {name: lance_io.open_table(uri, name, version) for name in sorted(names, key=lambda name: name != _LAST)}
    # looked for first: what another copy makes whole meanwhile is not unfinished
    unfinished = {name for name in pinned if _unfinished(destination, name)}
    there = set(whole_tables(destination))
    same = {name for name in pinned if name in there and _same(pinned[name], destination, name)}
    for name in pinned:
        if name in unfinished - there:
            raise StoreError(
                f"{destination} holds an unfinished table {name!r}: wait until it is made, or remove what was left "
                f"with `python -m store clean --store {destination}`"
            )
        if name in there and name not in same:
            raise StoreError(
                f"{destination} holds another table {name!r}; copy into another store, or remove "
                f"{lance_io.table_uri(destination, name)} first"
            )
    order = sorted(pinned, key=lambda name: name == _LAST)
    return [
        _copied(uri, pinned[name], destination, name, there=name in same, tags=tags, dry_run=dry_run) for name in order
    ]


def _copied(
    uri: str | Path,
    source: lance.LanceDataset,
    destination: str | Path,
    name: str,
    *,
    there: bool,
    tags: bool,
    dry_run: bool,
) -> Copied:
    entries = {tag: int(entry["version"]) for tag, entry in sorted(source.tags.list().items())}
    here = tuple(tag for tag, number in entries.items() if number == source.version) if tags else ()
    if not dry_run and not there:
        try:
            _clone(source, destination, name)
        except OSError as error:
            # another copy may have been first
            if not (lance_io.table_exists(destination, name) and _same(source, destination, name)):
                raise _failed(uri, int(source.version), destination, name, error) from error
    if not dry_run:
        copied = lance_io.open_table(destination, name)
        for tag in here:
            _set_tag(copied, tag)
    return Copied(
        table=name,
        dry_run=dry_run,
        version=int(source.version),
        rows=int(source.count_rows()),
        bytes_copied=0 if there else _data_bytes(source),
        already_there=there,
        tags=here,
        tags_left_out=tuple(tag for tag in entries if tag not in here) if tags else (),
    )


def _clone(source: lance.LanceDataset, destination: str | Path, name: str) -> None:
    """Copy the files, then the version.

    Locally they are made aside and moved in one step: two copies at once would truncate each other's files.
    """
    place, version = lance_io.table_uri(destination, name), int(source.version)
    if "://" in str(destination):
        source.deep_clone(place, version)
        return
    aside = Path(destination) / STAGING / f"copy-{uuid4().hex}"
    source.deep_clone(str(aside / f"{name}.lance"), version)
    try:
        (aside / f"{name}.lance").rename(place)
    finally:
        shutil.rmtree(aside)


def _set_tag(copied: lance.LanceDataset, tag: str) -> None:
    known = copied.tags.list().get(tag)
    if known is None:
        copied.tags.create(tag, int(copied.version))
    elif int(known["version"]) != copied.version:
        raise TagError(f"{copied.uri} has a tag {tag!r} at version {known['version']}; delete or move it first")


def _unfinished(destination: str | Path, name: str) -> bool:
    place = lance_io.table_uri(destination, name)
    return "://" not in str(destination) and Path(place).is_dir() and any(Path(place).iterdir())


def _same(source: lance.LanceDataset, destination: str | Path, name: str) -> bool:
    """Whether the destination's newest version has the same files, which carry unique names, as ``source``."""
    other = lance_io.open_table(destination, name)
    return (
        other.version == source.version
        and other.schema.equals(source.schema, check_metadata=True)
        and _files(other) == _files(source)
    )


def _files(dataset: lance.LanceDataset) -> list[tuple[list[str], int]]:
    fragments = [fragment.metadata for fragment in dataset.get_fragments()]
    return [([file.path for file in one.files], int(one.num_deletions)) for one in fragments]


def _data_bytes(dataset: lance.LanceDataset) -> int:
    files = (file for fragment in dataset.get_fragments() for file in fragment.metadata.files)
    return sum(int(file.file_size_bytes or 0) for file in files)


def _failed(uri: str | Path, version: int, destination: str | Path, name: str, error: OSError) -> StoreError:
    try:
        lance_io.open_table(uri, name, version)
    except TableNotFoundError:
        return TableNotFoundError(
            f"version {version} of table {name!r} was cleaned away while it was copied; tag it, then copy again"
        )
    return StoreNotWritableError(
        f"table {name!r} cannot be copied into {destination} ({error}); "
        "check the path, its permissions and free space, then run the copy again: it goes on where it stopped"
    )


def _place(uri: str | Path) -> str:
    return str(uri).rstrip("/") if "://" in str(uri) else str(Path(uri).resolve())
