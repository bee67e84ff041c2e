"""Whether a generation of masks makes models better: judged on gold and reviewed test rows alone, then promoted or not.

The rule: neither IoU nor F1 of the PV class may fall by more than the noise of the comparison (half the interval of a
paired bootstrap over split cells), nor by more than the stated tolerance; and the model must have learned something.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataflows import drivers
from dataflows._settings import section
from dataflows.backfill_settings import GateSettings
from dataflows.discovery_config import DiscoveryConfig
from dataflows.model_fits import fit_candidate, fit_model
from store import lance_io, promotion
from store.fingerprint import digest, file_sha256
from store.lineage import Run, table_versions
from store.promotion import PromotionReceipt
from store.schemas import SCHEMA_VERSION
from utils.errors import NoGoldError, StoreNotWritableError
from utils.paired_bootstrap import Difference, paired_differences

FLOW = "gate"
TRUTH = "split = 'test' AND mask_source IN ('gold', 'reviewed') AND pv_fraction IS NOT NULL"
"""Rows a generation is judged by: test ground whose mask a person drew or saw."""


@dataclass(kw_only=True)
class GateReport:
    """What the gate found, and did."""

    generation: int
    """Generation that was judged."""
    promoted: bool
    """Whether ``training_data`` holds it."""
    reason: str
    """Why, or why not."""
    metrics: dict[str, float | None]
    """``current/iou``, ``candidate/iou``, ``difference/iou``, ``low/iou``, ``high/iou``, likewise ``f1``."""
    noise: dict[str, float | None]
    """Measure → half the interval of its difference; None where a measure is undefined."""
    allowed: dict[str, float]
    """Measure → fall that is let through: the noise, at most the tolerance."""
    chips: int
    """Test rows with truth."""
    cells: int
    """Split cells they lie in."""
    current_checkpoint: str
    """Model before the generation."""
    candidate_checkpoint: str
    """Model trained on it."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Draws, level, tolerance, seed."""
    run_id: str = ""
    """Id in the table ``runs``."""
    tag: str | None = None
    """Tag of the promotion; None without one."""
    receipt: PromotionReceipt | None = None
    """What the promotion did."""
    path: str = ""
    """File of this report."""
    seconds: float = 0.0
    """Wall time."""

    @property
    def exit_code(self) -> int:
        """0 when the generation was promoted, 3 when it was kept back."""
        return 0 if self.promoted else 3

    def counts(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)


def gate_settings(config: DiscoveryConfig) -> GateSettings:
    """The section ``gate``.

    Raises:
        ConfigError: a setting is unknown or refused.
    """
    return section(GateSettings, config.gate, "gate")


def truth_rows(store: str) -> int:
    """Test rows with gold or reviewed truth.

    Raises:
        NoGoldError: there are none, or none with PV; the message says how to supply them.
    """
    dataset = lance_io.open_table(store, "training_data")
    rows, with_pv = (int(dataset.count_rows(where)) for where in (TRUTH, f"{TRUTH} AND pv_fraction > 0"))
    if not with_pv:
        found = f"{rows} test rows hold gold or reviewed truth, none of them PV" if rows else "no test row holds truth"
        raise NoGoldError(
            f"{found}: machine masks cannot judge machine masks. Supply digitised polygons of the test ground with "
            f"`python -m dataflows gold --truth FILE.geojson --store {store}`; the generation stays unpromoted"
        )
    return rows


def run_gate(
    config: DiscoveryConfig,
    *,
    generation: int,
    current_checkpoint: str | Path,
    candidate_checkpoint: str | Path,
    tag: str | None = None,
) -> GateReport:
    """Judge a generation by the models before and after it, and promote it where neither IoU nor F1 falls.

    Args:
        config: settings; those of the section ``gate`` are :class:`GateSettings`.
        generation: the generation.
        current_checkpoint: model trained without it.
        candidate_checkpoint: model trained with it.
        tag: name of the promotion; None is ``generation-N``.

    Raises:
        NoGoldError: no test row holds gold or reviewed truth.
        PromotionError: the generation has no candidates, or its chips changed since.
        ConfigError: a file is no checkpoint of this project, or a setting is refused.
        StoreNotWritableError: the report, or the store, cannot be written.
    """
    start, store, settings = time.monotonic(), config.build.store, gate_settings(config)
    wanted = promotion.candidates_of(store, generation, ["uuid"])
    truth_rows(store)
    folder = _folder(settings)
    scores = [_scores(checkpoint, store, settings) for checkpoint in (current_checkpoint, candidate_checkpoint)]
    cells = scores[0]["split_cell"].to_numpy()
    current, candidate = (_counts(table) for table in scores)
    found = paired_differences(
        current, candidate, cells, draws=settings.draws, level=settings.level, seed=settings.seed
    )
    allowed = {name: min(settings.tolerance, one.noise) for name, one in found.items()}
    falls = _falls(found, allowed) or _too_weak(found["iou"], settings)
    report = GateReport(
        generation=generation,
        promoted=not falls,
        reason="; ".join(falls) or "; ".join(_told(name, one) for name, one in found.items()),
        metrics=_metrics(found),
        noise={name: one.noise if math.isfinite(one.noise) else None for name, one in found.items()},
        allowed=allowed,
        chips=len(scores[0]),
        cells=len(np.unique(cells)),
        current_checkpoint=str(current_checkpoint),
        candidate_checkpoint=str(candidate_checkpoint),
        settings=asdict(settings) | {"rows": TRUTH, "chips_of_generation": len(wanted)},
    )
    run = _run(config, report)
    report.run_id = run.run_id
    if report.promoted:
        report.tag = tag or f"generation-{generation}"
        report.receipt = promotion.promote(store, generation, report.tag)
    report.seconds = time.monotonic() - start
    path = folder / f"generation-{generation}-{report.run_id}.json"
    report.path = str(path)
    run.record(store, "done", report.counts())
    _write(report, path)
    return report


