"""SAM through segment-geospatial: constructed by it, driven directly. Needs the extra ``[sam]``.

Source: Kirillov et al. (2023), Segment Anything, https://arxiv.org/abs/2304.02643.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dataflows.mask_backends import _samgeo
from dataflows.mask_backends._answers import Decoded
from dataflows.mask_backends._devices import autocast
from dataflows.mask_backends._options import PromptedOptions, parsed
from dataflows.mask_backends._prompt_tensors import best_candidate, box_tensor, point_tensors, previous_tensor
from dataflows.mask_backends._prompted import PromptedBackend
from dataflows.mask_backends._weights import Published, tensor_shapes, torch_hub_folder, weights_file
from training.devices import resolved_device
from utils.errors import ConfigError, UnknownNameError, WeightsError
from utils.pixel_prompts import PixelPrompt

_META = "https://dl.fbaipublicfiles.com/segment_anything"


@dataclass(frozen=True, kw_only=True)
class SamOptions(PromptedOptions):
    """Options of SAM."""

    model_type: str | None = None
    """``vit_b``, ``vit_l``, ``vit_h``, or a type added to the library's registry; None reads it from ``checkpoint``."""
    checkpoint: str | None = None
    """Path of a state dict; None takes the published weights from ``checkpoint_dir``."""
    checkpoint_dir: str | None = None
    """Folder of published weights; None is segment-geospatial's."""

    def __post_init__(self) -> None:
        """Refuse what names no weights."""
        super().__post_init__()
        told = {name: getattr(self, name) for name in ("model_type", "checkpoint", "checkpoint_dir")}
        if not all(value is None or (isinstance(value, str) and value) for value in told.values()):
            raise ConfigError(f"mask_options: {', '.join(told)} are text or null; found {told}")
        if self.model_type is None and self.checkpoint is None:
            raise ConfigError("mask_options: give a checkpoint, a model_type such as vit_b, or both")


class SamModel:
    """A SAM that answers prompts; images and prompts go through its own predictor's transform."""

    def __init__(self, predictor: Any, options: SamOptions, device: str) -> None:
        """Take over a ``SamPredictor`` on ``device``."""
        import torch  # noqa: PLC0415 - seconds that listing backends need not take

        self.device = device
        self._torch = torch
        self._options = options
        self._transform = predictor.transform
        self._network = predictor.model
        self._side = int(self._network.image_encoder.img_size)
        self._encoder = torch.compile(self._network.image_encoder) if options.compile else self._network.image_encoder

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Any]:
        """One embedding per image; see :class:`dataflows.mask_backends._prompted.PromptedModel`."""
        with self._torch.inference_mode():
            batch = self._torch.stack([self._input(image) for image in images])
            with autocast(self.device, self._options.precision):
                encoded = self._encoder(batch)
            # cloned, so that one embedding that is kept does not keep its whole batch
            return [self._embedding(encoded, number) for number in range(len(images))]

    def decode(self, embedding: Any, size: tuple[int, int], prompts: Sequence[PixelPrompt]) -> Decoded:
        """The candidate the model rates best for each prompt, at image size.

        See :class:`dataflows.mask_backends._prompted.PromptedModel`.
        """
        filled = self._transform.get_preprocess_shape(*size, self._side)
        scale = (filled[1] / size[1], filled[0] / size[0])
        frame = self._network.prompt_encoder.mask_input_size
        small = tuple(max(1, round(side * part / self._side)) for side, part in zip(frame, filled, strict=True))
        points, labels = point_tensors(prompts, scale, self.device)
        with self._torch.inference_mode():
            # not under autocast: in bfloat16 a point is encoded up to two of 1024 pixels off
            sparse, dense = self._network.prompt_encoder(
                points=None if points is None else (points, labels),
                boxes=box_tensor(prompts, scale, self.device),
                masks=previous_tensor(prompts, frame, small, self.device),
            )
            places = self._network.prompt_encoder.get_dense_pe()
            with autocast(self.device, self._options.precision):
                masks, rated = self._decoded(
                    embedding,
                    image_pe=places,
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=self._options.multimask,
                )
            masks, rated = best_candidate(masks, rated)
            logits = self._network.postprocess_masks(masks.float(), filled, size)
            return Decoded(logits=logits, predicted_iou=rated.float())

    def _input(self, image: NDArray[np.uint8]) -> Any:
        """The image as the predictor prepares it: longest side to the model's, normalised, padded; (3, side, side)."""
        resized = np.ascontiguousarray(self._transform.apply_image(image).transpose(2, 0, 1))
        return self._network.preprocess(self._torch.as_tensor(resized, device=self.device))

    def _embedding(self, encoded: Any, number: int) -> Any:
        return encoded[number : number + 1].clone()

    def _decoded(self, embedding: Any, **told: Any) -> tuple[Any, Any]:
        found: tuple[Any, Any] = self._network.mask_decoder(image_embeddings=embedding, **told)
        return found


