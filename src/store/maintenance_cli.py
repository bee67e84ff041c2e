"""The commands that look after a store: ``python -m store optimize|clean|tag|restore|copy|upgrade``."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from store import cleaning, copies, maintenance, tags, upgrade
from store.table_state import TableState, tables_named
from store.terminal import console, names, print_json, version_or_tag

Commands = Any
"""argparse's sub-parsers."""


def add_commands(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the commands to ``commands``; ``shared`` holds ``--store`` and ``--json``."""
    several = argparse.ArgumentParser(add_help=False)
    several.add_argument("tables", nargs="*", metavar="table", help="tables (default all)")
    dry = argparse.ArgumentParser(add_help=False)
    dry.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")

    optimize = commands.add_parser(
        "optimize", parents=[shared, dry, several], help="merge small fragments, bring indexes up to date"
    )
    optimize.set_defaults(command=_optimize)

    clean = commands.add_parser(
        "clean", parents=[shared, dry, several], help="remove old versions and what killed writers left"
    )
    clean.add_argument(
        "--older-than", default="7d", metavar="AGE", help="7d, 12h, 30m, or 0 with --no-writers (default %(default)s)"
    )
    clean.add_argument(
        "--no-writers", action="store_true", help="nothing else has the store open: ages under 10 minutes are allowed"
    )
    clean.set_defaults(command=_clean)

    _add_tag(commands, shared, dry)

    restore = commands.add_parser(
        "restore", parents=[shared, dry], help="make a new version with the rows of an earlier one"
    )
    restore.add_argument("table")
    restore.add_argument("version", type=version_or_tag, help="version number or tag")
    restore.set_defaults(command=_restore)

    copy = commands.add_parser("copy", parents=[shared, dry], help="copy tables into another store")
    copy.add_argument("destination", help="folder or URI of the other store")
    copy.add_argument("--tables", type=names, metavar="a,b", help="tables (default all)")
    copy.add_argument("--version", type=version_or_tag, metavar="V", help="version number or tag (default newest)")
    copy.add_argument("--tags", action="store_true", help="copy the tags at that version along")
    copy.set_defaults(command=_copy)

    upgrading = commands.add_parser(
        "upgrade", parents=[shared, dry, several], help="bring tables of an earlier schema version to this one"
    )
    upgrading.set_defaults(command=_upgrade)


def _add_tag(commands: Commands, shared: argparse.ArgumentParser, dry: argparse.ArgumentParser) -> None:
    tag = commands.add_parser("tag", help="names that pin versions: list, create, move, delete")
    actions = tag.add_subparsers(required=True, metavar="action")
    listed = actions.add_parser("list", parents=[shared], help="list the tags of a table")
    listed.add_argument("table")
    listed.set_defaults(command=_tags)
    for name, change, what in (
        ("create", tags.create_tag, "pin a version under a new name"),
        ("move", tags.move_tag, "point a tag at another version"),
        ("delete", tags.delete_tag, "delete a tag; its version stays until it is cleaned"),
    ):
        action = actions.add_parser(name, parents=[shared, dry], help=what)
        action.add_argument("table")
        action.add_argument("tag")
        if name != "delete":
            action.add_argument(
                "--version", type=version_or_tag, metavar="V", help="version number or tag (default newest)"
            )
        action.set_defaults(command=_change_tag, change=change, done=f"{name.removesuffix('e')}ed")


def _optimize(arguments: argparse.Namespace) -> None:
    def show(done: list[maintenance.Optimized]) -> None:
        table = _table(arguments, "indexes", *_STATES)
        for one in done:
            indexes = [*(f"{name} made" for name in one.indexes_made), *(f"{n} updated" for n in one.indexes_updated)]
            table.add_row(one.table, ", ".join(indexes), *_states(one.before, one.after))
        _print(arguments, table)

    _each(arguments, lambda name: maintenance.optimize(arguments.store, name, dry_run=arguments.dry_run), show)


def _clean(arguments: argparse.Namespace) -> None:
    age, quiet = cleaning.parse_age(arguments.older_than), arguments.no_writers
    cleaning.check_age(age, no_writers=quiet)
    options = {"older_than": age, "no_writers": quiet, "dry_run": arguments.dry_run}
    found: list[cleaning.Leftovers] = []

    def show(done: list[cleaning.Cleaned]) -> None:
        table = _table(arguments, "freed", "kept for tags", *_STATES)
        for one in done:
            kept = [f"{version} ({', '.join(pins)})" for version, pins in one.versions_kept.items()]
            table.add_row(one.table, decimal(one.bytes_removed), ", ".join(kept), *_states(one.before, one.after))
        _print(arguments, table)
        for left in found:
            folders = [*left.unfinished_tables, *(f"{cleaning.STAGING}/{name}" for name in left.staging)]
            word = "would be removed" if left.dry_run else "removed"
            if folders:
                console().print(f"unfinished work {word}: {', '.join(folders)} ({decimal(left.bytes_removed)})")

    def plain(done: list[cleaning.Cleaned]) -> object:
        return {"tables": [asdict(one) for one in done], "leftovers": asdict(found[0]) if found else None}

    if not arguments.tables:
        tables_named(arguments.store, None)
        found.append(cleaning.clean_leftovers(arguments.store, **options))
    _each(arguments, lambda name: cleaning.clean(arguments.store, name, **options), show, plain)


def _tags(arguments: argparse.Namespace) -> None:
    found = tags.list_tags(arguments.store, arguments.table)
    if arguments.json:
        print_json([asdict(one) | {"moved_at": one.moved_at.isoformat()} for one in found])
        return
    table = Table("tag", "version", "made or moved (UTC)", title=arguments.table)
    for one in found:
        moved = one.moved_at.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
        table.add_row(one.tag, str(one.version), moved)
    console().print(table)


def _change_tag(arguments: argparse.Namespace) -> None:
    given = {"version": arguments.version} if "version" in arguments else {}
    one = arguments.change(arguments.store, arguments.table, arguments.tag, dry_run=arguments.dry_run, **given)
    if arguments.json:
        print_json({"tag": one.tag, "version": one.version, "dry_run": arguments.dry_run})
        return
    console().print(f"tag {one.tag} {_word(arguments, arguments.done)}: version {one.version} of {arguments.table}")


def _restore(arguments: argparse.Namespace) -> None:
    one = tags.restore(arguments.store, arguments.table, arguments.version, dry_run=arguments.dry_run)
    if arguments.json:
        print_json(asdict(one))
    elif one.restored == one.replaced:
        console().print(f"{one.table} is at version {one.restored} already")
    else:
        what = f"version {one.restored} of {one.table} ({one.rows:,} rows) {_word(arguments, 'restored')}"
        new = "a new version" if one.dry_run else f"version {one.version}"
        console().print(f"{what} as {new}; version {one.replaced} stays")


def _copy(arguments: argparse.Namespace) -> None:
    done = copies.copy(
        arguments.store,
        arguments.destination,
        tables=arguments.tables,
        version=arguments.version,
        tags=arguments.tags,
        dry_run=arguments.dry_run,
    )
    if arguments.json:
        print_json([asdict(one) for one in done])
        return
    table = _table(arguments, "version", "rows", "copied", "tags", "tags left out")
    for one in done:
        size = "there already" if one.already_there else decimal(one.bytes_copied)
        table.add_row(
            one.table, str(one.version), f"{one.rows:,}", size, ", ".join(one.tags), ", ".join(one.tags_left_out)
        )
    _print(arguments, table)


def _upgrade(arguments: argparse.Namespace) -> None:
    def show(done: list[upgrade.Upgraded]) -> None:
        table = _table(arguments, "schema version", "rows", "columns added", "rows changed")
        for one in done:
            versions = f"{one.found}" if one.found == one.reached else f"{one.found} → {one.reached}"
            table.add_row(one.table, versions, f"{one.rows:,}", ", ".join(one.columns_added), f"{one.rows_changed:,}")
        _print(arguments, table)

    upgrade.check(arguments.store, tables_named(arguments.store, arguments.tables or None))
    _each(arguments, lambda name: upgrade.upgrade(arguments.store, name, dry_run=arguments.dry_run), show)


_STATES = ("fragments", "versions", "on disk")


def _states(before: TableState, after: TableState) -> list[str]:
    return [
        f"{before.fragments:,} → {after.fragments:,}",
        f"{before.versions:,} → {after.versions:,}",
        f"{decimal(before.bytes_stored)} → {decimal(after.bytes_stored)}",
    ]


def _each(
    arguments: argparse.Namespace,
    work: Callable[[str], Any],
    show: Callable[[list[Any]], None],
    plain: Callable[[list[Any]], object] | None = None,
) -> None:
    """Work table by table, and tell what was done even where one fails."""
    tables = tables_named(arguments.store, arguments.tables or None)
    done: list[Any] = []
    try:
        for name in tables:
            done.append(work(name))  # noqa: PERF401 - what is done is told when one fails
    finally:
        if arguments.json:
            print_json(plain(done) if plain else [asdict(one) for one in done])
        else:
            show(done)


def _table(arguments: argparse.Namespace, *columns: str) -> Table:
    return Table("table", *columns, title=str(arguments.store))


def _print(arguments: argparse.Namespace, table: Table) -> None:
    console().print(table)
    if arguments.dry_run:
        console().print("dry run: nothing was changed")


def _word(arguments: argparse.Namespace, done: str) -> str:
    return f"would be {done}" if arguments.dry_run else done
