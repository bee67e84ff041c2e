"""SAM, SAM 2 and SAM 3 of transformers, from a local folder or the hub; SAM 3 also answers words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dataflows.mask_backends._hf_files import PATTERNS, model_files, model_settings
from dataflows.mask_backends._hf_networks import PointBoxModel
from dataflows.mask_backends._hf_text import TextModel
from dataflows.mask_backends._hub import hub_folder
from dataflows.mask_backends._options import PromptedOptions, parsed
from dataflows.mask_backends._prompted import PromptedBackend, PromptedModel
from utils.errors import AegirError, ConfigError, WeightsError
from utils.types import Mask, Prompt, RasterChip

_TRACKER_IN_VIDEO = {r"^tracker_model\.(.+)": r"\1"}
_CLASSES: dict[str, tuple[str, dict[str, str]]] = {
    "sam": ("SamModel", {}),
    "sam2": ("Sam2Model", {}),
    "sam2_video": ("Sam2Model", {}),
    "sam3_tracker": ("Sam3TrackerModel", {}),
    "sam3_tracker_video": ("Sam3TrackerModel", {}),
    "sam3_video": ("Sam3TrackerModel", _TRACKER_IN_VIDEO),
}
"""``model_type`` → class that answers points, boxes and masks, and renamed tensors."""
_TEXT_TYPES = ("sam3", "sam3_video")


@dataclass(frozen=True, kw_only=True)
class SamHfOptions(PromptedOptions):
    """Options of the backend ``sam_hf``."""

    model_id: str | None = None
    """A folder that ``save_pretrained`` wrote, or an id on the hub (``facebook/sam2.1-hiera-tiny``)."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    text: str | None = None
    """What SAM 3 looks for, a short noun phrase such as ``solar panel``; prompts then say which finds are meant."""
    exemplars: bool = False
    """With ``text``: show SAM 3 each prompt's box beside the words; one run per prompt instead of one per image."""
    least_score: float = 0.3
    """With ``text``: finds below this score are dropped (the default of transformers' processor)."""
    least_box_iou: float = 0.1
    """With ``text``: a find's box agrees at least so much with the box of the prompt that means it."""

    def __post_init__(self) -> None:
        """Refuse values no model could run with."""
        super().__post_init__()
        problems = [
            f"{name} is a number from 0 to 1; got {value!r}"
            for name, value in (("least_score", self.least_score), ("least_box_iou", self.least_box_iou))
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1
        ]
        if not self.model_id or not isinstance(self.model_id, str):
            problems.append("model_id is the folder of a model, or its id on the hub")
        if self.text is not None and (not isinstance(self.text, str) or not self.text.strip()):
            problems.append(f"text is a noun phrase; got {self.text!r}")
        if self.revision is not None and (not isinstance(self.revision, str) or not self.revision):
            problems.append(f"revision is a branch, tag or commit; got {self.revision!r}")
        if not isinstance(self.exemplars, bool):
            problems.append(f"exemplars is true or false; got {self.exemplars!r}")
        if self.exemplars and self.text is None:
            problems.append("exemplars go with text")
        if problems:
            raise ConfigError(f"mask_options: {'; '.join(problems)}")


class SamHfBackend(PromptedBackend):
    """Masks from models of transformers; options are the fields of :class:`SamHfOptions`.

    With ``text`` the score ``predicted_iou`` is the find's score, and a prompt that means no find gets an empty mask
    with the flag ``no_instance`` beside ``empty``.
    """

    name = "sam_hf"
    options_type = SamHfOptions
    options: SamHfOptions

    @classmethod
    def weights_files(cls, **options: object) -> Mapping[str, str]:
        """Name → path of every file the model is read from; downloaded where ``download`` asks for it.

        Raises:
            UnknownNameError: there is no such option.
            ConfigError: an option is refused.
            WeightsNotFoundError: the folder or a file in it is missing.
            WeightsError: a file is corrupt, or the model is none that answers such prompts.
            ExtraMissingError: ``huggingface_hub`` or ``safetensors`` is not installed.
        """
        chosen = parsed(SamHfOptions, options, cls.name)
        folder = _folder(chosen)
        _class_of(folder, chosen)
        return model_files(folder, with_text=chosen.text is not None)

    def _load(self) -> PromptedModel:
        files = self.weights_files(**vars(self.options))
        folder = Path(files["config.json"]).parent
        if self.options.text is not None:
            limits = (self.options.least_score, self.options.least_box_iou)
            return TextModel(
                folder, self.options, text=self.options.text, limits=limits, exemplars=self.options.exemplars
            )
        class_name, names = _class_of(folder, self.options)
        return PointBoxModel(folder, class_name, self.options, names)

    def segment_many(
        self, chips: Sequence[RasterChip], prompts: Sequence[Sequence[Prompt]]
    ) -> list[list[Mask] | AegirError]:
        """Per chip its masks, or the error that :meth:`segment` raises (see :class:`PromptedBackend`)."""
        found = super().segment_many(chips, prompts)
        if self.options.text is None:
            return found
        return [
            [_said(mask) for mask in masks] if not isinstance(masks, AegirError) and chip.valid.any() else masks
            for chip, masks in zip(chips, found, strict=True)
        ]


def _said(mask: Mask) -> Mask:
    return replace(mask, flags=(*mask.flags, "no_instance")) if "empty" in mask.flags else mask


def _folder(options: SamHfOptions) -> Path:
    """The model's folder: a path, or the snapshot in the cache of the hub."""
    told = str(options.model_id)
    local = Path(told).expanduser()
    looks_local = local.is_absolute() or told.startswith((".", "~")) or told.count("/") > 1
    if local.exists() or looks_local:
        return local
    return hub_folder(told, PATTERNS, backend=SamHfBackend.name, revision=options.revision, download=options.download)


def _class_of(folder: Path, options: SamHfOptions) -> tuple[str, dict[str, str]]:
    """The class that answers such prompts, and its renamed tensors.

    Raises:
        WeightsError: the model is of another kind.
    """
    if not folder.is_dir():
        return "", {}
    kind = model_settings(folder)["model_type"]
    if options.text is not None:
        if kind not in _TEXT_TYPES:
            raise WeightsError(f"{folder} holds a model of type {kind!r}; only {', '.join(_TEXT_TYPES)} answer `text`")
        return "Sam3Model", {}
    if kind in _CLASSES:
        return _CLASSES[kind]
    if kind in _TEXT_TYPES:
        raise WeightsError(f"{folder} holds the detector of SAM 3 alone, which answers words: give the option `text`")
    raise WeightsError(
        f"{folder} holds a model of type {kind!r}; the mask backend 'sam_hf' takes {', '.join(sorted(_CLASSES))}"
        f" and, with `text`, {' or '.join(_TEXT_TYPES)}"
    )
