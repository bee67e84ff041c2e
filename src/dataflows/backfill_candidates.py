"""A chip's next mask: earlier answers and those of a generation, on ground that detections settle."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid5

import numpy as np
import pyarrow as pa
import shapely
from hamilton.function_modifiers import dataloader, datasaver, group, inject, source, tag
from numpy.typing import NDArray
from rasterio.features import rasterize

from dataflows._chip_masks import chip_mask, verdict_columns
from dataflows.backfill_ground import LABEL_TABLE, ChipGround
from dataflows.lance_writer import Provenance, sample_table
from dataflows.sam_mask_factory import JudgedMask
from dataflows.spectral_indices import index_statistics
from dataflows.training_sample_builder import msi_masks
from store import lance_io
from store.backfill_schemas import CANDIDATES, mask_columns
from store.partition_rows import PartitionRows
from store.schemas import PROMPTS, training_data
from store.sql import literals
from utils.failures import Failure
from utils.geo import CHIP_NAMESPACE, reproject
from utils.indices import INDICES
from utils.types import IGNORE, ChipGrid, ChipProfile, Mask, Prompt, RasterChip

_MASK_COLUMNS = (
    "prompt_id", "uuid", "generation", "verdict", "flags", "score", "quality", "calibration", "scores", "area_m2",
    "mask", "epsg", "transform", "created_at",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """One prompt on one chip and the mask that counts for it."""

    prompt: Prompt
    """The prompt, in the CRS of the chip's grid."""
    asked: bytes
    """The prompt as the table ``prompts`` has it, WKB, EPSG:4326."""
    judged: JudgedMask
    """The mask."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ChipAnswers:
    """All that counts on one chip."""

    answers: tuple[Answer, ...]
    """One per prompt, in the order of their ids."""
    replaced: int
    """Prompts whose earlier mask gives way."""
    added: int
    """Prompts that the chip's mask did not rest on before."""


@tag(stage="backfill")
@dataloader()
def earlier_answers(
    store: str, chip_plan: pa.Table, chip_ground: dict[str, ChipGround], chip_profile: ChipProfile
) -> tuple[dict[str, dict[str, Answer]], dict[str, Any]]:
    """Chip → prompt → the mask its mask in the store rests on: the newest of the generations that count."""
    there = [uuid for uuid in chip_plan["uuid"].to_pylist() if chip_ground[uuid].chain]
    where = f"uuid IN ({literals(there)}) AND retired_at IS NULL" if there else "false"
    prompts = {
        row["prompt_id"]: row
        for row in lance_io.scan(
            store, "prompts", ["prompt_id", "uuid", "label_id", "kind", "geometry", "dataset", "input_set"], where
        ).to_pylist()
        if row["input_set"] == chip_ground[row["uuid"]].input_set
    }
    best: dict[str, dict[str, Any]] = {}
    for row in lance_io.scan(store, "masks", list(_MASK_COLUMNS), where).sort_by("created_at").to_pylist():
        ground = chip_ground[row["uuid"]]
        if row["prompt_id"] not in prompts or row["prompt_id"] in ground.dropped:
            continue
        rank = ground.chain.index(row["generation"]) if row["generation"] in ground.chain else None
        held = best.get(row["prompt_id"])
        if rank is not None and (held is None or ground.chain.index(held["generation"]) >= rank):
            best[row["prompt_id"]] = row
    found: dict[str, dict[str, Answer]] = {uuid: {} for uuid in there}
    for prompt_id, row in best.items():
        found[row["uuid"]][prompt_id] = _answer(prompts[prompt_id], row, chip_profile)
    return found, {"masks": len(best)}


@tag(stage="backfill")
def chip_answers(
    judged_masks: dict[str, list[JudgedMask]],
    chip_prompts: dict[str, list[Prompt]],
    prompts: pa.Table,
    earlier_answers: dict[str, dict[str, Answer]],
) -> dict[str, ChipAnswers]:
    """Per chip the mask that counts for each prompt.

    A mask of this generation takes the place of an earlier one where it is accepted, and the earlier one was not, or
    had no higher quality.
    """
    asked = dict(zip(prompts["prompt_id"].to_pylist(), prompts["geometry"].to_pylist(), strict=True))
    return {
        uuid: _settled(
            {
                prompt.prompt_id: Answer(prompt=prompt, asked=asked[prompt.prompt_id], judged=found)
                for prompt, found in zip(chip_prompts[uuid], judged, strict=True)
            },
            earlier_answers.get(uuid, {}),
        )
        for uuid, judged in judged_masks.items()
    }


