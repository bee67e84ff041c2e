"""What engines share: the Protocol, what a worker is told, and the worker itself."""

import atexit
import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol, Self

from hamilton.driver import Driver

from dataflows.config import BuildConfig
from dataflows.lance_writer import Provenance
from dataflows.partition_task import PartitionOutcome, PartitionTask, lost, run_partition
from store import rasters
from store.fingerprint import digest
from utils.errors import StoreError
from utils.failures import interrupted
from utils.retry import RetryPolicy

WORKERS_OWN = ("vhr_imagery", "msi_imagery", "mask_segmenter")
"""Results every worker makes for itself, once: open readers and model weights do not travel."""

TRIES = 3
"""How often a task is given to a worker before it counts as the worker's end."""


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """What a worker in another process needs to know; it travels by pickle."""

    config: BuildConfig
    """Settings of the build flow."""
    shared: Mapping[str, Any]
    """Results of the plan that partitions share, those of :data:`WORKERS_OWN` left out."""
    provenance: Provenance
    """What rows say of their origin."""
    policy: RetryPolicy
    """How the network's failures are tried again."""
    raster_cache_bytes: int
    """Bytes of raster blocks a worker may keep."""

    @property
    def key(self) -> str:
        """Names the worker's state: one run, one state."""
        return digest([self.provenance.run_id, self.provenance.build_config])


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine is set up."""

    workers: int | None = None
    """Worker processes; None is one per CPU, of the cluster where there is one."""
    address: str | None = None
    """Address of a Ray cluster; None starts one on this machine."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """The run's ``driver`` and what its plan made (``made_once``), for the engine that stays in its process."""


class Engine(Protocol):
    """Runs tasks somewhere. Leaving the ``with`` block stops what still runs."""

    def outcomes(self, tasks: Iterator[PartitionTask]) -> Iterator[PartitionOutcome]:
        """Outcomes in the order they are done. ``tasks`` is drawn from only as workers get free."""

    def __enter__(self) -> Self:
        """Start."""

    def __exit__(self, *_: object) -> None:
        """Stop; tasks that are not done are dropped."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What lives once per worker process: the driver, readers and weights."""

    driver: Driver
    """Driver of the build flow."""
    made_once: Mapping[str, Any]
    """Results every partition shares."""
    spec: WorkerSpec
    """What it was told."""

    def run(self, task: PartitionTask) -> PartitionOutcome:
        """Make the task's rows; pixels go to files of their table, so that only metadata travels back.

        Raises:
            StoreError: the files cannot be written.
        """
        config, policy = self.spec.config, self.spec.policy
        outcome = run_partition(self.driver, self.made_once, task, self.spec.provenance, policy)
        _, retried = policy.call(lambda: outcome.rows.stage(config.store, config.profile))
        return replace(outcome, retried=outcome.retried + retried)


_told: dict[str, WorkerSpec] = {}


def run_task(spec: WorkerSpec, task: PartitionTask) -> PartitionOutcome:
    """One task in a worker process; where its readers or weights cannot be made there, the task fails as a whole.

    Raises:
        StoreError: what cannot be stored ends the run, as it does in the run's own process.
        KeyboardInterrupt: the worker was interrupted.
    """
    try:
        worker, retried = spec.policy.call(lambda: _worker_of(spec))
        outcome = worker.run(task)
    except StoreError:
        raise
    except Exception as error:  # whatever fails in one worker, the others go on
        if interrupted(error):
            raise KeyboardInterrupt from error
        return lost(task, error)
    return replace(outcome, retried=outcome.retried + retried)


def _worker_of(spec: WorkerSpec) -> Worker:
    """This process's worker for ``spec``, made on first use."""
    _told[spec.key] = spec
    return _worker(spec.key)


@lru_cache(maxsize=1)
def _worker(key: str) -> Worker:
    # drivers imports the engines through the partition loop
    from dataflows.drivers import build_driver  # noqa: PLC0415

    spec = _told.pop(key)
    rasters.limit_cache(spec.raster_cache_bytes)
    driver = build_driver("build", spec.config)
    own = driver.execute(list(WORKERS_OWN), overrides=dict(spec.shared))
    gc.freeze()
    atexit.register(gc.unfreeze)
    return Worker(driver=driver, made_once={**spec.shared, **own}, spec=spec)
