"""What every promptable model needs around it: prompts in pixels, batches, memory that runs out, scores, masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from utils.pixel_prompts import PixelPrompt


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """What a model answers to n prompts with k candidate masks each."""

    logits: Any
    """torch.Tensor float32 on the model's device, shape (n, k, rows, columns) of the image: above 0 is inside."""
    predicted_iou: Any
    """torch.Tensor float32, shape (n, k): the model's own estimate, which may leave 0 to 1."""


class PromptedModel(Protocol):
    """A loaded model that answers prompts on images."""

    device: str
    """Where it runs: ``cpu``, ``cuda``, ``cuda:1``."""

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Any]:
        """One embedding per image, shape (rows, columns, 3) each, red, green, blue; sizes may differ."""
        ...

    def decode(self, embedding: Any, size: tuple[int, int], prompts: Sequence[PixelPrompt]) -> Decoded:
        """Answers to prompts of one :attr:`~utils.pixel_prompts.PixelPrompt.signature`, none of them off the chip.

        Args:
            embedding: from :meth:`encode`.
            size: ``(rows, columns)`` of the encoded image.
            prompts: at least one.
        """
        ...
