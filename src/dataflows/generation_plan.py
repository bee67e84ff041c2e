"""Which chips of a store a generation of masks still lacks, with their prompts and scenes as the store holds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from dataflows._planned_chips import CHIP_PLAN
from dataflows._positions import centres_lonlat
from dataflows._retirement import lattice_positions
from dataflows.build_plan import failed_before
from dataflows.chip_plan import PROMPT_PLAN
from dataflows.config import BuildConfig
from store import generations, lance_io
from store.schemas import masks, training_data
from utils.errors import NoImageryError
from utils.failures import Failure
from utils.geo import reproject
from utils.prompts import prompt_geometries

_CHIP_COLUMNS = (
    "uuid", "chip_role", "partition", "split_cell", "split", "input_set", "vhr_epsg", "vhr_transform", "vhr_scene_ids",
)  # fmt: skip
_RENAMED = {"area_m2": "label_area_m2"}
_OWN = ("margin_share", "input_set", "created_at", "run_id")


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """What a run of the flow ``masks`` would do."""

    chips: int
    """Chips with prompts that were asked for."""
    pending: pa.Table
    """Those with a prompt that this generation has not answered, schema ``dataflows.chip_plan.CHIP_PLAN``."""
    prompts: pa.Table
    """Their prompts, schema ``dataflows.chip_plan.PROMPT_PLAN``."""
    failed_before: int
    """Chips left out because they failed before with these settings and inputs."""
    failures: list[Failure]
    """Chips whose scenes are gone from the catalogue."""
    planned_at: datetime
    """When the store was looked at."""

    @property
    def skipped(self) -> int:
        """Chips that are answered already."""
        return self.chips - len(self.pending) - self.failed_before - len(self.failures)

    @property
    def partitions(self) -> list[int]:
        """S2 cells with pending chips, in order."""
        return sorted(set(self.pending["partition"].to_pylist()))


def plan_generation(
    config: BuildConfig,
    scenes: pa.Table,
    *,
    mask_recipe: str,
    generation: int,
    where: str | None = None,
    retry_errors: bool = False,
) -> GenerationPlan:
    """What a generation lacks; reads key columns and prompts, writes nothing.

    A prompt is answered by a mask in force of this recipe that is not older than the prompt's row: a chip that was made
    again since has new pixels or prompts.

    Args:
        config: the settings, those of the masks among them.
        scenes: catalogue of VHR imagery, the scene on top first.
        mask_recipe: recipe of the masks.
        generation: number they go by.
        where: Lance SQL over ``training_data``: only these chips.
        retry_errors: take in chips that failed before.

    Raises:
        TableNotFoundError: the store holds no chips.
        SchemaError: its tables are of another chip profile or schema version.
        StoreError: ``where`` is no condition on the table.
    """
    planned_at = datetime.now(UTC)
    for name, schema in (("training_data", training_data(config.profile)), ("masks", masks(config.profile))):
        lance_io.check_schema(config.store, name, lance_io.open_table(config.store, name).schema, schema)
    stored = lance_io.scan(
        config.store, "training_data", list(_CHIP_COLUMNS), "n_prompts > 0" + (f" AND ({where})" if where else "")
    )
    prompts = _prompts_in_force(config.store, stored)
    asked = set(prompts["uuid"].to_pylist())
    stored = stored.filter(pa.array([uuid in asked for uuid in stored["uuid"].to_pylist()], pa.bool_()))
    left = _unanswered(prompts, generations.answered(config.store, mask_recipe, generation))
    # masks are drawn on VHR pixels alone
    pending = stored_chip_plan(
        stored.filter(pc.is_in(stored["uuid"], pa.array(sorted(left), pa.string()))), config, scenes
    )
    met = {} if retry_errors else failed_before(config, pending)
    gone = without_scenes(pending, scenes)
    keep = [uuid not in met and uuid not in gone for uuid in pending["uuid"].to_pylist()]
    usable = pending.filter(pa.array(keep, pa.bool_()))
    return GenerationPlan(
        chips=len(stored),
        pending=usable,
        prompts=_prompt_plan(
            prompts.filter(pc.is_in(prompts["uuid"], usable["uuid"].combine_chunks())), usable, config
        ),
        failed_before=len(met),
        failures=[failure for uuid, failure in gone.items() if uuid not in met],
        planned_at=planned_at,
    )


def _prompts_in_force(store: str, chips: pa.Table) -> pa.Table:
    """Prompts in force of the chips as they were made: a chip's prompts have its input set."""
    columns = [_RENAMED.get(name, name) for name in PROMPT_PLAN.names if name != "utm_geometry"]
    rows = lance_io.scan(store, "prompts", [*columns, *_OWN], "retired_at IS NULL")
    made = dict(zip(chips["uuid"].to_pylist(), chips["input_set"].to_pylist(), strict=True))
    pairs = zip(rows["uuid"].to_pylist(), rows["input_set"].to_pylist(), strict=True)
    return rows.filter(pa.array([made.get(uuid) == inputs for uuid, inputs in pairs], pa.bool_()))


