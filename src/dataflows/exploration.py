"""Automatic masks over a chip, ranked by how much they look like PV: for looking around, never for labels.

A regular grid of point prompts goes to a mask backend, as segment-anything's automatic mask generator does it (Kirillov
et al. 2023, https://arxiv.org/abs/2304.02643); what the model rates low, what is unstable, what fills the chip and what
repeats another mask is dropped. Nothing is written to the store.
"""

from dataclasses import dataclass

import numpy as np
import shapely

from store import lance_io
from store.schemas import profile_of
from store.sql import literals
from utils.errors import ConfigError
from utils.pv_likeness import pv_likeness
from utils.quality import iou
from utils.types import RGB_BANDS, ChipGrid, Mask, MaskBackend, Prompt, RasterChip

NOTICE = "EXPLORATION: automatic masks, unverified. Not labels, not training data."
"""Stands on everything this mode puts out."""

_FILLS_CHIP = 0.9


@dataclass(frozen=True, kw_only=True)
class ExplorationRule:
    """Which automatic masks are shown."""

    points_per_side: int = 16
    """Prompts along each side of the chip."""
    min_predicted_iou: float = 0.88
    """Least estimate of the model; masks of backends without one pass."""
    min_stability: float = 0.95
    """Least ``logit_stability``, else ``stability``; masks of backends without either pass."""
    max_overlap: float = 0.7
    """Of masks whose IoU is above this, the best rated stays."""

    def __post_init__(self) -> None:
        """Refuse what shows nothing or everything."""
        shares = (self.min_predicted_iou, self.min_stability, self.max_overlap)
        if not 1 <= self.points_per_side <= 128 or not all(0 <= share <= 1 for share in shares):
            raise ConfigError(f"points_per_side is 1 to 128, the limits lie in 0 to 1; found {vars(self)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """One automatic mask."""

    mask: Mask
    """On the chip's grid; its prompt is a grid point."""
    signs: dict[str, float]
    """Signs of PV, each 0 to 1, with their mean ``likeness`` (:func:`utils.pv_likeness.pv_likeness`)."""


def regions(chip: RasterChip, backend: MaskBackend, rule: ExplorationRule) -> list[Region]:
    """Automatic masks of ``chip``, most PV-like first.

    Args:
        chip: uint8 red, green, blue.
        backend: any mask backend; one with a promptable model is meant.
        rule: which masks are kept.

    Raises:
        MaskError: the backend cannot draw masks on the chip.
    """
    found = [
        mask for mask in backend.segment(chip, grid_prompts(chip.grid, rule.points_per_side)) if _passes(mask, rule)
    ]
    kept: list[Mask] = []
    for mask in sorted(found, key=_rating, reverse=True):
        if all(iou(mask.data, other.data) <= rule.max_overlap for other in kept):
            kept.append(mask)
    shown = [Region(mask=mask, signs=pv_likeness(chip.data.astype(np.uint8), mask.data, chip.grid)) for mask in kept]
    return sorted(shown, key=lambda region: region.signs["likeness"], reverse=True)


def grid_prompts(grid: ChipGrid, points_per_side: int) -> list[Prompt]:
    """Point prompts in the middle of ``points_per_side``² equal cells of the grid, row by row."""
    share = (np.arange(points_per_side) + 0.5) / points_per_side
    places = [grid.affine @ (x * grid.width, y * grid.height) for y in share for x in share]
    return [
        Prompt(prompt_id=f"grid/{number}", label_id="", kind="point", geometry=shapely.Point(place))
        for number, place in enumerate(places)
    ]


def stored_chip(store: str, uuid: str) -> RasterChip:
    """The VHR chip whose id begins with ``uuid``, from ``training_data``.

    Raises:
        TableNotFoundError: the store has no such table.
        ConfigError: no chip, or more than one, has such an id.
    """
    dataset = lance_io.open_table(store, "training_data")
    known = lance_io.scan(store, "training_data", ["uuid"])["uuid"].to_pylist()
    meant = [name for name in known if name.startswith(uuid)]
    if len(meant) != 1:
        raise ConfigError(f"{len(meant)} of {len(known)} chips have an id that begins with {uuid!r}; give one in full")
    columns = [
        "vhr_image_chip",
        *(f"vhr_{name}" for name in ("epsg", "transform", "source", "scene_ids", "sensor", "acquired_at")),
    ]
    table = dataset.to_table(columns=columns, filter=f"uuid IN ({literals(meant)})")
    profile, row = profile_of(dataset.schema), table.drop_columns(["vhr_image_chip"]).to_pylist()[0]
    pixels = table["vhr_image_chip"].combine_chunks().to_numpy_ndarray()[0]
    grid = ChipGrid(
        epsg=row["vhr_epsg"], transform=tuple(row["vhr_transform"]), height=profile.height, width=profile.width
    )
    return RasterChip(
        data=pixels,
        valid=np.asarray(pixels.any(axis=0)),
        grid=grid,
        bands=RGB_BANDS,
        source=row["vhr_source"],
        scene_ids=tuple(row["vhr_scene_ids"]),
        sensor=row["vhr_sensor"],
        acquired_at=row["vhr_acquired_at"],
    )


def _passes(mask: Mask, rule: ExplorationRule) -> bool:
    scores = mask.scores
    stability = scores.get("logit_stability", scores.get("stability", 1.0))
    return (
        bool(mask.data.any())
        and mask.data.mean() <= _FILLS_CHIP
        and scores.get("predicted_iou", 1.0) >= rule.min_predicted_iou
        and stability >= rule.min_stability
    )


def _rating(mask: Mask) -> float:
    return mask.scores.get("predicted_iou", mask.scores.get("stability", 0.0))
