"""Where a model runs and in which precision."""

from contextlib import AbstractContextManager, nullcontext

from utils.errors import ConfigError


def device_of(asked: str) -> str:
    """The device that an option ``device`` means: ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: torch knows no such device, or this machine has none.
    """
    import torch  # noqa: PLC0415 - seconds that listing backends need not take

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ConfigError(f"the device {asked!r} cannot be used here: {reason}") from error
    return asked


def autocast(device: str, precision: str) -> AbstractContextManager[object]:
    """The context a model runs in: autocast to ``precision``; ``auto`` is bfloat16 on CUDA and float32 elsewhere.

    Raises:
        ConfigError: the device has no autocast.
    """
    import torch  # noqa: PLC0415

    kind = torch.device(device).type
    if precision == "auto":
        precision = "bfloat16" if kind == "cuda" else "float32"
    if precision == "float32":
        return nullcontext()
    try:
        return torch.autocast(kind, dtype=getattr(torch, precision))
    except RuntimeError as error:
        raise ConfigError(f"precision {precision!r} is not to be had on {device!r}: {error}") from error