@tag(stage="backfill")
def candidate_masks(
    vhr_cores: dict[str, RasterChip], chip_answers: dict[str, ChipAnswers], chip_ground: dict[str, ChipGround]
) -> dict[str, NDArray[np.uint8]]:
    """Mask per chip by the rule of a build, uint8 (rows, columns): 0 background, 1 PV, 255 ignore.

    Ground of rejected detections is background where no accepted mask is; ground of undecided ones is 255 there.
    """
    return {
        uuid: _with_ground(
            vhr_cores[uuid],
            chip_mask(vhr_cores[uuid], [one.judged for one in found.answers], [one.prompt for one in found.answers]),
            chip_ground[uuid],
        )
        for uuid, found in chip_answers.items()
    }


@tag(stage="backfill")
def candidate_msi_masks(
    candidate_masks: dict[str, NDArray[np.uint8]],
    vhr_cores: dict[str, RasterChip],
    msi_chips: dict[str, RasterChip],
) -> dict[str, NDArray[np.uint8]]:
    """PV area fraction per multispectral pixel, uint8 (rows, columns): 0-254 is 0-100 %, 255 unknown."""
    found: dict[str, NDArray[np.uint8]] = msi_masks(candidate_masks, vhr_cores, msi_chips)
    return found


@tag(stage="backfill")
@inject(index_images=group(**{name: source(name) for name in INDICES}))
def candidate_statistics(
    index_images: dict[str, NDArray[np.float32]],
    msi_chips: dict[str, RasterChip],
    candidate_msi_masks: dict[str, NDArray[np.uint8]],
    clear_masks: dict[str, NDArray[np.bool_]],
) -> dict[str, dict[str, float | None]]:
    """Chip id → index means inside the candidate mask and in the ring around it, as a build takes them."""
    found: dict[str, dict[str, float | None]] = index_statistics(
        index_images, msi_chips, candidate_msi_masks, clear_masks
    )
    return found


@tag(stage="backfill")
@dataloader()
def stored_masks(
    store: str, chip_plan: pa.Table, chip_ground: dict[str, ChipGround], chip_profile: ChipProfile
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, Any]]:
    """Chip id → the mask the store holds, uint8 (rows, columns), for chips that have one."""
    there = [uuid for uuid in chip_plan["uuid"].to_pylist() if not chip_ground[uuid].fresh]
    where = f"uuid IN ({literals(there)}) AND generated_mask IS NOT NULL" if there else "false"
    rows = lance_io.scan(store, "training_data", ["uuid", "generated_mask"], where).to_pylist()
    shape = (chip_profile.height, chip_profile.width)
    found = {row["uuid"]: np.frombuffer(row["generated_mask"], np.uint8).reshape(shape) for row in rows}
    return found, {"masks": len(found)}


@tag(stage="backfill", table="candidates")
def candidate_table(
    candidate_masks: dict[str, NDArray[np.uint8]],
    candidate_msi_masks: dict[str, NDArray[np.uint8]],
    candidate_statistics: dict[str, dict[str, float | None]],
    chip_answers: dict[str, ChipAnswers],
    stored_masks: dict[str, NDArray[np.uint8]],
    chip_ground: dict[str, ChipGround],
    chip_plan: pa.Table,
    provenance: Provenance,
) -> pa.Table:
    """Rows of ``candidates``: what each chip's row of ``training_data`` would say."""
    inputs = dict(zip(chip_plan["uuid"].to_pylist(), chip_plan["input_set"].to_pylist(), strict=True))
    now, generation, rows = datetime.now(UTC), provenance.generation, []
    for uuid, mask in candidate_masks.items():
        found, ground, known = chip_answers[uuid], chip_ground[uuid], int((mask != IGNORE).sum())
        fractions = candidate_msi_masks.get(uuid)
        rows.append(
            dict.fromkeys(CANDIDATES.names)
            | candidate_statistics.get(uuid, {})
            | verdict_columns([one.judged for one in found.answers])
            | _difference(stored_masks.get(uuid), mask)
            | {
                "candidate_id": str(uuid5(CHIP_NAMESPACE, f"{uuid}|{generation}")),
                "uuid": uuid,
                "input_set": inputs[uuid],
                "base_generation": ground.base_generation,
                "prompt_geometry": _collection(found.answers),
                "generated_mask": mask.tobytes(),
                "msi_mask": None if fractions is None else fractions.tobytes(),
                "pv_fraction": int((mask == 1).sum()) / known if known else None,
                "weight": ground.weight,
                "mask_source": "machine",
                "generation": generation,
                "mask_recipe": provenance.recipes["mask"],
                "replaced": found.replaced,
                "added": found.added,
                "negatives": len(ground.rejected),
                "run_id": provenance.run_id,
                "created_at": now,
            }
        )
    return pa.Table.from_pylist(rows, schema=CANDIDATES)


