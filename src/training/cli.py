"""``python -m training fit|validate|test|predict``: a thin door that imports torch only behind a subcommand."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from utils.errors import AegirError, UnknownNameError

CONFIGS: Final = Path(__file__).parent / "configs"
EXIT_REFUSED: Final = 2
SUBCOMMANDS: Final = {
    "fit": "train on the store's training_data (or resume with --ckpt_path)",
    "validate": "metrics of a checkpoint on the val split",
    "test": "metrics of a checkpoint on the test split",
    "predict": "probabilities of a checkpoint, written as Parquet",
}


def usage() -> str:
    """The top-level help text."""
    lines = [f"  {name:<10}{what}" for name, what in SUBCOMMANDS.items()]
    named = ", ".join(packaged_configs())
    return "\n".join(
        [
            "usage: python -m training SUBCOMMAND [options]",
            "",
            *lines,
            "",
            "`python -m training fit` needs no option: it trains on $AEGIR_STORE, or data/lancedb.",
            f"Packaged settings: --config NAME with NAME one of {named}.",
            "Options of a subcommand: python -m training SUBCOMMAND --help",
        ]
    )


def packaged_configs() -> list[str]:
    """Names of the YAML files that add to the defaults (``--config NAME``)."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem not in SUBCOMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand in this process.

    Args:
        argv: arguments after the program's name; None takes them from ``sys.argv``.

    Returns:
        0 when all went well, 2 when settings or data were refused (the text goes to stderr).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(usage())  # noqa: T201 - the answer to --help
        return 0
    if arguments[0] not in SUBCOMMANDS:
        print(f"{UnknownNameError('subcommand', arguments[0], list(SUBCOMMANDS))}\n\n{usage()}", file=sys.stderr)  # noqa: T201
        return EXIT_REFUSED
    # torch's threads otherwise spin while they wait for each other: two to four times slower on busy cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # seconds of imports that --help and other command lines must not pay
    from training.lightning_cli import run  # noqa: PLC0415

    try:
        run(arguments)
    except AegirError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_REFUSED
    return 0
