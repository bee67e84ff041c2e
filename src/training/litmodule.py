"""The segmentation model: any SMP architecture and encoder by name, any number of channels."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import segmentation_models_pytorch as smp
import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad

from training.datamodule import LanceDataModule
from training.inputs import InputSpec
from training.losses import DiceBCE
from training.metrics import PVMetrics
from training.normalisation import ChannelStats
from utils.errors import ConfigError

STRIDE = 32
"""Encoders halve the image five times: sides must be multiples of this."""


class SegmentationModule(LightningModule):
    """Binary PV segmentation with Dice + BCE, AdamW and PV metrics.

    Inputs are raw channels as :meth:`training.inputs.InputSpec.images` gives them: normalisation with the training
    split's statistics, NaN → mean, and padding to multiples of 32 happen inside, so a checkpoint alone maps stored
    chips to probabilities.

    Args:
        in_channels: input channels; linked to the data module by the command line.
        arch: SMP architecture (``Unet``, ``UnetPlusPlus``, ``Segformer``, …).
        encoder_name: SMP encoder; ``tu-`` names come from timm.
        encoder_weights: pretrained weights by SMP's name; they are downloaded. None trains from scratch.
        lr: peak learning rate of AdamW.
        weight_decay: decoupled weight decay.
        schedule: ``onecycle`` over the whole run, or ``constant``.
        dice_weight: weight of Dice against cross-entropy.
        threshold: probability above which a pixel is PV, in metrics.
        enlarge: factor images are enlarged by before the network, whose logits are averaged back. Encoders halve the
            image in their first layer: where one pixel matters, as in a 12 × 12 multispectral window, give 4.
        reduce: factor images are averaged down by before the network, whose logits are interpolated back: 2 sees four
            times the ground for the same work, where objects are many pixels wide.
        decoder_channels: channels of the decoder's blocks, coarse to fine; None is SMP's default.

    Raises:
        ConfigError: SMP does not know the architecture, the encoder or the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(  # noqa: PLR0913 - the model's settings, by name on the command line
        self,
        *,
        in_channels: int,
        arch: str = "Unet",
        encoder_name: str = "tu-mobilenetv3_small_100",
        encoder_weights: str | None = None,
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
        schedule: Literal["onecycle", "constant"] = "onecycle",
        dice_weight: float = 1.0,
        threshold: float = 0.5,
        enlarge: int = 1,
        reduce: int = 1,
        decoder_channels: list[int] | None = None,
    ) -> None:
        super().__init__()
        if min(enlarge, reduce) < 1 or max(enlarge, reduce) > 1 < min(enlarge, reduce):
            raise ConfigError(f"model.enlarge is {enlarge}, reduce {reduce}; whole numbers from 1 on, one of them 1")
        self.save_hyperparameters()
        self.enlarge, self.reduce = enlarge, reduce
        self.lr, self.weight_decay, self.schedule = lr, weight_decay, schedule
        self.network = _network(arch, encoder_name, encoder_weights, in_channels, decoder_channels)
        self.register_buffer("mean", torch.zeros(in_channels))
        self.register_buffer("std", torch.ones(in_channels))
        self.inputs: InputSpec | None = None
        self.loss = DiceBCE(dice_weight)
        self.val_metrics, self.test_metrics = PVMetrics(threshold), PVMetrics(threshold)

    def use_inputs(self, spec: InputSpec, stats: ChannelStats) -> None:
        """Adopt what the model will see, and how it is normalised.

        Raises:
            ConfigError: the channel counts differ.
        """
        if len(spec.channels) != len(self.mean):
            raise ConfigError(
                f"the model takes {len(self.mean)} channels, the data has {len(spec.channels)}: "
                + ", ".join(spec.channels)
            )
        self.inputs = spec
        self.mean.copy_(torch.tensor(stats.mean))
        self.std.copy_(torch.tensor(stats.std))

    def setup(self, stage: str) -> None:
        """Before ``fit``, take input spec and statistics from a data module that offers them."""
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(data, LanceDataModule):
            self.use_inputs(data.spec, data.stats)

    def on_fit_start(self) -> None:
        """Tell the loggers what the run is trained on."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, LanceDataModule):
            for logger in self.loggers:
                logger.log_hyperparams({"record": data.record})

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, H, W) of raw channels (n, channels, H, W) with any H and W."""
        normal = (images.to(self.mean.dtype) - self.mean[:, None, None]) / self.std[:, None, None]
        large = _scaled(torch.nan_to_num(normal, nan=0.0), self.enlarge, self.reduce)
        padded, (top, left) = _padded(large)
        height, width = large.shape[-2:]
        # convolutions run a quarter faster on channels-last memory
        logits: Tensor = self.network(padded.contiguous(memory_format=torch.channels_last))[
            ..., top : top + height, left : left + width
        ]
        if self.reduce > 1:
            logits = interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)
        return avg_pool2d(logits, self.enlarge)[:, 0] if self.enlarge > 1 else logits[:, 0]

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Loss of one batch."""
        loss: Tensor = self.loss(self(batch["image"]), batch["target"], batch.get("weight"))
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["image"]), sync_dist=True)
        return loss

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:  # noqa: ARG002
        """Loss and metrics of one batch."""
        self._evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:  # noqa: ARG002
        """Loss and metrics of one batch."""
        self._evaluate(batch, "test", self.test_metrics)

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:  # noqa: ARG002
        """Probabilities (n, H, W; float32, CPU) with the ids and targets of their chips."""
        probabilities = torch.sigmoid(self(batch["image"])).float().cpu()
        return {"uuid": batch["uuid"], "probability": probabilities, "target": batch["target"].cpu()}

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the epoch."""
        self._report("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test."""
        self._report("test", self.test_metrics)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, with a one-cycle schedule unless ``constant``."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        if self.schedule == "constant":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ConfigError("schedule onecycle needs an end: set trainer.max_epochs, or model.schedule=constant")
        cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(one_cycle, total=int(steps)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the input spec and the random state, in types that load with ``weights_only``."""
        checkpoint["inputs"] = None if self.inputs is None else self.inputs.as_dict()
        checkpoint["torch_rng"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the input spec, and in a resumed fit the random state."""
        if checkpoint.get("inputs") is not None:
            self.inputs = InputSpec.from_dict(checkpoint["inputs"])
        trainer = self._trainer
        if trainer is not None and trainer.state.fn == "fit" and "torch_rng" in checkpoint:
            torch.set_rng_state(checkpoint["torch_rng"].cpu())

    def _evaluate(self, batch: Mapping[str, Any], stage: str, metrics: PVMetrics) -> None:
        logits = self(batch["image"])
        loss = self.loss(logits, batch["target"])
        # probabilities, not logits: torchmetrics takes logits that all lie in [0, 1] for probabilities
        metrics.update(torch.sigmoid(logits), batch["target"])
        self.log(f"{stage}/loss", loss, batch_size=len(batch["image"]), sync_dist=True)

    def _report(self, stage: str, metrics: PVMetrics) -> None:
        values = metrics.compute()
        metrics.reset()
        for name, value in values.items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "iou", sync_dist=True)
        if values["iou"].isnan():
            rank_zero_warn(f"{stage}: no PV pixel is known or predicted, so IoU and F1 are undefined (NaN)")


def one_cycle(step: int, total: int, *, rise: float = 0.3) -> float:
    """Share of the peak learning rate at ``step`` of ``total``: half a cosine from 1/25 up to 1, then down to 4e-6.

    The curve of :class:`torch.optim.lr_scheduler.OneCycleLR` as a pure function, so that a run can be resumed with more
    epochs than it was started with (Smith and Topin 2017, "Super-convergence", arXiv:1708.07120).
    """
    first, last = 1 / 25, 1 / 25 / 1e4
    top = rise * total - 1
    if step <= top:
        start, end, share = first, 1.0, step / max(top, 1)
    else:
        start, end, share = 1.0, last, min((step - top) / max(total - 1 - top, 1), 1.0)
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def _network(
    arch: str, encoder: str, weights: str | None, channels: int, decoder_channels: list[int] | None
) -> nn.Module:
    decoder = {} if decoder_channels is None else {"decoder_channels": tuple(decoder_channels)}
    try:
        network: nn.Module = smp.create_model(
            arch, encoder_name=encoder, encoder_weights=weights, in_channels=channels, classes=1, **decoder
        )
    except (KeyError, RuntimeError, ValueError, TypeError, OSError) as error:
        raise ConfigError(
            f"segmentation_models_pytorch cannot build {arch} with encoder {encoder!r} and weights {weights!r}: {error}"
        ) from error
    return network


def _scaled(images: Tensor, enlarge: int, reduce: int) -> Tensor:
    if enlarge > 1:
        return interpolate(images, scale_factor=enlarge, mode="bilinear", align_corners=False)
    if reduce > 1:
        height, width = images.shape[-2:]
        return interpolate(images, size=(-(-height // reduce), -(-width // reduce)), mode="area")
    return images


def _padded(images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    height, width = images.shape[-2:]
    spare_y, spare_x = -height % STRIDE, -width % STRIDE
    top, left = spare_y // 2, spare_x // 2
    sides = (left, spare_x - left, top, spare_y - top)
    if not any(sides):
        return images, (0, 0)
    # a reflection cannot be longer than the image
    mode = "reflect" if max(sides[:2]) < width and max(sides[2:]) < height else "replicate"
    return pad(images, sides, mode=mode), (top, left)
