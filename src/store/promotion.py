"""A generation of masks on its way into ``training_data``: as a table beside it, promoted under a tag, rolled back.

What a generation would put there is in the table ``candidates``; only columns that change with a mask are written.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import lancedb
import pyarrow as pa
import pyarrow.compute as pc

from store import lance_io, tags
from store.backfill_schemas import mask_columns
from store.column_rewrites import files_of, gained, rewrite_columns
from store.places import normalised
from store.schemas import profile_of, training_data
from store.sql import literals
from store.storage_options import storage_options
from utils.errors import PromotionError, TableNotFoundError, TagError

TABLE = "training_data"
_KEYS = ("uuid", "input_set", "mask_source", "generation", "mask_recipe")
_KEYS_AT_ONCE = 2000


@dataclass(frozen=True, kw_only=True)
class PromotionReceipt:
    """What a promotion did."""

    generation: int
    """Generation that ``training_data`` holds for its chips."""
    tag: str
    """Tag of the table with it."""
    tag_before: str
    """Tag of the table as it was before: what :func:`rollback` restores."""
    version_before: int
    """Version of that tag."""
    version: int
    """Version of the tag."""
    rows: int
    """Chips whose columns were written; 0 where they were there already."""
    chips: int
    """Chips of the generation."""
    bytes_written: int
    """Size of the files the table gained."""


@dataclass(frozen=True, kw_only=True)
class RollbackReceipt:
    """What a rollback did."""

    tag: str
    """Tag of the promotion that was undone."""
    restored: int
    """Version whose masks the chips have again."""
    version: int
    """Newest version of the table."""
    rows: int
    """Chips that got their earlier masks back; those changed since by others are not among them."""
    bytes_written: int
    """Size of the files the table gained."""


def tag_before(tag: str) -> str:
    """Name of the tag that pins the table before a promotion."""
    return f"before-{tag}"


def candidates_of(uri: str | Path, generation: int, columns: list[str] | None = None) -> pa.Table:
    """Rows of ``candidates`` of a generation.

    Raises:
        PromotionError: there are none.
    """
    where = f"generation = {int(generation)}"
    try:
        names = columns or lance_io.open_table(uri, "candidates").schema.names
    except TableNotFoundError as error:
        raise PromotionError(_nothing(uri, generation)) from error
    rows = lance_io.scan(uri, "candidates", names, where)
    if not len(rows):
        raise PromotionError(_nothing(uri, generation))
    return rows


def candidate_name(generation: int) -> str:
    """Name of the table beside ``training_data`` that holds a generation's masks."""
    return f"{TABLE}_generation_{int(generation)}"


def candidate_table(uri: str | Path, generation: int) -> str:
    """Make a table with the generation's masks in place, and everything else as ``training_data`` has it.

    It is a shallow clone: it refers to the files of ``training_data`` and adds the columns that differ. Where it is
    there already, on the newest version of ``training_data``, it stays as it is. :func:`drop_candidate_table` takes it
    away; while it is there, ``training_data`` must not be cleaned of versions.

    Returns:
        Its name, as ``python -m training fit --data.table`` takes it.

    Raises:
        PromotionError: the generation has no candidates, or its chips changed since.
        StoreNotWritableError: the store cannot be written.
    """
    name, main = candidate_name(generation), lance_io.open_table(uri, TABLE)
    wanted = candidates_of(uri, generation)
    if lance_io.table_exists(uri, name):
        clone = lance_io.open_table(uri, name)
        # a clone goes on counting where its origin stood, and is written once
        if clone.version <= main.version + 1 and clone.version > main.version and not len(_left(clone, wanted)):
            return name
        drop_candidate_table(uri, generation)
    # chips that changed are refused before there is a table that keeps the store from being cleaned
    _left(main, wanted)
    lance_io.check_writable(uri)
    place = lance_io.table_uri(uri, name)
    try:
        main.shallow_clone(place, int(main.version), storage_options=storage_options(place))
    except OSError as error:
        raise lance_io.not_writable(uri, error) from error
    rewrite_columns(uri, name, lambda dataset: _left(dataset, wanted))
    return name


def drop_candidate_table(uri: str | Path, generation: int) -> bool:
    """Take the table of :func:`candidate_table` away; whether there was one. ``training_data`` keeps all its files."""
    name = candidate_name(generation)
    if not lance_io.table_exists(uri, name):
        return False
    place = normalised(uri)
    lancedb.connect(place, storage_options=storage_options(place)).drop_table(name)
    return True


