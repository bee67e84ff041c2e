"""Networks behind :mod:`training.scene_models`: loading, identity, test-time turns, precision."""

import hashlib
import inspect
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from store.fingerprint import file_sha256
from training.checkpoint_records import checkpoint_inputs
from training.inputs import InputSpec, reflectance_channels
from training.module_options import ModuleOptions
from training.scene_models import ModelPixels, SceneModel, checked_probabilities
from utils.errors import ConfigError, ModelError, WeightsError, WeightsNotFoundError


@dataclass(frozen=True, kw_only=True)
class NetworkUse:
    """How a network is used: what it is given and what its output means."""

    name: str
    """For messages."""
    model_id: str
    """Hash of weights, class and options."""
    pixels: ModelPixels
    """Pixels that are read for it."""
    channels: Callable[[NDArray[np.generic]], NDArray[np.generic]]
    """Pixels as they are read, shape (n, bands, rows, columns) → what the network is given."""
    activation: Callable[[Any], Tensor]
    """What the network returns → probabilities (n, rows, columns)."""


class NetworkModel:
    """A network on its device; see :class:`training.scene_models.SceneModel`."""

    def __init__(self, network: nn.Module, use: NetworkUse, *, device: str, amp: bool, tta: bool) -> None:
        """Take the network to its device.

        Args:
            network: channels (n, channels, rows, columns) → whatever ``use.activation`` takes.
            use: how it is used.
            device: torch's name of the device.
            amp: whether a CUDA device computes in mixed precision.
            tta: whether to take the mean over turns and mirror images.
        """
        self.name, self.model_id, taken = use.name, use.model_id, use.pixels
        self.bands, self.kind, self.gsd_m, self.window_px = taken.bands, taken.kind, taken.gsd_m, taken.window_px
        self._network = network.eval().requires_grad_(requires_grad=False).to(device)
        self._use, self._device, self._amp, self._tta = use, device, amp, tta

    def probabilities(self, images: NDArray[np.generic]) -> NDArray[np.float32]:
        """See :class:`training.scene_models.SceneModel`."""
        if images.ndim != 4 or images.shape[1] != len(self.bands):
            raise ModelError(
                f"{self.name} takes {len(self.bands)} bands ({', '.join(self.bands)}), images have shape {images.shape}"
            )
        given = torch.from_numpy(np.ascontiguousarray(self._use.channels(images)))
        try:
            with torch.inference_mode(), self._precision():
                found = self._turned(given.to(self._device)) if self._tta else self._answer(given.to(self._device))
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"{len(images)} windows of {images.shape[-2]} × {images.shape[-1]} px do not fit into the memory of "
                f"{self._device}; lower batch_size or window_px"
            ) from error
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ModelError(f"{self.name} cannot take images of shape {tuple(given.shape)}: {error}") from error
        return checked_probabilities(found.float().cpu().numpy(), images, self.name)

    def _answer(self, images: Tensor) -> Tensor:
        return self._use.activation(self._network(images)).float()

    def _turned(self, images: Tensor) -> Tensor:
        """Mean over the eight symmetries of a square, each turned back."""
        total: Tensor | None = None
        for turns in range(4):
            for mirrored in (False, True):
                view = torch.rot90(images, turns, (-2, -1))
                answer = self._answer((view.flip(-1) if mirrored else view).contiguous())
                back = torch.rot90(answer.flip(-1) if mirrored else answer, -turns, (-2, -1))
                total = back if total is None else total + back
        if total is None:
            raise ModelError(f"{self.name} was asked nothing")
        return total / 8

    def _precision(self) -> AbstractContextManager[Any]:
        if self._amp and torch.device(self._device).type == "cuda":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()


