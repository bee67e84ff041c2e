"""Rounds of the flywheel: build → fit, then discover → validate → backfill → fit → gate → write back, again and again.

A stage that ended stands in the round's row of ``rounds`` with what it left, and is not run again; a run that was
killed goes on with the stage that was under way, which itself goes on where it stopped.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from dataflows.discovery_config import DiscoveryConfig
from dataflows.work_shares import kept_up
from store import lance_io, leases
from store.fingerprint import digest
from store.leases import Holder
from store.rounds import Round, read_rounds, write_round
from utils.errors import AegirError, ConfigError, StoreConflictError, StoreError
from utils.failures import interrupted

FIRST = ("build", "gold", "fit", "account")
"""Stages of round 0, which makes the model the first search is done with."""

EACH = ("discover", "validate", "measure", "backfill", "candidate", "gate", "write-back", "account")
"""Stages of every later round."""

CLOSING = ("discover", "validate", "measure")
"""Stages of the round after the last one: what the last model finds. Asking for more rounds goes on from there."""

_IN_ID = (
    "aoi", "aoi_bbox_lonlat", "model_options", "window_px", "overlap_px", "tta", "prune", "detections", "matching",
    "validation", "backfill", "gate",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StageReceipt:
    """What a stage left."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """What later stages, and reruns, need to know; plain values."""
    counts: Mapping[str, float] = field(default_factory=dict)
    """Things it counted, for the ledger."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Measures on frozen test ground, for the ledger."""
    bytes_written: int = 0
    """Bytes it wrote."""


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """What a stage is given."""

    config: DiscoveryConfig
    """The settings; ``model`` in them is the checkpoint the round searches with, once there is one."""
    model: str
    """Checkpoint the round searches with; empty before there is one."""
    number: int
    """Number of the round."""
    flywheel_id: str
    """The flywheel."""
    folder: Path
    """Folder for what is no table: checkpoints and reports of the round."""
    left: Mapping[str, Mapping[str, Any]]
    """Stage → what it left in this round."""
    first: Mapping[str, Mapping[str, Any]]
    """Stage → what it left in round 0."""


Stage = Callable[[StageContext], StageReceipt]


@dataclass(kw_only=True)
class FlywheelSummary:
    """What a flywheel did, as it stands now."""

    flywheel_id: str
    """Hash of its settings."""
    store: str
    """Where the tables are."""
    rounds: int
    """Rounds that were asked for, beside round 0."""
    status: str = "running"
    """running, done, failed or interrupted."""
    round: int = 0
    """Round at work."""
    stage: str = ""
    """Stage at work; empty between stages."""
    stages_run: int = 0
    """Stages this run did."""
    stages_skipped: int = 0
    """Stages that were done before."""
    seconds: float = 0.0
    """Wall time of this run."""
    ledger: list[Round] = field(default_factory=list)
    """The rounds, by number."""

    @property
    def exit_code(self) -> int:
        """0 when every round was turned, 130 interrupted, else 3."""
        return {"done": 0, "interrupted": 130}.get(self.status, 3)

    def counts(self) -> dict[str, Any]:
        """The summary as plain values."""
        return asdict(self)


Progress = Callable[[FlywheelSummary], None]


def flywheel_id(config: DiscoveryConfig, *, from_model: bool = False) -> str:
    """Hash of what shapes the rounds: settings of the build, the search, the validation, the backfill and the gate."""
    settings = {name: getattr(config, name) for name in _IN_ID}
    return digest([config.build.build_config, settings, config.model if from_model else None])


def run_flywheel(
    config: DiscoveryConfig,
    *,
    rounds: int,
    from_model: bool = False,
    measure_last: bool = True,
    stages: Mapping[str, Stage] | None = None,
    progress: Progress | None = None,
) -> FlywheelSummary:
    """Turn the flywheel; go on where an earlier run with the same settings stopped.

    The model of a round is that of the round before, or its candidate where that was promoted.

    Args:
        config: the settings.
        rounds: rounds after round 0.
        from_model: round 0 fits no model and takes that of the settings.
        measure_last: search with the last model too, and measure what it finds.
        stages: stage → what runs it; None is those of :mod:`dataflows.flywheel_stages`.
        progress: called with the summary whenever a stage begins or ends.

    Raises:
        ConfigError: ``rounds`` is below 0, or there is no model to start from.
        StoreConflictError: another run turns this flywheel.
        AegirError: a stage refused its inputs; what was done stays, and is not done again.
    """
    if rounds < 0:
        raise ConfigError(f"rounds is {rounds}; a whole number from 0 on")
    if from_model and config.model is None:
        raise ConfigError("there is no model to start from; set `model`, or let round 0 fit one")
    if from_model and not Path(str(config.model)).is_file():
        raise ConfigError(f"{config.model} is no file; the gate compares checkpoints of `python -m training fit`")
    lance_io.check_writable(config.store)
    wheel = _Wheel(
        config, rounds, _stages() if stages is None else stages, progress or (lambda _: None), from_model=from_model
    )
    with _alone(config, wheel.summary.flywheel_id):
        return wheel.turn(measure_last=measure_last)


