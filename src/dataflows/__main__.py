"""Command line: ``python -m dataflows COMMAND``; ``--help`` lists the commands."""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataflows import DEFAULT_CONFIG
from dataflows._backfill_commands import add_backfill_commands
from dataflows._discovery_commands import add_discovery_commands, plan_discover
from dataflows._flywheel_commands import add_flywheel_commands
from dataflows._mask_commands import calibrate_options, compare_options, explore_options, masks_options
from dataflows._set_option import set_changes
from dataflows._validation_commands import add_validation_commands
from utils.errors import AegirError, ConfigError
from utils.failures import interrupted

OFFLINE = {"AEGIR_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
"""Environment in which no weights are fetched; workers inherit it."""

EXIT_REFUSED = 2
"""The inputs or settings were refused before work started."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code: 0 done, 2 refused, 3 rows added to ``errors``, 130 interrupted."""
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        arguments = _parser().parse_args(argv)
        os.environ.setdefault("HAMILTON_AUTOLOAD_EXTENSIONS", "0")
        # torch's threads otherwise spin while they wait for each other: two to four times slower on busy cores
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Hamilton logs every typed error a second time, with a banner
        logging.getLogger("hamilton").setLevel(logging.CRITICAL)
        return int(arguments.command(arguments))
    except (KeyboardInterrupt, Exception) as error:
        if interrupted(error):
            print("interrupted", file=sys.stderr)
            return 130
        if not isinstance(error, AegirError):
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_REFUSED
    finally:
        signal.signal(signal.SIGTERM, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dataflows", description="Run, plan, draw and explain the dataflows."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    sample = commands.add_parser("sample", help="generate the sample region")
    sample.add_argument("--size", default="demo", help="demo (small, quick) or flywheel (60 split cells and more)")
    sample.add_argument("--seed", type=int, default=42, help="everything follows from it (default 42)")
    sample.add_argument("--root", type=Path, help="folder (default data/sample/<size>)")
    sample.set_defaults(command=_sample)

    labels = commands.add_parser("labels", help="look at labels before a run")
    check = labels.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "check", help="what would be read, repaired and refused; 0 fine, 2 unreadable, 3 labels would end in errors"
    )
    _settings_options(check)
    check.add_argument("--limit", type=_positive, metavar="N", help="look at the first N rows of each source")
    check.add_argument(
        "--explain", action="store_true", help="show DuckDB's plan, with what is pushed down to the scan"
    )
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    check.set_defaults(command=_labels_check)

    plan = commands.add_parser("plan", help="show what a run would do")
    run = commands.add_parser("run", help="make the missing training samples")
    for command, function in ((plan, _plan), (run, _run)):
        command.add_argument("flow", nargs="?", default="build", help="flow (default build)")
        _settings_options(command)
        command.add_argument("--retry-errors", action="store_true", help="take in chips that failed before")
        command.add_argument(
            "--since-snapshot", type=int, metavar="N", help="only chips that labels changed on since this lake snapshot"
        )
        command.add_argument(
            "--only-stale",
            action="store_true",
            help="existing rows whose recipe is not today's, and no others; masks of persons and of backfills stay",
        )
        command.add_argument("--json", action="store_true", help="print the result as JSON")
        command.set_defaults(command=function)

    run.add_argument("--engine", help="local, processes or ray; replaces the settings' one")
    run.add_argument("--workers", type=_positive, metavar="N", help="worker processes (default one per CPU)")
    run.add_argument("--memory-budget", metavar="SIZE", help="memory for chips, such as 2GB, over all workers")
    run.add_argument("--fail-fast", action="store_true", help="stop at the first failure; what is done is kept")

    run.add_argument("--offline", action="store_true", help="never fetch weights, whatever the mask options say")

    context = commands.add_parser("context", help="join the lake's context tables to chips or detections")
    _settings_options(context)
    context.set_defaults(config=Path("context.yaml"))
    context.add_argument("--json", action="store_true", help="print the result as JSON")
    context.set_defaults(command=_context)

    _mask_commands(commands)

    draw = commands.add_parser("draw", help="draw the flows as SVG, DOT and Mermaid")
    draw.add_argument("--out", type=Path, default=Path("docs/dags"), help="folder (default docs/dags)")
    draw.set_defaults(command=_draw)

    _lineage_commands(commands)
    demo = commands.add_parser("demo", help="one turn of the flywheel on the sample region, with a summary")
    demo.add_argument("--size", default="demo", help="sample size (default demo)")
    demo.add_argument("--seed", type=int, default=42, help="seed of the sample region")
    demo.add_argument("--store", help="LanceDB store (default $AEGIR_STORE or data/lancedb)")
    demo.set_defaults(command=_demo)

    explore_options(commands)
    calibrate_options(commands)
    _change_options(commands.add_parser("change", help="index differences between two dates of one folder"))
    indices = commands.add_parser("indices", help="print the spectral indices and scene classes as Markdown tables")
    indices.set_defaults(command=_indices)
    return parser


def _mask_commands(commands: Any) -> None:
    add_discovery_commands(commands)
    add_validation_commands(commands)
    add_backfill_commands(commands)
    add_flywheel_commands(commands)
    masks = commands.add_parser("masks", help="the same prompts through another mask backend, as a new generation")
    _settings_options(masks)
    masks_options(masks)
    masks.set_defaults(command=_masks)
    compare = commands.add_parser("compare-masks", help="two generations of masks, or one against true polygons")
    compare_options(compare)
    compare.set_defaults(command=_compare_masks)


def _change_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("root", help="folder of multispectral scenes")
    command.add_argument("--before", required=True, help="day (YYYY-MM-DD, UTC) or scene id")
    command.add_argument("--after", required=True, help="day (YYYY-MM-DD, UTC) or scene id")
    command.add_argument("--aoi", type=float, nargs=4, metavar=("WEST", "SOUTH", "EAST", "NORTH"), help="degrees")
    command.add_argument("--gsd", type=float, default=10.0, help="pixel size in metres (default 10)")
    command.add_argument("--threshold", type=float, default=0.2, help="least loss or gain that counts (default 0.2)")
    command.add_argument("--scale", type=float, help="reflectance per digital number of rasters that do not state it")
    command.add_argument("--offset", type=float, default=0.0, help="reflectance at digital number 0 of those")
    command.add_argument(
        "--nodata", type=float, help="digital number without data in rasters that do not state it (Sentinel-2: 0)"
    )
    command.add_argument("--out", help="write the differences to this GeoTIFF")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.set_defaults(command=_change)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("N is a whole number from 1 on")
    return number


def _settings_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config", type=Path, default=Path(DEFAULT_CONFIG), help=f"settings (default {DEFAULT_CONFIG})"
    )
    command.add_argument("--store", help="LanceDB store; replaces the settings' one")
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="replace one setting; the value is YAML"
    )


