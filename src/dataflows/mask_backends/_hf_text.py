"""SAM 3 asked with words: the instances it finds, and which of them a prompt means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataflows.mask_backends._answers import Decoded
from dataflows.mask_backends._devices import autocast
from dataflows.mask_backends._hf_networks import PixelModel, part_of_transformers
from dataflows.mask_backends._options import PromptedOptions
from utils.errors import MaskError, WeightsError
from utils.pixel_prompts import PixelPrompt

_NOTHING = -20.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Instances:
    """What a model found in one image, best first; coordinates are shares of the image's sides."""

    scores: NDArray[np.float64]
    """Score times presence of the words' object, 0 to 1, shape (n,)."""
    boxes: NDArray[np.float64]
    """``(left, top, right, bottom)``, shape (n, 4)."""
    inside: NDArray[np.bool_]
    """Low-resolution masks, shape (n, rows, columns)."""


class TextModel(PixelModel):
    """A loaded SAM 3 that looks for what ``text`` names; see ``PromptedModel``."""

    def __init__(
        self, folder: Path, options: PromptedOptions, *, text: str, limits: tuple[float, float], exemplars: bool
    ) -> None:
        """Load network and tokenizer and encode the words.

        Args:
            folder: of the model.
            options: device, precision and whether to compile.
            text: a short noun phrase, such as ``solar panel``.
            limits: least score of an instance, and least IoU of its box with the prompt's.
            exemplars: whether each prompt's box is shown to the model too.

        Raises:
            ExtraMissingError, WeightsError, ConfigError: as :class:`PixelModel`.
        """
        import torch  # noqa: PLC0415 - seconds that listing backends need not take

        super().__init__(folder, "Sam3Model", options, {})
        self._least_score, self._least_iou = limits
        self._exemplars = exemplars
        self._side = int(self.network.config.vision_config.image_size)
        self._told = _tokens(folder, text, self.device)
        with torch.inference_mode(), autocast(self.device, self.precision):
            self._words = self.network.get_text_features(**self._told, return_dict=True)

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Any]:
        """Vision features of each image with the instances the words find; without exemplars only those are kept."""
        import torch  # noqa: PLC0415

        with torch.inference_mode(), autocast(self.device, self.precision):
            seen = self.network.get_vision_features(self.shown(images, self._side)["pixel_values"])
            found = []
            for number in range(len(images)):
                one = _part(seen, number)
                found.append((one if self._exemplars else None, self._looked(one, {})))
        return found

    def decode(self, embedding: Any, size: tuple[int, int], prompts: Sequence[PixelPrompt]) -> Decoded:
        """The instance each prompt means, at image size; logits far below 0 where it means none.

        Raises:
            MaskError: prompts bring earlier masks, which words do not go with.
        """
        import torch  # noqa: PLC0415

        if prompts[0].previous is not None:
            raise MaskError("with the option `text` SAM 3 takes no earlier masks: leave `text` out, or the masks")
        seen, answer = embedding
        with torch.inference_mode(), autocast(self.device, self.precision):
            if seen is not None and prompts[0].box is not None:
                answer = self._looked(seen, {"input_boxes": _shares(prompts, size, self.device)})
            logits, rated = [], []
            for number, prompt in enumerate(prompts):
                own = number if len(answer.pred_logits) > 1 else 0
                found, order = instances(answer, own, self._least_score)
                chosen = meant(prompt, size, found, self._least_iou)
                logits.append(None if chosen is None else answer.pred_masks[own, order[chosen]])
                rated.append(0.0 if chosen is None else float(found.scores[chosen]))
            return Decoded(
                logits=_at_size(logits, size, self.device),
                predicted_iou=torch.tensor(rated, dtype=torch.float32, device=self.device)[:, None],
            )

    def _looked(self, seen: Any, boxes: Mapping[str, Any]) -> Any:
        """Answers to the words on one image: once, or once for each box that goes with them."""
        count = len(boxes["input_boxes"]) if boxes else 1
        if count > 1:
            seen = type(seen)(
                fpn_hidden_states=tuple(level.expand(count, -1, -1, -1) for level in seen.fpn_hidden_states),
                fpn_position_encoding=tuple(level.expand(count, -1, -1, -1) for level in seen.fpn_position_encoding),
            )
        return self.network(
            vision_embeds=seen, text_embeds=self._words, attention_mask=self._told["attention_mask"], **boxes
        )