def _stages() -> Mapping[str, Stage]:
    # the stages bring in most of the project
    from dataflows.flywheel_stages import STAGES  # noqa: PLC0415

    return STAGES


class _Wheel:
    """One run at work."""

    def __init__(
        self,
        config: DiscoveryConfig,
        rounds: int,
        stages: Mapping[str, Stage],
        report: Progress,
        *,
        from_model: bool,
    ) -> None:
        self._config, self._stages, self._report, self._from_model = config, stages, report, from_model
        identity = flywheel_id(config, from_model=from_model)
        self.summary = FlywheelSummary(flywheel_id=identity, store=config.store, rounds=rounds)
        self._start = time.monotonic()
        self._rows: dict[int, Round] = {}

    def turn(self, *, measure_last: bool) -> FlywheelSummary:
        known = read_rounds(self._config.store, self.summary.flywheel_id)
        self._rows = {row.number: row for row in known}
        try:
            for number in range(self.summary.rounds + 1):
                self._round(number, FIRST if number == 0 else EACH)
                self._close(self._rows[number])
            if measure_last:
                self._round(self.summary.rounds + 1, CLOSING)
            self.summary.status = "done"
        except BaseException as error:
            self.summary.status = "interrupted" if interrupted(error) else "failed"
            if self.summary.status == "failed":
                self._tell("")
                raise
        self._tell("")
        return self.summary

    def _round(self, number: int, names: tuple[str, ...]) -> None:
        row = self._rows.get(number)
        if row is None:
            row = Round(flywheel_id=self.summary.flywheel_id, number=number, model="")
            if number:
                row.model, row.table_version, row.metrics = _handed_on(self._rows[number - 1])
            elif self._from_model:
                row.model = str(self._config.model)
            self._rows[number] = row
        self.summary.round = number
        for name in names:
            if name in row.stages:
                self.summary.stages_skipped += 1
                continue
            self._tell(name)
            self._stage(row, name)

    def _stage(self, row: Round, name: str) -> None:
        start = time.monotonic()
        receipt = self._stages[name](self._context(row))
        row.stages[name] = dict(receipt.values)
        row.counts |= {key: float(value) for key, value in receipt.counts.items()}
        row.metrics |= {key: float(value) for key, value in receipt.metrics.items()}
        row.seconds[name] = time.monotonic() - start
        row.bytes[name] = int(receipt.bytes_written)
        _taken_over(row, receipt.values)
        write_round(self._config.store, row)
        self.summary.stages_run += 1

    def _context(self, row: Round) -> StageContext:
        config = replace(self._config, model=row.model) if row.model else self._config
        return StageContext(
            config=config,
            model=row.model,
            number=row.number,
            flywheel_id=self.summary.flywheel_id,
            folder=Path(self._config.out).resolve() / "flywheel" / self.summary.flywheel_id / f"round-{row.number}",
            left=row.stages,
            first=self._rows[0].stages,
        )

    def _close(self, row: Round) -> None:
        status = "refused" if row.promoted is False else "done"
        if row.status != status:
            row.status = status
            write_round(self._config.store, row)

    def _tell(self, stage: str) -> None:
        self.summary.stage, self.summary.seconds = stage, time.monotonic() - self._start
        self.summary.ledger = [self._rows[number] for number in sorted(self._rows)]
        self._report(self.summary)


def _taken_over(row: Round, values: Mapping[str, Any]) -> None:
    """What a stage left that has a column of its own in the ledger."""
    for name in ("generation", "promoted", "tag"):
        if name in values:
            setattr(row, name, values[name])
    if row.number == 0 and "checkpoint" in values:
        row.model, row.table_version = str(values["checkpoint"]), int(values.get("table_version", 0))


def _handed_on(row: Round) -> tuple[str, int, dict[str, float]]:
    """Checkpoint and table version the round after ``row`` searches with, and what the gate measured of that model."""
    which = "candidate" if row.promoted else "model"
    measured = {f"model_{name}": row.metrics.get(f"{which}_{name}") for name in ("iou", "f1")}
    known = {name: value for name, value in measured.items() if value is not None}
    if row.promoted:
        return str(row.stages["candidate"]["checkpoint"]), int(row.stages["gate"]["table_version"]), known
    return row.model, row.table_version, known


@contextmanager
def _alone(config: DiscoveryConfig, identity: str) -> Iterator[None]:
    """Inside the block no other run turns this flywheel.

    Raises:
        StoreConflictError: one does.
    """
    lease = f"flywheel/{identity}"
    holder = Holder(run_id=uuid4().hex[:12], lease_s=config.build.lease_s)
    if lease not in leases.claim(config.store, holder, [lease]):
        raise StoreConflictError(f"another run turns this flywheel in {config.store}; wait for it, or stop it")

    def alive() -> None:
        with suppress(StoreError):
            leases.claim(config.store, holder, [], renew=[lease])

    try:
        with kept_up(alive, config.build.lease_s):
            yield
    finally:
        with suppress(AegirError):
            leases.release(config.store, holder)
