"""Partitions as Ray tasks, on this machine or a cluster. Needs the extra ``[ray]``."""

import os
import socket
import warnings
from collections.abc import Iterator
from typing import Any, Self

from dataflows.engines.base import TRIES, EngineOptions, WorkerSpec, run_task
from dataflows.partition_task import PartitionOutcome, PartitionTask, lost
from utils.errors import AegirError, ConfigError, WorkerLostError

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)
try:
    import ray as _ray
except ImportError as _error:
    raise ConfigError("the engine `ray` needs the extra: pip install 'aegir-lightning-lance[ray]'") from _error

_PATIENCE_S = 5.0


class RayEngine:
    """Plain remote tasks: Ray gives a task out again when its worker or node dies."""

    def __init__(self, spec: WorkerSpec, options: EngineOptions) -> None:
        """Nothing is started yet."""
        self._ray: Any = _ray
        self._spec, self._options = spec, options
        self._started = False

    def outcomes(self, tasks: Iterator[PartitionTask]) -> Iterator[PartitionOutcome]:
        """Outcomes in the order they are done; as many tasks are out as the cluster has CPUs, and a half more."""
        ray = self._ray
        remote = ray.remote(max_retries=TRIES - 1, num_cpus=1)(run_task)
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
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, AegirError):
                        raise error.cause from None
                    yield lost(task, error.cause if isinstance(error.cause, Exception) else error)
                except ray.exceptions.RayError as error:
                    died = isinstance(error, ray.exceptions.WorkerCrashedError | ray.exceptions.OutOfMemoryError)
                    what = f"its worker died {TRIES} times" if died else "Ray gave the task up"
                    yield lost(task, WorkerLostError(f"{what}: {str(error).splitlines()[0]}"))

    def __enter__(self) -> Self:
        """Connect to the cluster, or start one of ``workers`` CPUs on this machine.

        Raises:
            ConfigError: there is no cluster at the address, or none starts on this machine.
        """
        ray = self._ray
        if ray.is_initialized():
            return self
        _check_answers(self._options.address)
        local = {} if self._options.address else {"num_cpus": self._options.workers, "include_dashboard": False}
        try:
            with warnings.catch_warnings():
                # the fork that starts a node becomes another program at once
                warnings.filterwarnings("ignore", message="lance is not fork-safe")
                ray.init(address=self._options.address, log_to_driver=False, logging_level="error", **local)
        except Exception as error:  # Ray has no class for a node that does not start
            ray.shutdown()
            what = (
                f"no Ray cluster at {self._options.address!r}" if self._options.address else "Ray does not start here"
            )
            raise ConfigError(f"{what}: {error}") from error
        self._started = True
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster; one that was started here ends, with what still runs."""
        if self._started:
            self._ray.shutdown()


def _check_answers(address: str | None) -> None:
    """Refuse an address where nothing listens: Ray itself would try for minutes.

    Raises:
        ConfigError: nobody answers at the host and port of ``address``.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        # words such as `auto`, which Ray knows or refuses at once
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"no Ray cluster at {address!r}: {error}; set ray_address to HOST:PORT of its head node "
            "(`ray start --head` prints it), or leave it out to start one here"
        ) from error
