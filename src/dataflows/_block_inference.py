"""Blocks of a search one after the other: read ahead, put through the model window by window, written behind."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from store.probability_rasters import BlockProbabilities, ProbabilityParts
from store.rasters import limit_cache
from training.scene_models import GSD_TOLERANCE, SceneModel, checked_probabilities
from utils.blending import PlacedWindow, Reach, WindowLattice, blended
from utils.errors import BandError, ImageryError, ModelError, NoImageryError
from utils.failures import Failure
from utils.search_blocks import PROBABILITY_NODATA, SearchBlock
from utils.types import ChipGrid, ImagerySource, RasterChip

NODE = "block_probabilities"
"""Node that failures of a block are booked to."""

RASTER_CACHE_BYTES: Final = 96 << 20
"""What GDAL may keep of rasters while blocks are inferred: tiles that a row of blocks shares with the next.

A block row of 2048 with its halo takes 75 MB of an RGB raster that is 8192 wide; of wider ones they are decoded again.
"""

_AHEAD = 1
"""Blocks read, or written, while the model works on another."""

Item = TypeVar("Item")
Result = TypeVar("Result")
BlockResult = tuple[SearchBlock, BlockProbabilities | Failure]


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockImage:
    """Pixels of all windows of a block."""

    chip: RasterChip
    """The block and its halo; pixels beyond the raster's edge that no imagery covers are mirrored."""
    top_px: int
    """Row of its upper-left pixel, counted from the block's."""
    left_px: int
    """Column of its upper-left pixel, counted from the block's."""
    valid: NDArray[np.bool_]
    """Where the block itself holds imagery, shape (rows, columns) of the block."""


def infer_blocks(
    source: ImagerySource,
    model: SceneModel,
    raster: ChipGrid,
    blocks: Iterable[SearchBlock],
    scene_ids: Sequence[str],
    *,
    window_px: int,
    overlap_px: int,
    batch_size: int,
) -> Iterator[BlockResult]:
    """Probabilities of blocks, in their order; the next block is read while the model works on one.

    Windows lie on a lattice anchored at the raster's upper-left pixel (:mod:`utils.blending`), and every block reads
    and computes all windows that touch it: its result is the same whichever blocks were done before. Windows may reach
    beyond the raster: imagery is read there where there is some, and mirrored at the raster's edge where there is none.
    A window without a valid pixel in the block is not computed. At most two blocks with their halo, of up to
    ``window_px`` on each side, are in memory, whatever the raster's size; GDAL's cache is limited to
    ``RASTER_CACHE_BYTES`` in this process.

    Args:
        source: imagery.
        model: the model.
        raster: the search raster, at the model's ground sample distance.
        blocks: blocks of that raster.
        scene_ids: scenes to read, first on top.
        window_px: rows and columns the model sees at a time.
        overlap_px: pixels that neighbouring windows share, at most half a window.
        batch_size: windows the model takes at a time.

    Returns:
        an iterator of blocks and their probabilities, all nodata where no scene holds data; or the failure, where a
        raster is corrupt or the model's answer no probabilities.

    Raises:
        ConfigError: ``window_px`` and ``overlap_px`` do not fit together.
        NoImageryError: the source has no scene of one of ``scene_ids``.
        BandError: a scene lacks a band the model takes.
        ModelError: the raster's ground sample distance is not the model's, or a trial window gives no probabilities.
    """
    lattice = WindowLattice(window_px=window_px, overlap_px=overlap_px)
    check_model(source, model, raster, scene_ids, window_px=window_px)
    limit_cache(RASTER_CACHE_BYTES)

    def image(block: SearchBlock) -> BlockImage | None:
        return block_image(source, model.bands, raster, block, scene_ids, lattice)

    def results() -> Iterator[BlockResult]:
        with closing(_ahead(image, blocks)) as images:
            for block, read in images:
                try:
                    yield block, block_probabilities(model, block, read.result(), lattice, batch_size)
                except (ImageryError, ModelError) as error:
                    yield block, Failure.of(NODE, error, input_ids=(block.block_id, *scene_ids))

    return results()


def written_blocks(parts: ProbabilityParts, results: Iterable[BlockResult]) -> Iterator[BlockResult]:
    """Results of :func:`infer_blocks`, each once its part is on the disk; one block is written while others go on.

    Raises:
        RasterWriteError: the disk is full, or the folder cannot be written; finished parts stay.
    """

    def stored(result: BlockResult) -> BlockResult:
        block, found = result
        if isinstance(found, BlockProbabilities):
            parts.write(block, found.data, found.scene_ids, found.acquired_at, found.sensor)
        return result

    with closing(_ahead(stored, results)) as written:
        for _, done in written:
            yield done.result()


