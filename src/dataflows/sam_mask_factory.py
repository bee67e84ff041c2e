"""Masks from prompts: a backend segments, refinement cleans, scores decide accept, review or reject."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from hamilton.function_modifiers import extract_fields, tag
from numpy.typing import NDArray

from dataflows import mask_backends
from dataflows._settings import section
from dataflows.mask_calibration import UNCALIBRATED, MaskCalibration, for_backend
from store.calibration_files import calibration_at
from utils.errors import AegirError, MaskError
from utils.failures import Failure
from utils.geo import reproject
from utils.mask_scores import mask_scores
from utils.quality import Thresholds, mask_score, verdict
from utils.refinement import RefinementSteps, area_m2, outline, refine
from utils.types import BatchedBackend, Mask, MaskBackend, Prompt, RasterChip, Verdict


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedMask:
    """A refined mask on its chip, and what became of it."""

    mask: Mask
    """The mask on the chip's own grid, without halo."""
    score: float
    """Mean of its scores, 0 to 1, uncalibrated."""
    quality: float
    """What the verdict rests on, 0 to 1: the IoU to expect, or the score where no calibration holds."""
    calibration: str | None
    """Version of the calibration behind ``quality``; None where none holds."""
    verdict: Verdict
    """accept, review, reject or not_in_chip."""
    reasons: tuple[str, ...]
    """Why it was not accepted."""
    area_m2: float
    """Area of the refined mask, its part in the halo included."""


@tag(stage="masks")
def mask_segmenter(mask_backend: str, mask_options: dict[str, Any]) -> MaskBackend:
    """The mask backend of this build.

    Raises:
        UnknownNameError: there is no such backend; the message lists those that exist.
    """
    return mask_backends.get(mask_backend, **mask_options)


@tag(stage="masks")
def refinement_steps(refinement: dict[str, Any]) -> RefinementSteps:
    """Sizes of the refinement steps.

    Raises:
        ConfigError: a step is unknown or negative.
    """
    return section(RefinementSteps, refinement, "refinement")


@tag(stage="masks")
def verdict_thresholds(thresholds: dict[str, Any]) -> Thresholds:
    """Where accept, review and reject part.

    Raises:
        ConfigError: a threshold is unknown.
    """
    return section(Thresholds, thresholds, "thresholds")


@tag(stage="masks")
def chip_prompts(prompts: pa.Table, vhr_chips: dict[str, RasterChip]) -> dict[str, list[Prompt]]:
    """Chip id → its prompts in the CRS of its grid; background chips have none."""
    found: dict[str, list[Prompt]] = defaultdict(list)
    for row in prompts.to_pylist():
        found[row["uuid"]].append(
            Prompt(
                prompt_id=row["prompt_id"],
                label_id=row["label_id"],
                kind=row["kind"],
                geometry=shapely.from_wkb(row["utm_geometry"]),
                dataset=row["dataset"],
            )
        )
    return {uuid: sorted(found[uuid], key=lambda prompt: prompt.prompt_id) for uuid in vhr_chips}


@tag(stage="masks")
@extract_fields({"raw_masks": dict[str, list[Mask]], "mask_failures": list[Failure]})
def segmentation(
    vhr_chips: dict[str, RasterChip],
    chip_prompts: dict[str, list[Prompt]],
    mask_segmenter: MaskBackend,
    chip_plan: pa.Table,
) -> dict[str, Any]:
    """The backend's masks by chip, one per prompt on the chip with its halo; and the chips it failed on.

    A backend that answers many chips together gets them all at once.
    """
    masks: dict[str, list[Mask]] = {}
    failures: list[Failure] = []
    inputs = dict(zip(chip_plan["uuid"].to_pylist(), chip_plan["input_set"].to_pylist(), strict=True))
    for uuid, found in _segmented(mask_segmenter, vhr_chips, chip_prompts):
        if isinstance(found, AegirError):
            ids = tuple(prompt.prompt_id for prompt in chip_prompts[uuid])
            failures.append(Failure.of("segmentation", found, uuid=uuid, input_ids=ids, input_set=inputs[uuid]))
        else:
            masks[uuid] = found
    return {"raw_masks": masks, "mask_failures": failures}


@tag(stage="masks")
def refined_masks(raw_masks: dict[str, list[Mask]], refinement_steps: RefinementSteps) -> dict[str, list[Mask]]:
    """The masks with holes filled, specks dropped and contours smoothed, still with halo."""
    return {uuid: [refine(mask, steps=refinement_steps) for mask in masks] for uuid, masks in raw_masks.items()}


@tag(stage="masks")
def quality_calibration(
    calibration: str | None,
    mask_segmenter: MaskBackend,
    mask_options: dict[str, Any],
    refinement_steps: RefinementSteps,
) -> MaskCalibration:
    """How scores of this build's masks become quality.

    Raises:
        CalibrationError: the settings name a calibration that cannot be read.
    """
    return for_backend(calibration_at(calibration), mask_segmenter, mask_options, refinement_steps)


