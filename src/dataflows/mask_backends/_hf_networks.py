"""Models of transformers that answer points, boxes and masks: SAM, SAM 2 and the tracker of SAM 3."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataflows.mask_backends._answers import Decoded
from dataflows.mask_backends._devices import autocast
from dataflows.mask_backends._hf_files import INSTALL
from dataflows.mask_backends._options import PromptedOptions
from dataflows.mask_backends._prompt_tensors import (
    at_image_size,
    best_candidate,
    box_tensor,
    point_tensors,
    previous_tensor,
)
from training.devices import resolved_device
from utils.errors import ExtraMissingError, WeightsError
from utils.pixel_prompts import PixelPrompt


class PixelModel:
    """A model that shows images through their processor: device, precision and pixel values."""

    def __init__(self, folder: Path, class_name: str, options: PromptedOptions, names: Mapping[str, str]) -> None:
        """Load the network and its image processor.

        Args:
            folder: of the model.
            class_name: of the network in ``transformers``.
            options: device, precision and whether to compile.
            names: pattern → replacement, for tensors that the class knows by other names.

        Raises:
            ExtraMissingError: transformers is not installed, or too old for the class.
            WeightsError: tensors are missing, or of another model.
            ConfigError: the device is not to be had.
        """
        self.device = resolved_device(options.device)
        self.precision = options.precision
        self.network = loaded(folder, class_name, names).to(self.device).eval()
        self._processor = image_processor(folder)
        self._folder = folder
        if options.compile:
            self.network.vision_encoder.compile()

    def shown(self, images: Sequence[NDArray[np.uint8]], side: int) -> Any:
        """What the image processor makes of ``images``: ``pixel_values``, shape (n, 3, side, side), and sizes.

        Raises:
            WeightsError: the processor's size is not that of the model.
        """
        # without the format, a chip of three rows is taken for one of three bands
        values = self._processor(
            images=list(images), return_tensors="pt", input_data_format="channels_last", device=self.device
        )
        found = tuple(values["pixel_values"].shape[-2:])
        if found != (side, side):
            raise WeightsError(
                f"the processor in {self._folder} shows images of {found[0]} × {found[1]} pixels, the model takes "
                f"{side} × {side}: preprocessor_config.json is of another model"
            )
        return values


class PointBoxModel(PixelModel):
    """A loaded model that answers prompts; see :class:`dataflows.mask_backends._prompted.PromptedModel`."""

    def __init__(self, folder: Path, class_name: str, options: PromptedOptions, names: Mapping[str, str]) -> None:
        """Load the network; arguments and errors are those of :class:`PixelModel`."""
        super().__init__(folder, class_name, options, names)
        self._multimask = options.multimask
        encoder = self.network.prompt_encoder
        self._side = int(encoder.input_image_size)
        self._low = tuple(4 * step for step in encoder.image_embedding_size)
        for part in (encoder, self.network.shared_image_embedding):
            _without_autocast(part, self.device)

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Any]:
        """Feature maps of each image, the coarsest last, and the rows and columns of the frame it was padded from."""
        import torch  # noqa: PLC0415 - seconds that listing backends need not take

        values = self.shown(images, self._side)
        with torch.inference_mode(), autocast(self.device, self.precision):
            maps = self.network.get_image_embeddings(values["pixel_values"])
        levels = maps if isinstance(maps, list) else [maps]
        # SAM keeps the ratio of the sides and pads; the others fill the frame
        filled = values.get("reshaped_input_sizes")
        return [
            (
                # copies, so that one kept embedding does not hold the whole batch
                [level[number : number + 1].clone() for level in levels],
                None if filled is None else (int(filled[number][0]), int(filled[number][1])),
            )
            for number in range(len(images))
        ]

    def decode(self, embedding: Any, size: tuple[int, int], prompts: Sequence[PixelPrompt]) -> Decoded:
        """The candidate the model rates best for each prompt, at image size."""
        import torch  # noqa: PLC0415

        levels, padded = embedding
        filled = padded or (self._side, self._side)
        with torch.inference_mode(), autocast(self.device, self.precision):
            answer = self.network(
                image_embeddings=self._repeated(levels, prompts),
                multimask_output=self._multimask,
                **self._told(size, filled, prompts),
            )
            logits = answer.pred_masks.flatten(0, 1)
            logits, rated = best_candidate(logits, answer.iou_scores.flatten(0, 1))
            frame = None if padded is None else (self._side, *padded)
            return Decoded(logits=at_image_size(logits, size, frame), predicted_iou=rated.float())

    def _repeated(self, levels: list[Any], prompts: Sequence[PixelPrompt]) -> Any:
        """One image per prompt where prompts bring masks, which belong to images; else one image for all."""
        if prompts[0].previous is not None:
            levels = [level.expand(len(prompts), -1, -1, -1) for level in levels]
        return levels if len(levels) > 1 else levels[0]

    def _told(self, size: tuple[int, int], filled: tuple[int, int], prompts: Sequence[PixelPrompt]) -> dict[str, Any]:
        scale = (filled[1] / size[1], filled[0] / size[0])
        points, labels = point_tensors(prompts, scale, self.device)
        low = tuple(max(1, round(part / self._side * whole)) for part, whole in zip(filled, self._low, strict=True))
        told = {
            "input_points": points,
            "input_labels": labels,
            "input_boxes": box_tensor(prompts, scale, self.device),
        }
        # images are the first axis, prompts of one image the second
        axis = 0 if prompts[0].previous is None else 1
        told = {name: tensor.unsqueeze(axis) for name, tensor in told.items() if tensor is not None}
        masks = previous_tensor(prompts, (self._low[0], self._low[1]), (low[0], low[1]), self.device)
        return told if masks is None else told | {"input_masks": masks}


def _without_autocast(part: Any, device: str) -> None:
    """Keep ``part`` in float32: bfloat16 tells 256 places apart along a side, and prompts are pixels."""
    import torch  # noqa: PLC0415

    part.forward = torch.autocast(torch.device(device).type, enabled=False)(part.forward)


def loaded(folder: Path, class_name: str, names: Mapping[str, str]) -> Any:
    """The network in ``folder``, float32, on the CPU, every tensor from the files.

    Raises:
        ExtraMissingError: transformers is not installed, or has no such class.
        WeightsError: tensors are missing, or do not fit the configuration.
    """
    import torch  # noqa: PLC0415

    kind = part_of_transformers(class_name)
    with _quiet():
        try:
            network, report = kind.from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                key_mapping=dict(names) or None,
            )
        except (RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{folder} holds no {class_name} that can be loaded: {str(error)[:500]}") from error
    # transformers only warns, and draws them at random
    missing = sorted(report["missing_keys"])
    if missing:
        raise WeightsError(
            f"the weights in {folder} lack {len(missing)} tensors of {class_name} ({', '.join(missing[:3])}): they are "
            "of another model, or a shard is missing"
        )
    return network


def image_processor(folder: Path) -> Any:
    """The image processor in ``folder``.

    Raises:
        WeightsError: its configuration is unusable.
    """
    kind = part_of_transformers("AutoImageProcessor")
    with _quiet():
        try:
            return kind.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise WeightsError(f"the processor in {folder} cannot be used: {str(error)[:500]}") from error


def part_of_transformers(name: str) -> Any:
    """The class or module ``name`` of transformers.

    Raises:
        ExtraMissingError: transformers is not installed, or has no such class; the message names its version.
    """
    try:
        transformers = import_module("transformers")
    except ImportError as error:
        raise ExtraMissingError(f"the mask backend 'sam_hf' needs transformers: {INSTALL}") from error
    found = getattr(transformers, name, None)
    if found is None:
        raise ExtraMissingError(
            f"transformers {transformers.__version__} has no {name}: install a newer one, {INSTALL} --upgrade"
        )
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no warnings that name other classes; what matters is raised."""
    logging = part_of_transformers("logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
