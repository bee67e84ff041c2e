"""How well quality ranks masks, and what each step of refinement does, on real roofs and on a generated region.

Geneva: prompts, seeds and truth of ``classical_on_geneva.py``; intervals draw whole tiles. Sample region: seed 45,
which the default calibration has not seen; every prompt of the build, truth as in ``python -m dataflows calibrate``;
intervals draw whole chips. `default` is the calibration in the package, fitted on sample regions alone. `left out` is
fitted on the other tiles (or, for the region, chips in 5 folds) of the same data. `score` is the uncalibrated mean.

    python benchmarks/mask_quality.py [--seeds 5] [--backend classical] [--plot docs/images/risk_coverage.svg]

The data's place is ``EO_REAL_DATA`` or ``../shared/data`` beside the repository.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from classical_on_geneva import burnt, data_folder, read_objects, read_tile, trials
from numpy.typing import NDArray

from dataflows import drivers, mask_backends
from dataflows.config import load
from dataflows.mask_calibration import for_backend
from dataflows.partition_task import partition_tasks
from dataflows.truth import Truth, rasterised
from store.calibration_files import DEFAULT, calibration_at
from utils.calibration import MeasuredMask, held_out_quality
from utils.geo import reproject
from utils.mask_scores import mask_scores
from utils.quality import UNJUDGED, edge_band, iou, mask_score, verdict
from utils.refinement import RefinementSteps, area_m2, refine
from utils.risk_coverage import (
    area_under_curve,
    bootstrap,
    calibration_error,
    curve,
    kept_and_rest,
    reliability,
    spearman,
)
from utils.types import Mask, MaskBackend, Prompt, PromptKind, RasterChip

SAMPLE_SEED = 45
KINDS: tuple[PromptKind, ...] = ("box", "polygon", "point")
STEPS = {"close": "close_m", "open": "open_m", "smooth": "smooth_m", "holes": "max_hole_m2", "specks": "min_area_m2"}
GATE = 0.72
CHANGE = 0.001

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """One prompt, the backend's mask, and the truth."""

    data: str
    """geneva or region."""
    group: str
    """Tile or chip."""
    chip: RasterChip
    prompt: Prompt
    raw: Mask
    truth: NDArray[np.bool_]
    """On the chip's grid."""
    halo_px: int

    def overlap(self, mask: NDArray[np.bool_], *, band_px: int = 0) -> float:
        """IoU on the chip without its halo."""
        rows, cols = self.truth.shape
        core = slice(self.halo_px, rows - self.halo_px), slice(self.halo_px, cols - self.halo_px)
        return iou(mask[core], self.truth[core], edge_band(self.truth, band_px)[core] if band_px else None)


def geneva_trials(backend: MaskBackend, seeds: int) -> Iterator[Trial]:
    folder = data_folder()
    objects = read_objects(folder)
    chips = {thing.tile: read_tile(folder, thing.tile) for thing in objects}
    for kind in KINDS:
        for seed in range(seeds):
            for thing, chip, prompt in trials(objects, chips, kind, seed):
                (raw,) = backend.segment(chip, [prompt])
                truth = burnt(thing.polygon, chip.grid)
                yield Trial(data="geneva", group=thing.tile, chip=chip, prompt=prompt, raw=raw, truth=truth, halo_px=0)