def checkpoint_model(checkpoint: str, *, device: str, amp: bool, tta: bool) -> SceneModel:
    """The model of a checkpoint of ours.

    Raises:
        WeightsNotFoundError: there is no such file.
        ConfigError: it is no checkpoint of ours.
    """
    spec = checkpoint_inputs(checkpoint)
    # lightning and the model zoo, which a module by class path does not need
    from training import predict  # noqa: PLC0415

    module = predict.load(checkpoint)
    pixels = ModelPixels.of_spec(spec)
    use = NetworkUse(
        name=f"checkpoint {checkpoint}",
        model_id=_identity(file_sha256(checkpoint), "training.litmodule:SegmentationModule", {}),
        pixels=pixels,
        channels=lambda images: _checkpoint_channels(spec, pixels.bands, images),
        activation=torch.sigmoid,
    )
    return NetworkModel(module, use, device=device, amp=amp, tta=tta)


def module_model(path: str, options: ModuleOptions, *, device: str, amp: bool, tta: bool) -> SceneModel:
    """A torch module by class path.

    Raises:
        ConfigError: there is no such class, or its arguments are refused.
        WeightsError: the file of weights is missing or of something else.
    """
    kind = _class(path)
    try:
        network = kind(**options.arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{path} cannot be made with model_options.arguments {dict(options.arguments)}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{path} makes a {type(network).__name__}, which is no torch.nn.Module")
    use = NetworkUse(
        name=path,
        model_id=_identity(_weights(network, options), f"{path}\n{_code(kind)}", options.identity),
        pixels=ModelPixels.of_options(options),
        channels=lambda images: _module_channels(options, images),
        activation=lambda found: _module_probabilities(options, path, found),
    )
    return NetworkModel(network, use, device=device, amp=amp, tta=tta)


def _class(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"model {path!r}: module {module!r} cannot be imported ({error}); is it on PYTHONPATH?"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"model {path!r}: {module} has no {name!r}") from error
    if not callable(found):
        raise ConfigError(f"model {path!r} is no class")
    return found  # type: ignore[no-any-return]


def _code(kind: Callable[..., Any]) -> str:
    """Source text of a class; its name where there is none, as for classes compiled or made by code."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return repr(getattr(kind, "__qualname__", kind))


def _weights(network: nn.Module, options: ModuleOptions) -> str:
    """Load the weights if there is a file, and return their hash: the file's, or that of what the class made."""
    if options.weights is None:
        hasher = hashlib.sha256()
        for name, tensor in sorted(network.state_dict().items()):
            hasher.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return hasher.hexdigest()
    place = Path(options.weights)
    if not place.is_file():
        raise WeightsNotFoundError(f"no weights at {place}; set model_options.weights to a file of a state dict")
    try:
        network.load_state_dict(torch.load(place, map_location="cpu", weights_only=True))
    except (RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{place} holds no state dict of this module: {error}") from error
    return file_sha256(place)


def _identity(weights: str, kind: str, options: Mapping[str, Any]) -> str:
    text = json.dumps([weights, kind, options], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _checkpoint_channels(spec: InputSpec, read: Sequence[str], images: NDArray[np.generic]) -> NDArray[np.generic]:
    if spec.mode == "vhr":
        return images
    return reflectance_channels(images, read, spec.bands, spec.indices)


def _module_channels(options: ModuleOptions, images: NDArray[np.generic]) -> NDArray[np.float32]:
    scaled = images.astype(np.float32) * np.float32(options.scale)
    if options.mean:
        scaled -= np.asarray(options.mean, np.float32)[:, None, None]
    if options.std:
        scaled /= np.asarray(options.std, np.float32)[:, None, None]
    return scaled


def _module_probabilities(options: ModuleOptions, path: str, found: Any) -> Tensor:
    answer = found.get("out") if isinstance(found, Mapping) else found
    if not isinstance(answer, Tensor) or answer.ndim not in (3, 4):
        raise ModelError(f"{path} returns {type(answer).__name__}; expected a tensor (n, classes, rows, columns)")
    if options.activation == "softmax":
        answer = torch.softmax(answer.float(), dim=1)
    elif options.activation == "sigmoid":
        answer = torch.sigmoid(answer.float())
    if answer.ndim == 3:
        return answer
    if options.channel >= answer.shape[1]:
        raise ModelError(f"{path} returns {answer.shape[1]} classes; model_options.channel is {options.channel}")
    return answer[:, options.channel]