@tag(stage="backfill", table="training_data")
def fresh_samples(
    training_samples: list[dict[str, Any]],
    chip_ground: dict[str, ChipGround],
    chip_profile: ChipProfile,
) -> list[dict[str, Any]]:
    """Rows of chips the store lacks, without mask: they teach nothing before the generation is promoted."""
    schema = training_data(chip_profile)
    nothing: dict[str, Any] = {name: None for name in mask_columns(schema) if schema.field(name).nullable}
    nothing |= {"n_accepted": 0, "n_review": 0, "n_rejected": 0, "quality_flags": [], "weight": 1.0}
    return [row | nothing for row in training_samples if chip_ground[row["uuid"]].fresh]


@tag(stage="backfill", table="training_data")
def fresh_table(fresh_samples: list[dict[str, Any]], provenance: Provenance, chip_profile: ChipProfile) -> pa.Table:
    """The same with recipes and run, in the profile's schema."""
    table: pa.Table = sample_table(fresh_samples, provenance, chip_profile)
    return table


@tag(stage="backfill", table="prompts")
def detection_prompts(
    prompts: pa.Table,
    chip_plan: pa.Table,
    earlier_answers: dict[str, dict[str, Answer]],
    provenance: Provenance,
    store: str,
) -> pa.Table:
    """Rows of ``prompts`` for detections that are asked for the first time; labels keep the prompts they have."""
    known = {prompt_id for found in earlier_answers.values() for prompt_id in found}
    inputs = dict(zip(chip_plan["uuid"].to_pylist(), chip_plan["input_set"].to_pylist(), strict=True))
    stamp = {
        "label_catalog": store,
        "label_snapshot": None,
        "margin_share": provenance.margin_share,
        "retired_at": None,
        "retired_snapshot": None,
        "run_id": provenance.run_id,
        "created_at": datetime.now(UTC),
    }
    own = [
        row
        for row in prompts.to_pylist()
        if row["label_table"] == LABEL_TABLE and row["uuid"] in inputs and row["prompt_id"] not in known
    ]
    rows = [row | stamp | {"input_set": inputs[row["uuid"]], "label_area_m2": row["area_m2"]} for row in own]
    return pa.Table.from_pylist([{name: row[name] for name in PROMPTS.names} for row in rows], schema=PROMPTS)


@tag(stage="backfill")
@datasaver()
def backfill_write(
    partition: int,
    fresh_table: pa.Table,
    mask_table: pa.Table,
    detection_prompts: pa.Table,
    candidate_table: pa.Table,
    changed_imagery: list[Failure],
    chip_failures: list[Failure],
    mask_failures: list[Failure],
    chip_ground: dict[str, ChipGround],
    commit_buffer: PartitionRows,
) -> dict:  # type: ignore[type-arg]
    """Hand one partition's rows and failures to the commit buffer and return a receipt: counts, never pixels."""
    changed = [found for found in changed_imagery if found.uuid is not None and not chip_ground[found.uuid].fresh]
    made = set(candidate_table["uuid"].to_pylist()) - {found.uuid for found in changed}
    failures = [*chip_failures, *changed, *mask_failures]
    commit_buffer.add(
        samples=_of(fresh_table, made),
        masks=_of(mask_table, made),
        prompts=_of(detection_prompts, made),
        failures=failures,
        partition=partition,
    )
    commit_buffer.candidates.append(_of(candidate_table, made))
    verdicts = Counter(mask_table["verdict"].to_pylist())
    return {
        "partition": partition,
        "chips": len(made),
        "failed": len({found.uuid for found in failures}),
        "not_taken": 0,
        **{verdict: verdicts[verdict] for verdict in ("accept", "review", "reject", "not_in_chip")},
    }