def _lineage_commands(commands: Any) -> None:
    stale = commands.add_parser(
        "stale", help="rows whose recipe is not that of today's code and settings; 0 none, 3 some"
    )
    _lineage_options(stale, config=f"settings (default {DEFAULT_CONFIG}; without one those of the store's newest run)")
    stale.add_argument("--limit", type=_positive, metavar="N", help="name the first N stale rows")
    stale.add_argument("--json", action="store_true", help="print the report as JSON")
    stale.set_defaults(command=_stale)

    explain = commands.add_parser("explain", help="label → image → code → mask of one chip, or why two masks differ")
    explain.add_argument(
        "uuid",
        help="id of a chip, mask or detection, or its first characters; ID@VERSION for a version or tag of its table",
    )
    explain.add_argument("other", nargs="?", help="a second one: say why their masks differ")
    _lineage_options(explain, config="settings to say whether it is stale under (default those of its run)")
    explain.add_argument("--other-store", help="store of the second one (default the same)")
    explain.add_argument("--format", choices=("text", "json", "mermaid"), default="text", help="default text")
    explain.add_argument("--json", action="store_true", help="the same as --format json")
    explain.set_defaults(command=_explain)


def _lineage_options(command: argparse.ArgumentParser, *, config: str) -> None:
    command.add_argument("--config", type=Path, help=config)
    command.add_argument("--store", help="LanceDB store (default that of the settings, $AEGIR_STORE or data/lancedb)")
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="replace one setting; the value is YAML"
    )


def _config(arguments: argparse.Namespace, *, labels_only: bool = False) -> Any:
    from dataflows import config  # noqa: PLC0415

    return config.load(arguments.config, labels_only=labels_only, **_changes(arguments))


def _changes(arguments: argparse.Namespace) -> dict[str, Any]:
    told = {name: getattr(arguments, name, None) for name in ("store", "engine", "workers", "memory_budget")}
    return {name: value for name, value in told.items() if value is not None} | set_changes(arguments.set)


def _sample(arguments: argparse.Namespace) -> int:
    from dataflows.terminal import sample_with_progress  # noqa: PLC0415

    sample_with_progress(arguments.root or Path("data/sample") / arguments.size, arguments.size, arguments.seed)
    return 0


