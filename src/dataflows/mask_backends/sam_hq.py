"""HQ-SAM through segment-geospatial: constructed by it, driven directly. Needs the extra ``[sam]``.

Source: Ke et al. (2023), Segment Anything in High Quality, https://arxiv.org/abs/2306.01567.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dataflows.mask_backends._options import PromptedOptions
from dataflows.mask_backends._weights import Published
from dataflows.mask_backends.sam import SamBackend, SamModel, SamOptions
from utils.errors import ConfigError

_SAMGEO = "https://github.com/opengeos/datasets/releases/download/models"
_AUTHORS = "https://huggingface.co/lkeab/hq-sam/resolve/main"


@dataclass(frozen=True, kw_only=True)
class HqOptions(SamOptions):
    """Options of HQ-SAM."""

    hq_token_only: bool = False
    """Take the mask of the high-quality token alone, instead of its sum with SAM's."""

    def __post_init__(self) -> None:
        """Refuse what is no switch."""
        super().__post_init__()
        if not isinstance(self.hq_token_only, bool):
            raise ConfigError(f"mask_options: hq_token_only is true or false; found {self.hq_token_only!r}")


class HqModel(SamModel):
    """An HQ-SAM that answers prompts with one mask each; its embeddings hold an early layer of the encoder too."""

    def _embedding(self, encoded: Any, number: int) -> Any:
        features, early = encoded
        # the decoder reads the first of the early layers only
        return features[number : number + 1].clone(), early[0][number : number + 1].clone()

    def _decoded(self, embedding: Any, **told: Any) -> tuple[Any, Any]:
        features, early = embedding
        options: Any = self._options
        found: tuple[Any, Any] = self._network.mask_decoder(
            image_embeddings=features, interm_embeddings=[early], hq_token_only=options.hq_token_only, **told
        )
        return found


class HqBackend(SamBackend):
    """Masks by HQ-SAM; options are the fields of :class:`HqOptions`, scores and flags those of the base."""

    name = "sam_hq"
    model_class: ClassVar[type[SamModel]] = HqModel
    options_type: ClassVar[type[PromptedOptions]] = HqOptions
    published: ClassVar[Mapping[str, Published]] = {
        "vit_tiny": Published(file="sam_hq_vit_tiny.pth", url=f"{_SAMGEO}/sam_hq_vit_tiny.pth", megabytes=43),
        "vit_b": Published(file="sam_hq_vit_b.pth", url=f"{_SAMGEO}/sam_hq_vit_b.pth", megabytes=379),
        "vit_l": Published(file="sam_hq_vit_l.pth", url=f"{_SAMGEO}/sam_hq_vit_l.pth", megabytes=1250),
        # segment-geospatial splits this one into two archives that only a GPL tool joins
        "vit_h": Published(file="sam_hq_vit_h.pth", url=f"{_AUTHORS}/sam_hq_vit_h.pth", megabytes=2570),
    }