def region_trials(backend: MaskBackend, root: Path, seed: int) -> Iterator[Trial]:
    drivers.run_sample(root=root, size="demo", seed=seed)
    changes = {"msi": None, "background_near_ratio": 0.0, "background_far_ratio": 0.0}
    config = load(root / "flow.yaml", store=str(root / "lancedb"), **changes)
    known = Truth.read(str(config.truth))
    driver, build = drivers.build_driver("build", config), drivers.plan_build(config)
    shared = {**build.made_once, "mask_segmenter": backend}
    for partition in build.partitions:
        for task in partition_tasks(build, partition, most_chips=64):
            found = driver.execute(
                ["vhr_chips", "chip_prompts", "raw_masks"],
                inputs={"partition": partition},
                overrides={**shared, "chip_plan": task.chips, "prompts": task.prompts},
            )
            for uuid, masks in found["raw_masks"].items():
                chip = found["vhr_chips"][uuid]
                outline = reproject(chip.grid.footprint, chip.grid.epsg, 4326)
                objects = known.on(chip.grid, outline, chip.acquired_at.date())
                for mask, prompt in zip(masks, found["chip_prompts"][uuid], strict=True):
                    truth = rasterised([pv for pv in objects if pv.intersects(prompt.geometry)], chip.grid)
                    yield Trial(
                        data="region",
                        group=uuid,
                        chip=chip,
                        prompt=prompt,
                        raw=mask,
                        truth=truth,
                        halo_px=config.halo_px,
                    )


def ablation(rows: Sequence[Trial]) -> list[str]:
    """Mean IoU with and without each step; worse and better are counted beside the raw mask, ±2 px ignored."""
    default = RefinementSteps()
    off = replace(default, **dict.fromkeys(STEPS.values(), 0.0))
    configurations = {"all": default, f"all + rectangle > {GATE}": replace(default, rectangle_share=GATE)}
    configurations |= {f"{name} alone": replace(off, **{key: getattr(default, key)}) for name, key in STEPS.items()}
    configurations |= {f"all but {name}": replace(default, **{key: 0.0}) for name, key in STEPS.items()}
    drawn = [one for one in rows if one.raw.data.any()]
    raw, raw_2 = ([one.overlap(one.raw.data, band_px=px) for one in drawn] for px in (0, 2))
    lines = [f"  {'raw':28} {np.mean(raw):.4f}  {np.mean(raw_2):.4f}"]
    for name, steps in configurations.items():
        masks = [refine(one.raw, steps=steps).data for one in drawn]
        found, found_2 = (
            np.array([one.overlap(mask, band_px=px) for one, mask in zip(drawn, masks, strict=True)]) for px in (0, 2)
        )
        change = found_2 - raw_2
        lines.append(
            f"  {name:28} {found.mean():.4f}  {found_2.mean():.4f}  worse {np.mean(change < -CHANGE):.0%}, "
            f"better {np.mean(change > CHANGE):.0%}, worst {change.min():+.3f}"
        )
    return lines


def measured(rows: Sequence[Trial]) -> tuple[list[MeasuredMask], list[Mask]]:
    """Refined masks with their scores and IoU, those the backend judged."""
    found, refined = [], []
    for one in rows:
        mask = refine(one.raw)
        if not mask.data.any() or set(UNJUDGED) & set(mask.flags):
            continue
        mask = replace(mask, scores=mask.scores | mask_scores(mask, one.chip, one.prompt))
        value = one.overlap(mask.data)
        found.append(
            MeasuredMask(
                backend="", settings_recipe="", kind=one.prompt.kind, scores=mask.scores, iou=value, group=one.group
            )
        )
        refined.append(mask)
    return found, refined


def ranking(name: str, quality: Floats, overlap: Floats, groups: NDArray[np.str_], *, calibrated: bool) -> str:
    def shown(part: int) -> str:
        return str(bootstrap(lambda q, y: kept_and_rest(q, y)[part], quality, overlap, groups, draws=500))

    error = f", off by {calibration_error(quality, overlap):.3f}" if calibrated else ""
    return (
        f"  {name:9} best 70 % {shown(0)}, rest {shown(1)}; area "
        f"{bootstrap(area_under_curve, quality, overlap, groups, draws=500)}; "
        f"Spearman {bootstrap(spearman, quality, overlap, groups, draws=500)}{error}"
    )


