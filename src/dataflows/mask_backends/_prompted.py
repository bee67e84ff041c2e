"""What every promptable model needs around it: prompts in pixels, batches, memory that runs out, scores, masks."""

import hashlib
from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from dataflows.mask_backends._answers import Answer, Decoded, best, perturbed
from dataflows.mask_backends._batches import Batches
from dataflows.mask_backends._common import PERTURBATIONS, displayed, empty_mask
from dataflows.mask_backends._options import PromptedOptions, parsed
from utils.errors import AegirError, DeviceMemoryError
from utils.pixel_prompts import PixelPrompt, pixel_prompt
from utils.prompts import clip_state, pixel_box
from utils.quality import agreement, iou, rectangularity
from utils.tiles import Tile, shared_tiles
from utils.types import ChipGrid, Mask, Prompt, RasterChip

Bools = NDArray[np.bool_]

SMALL_PX = 10.0
"""A box whose shortest side is below this many pixels is flagged small."""


class PromptedModel(Protocol):
    """A loaded model that answers prompts on images."""

    device: str
    """Where it runs: ``cpu``, ``cuda``, ``cuda:1``."""

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Any]:
        """One embedding per image, shape (rows, columns, 3) each, red, green, blue; sizes may differ."""
        ...

    def decode(self, embedding: Any, size: tuple[int, int], prompts: Sequence[PixelPrompt]) -> Decoded:
        """Answers to prompts of one :attr:`~utils.pixel_prompts.PixelPrompt.signature`, none of them off the image.

        Args:
            embedding: from :meth:`encode`.
            size: ``(rows, columns)`` of the encoded image.
            prompts: at least one.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """One prompt on the image it is answered on."""

    chip: int
    prompt: int
    pixels: PixelPrompt
    window: tuple[slice, slice]
    """Its own chip in the image."""


class PromptedBackend(ABC):
    """A mask backend over a promptable model; a backend adds its options, its files and how its model is loaded.

    Scores: ``predicted_iou`` (the model's, cut to 0–1), ``logit_stability`` (IoU of the mask at thresholds one logit up
    and down), ``stability`` (mean IoU with the masks of four prompts moved by 5 % of the side), ``box_agreement`` (IoU
    with the visible box) and ``rectangularity``; the last two are absent for points and polygons respectively.

    Flags: ``clipped``, ``point_only``, ``small`` (under 10 pixels across), ``empty`` and ``not_in_chip``.
    """

    name: ClassVar[str]
    options_type: ClassVar[type[PromptedOptions]] = PromptedOptions

    def __init__(self, **options: object) -> None:
        """Take options by name and look for the files; nothing is loaded yet.

        Raises:
            UnknownNameError: there is no such option.
            ConfigError: an option is refused, or a file of weights is missing.
        """
        self.options = parsed(self.options_type, options, self.name)
        self.weights_files(**options)
        self._model: PromptedModel | None = None
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._images = Batches(f"{self.name}: images", self.options.encode_batch)
        self._prompts = Batches(f"{self.name}: prompts", self.options.prompts_per_call)

    @classmethod
    @abstractmethod
    def weights_files(cls, **options: object) -> Mapping[str, str]:
        """Name → local file of weights; see :class:`utils.types.WeightedBackend`."""

    @abstractmethod
    def _load(self) -> PromptedModel: ...

    def __getstate__(self) -> dict[str, Any]:
        """Weights do not travel between processes; each loads its own."""
        return self.__dict__ | {"_model": None, "_kept": OrderedDict()}

    def load(self) -> PromptedModel:
        """The model, loaded on first use.

        Raises:
            AegirError: the weights cannot be read, or are of another model.
        """
        if self._model is None:
            if self.options.threads is not None:
                import torch  # noqa: PLC0415 - heavy

                torch.set_num_threads(self.options.threads)
            self._model = self._load()
        return self._model

    def unload(self) -> None:
        """Let go of the model; the next use loads it again."""
        self._model = None
        self._kept.clear()

    def segment(self, chip: RasterChip, prompts: Sequence[Prompt]) -> list[Mask]:
        """One mask per prompt, in order, on the chip's grid (see :class:`utils.types.MaskBackend`).

        Raises:
            BandError: the chip has other than three bands.
            MaskError: the chip is not uint8 and no stretch is set; or one prompt alone does not fit into memory.
            CRSError: the chip's CRS does not measure the ground in metres.
        """
        (found,) = self.segment_many([chip], [prompts])
        if isinstance(found, AegirError):
            raise found
        return found

    def segment_many(
        self, chips: Sequence[RasterChip], prompts: Sequence[Sequence[Prompt]]
    ) -> list[list[Mask] | AegirError]:
        """Per chip its masks, or the error that :meth:`segment` raises; images are encoded in batches.

        Raises:
            AegirError: the model cannot be loaded.
        """
        shown: dict[int, RasterChip] = {}
        found: dict[int, list[Mask] | AegirError] = {}
        for number, chip in enumerate(chips):
            try:
                shown[number] = displayed(chip, self.options.stretch)
                found[number] = [_unanswered(shown[number], prompt) for prompt in prompts[number]]
            except AegirError as error:
                found[number] = error
        asking = [number for number, chip in shown.items() if prompts[number] and chip.valid.any()]
        tiles = shared_tiles([shown[number] for number in asking], self.options.tile_px)
        images = [(tile.chip, self._asked(tile, asking, shown, prompts)) for tile in tiles]
        for image, asked in self._encoded([(image, asked) for image, asked in images if asked], found):
            self._answer(image, asked, shown, prompts, found)
        return [found[number] for number in range(len(chips))]

    def _asked(
        self, tile: Tile, asking: list[int], shown: Mapping[int, RasterChip], prompts: Sequence[Sequence[Prompt]]
    ) -> list[_Asked]:
        asked = []
        for member, window in zip(tile.members, tile.windows, strict=True):
            chip = asking[member]
            for number, prompt in enumerate(prompts[chip]):
                if clip_state(prompt, shown[chip].grid) == "not_in_chip":
                    continue
                pixels = pixel_prompt(prompt, tile.chip.grid, interior_points=self.options.interior_points)
                if pixels.box is not None or pixels.point_labels.any():
                    asked.append(_Asked(chip=chip, prompt=number, pixels=pixels, window=window))
        return asked

    def _encoded(
        self, images: list[tuple[RasterChip, list[_Asked]]], found: dict[int, list[Mask] | AegirError]
    ) -> Iterator[tuple[tuple[Any, Any], list[_Asked]]]:
        """``(embedding, (rows, columns))`` and prompts of each image; as many are in memory as are encoded together.

        An image that no memory is left for is an error of its chips.
        """
        for start in range(0, len(images), self.options.encode_batch):
            batch = images[start : start + self.options.encode_batch]
            pixels = [np.array(np.moveaxis(chip.data, 0, -1), order="C") for chip, _ in batch]
            try:
                embeddings = self._embeddings(pixels)
            except DeviceMemoryError as error:
                if len(batch) > 1:
                    for one in batch:
                        yield from self._encoded([one], found)
                else:
                    found.update({one.chip: error for one in batch[0][1]})
                continue
            for array, embedding, (_, asked) in zip(pixels, embeddings, batch, strict=True):
                yield (embedding, array.shape[:2]), asked

    def _embeddings(self, images: list[NDArray[Any]]) -> list[Any]:
        model = self.load()
        keys = [f"{image.shape}{hashlib.blake2b(image.tobytes()).hexdigest()}" for image in images]
        known = {key: self._kept[key] for key in keys if key in self._kept}
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in known}
        known |= dict(zip(new, self._images.run(list(new.values()), model.encode, model.device), strict=True))
        for key in keys:
            self._kept[key] = known[key]
            self._kept.move_to_end(key)
        while len(self._kept) > self.options.cached_embeddings:
            self._kept.popitem(last=False)
        return [known[key] for key in keys]

    def _answer(
        self,
        image: tuple[Any, tuple[int, int]],
        asked: list[_Asked],
        shown: Mapping[int, RasterChip],
        prompts: Sequence[Sequence[Prompt]],
        found: dict[int, list[Mask] | AegirError],
    ) -> None:
        embedding, size = image
        each = len(PERTURBATIONS) if self.options.prompt_stability else 0
        # a slice at a time bounds the masks in memory; prompts of one signature come together
        ordered = sorted(asked, key=lambda one: one.pixels.signature)
        for start in range(0, len(ordered), self.options.prompts_per_call):
            some = ordered[start : start + self.options.prompts_per_call]
            variants = [one.pixels for one in some]
            variants += [moved for one in some for moved in perturbed(one.pixels, size)][: each * len(some)]
            try:
                answers = self._answers(embedding, size, variants)
            except AegirError as error:
                found.update({one.chip: error for one in some})
                continue
            for number, one in enumerate(some):
                moved = answers[len(some) + number * each : len(some) + (number + 1) * each]
                chip, prompt, masks = shown[one.chip], prompts[one.chip][one.prompt], found[one.chip]
                if not isinstance(masks, AegirError):
                    masks[one.prompt] = _mask(chip, prompt, answers[number], moved, one.window)

    def _answers(self, embedding: Any, size: tuple[int, int], prompts: list[PixelPrompt]) -> list[Answer]:
        """The best answer to each prompt, in order; prompts of one signature go to the model together."""
        model = self.load()
        groups: dict[tuple[int, bool, bool], list[int]] = defaultdict(list)
        for number, prompt in enumerate(prompts):
            groups[prompt.signature].append(number)
        answers: dict[int, Answer] = {}
        for numbers in groups.values():
            chosen = [prompts[number] for number in numbers]
            made = self._prompts.run(chosen, lambda some: best(model.decode(embedding, size, some)), model.device)
            answers |= dict(zip(numbers, made, strict=True))
        return [answers[number] for number in range(len(prompts))]


def _unanswered(chip: RasterChip, prompt: Prompt) -> Mask:
    """The mask of a prompt no model is asked about."""
    if clip_state(prompt, chip.grid) == "not_in_chip":
        return empty_mask(chip, prompt, "not_in_chip")
    return empty_mask(chip, prompt, *_flags(prompt, chip.grid), "empty")


def _flags(prompt: Prompt, grid: ChipGrid) -> tuple[str, ...]:
    col0, row0, col1, row1 = pixel_box(prompt, grid)
    present = {
        "clipped": clip_state(prompt, grid) == "clipped",
        "point_only": prompt.kind == "point",
        "small": prompt.kind != "point" and min(col1 - col0, row1 - row0) < SMALL_PX,
    }
    return tuple(flag for flag, on in present.items() if on)


def _mask(
    chip: RasterChip, prompt: Prompt, answer: Answer, moved: Sequence[Answer], window: tuple[slice, slice]
) -> Mask:
    data = answer.data[window] & chip.valid
    flags = _flags(prompt, chip.grid)
    if not data.any():
        return empty_mask(chip, prompt, *flags, "empty")
    scores = {"predicted_iou": answer.predicted_iou, "logit_stability": answer.logit_stability}
    if moved:
        scores["stability"] = agreement(data, [other.data[window] & chip.valid for other in moved])
    if prompt.kind != "polygon":
        scores["rectangularity"] = rectangularity(data)
    if prompt.kind != "point":
        scores["box_agreement"] = iou(data, _visible(prompt, chip))
    return Mask(data=data, grid=chip.grid, prompt_id=prompt.prompt_id, scores=scores, flags=flags)


def _visible(prompt: Prompt, chip: RasterChip) -> Bools:
    """Valid pixels whose centres lie in the prompt's box."""
    col0, row0, col1, row1 = pixel_box(prompt, chip.grid)
    cols, rows = np.arange(chip.grid.width) + 0.5, np.arange(chip.grid.height) + 0.5
    inside = ((rows >= row0) & (rows <= row1))[:, None] & ((cols >= col0) & (cols <= col1))
    return np.asarray(inside & chip.valid)
