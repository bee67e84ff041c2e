"""Masks of one generation against those of another, or against true polygons, in memory bounded by a few chips."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from dataflows._mask_blocks import MaskBlock, mask_blocks
from dataflows.truth import Truth, rasterised
from store.generations import Generation, generations
from utils.errors import ConfigError, UnknownNameError
from utils.geo import reproject
from utils.mask_comparison import SIZE_CLASSES, ComparisonTally, MaskPair, mask_pair, size_class
from utils.refinement import pixel_area_m2
from utils.types import ChipGrid

DIMENSIONS = ("size", "gsd", "kind", "backend")
"""What masks can be grouped by."""
VERDICTS = ("accept", "review", "reject", "not_in_chip")


@dataclass(frozen=True, kw_only=True)
class ComparisonRule:
    """How masks are compared."""

    tolerance_px: float = 2.0
    """Tolerance of the boundary measure, pixels."""
    tolerance_m: float | None = None
    """Likewise in metres; it wins over pixels."""
    by: tuple[str, ...] = ("size", "gsd", "kind")
    """Dimensions masks are grouped by, of :data:`DIMENSIONS`."""
    verdicts: tuple[str, ...] = ()
    """Only masks of these verdicts; empty is all."""

    def __post_init__(self) -> None:
        """Refuse what nothing can be compared by."""
        for name in self.by:
            if name not in DIMENSIONS:
                raise UnknownNameError("group of masks", name, list(DIMENSIONS))
        for verdict in self.verdicts:
            if verdict not in VERDICTS:
                raise UnknownNameError("verdict", verdict, list(VERDICTS))
        tolerance = self.tolerance_px if self.tolerance_m is None else self.tolerance_m
        if not 0 <= tolerance < np.inf:
            raise ConfigError(f"the tolerance of boundaries is {tolerance}; give a number from 0 on")

    def pixels(self, grid: ChipGrid) -> float:
        """The tolerance on a grid, pixels."""
        return self.tolerance_px if self.tolerance_m is None else self.tolerance_m / grid.gsd_m

    @property
    def stated(self) -> str:
        """The tolerance with its unit."""
        return f"{self.tolerance_px:g} px" if self.tolerance_m is None else f"{self.tolerance_m:g} m"


@dataclass(kw_only=True)
class MaskComparison:
    """What a comparison found."""

    store: str
    """Where the masks are."""
    first: str
    """First side: generation and its backends."""
    second: str
    """Second side, likewise, or the file of truth."""
    rule: ComparisonRule
    """How they were compared."""
    overall: ComparisonTally = field(default_factory=ComparisonTally)
    """All masks."""
    groups: dict[str, dict[str, ComparisonTally]] = field(default_factory=dict)
    """Dimension → group → its masks."""
    outdated_first: int = 0
    """Masks of the first side that answer an earlier form of their chip or prompt: they count as missing."""
    outdated_second: int = 0
    """Likewise of the second side."""

    def tallies(self, where: dict[str, str]) -> Iterator[ComparisonTally]:
        """The tallies that a mask with these properties counts in."""
        yield self.overall
        for name in self.rule.by:
            yield self.groups.setdefault(name, {}).setdefault(where[name], ComparisonTally())

    def values(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "store": self.store,
            "first": self.first,
            "second": self.second,
            "boundary_tolerance": self.rule.stated,
            "verdicts": list(self.rule.verdicts),
            "outdated_first": self.outdated_first,
            "outdated_second": self.outdated_second,
            "overall": self.overall.summary(),
            "by": {
                name: {group: tally.summary() for group, tally in _ordered(name, found)}
                for name, found in self.groups.items()
            },
        }


def compare_generations(store: str, first: str, second: str, rule: ComparisonRule) -> MaskComparison:
    """Two generations, mask by mask of the same prompt on the same chip.

    Sizes are those of the second side, where it has a mask.

    Args:
        store: the store.
        first: number of a generation, or a backend: its newest generation.
        second: likewise.
        rule: how they are compared.

    Raises:
        TableNotFoundError: the store has no masks.
        UnknownNameError: there is no such generation or backend.
        ConfigError: both name one generation.
    """
    known = generations(store)
    one, two = _side(known, first), _side(known, second)
    if one.generation == two.generation:
        raise ConfigError(f"{first} and {second} are both generation {one.generation}; name two")
    found = MaskComparison(store=store, first=_title(known, one), second=_title(known, two), rule=rule)
    for block in mask_blocks(store, [one.generation, two.generation], rule.verdicts):
        found.outdated_first += block.outdated[one.generation]
        found.outdated_second += block.outdated[two.generation]
        for key in sorted(block.masks[one.generation].keys() | block.masks[two.generation].keys()):
            _add_pair(found, block, *(block.masks[side.generation].get(key) for side in (one, two)))
    return found


def compare_with_truth(store: str, first: str, truth: str | Path, rule: ComparisonRule) -> MaskComparison:
    """One generation against true polygons: each mask with the objects its prompt touches, on its chip.

    A mask whose prompt touches no true object is only on the first side; a true object on a chip of the store that no
    prompt of the generation touches is only on the second. Truth built after a chip's image does not count on it.
    Sizes are those of the truth on the chip.

    Args:
        store: the store.
        first: number of a generation, or a backend: its newest generation.
        truth: GeoJSON, property ``built`` (ISO day) optional.
        rule: how they are compared.

    Raises:
        TableNotFoundError: the store has no masks or chips.
        UnknownNameError: there is no such generation or backend.
        ConfigError: the truth cannot be read.
    """
    polygons, known = Truth.read(truth), generations(store)
    one = _side(known, first)
    found = MaskComparison(store=store, first=_title(known, one), second=f"truth {truth}", rule=rule)
    for block in mask_blocks(store, [one.generation], rule.verdicts, every_chip=True):
        found.outdated_first += block.outdated[one.generation]
        on: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in block.masks[one.generation].values():
            on[row["uuid"]].append(row)
        for chip in block.chips:
            _add_chip(found, block, chip, on.get(chip["uuid"], []), polygons)
    return found


def _add_pair(found: MaskComparison, block: MaskBlock, one: dict[str, Any] | None, two: dict[str, Any] | None) -> None:
    row = one or two
    assert row is not None  # noqa: S101 - a key comes from one of the sides
    grid = _grid(row, block.shape)
    masks = [None if side is None else _pixels(side, block.shape) for side in (one, two)]
    area = _area_m2(masks[1] if masks[1] is not None and masks[1].any() else masks[0], grid)
    backends = " / ".join("–" if side is None else side["backend"] for side in (one, two))
    where = _where(grid, area, block.prompts.get(row["prompt_id"]), backends)
    pair = None if masks[0] is None or masks[1] is None else _pair(masks[0], masks[1], grid, found.rule)
    for tally in found.tallies(where):
        if pair is not None:
            tally.add(pair)
        else:
            tally.only_first += one is not None
            tally.only_second += two is not None


def _add_chip(
    found: MaskComparison, block: MaskBlock, chip: dict[str, Any], masks: list[dict[str, Any]], truth: Truth
) -> None:
    """The masks of one chip, and its true objects that none of their prompts touches."""
    grid = _grid({"epsg": chip["vhr_epsg"], "transform": chip["vhr_transform"]}, block.shape)
    objects = truth.on(grid, shapely.from_wkb(chip["footprint"]), chip["vhr_acquired_at"].date())
    touched: set[int] = set()
    for row in masks:
        prompt, pixels = block.prompts.get(row["prompt_id"]), _pixels(row, block.shape)
        asked = None if prompt is None else reproject(shapely.from_wkb(prompt["geometry"]), 4326, grid.epsg)
        wanted = [number for number, shape in enumerate(objects) if asked is not None and shape.intersects(asked)]
        touched.update(wanted)
        true = rasterised([objects[number] for number in wanted], grid)
        area = _area_m2(true if wanted else pixels, grid)
        for tally in found.tallies(_where(grid, area, prompt, row["backend"])):
            if wanted:
                tally.add(_pair(pixels, true, grid, found.rule))
            else:
                tally.only_first += 1
    for number, shape in enumerate(objects):
        true = rasterised([shape], grid)
        # an object of which the chip holds no pixel is not on it
        if number not in touched and true.any():
            for tally in found.tallies(_where(grid, _area_m2(true, grid), None, "–")):
                tally.only_second += 1


def _pair(one: NDArray[np.bool_], two: NDArray[np.bool_], grid: ChipGrid, rule: ComparisonRule) -> MaskPair:
    return mask_pair(one, two, pixel_m2=pixel_area_m2(grid), tolerance_px=rule.pixels(grid))


def _where(grid: ChipGrid, area_m2: float, prompt: dict[str, Any] | None, backend: str) -> dict[str, str]:
    return {
        "size": size_class(area_m2),
        "gsd": f"{grid.gsd_m:g} m",
        "kind": "no prompt" if prompt is None else str(prompt["kind"]),
        "backend": backend,
    }


def _grid(row: dict[str, Any], shape: tuple[int, int]) -> ChipGrid:
    return ChipGrid(epsg=row["epsg"], transform=tuple(row["transform"]), height=shape[0], width=shape[1])


def _pixels(row: dict[str, Any], shape: tuple[int, int]) -> NDArray[np.bool_]:
    if row["mask"] is None:
        return np.zeros(shape, np.bool_)
    return np.asarray(np.frombuffer(row["mask"], np.uint8).reshape(shape) > 0)


def _area_m2(mask: NDArray[np.bool_] | None, grid: ChipGrid) -> float:
    return 0.0 if mask is None else float(mask.sum()) * pixel_area_m2(grid)


def _side(known: list[Generation], name: str) -> Generation:
    """The generation of a number, or the newest of a backend."""
    found = [row for row in known if name in (str(row.generation), row.backend)]
    if not found:
        names = dict.fromkeys([*(str(row.generation) for row in known), *(row.backend for row in known)])
        raise UnknownNameError("generation or mask backend", name, list(names))
    return max(found, key=lambda row: row.generation)


def _title(known: list[Generation], side: Generation) -> str:
    backends = dict.fromkeys(row.backend for row in known if row.generation == side.generation)
    return f"generation {side.generation} ({', '.join(backends)})"


def _ordered(dimension: str, found: dict[str, ComparisonTally]) -> list[tuple[str, ComparisonTally]]:
    """Groups of a dimension in their order: sizes by size, others by name."""
    if dimension == "size":
        return [(name, found[name]) for name in SIZE_CLASSES if name in found]
    return sorted(found.items())
