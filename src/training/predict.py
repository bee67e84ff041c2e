"""Probabilities of a trained model: for rows in memory, or as a Parquet file of a whole split."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from training.litmodule import SegmentationModule
from utils.errors import ConfigError, StoreNotWritableError
from utils.types import IGNORE

PREDICTIONS = pa.schema(
    [
        pa.field("uuid", pa.string(), nullable=False, metadata={"doc": "Chip id."}),
        pa.field(
            "probability",
            pa.large_binary(),
            nullable=False,
            metadata={"doc": "PV probability, raw uint8 of (height, width): 0-255 is 0-1.", "axes": "row, column"},
        ),
        pa.field("height", pa.int32(), nullable=False, metadata={"doc": "Rows.", "unit": "pixel"}),
        pa.field("width", pa.int32(), nullable=False, metadata={"doc": "Columns.", "unit": "pixel"}),
        pa.field("iou", pa.float32(), metadata={"doc": "PV IoU with the known mask; null where neither holds PV."}),
    ]
)
"""Schema of the predictions file."""


def load(checkpoint: str | Path) -> SegmentationModule:
    """The model of a checkpoint on the CPU, ready to predict; its ``inputs`` say which pixels it takes.

    Raises:
        ConfigError: the file is no checkpoint of a fit with input spec.
    """
    try:
        module = SegmentationModule.load_from_checkpoint(
            checkpoint, map_location="cpu", encoder_weights=None, weights_only=True
        )
    except (OSError, KeyError, RuntimeError, EOFError, UnpicklingError) as error:
        raise ConfigError(f"{checkpoint} is no checkpoint of `python -m training fit`: {error}") from error
    if module.inputs is None:
        raise ConfigError(f"{checkpoint} does not say which pixels the model takes; train it with LanceDataModule")
    return module.eval()


def probabilities(checkpoint: str | Path, rows: pa.Table, *, batch_size: int = 32) -> NDArray[np.float32]:
    """PV probability of ``rows`` of ``training_data``, shape (rows, height, width), float32 in [0, 1].

    Pixels are those of the checkpoint's mode: the VHR chip, or the central multispectral window.

    Raises:
        ConfigError: ``checkpoint`` is no checkpoint of this project.
    """
    module = load(checkpoint)
    spec = module.inputs
    if spec is None or not len(rows):
        raise ConfigError("no rows to predict")
    parts = []
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            images = spec.images(rows.slice(start, batch_size))
            parts.append(torch.sigmoid(module(torch.from_numpy(images.copy()))).numpy())
    return np.concatenate(parts)


class PredictionWriter(BasePredictionWriter):
    """Writes predictions batch by batch to one Parquet file per rank, which appears when it is complete.

    Args:
        path: the file; with several ranks, ``-rank<r>`` is added to its stem.
    """

    def __init__(self, path: str = "runs/predictions.parquet") -> None:
        super().__init__(write_interval="batch")
        self.path = Path(path)
        self._writer: pq.ParquetWriter | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the file under a temporary name."""
        if trainer.world_size > 1:
            self.path = self.path.with_stem(f"{self.path.stem}-rank{trainer.global_rank}")
        inputs = pl_module.inputs.as_dict() if isinstance(pl_module, SegmentationModule) and pl_module.inputs else None
        about = {"checkpoint": str(trainer.ckpt_path), "inputs": json.dumps(inputs)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._partial, PREDICTIONS.with_metadata(about), compression="zstd")
        except OSError as error:
            raise StoreNotWritableError(f"cannot write predictions to {self.path}: {error}") from error

    def write_on_batch_end(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,
        prediction: Mapping[str, Any],
        batch_indices: Sequence[int] | None,  # noqa: ARG002
        batch: Mapping[str, Any],  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int,  # noqa: ARG002
    ) -> None:
        """Append one batch."""
        if self._writer is not None:
            threshold = pl_module.hparams["threshold"]
            self._writer.write_table(_as_table(prediction, threshold))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Close the file and give it its name."""
        if self._writer is not None:
            self._writer.close()
            self._partial.replace(self.path)
            rank_zero_info(f"predictions: {self.path}")
            self._writer = None

    @property
    def _partial(self) -> Path:
        return self.path.with_name(f".{self.path.name}.partial")


def _as_table(prediction: Mapping[str, Any], threshold: float) -> pa.Table:
    probability = prediction["probability"].numpy()
    target = prediction["target"].numpy()
    quantised = np.rint(probability * 255).astype(np.uint8)
    predicted, known = probability > threshold, target != IGNORE
    both = (predicted & (target == 1)).sum(axis=(1, 2))
    either = ((predicted & known) | (target == 1)).sum(axis=(1, 2))
    height, width = probability.shape[1:]
    return pa.table(
        {
            "uuid": prediction["uuid"],
            "probability": [plane.tobytes() for plane in quantised],
            "height": [height] * len(quantised),
            "width": [width] * len(quantised),
            "iou": [float(b / e) if e else None for b, e in zip(both, either, strict=True)],
        },
        schema=PREDICTIONS,
    )
