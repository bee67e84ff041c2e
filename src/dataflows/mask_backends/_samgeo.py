"""SAM and HQ-SAM predictors, constructed by segment-geospatial and filled with checked weights."""

import uuid
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dataflows.mask_backends._devices import quiet
from dataflows.mask_backends._weights import tensors
from utils.errors import ExtraMissingError, UnknownNameError, WeightsError

_PLACES = {"sam": ("samgeo.samgeo", "segment_anything"), "sam_hq": ("samgeo.hq_sam", "segment_anything_hq")}
"""Backend → module of its ``SamGeo``, package of its model types."""

_NEEDED = {"sam": ("samgeo", "segment_anything"), "sam_hq": ("samgeo", "segment_anything_hq", "timm")}

_SIZES = {(768, 12): "vit_b", (1024, 24): "vit_l", (1280, 32): "vit_h"}
"""Width and depth of the image encoder → model type."""


def predictor(backend: str, model_type: str, checkpoint: Path, device: str) -> Any:
    """``SamPredictor`` of a model with the weights of ``checkpoint``, ready to answer.

    ``SamGeo`` builds it. It would also load the weights: HQ-SAM's published ones on the device they were saved from,
    which fails on a machine without CUDA, and whatever does not fit is left random without a word. So it is handed a
    builder whose weights are in place.

    Args:
        backend: ``sam`` or ``sam_hq``.
        model_type: a key of the library's registry.
        checkpoint: a state dict that fits the model exactly.
        device: as torch names it.

    Raises:
        ExtraMissingError: segment-geospatial or the library of the model is not installed.
        UnknownNameError: there is no such model type.
        WeightsError: the checkpoint is corrupt, or of another model.
    """
    constructor, registry = _imported(backend)
    if model_type not in registry:
        raise UnknownNameError(f"model type of the mask backend {backend!r}", model_type, list(registry))
    found = tensors(checkpoint, backend=backend)

    def build(checkpoint: str) -> Any:
        network = registry[model_type]()
        _fill(network, found, backend, model_type, checkpoint)
        return network

    name = f"{model_type} {uuid.uuid4().hex}"
    registry[name] = build
    try:
        with quiet():
            made = constructor(model_type=name, checkpoint=str(checkpoint), automatic=False, device=device).predictor
    finally:
        del registry[name]
    made.model.eval().requires_grad_(False)
    return made


def recognised(shapes: dict[str, tuple[int, ...]]) -> tuple[str, str] | None:
    """``(backend, model type)`` of a published model with tensors of these shapes; None for any other."""
    backend = "sam_hq" if "mask_decoder.hf_token.weight" in shapes else "sam"
    if "image_encoder.patch_embed.seq.0.c.weight" in shapes:
        return backend, "vit_tiny"
    width = shapes.get("image_encoder.patch_embed.proj.weight", (0,))[0]
    blocks = {name.split(".")[2] for name in shapes if name.startswith("image_encoder.blocks.")}
    kind = _SIZES.get((width, len(blocks)))
    return (backend, kind) if kind else None


def registered(backend: str) -> list[str]:
    """Model types that the library of ``backend`` knows, those a user added to its registry included.

    Raises:
        ExtraMissingError: segment-geospatial or the library of the model is not installed.
    """
    return sorted(_imported(backend)[1])


def require(backend: str) -> None:
    """Find the packages of ``backend`` without importing them.

    Raises:
        ExtraMissingError: segment-geospatial or the library of the model is not installed.
    """
    missing = [name for name in _NEEDED[backend] if find_spec(name) is None]
    if missing:
        raise _extra_missing(backend, f"not installed: {', '.join(missing)}")


def _imported(backend: str) -> tuple[Any, dict[str, Any]]:
    require(backend)
    module, package = _PLACES[backend]
    try:
        with quiet():
            registry = import_module(package).sam_model_registry
            return import_module(module).SamGeo, registry
    except ImportError as error:
        raise _extra_missing(backend, str(error)) from error


def _extra_missing(backend: str, why: str) -> ExtraMissingError:
    return ExtraMissingError(
        f"the mask backend {backend!r} needs segment-geospatial and {_PLACES[backend][1]} ({why}): "
        'pip install -e ".[sam]"'
    )


def _fill(network: Any, found: dict[str, Any], backend: str, model_type: str, checkpoint: str) -> None:
    """Copy ``found`` into ``network``, all of it and nothing else.

    Raises:
        WeightsError: names or shapes differ, or a value is not finite.
    """
    wanted = {name: tuple(each.shape) for name, each in network.state_dict().items()}
    held = {name: tuple(each.shape) for name, each in found.items()}
    problems = {
        "missing": sorted(wanted.keys() - held.keys()),
        "unknown": sorted(held.keys() - wanted.keys()),
        "of another shape": sorted(name for name in wanted.keys() & held.keys() if wanted[name] != held[name]),
        "not finite": sorted(name for name, each in found.items() if not bool(each.isfinite().all())),
    }
    told = [f"{len(names)} {problem} ({names[0]}, …)" for problem, names in problems.items() if names]
    if told:
        raise WeightsError(
            f"the weights at {checkpoint} are not those of a {model_type} of the mask backend {backend!r}: of its "
            f"{len(wanted)} tensors {'; '.join(told)}: give the checkpoint's own model type"
        )
    network.load_state_dict(found)
