"""The network of SAM 2: built from its configuration and checkpoint, and driven image by image and prompt by prompt."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from dataflows.mask_backends._answers import Decoded
from dataflows.mask_backends._devices import autocast
from dataflows.mask_backends._options import PromptedOptions
from dataflows.mask_backends._prompt_tensors import (
    at_image_size,
    best_candidate,
    box_tensor,
    point_tensors,
    previous_tensor,
)
from dataflows.mask_backends._weights import tensors
from training.devices import resolved_device
from utils.errors import ExtraMissingError, WeightsError
from utils.pixel_prompts import PixelPrompt

INSTALL = 'pip install "aegir-lightning-lance[sam2]"'
_CODE = ("sam2.modeling.", "torch.nn.")


class Sam2Model:
    """A loaded SAM 2 that answers prompts; see :class:`dataflows.mask_backends._prompted.PromptedModel`."""

    def __init__(self, network: Any, options: PromptedOptions) -> None:
        """Move ``network`` (``sam2.modeling.sam2_base.SAM2Base``) to its device.

        Raises:
            ConfigError: the device is not to be had.
        """
        import torch  # noqa: PLC0415 - seconds that listing backends need not take

        self.device = resolved_device(options.device)
        self.network = network.to(self.device).eval()
        self._precision, self._multimask = options.precision, options.multimask
        self._image_encoder = network.forward_image
        if options.compile:
            self._image_encoder = torch.compile(network.forward_image)

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Any]:
        """Image embedding (1, 256, s, s) and high-resolution features of each image, in one pass for all of them."""
        import torch  # noqa: PLC0415

        with torch.inference_mode(), autocast(self.device, self._precision):
            features = self._image_encoder(torch.stack([self._frame(image) for image in images]))["backbone_fpn"]
            *fine, coarse = features[-self.network.num_feature_levels :]
            if self.network.directly_add_no_mem_embed:
                coarse = coarse + self.network.no_mem_embed.reshape(1, -1, 1, 1)
            # copies, so that one kept embedding does not hold the whole batch
            return [
                (coarse[number : number + 1].clone(), [level[number : number + 1].clone() for level in fine])
                for number in range(len(images))
            ]

    def decode(self, embedding: Any, size: tuple[int, int], prompts: Sequence[PixelPrompt]) -> Decoded:
        """The candidate the model rates best for each prompt, at image size."""
        import torch  # noqa: PLC0415

        coarse, fine = embedding
        with torch.inference_mode():
            # not under autocast: bfloat16 tells 256 places apart along a side
            sparse, dense = self._embedded(size, prompts)
            places = self.network.sam_prompt_encoder.get_dense_pe()
            with autocast(self.device, self._precision):
                logits, rated, _, _ = self.network.sam_mask_decoder(
                    image_embeddings=coarse,
                    image_pe=places,
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=self._multimask,
                    repeat_image=True,
                    high_res_features=fine,
                )
            logits, rated = best_candidate(logits, rated)
            return Decoded(logits=at_image_size(logits, size), predicted_iou=rated.float())

    def _frame(self, image: NDArray[np.uint8]) -> Any:
        """One image as ``sam2.utils.transforms.SAM2Transforms`` shows it to the model, shape (3, side, side)."""
        import torch  # noqa: PLC0415
        from torchvision.transforms.v2 import functional  # noqa: PLC0415

        side = self.network.image_size
        pixels = torch.from_numpy(image).to(self.device).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        resized = functional.resize(pixels, [side, side], antialias=True)
        return functional.normalize(resized, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

    def _embedded(self, size: tuple[int, int], prompts: Sequence[PixelPrompt]) -> tuple[Any, Any]:
        import torch  # noqa: PLC0415

        side, encoder = self.network.image_size, self.network.sam_prompt_encoder
        scale = (side / size[1], side / size[0])
        points, labels = point_tensors(prompts, scale, self.device)
        boxes = box_tensor(prompts, scale, self.device)
        if boxes is not None:
            # SAM 2 was trained with boxes as two points of their own labels, before the others
            corners = boxes.reshape(-1, 2, 2)
            marks = torch.tensor([[2, 3]], dtype=torch.int32, device=self.device).expand(len(prompts), 2)
            points = corners if points is None else torch.cat([corners, points], dim=1)
            labels = marks if labels is None else torch.cat([marks, labels], dim=1)
        frame = encoder.mask_input_size
        masks = previous_tensor(prompts, frame, frame, self.device)
        return encoder(points=(points, labels), boxes=None, masks=masks)  # type: ignore[no-any-return]


def load_network(config: Path, checkpoint: Path) -> Any:
    """The model a configuration describes, with the tensors of a checkpoint, on the CPU (``SAM2Base``).

    Settings are those of ``sam2.build_sam.build_sam2``: one mask that is unstable gives way to the best of three.

    Args:
        config: YAML file with the key ``model``.
        checkpoint: state dict, or a dict that holds it as ``model``.

    Raises:
        ExtraMissingError: ``sam2``, or the Hydra it needs, is not installed.
        WeightsError: the checkpoint is corrupt, or of another model than the configuration describes.
    """
    check_config(config)
    found = tensors(checkpoint, backend="sam2", inside="model")
    network = _untrained(config)
    try:
        missing, surplus = network.load_state_dict(found, strict=False)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise WeightsError(f"{checkpoint} does not fit the model of {config}: {' '.join(lines)}") from error
    if missing or surplus:
        raise WeightsError(
            f"{checkpoint} does not fit the model of {config}: it lacks {len(missing)} tensors"
            f" ({', '.join(missing[:3])}) and has {len(surplus)} others ({', '.join(surplus[:3])})"
        )
    return network


def _untrained(config: Path) -> Any:
    try:
        import hydra.errors  # noqa: PLC0415 - with an extra
        import omegaconf  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissingError(f"the mask backend 'sam2' needs sam2 and hydra-core: {INSTALL}") from error
    try:
        import sam2  # noqa: F401, PLC0415 - it sets Hydra up
        from hydra.utils import instantiate  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissingError(f"the mask backend 'sam2' cannot import sam2 ({error}): {INSTALL}") from error
    except hydra.errors.HydraException as error:
        raise ExtraMissingError(
            f"sam2 does not work with the installed hydra-core {hydra.__version__} ({error}): "
            'pip install "hydra-core<1.4"'
        ) from error
    extra = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    try:
        # Hydra's reader takes 1e-6 for a number, PyYAML does not
        tree = omegaconf.OmegaConf.load(config).model
        tree.sam_mask_decoder_extra_args = {**extra, **(tree.get("sam_mask_decoder_extra_args") or {})}
        return instantiate(tree, _recursive_=True)
    except (hydra.errors.HydraException, omegaconf.errors.OmegaConfBaseException) as error:
        raise WeightsError(f"{config} describes no SAM 2 model that can be built: {error}") from error


def check_config(config: Path) -> None:
    """Refuse what is no configuration of a SAM 2 model; nothing in it is run.

    Raises:
        WeightsError: it is no YAML, has no part ``model``, or names code other than that of the model.
    """
    try:
        tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise WeightsError(f"{config} is no configuration of a SAM 2 model: {error}") from error
    model = tree.get("model") if isinstance(tree, dict) else None
    if not isinstance(model, dict) or "_target_" not in model:
        raise WeightsError(f"{config} is no configuration of a SAM 2 model: it has no `model` with a `_target_`")
    foreign = sorted({place for place in _targets(model) if not place.startswith(_CODE)})
    if foreign:
        raise WeightsError(
            f"{config} would run {', '.join(foreign)}; a model's configuration names only classes of sam2.modeling "
            "(a training configuration is another thing: take the one the model is built from)"
        )


def _targets(tree: object) -> list[str]:
    if isinstance(tree, dict):
        own = [str(tree["_target_"])] if "_target_" in tree else []
        return own + [place for value in tree.values() for place in _targets(value)]
    if isinstance(tree, list):
        return [place for value in tree for place in _targets(value)]
    return []