def _unanswered(prompts: pa.Table, known: Mapping[str, tuple[datetime, str]]) -> set[str]:
    """Chips with a prompt that has no answer, or an older one than its row."""
    left = set()
    for row in prompts.select(["prompt_id", "uuid", "created_at", "run_id"]).to_pylist():
        at, run_id = known.get(row["prompt_id"], (None, None))
        # a build writes a prompt's row and its mask together
        if at is None or (at < row["created_at"] and run_id != row["run_id"]):
            left.add(row["uuid"])
    return left


def stored_chip_plan(
    stored: pa.Table, config: BuildConfig, scenes: pa.Table, msi_scenes: pa.Table | None = None
) -> pa.Table:
    """Chips of the store as a plan, schema ``dataflows.chip_plan.CHIP_PLAN``, in partition order.

    Args:
        stored: rows of ``training_data``: keys, place and ``vhr_scene_ids``; ``msi_scene_ids`` with ``msi_scenes``.
        config: the settings.
        scenes: catalogue of VHR imagery, the scene on top first.
        msi_scenes: likewise of multispectral imagery; None plans chips without.
    """
    epsg, ix, iy = lattice_positions(stored, config.profile)
    lonlat = centres_lonlat(epsg, ix, iy, config.profile)
    columns = {
        "epsg": epsg,
        "ix": ix,
        "iy": iy,
        "lon": lonlat[:, 0],
        "lat": lonlat[:, 1],
        "vhr_scene_ids": _as_read(stored["vhr_scene_ids"], scenes),
        "msi_scene_ids": pa.array([[]] * len(stored), pa.list_(pa.string()))
        if msi_scenes is None
        else _as_read(stored["msi_scene_ids"], msi_scenes),
    }
    table = pa.table(columns | {name: stored[name] for name in CHIP_PLAN.names if name not in columns})
    order = [("partition", "ascending"), ("uuid", "ascending")]
    return table.select(CHIP_PLAN.names).cast(CHIP_PLAN).sort_by(order)


def _as_read(scene_ids: pa.ChunkedArray, scenes: pa.Table) -> pa.Array:
    """Scenes of each chip in the order they are read: stored are those that gave pixels, most used first."""
    rank = {scene: number for number, scene in enumerate(scenes["scene_id"].to_pylist())}
    ordered = [sorted(ids, key=lambda scene: rank.get(scene, -1)) for ids in scene_ids.to_pylist()]
    return pa.array(ordered, pa.list_(pa.string()))


def without_scenes(pending: pa.Table, scenes: pa.Table) -> dict[str, Failure]:
    """Chip → failure, where a scene it was made from is not in the catalogue."""
    known, failures = set(scenes["scene_id"].to_pylist()), {}
    for row in pending.select(["uuid", "input_set", "partition", "vhr_scene_ids"]).to_pylist():
        lost = [scene for scene in row["vhr_scene_ids"] if scene not in known]
        if lost:
            error = NoImageryError(f"the chip was made from {', '.join(lost)}, which `vhr` does not hold any more")
            where = {name: row[name] for name in ("uuid", "input_set", "partition")}
            failures[row["uuid"]] = Failure.of("plan_generation", error, input_ids=tuple(lost), **where)
    return failures


def _prompt_plan(prompts: pa.Table, chips: pa.Table, config: BuildConfig) -> pa.Table:
    zone = dict(zip(chips["uuid"].to_pylist(), chips["epsg"].to_pylist(), strict=True))
    epsgs = np.array([zone[uuid] for uuid in prompts["uuid"].to_pylist()], np.int64)
    columns: dict[str, Any] = {
        "utm_geometry": pa.array(shapely.to_wkb(_utm_prompts(prompts, epsgs, config)), pa.binary())
    }
    columns |= {name: prompts[_RENAMED.get(name, name)] for name in PROMPT_PLAN.names if name not in columns}
    return pa.table(columns).select(PROMPT_PLAN.names).cast(PROMPT_PLAN)


def _utm_prompts(prompts: pa.Table, epsgs: NDArray[np.int64], config: BuildConfig) -> NDArray[np.object_]:
    """Prompts in the zone of their chip, to the last bit as the build had them where the settings still say how.

    A prompt that its label does not lead to any more is moved from longitude and latitude, which is exact to 1e-8 m.
    """
    stored, labels = (shapely.from_wkb(prompts[name].to_numpy()) for name in ("geometry", "label_geometry"))
    kinds, found = prompts["kind"].to_numpy(), np.full(len(prompts), None, object)
    same = prompts["margin_share"].to_numpy() == np.float32(config.margin_share)
    for epsg in np.unique(epsgs).tolist():
        here = np.flatnonzero(epsgs == epsg)
        found[here] = reproject(stored[here], 4326, epsg)
        again = here[same[here]]
        if len(again):
            made = prompt_geometries(
                reproject(labels[again], 4326, epsg),
                kinds[again],
                margin_share=config.margin_share,
                point_box_m=config.point_box_m,
            )
            equal = shapely.equals_exact(reproject(made, epsg, 4326), stored[again], tolerance=0.0)
            found[again[equal]] = made[equal]
    return found