def instances(answer: Any, number: int, least_score: float) -> tuple[Instances, NDArray[np.int64]]:
    """The instances in answer ``number`` with ``least_score`` or more, and the queries they come from.

    Args:
        answer: of ``Sam3Model``.
        number: along the batch.
        least_score: 0 to 1.
    """
    scores = answer.pred_logits[number].float().sigmoid()
    if answer.presence_logits is not None:
        scores = scores * answer.presence_logits[number].float().sigmoid()
    rated = scores.cpu().numpy().astype(np.float64)
    order = np.argsort(-rated, kind="stable")
    order = order[rated[order] >= least_score]
    found = Instances(
        scores=rated[order],
        boxes=answer.pred_boxes[number].float().cpu().numpy().astype(np.float64)[order],
        inside=(answer.pred_masks[number].float() > 0).cpu().numpy()[order],
    )
    return found, order


def meant(prompt: PixelPrompt, size: tuple[int, int], found: Instances, least_iou: float) -> int | None:
    """The instance that ``prompt`` means; None where there is none.

    A box means the instance whose box has the greatest IoU with it, ``least_iou`` at least; points alone mean the best
    rated instance that covers all positive ones. Instances on a negative point are out of the question. Each prompt is
    answered for itself: two prompts may mean one instance.

    Args:
        prompt: in pixels of the image.
        size: its ``(rows, columns)``.
        found: in the image.
        least_iou: 0 to 1.
    """
    if not len(found.scores):
        return None
    covers = _covers(prompt, size, found.inside)
    possible = ~covers[:, prompt.point_labels == 0].any(axis=1)
    if prompt.box is None:
        possible &= covers[:, prompt.point_labels == 1].all(axis=1)
        worth = found.scores
    else:
        worth = _box_iou(np.array(prompt.box) / np.array([size[1], size[0]] * 2), found.boxes)
        possible &= worth >= max(least_iou, np.finfo(float).tiny)
    return int(np.argmax(np.where(possible, worth, -1.0))) if possible.any() else None


def _covers(prompt: PixelPrompt, size: tuple[int, int], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each instance covers each point, shape (instances, points)."""
    _, rows, cols = inside.shape
    col = np.clip(np.floor(prompt.points[:, 0] / size[1] * cols).astype(int), 0, cols - 1)
    row = np.clip(np.floor(prompt.points[:, 1] / size[0] * rows).astype(int), 0, rows - 1)
    return inside[:, row, col]


def _box_iou(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + np.clip(others[:, 2:] - others[:, :2], 0, None).prod(axis=1) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _shares(prompts: Sequence[PixelPrompt], size: tuple[int, int], device: str) -> Any:
    """Boxes as SAM 3 takes them: centre and sides as shares of the image's, shape (n, 1, 4)."""
    import torch  # noqa: PLC0415

    corners = np.array([prompt.box for prompt in prompts]) / np.array([size[1], size[0]] * 2)
    middle, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return torch.as_tensor(np.hstack([middle, sides]), dtype=torch.float32, device=device)[:, None]


def _at_size(logits: Sequence[Any], size: tuple[int, int], device: str) -> Any:
    """Logits of the chosen instances at image size, shape (n, 1, rows, columns), interpolated as probabilities."""
    import torch  # noqa: PLC0415
    from torch.nn import functional  # noqa: PLC0415

    whole = torch.full((len(logits), 1, *size), _NOTHING, dtype=torch.float32, device=device)
    for number, one in enumerate(logits):
        if one is not None:
            share = functional.interpolate(
                one.float().sigmoid()[None, None], size, mode="bilinear", align_corners=False
            )
            whole[number] = torch.logit(share[0], eps=1e-6)
    return whole


def _part(seen: Any, number: int) -> Any:
    """Vision features of one image of a batch, in memory of their own."""
    return type(seen)(
        fpn_hidden_states=tuple(level[number : number + 1].clone() for level in seen.fpn_hidden_states),
        fpn_position_encoding=tuple(level[:1].clone() for level in seen.fpn_position_encoding),
    )


def _tokens(folder: Path, text: str, device: str) -> dict[str, Any]:
    kind = part_of_transformers("AutoTokenizer")
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
        # SAM 3 was trained with 32 tokens
        told = tokenizer(text, return_tensors="pt", padding="max_length", max_length=32, truncation=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise WeightsError(f"the tokenizer in {folder} cannot be used: {str(error)[:500]}") from error
    return {name: told[name].to(device) for name in ("input_ids", "attention_mask")}
