"""What a checkpoint says of the fit that made it."""

import pickle
from pathlib import Path
from typing import Any

from store.fingerprint import file_sha256
from training.inputs import InputSpec
from utils.errors import ConfigError, WeightsNotFoundError

_BROKEN = (OSError, KeyError, RuntimeError, EOFError, TypeError, ValueError, AttributeError, pickle.UnpicklingError)


def checkpoint_record(path: str | Path) -> dict[str, Any]:
    """What a checkpoint of ``python -m training fit`` was trained on, and how.

    Returns:
        ``file``, ``sha256`` (of the file), ``epoch``, ``step``, ``model`` (its settings) and ``record``: store, table,
        version, filter, recipes, split rule and chips per split of the training data.

    Raises:
        ConfigError: there is no such file, or it is no checkpoint with a record.
    """
    try:
        sha256 = file_sha256(path)
        held = _held(path)
        record = held["LanceDataModule"]["record"]
        hyper = held["hyper_parameters"]
        epoch, step = int(held["epoch"]), int(held["global_step"])
    except _BROKEN as error:
        raise ConfigError(f"{path} is no checkpoint of `python -m training fit`: {error!r}") from error
    return {
        "file": str(path),
        "sha256": sha256,
        "epoch": epoch,
        "step": step,
        "model": {name: value for name, value in dict(hyper).items() if not name.startswith("_")},
        "record": dict(record),
    }


def checkpoint_inputs(path: str | Path) -> InputSpec:
    """Which pixels the model of a checkpoint takes; no network is made and no weight is read.

    Raises:
        WeightsNotFoundError: there is no such file.
        ConfigError: it is no checkpoint of ours, or does not say it.
    """
    if not Path(path).is_file():
        raise WeightsNotFoundError(
            f"no checkpoint at {path}; train one with `python -m training fit`, or give package.module:Class"
        )
    try:
        plain = _held(path).get("inputs")
        spec = None if plain is None else InputSpec.from_dict(plain)
    except _BROKEN as error:
        raise ConfigError(f"{path} is no checkpoint of `python -m training fit`: {error}") from error
    if spec is None:
        raise ConfigError(f"{path} does not say which pixels the model takes; train it with LanceDataModule")
    return spec


def _held(path: str | Path) -> Any:
    """What a checkpoint holds; weights are mapped, not read."""
    # torch takes seconds to import
    import torch  # noqa: PLC0415

    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
