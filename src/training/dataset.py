"""Rows of a pinned ``training_data`` table as tensors, one sorted ``take`` per batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from store.lance_io import open_table
from training.augment import Augmentation
from training.inputs import InputSpec
from training.sampling import Batch


@dataclass(frozen=True, kw_only=True)
class TableRef:
    """A table pinned to one version."""

    store: str
    """Store URI or folder."""
    table: str
    """Table name."""
    version: int
    """Version number."""

    def open(self) -> lance.LanceDataset:
        """The table at that version.

        Raises:
            TableNotFoundError: store, table or version do not exist.
        """
        return open_table(self.store, self.table, self.version)


class ChipDataset(Dataset[dict[str, Any]]):
    """Map-style dataset whose items are whole batches: index it with a :class:`~training.sampling.Batch`.

    Row numbers count on beyond the last chip and start over with the first: the same chip, another augmentation.

    An item holds ``image`` (n, channels, H, W; uint8 in mode ``vhr``, float32 with NaN for nodata in ``msi``),
    ``target`` (n, H, W uint8: 0, 1, 255 ignore), ``weight`` (n float32) and ``uuid`` (n strings), in the order of the
    batch's rows.
    It pickles to worker processes by reference and opens the table there; Lance must not be forked.

    Args:
        ref: the pinned table.
        spec: what is read from each row.
        uuids: chip ids of the split, in key order.
        offsets: position of each of them in the table at this version.
        augmentation: applied to each sample; None for evaluation.
        weights: weight of each chip in the loss, shape (n,); None is 1 for all.
    """

    def __init__(
        self,
        ref: TableRef,
        spec: InputSpec,
        uuids: Sequence[str],
        offsets: NDArray[np.int64],
        augmentation: Augmentation | None = None,
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        self.ref, self.spec, self.augmentation = ref, spec, augmentation
        self.weights = np.ones(len(uuids), np.float32) if weights is None else weights
        self.uuids, self.offsets = list(uuids), offsets
        self._table: lance.LanceDataset | None = None

    def __len__(self) -> int:
        """Rows in the split."""
        return len(self.uuids)

    def __getstate__(self) -> dict[str, Any]:
        """State without the open table, which belongs to this process."""
        return self.__dict__ | {"_table": None}

    def arrow(self, rows: NDArray[np.int64]) -> pa.Table:
        """Image and target columns of ``rows``, in the table's order (ascending offset)."""
        if self._table is None:
            self._table = self.ref.open()
        return self._table.take(np.sort(self.offsets[rows]), columns=self.spec.columns)

    def arrays(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.generic], NDArray[np.uint8]]:
        """Writable images and targets in the order of ``rows``."""
        stored = self.arrow(rows)
        # take sorts: undoing it is also the copy that leaves Arrow's read-only memory
        back = np.argsort(np.argsort(self.offsets[rows], kind="stable"), kind="stable")
        return self.spec.images(stored)[back], self.spec.targets(stored)[back]

    def __getitem__(self, batch: Batch) -> dict[str, Any]:
        """One batch as tensors."""
        chips = batch.rows % len(self)
        images, targets = self.arrays(chips)
        if self.augmentation is not None:
            images, targets = self.augmentation.apply(images, targets, batch.epoch, batch.rows)
        return {
            "image": torch.from_numpy(images),
            "target": torch.from_numpy(targets),
            "weight": torch.from_numpy(self.weights[chips]),
            "uuid": [self.uuids[chip] for chip in chips],
        }