def promote(uri: str | Path, generation: int, tag: str) -> PromotionReceipt:
    """Copy a generation's masks into ``training_data``, between two tags: ``before-<tag>`` and ``<tag>``.

    Only the columns that change with a mask are written, in one commit: all chips of the generation, or none. Called
    again it finishes what a killed call left, or finds everything done; two at once end as one.

    Args:
        uri: the store.
        generation: the generation.
        tag: name of the table's version with it.

    Raises:
        PromotionError: the generation has no candidates, or chips of it changed since it was made.
        TagError: the tag is no name, or stands for something else.
        StoreConflictError: other writers came first in every attempt.
        StoreNotWritableError: the store cannot be written.
    """
    wanted = candidates_of(uri, generation)
    known = {found.tag: found.version for found in tags.list_tags(uri, TABLE)}
    _check_tag(uri, wanted, known, tag)
    lance_io.check_writable(uri)
    main = lance_io.open_table(uri, TABLE)
    files = files_of(main)
    if len(_left(main, wanted)):
        # a tag left by a call that was killed before it wrote, or by a promotion that was rolled back, moves up
        _pin(uri, tag_before(tag), known, int(main.version))
    done, seen = rewrite_columns(uri, TABLE, lambda dataset: _left(dataset, wanted))
    if done.rows:
        # what others committed between the tag and the rewrite is not what a rollback takes away
        _pin(uri, tag_before(tag), {tag_before(tag): seen}, seen)
        # nor is what they commit from here on
        _pin(uri, tag, known, done.version)
        lance_io.refresh_indexes(uri, TABLE)
    elif tag not in known:
        # of a call that was killed, or that ran beside this one; or promoted under another name: nothing to take back
        for name in (tag_before(tag), tag):
            with suppress(TagError):
                tags.create_tag(uri, TABLE, name, seen)
    now = {found.tag: found.version for found in tags.list_tags(uri, TABLE)}
    return PromotionReceipt(
        generation=generation,
        tag=tag,
        tag_before=tag_before(tag),
        version_before=now.get(tag_before(tag), seen),
        version=now[tag],
        rows=done.rows,
        chips=len(wanted),
        bytes_written=gained(files, files_of(lance_io.open_table(uri, TABLE))),
    )


def rollback(uri: str | Path, tag: str) -> RollbackReceipt:
    """Undo a promotion: its chips get the masks back that ``before-<tag>`` holds.

    Only the columns that the promotion wrote are put back, in the chips that still have its masks, so that nothing that
    was committed since is lost. ``python -m store restore`` puts the whole table back to a tag.

    Raises:
        PromotionError: the table has no such pair of tags.
        StoreConflictError: other writers came first in every attempt.
        StoreNotWritableError: the store cannot be written.
    """
    known = {found.tag: found.version for found in tags.list_tags(uri, TABLE)}
    before, after = known.get(tag_before(tag)), known.get(tag)
    if before is None or after is None:
        raise PromotionError(
            f"{TABLE} has no tags {tag_before(tag)!r} and {tag!r}; it has: {', '.join(sorted(known)) or 'none'}"
        )
    rows = _promoted_rows(uri, before, after)
    done, _ = rewrite_columns(uri, TABLE, lambda dataset: _put_back(dataset, rows))
    if done.rows:
        lance_io.refresh_indexes(uri, TABLE)
    return RollbackReceipt(
        tag=tag, restored=before, version=done.version, rows=done.rows, bytes_written=done.bytes_written
    )


def _promoted_rows(uri: str | Path, before: int, after: int) -> pa.Table:
    """Key and mask columns, as they were before, of the chips that a promotion wrote; with what it wrote them as."""
    old, new = (lance_io.open_table(uri, TABLE, version) for version in (before, after))
    keys = {row["uuid"]: row for row in new.to_table(columns=list(_KEYS)).to_pylist()}
    was = old.to_table(columns=list(_KEYS)).to_pylist()
    changed = [row["uuid"] for row in was if row["uuid"] in keys and _mark(row) != _mark(keys[row["uuid"]])]
    changed += _filled(old, new, set(changed))
    rows = _rows_of(old, ["uuid", *mask_columns(old.schema)], changed)
    marks = [_mark(keys[uuid]) for uuid in rows["uuid"].to_pylist()]
    return rows.append_column("mark", pa.array([repr(mark) for mark in marks], pa.string()))


def _filled(old: lance.LanceDataset, new: lance.LanceDataset, known: set[str]) -> list[str]:
    """Chips that had no mask before and have one after."""
    empty = old.to_table(columns=["uuid"], filter="generated_mask IS NULL")["uuid"].to_pylist()
    still = set(new.to_table(columns=["uuid"], filter="generated_mask IS NULL")["uuid"].to_pylist())
    return [uuid for uuid in empty if uuid not in still and uuid not in known]


