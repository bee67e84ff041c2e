"""Stages of the flywheel: each calls the flow it is named after, and says what later stages and the ledger need."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dataflows._settings import section
from dataflows.backfill_settings import GateSettings
from dataflows.flywheel import Stage, StageContext, StageReceipt
from dataflows.flywheel_evaluation import mask_iou, round_scores, row_counts
from dataflows.truth import Truth
from store import lance_io, tags
from store.schemas import profile_of
from store.sql import literal
from training.checkpoint_records import checkpoint_record
from utils.errors import ConfigError, ImageryError, SearchError, TableNotFoundError, TagError
from utils.split_rule import SPLITS, SplitRule

_CHIP = ("generated_mask", "footprint", "vhr_epsg", "vhr_transform", "vhr_acquired_at")


def build(context: StageContext) -> StageReceipt:
    """Labels → chips → masks → ``training_data``; what is there already is skipped.

    Raises:
        ConfigError: the build made no chip at all.
    """
    from dataflows.drivers import run  # noqa: PLC0415

    summary = run("build", context.config.build)
    if summary.status == "interrupted":
        raise KeyboardInterrupt
    try:
        rows = lance_io.open_table(context.config.store, "training_data").count_rows()
    except TableNotFoundError:
        rows = 0
    if not rows:
        raise ConfigError("the build made no chip; `python -m dataflows plan` shows why")
    counts = {"build_chips_written": summary.chips_written, "errors": summary.failed}
    return StageReceipt(values={"run_id": summary.run_id}, counts=counts)


def gold(context: StageContext) -> StageReceipt:
    """Truth as masks of the test chips, where the settings name a file of it.

    The split rule goes into the receipt: its test cells are the frozen ground of all rounds.
    """
    from dataflows.gold import supply_gold  # noqa: PLC0415

    config, written = context.config, 0
    if config.build.truth is not None:
        summary = supply_gold(config, config.build.truth)
        written = summary.bytes_written
        if summary.failed:
            raise ImageryError(
                f"{summary.failed} test chips could not be given truth (table `errors`); mend them and run again"
            )
    return StageReceipt(values={"split_rule": split_rule(config.store).rule_id}, bytes_written=written)


def fit(context: StageContext) -> StageReceipt:
    """The first model, with the settings of the gate's fits, on a version of the table that is tagged.

    Where the flywheel starts from a model of the settings, that one is taken and nothing is fitted.
    """
    from dataflows.model_fits import fit_model  # noqa: PLC0415

    if context.model:
        version = int(checkpoint_record(context.model)["record"]["version"])
        return StageReceipt(values={"checkpoint": context.model, "table_version": version})
    store, tag = context.config.store, f"flywheel-{context.flywheel_id[:8]}-first"
    try:
        version = tags.create_tag(store, "training_data", tag).version
    except TagError:
        # a run that was killed in the fit has made it
        version = int(lance_io.open_table(store, "training_data", tag).version)
    checkpoint = fit_model(store, _fit_settings(context), version=version)
    return StageReceipt(
        values={"checkpoint": str(checkpoint), "table_version": version}, bytes_written=_size(checkpoint.parent)
    )


def candidate(context: StageContext) -> StageReceipt:
    """A model trained on the round's generation; none where the search led to no generation.

    Raises:
        NoGoldError: no test row holds truth that the gate could judge it by; nothing is trained.
    """
    from dataflows.model_fits import fit_candidate  # noqa: PLC0415
    from dataflows.promotion_gate import truth_rows  # noqa: PLC0415

    generation = context.left["backfill"]["generation"]
    if generation is None:
        return StageReceipt(values={"checkpoint": None})
    truth_rows(context.config.store)
    checkpoint = fit_candidate(context.config.store, generation, _fit_settings(context))
    return StageReceipt(values={"checkpoint": str(checkpoint)}, bytes_written=_size(checkpoint.parent))


def gate(context: StageContext) -> StageReceipt:
    """The candidate against the round's model on gold test rows; its generation is promoted, or kept back."""
    from dataflows.promotion_gate import run_gate  # noqa: PLC0415

    generation, checkpoint = context.left["backfill"]["generation"], context.left["candidate"]["checkpoint"]
    if generation is None:
        return StageReceipt(values={"promoted": None, "tag": None, "table_version": 0})
    config = replace(context.config, gate={**context.config.gate, "out": str(context.folder)})
    report = run_gate(
        config,
        generation=generation,
        current_checkpoint=context.model,
        candidate_checkpoint=checkpoint,
        tag=f"flywheel-{context.flywheel_id[:8]}-round-{context.number}",
    )
    names = {"current": "model", "candidate": "candidate", "difference": "gate_difference"}
    metrics = {
        f"{name}_{measure}": report.metrics.get(f"{key}/{measure}")
        for key, name in names.items()
        for measure in ("iou", "f1")
    } | {f"gate_noise_{measure}": noise for measure, noise in report.noise.items()}
    receipt = report.receipt
    return StageReceipt(
        values={
            "run_id": report.run_id,
            "promoted": report.promoted,
            "reason": report.reason,
            "tag": report.tag,
            "table_version": receipt.version if receipt else 0,
        },
        counts={
            "rows_promoted": receipt.rows if receipt else 0,
            "gate_chips": report.chips,
            "gate_cells": report.cells,
        },
        metrics=_known(metrics),
        bytes_written=receipt.bytes_written if receipt else 0,
    )


