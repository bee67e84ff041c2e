"""What a search is and how far it has come: its model and id, blocks that are done, pruned and left."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from hamilton.function_modifiers import dataloader, tag
from numpy.typing import NDArray

from dataflows.search_rules import RuleFinding
from store.fingerprint import digest
from store.probability_rasters import ProbabilityParts
from training.scene_models import SceneModel
from utils.search_blocks import SearchBlock, block_boxes
from utils.types import ChipGrid


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchPlan:
    """Every block of a search, and what becomes of it."""

    blocks: list[SearchBlock]
    """Blocks of the area of interest that imagery covers, row by row."""
    km2: NDArray[np.float64]
    """Ground of each that is searched: inside the area and under imagery, km² of the raster's grid."""
    done: NDArray[np.bool_]
    """Blocks whose probabilities are there already."""
    pruned_by: NDArray[np.object_]
    """Name of the first rule that takes a block out; None where none does."""
    without_imagery: int
    """Blocks of the area of interest that no imagery touches."""

    @property
    def pruned(self) -> NDArray[np.bool_]:
        """Blocks that some rule takes out and that are not done already."""
        return np.array([name is not None for name in self.pruned_by], np.bool_) & ~self.done

    @property
    def pending(self) -> list[SearchBlock]:
        """Blocks left to do."""
        return [self.blocks[k] for k in np.flatnonzero(~self.done & ~self.pruned)]

    def km2_of(self, chosen: NDArray[np.bool_]) -> float:
        """Ground of the chosen blocks, km²."""
        return float(self.km2[chosen].sum())


@tag(stage="search")
def search_id(
    model_id: str,
    model_scenes: pa.Table,
    search_scenes: list[str],
    search_raster: ChipGrid,
    search_outline: shapely.Geometry | None,
    inference_settings: dict[str, Any],
    inference_code: dict[str, Any],
) -> str:
    """Hash of everything a block's probabilities depend on: model, scenes, raster, area, settings and code."""
    checksums = dict(zip(model_scenes["scene_id"].to_pylist(), model_scenes["checksum"].to_pylist(), strict=True))
    return digest(
        [
            model_id,
            [checksums[name] for name in search_scenes],
            [search_raster.epsg, list(search_raster.transform), search_raster.height, search_raster.width],
            None if search_outline is None else shapely.to_wkb(search_outline, hex=True),
            inference_settings,
            inference_code,
        ]
    )


@tag(stage="search")
def model_id(segmentation_model: SceneModel) -> str:
    """Hash of the model's weights, class and options."""
    return segmentation_model.model_id


@tag(stage="search")
def search_folder(out: str, search_id: str) -> str:
    """Folder of the probabilities of finished blocks."""
    return f"{out}/{search_id}/parts"


@tag(stage="search")
def raster_path(out: str, search_id: str) -> str:
    """The cloud-optimised raster that is assembled from them."""
    return f"{out}/{search_id}/probabilities.tif"


@tag(stage="search")
@dataloader()
def done_blocks(probability_parts: ProbabilityParts) -> tuple[set[str], dict[str, Any]]:
    """Ids of blocks whose probabilities are on disk already."""
    done = probability_parts.done()
    return done, {"blocks": len(done)}


@tag(stage="search")
def search_plan(
    candidate_blocks: list[SearchBlock],
    covered_blocks: list[SearchBlock],
    search_area: shapely.Geometry,
    rule_findings: dict[str, RuleFinding],
    done_blocks: set[str],
) -> SearchPlan:
    """What becomes of every block; rules are asked in the settings' order."""
    pruned_by = np.full(len(covered_blocks), None, object)
    for name, finding in rule_findings.items():
        free = np.array([taken is None for taken in pruned_by], np.bool_)
        pruned_by[finding.pruned & free] = name
    boxes = block_boxes(covered_blocks)
    ground = shapely.area(boxes)
    # a country's outline is cut at its border alone
    shapely.prepare(search_area)
    across = ~shapely.covers(search_area, boxes)
    ground[across] = shapely.area(shapely.intersection(boxes[across], search_area))
    return SearchPlan(
        blocks=covered_blocks,
        km2=np.asarray(ground, np.float64) / 1e6,
        done=np.array([block.block_id in done_blocks for block in covered_blocks], np.bool_),
        pruned_by=pruned_by,
        without_imagery=len(candidate_blocks) - len(covered_blocks),
    )


@tag(stage="search")
def searched_blocks(search_plan: SearchPlan) -> list[SearchBlock]:
    """Blocks that no rule takes out."""
    return [search_plan.blocks[k] for k in np.flatnonzero(~search_plan.pruned)]


@tag(stage="search")
def search_blocks(search_plan: SearchPlan) -> list[SearchBlock]:
    """All blocks in which something may have been found: every one that imagery covers."""
    return search_plan.blocks
