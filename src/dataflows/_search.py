"""A search made ready: its model, imagery, blocks, what rules say of them, and the labels known there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from hamilton.driver import Driver
from numpy.typing import NDArray

from dataflows import drivers
from dataflows._block_inference import check_model
from dataflows.detections import known_labels
from dataflows.discovery_config import DiscoveryConfig
from dataflows.search_plan import SearchPlan
from dataflows.search_rules import RuleFinding
from store import imagery
from store.lineage import stage_code
from store.probability_rasters import ProbabilityParts
from training.scene_models import SceneModel
from utils.failures import Failure
from utils.geo import LONLAT, reproject
from utils.search_blocks import SearchBlock, block_boxes
from utils.types import ChipGrid, ImagerySource

FLOW = "discover"
_GRID = (
    *("area_of_interest", "window_lattice", "search_imagery", "model_scenes", "search_failures", "scene_grids"),
    *(
        "search_scenes",
        "search_outline",
        "search_area",
        "search_ground",
        "search_raster",
        "candidate_blocks",
        "covered_blocks",
    ),
    "rule_options",
)
_MODEL = ("segmentation_model", "model_id")
_BLOCKS_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class Search:
    """Everything a search needs before it starts; nothing is written yet."""

    config: DiscoveryConfig
    """The settings."""
    driver: Driver
    """Driver of the flow ``discover`` under them."""
    nodes: Mapping[str, Any]
    """Node → result, of all that was looked at."""
    search_id: str
    """Hash of imagery, model, grid and inference settings."""
    code: Mapping[str, Mapping[str, str]]
    """Code of inference: module → definition → hash."""
    model: SceneModel
    """The model."""
    source: ImagerySource
    """The imagery."""
    scenes: pa.Table
    """Scenes of the area, the newest day on top."""
    raster: ChipGrid
    """The search raster."""
    outline: shapely.Geometry | None
    """Area of interest in the raster's CRS; None is everywhere."""
    area: shapely.Geometry
    """Ground that is searched, in the raster's CRS."""
    ground_lonlat: shapely.Geometry
    """The same in longitude and latitude, EPSG:4326."""
    window_px: int
    """Rows and columns the model sees at a time."""
    plan: SearchPlan
    """Blocks, and what becomes of each."""
    findings: Mapping[str, RuleFinding]
    """Rule → what it says of every block."""
    parts: ProbabilityParts
    """Where finished blocks lie."""
    labels: pa.Table
    """Known labels on the ground that is searched."""
    context_snapshots: Mapping[str, int]
    """Context table → snapshot it was read at."""
    failures: Sequence[Failure]
    """Imagery and context features that cannot be used; the search goes on without them."""

    @property
    def scene_ids(self) -> list[str]:
        """Scenes, the one on top first."""
        return [str(name) for name in self.scenes["scene_id"].to_pylist()]

    @property
    def folder(self) -> Path:
        """Folder of the search's rasters and exports."""
        return Path(self.config.out) / self.search_id

    def on_raster(self, shapes: Any) -> Any:
        """A geometry, or an array of them, from longitude and latitude to the raster's CRS."""
        return reproject(shapes, LONLAT, self.raster.epsg)

    def ground(self, chosen: NDArray[np.bool_]) -> shapely.Geometry:
        """Ground of chosen blocks of the plan that is searched, in the raster's CRS."""
        boxes = block_boxes([self.plan.blocks[k] for k in np.flatnonzero(chosen)])
        return shapely.intersection(shapely.union_all(boxes), self.area)


def prepared_search(config: DiscoveryConfig) -> Search:
    """Look at everything a search rests on; reads headers, context and labels, no pixels, and tries the model on noise.

    Raises:
        AegirError: the settings, the model, the imagery, the lake or the area cannot be used.
    """
    driver = drivers.build_driver(FLOW, config)
    # what is wrong with the area is said in a moment, not after a model was loaded
    found = driver.execute(["area_of_interest"])
    found |= driver.execute(list(_GRID), overrides=found)
    found |= driver.execute(list(_MODEL), overrides=found)
    model: SceneModel = found["segmentation_model"]
    window_px = found["window_lattice"].window_px
    snapshots, context, failures = _context(driver, config, found["covered_blocks"])
    inference = {
        "block_px": config.block_px,
        "window_px": window_px,
        "overlap_px": config.overlap_px,
        "tta": config.tta,
    }
    settings = config.build.vhr if model.kind == "vhr" else config.build.msi
    code = stage_code(["dataflows.large_area_inference:infer_blocks", imagery.place((settings or {})["source"])])
    told = driver.execute(
        ["search_id", "probability_parts", "search_plan", "rule_findings"],
        inputs={
            "inference_settings": inference,
            "inference_code": code,
            "block_context": context,
        },
        overrides=found,
    )
    scenes = found["model_scenes"]
    if told["search_plan"].pending:
        check_model(found["search_imagery"], model, found["search_raster"], found["search_scenes"], window_px=window_px)
    touching = [name in found["scene_grids"] for name in scenes["scene_id"].to_pylist()]
    return Search(
        config=config,
        driver=driver,
        nodes={**found, **told},
        window_px=window_px,
        ground_lonlat=found["search_ground"],
        search_id=told["search_id"],
        code=code,
        model=model,
        source=found["search_imagery"],
        scenes=scenes.filter(pa.array(touching, pa.bool_())),
        raster=found["search_raster"],
        outline=found["search_outline"],
        area=found["search_area"],
        plan=told["search_plan"],
        findings=told["rule_findings"],
        parts=told["probability_parts"],
        labels=known_labels(config, found["search_ground"]),
        context_snapshots=snapshots,
        failures=[*found["search_failures"], *failures],
    )


def _context(
    driver: Driver, config: DiscoveryConfig, blocks: list[SearchBlock]
) -> tuple[dict[str, int], pa.Table, list[Failure]]:
    """Snapshots, one row per block with what the context tables are to it, and features that cannot be used.

    Blocks are joined some at a time: the features around them are in memory, never those of a country.
    """
    ids = pa.table({"block_id": pa.array([block.block_id for block in blocks], pa.string())})
    if not config.context or not config.prune or not blocks:
        return {}, ids, []
    lake = driver.execute(["lake_connection"])["lake_connection"]
    with lake:
        shared = {"lake_connection": lake}
        shared |= driver.execute(["context_snapshots"], overrides=shared)
        tables, failures = [], dict[tuple[str, ...], Failure]()
        for start in range(0, len(blocks), _BLOCKS_AT_ONCE):
            some = {"covered_blocks": blocks[start : start + _BLOCKS_AT_ONCE]}
            targets = driver.execute(["block_targets"], overrides=some)["block_targets"]
            found = driver.execute(
                ["chip_context", "feature_failures", "target_failures"],
                overrides={**shared, "context_targets": targets},
            )
            tables.append(found["chip_context"])
            failures |= {f.input_ids: f for f in (*found["feature_failures"], *found["target_failures"])}
    table = pa.concat_tables(tables)
    if len(table) != len(blocks):
        # blocks without a usable place have no context, and are kept
        order = {name: k for k, name in enumerate(table["block_id"].to_pylist())}
        rows = pa.array([order.get(name) for name in ids["block_id"].to_pylist()], pa.int64())
        table = table.take(rows)
    return dict(shared["context_snapshots"]), table, list(failures.values())
