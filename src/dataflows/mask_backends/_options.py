"""Options that all promptable models share, and how options by name become a checked value."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from utils.errors import ConfigError, UnknownNameError

T = TypeVar("T")

WITHOUT_EFFECT = frozenset(
    {"device", "compile", "encode_batch", "prompts_per_call", "cached_embeddings", "threads", "download"}
    # the hashes of the files they lead to are part of a recipe, wherever they lie
    | {"checkpoint", "checkpoint_dir", "config", "model_id", "revision"}
)
"""Options that say how masks are computed, not what they are: they are no part of a recipe."""

_PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class PromptedOptions:
    """Options of every promptable model."""

    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` takes CUDA where there is a device."""
    precision: str = "auto"
    """``float32``, ``bfloat16`` or ``float16`` (autocast); ``auto`` is bfloat16 on CUDA, float32 elsewhere."""
    compile: bool = False
    """Compile the image encoder (``torch.compile``): minutes at the start, faster after."""
    encode_batch: int = 4
    """Images encoded together; halved where memory runs out."""
    prompts_per_call: int = 32
    """Prompts decoded together; halved where memory runs out."""
    cached_embeddings: int = 4
    """Embeddings of the latest images that are kept, for prompts that come later."""
    threads: int | None = None
    """CPU threads of the model; None leaves torch's own choice."""
    interior_points: int = 1
    """Points taken from inside a polygon prompt, beside its box."""
    multimask: bool = True
    """Ask for three candidates and take the one the model rates best; False asks for one."""
    prompt_stability: bool = True
    """Answer each prompt four more times, moved by 5 % of its side, for the score ``stability``."""
    tile_px: int = 0
    """Chips side by side that fit into this many pixels are encoded as one image; 0 encodes each chip alone."""
    stretch: tuple[float, float] | None = None
    """Values shown as darkest and brightest, for chips that are not uint8."""
    download: bool = False
    """Fetch weights that are not there, from where the model's library keeps them."""

    def __post_init__(self) -> None:
        """Refuse values no model could run with."""
        kinds: dict[str, tuple[tuple[str, ...], Callable[[Any], bool]]] = {
            "a whole number from 1 on": (("encode_batch", "prompts_per_call"), lambda value: _whole(value, 1)),
            "a whole number from 0 on": (
                ("cached_embeddings", "interior_points", "tile_px"),
                lambda value: _whole(value, 0),
            ),
            "true or false": (
                ("compile", "multimask", "prompt_stability", "download"),
                lambda value: isinstance(value, bool),
            ),
            "a whole number from 1 on, or null": (("threads",), lambda value: value is None or _whole(value, 1)),
            "one of " + ", ".join(_PRECISIONS): (("precision",), lambda value: value in _PRECISIONS),
            "the name of a device": (("device",), lambda value: isinstance(value, str) and value != ""),
        }
        problems = [
            f"{name} is {what}"
            for what, (names, fits) in kinds.items()
            for name in names
            if not fits(getattr(self, name))
        ]
        if problems:
            raise ConfigError(f"mask_options: {'; '.join(problems)}; found {vars(self)}")
        object.__setattr__(self, "stretch", checked_stretch(self.stretch))


def parsed(kind: type[T], options: Mapping[str, object], backend: str) -> T:
    """The dataclass ``kind`` from options by name.

    Raises:
        UnknownNameError: the backend has no such option; the message lists those it has.
        ConfigError: an option is missing or refused.
    """
    known = [option.name for option in fields(kind)]  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of the {backend} mask backend", option, known)
    values: dict[str, Any] = dict(options)
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"mask backend {backend}: {error}") from error


def checked_stretch(stretch: object) -> tuple[float, float] | None:
    """``(low, high)`` from two numbers, as YAML holds them.

    Raises:
        ConfigError: it is something else, or ``low`` is not below ``high``.
    """
    if stretch is None:
        return None
    if not isinstance(stretch, list | tuple) or len(stretch) != 2 or not all(_number(value) for value in stretch):
        raise ConfigError(f"stretch is two numbers, darkest and brightest value of the chip; got {stretch!r}")
    low, high = float(stretch[0]), float(stretch[1])
    if low >= high:
        raise ConfigError(f"stretch is [{low}, {high}]; the first is the darker")
    return low, high


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