def discover(context: StageContext) -> StageReceipt:
    """Search the area of interest with the round's model.

    Raises:
        SearchError: blocks failed; they are tried again by the next run.
    """
    from dataflows.discovery import run_discovery  # noqa: PLC0415

    summary = run_discovery(context.config)
    if summary.status == "interrupted":
        raise KeyboardInterrupt
    if summary.blocks_failed:
        raise SearchError(
            f"{summary.blocks_failed} blocks of search {summary.search_id} failed (table `errors`); mend them and run "
            "the flywheel again"
        )
    names = ("km2", "km2_searched", "km2_pruned", "blocks", "blocks_pruned", "detections", "detections_new")
    counts = {name: getattr(summary, name) for name in (*names, "detections_confirmed", "missing", "inputs_failed")}
    return StageReceipt(
        values={"run_id": summary.run_id, "search_id": summary.search_id, "raster": str(summary.raster)},
        counts=counts,
        bytes_written=summary.bytes_written,
    )


def validate(context: StageContext) -> StageReceipt:
    """Judge the detections of the round's search."""
    from dataflows.validation import run_validation  # noqa: PLC0415

    search_id = context.left["discover"]["search_id"]
    run_id = ""
    if len(_detections(context, ["detection_id"])):
        summary = run_validation(context.config, search_id=search_id)
        if summary.status == "interrupted":
            raise KeyboardInterrupt
        run_id = summary.run_id
    verdicts = _detections(context, ["verdict"])["verdict"].to_pylist()
    names = {"accept": "accepted", "review": "review", "reject": "rejected", "unverifiable": "unverifiable"}
    counts = {name: verdicts.count(verdict) for verdict, name in names.items()}
    return StageReceipt(values={"run_id": run_id}, counts=counts | {"unjudged": verdicts.count(None)})


def measure(context: StageContext) -> StageReceipt:
    """Detections on frozen test ground against truth, before and after validation; nothing without truth.

    Raises:
        ConfigError: the store follows another split rule than in round 0: its test ground is not the same.
    """
    config = context.config
    if config.build.truth is None:
        return StageReceipt()
    rule = split_rule(config.store)
    if rule.rule_id != context.first["gold"]["split_rule"]:
        raise ConfigError("the store's split rule changed since round 0; measures of rounds cannot be compared")
    truth = Truth.read(config.build.truth).standing(_imagery_day(config.store))
    scores = round_scores(_detections(context, ["outline", "lon", "lat", "verdict"]), truth, rule)
    metrics: dict[str, float] = {}
    counts: dict[str, float] = {}
    for name, suffix in (("all", "before"), ("accepted", "after")):
        found = scores[name]
        metrics |= {f"recall_{suffix}": found.recall, f"precision_{suffix}": found.precision, f"f1_{suffix}": found.f1}
        counts |= {f"test_detections_{suffix}": found.detections, f"test_found_{suffix}": found.found}
    return StageReceipt(metrics=_known(metrics), counts=counts | {"test_truth": scores["all"].truth})


