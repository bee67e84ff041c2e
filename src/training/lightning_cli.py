"""LightningCLI of this project: packaged defaults, linked channels, settings taken from a checkpoint."""

import argparse
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from training.cli import CONFIGS, SUBCOMMANDS, packaged_configs
from training.datamodule import LanceDataModule
from training.litmodule import SegmentationModule
from training.runs import fit_summary, newest_checkpoint
from utils.errors import ConfigError, UnknownNameError


class TrainingCLI(LightningCLI):
    """``model`` is a :class:`SegmentationModule`, ``data`` a :class:`LanceDataModule`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The data says how many channels the model has."""
        parser.link_arguments("data.n_channels", "model.in_channels", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the given arguments, whatever ``sys.argv`` holds."""
        self.config = parser.parse_args(cast(list[str], args))

    def after_fit(self) -> None:
        """Say where the run is and how well it did."""
        folder = self.trainer.log_dir
        if folder is None or not self.trainer.is_global_zero or not (Path(folder) / "metrics.csv").exists():
            return
        if "val/loss" not in self.trainer.callback_metrics:
            return
        summary = fit_summary(folder)
        shown = ", ".join(f"{name} {summary[name]}" for name in ("val/iou", "val/f1", "val/loss"))
        rank_zero_info(f"best epoch {summary['best_epoch']}: {shown}; checkpoint {summary['checkpoint']}")

    def _parse_ckpt_path(self) -> None:
        """Nothing: :func:`run` puts a checkpoint's settings below those of the command line."""


def run(argv: Sequence[str]) -> TrainingCLI:
    """Run one subcommand.

    Args:
        argv: the subcommand and its options. ``--config NAME`` finds packaged files by name. With ``--ckpt_path``,
            model and data settings of the checkpoint stand between the packaged defaults and what is given here.

    Raises:
        ConfigError: the checkpoint is missing, unreadable or not one of this project's.
        AegirError: whatever the data or the model refuse.
    """
    _silence_lightning()
    subcommand, *options = argv
    before = _checkpoint_options(subcommand, options)
    return TrainingCLI(
        SegmentationModule,
        LanceDataModule,
        args=[subcommand, *before, *_named_configs(options)],
        seed_everything_default=42,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={name: {"default_config_files": [str(CONFIGS / f"{name}.yaml")]} for name in SUBCOMMANDS},
    )


def checkpoint_settings(path: str | Path) -> dict[str, dict[str, Any]]:
    """Model and data settings that a checkpoint was trained with, the table version pinned.

    Raises:
        ConfigError: no such file, or not a checkpoint of this project.
    """
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
        model, data = checkpoint["hyper_parameters"], checkpoint[LanceDataModule.__qualname__]["settings"]
    except FileNotFoundError as error:
        raise ConfigError(f"no checkpoint at {path}; {_hint()}") from error
    except (OSError, KeyError, RuntimeError, ValueError, EOFError, TypeError) as error:
        raise ConfigError(f"{path} is no checkpoint of `python -m training fit` ({error}); {_hint()}") from error
    # the weights are in the checkpoint: pretrained ones need not be fetched to be overwritten
    dropped = {"in_channels", "encoder_weights"}
    kept = {name: value for name, value in model.items() if name not in dropped and not name.startswith("_")}
    return {"model": kept, "data": data}


def _silence_lightning() -> None:
    """Drop messages that say nothing about the run: adverts, and Lightning's trouble with newer torch."""
    adverts = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    adverts.addFilter(_is_no_advert)
    for message in (
        ".*treespec, LeafSpec.*",
        "Couldn't infer the batch indices",
        "Be aware that when using `ckpt_path`",
    ):
        warnings.filterwarnings("ignore", message, module="lightning")


def _is_no_advert(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


def _checkpoint_options(subcommand: str, options: Sequence[str]) -> list[str]:
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--ckpt_path")
    path = finder.parse_known_args(list(options))[0].ckpt_path
    given = {option.split("=")[0] for option in options}
    if path is not None:
        return ["--config", json.dumps(checkpoint_settings(path))]
    # a config file may name the checkpoint
    if subcommand != "fit" and not given & {"-h", "--help", "--print_config", "--config"}:
        raise ConfigError(f"{subcommand} needs --ckpt_path; {_hint()}")
    return []


def _hint() -> str:
    newest = newest_checkpoint("runs")
    return f"the newest here is {newest}" if newest else "`python -m training fit` makes one under runs/"


def _named_configs(options: Sequence[str]) -> list[str]:
    resolved = list(options)
    for at, option in enumerate(options):
        value = option.removeprefix("--config=") if option.startswith("--config=") else None
        if option == "--config" and at + 1 < len(options):
            resolved[at + 1] = _config_path(options[at + 1])
        elif value is not None:
            resolved[at] = f"--config={_config_path(value)}"
    return resolved


def _config_path(name: str) -> str:
    if Path(name).suffix or Path(name).exists() or ":" in name or "{" in name:
        return name
    if name not in packaged_configs():
        raise UnknownNameError("packaged config", name, packaged_configs())
    return str(CONFIGS / f"{name}.yaml")