def _of(rows: pa.Table, uuids: set[str]) -> pa.Table:
    return rows.filter(pa.array([uuid in uuids for uuid in rows["uuid"].to_pylist()], pa.bool_()))


def _answer(prompt: dict[str, Any], row: dict[str, Any], profile: ChipProfile) -> Answer:
    grid = ChipGrid(epsg=row["epsg"], transform=tuple(row["transform"]), height=profile.height, width=profile.width)
    shape, pixels = (grid.height, grid.width), row["mask"]
    data = np.zeros(shape, bool) if pixels is None else np.frombuffer(pixels, np.uint8).reshape(shape) > 0
    mask = Mask(data=data, grid=grid, prompt_id=row["prompt_id"], scores=dict(row["scores"]), flags=tuple(row["flags"]))
    return Answer(
        prompt=Prompt(
            prompt_id=prompt["prompt_id"],
            label_id=prompt["label_id"],
            kind=prompt["kind"],
            geometry=reproject(shapely.from_wkb(prompt["geometry"]), 4326, grid.epsg),
            dataset=prompt["dataset"],
        ),
        asked=prompt["geometry"],
        judged=JudgedMask(
            mask=mask,
            score=row["score"],
            quality=row["score"] if row["quality"] is None else row["quality"],
            calibration=row["calibration"],
            verdict=row["verdict"],
            reasons=(),
            area_m2=row["area_m2"],
        ),
    )


def _settled(new: dict[str, Answer], earlier: dict[str, Answer]) -> ChipAnswers:
    answers, replaced = dict(earlier), 0
    for prompt_id, answer in new.items():
        held = earlier.get(prompt_id)
        if held is None:
            answers[prompt_id] = answer
        elif _takes_over(answer.judged, held.judged):
            # the prompt in the store stays the label's own
            answers[prompt_id] = Answer(prompt=held.prompt, asked=held.asked, judged=answer.judged)
            replaced += 1
    return ChipAnswers(
        answers=tuple(answers[prompt_id] for prompt_id in sorted(answers)),
        replaced=replaced,
        added=len(new.keys() - earlier.keys()),
    )


def _takes_over(new: JudgedMask, earlier: JudgedMask) -> bool:
    return new.verdict == "accept" and (earlier.verdict != "accept" or new.quality >= earlier.quality)


def _with_ground(chip: RasterChip, mask: NDArray[np.uint8], ground: ChipGround) -> NDArray[np.uint8]:
    rejected, undecided = (_burnt(shapes, chip.grid) for shapes in (ground.rejected, ground.undecided))
    settled = mask.copy()
    settled[rejected & (mask != 1) & chip.valid] = 0
    settled[undecided & (settled == 0)] = IGNORE
    return settled


def _burnt(shapes: tuple[shapely.Geometry, ...], grid: ChipGrid) -> NDArray[np.bool_]:
    """Pixels whose centre lies in one of the shapes (EPSG:4326)."""
    shape = (grid.height, grid.width)
    if not shapes:
        return np.zeros(shape, bool)
    moved = [reproject(one, 4326, grid.epsg) for one in shapes]
    return np.asarray(rasterize(moved, out_shape=shape, transform=grid.affine, dtype="uint8"), bool)


def _collection(answers: tuple[Answer, ...]) -> bytes | None:
    shapes = [shapely.from_wkb(one.asked) for one in answers]
    wkb: bytes | None = shapely.to_wkb(shapely.GeometryCollection(shapes)) if shapes else None
    return wkb


def _difference(before: NDArray[np.uint8] | None, after: NDArray[np.uint8]) -> dict[str, int]:
    if before is None:
        return {"changed_px": 0, "either_px": 0}
    known = (before != IGNORE) & (after != IGNORE)
    return {
        "changed_px": int((known & (before != after)).sum()),
        "either_px": int((known & ((before == 1) | (after == 1))).sum()),
    }
