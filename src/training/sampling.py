"""Which rows make up which batch: a pure function of (seed, epoch), the same for any number of workers and ranks."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """A batch before it is read."""

    epoch: int
    """Epoch it belongs to; with the row number it seeds augmentation."""
    rows: NDArray[np.int64]
    """Row numbers in the split's key order."""


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How ``n_rows`` rows become batches; of R ranks, rank r takes batches r, r + R, r + 2R and so on."""

    n_rows: int
    """Rows in the split."""
    batch_size: int
    """Rows per batch."""
    seed: int = 0
    """Seed of the order."""
    shuffle: bool = True
    """Whether rows are drawn in random order (training) or in key order."""
    rank: int = 0
    """This process."""
    world_size: int = 1
    """Processes."""

    def __len__(self) -> int:
        """Batches this rank takes per epoch; in training the same for every rank."""
        total = self._total
        if self.shuffle:
            return math.ceil(total / self.world_size)
        return len(range(self.rank, total, self.world_size))

    def batches(self, epoch: int) -> list[Batch]:
        """This rank's batches of ``epoch`` in order.

        In training, a last batch of one row joins the batch before it (batch normalisation needs two), and ranks that
        would run out take the epoch's first batches again.
        """
        order = np.arange(self.n_rows, dtype=np.int64)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        starts = np.arange(1, self._total) * self.batch_size
        everyone = np.split(order, starts)
        mine = [everyone[(self.rank + i * self.world_size) % self._total] for i in range(len(self))]
        return [Batch(epoch=epoch, rows=rows) for rows in mine]

    @property
    def _total(self) -> int:
        whole, rest = divmod(self.n_rows, self.batch_size)
        single = self.shuffle and rest == 1 and whole > 0 and self.batch_size > 1
        return whole + (rest > 0 and not single)