def _put_back(dataset: lance.LanceDataset, rows: pa.Table) -> pa.Table:
    now = {
        row["uuid"]: repr(_mark(row)) for row in _rows_of(dataset, list(_KEYS), rows["uuid"].to_pylist()).to_pylist()
    }
    pairs = zip(rows["uuid"].to_pylist(), rows["mark"].to_pylist(), strict=True)
    return rows.filter(pa.array([now.get(uuid) == mark for uuid, mark in pairs], pa.bool_())).drop_columns(["mark"])


def _mark(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["mask_source"], row["generation"], row["mask_recipe"], row["input_set"]


def _left(dataset: lance.LanceDataset, wanted: pa.Table) -> pa.Table:
    """Columns to write, for those of the candidates that the table does not hold yet.

    Raises:
        PromotionError: a chip is gone, has other inputs, another mask than the candidate builds on, or one of a person.
    """
    lance_io.check_schema(dataset.uri, TABLE, dataset.schema, training_data(profile_of(dataset.schema)))
    uuids = wanted["uuid"].to_pylist()
    stored = {row["uuid"]: row for row in _rows_of(dataset, list(_KEYS), uuids).to_pylist()}
    masked = set(_rows_of(dataset, ["uuid"], uuids, "generated_mask IS NOT NULL")["uuid"].to_pylist())
    keep, refused = [], dict[str, list[str]]()
    for row in wanted.select(["uuid", "input_set", "base_generation", "generation", "mask_recipe"]).to_pylist():
        found = stored.get(row["uuid"])
        why = _refusal(row, found, has_mask=row["uuid"] in masked)
        if why is not None:
            refused.setdefault(why, []).append(row["uuid"])
        keep.append(found is not None and not (_is_there(row, found) and row["uuid"] in masked))
    if refused:
        told = "; ".join(f"{len(ids)} chips {why} (such as {ids[0]})" for why, ids in sorted(refused.items()))
        raise PromotionError(f"the chips changed since the generation was made: {told}; run `backfill` again")
    columns = ["uuid", *(name for name in mask_columns(dataset.schema) if name in wanted.column_names)]
    return wanted.filter(pa.array(keep, pa.bool_())).select(columns)


def _is_there(row: dict[str, Any], found: dict[str, Any]) -> bool:
    return bool(found["generation"] == row["generation"] and found["mask_recipe"] == row["mask_recipe"])


def _refusal(row: dict[str, Any], found: dict[str, Any] | None, *, has_mask: bool) -> str | None:
    if found is None:
        return "are not in the table any more"
    if found["input_set"] != row["input_set"]:
        return "have other labels or scenes"
    if found["mask_source"] != "machine":
        return "have a mask that a person drew or saw"
    if has_mask and not _is_there(row, found) and found["generation"] != row["base_generation"]:
        return "have the masks of another generation"
    return None


def _rows_of(dataset: lance.LanceDataset, columns: list[str], uuids: list[str], also: str = "true") -> pa.Table:
    parts = [
        dataset.to_table(columns=columns, filter=f"uuid IN ({literals(uuids[k : k + _KEYS_AT_ONCE])}) AND {also}")
        for k in range(0, len(uuids), _KEYS_AT_ONCE)
    ]
    return pa.concat_tables(parts) if parts else dataset.to_table(columns=columns, filter="false")


def _check_tag(uri: str | Path, wanted: pa.Table, known: dict[str, int], tag: str) -> None:
    """Refuse a tag that is there and stands for a table without the generation.

    Raises:
        TagError: it does.
    """
    tags.check_name(tag)
    if tag not in known:
        return
    generation, uuids = wanted["generation"][0].as_py(), wanted["uuid"].to_pylist()
    held = _rows_of(lance_io.open_table(uri, TABLE, known[tag]), ["generation"], uuids)["generation"]
    if not pc.any(pc.equal(held, generation)).as_py():
        raise TagError(f"{TABLE} has a tag {tag!r} that stands for something else; choose another name")


def _pin(uri: str | Path, tag: str, known: dict[str, int], version: int) -> None:
    """Point a tag at a version, whether or not it is there; another call may do the same."""
    try:
        (tags.move_tag if tag in known else tags.create_tag)(uri, TABLE, tag, version)
    except TagError:
        tags.move_tag(uri, TABLE, tag, version)


def _nothing(uri: str | Path, generation: int) -> str:
    made = lance_io.scan(uri, "candidates", ["generation"])["generation"]
    numbers = ", ".join(str(number) for number in sorted(set(made.to_pylist()))) or "none"
    return (
        f"generation {generation} holds nothing to promote; backfills made: {numbers} (`python -m dataflows backfill`)"
    )
