"""Options of a torch module by class path: how it is made, which pixels it takes, and what its output means."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal

from utils.errors import ConfigError
from utils.types import RGB_BANDS

ACTIVATIONS: Final = ("sigmoid", "softmax", "none")


@dataclass(frozen=True, kw_only=True)
class ModuleOptions:
    """How a torch module maps windows to probabilities.

    The module gets float32 images (n, bands, rows, columns), ``(value · scale - mean) / std``, and returns a tensor, or
    a mapping with ``out`` (torchvision's habit), of shape (n, classes, rows, columns) or (n, rows, columns).
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the class, by name."""
    weights: str | None = None
    """File of its state dict (``torch.save``); None takes it as the class makes it."""
    bands: tuple[str, ...] = RGB_BANDS
    """Bands it takes, in order."""
    kind: Literal["vhr", "msi"] = "vhr"
    """Imagery it takes."""
    gsd_m: float = 0.3
    """Ground sample distance it takes, metres per pixel."""
    window_px: int = 256
    """Rows and columns it was trained on."""
    scale: float = 1.0
    """Factor on the pixels: 1/255 for display values as shares, 1/10000 for reflectance."""
    mean: tuple[float, ...] = ()
    """Mean per band that is taken off the scaled pixels; none by default."""
    std: tuple[float, ...] = ()
    """Deviation per band they are divided by; none by default."""
    activation: Literal["sigmoid", "softmax", "none"] = "sigmoid"
    """What turns its output into probabilities: ``none`` where it returns them."""
    channel: int = 0
    """Class of its output that is photovoltaics."""

    def __post_init__(self) -> None:
        """Refuse values nothing could run with."""
        problems = [
            f"{name} holds {len(values)} values, bands {len(self.bands)}"
            for name, values in (("mean", self.mean), ("std", self.std))
            if values and len(values) != len(self.bands)
        ]
        if self.activation not in ACTIVATIONS:
            problems.append(f"activation is {self.activation!r}; give {', '.join(ACTIVATIONS)}")
        if self.kind not in ("vhr", "msi"):
            problems.append(f"kind is {self.kind!r}; give vhr or msi")
        if not self.bands or len(set(self.bands)) != len(self.bands):
            problems.append(f"bands are {list(self.bands)}; name each band once")
        if self.gsd_m <= 0 or self.window_px < 1 or self.channel < 0 or self.scale == 0 or 0 in self.std:
            problems.append("gsd_m, window_px, scale and std are above 0, channel from 0 on")
        if problems:
            raise ConfigError("model_options: " + "; ".join(problems))

    @property
    def identity(self) -> dict[str, Any]:
        """The options that change probabilities, in plain types; weights are known by their content."""
        return {name: value for name, value in asdict(self).items() if name != "weights"}


def module_options(values: Mapping[str, Any]) -> ModuleOptions:
    """Checked options from plain values, as YAML holds them.

    Raises:
        ConfigError: an option is unknown, of another kind, or cannot be used.
    """
    known = {f.name: f.default for f in fields(ModuleOptions)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"model_options: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    return ModuleOptions(**{name: _of_kind(name, value) for name, value in values.items()})


_NUMBER: Final = (int, float)
_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "arguments": (Mapping,),
    "weights": (str, type(None)),
    "bands": (list, tuple),
    "kind": (str,),
    "gsd_m": _NUMBER,
    "window_px": (int,),
    "scale": _NUMBER,
    "mean": (list, tuple),
    "std": (list, tuple),
    "activation": (str,),
    "channel": (int,),
}


def _of_kind(name: str, value: Any) -> Any:
    if not isinstance(value, _KINDS[name]) or isinstance(value, bool):
        raise ConfigError(f"model_options.{name} is {value!r}, which is of another kind than it takes")
    return tuple(value) if isinstance(value, list) else value
