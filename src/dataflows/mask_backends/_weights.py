"""Where files of weights come from: a path, the library's usual place, or its download where it is asked for.

Everything that can be wrong with a file is found here, before a model is built and before any network is touched.
"""

import hashlib
import os
import pickle
import time
import urllib.error
import urllib.request
import uuid
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import Any

from utils.errors import (
    DownloadForbiddenError,
    UnknownNameError,
    WeightsError,
    WeightsNotFoundError,
    WeightsUnreachableError,
)

OFFLINE_VARIABLES = ("AEGIR_OFFLINE", "HF_HUB_OFFLINE")
"""Environment variables that forbid downloads when they are 1, ON, YES or TRUE."""

_BLOCK = 1 << 20
_TIMEOUT_S = 60.0
_ABANDONED_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights that somebody publishes."""

    file: str
    """Name of the file in the usual place."""
    url: str
    """Where it is downloaded from."""
    megabytes: int
    """Its size, for messages."""
    sha256: str | None = None
    """Its hash, where it is known."""


def weights_file(
    published: Mapping[str, Published],
    folder: Path,
    *,
    backend: str,
    model_type: str,
    checkpoint: str | None = None,
    download: bool = False,
) -> Path:
    """The local file of weights of ``model_type``: ``checkpoint``, or the published file in ``folder``.

    Args:
        published: model type → its published weights.
        folder: the usual place of published files.
        backend: name of the mask backend, for messages.
        model_type: a key of ``published``; with a ``checkpoint`` any name.
        checkpoint: a path, which is used as it is.
        download: whether a published file that is not in ``folder`` is fetched.

    Raises:
        UnknownNameError: no weights are published for ``model_type`` and there is no ``checkpoint``.
        WeightsNotFoundError: there is no such file, and ``download`` was not asked for.
        DownloadForbiddenError: it was asked for, but the process is offline.
        WeightsUnreachableError: the server does not answer, or the connection was cut.
        WeightsError: the file is a folder, empty, truncated or no PyTorch checkpoint.
    """
    if checkpoint is not None:
        return checked(Path(checkpoint).expanduser(), backend=backend)
    if model_type not in published:
        raise UnknownNameError(f"model type of the mask backend {backend!r}", model_type, list(published))
    one = published[model_type]
    target = folder / one.file
    if target.exists():
        return checked(target, backend=backend)
    where = f"the weights {one.file} ({one.megabytes} MB) of the mask backend {backend!r} are not in {folder}"
    if not download:
        raise WeightsNotFoundError(
            f"{where}: give their path as `checkpoint`, or set `download: true` to fetch them from {one.url}"
        )
    refuse_offline(f"{where}, and `download: true` would fetch them from {one.url}")
    return fetch(one, target, backend=backend)


def torch_hub_folder() -> Path:
    """Where segment-geospatial keeps checkpoints: ``$TORCH_HOME`` itself, or ``~/.cache/torch/hub/checkpoints``."""
    told = os.environ.get("TORCH_HOME")
    return Path(told) if told else Path.home() / ".cache" / "torch" / "hub" / "checkpoints"


def refuse_offline(what: str) -> None:
    """Refuse a download where the environment forbids it.

    Args:
        what: what would be fetched, and from where: the beginning of the message.

    Raises:
        DownloadForbiddenError: one of ``OFFLINE_VARIABLES`` is set.
    """
    for name in OFFLINE_VARIABLES:
        if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}:
            raise DownloadForbiddenError(
                f"{what}; but {name} forbids downloads: put the files there yourself, give a local path, or run online"
            )


def checked(path: Path, *, backend: str) -> Path:
    """``path`` where it is a whole PyTorch checkpoint, judged by its outside: nothing is unpickled.

    Raises:
        WeightsNotFoundError: there is nothing.
        WeightsError: it is a folder, empty, truncated, unreadable or another kind of file.
    """
    what = f"the weights of the mask backend {backend!r} at {path}"
    if not path.exists():
        raise WeightsNotFoundError(f"{what} do not exist: check the path in `checkpoint`; nothing was downloaded")
    if not path.is_file():
        raise WeightsError(f"{what} are a folder: `checkpoint` names one file, such as sam_vit_b_01ec64.pth")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise WeightsError(f"{what} cannot be read: {error}") from error
    if not head:
        raise WeightsError(f"{what} are an empty file: copy or download it again")
    if head.startswith(b"PK\x03\x04"):
        if not zipfile.is_zipfile(path):
            raise WeightsError(f"{what} are truncated at {path.stat().st_size} bytes: copy or download the file again")
    elif not head.startswith(b"\x80"):
        raise WeightsError(f"{what} are no PyTorch checkpoint but {_kind(head)}")
    return path


def fetch(one: Published, target: Path, *, backend: str) -> Path:
    """Download ``one`` to ``target``, which appears only when it is whole.

    Raises:
        WeightsUnreachableError: the server does not answer, or the connection was cut.
        WeightsError: the server refuses, sends something else, or the file cannot be written.
    """
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _tidy(target)
        found = _download(one.url, part)
        if one.sha256 is not None and found != one.sha256:
            raise WeightsError(f"{one.url} sent a file with SHA-256 {found}, expected {one.sha256}: nothing was kept")
        checked(part, backend=backend)
        part.replace(target)
    except urllib.error.HTTPError as error:
        raise WeightsError(f"{one.url} answered {error.code} {error.reason}: give a local `checkpoint`") from error
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise WeightsUnreachableError(f"{one.url} cannot be downloaded: {error}; nothing was kept") from error
    except OSError as error:
        raise WeightsError(f"{target} cannot be written: {error}") from error
    finally:
        if part.exists():
            part.unlink()
    return target


def tensors(path: Path, *, backend: str, inside: str | None = None) -> dict[str, Any]:
    """The tensors of a checkpoint by name, on the CPU; those of current files are mapped, not read.

    Args:
        path: checked by :func:`checked`.
        backend: name of the mask backend, for messages.
        inside: key of the state dict where the file holds more than that.

    Raises:
        WeightsError: the file is corrupt, needs code to be loaded, or holds something else than named tensors.
    """
    import torch  # noqa: PLC0415 - a second that listing backends need not take

    what = f"the weights of the mask backend {backend!r} at {path}"
    try:
        with warnings.catch_warnings():
            # about pickles torch did not write: the error that follows says it better
            warnings.simplefilter("ignore", UserWarning)
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{what} hold more than tensors, and loading that may run code: save the model's state_dict alone"
        ) from error
    except (RuntimeError, ValueError, EOFError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise WeightsError(f"{what} are corrupt: {type(error).__name__}: {str(error)[:200]}") from error
    if isinstance(found, dict) and inside is not None and inside in found:
        found = found[inside]
    if not isinstance(found, dict) or not found or not all(isinstance(each, torch.Tensor) for each in found.values()):
        raise WeightsError(f"{what} are no state dict but {_contents(found)}: save the model's state_dict alone")
    return found


def tensor_shapes(path: Path, *, backend: str, inside: str | None = None) -> dict[str, tuple[int, ...]]:
    """Name → shape of each tensor of a checkpoint; a file that has not changed since is not opened again.

    Raises:
        WeightsError: as :func:`tensors`.
    """
    stamp = path.stat()
    return _shapes(path, stamp.st_size, stamp.st_mtime_ns, backend, inside)


@lru_cache(maxsize=32)
def _shapes(path: Path, size: int, changed_ns: int, backend: str, inside: str | None) -> dict[str, tuple[int, ...]]:  # noqa: ARG001 - they tell versions of the file apart
    return {name: tuple(each.shape) for name, each in tensors(path, backend=backend, inside=inside).items()}


def _download(url: str, part: Path) -> str:
    """SHA-256 of what ``url`` holds, written to ``part``."""
    hasher, received = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, part.open("xb") as file:  # noqa: S310 - ours
        expected = answer.headers.get("Content-Length")
        while block := answer.read(_BLOCK):
            file.write(block)
            hasher.update(block)
            received += len(block)
    if expected is not None and received != int(expected):
        raise ConnectionError(f"the connection was cut after {received} of {expected} bytes")
    return hasher.hexdigest()


def _tidy(target: Path) -> None:
    """Remove what downloads that were killed left beside ``target``, a day after they last wrote to it."""
    for left in target.parent.glob(f".{target.name}.*.part"):
        if time.time() - left.stat().st_mtime > _ABANDONED_S:
            left.unlink(missing_ok=True)


def _kind(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer: run `git lfs pull`"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page: the download went wrong"
    return f"a file that begins with {head[:8]!r}"


def _contents(found: object) -> str:
    if isinstance(found, dict):
        return f"a dict with the keys {', '.join(map(repr, list(found)[:5])) or '(none)'}"
    return f"a {type(found).__name__}"
