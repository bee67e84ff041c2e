"""Probabilities of a whole region: a model, its windows, and one part per finished block."""

from collections.abc import Sequence
from typing import Any

from hamilton.function_modifiers import dataloader, datasaver, tag

from dataflows._block_inference import check_model, infer_blocks, written_blocks
from store.probability_rasters import ProbabilityParts
from training.scene_models import ModelPixels, SceneModel, pixels_of_model, scene_model
from utils.blending import WindowLattice
from utils.failures import Failure
from utils.search_blocks import SearchBlock
from utils.types import ChipGrid, ImagerySource

__all__ = ["check_model", "infer_blocks", "written_blocks"]


@tag(stage="inference")
@dataloader()
def model_pixels(model: str, model_options: dict[str, Any]) -> tuple[ModelPixels, dict[str, Any]]:
    """Pixels the model takes, known before it is loaded.

    Raises:
        ConfigError: it is no checkpoint of ours, or an option cannot be used.
        WeightsNotFoundError: there is no such checkpoint.
    """
    found = pixels_of_model(model, model_options)
    return found, {"model": model, "bands": list(found.bands)}


@tag(stage="inference")
@dataloader()
def segmentation_model(
    model: str, model_options: dict[str, Any], device: str, amp: bool, tta: bool
) -> tuple[SceneModel, dict[str, Any]]:
    """The model that is applied, ready on its device.

    Raises:
        ConfigError: the model or an option cannot be used.
        WeightsError: there are no weights, or they are of something else.
    """
    found = scene_model(model, model_options, device=device, amp=amp, tta=tta)
    return found, {"model": model, "model_id": found.model_id}


@tag(stage="inference")
def window_lattice(model_pixels: ModelPixels, window_px: int | None, overlap_px: int) -> WindowLattice:
    """Where windows lie on the search raster; as large as those the model was trained on, unless told otherwise.

    Raises:
        ConfigError: the overlap is more than half a window.
    """
    return WindowLattice(window_px=window_px or model_pixels.window_px, overlap_px=overlap_px)


@tag(stage="inference")
def probability_parts(
    search_folder: str, search_raster: ChipGrid, block_px: int, search_id: str, segmentation_model: SceneModel
) -> ProbabilityParts:
    """Where finished blocks are, and which are done."""
    tags = {"search_id": search_id, "model_id": segmentation_model.model_id}
    return ProbabilityParts(search_folder, search_raster, block_px, tags=tags)


@tag(stage="inference")
def pending_blocks(searched_blocks: Sequence[SearchBlock], probability_parts: ProbabilityParts) -> list[SearchBlock]:
    """Blocks of the search that no finished part holds."""
    done = probability_parts.done()
    return [block for block in searched_blocks if block.block_id not in done]


@tag(stage="inference")
@datasaver()
def block_write(
    search_imagery: ImagerySource,
    segmentation_model: SceneModel,
    window_lattice: WindowLattice,
    search_raster: ChipGrid,
    pending_blocks: list[SearchBlock],
    search_scenes: list[str],
    batch_size: int,
    probability_parts: ProbabilityParts,
) -> dict:  # type: ignore[type-arg]  # Hamilton accepts no other annotation
    """Infer the pending blocks and write one part each; what failed stays pending and is listed.

    Raises:
        RasterWriteError: the disk is full, or the folder cannot be written; finished parts stay.
        ModelError, BandError, NoImageryError: the model does not fit the imagery.
    """
    results = infer_blocks(
        search_imagery,
        segmentation_model,
        search_raster,
        pending_blocks,
        search_scenes,
        window_px=window_lattice.window_px,
        overlap_px=window_lattice.overlap_px,
        batch_size=batch_size,
    )
    found = list(_without_pixels(written_blocks(probability_parts, results)))
    failures = [failure for failure in found if failure is not None]
    return {"blocks": len(found) - len(failures), "failures": failures}


@tag(stage="inference")
@datasaver()
def probability_raster(block_write: dict[str, Any], probability_parts: ProbabilityParts, raster_path: str) -> dict:  # type: ignore[type-arg]  # Hamilton accepts no other annotation
    """The raster of the whole search, assembled from the parts that are done.

    Raises:
        RasterWriteError: the disk is full, or the place cannot be written; the parts stay.
    """
    path = probability_parts.assemble(raster_path)
    return {"path": str(path), "bytes": path.stat().st_size, "failures": block_write["failures"]}


def _without_pixels(results: Any) -> Any:
    for _, found in results:
        yield found if isinstance(found, Failure) else None
