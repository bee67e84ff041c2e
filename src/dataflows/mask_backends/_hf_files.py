"""Folders of models as transformers keeps them: which files a model is read from, and whether they are whole."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataflows.mask_backends._weights import checked
from utils.errors import ExtraMissingError, WeightsError, WeightsNotFoundError

INSTALL = 'pip install "aegir-lightning-lance[sam_hf]"'
PATTERNS = ("*.json", "*.safetensors", "*.txt")
"""Names of files to download: safetensors, no pickles."""

_NAME = "sam_hf"
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def model_files(folder: Path, *, with_text: bool) -> dict[str, str]:
    """Name → path of every file that the model in ``folder`` is read from.

    Args:
        folder: with ``config.json``, weights (one file, or an index and its shards) and the processor's configuration.
        with_text: whether a tokenizer is read too.

    Raises:
        WeightsNotFoundError: the folder, or a file that the model needs, is missing.
        WeightsError: a file is corrupt or truncated.
        ExtraMissingError: ``safetensors`` is not installed.
    """
    if not folder.is_dir():
        raise WeightsNotFoundError(f"the mask backend 'sam_hf' finds no folder {folder}; nothing was downloaded")
    model_settings(folder)
    found = {"config.json": folder / "config.json"}
    found |= {name: folder / name for name in _PROCESSORS if (folder / name).is_file()}
    if len(found) == 1:
        raise WeightsNotFoundError(f"{folder} has no {_PROCESSORS[0]}: it says how images are shown to the model")
    if with_text:
        tokens = {name: folder / name for name in _TOKENIZER if (folder / name).is_file()}
        if "tokenizer.json" not in tokens and not {"vocab.json", "merges.txt"} <= tokens.keys():
            raise WeightsNotFoundError(f"{folder} has no tokenizer.json, which the option `text` needs")
        found |= tokens
    for path in _weight_files(folder):
        if not path.is_file():
            raise WeightsNotFoundError(f"{folder} lacks {path.name}, a part of the model's weights")
        _check_whole(path)
        found[path.name] = path
    return {name: str(path) for name, path in found.items()}


def model_settings(folder: Path) -> dict[str, Any]:
    """What ``config.json`` of ``folder`` holds.

    Raises:
        WeightsNotFoundError: there is none.
        WeightsError: it is no configuration of a model.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsNotFoundError(
            f"{folder} has no config.json: the mask backend 'sam_hf' reads folders that `save_pretrained` wrote "
            "(Meta's own checkpoints are for the backends sam and sam2)"
        )
    settings = _read_json(path)
    if not isinstance(settings.get("model_type"), str):
        raise WeightsError(f"{path} is no configuration of a model: it has no `model_type`")
    return settings


def _weight_files(folder: Path) -> Iterator[Path]:
    """The files of weights, in the order transformers looks for them."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            yield folder / name
            return
        index = folder / f"{name}.index.json"
        if index.is_file():
            parts = _read_json(index).get("weight_map")
            if not isinstance(parts, dict) or not parts:
                raise WeightsError(f"{index} is no index of weights: it has no `weight_map`")
            yield index
            yield from (folder / str(part) for part in sorted(set(parts.values())))
            return
    raise WeightsNotFoundError(f"{folder} has no weights: neither model.safetensors nor its shards, nor a .bin")


def _check_whole(path: Path) -> None:
    if path.suffix == ".bin":
        checked(path, backend=_NAME)
    if path.suffix != ".safetensors":
        return
    try:
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - with an extra
    except ImportError as error:
        raise ExtraMissingError(f"the mask backend 'sam_hf' needs safetensors: {INSTALL}") from error
    try:
        with safe_open(path, framework="np") as file:
            names = file.keys()
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"the weights {path} are corrupt or truncated: {error}; copy or download it again"
        ) from error
    if not names:
        raise WeightsError(f"the weights {path} hold no tensors")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise WeightsError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds a {type(found).__name__}, not settings by name")
    return found