def gate_generation(
    config: DiscoveryConfig,
    *,
    generation: int,
    current_checkpoint: str | Path | None = None,
    candidate_checkpoint: str | Path | None = None,
    tag: str | None = None,
) -> GateReport:
    """:func:`run_gate` with the models that are not given trained first, each in a process of its own.

    Raises:
        AegirError: see :func:`run_gate`; a fit failed.
    """
    store, settings = config.build.store, gate_settings(config)
    # what the gate would refuse is refused before any training
    promotion.candidates_of(store, generation, ["uuid"])
    truth_rows(store)
    candidate = candidate_checkpoint or fit_candidate(store, generation, settings)
    current = current_checkpoint or fit_model(store, settings)
    return run_gate(config, generation=generation, current_checkpoint=current, candidate_checkpoint=candidate, tag=tag)


def _scores(checkpoint: str | Path, store: str, settings: GateSettings) -> pa.Table:
    from training.chip_scores import chip_scores  # noqa: PLC0415 - torch

    return chip_scores(checkpoint, store, TRUTH, batch_size=settings.batch_chips)


def _counts(scores: pa.Table) -> NDArray[np.int64]:
    return np.column_stack([scores[name].to_numpy() for name in ("tp", "fp", "fn")])


def _falls(found: Mapping[str, Difference], allowed: Mapping[str, float]) -> list[str]:
    """Measures that fall too far, in words."""
    told = []
    for name, one in found.items():
        if not math.isfinite(one.value):
            told.append(f"{name} is undefined for a model that finds nothing")
        elif -one.value > allowed[name]:
            told.append(f"{_told(name, one)}: more than the {allowed[name]:.4f} let through")
    return told


def _too_weak(iou: Difference, settings: GateSettings) -> list[str]:
    """A model that finds nothing does not fall either; that is no reason to promote what it was trained on."""
    if iou.second >= settings.least_iou:
        return []
    return [f"{_told('iou', iou)}: the candidate stays below gate.least_iou {settings.least_iou}; train it for longer"]


def _told(name: str, one: Difference) -> str:
    word = "falls" if one.value < 0 else "rises"
    span = f"{abs(one.value):.4f} (interval {one.low:+.4f} to {one.high:+.4f}, noise {one.noise:.4f})"
    return f"{name} {word} from {one.first:.4f} to {one.second:.4f}, by {span}"


def _metrics(found: Mapping[str, Difference]) -> dict[str, float | None]:
    metrics: dict[str, float | None] = {}
    for name, one in found.items():
        values = {"current": one.first, "candidate": one.second, "difference": one.value}
        for key, value in (values | {"low": one.low, "high": one.high}).items():
            metrics[f"{key}/{name}"] = value if math.isfinite(value) else None
    return metrics


def _run(config: DiscoveryConfig, report: GateReport) -> Run:
    build = config.build
    today = drivers.recipes_today(asdict(build))
    models = [report.current_checkpoint, report.candidate_checkpoint]
    return Run(
        flow=FLOW,
        build_config=build.build_config,
        config=asdict(build) | {"gate": dict(config.gate)},
        recipes={"gate": digest([report.generation, report.settings])},
        code=today.code,
        inputs={
            "judged_generation": report.generation,
            "checkpoints": {name: file_sha256(name) for name in models},
            "tables": table_versions(build.store),
            "schema_version": SCHEMA_VERSION,
        },
    )


def _folder(settings: GateSettings) -> Path:
    """Folder of the reports, made where there is none: one that cannot be is refused before anything is promoted."""
    folder = Path(settings.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_report(folder, error) from error
    return folder


def _write(report: GateReport, path: Path) -> None:
    try:
        path.write_text(json.dumps(report.counts(), indent=1) + "\n")
    except OSError as error:
        raise _no_report(path, error) from error


def _no_report(path: Path, error: OSError) -> StoreNotWritableError:
    return StoreNotWritableError(f"the gate's report cannot be written to {path}: {error}")
