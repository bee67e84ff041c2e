"""Partitions as Ray tasks, on this machine or a cluster. Needs the extra ``[ray]``."""

import os
from collections.abc import Iterator
from typing import Any, Self

from dataflows.engines.base import TRIES, EngineOptions, WorkerSpec, worker_of
from dataflows.partition_task import PartitionOutcome, PartitionTask, lost
from utils.errors import ConfigError, WorkerLostError

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class RayEngine:
    """Plain remote tasks: Ray gives a task out again when its worker or node dies."""

    def __init__(self, spec: WorkerSpec, options: EngineOptions) -> None:
        """Check that Ray is there; nothing is started yet.

        Raises:
            ConfigError: Ray is not installed.
        """
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        try:
            import ray  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ConfigError("the engine `ray` needs the extra: pip install 'aegir-lightning-lance[ray]'") from error
        self._ray: Any = ray
        self._spec, self._options = spec, options
        self._started = False

    def outcomes(self, tasks: Iterator[PartitionTask]) -> Iterator[PartitionOutcome]:
        """Outcomes in the order they are done; as many tasks are out as the cluster has CPUs, and a half more."""
        ray = self._ray
        remote = ray.remote(max_retries=TRIES - 1, num_cpus=1)(_run)
        spec = ray.put(self._spec)
        out: dict[Any, PartitionTask] = {}
        cpus = int(self._options.workers or ray.cluster_resources().get("CPU", 1))
        most = cpus + max(1, cpus // 2)
        while True:
            while len(out) < most and (task := next(tasks, None)) is not None:
                out[remote.remote(spec, task)] = task
            if not out:
                return
            done, _ = ray.wait(list(out), num_returns=1)
            for reference in done:
                task = out.pop(reference)
                try:
                    yield ray.get(reference)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
                    yield lost(task, WorkerLostError(f"its worker died {TRIES} times: {str(error).splitlines()[0]}"))
                except (ray.exceptions.RayTaskError, ray.exceptions.RaySystemError) as error:
                    yield lost(task, error)

    def __enter__(self) -> Self:
        """Connect to the cluster, or start one of ``workers`` CPUs on this machine.

        Raises:
            ConfigError: there is no cluster at the address.
        """
        ray = self._ray
        if ray.is_initialized():
            return self
        local = {} if self._options.address else {"num_cpus": self._options.workers, "include_dashboard": False}
        try:
            ray.init(address=self._options.address, log_to_driver=False, logging_level="error", **local)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"no Ray cluster at {self._options.address!r}: {error}") from error
        self._started = True
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster; one that was started here ends, with what still runs."""
        if self._started:
            self._ray.shutdown()


def _run(spec: WorkerSpec, task: PartitionTask) -> PartitionOutcome:
    return worker_of(spec).run(task)