def report(data: str, rows: Sequence[Trial], backend: MaskBackend) -> dict[str, tuple[Floats, Floats]]:
    """Print the tables of one data set; returns (default quality, IoU) per kind of prompt."""
    masks, refined = measured(rows)
    calibration = for_backend(calibration_at(DEFAULT), backend, {}, RefinementSteps())
    told = [calibration.quality(mask.kind, mask.scores, ()) for mask in masks]
    scores = np.array([mask_score(mask.scores, full.flags) for mask, full in zip(masks, refined, strict=True)])
    default = np.array([score if found is None else found for (found, _), score in zip(told, scores, strict=True)])
    tiles = len({mask.group for mask in masks})
    left_out = held_out_quality(masks, folds=tiles if data == "geneva" else 5)
    kinds, overlap = np.array([mask.kind for mask in masks]), np.array([mask.iou for mask in masks])
    groups = np.array([mask.group for mask in masks])
    curves = {}
    print(f"\n{data}: {len(masks)} masks of {len(rows)} prompts on {tiles} {'tiles' if data == 'geneva' else 'chips'}")
    for kind in KINDS:
        chosen = kinds == kind
        print(f"{kind} ({chosen.sum()}), mean IoU {overlap[chosen].mean():.3f}")
        print(ranking("score", scores[chosen], overlap[chosen], groups[chosen], calibrated=False))
        print(ranking("default", default[chosen], overlap[chosen], groups[chosen], calibrated=True))
        fitted = chosen & np.isfinite(left_out)
        print(ranking("left out", left_out[fitted], overlap[fitted], groups[fitted], calibrated=True))
        for cell in reliability(default[chosen], overlap[chosen]):
            print(
                f"    quality {cell.low:.2f} to {cell.high:.2f} (mean {cell.quality:.3f}): IoU {cell.iou:.3f}, "
                f"at least ½ {cell.half:.0%}, {cell.n} masks"
            )
        verdicts = [
            verdict(default[i], refined[i].flags, area_m2(refined[i]), scores=refined[i].scores)[0]
            for i in np.flatnonzero(chosen)
        ]
        for name, count in sorted(Counter(verdicts).items()):
            mean = overlap[chosen][np.array(verdicts) == name].mean()
            print(f"    {name}: {count / len(verdicts):.0%}, mean IoU {mean:.3f}")
        curves[kind] = (default[chosen], overlap[chosen])
    return curves


def plot(curves: dict[str, dict[str, tuple[Floats, Floats]]], path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - only for the picture

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "risk coverage"
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, panels = plt.subplots(1, len(curves), figsize=(9, 3.6), sharey=True, squeeze=False)
    for panel, (data, kinds) in zip(panels[0], curves.items(), strict=True):
        for kind, (quality, overlap) in kinds.items():
            coverage, kept = curve(quality, overlap)
            panel.step(coverage, kept, where="post", label=kind)
        panel.set(title=data, xlabel="share of masks kept, best quality first", xlim=(0, 1), ylim=(0, 1))
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("mean IoU of masks kept")
    panels[0][-1].legend(loc="lower left")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ablation-seeds", type=int, default=2, help="Geneva seeds the ablation of refinement takes")
    parser.add_argument("--backend", default="classical", choices=mask_backends.names())
    parser.add_argument("--plot", type=Path, help="write the risk–coverage curves to this SVG")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    backend = mask_backends.get(arguments.backend)
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "geneva": list(geneva_trials(backend, arguments.seeds)),
            f"sample region, seed {SAMPLE_SEED}": list(region_trials(backend, Path(folder) / "region", SAMPLE_SEED)),
        }
    curves = {data: report(data, rows, backend) for data, rows in found.items()}
    for data, rows in found.items():
        some = [
            one
            for one in rows
            if one.data == "region" or int(one.prompt.prompt_id.split("/")[1]) < arguments.ablation_seeds
        ]
        for kind in KINDS:
            chosen = [one for one in some if one.prompt.kind == kind]
            print(f"\nrefinement, {data}, {kind} ({len(chosen)}): mean IoU, mean IoU ±2 px")
            print("\n".join(ablation(chosen)))
    if arguments.plot:
        plot(curves, arguments.plot)


if __name__ == "__main__":
    main()
