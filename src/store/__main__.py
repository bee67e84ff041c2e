"""Look into a store and after it: ``python -m store --help`` lists the commands."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from store import listing, maintenance, maintenance_cli, tables_page
from store.error_groups import error_groups
from store.lance_io import DEFAULT_STORE
from store.terminal import console, names, print_json, version_or_tag
from utils.errors import AegirError, StoreNotWritableError

_WIDE = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 2 when the store or the request is at fault, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except AegirError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what was committed stays; run it again to go on", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m store", description="Look into a store of Lance tables, and look after it."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--store",
        default=os.environ.get("AEGIR_STORE", DEFAULT_STORE),
        help="folder or URI of the store; default $AEGIR_STORE, or data/lancedb (here: %(default)s)",
    )
    shared.add_argument("--json", action="store_true", help="print JSON instead of a table")

    tables = commands.add_parser("tables", parents=[shared], help="list the tables")
    tables.set_defaults(command=_tables)

    show = commands.add_parser("show", parents=[shared], help="print rows; pixels are told by shape, bytes by size")
    show.add_argument("table")
    show.add_argument("--limit", type=_count, default=5, metavar="N", help="most rows (default %(default)s)")
    show.add_argument("--columns", type=names, metavar="a,b", help="columns in this order (default all)")
    show.add_argument("--where", metavar="SQL", help="filter, for example \"split = 'val' AND pv_fraction > 0.1\"")
    show.add_argument("--version", type=version_or_tag, metavar="V", help="version number or tag (default newest)")
    show.set_defaults(command=_show)

    versions = commands.add_parser("versions", parents=[shared], help="list the versions of a table, newest first")
    versions.add_argument("table")
    versions.add_argument("--limit", type=_count, default=20, metavar="N", help="most versions (default %(default)s)")
    versions.set_defaults(command=_versions)

    errors = commands.add_parser("errors", parents=[shared], help="what failed, grouped by cause")
    errors.add_argument("--run", metavar="ID", help="only what this run met last")
    errors.add_argument("--node", help="only what this node met")
    errors.set_defaults(command=_errors)

    maintenance_cli.add_commands(commands, shared)

    docs = commands.add_parser("docs", help="print the page that documents every table, as Markdown")
    docs.add_argument("--write", type=Path, metavar="PATH", help="write it to a file instead")
    docs.set_defaults(command=_docs)
    return parser


def _tables(arguments: argparse.Namespace) -> None:
    found = listing.tables(arguments.store)
    if arguments.json:
        print_json([asdict(info) for info in found])
        return
    table = Table("table", "rows", "version", "columns", "on disk", "storage", "profile", title=str(arguments.store))
    for column in table.columns[1:5]:
        column.justify = "right"
    for info in found:
        table.add_row(
            info.table,
            f"{info.rows:,}",
            str(info.version),
            str(info.columns),
            decimal(info.bytes_on_disk),
            info.storage_version,
            info.profile or "",
        )
    console().print(table)
    late = maintenance.due(arguments.store)
    if late:
        console().print(f"many small fragments: python -m store optimize --store {arguments.store} {' '.join(late)}")


def _show(arguments: argparse.Namespace) -> None:
    found = listing.rows(
        arguments.store,
        arguments.table,
        columns=arguments.columns,
        where=arguments.where,
        limit=arguments.limit,
        version=arguments.version,
    )
    if arguments.json:
        print_json(found)
        return
    screen = console()
    if not found:
        screen.print("no rows")
    elif len(found[0]) <= _WIDE:
        table = Table(*found[0], title=arguments.table)
        for row in found:
            table.add_row(*(escape(_cell(value)) for value in row.values()))
        screen.print(table)
    else:
        for number, row in enumerate(found, 1):
            table = Table("column", "value", title=f"{arguments.table}, row {number} of {len(found)}")
            for name, value in row.items():
                table.add_row(name, escape(_cell(value)))
            screen.print(table)


def _versions(arguments: argparse.Namespace) -> None:
    found = listing.versions(arguments.store, arguments.table, arguments.limit)
    if arguments.json:
        print_json([asdict(info) | {"written_at": info.written_at.isoformat()} for info in found])
        return
    table = Table("version", "written (UTC)", "rows", "tags", title=arguments.table)
    for info in found:
        written = info.written_at.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
        table.add_row(str(info.version), written, f"{info.rows:,}", ", ".join(info.tags))
    console().print(table)


def _errors(arguments: argparse.Namespace) -> None:
    found = error_groups(arguments.store, run_id=arguments.run, node=arguments.node)
    if arguments.json:
        print_json([asdict(group) | {"latest": group.latest.isoformat()} for group in found])
        return
    if not found:
        console().print("nothing failed")
        return
    table = Table("failures", "attempts", "node", "error", "latest (UTC)", "message of the latest", "such as")
    for column in table.columns[:2]:
        column.justify = "right"
    for group in found:
        when = group.latest.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
        kind = f"{group.error_type} (may pass)" if group.passes else group.error_type
        counts = (f"{group.failures:,}", str(group.attempts))
        shown = (group.node, kind, when, group.message, ", ".join(group.examples))
        table.add_row(*counts, *map(escape, shown))
    console().print(table)
    console().print(
        "what failed is kept here also when a later run made it; try what is left again: "
        f"python -m dataflows run --retry-errors --store {arguments.store}"
    )


def _docs(arguments: argparse.Namespace) -> None:
    page = tables_page.render()
    if arguments.write is None:
        print(page, end="")
        return
    try:
        arguments.write.parent.mkdir(parents=True, exist_ok=True)
        arguments.write.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StoreNotWritableError(f"{arguments.write} cannot be written: {error}") from error


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    return f"{value:.6g}" if isinstance(value, float) and abs(value) < 1e5 else str(value)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main())
