"""What one run of validation works with: detections, imagery, labels, and the recipes of what it makes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from hamilton.driver import Driver
from numpy.typing import NDArray

from dataflows import drivers, mask_backends
from dataflows._detection_labels import known_labels
from dataflows._search_imagery import Pixels
from dataflows._settings import section
from dataflows.discovery_config import DiscoveryConfig
from dataflows.mask_agreement import MaskFactory
from dataflows.validation_config import ValidationRules, measuring_settings, validation_rules
from dataflows.validation_imagery import large_enough, surrounding
from dataflows.validation_summary import ValidationSummary
from dataflows.validation_supervision import label_distances
from store import evidence, imagery, lance_io
from store.commit_buffer import CommitBuffer
from store.fingerprint import digest
from store.lineage import Run, recipe, stage_code, table_versions
from utils.cells import s2_parents
from utils.geo import grown_bounds
from utils.refinement import RefinementSteps
from utils.split_rule import SplitRule
from utils.types import RGB_BANDS, ImagerySource

FLOW = "validate"
Progress = Callable[[ValidationSummary], None]

_MEASURES = (
    "dataflows.validation_imagery", "dataflows.spectral_validation", "dataflows.visual_validation",
    "dataflows.outline_validation", "dataflows.validation_evidence",
)  # fmt: skip
_DECIDES = ("utils.verdicts", "utils.verdict_model", "dataflows.validation_supervision", "dataflows.mask_agreement")
_REGISTRIES = ("store.imagery:_SOURCES", "dataflows.mask_backends:_BACKENDS")
_INPUTS = ("detection_id", "outline", "score", "score_p90", "match", "match_iou", "acquired_at")


@dataclass(frozen=True, kw_only=True)
class ValidationWork:
    """One run at work."""

    config: DiscoveryConfig
    """Settings."""
    rules: ValidationRules
    """Those of validation."""
    driver: Driver
    """Of the flow ``validate``."""
    shared: Mapping[str, Any]
    """Inputs of the flow that all batches have in common."""
    detections: pa.Table
    """Those of the search, schema ``DETECTIONS``."""
    distance_m: NDArray[np.float64]
    """Distance to the nearest label, shape (n,)."""
    split_rule: SplitRule | None
    """The store's; None where it has none."""
    inputs: Mapping[str, str]
    """Detection id → hash of what its evidence rests on: code, settings, scenes, outlines on and around it, score,
    labels."""
    run: Run
    """The run's record."""
    summary: ValidationSummary
    """What it did so far."""
    report: Progress
    """Called with the summary whenever it changes."""
    buffer: CommitBuffer
    """Takes failures."""

    @property
    def store(self) -> str:
        """The store."""
        return self.config.store

    @property
    def ids(self) -> list[str]:
        """Ids of the detections."""
        found: list[str] = self.detections["detection_id"].to_pylist()
        return found

    def cells(self, ids: Sequence[str]) -> list[pa.Table]:
        """Some detections by S2 cell, and so by the ground their imagery is read together for."""
        wanted = self.detections.filter(pc.is_in(self.detections["detection_id"], pa.array(list(ids), pa.string())))
        cells = s2_parents(wanted["s2_cell"].to_numpy(), self.rules.cell_level)
        return [wanted.filter(pa.array(cells == cell)) for cell in np.unique(cells)]