def check_model(
    source: ImagerySource, model: SceneModel, raster: ChipGrid, scene_ids: Sequence[str], *, window_px: int
) -> None:
    """Refuse a model that does not fit the imagery, before any of it is read; a window of noise is the trial.

    Raises:
        NoImageryError, BandError, ModelError: as :func:`infer_blocks`.
    """
    scenes = {row["scene_id"]: row for row in source.scenes().select(["scene_id", "bands", "kind"]).to_pylist()}
    unknown = [scene_id for scene_id in scene_ids if scene_id not in scenes]
    if unknown or not scene_ids:
        refused = "; ".join(f"{place}: {reason}" for place, reason in list(source.unreadable().items())[:3])
        raise NoImageryError(
            f"no scene {', '.join(unknown) or 'was named'} in the imagery {source.name}"
            + (f"; unreadable there: {refused}" if refused else "")
        )
    for scene_id in scene_ids:
        missing = [band for band in model.bands if band not in scenes[scene_id]["bands"]]
        if missing:
            raise BandError(
                f"scene {scene_id} has bands {', '.join(scenes[scene_id]['bands'])}; the model takes "
                f"{', '.join(model.bands)}, missing: {', '.join(missing)}"
            )
        if scenes[scene_id]["kind"] != model.kind:
            raise ModelError(f"scene {scene_id} is {scenes[scene_id]['kind']} imagery, the model takes {model.kind}")
    if abs(raster.gsd_m - model.gsd_m) > GSD_TOLERANCE * model.gsd_m:
        raise ModelError(
            f"the search raster has {raster.gsd_m:g} m per pixel, the model takes {model.gsd_m:g} m; "
            "search on a raster at the model's ground sample distance, to which imagery is resampled"
        )
    # display values, or reflectance up to 0.4
    high, dtype = (256, np.uint8) if model.kind == "vhr" else (4000, np.uint16)
    shape = (1, len(model.bands), window_px, window_px)
    trial = np.random.default_rng(0).integers(1, high, shape).astype(dtype)
    checked_probabilities(model.probabilities(trial), trial, "the model")


def block_image(
    source: ImagerySource,
    bands: Sequence[str],
    raster: ChipGrid,
    block: SearchBlock,
    scene_ids: Sequence[str],
    lattice: WindowLattice,
) -> BlockImage | None:
    """Pixels of all windows of a block; None where no scene holds data.

    Raises:
        ImageryError: a raster cannot be read or used.
    """
    rows = lattice.reach(block.top_px, block.grid.height, raster.height)
    columns = lattice.reach(block.left_px, block.grid.width, raster.width)
    grid = _part_of(raster, rows, columns)
    try:
        chip = source.read(grid, bands, scene_ids=scene_ids)
    except NoImageryError:
        return None
    above, beside = block.top_px - rows.first, block.left_px - columns.first
    valid = chip.valid[above : above + block.grid.height, beside : beside + block.grid.width]
    _mirror(chip, rows, columns)
    return BlockImage(chip=chip, top_px=-above, left_px=-beside, valid=valid)


def block_probabilities(
    model: SceneModel, block: SearchBlock, image: BlockImage | None, lattice: WindowLattice, batch_size: int
) -> BlockProbabilities:
    """What the model finds on a block.

    Raises:
        ModelError: it gives no probabilities.
    """
    if image is None or not image.valid.any():
        shape = (block.grid.height, block.grid.width)
        return BlockProbabilities(data=np.full(shape, PROBABILITY_NODATA, np.uint8))
    data = blended(_windows(model, block, image, lattice, batch_size), lattice, image.valid)
    chip = image.chip
    return BlockProbabilities(data=data, scene_ids=chip.scene_ids, acquired_at=chip.acquired_at, sensor=chip.sensor)


def _windows(
    model: SceneModel, block: SearchBlock, image: BlockImage, lattice: WindowLattice, batch_size: int
) -> Iterator[PlacedWindow]:
    side, pixels = lattice.window_px, image.chip.data
    places = (
        (top - block.top_px, left - block.left_px)
        for top in lattice.starts(block.top_px, block.grid.height)
        for left in lattice.starts(block.left_px, block.grid.width)
    )
    wanted = (place for place in places if _holds(image.valid, *place, lattice))
    # one batch for all of them: fresh memory from the system costs more than filling it
    room = np.empty((batch_size, len(pixels), side, side), pixels.dtype)
    while batch := list(islice(wanted, batch_size)):
        images = room[: len(batch)]
        for target, (top, left) in zip(images, batch, strict=True):
            row, column = top - image.top_px, left - image.left_px
            target[:] = pixels[:, row : row + side, column : column + side]
        found = checked_probabilities(model.probabilities(images), images, f"the model on block {block.block_id}")
        for (top, left), data in zip(batch, found, strict=True):
            yield PlacedWindow(top=top, left=left, data=data)


def _holds(valid: NDArray[np.bool_], top: int, left: int, lattice: WindowLattice) -> bool:
    """Whether the core of a window holds a valid pixel of the block."""
    begin, beside, core = top + lattice.margin_px, left + lattice.margin_px, lattice.core_px
    return bool(valid[max(begin, 0) : begin + core, max(beside, 0) : beside + core].any())


def _part_of(raster: ChipGrid, rows: Reach, columns: Reach) -> ChipGrid:
    a, b, c, d, e, f = raster.transform
    left, top = columns.first, rows.first
    moved = (a, b, c + a * left + b * top, d, e, f + d * left + e * top)
    return ChipGrid(epsg=raster.epsg, transform=moved, height=rows.count, width=columns.count)


def _mirror(chip: RasterChip, rows: Reach, columns: Reach) -> None:
    """Fill pixels beyond the raster's edge that hold no data with those mirrored at the edge, in place."""
    if not rows.beyond and not columns.beyond:
        return
    held = chip.valid.copy()
    for part in columns.beyond:
        shown = columns.mirrored[part]
        _fill(chip.data[:, :, part], chip.data[:, :, shown], held[:, part])
        held[:, part] |= held[:, shown]
    for part in rows.beyond:
        _fill(chip.data[:, part], chip.data[:, rows.mirrored[part]], held[part])


def _fill(pixels: NDArray[Any], shown: NDArray[Any], held: NDArray[np.bool_]) -> None:
    """Put what is shown where nothing is held, in place."""
    if held.any():
        np.copyto(pixels, shown, where=~held)
    else:
        pixels[:] = shown


def _ahead(
    work: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[tuple[Item, "Future[Result]"], None, None]:
    """Items and their work, done in one thread that is at most ``_AHEAD`` items ahead."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for _, future in waiting:
                future.cancel()