def _labels_check(arguments: argparse.Namespace) -> int:
    from dataflows.label_report import label_report  # noqa: PLC0415
    from dataflows.label_terminal import print_label_report  # noqa: PLC0415

    report = label_report(_config(arguments, labels_only=True), limit=arguments.limit, explain=arguments.explain)
    if arguments.json:
        print(json.dumps(report.values(), default=str))
    else:
        print_label_report(report)
    return report.exit_code


def _plan(arguments: argparse.Namespace) -> int:
    from dataflows import terminal  # noqa: PLC0415
    from dataflows.drivers import flow, plan_build  # noqa: PLC0415

    flow(arguments.flow)
    if arguments.flow == "discover":
        return plan_discover(arguments)
    if arguments.flow != "build":
        raise ConfigError(f"the flow {arguments.flow!r} has no plan; `build` and `discover` have")
    build = plan_build(
        _config(arguments),
        retry_errors=arguments.retry_errors,
        since_snapshot=arguments.since_snapshot,
        only_stale=arguments.only_stale,
    )
    if arguments.json:
        print(json.dumps(terminal.plan_counts(build)))
    else:
        terminal.print_plan(build)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from dataflows import lineage_commands, terminal  # noqa: PLC0415
    from dataflows.drivers import flow  # noqa: PLC0415

    flow(arguments.flow)
    if arguments.flow != "build":
        raise ConfigError(f"`run` runs `build`; the flow {arguments.flow!r} has its own command")
    if arguments.offline:
        os.environ |= OFFLINE
    config = _config(arguments)
    summary = terminal.build_with_progress(
        config,
        retry_errors=arguments.retry_errors,
        since_snapshot=arguments.since_snapshot,
        only_stale=arguments.only_stale,
        fail_fast=arguments.fail_fast,
    )
    left = lineage_commands.stale_after(config) if arguments.only_stale else None
    if arguments.json:
        stale = {} if left is None else {"stale": left.stale, "stale_kept": left.kept}
        print(json.dumps(summary.counts() | stale))
    else:
        terminal.print_summary(summary)
        if left is not None:
            lineage_commands.print_stale_after(left)
    return summary.exit_code


def _context(arguments: argparse.Namespace) -> int:
    from dataflows import context_config, terminal  # noqa: PLC0415

    summary = terminal.context_with_progress(context_config.load(arguments.config, **_changes(arguments)))
    if arguments.json:
        print(json.dumps(summary.counts()))
    else:
        terminal.print_context_summary(summary)
    return summary.exit_code


def _masks(arguments: argparse.Namespace) -> int:
    from dataflows import generation_terminal  # noqa: PLC0415

    if arguments.offline:
        os.environ |= OFFLINE
    return generation_terminal.run_masks_command(arguments, _changes(arguments))


def _compare_masks(arguments: argparse.Namespace) -> int:
    from dataflows.comparison_terminal import run_compare  # noqa: PLC0415

    return run_compare(arguments)


def _draw(arguments: argparse.Namespace) -> int:
    from dataflows.drawing import write_drawings  # noqa: PLC0415
    from dataflows.drivers import FLOWS, build_driver  # noqa: PLC0415

    for path in write_drawings({name: build_driver(name) for name in FLOWS}, arguments.out):
        print(path)
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from dataflows.lineage_commands import run_explain  # noqa: PLC0415

    return run_explain(arguments, _changes(arguments))


def _stale(arguments: argparse.Namespace) -> int:
    from dataflows.lineage_commands import run_stale  # noqa: PLC0415

    return run_stale(arguments, _changes(arguments))


def _demo(arguments: argparse.Namespace) -> int:
    from dataflows.demo import run_demo  # noqa: PLC0415

    return run_demo(size=arguments.size, seed=arguments.seed, store=arguments.store)


def _change(arguments: argparse.Namespace) -> int:
    from dataflows import terminal  # noqa: PLC0415
    from dataflows.drivers import run_change  # noqa: PLC0415

    found = run_change(
        {
            "msi": {
                "source": "local",
                "root": arguments.root,
                "scale": arguments.scale,
                "offset": arguments.offset,
                "nodata": arguments.nodata,
            },
            "before": arguments.before,
            "after": arguments.after,
            "aoi_bbox_lonlat": arguments.aoi,
            "gsd_m": arguments.gsd,
            "change_threshold": arguments.threshold,
            "raster_path": arguments.out,
        }
    )
    if arguments.json:
        print(json.dumps(found))
    else:
        terminal.print_change(found)
    return 0


def _indices(_: argparse.Namespace) -> int:
    from utils.indices import indices_table  # noqa: PLC0415
    from utils.scl import scene_classes_table  # noqa: PLC0415

    print(indices_table(), scene_classes_table(), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
