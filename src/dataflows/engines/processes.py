"""Partitions in a pool of processes on this machine (``spawn``: Lance does not survive a fork)."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Self

from dataflows.engines.base import TRIES, EngineOptions, WorkerSpec, run_task
from dataflows.partition_task import PartitionOutcome, PartitionTask, lost
from utils.errors import WorkerLostError

_LOOK_S = 5.0
"""After so long without an outcome, and once more, workers are looked after."""

_spec: WorkerSpec | None = None


class ProcessEngine:
    """A pool of workers; a worker that is killed is replaced and its task given out again.

    A pool does not say which of its workers died, so the tasks that were out are tried again one at a time: only the
    task that ends its worker every time is given up.
    """

    def __init__(self, spec: WorkerSpec, options: EngineOptions) -> None:
        """Processes start when the first task is given out."""
        self._spec = spec
        self._workers = options.workers or os.cpu_count() or 1
        self._pool: ProcessPoolExecutor | None = None

    def outcomes(self, tasks: Iterator[PartitionTask]) -> Iterator[PartitionOutcome]:
        """Outcomes in the order they are done; one task more than there are workers is out at a time."""
        out: dict[Future[PartitionOutcome], PartitionTask] = {}
        suspects: deque[PartitionTask] = deque()
        tries: dict[tuple[int, int], int] = {}
        while True:
            while not suspects and len(out) <= self._workers and (task := next(tasks, None)) is not None:
                out[self._submit(task)] = task
            if suspects and not out:
                suspect = suspects.popleft()
                out[self._submit(suspect)] = suspect
            if not out:
                return
            done = self._done(out)
            broken: list[PartitionTask] = []
            for future in done:
                task = out.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    broken.append(task)
            if broken or not done:
                # the rest of what was out is broken too; none of it was committed
                broken += out.values()
                out.clear()
                self._stop()
                for task in broken:
                    key = (task.partition, task.part)
                    tries[key] = tries.get(key, 0) + 1
                    if tries[key] < TRIES:
                        suspects.append(task)
                    else:
                        yield lost(task, WorkerLostError(f"its worker process died {TRIES} times (out of memory?)"))

    def __enter__(self) -> Self:
        """Nothing to start yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the workers at once; tasks that are not done are dropped."""
        self._stop()

    def _submit(self, task: PartitionTask) -> Future[PartitionOutcome]:
        try:
            return self._ready_pool().submit(_run, task)
        except BrokenProcessPool:
            # it broke since the last look; those that were out will say so
            self._stop()
            return self._ready_pool().submit(_run, task)

    def _done(self, out: Collection[Future[PartitionOutcome]]) -> set[Future[PartitionOutcome]]:
        """What is done next; nothing where a worker died and the pool, which waits for its result's rest, is stuck."""
        dead = False
        while not (done := wait(out, timeout=_LOOK_S, return_when=FIRST_COMPLETED)[0]) and not dead:
            workers = list((self._pool._processes or {}).values()) if self._pool else []  # noqa: SLF001 - no public door
            dead = not all(worker.is_alive() for worker in workers)
        return done

    def _ready_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(self._spec,),
            )
        return self._pool

    def _stop(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        workers = list((pool._processes or {}).values())  # noqa: SLF001 - Executor.kill_workers comes with Python 3.14
        results = pool._result_queue  # noqa: SLF001 - no public door
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()
        # a result being written ends here, or the pool's thread would wait for the rest, and the interpreter for it
        results._writer.close()  # type: ignore[attr-defined]  # noqa: SLF001 - no public door


def _begin(spec: WorkerSpec) -> None:
    """Make a worker ready: it leaves Ctrl-C to the run, and ends when the run does."""
    global _spec  # noqa: PLW0603 - an initializer has no other place
    _spec = spec
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # a worker holds both ends of its queue, so the end of the run alone would not wake it
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _run(task: PartitionTask) -> PartitionOutcome:
    if _spec is None:
        raise WorkerLostError("the worker was never told its settings")
    return run_task(_spec, task)
