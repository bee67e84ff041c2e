"""Where a model runs."""

from utils.errors import ConfigError


def resolved_device(name: str) -> str:
    """The device ``name`` stands for: ``auto`` is CUDA where there is a device, else the CPU.

    Raises:
        ConfigError: torch knows no such device, or this machine has none.
    """
    import torch  # noqa: PLC0415 - seconds that listing backends need not take

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is none torch knows: take auto, cpu, cuda, cuda:1 or mps") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    count = there.get(device.type, 1)
    if (device.index or 0) >= count:
        raise ConfigError(
            f"device {name!r} is not on this machine, which has {count} of type {device.type}: take auto or cpu"
        )
    return name
