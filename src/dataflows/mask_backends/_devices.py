"""In what precision a model runs, and its import without noise."""

import io
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from typing import Any

from utils.errors import ConfigError


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """A context in which a model computes in ``precision``; ``auto`` is bfloat16 on CUDA, else float32.

    Args:
        device: as :func:`training.devices.resolved_device` returns it.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        ConfigError: the device has no autocast.
    """
    import torch  # noqa: PLC0415 - seconds that listing backends need not take

    kind = torch.device(device).type
    if precision == "auto":
        precision = "bfloat16" if kind == "cuda" else "float32"
    if precision == "float32":
        return nullcontext()
    try:
        return torch.autocast(kind, dtype=getattr(torch, precision))
    except RuntimeError as error:
        raise ConfigError(f"precision {precision!r} is not to be had on {device!r}: {error}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing on standard output and no warnings: what model libraries say when they are imported or built."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
