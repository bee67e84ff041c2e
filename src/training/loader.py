"""Batches in order, read ahead by threads or worker processes, resumable in the middle of an epoch."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import torch
from torch.utils.data import DataLoader

from training.dataset import ChipDataset
from training.sampling import Batch, BatchPlan

_PRELOADED: Final = ["torch", "lance", "pyarrow", "training.dataset"]


class ChipLoader:
    """An iterable of batches that Lightning can save and restore.

    Reads run in ``threads`` of this process (Lance releases the interpreter lock), or, for heavy augmentation, in
    ``workers`` processes started by forkserver. Neither changes the order or the content of a batch.

    Args:
        dataset: where batches are read from.
        plan: which rows each batch takes.
        threads: batches read ahead by threads; 0 reads when asked.
        workers: processes; 0 for none.
    """

    batch_sampler: Final = None  # Lightning looks for one wherever it finds a sampler

    def __init__(self, dataset: ChipDataset, plan: BatchPlan, *, threads: int = 2, workers: int = 0) -> None:
        self.dataset, self.plan = dataset, plan
        self.threads, self.workers = threads, workers
        self._epoch = 0
        self._taken = 0
        self._skip: tuple[int, int] = (0, 0)
        self._processes: DataLoader[Any] | None = None

    @property
    def sampler(self) -> "ChipLoader":
        """Itself: Lightning announces each epoch through ``loader.sampler.set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration belongs to."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Batches per epoch, also when the epoch is resumed in its middle."""
        return len(self.plan)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches of the epoch, from the restored position on."""
        epoch = self._epoch
        self._taken = self._skip[1] if epoch == self._skip[0] else 0
        for item in self._read(self.plan.batches(epoch)[self._taken :]):
            self._taken += 1
            yield item

    def state_dict(self) -> dict[str, int]:
        """Position: the epoch and how many of its batches were handed out."""
        return {"epoch": self._epoch, "batches": self._taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take up the position of :meth:`state_dict`."""
        self._epoch = state["epoch"]
        self._skip = (state["epoch"], state["batches"])
        self._taken = state["batches"]

    def _read(self, batches: list[Batch]) -> Iterator[dict[str, Any]]:
        if self.workers:
            return self._by_processes(batches)
        if self.threads:
            return self._by_threads(batches)
        return (self.dataset[batch] for batch in batches)

    def _by_threads(self, batches: list[Batch]) -> Iterator[dict[str, Any]]:
        with ThreadPoolExecutor(self.threads, thread_name_prefix="chips") as pool:
            ahead: deque[Future[dict[str, Any]]] = deque()
            try:
                for batch in batches:
                    ahead.append(pool.submit(self.dataset.__getitem__, batch))
                    if len(ahead) > self.threads:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for read in ahead:
                    read.cancel()

    def _by_processes(self, batches: list[Batch]) -> Iterator[dict[str, Any]]:
        if self._processes is None:
            self._processes = _worker_pool(self.dataset, self.workers)
        order: list[Batch] = self._processes.sampler  # type: ignore[assignment]
        order[:] = batches
        return iter(self._processes)


def _worker_pool(dataset: ChipDataset, workers: int) -> DataLoader[Any]:
    # forkserver: Lance is not fork-safe; preloading cuts the start of a worker from half a minute to a second
    import torch.multiprocessing as mp  # noqa: PLC0415

    context = mp.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=[],
        num_workers=workers,
        multiprocessing_context=context,
        persistent_workers=True,
        collate_fn=_unchanged,
        # its own generator: worker seeds must not draw from the run's random state
        generator=torch.Generator(),
    )


def _unchanged(item: Any) -> Any:
    return item
