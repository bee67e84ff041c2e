"""Options of the command ``detections``; what it does is imported when it is called."""

import argparse
from pathlib import Path
from typing import Any


def add_detection_commands(commands: Any) -> None:
    """The subcommand ``detections`` with ``list`` and ``export``."""
    detections = commands.add_parser("detections", help="what searches found: show it, or write it to a file")
    inner = detections.add_subparsers(required=True, metavar="COMMAND")
    listed = inner.add_parser("list", help="searches, their detections by match and verdict, and the best scores")
    _options(listed)
    listed.add_argument("--limit", type=int, default=20, metavar="N", help="detections shown (default 20)")
    listed.add_argument("--json", action="store_true", help="print the result as JSON")
    listed.set_defaults(command=_list)
    export = inner.add_parser("export", help="GeoParquet, GeoJSON or GeoJSON lines for tippecanoe, by the suffix")
    _options(export)
    export.add_argument("--out", type=Path, required=True, help="file: .parquet, .geojson or .geojsonl")
    export.add_argument("--format", choices=("geoparquet", "geojson", "geojsonseq"), help="format, whatever the suffix")
    export.add_argument("--json", action="store_true", help="print the result as JSON")
    export.set_defaults(command=_export)


def _options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, help="settings of discovery that name the store")
    command.add_argument("--store", help="LanceDB store (default that of --config, $AEGIR_STORE or data/lancedb)")
    command.add_argument("--search", metavar="ID", help="this search only: its id, or the first characters of it")
    command.add_argument(
        "--verdict", default="", metavar="LIST", help="accept, review, reject, unverifiable or none, by comma"
    )
    command.add_argument("--where", metavar="SQL", help="only these, a condition over detections (Lance SQL)")


def _list(arguments: argparse.Namespace) -> int:
    from dataflows.detection_terminal import run_list  # noqa: PLC0415 - start-up

    return run_list(arguments)


def _export(arguments: argparse.Namespace) -> int:
    from dataflows.detection_terminal import run_export  # noqa: PLC0415 - start-up

    return run_export(arguments)
