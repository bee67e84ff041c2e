"""What a checkpoint says of the fit that made it."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

from utils.errors import ConfigError

_PART = 1 << 20


def checkpoint_record(path: str | Path) -> dict[str, Any]:
    """What a checkpoint of ``python -m training fit`` was trained on, and how.

    Returns:
        ``file``, ``sha256`` (of the file), ``epoch``, ``step``, ``model`` (its settings) and ``record``: store, table,
        version, filter, recipes, split rule and chips per split of the training data.

    Raises:
        ConfigError: there is no such file, or it is no checkpoint with a record.
    """
    # torch takes seconds to import
    import torch  # noqa: PLC0415

    try:
        sha256 = _sha256(Path(path))
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        record = held["LanceDataModule"]["record"]
        hyper = held["hyper_parameters"]
        epoch, step = int(held["epoch"]), int(held["global_step"])
    except (OSError, KeyError, RuntimeError, EOFError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path} is no checkpoint of `python -m training fit`: {error!r}") from error
    return {
        "file": str(path),
        "sha256": sha256,
        "epoch": epoch,
        "step": step,
        "model": {name: value for name, value in dict(hyper).items() if not name.startswith("_")},
        "record": dict(record),
    }


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART):
            found.update(part)
    return found.hexdigest()
