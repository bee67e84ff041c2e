"""Which partitions this run makes: those whose lease it gets; others are made by another run meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from dataflows.build_plan import BuildPlan, still_missing
from dataflows.config import BuildConfig
from dataflows.partition_task import PartitionTask, partition_tasks
from store import leases
from store.leases import Holder
from utils.errors import StoreError
from utils.retry import RetryPolicy

_RENEWALS_PER_LEASE = 3
_SAFE_SHARE = 0.9
_FORGOTTEN_AT_ONCE = 256


class WorkShares:
    """Leases of one run and the tasks they allow it."""

    def __init__(self, config: BuildConfig, build: BuildPlan, run_id: str, *, most_chips: int) -> None:
        """Take the lease of the run itself, which says that it lives."""
        self._config, self._build, self._most_chips = config, build, most_chips
        self._holder = Holder(run_id=run_id, lease_s=config.lease_s)
        self._policy = RetryPolicy(retries=config.network_retries, first_wait_s=config.network_wait_s)
        self._lock = threading.Lock()
        self._held: set[int] = set()
        self._finished: set[int] = set()
        self._lost: set[int] = set()
        self._returned: list[str] = []
        self._renewed = self._safe_until = 0.0
        self.elsewhere: list[int] = []
        """Partitions another run holds."""
        self.made_elsewhere: dict[int, int] = {}
        """Partition → chips that another run made since the plan."""
        self._claim([])

    def tasks(self, partitions: Sequence[int]) -> Iterator[PartitionTask]:
        """Tasks of the partitions whose lease is free, taken ``commit_every`` at a time as they are drawn."""
        for start in range(0, len(partitions), self._config.commit_every):
            batch = partitions[start : start + self._config.commit_every]
            granted, _ = self._policy.call(lambda batch=batch: self._claim(batch))  # type: ignore[misc]
            self.elsewhere += [partition for partition in batch if partition not in granted]
            yield from self._tasks_of([partition for partition in batch if partition in granted])

    def _tasks_of(self, granted: list[int]) -> Iterator[PartitionTask]:
        build = self._build
        planned = build.pending.filter(pc.is_in(build.pending["partition"], pa.array(granted, pa.uint64())))
        missing, _ = self._policy.call(lambda: still_missing(self._config, planned, build.planned_at))
        # the look through all prompts is for the batch, not for each of its partitions
        asked = pc.is_in(build.prompts["uuid"], missing["uuid"].combine_chunks())
        left = replace(build, pending=missing, prompts=build.prompts.filter(asked))
        for partition in granted:
            before, after = (table["partition"].to_pylist().count(partition) for table in (planned, missing))
            if before > after:
                self.made_elsewhere[partition] = before - after
            if after:
                yield from partition_tasks(left, partition, most_chips=self._most_chips)
            else:
                self._finished.add(partition)

    def finished(self, partition: int) -> None:
        """Say that the partition's rows are committed, so that its lease can go back with the next claim."""
        self._finished.add(partition)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside the block, leases are renewed beside the work, however long one task takes."""
        with kept_up(self.renew, self._config.lease_s):
            yield

    def renew(self) -> None:
        """Renew the leases held when a third of their time has passed; what fails is left to the next time."""
        if time.monotonic() - self._renewed > self._config.lease_s / _RENEWALS_PER_LEASE:
            # nothing rests on a lease, and whoever cannot write will hear it from a commit
            with suppress(StoreError):
                self._claim([])

    def is_overtaken(self) -> bool:
        """Whether another run took over a partition that this one held.

        What stands behind this plan may have changed meanwhile, in every partition: no more of it is to be committed.
        """
        if not self._is_safe:
            self._claim([])
        return bool(self._lost)

    @property
    def _is_safe(self) -> bool:
        """Whether no other run can have taken a lease yet, by this machine's clock and some allowance for others'."""
        return time.time() < self._safe_until

    def wait(self) -> None:
        """Wait a moment for other runs."""
        time.sleep(min(2.0, self._config.lease_s / _RENEWALS_PER_LEASE))
        self.renew()

    def release(self) -> None:
        """Give everything back."""
        leases.release(self._config.store, self._holder)

    def _claim(self, partitions: Sequence[int]) -> set[int]:
        with self._lock:
            finished = set(self._finished)
            held = self._held - finished
            ids = {_lease_id(partition): partition for partition in (*held, *partitions)}
            asked = time.time()
            granted = leases.claim(
                self._config.store,
                self._holder,
                [run_lease_id(self._holder.run_id), *map(_lease_id, partitions)],
                renew=[_lease_id(partition) for partition in held],
                give_back=[_lease_id(partition) for partition in finished],
            )
            self._finished -= finished
            self._held = {ids[key] for key in granted if key in ids}
            self._lost |= held - self._held
            self._renewed = time.monotonic()
            self._safe_until = asked + _SAFE_SHARE * self._config.lease_s
            self._returned += map(_lease_id, finished)
            if len(self._returned) >= _FORGOTTEN_AT_ONCE:
                # claims get slower with every row that stays; those that cannot be deleted now are with a later claim
                with suppress(StoreError):
                    leases.forget(self._config.store, self._holder, self._returned)
                    self._returned = []
            return self._held & set(partitions)


def run_lease_id(run_id: str) -> str:
    """Lease that says a run lives."""
    return f"run/{run_id}"


def _lease_id(partition: int) -> str:
    return f"build/{partition:x}"


@contextmanager
def kept_up(renew: Callable[[], None], lease_s: float) -> Iterator[None]:
    """Inside the block, ``renew`` is called beside the work, several times per ``lease_s`` seconds."""
    done = threading.Event()

    def keep() -> None:
        while not done.wait(lease_s / _RENEWALS_PER_LEASE):
            renew()

    keeper = threading.Thread(target=keep, name="leases", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
