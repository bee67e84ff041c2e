"""Models that turn imagery into probabilities: checkpoints of ours, and torch modules of others by class path."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from training.checkpoint_records import checkpoint_inputs
from training.devices import resolved_device
from training.inputs import InputSpec
from training.module_options import ModuleOptions, module_options
from utils.errors import ConfigError, ModelError
from utils.indices import INDICES

GSD_TOLERANCE = 0.02
"""Share by which the ground sample distance of imagery may differ from the model's."""


@dataclass(frozen=True, kw_only=True)
class ModelPixels:
    """Pixels a scene model takes."""

    bands: tuple[str, ...]
    """Bands that are read for it, in order."""
    kind: Literal["vhr", "msi"]
    """Imagery it takes: uint8 display values, or uint16 reflectance × 10000 where 0 is nodata."""
    gsd_m: float
    """Ground sample distance it takes, metres per pixel."""
    window_px: int
    """Rows and columns it was trained on."""

    @staticmethod
    def of_spec(spec: InputSpec) -> "ModelPixels":
        """Those of a checkpoint; bands that only its indices need are among them."""
        needed = [band for name in spec.indices for band in INDICES[name].bands]
        return ModelPixels(
            bands=tuple(dict.fromkeys([*spec.bands, *needed])),
            kind=spec.mode,
            gsd_m=spec.profile.gsd_m if spec.mode == "vhr" else spec.profile.msi_gsd_m,
            window_px=min(spec.shape),
        )

    @staticmethod
    def of_options(options: ModuleOptions) -> "ModelPixels":
        """Those of a module by class path."""
        return ModelPixels(bands=options.bands, kind=options.kind, gsd_m=options.gsd_m, window_px=options.window_px)


@runtime_checkable
class SceneModel(Protocol):
    """What large-area inference asks of a model."""

    model_id: str
    """Hash of weights, class and options: equal for models that give equal probabilities."""
    bands: tuple[str, ...]
    """Bands it takes, in order."""
    kind: Literal["vhr", "msi"]
    """Imagery it takes: uint8 display values, or uint16 reflectance × 10000 where 0 is nodata."""
    gsd_m: float
    """Ground sample distance it takes, metres per pixel."""
    window_px: int
    """Rows and columns it was trained on."""

    def probabilities(self, images: NDArray[np.generic]) -> NDArray[np.float32]:
        """Probabilities of photovoltaics, 0 to 1, shape (n, rows, columns).

        Args:
            images: pixels as an imagery source reads them, shape (n, bands, rows, columns).

        Raises:
            ModelError: the images have other bands than the model takes, or what it returns are no probabilities.
        """
        ...


def pixels_of_model(model: str, options: Mapping[str, Any] | None = None) -> ModelPixels:
    """Pixels the model :func:`scene_model` would give takes; the model is not loaded.

    Args:
        model: as there.
        options: as there.

    Raises:
        ConfigError: it is no checkpoint of ours, or an option cannot be used.
        WeightsNotFoundError: there is no such checkpoint.
    """
    given = _options_of(model, options)
    if given is not None:
        return ModelPixels.of_options(given)
    return ModelPixels.of_spec(checkpoint_inputs(model))


def scene_model(
    model: str, options: Mapping[str, Any] | None = None, *, device: str = "auto", amp: bool = True, tta: bool = False
) -> SceneModel:
    """The model a search is told, ready on its device.

    Args:
        model: checkpoint of ``python -m training fit``, or ``package.module:Class`` of a torch module.
        options: those of :class:`training.module_options.ModuleOptions` for a class path; none for a checkpoint.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        amp: whether a CUDA device computes in mixed precision; without effect on a CPU.
        tta: whether probabilities are means over the eight turns and mirror images of each window.

    Raises:
        ConfigError: the model or an option cannot be used, or there is no such device.
        WeightsError: there are no weights, or they are of something else.
    """
    # torch takes seconds to import
    from training._scene_networks import checkpoint_model, module_model  # noqa: PLC0415

    place = resolved_device(device)
    given = _options_of(model, options)
    if given is not None:
        return module_model(model, given, device=place, amp=amp, tta=tta)
    return checkpoint_model(model, device=place, amp=amp, tta=tta)


def _options_of(model: str, options: Mapping[str, Any] | None) -> ModuleOptions | None:
    """Checked options of a class path; None for a checkpoint, which takes none.

    Raises:
        ConfigError: an option cannot be used.
    """
    if ":" in model and not Path(model).exists():
        return module_options(options or {})
    if options:
        raise ConfigError(
            f"{model} is a checkpoint and knows its pixels; model_options are for a class path: {sorted(options)}"
        )
    return None


def checked_probabilities(found: NDArray[np.float32], images: NDArray[np.generic], model: str) -> NDArray[np.float32]:
    """What a model returned, as float32.

    Args:
        found: what it returned.
        images: what it was given, shape (n, bands, rows, columns).
        model: its name, for messages.

    Raises:
        ModelError: another shape than (n, rows, columns), values that are not finite, or outside 0 to 1.
    """
    wanted = (len(images), *images.shape[-2:])
    if found.shape != wanted:
        raise ModelError(
            f"{model} returns probabilities of shape {found.shape} for images {images.shape}; expected {wanted}"
        )
    # NaN is in neither comparison
    if found.size and not (found.min() >= 0 and found.max() <= 1):
        finite = found[np.isfinite(found)]
        span = f"values from {finite.min():.4g} to {finite.max():.4g}" if finite.size else "values"
        raise ModelError(
            f"{model} returns {span}, {found.size - finite.size} of {found.size} not finite; probabilities lie in 0 to "
            "1: is an activation missing (model_options.activation)?"
        )
    return found.astype(np.float32, copy=False)
