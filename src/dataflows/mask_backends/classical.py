"""Masks without weights, from what a prompt's shape makes likely and what colours say: the embedded default.

See :mod:`utils.segmentation` for the method; the options are the fields of
:class:`ClassicalOptions`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import cast

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely import Geometry

from dataflows.mask_backends._common import displayed, empty_mask
from dataflows.mask_backends._options import checked_stretch
from utils.errors import UnknownNameError
from utils.object_priors import Hint
from utils.pixel_prompts import on_grid
from utils.prompts import clip_state, perturbed, pixel_box, to_pixels
from utils.quality import agreement, iou, rectangularity
from utils.segmentation import Outline, colour_features, outlined
from utils.segmentation_settings import ClassicalSettings, Window
from utils.types import ChipGrid, Mask, Prompt, RasterChip


@dataclass(frozen=True, kw_only=True)
class ClassicalOptions(ClassicalSettings):
    """Options of the backend: the settings of the method, and how chips are shown."""

    stretch: tuple[float, float] | None = None
    """Values of the chip shown as black and white; None for uint8 chips, taken as they are."""

    def __post_init__(self) -> None:
        """Refuse settings out of range.

        Raises:
            ConfigError: with what was found.
        """
        object.__setattr__(self, "stretch", checked_stretch(self.stretch))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True, eq=False)
class _View:
    """A window and its place in the chip."""

    window: Window
    rows: slice
    cols: slice


class ClassicalBackend:
    """Shape and colour; options are the fields of :class:`ClassicalOptions`.

    Flags: ``clipped`` (the prompt reaches off the chip), ``point_only`` (no extent was given), ``small`` (under 10
    pixels across), ``no_context`` (nothing tells the object from what surrounds it: the mask is the prompt without far
    brighter or warmer parts, without scores; empty for a point), ``empty`` and ``not_in_chip``.

    Scores: ``stability`` (mean IoU with the masks of four boxes moved by 5 % of the side), ``box_agreement`` (IoU with
    the visible prompt; absent for points), ``rectangularity`` (absent for polygons, whose shape is given) and
    ``contrast`` (how well colours tell the object from what surrounds it).
    """

    name = "classical"

    def __init__(self, **options: object) -> None:
        """Take settings by name.

        Raises:
            UnknownNameError: an option is no setting of the method.
            ConfigError: a setting is out of range.
        """
        known = [setting.name for setting in fields(ClassicalOptions)]
        for option in options:
            if option not in known:
                raise UnknownNameError("option of the classical mask backend", option, known)
        self.settings = ClassicalOptions(**cast("dict[str, float]", options))  # type: ignore[arg-type]

    def segment(self, chip: RasterChip, prompts: Sequence[Prompt]) -> list[Mask]:
        """One mask per prompt, in order, on the chip's grid (see :class:`utils.types.MaskBackend`).

        Raises:
            BandError: the chip has other than three bands.
            MaskError: the chip is not uint8 and no stretch is set.
            CRSError: the chip's CRS does not measure the ground in metres.
        """
        shown = displayed(chip, self.settings.stretch)
        if not prompts:
            return []
        colours = colour_features(cast("NDArray[np.uint8]", shown.data), shown.valid, shown.grid, self.settings)
        return [self._mask(shown, colours, prompt) for prompt in prompts]

    def _mask(self, chip: RasterChip, colours: NDArray[np.float32], prompt: Prompt) -> Mask:
        state = clip_state(prompt, chip.grid)
        if state == "not_in_chip":
            return empty_mask(chip, prompt, "not_in_chip")
        flags = self._flags(prompt, chip.grid, clipped=state == "clipped")
        geometry = self._extent(prompt)
        view = self._view(chip, colours, geometry)
        meant = replace(prompt, geometry=geometry)
        outline = self._outline(view.window, meant)
        unseen = outline.contrast is None
        if unseen:
            flags = (*flags, "no_context")
        if not outline.mask.any() or (unseen and prompt.kind == "point"):
            return empty_mask(chip, prompt, *flags, "empty")
        data = np.zeros(chip.valid.shape, dtype=np.bool_)
        data[view.rows, view.cols] = outline.mask
        scores = {} if unseen else self._scores(outline, view.window, meant)
        return Mask(data=data, grid=chip.grid, prompt_id=prompt.prompt_id, scores=scores, flags=flags)

    def _extent(self, prompt: Prompt) -> Geometry:
        """The ground the prompt speaks of: a bare point gets its search box, a box prompt is its envelope."""
        if prompt.kind == "polygon":
            return prompt.geometry
        west, south, east, north = prompt.bounds
        half = self.settings.point_box_m / 2 if prompt.kind == "point" and west == east and south == north else 0.0
        return shapely.box(west - half, south - half, east + half, north + half)

    def _flags(self, prompt: Prompt, grid: ChipGrid, *, clipped: bool) -> tuple[str, ...]:
        col0, row0, col1, row1 = pixel_box(prompt, grid)
        small = prompt.kind != "point" and min(col1 - col0, row1 - row0) < self.settings.small_px
        present = {"clipped": clipped, "point_only": prompt.kind == "point", "small": small}
        return tuple(flag for flag, on in present.items() if on)

    def _view(self, chip: RasterChip, colours: NDArray[np.float32], geometry: Geometry) -> _View:
        """The chip around ``geometry``, wide enough for the surroundings of a perturbed box."""
        west, south, east, north = geometry.bounds
        side = max(east - west, north - south)
        reach = max(self.settings.context_share * side, self.settings.min_context_m)
        around = shapely.box(west - reach, south - reach, east + reach, north + reach)
        col0, row0, col1, row1 = to_pixels(around, chip.grid).bounds
        cols = slice(max(0, int(np.floor(col0))), min(chip.grid.width, int(np.ceil(col1))))
        rows = slice(max(0, int(np.floor(row0))), min(chip.grid.height, int(np.ceil(row1))))
        moved = chip.grid.affine @ Affine.translation(cols.start, rows.start)
        grid = ChipGrid(
            epsg=chip.grid.epsg,
            transform=(moved.a, moved.b, moved.c, moved.d, moved.e, moved.f),
            height=rows.stop - rows.start,
            width=cols.stop - cols.start,
        )
        window = Window(colours=colours[rows, cols], valid=chip.valid[rows, cols], grid=grid)
        return _View(window=window, rows=rows, cols=cols)

    def _outline(self, window: Window, prompt: Prompt) -> Outline:
        previous = None if prompt.previous is None else on_grid(prompt.previous, window.grid)
        hint = Hint(
            geometry=prompt.geometry,
            kind=prompt.kind,
            positive=prompt.positive,
            negative=prompt.negative,
            previous=previous,
        )
        return outlined(window, hint, self.settings)

    def _scores(self, outline: Outline, window: Window, prompt: Prompt) -> dict[str, float]:
        again = [self._outline(window, moved).mask for moved in perturbed(prompt)]
        scores = {"stability": agreement(outline.mask, again)}
        if outline.contrast is not None:
            scores["contrast"] = outline.contrast
        if prompt.kind != "polygon":
            scores["rectangularity"] = rectangularity(outline.mask)
        if prompt.kind != "point":
            scores["box_agreement"] = iou(outline.mask, outline.prompt)
        return scores
