"""True and false pixels of a model, chip by chip: what comparisons of models rest on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from store import lance_io
from training.devices import resolved_device
from training.predict import load
from utils.errors import ConfigError
from utils.types import IGNORE

CHIP_SCORES = pa.schema(
    [
        pa.field("uuid", pa.string(), nullable=False, metadata={"doc": "Chip id."}),
        pa.field("split_cell", pa.uint64(), nullable=False, metadata={"doc": "Split cell of the chip."}),
        pa.field("tp", pa.int64(), nullable=False, metadata={"doc": "Known PV pixels that are predicted."}),
        pa.field("fp", pa.int64(), nullable=False, metadata={"doc": "Known background pixels predicted as PV."}),
        pa.field("fn", pa.int64(), nullable=False, metadata={"doc": "Known PV pixels that are not predicted."}),
    ]
)
"""One row per chip; pixels of value 255 do not count."""


def chip_scores(
    checkpoint: str | Path,
    store: str,
    where: str,
    *,
    table: str = "training_data",
    version: int | str | None = None,
    batch_size: int = 32,
) -> pa.Table:
    """:data:`CHIP_SCORES` of a model on the rows that satisfy ``where``, sorted by uuid; memory holds one batch.

    The model's own threshold parts PV from background. A GPU is used where there is one.

    Raises:
        ConfigError: ``checkpoint`` is no checkpoint of this project.
        TableNotFoundError: the store has no such table or version.
    """
    module = load(checkpoint)
    spec, threshold = module.inputs, float(module.hparams["threshold"])
    if spec is None:
        raise ConfigError(f"{checkpoint} does not say which pixels the model takes")
    device = resolved_device("auto")
    module.to(device)
    parts = []
    with torch.inference_mode():
        for rows in _batches(store, table, version, ["uuid", "split_cell", *spec.columns], where, batch_size):
            images = torch.from_numpy(spec.images(rows).copy()).to(device)
            found = (torch.sigmoid(module(images)) > threshold).cpu().numpy()
            target = spec.targets(rows)
            known, true = target != IGNORE, target == 1
            sums = [(cell & known).sum(axis=(1, 2)) for cell in (true & found, ~true & found, true & ~found)]
            columns = [rows["uuid"], rows["split_cell"], *(pa.array(np.asarray(one, np.int64)) for one in sums)]
            parts.append(pa.table(columns, schema=CHIP_SCORES))
    return pa.concat_tables([CHIP_SCORES.empty_table(), *parts]).sort_by("uuid")


def _batches(
    store: str, table: str, version: int | str | None, columns: list[str], where: str, batch_size: int
) -> Iterator[pa.Table]:
    dataset = lance_io.open_table(store, table, version)
    for batch in dataset.scanner(
        columns=columns, filter=where, batch_size=batch_size, batch_readahead=2, io_buffer_size=64 << 20
    ).to_batches():
        if len(batch):
            yield pa.Table.from_batches([batch])