class SamBackend(PromptedBackend):
    """Masks by SAM; options are the fields of :class:`SamOptions`, scores and flags those of the base."""

    name = "sam"
    model_class: ClassVar[type[SamModel]] = SamModel
    options_type: ClassVar[type[PromptedOptions]] = SamOptions
    published: ClassVar[Mapping[str, Published]] = {
        "vit_b": Published(
            file="sam_vit_b_01ec64.pth",
            url=f"{_META}/sam_vit_b_01ec64.pth",
            megabytes=375,
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
        "vit_l": Published(
            file="sam_vit_l_0b3195.pth",
            url=f"{_META}/sam_vit_l_0b3195.pth",
            megabytes=1250,
            sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
        "vit_h": Published(
            file="sam_vit_h_4b8939.pth",
            url=f"{_META}/sam_vit_h_4b8939.pth",
            megabytes=2565,
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
    }
    """Model type → its published weights; names and places are segment-geospatial's."""

    @classmethod
    def weights_files(cls, **options: object) -> dict[str, str]:
        """Model type → checkpoint; see :class:`utils.types.WeightedBackend`.

        Raises:
            UnknownNameError: there is no such option or model type.
            ExtraMissingError: a package that the model needs is not installed.
            WeightsError: the file is missing, broken, or holds another model than ``model_type``.
        """
        model_type, path = cls._weights(parsed(cls.options_type, options, cls.name))
        return {model_type: str(path)}

    @classmethod
    def _weights(cls, options: Any) -> tuple[str, Path]:
        _samgeo.require(cls.name)
        path = weights_file(
            cls.published,
            torch_hub_folder() if options.checkpoint_dir is None else Path(options.checkpoint_dir).expanduser(),
            backend=cls.name,
            model_type=options.model_type,
            checkpoint=options.checkpoint,
            download=options.download,
        )
        held = _samgeo.recognised(tensor_shapes(path, backend=cls.name))
        if options.model_type is None:
            if held is None:
                raise WeightsError(f"the weights at {path} are of no published model: give their `model_type`")
            cls._same(held, held[1], path)
            return held[1], path
        if options.model_type in cls.published:
            cls._same(held, options.model_type, path)
        elif options.model_type not in (known := _samgeo.registered(cls.name)):
            raise UnknownNameError(f"model type of the mask backend {cls.name!r}", options.model_type, known)
        return options.model_type, path

    @classmethod
    def _same(cls, held: tuple[str, str] | None, model_type: str, path: Path) -> None:
        if held != (cls.name, model_type):
            found = "of no published model" if held is None else f"a {held[1]} of the mask backend {held[0]!r}"
            raise WeightsError(
                f"the weights at {path} are {found}, not a {model_type} of the mask backend {cls.name!r}"
            )

    def _load(self) -> SamModel:
        options: Any = self.options
        device = resolved_device(options.device)
        model_type, path = self._weights(options)
        return self.model_class(_samgeo.predictor(self.name, model_type, path, device), options, device)
