"""Masks from colours alone: no weights, no GPU, the embedded default.

See :mod:`utils.segmentation` for the method and its settings, which are this backend's options.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import cast

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely import Geometry, affinity

from dataflows.mask_backends._common import check_chip, empty_mask
from utils.errors import UnknownNameError
from utils.prompts import clip_state, pixel_box, to_pixels
from utils.quality import iou, rectangularity
from utils.segmentation import ColourRatio, Regions, colour_ratio, has_context, lab_image, regions
from utils.types import ChipGrid, Mask, Prompt, RasterChip

_PERTURBATIONS = ((1.1, 0.0, 0.0), (0.9, 0.0, 0.0), (1.0, 0.05, 0.05), (1.0, -0.05, -0.05))
"""Scale and shift (shares of the sides) of the boxes that test stability: edges move by 5 % of the side."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Window:
    """The part of a chip that matters to one prompt."""

    lab: NDArray[np.float32]
    valid: NDArray[np.bool_]
    grid: ChipGrid
    rows: slice
    cols: slice


class ClassicalBackend:
    """Colour-ratio masks; options are the fields of :class:`utils.segmentation.ColourRatio`.

    Flags: ``clipped`` (the prompt reaches off the chip), ``point_only`` (no extent was given), ``small`` (under 10
    pixels across), ``no_context`` (nothing else is visible: the mask is the prompt itself, without scores; empty for
    a point), ``empty`` and ``not_in_chip``.

    Scores: ``stability`` (mean IoU with the masks of four boxes moved by 5 % of the side), ``box_agreement`` (IoU with
    the visible prompt; absent for points) and ``rectangularity`` (absent for polygons, whose shape is given).
    """

    name = "classical"

    def __init__(self, **options: object) -> None:
        """Take settings by name.

        Raises:
            UnknownNameError: an option is no setting of the method.
            ConfigError: a setting is out of range.
        """
        known = [setting.name for setting in fields(ColourRatio)]
        for option in options:
            if option not in known:
                raise UnknownNameError("option of the classical mask backend", option, known)
        self.settings = ColourRatio(**cast("dict[str, float]", options))  # type: ignore[arg-type]

    def segment(self, chip: RasterChip, prompts: Sequence[Prompt]) -> list[Mask]:
        """One mask per prompt, in order, on the chip's grid (see :class:`utils.types.MaskBackend`).

        Raises:
            BandError: the chip has other than three bands.
            MaskError: the chip is not uint8.
            CRSError: the chip's CRS does not measure the ground in metres.
        """
        check_chip(chip)
        if not prompts:
            return []
        lab = lab_image(cast("NDArray[np.uint8]", chip.data), self.settings.median_px)
        return [self._mask(chip, lab, prompt) for prompt in prompts]

    def _mask(self, chip: RasterChip, lab: NDArray[np.float32], prompt: Prompt) -> Mask:
        state = clip_state(prompt, chip.grid)
        if state == "not_in_chip":
            return empty_mask(chip, prompt, "not_in_chip")
        flags = self._flags(prompt, chip.grid, clipped=state == "clipped")
        geometry = self._extent(prompt)
        window = self._window(chip, lab, geometry)
        region = regions(geometry, prompt.kind, window.valid, window.grid, self.settings)
        if prompt.kind != "point" and not region.core.any():
            # its middle is off the chip or nodata: what is visible of it has to show its colour
            region = replace(region, core=region.box)
        if not region.core.any():
            return empty_mask(chip, prompt, *flags, "empty")
        scores: dict[str, float] = {}
        if has_context(region, self.settings):
            found = colour_ratio(window.lab, region, window.grid, self.settings)
            if not found.any():
                return empty_mask(chip, prompt, *flags, "empty")
            scores = self._scores(found, region, window, geometry, prompt)
        elif prompt.kind == "point":
            return empty_mask(chip, prompt, *flags, "no_context", "empty")
        else:
            found, flags = region.box, (*flags, "no_context")
        data = np.zeros(chip.valid.shape, dtype=np.bool_)
        data[window.rows, window.cols] = found
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

    def _window(self, chip: RasterChip, lab: NDArray[np.float32], geometry: Geometry) -> _Window:
        """The chip around ``geometry``, wide enough for the surroundings of a perturbed box."""
        west, south, east, north = geometry.bounds
        side = max(east - west, north - south)
        reach = max(self.settings.context_share * side, self.settings.min_context_m) + 0.2 * side
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
        return _Window(lab=lab[rows, cols], valid=chip.valid[rows, cols], grid=grid, rows=rows, cols=cols)

    def _scores(
        self, found: NDArray[np.bool_], region: Regions, window: _Window, geometry: Geometry, prompt: Prompt
    ) -> dict[str, float]:
        again = [self._perturbed(window, geometry, prompt, *change) for change in _PERTURBATIONS]
        scores = {"stability": float(np.mean([iou(found, other) for other in again]))}
        if prompt.kind != "polygon":
            scores["rectangularity"] = rectangularity(found)
        if prompt.kind != "point":
            scores["box_agreement"] = iou(found, region.box)
        return scores

    def _perturbed(
        self, window: _Window, geometry: Geometry, prompt: Prompt, scale: float, right: float, up: float
    ) -> NDArray[np.bool_]:
        west, south, east, north = geometry.bounds
        moved = affinity.translate(affinity.scale(geometry, scale, scale), right * (east - west), up * (north - south))
        region = regions(moved, prompt.kind, window.valid, window.grid, self.settings)
        if not region.core.any() or not has_context(region, self.settings):
            return region.box
        return colour_ratio(window.lab, region, window.grid, self.settings)