@tag(stage="masks")
def judged_masks(
    refined_masks: dict[str, list[Mask]],
    vhr_chips: dict[str, RasterChip],
    chip_prompts: dict[str, list[Prompt]],
    prompts: pa.Table,
    quality_calibration: MaskCalibration,
    verdict_thresholds: Thresholds,
    halo_px: int,
) -> dict[str, list[JudgedMask]]:
    """Each mask cut to its chip, with scores, quality and verdict."""
    stated = dict(zip(prompts["prompt_id"].to_pylist(), prompts["area_m2"].to_pylist(), strict=True))
    return {
        uuid: [
            _judged(
                _scored(mask, vhr_chips[uuid], prompt, stated[prompt.prompt_id], halo_px),
                prompt.kind,
                quality_calibration,
                verdict_thresholds,
                halo_px,
            )
            for mask, prompt in zip(masks, chip_prompts[uuid], strict=True)
        ]
        for uuid, masks in refined_masks.items()
    }


@tag(stage="masks", table="masks")
def mask_rows(judged_masks: dict[str, list[JudgedMask]]) -> list[dict[str, Any]]:
    """One row of ``masks`` per prompt and chip, without id, recipe and run."""
    return [_mask_row(uuid, judged) for uuid, found in judged_masks.items() for judged in found]


def _segmented(
    segmenter: MaskBackend, chips: dict[str, RasterChip], prompts: dict[str, list[Prompt]]
) -> Iterator[tuple[str, list[Mask] | AegirError]]:
    """Per chip id the masks of its prompts, in order, or why there are none; chips without prompts cost nothing."""
    asking = [uuid for uuid in chips if prompts[uuid]]
    together: dict[str, list[Mask] | AegirError] = {}
    if isinstance(segmenter, BatchedBackend):
        answers = segmenter.segment_many([chips[uuid] for uuid in asking], [prompts[uuid] for uuid in asking])
        together = dict(zip(asking, answers, strict=True))
    for uuid, chip in chips.items():
        asked = prompts[uuid]
        try:
            found = together[uuid] if uuid in together else segmenter.segment(chip, asked) if asked else []
            yield uuid, found if isinstance(found, AegirError) else _complete(found, asked, segmenter.name)
        except AegirError as error:
            yield uuid, error


def _complete(masks: list[Mask], asked: list[Prompt], backend: str) -> list[Mask]:
    if [mask.prompt_id for mask in masks] != [prompt.prompt_id for prompt in asked]:
        raise MaskError(f"backend {backend} answered {len(asked)} prompts with {len(masks)} masks, or out of order")
    return masks


def _scored(mask: Mask, chip: RasterChip, prompt: Prompt, stated_m2: float | None, halo_px: int) -> Mask:
    """``mask`` with the scores its chip tells beside the backend's, and flagged where it lies in the halo alone."""
    core = _core(mask, halo_px)
    flags = mask.flags if core.any() or "empty" in mask.flags else tuple(sorted({*mask.flags, "not_in_chip"}))
    return replace(mask, scores=mask.scores | mask_scores(mask, chip, prompt, stated_m2=stated_m2), flags=flags)


def _core(mask: Mask, halo_px: int) -> NDArray[np.bool_]:
    rows, columns = mask.data.shape
    return mask.data[halo_px : rows - halo_px, halo_px : columns - halo_px]


def _judged(mask: Mask, kind: str, calibration: MaskCalibration, limits: Thresholds, halo_px: int) -> JudgedMask:
    score, area = mask_score(mask.scores, mask.flags), area_m2(mask)
    quality, version = calibration.quality(kind, mask.scores, mask.flags)
    flags = mask.flags if version is not None else tuple(sorted({*mask.flags, UNCALIBRATED}))
    trusted = score if quality is None else quality
    decision, reasons = verdict(trusted, flags, area, limits, scores=mask.scores)
    cut = replace(mask, data=_core(mask, halo_px).copy(), grid=mask.grid.padded(-halo_px), flags=flags)
    return JudgedMask(
        mask=cut,
        score=score,
        quality=trusted,
        calibration=version,
        verdict=decision,
        reasons=reasons,
        area_m2=area,
    )


def _mask_row(uuid: str, judged: JudgedMask) -> dict[str, Any]:
    mask, filled = judged.mask, bool(judged.mask.data.any())
    return {
        "uuid": uuid,
        "prompt_id": mask.prompt_id,
        "verdict": judged.verdict,
        "flags": sorted({*mask.flags, *judged.reasons}),
        "score": judged.score,
        "quality": judged.quality,
        "calibration": judged.calibration,
        "scores": sorted(mask.scores.items()),
        "area_m2": judged.area_m2,
        "mask": mask.data.astype("uint8").tobytes() if filled else None,
        "outline": shapely.to_wkb(reproject(outline(mask, simplify_px=0.5), mask.grid.epsg, 4326)) if filled else None,
        "epsg": mask.grid.epsg,
        "transform": list(mask.grid.transform),
    }