def prepared(config: DiscoveryConfig, search_id: str, report: Progress) -> ValidationWork:
    """Everything a run needs, with nothing started.

    Raises:
        SearchError: the search has no detection.
        AegirError: the settings, the imagery, the labels or the store cannot be used.
    """
    rules = validation_rules(config)
    lance_io.check_writable(config.store)
    detections = evidence.detections_of(config.store, search_id)
    msi = Pixels(source=_source(config.build.msi, "msi"), bands=config.build.msi_bands) if config.build.msi else None
    vhr_source = _source(config.build.vhr, "vhr")
    vhr = None if _found_on_msi(detections, vhr_source, msi) else Pixels(source=vhr_source, bands=RGB_BANDS)
    distance_m = label_distances(detections, known_labels(config, _label_ground(detections, rules)))
    ids = detections["detection_id"].to_pylist()
    search_outlines = shapely.STRtree(shapely.from_wkb(detections["outline"].to_numpy()))
    near = {one: float(value) for one, value in zip(ids, distance_m, strict=True) if np.isfinite(value)}
    run = _described(config, rules, [pixels for pixels in (vhr, msi) if pixels is not None], search_id)
    return ValidationWork(
        config=config,
        rules=rules,
        driver=drivers.build_driver(FLOW),
        shared={
            "vhr_pixels": vhr,
            "msi_pixels": msi,
            "search_outlines": search_outlines,
            "rules": rules,
            "label_distances": near,
            "mask_factory": MaskFactory(
                segmenter=mask_backends.get(config.build.mask_backend, **config.build.mask_options),
                steps=section(RefinementSteps, config.build.refinement, "refinement"),
            ),
        },
        detections=detections,
        distance_m=distance_m,
        split_rule=drivers.build_driver("build", config.build).execute(["stored_split_rule"])["stored_split_rule"],
        inputs=_inputs(detections, near, _surroundings(detections, search_outlines, rules), run.recipes["measure"]),
        run=run,
        summary=ValidationSummary(run_id=run.run_id, store=config.store, search_id=search_id, detections=len(ids)),
        report=report,
        buffer=CommitBuffer(
            config.store, config.build.profile, run_id=run.run_id, build_config=run.build_config, commit_every=1
        ),
    )


def _label_ground(detections: pa.Table, rules: ValidationRules) -> shapely.Geometry:
    """Where a label may matter to one of the detections, EPSG:4326."""
    west, south, east, north = shapely.total_bounds(shapely.from_wkb(detections["outline"].to_numpy())).tolist()
    reach_m = max(rules.negative_m, rules.labelled_m, rules.near_pv_m)
    return shapely.box(*grown_bounds((west, south, east, north), reach_m))


def _source(settings: Mapping[str, Any], kind: str) -> ImagerySource:
    options = {name: value for name, value in settings.items() if name != "source"}
    return imagery.get(settings["source"], **({"kind": kind} | options))


def _found_on_msi(detections: pa.Table, vhr: ImagerySource, msi: Pixels | None) -> bool:
    """Whether a search looked at multispectral scenes: VHR rules then have no image of its day, and abstain."""
    if msi is None:
        return False
    scenes = set(pc.list_flatten(detections["scene_ids"]).to_pylist()) - set(vhr.scenes()["scene_id"].to_pylist())
    return bool(scenes) and scenes <= set(msi.source.scenes()["scene_id"].to_pylist())


def _described(config: DiscoveryConfig, rules: ValidationRules, pixels: Sequence[Pixels], search_id: str) -> Run:
    build = config.build
    code = {"measure": stage_code(_MEASURES, apart=_REGISTRIES), "decide": stage_code(_DECIDES, apart=_REGISTRIES)}
    scenes = [one.source.scenes()["checksum"].to_pylist() for one in pixels]
    masks = [build.mask_backend, mask_backends.shaping(build.mask_options), dict(build.refinement)]
    measuring = recipe(code["measure"], {"rules": measuring_settings(rules), "scenes": scenes})
    deciding = recipe(code["decide"], {"rules": asdict(rules), "masks": masks}, measuring)
    return Run(
        flow=FLOW,
        build_config=digest([deciding, search_id]),
        config={"validation": asdict(rules), "build": asdict(build)},
        recipes={"measure": measuring, "decide": deciding},
        code=code,
        inputs={"search_id": search_id, "tables": table_versions(config.store)},
    )


def _surroundings(
    detections: pa.Table, search_outlines: shapely.STRtree, rules: ValidationRules
) -> dict[str, list[str]]:
    """Detection id → other outlines that its multispectral ring leaves out, as text; of those large enough for one."""
    large = detections.filter(large_enough(detections, rules))
    ids, outlines = large["detection_id"].to_pylist(), detections["outline"].to_pylist()
    found: dict[str, list[str]] = {}
    own = shapely.from_wkb(large["outline"].to_numpy())
    for row, other in zip(*surrounding(own, search_outlines, rules.ring_m), strict=True):
        found.setdefault(ids[row], []).append(outlines[other].hex())
    return {one: sorted(texts) for one, texts in found.items()}


def _inputs(
    detections: pa.Table, near: Mapping[str, float], around: Mapping[str, list[str]], measuring: str
) -> dict[str, str]:
    found = {}
    for row in detections.select(list(_INPUTS)).to_pylist():
        one = row.pop("detection_id")
        told = [row.pop("outline").hex(), *row.values(), round(near.get(one, -1.0), 1)]
        found[one] = digest([measuring, *told, around.get(one, [])])
    return found