def backfill(context: StageContext) -> StageReceipt:
    """Accepted detections → masks of a new generation; rejected ones → hard negatives."""
    from dataflows.backfill import run_backfill  # noqa: PLC0415

    summary = run_backfill(context.config, search_id=context.left["discover"]["search_id"])
    if summary.status == "interrupted":
        raise KeyboardInterrupt
    counts = {
        "masks_replaced": summary.replaced,
        "masks_added": summary.added,
        "new_chips": summary.new_chips,
        "hard_negatives": summary.hard_negatives,
        "backfill_chips": summary.chips,
        "backfill_failed": summary.chips_failed + summary.inputs_failed,
        "label_drift": summary.label_drift,
    }
    return StageReceipt(
        values={"run_id": summary.run_id, "generation": summary.generation},
        counts=_known(counts),
        bytes_written=summary.bytes_written,
    )


def write_back(context: StageContext) -> StageReceipt:
    """Judged detections into the lake; nothing where the labels are in files."""
    from dataflows.write_back import run_write_back  # noqa: PLC0415

    if context.config.build.catalog is None:
        return StageReceipt(values={"snapshot": None})
    summary = run_write_back(context.config, search_id=context.left["discover"]["search_id"])
    if summary.status == "interrupted":
        raise KeyboardInterrupt
    return StageReceipt(
        values={"run_id": summary.run_id, "snapshot": summary.snapshot},
        counts={"lake_inserted": summary.inserted, "lake_updated": summary.updated},
    )


def account(context: StageContext) -> StageReceipt:
    """Rows of ``training_data`` as the round leaves them, and how near their training masks are to truth."""
    config = context.config
    rows = lance_io.scan(config.store, "training_data", ["split", "chip_role", "mask_source"])
    metrics: dict[str, float] = {}
    if config.build.truth is not None:
        dataset = lance_io.open_table(config.store, "training_data")
        shape = profile_of(dataset.schema)
        truth = Truth.read(config.build.truth)
        masks = _chips(dataset, "split = 'train' AND generated_mask IS NOT NULL")
        metrics["train_mask_iou"] = mask_iou(masks, truth, (shape.height, shape.width))
    return StageReceipt(counts=row_counts(rows), metrics=_known(metrics))


def split_rule(store: str) -> SplitRule:
    """The rule the store's chips are split by: the one it had first.

    Raises:
        ConfigError: the store has none; it was not built.
    """
    rows = lance_io.scan(store, "splits", ["level", "salt", "fractions", "guard_m", "created_at"]).to_pylist()
    if not rows:
        raise ConfigError(f"{store} records no split rule; run `python -m dataflows run build`")
    first = min(rows, key=lambda row: row["created_at"])
    fractions = dict(first["fractions"])
    return SplitRule(
        level=first["level"],
        salt=first["salt"],
        fractions=(fractions[SPLITS[0]], fractions[SPLITS[1]], fractions[SPLITS[2]]),
        guard_m=first["guard_m"],
    )


STAGES: Mapping[str, Stage] = {
    "build": build,
    "gold": gold,
    "fit": fit,
    "discover": discover,
    "validate": validate,
    "measure": measure,
    "backfill": backfill,
    "candidate": candidate,
    "gate": gate,
    "write-back": write_back,
    "account": account,
}
"""Stage → what runs it."""


def _fit_settings(context: StageContext) -> GateSettings:
    """Settings of the round's fit: a seed of its own, so that a round after a refusal is another draw."""
    settings = section(GateSettings, context.config.gate, "gate")
    return replace(settings, seed=settings.seed + context.number, out=str(context.folder.parent / "fits"))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _detections(context: StageContext, columns: list[str]) -> pa.Table:
    where = f"search_id = {literal(context.left['discover']['search_id'])}"
    return lance_io.scan(context.config.store, "detections", columns, where)


def _imagery_day(store: str) -> date:
    """The newest day of the VHR chips: the build and the search take the same imagery."""
    days = lance_io.scan(store, "training_data", ["vhr_acquired_at"])["vhr_acquired_at"]
    newest: date = pc.max(days).as_py().date()
    return newest


def _chips(dataset: Any, where: str) -> Iterator[Mapping[str, Any]]:
    for batch in dataset.to_batches(columns=list(_CHIP), filter=where, batch_size=64):
        yield from batch.to_pylist()


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    """Without what is undefined: a share of nothing."""
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
