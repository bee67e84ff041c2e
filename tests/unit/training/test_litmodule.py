import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from store import lance_io
from support.training_tables import PROFILE, Chips, training_table, write_store
from training.datamodule import LanceDataModule
from training.inputs import input_spec
from training.litmodule import SegmentationModule, one_cycle
from training.normalisation import ChannelStats
from utils.errors import ConfigError

EPOCHS, STEPS = 2, 4


class Uuids(Callback):
    """Notes which chips each training batch held."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, ...]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.append(tuple(batch["uuid"]))


def fit(
    store: str, *, checkpoint: Path | None = None, callbacks: Sequence[Callback] = (), **data: Any
) -> tuple[dict[str, torch.Tensor], list[tuple[str, ...]]]:
    """Weights and batches of a short run."""
    seed_everything(1, verbose=False)
    module, uuids = SegmentationModule(in_channels=3), Uuids()
    settings = {"batch_size": 6, "train_crop_px": 32, "crops_per_chip": 1} | data
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        callbacks=[uuids, *callbacks],
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, LanceDataModule(store=store, **settings), ckpt_path=checkpoint, weights_only=True)
    return {name: value.clone() for name, value in module.state_dict().items()}, uuids.seen


@pytest.fixture(scope="module")
def run(store: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor], list[Any]]:
    """An uninterrupted run that left a checkpoint after every step and every epoch."""
    folder = tmp_path_factory.mktemp("checkpoints")
    every = {"dirpath": folder, "save_top_k": -1, "auto_insert_metric_name": False}
    steps = ModelCheckpoint(filename="step{step}", every_n_train_steps=1, **every)
    epochs = ModelCheckpoint(filename="epoch{epoch}", monitor="val/iou", **every)
    weights, seen = fit(store, callbacks=[steps, epochs])
    assert len(seen) == EPOCHS * STEPS
    return folder, weights, seen


@pytest.mark.parametrize("name", ["step1", "step3", "step4", "epoch0", "step5", "step7"])
def test_a_resumed_run_equals_the_uninterrupted_one(store: str, run: Any, name: str) -> None:
    folder, weights, seen = run
    resumed, rest = fit(store, checkpoint=folder / f"{name}.ckpt")
    assert rest == seen[len(seen) - len(rest) :]
    assert len(rest) == EPOCHS * STEPS - (STEPS if name == "epoch0" else int(name[4:]))
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)


def test_resume_returns_to_the_version_it_was_trained_on(tmp_path: Path) -> None:
    store = write_store(tmp_path, Chips(splits={"train": 12, "val": 3}))
    every = {"dirpath": tmp_path / "steps", "save_top_k": -1, "auto_insert_metric_name": False}
    weights, _ = fit(store, callbacks=[ModelCheckpoint(filename="{step}", every_n_train_steps=1, **every)])
    lance_io.write(store, "training_data", training_table(Chips(splits={"train": 20, "val": 3})), profile=PROFILE)
    resumed, _ = fit(store, checkpoint=tmp_path / "steps" / "3.ckpt")
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)


def test_resume_with_other_data_settings_is_refused(store: str, run: Any) -> None:
    with pytest.raises(ConfigError, match="batch_size: 6 there, 5 here"):
        fit(store, checkpoint=run[0] / "step3.ckpt", batch_size=5)


def test_a_val_split_without_pv_is_said_and_is_nan(tmp_path: Path) -> None:
    table = training_table(Chips(splits={"train": 6, "val": 2}))
    zero = pa.array([bytes(64 * 64)] * len(table), pa.large_binary())
    at = table.column_names.index("generated_mask")
    empty = table.set_column(at, table.schema.field(at), zero)
    lance_io.write(tmp_path, "training_data", empty, profile=PROFILE)
    module = SegmentationModule(in_channels=3)
    with torch.no_grad():
        for parameter, value in zip(module.network.segmentation_head[0].parameters(), (0.0, -9.0), strict=True):
            parameter.fill_(value)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    with pytest.warns(UserWarning, match="val: no PV pixel is known or predicted"):
        (logged,) = trainer.validate(module, LanceDataModule(store=str(tmp_path)), verbose=False)
    assert math.isnan(logged["val/iou"])
    assert logged["val/images"] == 2


def test_checkpoint_loads_safely_and_rebuilds_the_input_pipeline(store: str, run: Any) -> None:
    path = run[0] / "step7.ckpt"
    content = torch.load(path, weights_only=True)
    module = SegmentationModule.load_from_checkpoint(path, weights_only=True)
    data = LanceDataModule(store=store)
    data.setup("fit")
    assert module.inputs == data.spec
    torch.testing.assert_close(module.mean, torch.tensor(data.stats.mean))
    torch.testing.assert_close(module.std, torch.tensor(data.stats.std))
    assert content["LanceDataModule"]["record"]["version"] == data.record["version"]
    assert content["hyper_parameters"]["encoder_name"] == "tu-mobilenetv3_small_100"


@pytest.mark.parametrize("scale", [{}, {"enlarge": 4}, {"reduce": 2, "decoder_channels": [32, 16, 8, 8, 8]}])
@pytest.mark.parametrize("size", [(12, 12), (64, 64), (33, 70), (5, 40)])
def test_any_channel_count_size_and_scale(size: tuple[int, int], scale: dict[str, Any]) -> None:
    module = SegmentationModule(in_channels=5, **scale).eval()
    with torch.inference_mode():
        assert module(torch.rand(2, 5, *size)).shape == (2, *size)


def test_padding_leaves_sizes_that_fit_alone_and_normalisation_is_inside() -> None:
    seed_everything(0, verbose=False)
    module = SegmentationModule(in_channels=3).eval()
    module.use_inputs(input_spec(PROFILE, "vhr"), ChannelStats(mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 4.0), n_chips=1))
    raw = torch.randint(1, 255, (2, 3, 64, 32), dtype=torch.uint8)
    by_hand = (raw.float() - torch.tensor([1.0, 2.0, 3.0])[:, None, None]) / torch.tensor([2.0, 2.0, 4.0])[
        :, None, None
    ]
    with torch.inference_mode():
        torch.testing.assert_close(module(raw), module.network(by_hand)[:, 0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("scale", [{"enlarge": 4}, {"reduce": 2}])
def test_scaled_networks_answer_where_they_were_asked(scale: dict[str, int]) -> None:
    seed_everything(0, verbose=False)
    module = SegmentationModule(in_channels=1, **scale).eval()
    # a network that repeats its input: what comes back must lie where it was
    module.network = torch.nn.Identity()
    image = torch.zeros(1, 1, 24, 40)
    image[..., 8:12, 20:24] = 1
    with torch.inference_mode():
        answer = module(image)[0]
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(40.0), indexing="ij")
    centre = (answer * rows).sum() / answer.sum(), (answer * columns).sum() / answer.sum()
    assert [float(each) for each in centre] == pytest.approx([9.5, 21.5], abs=0.01)


@pytest.mark.parametrize("scale", [{"enlarge": 0}, {"reduce": 0}, {"enlarge": 2, "reduce": 2}])
def test_scales_that_make_no_sense(scale: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="whole numbers from 1 on"):
        SegmentationModule(in_channels=3, **scale)


def test_nodata_counts_as_the_mean() -> None:
    module = SegmentationModule(in_channels=1).eval()
    module.mean.fill_(0.25)
    with_nan = torch.rand(1, 1, 32, 32)
    with_nan[..., 4:9, 4:9] = float("nan")
    with torch.inference_mode():
        torch.testing.assert_close(module(with_nan), module(torch.nan_to_num(with_nan, nan=0.25)))


def test_channels_must_agree() -> None:
    stats = ChannelStats(mean=(0.0,) * 3, std=(1.0,) * 3, n_chips=1)
    with pytest.raises(ConfigError, match="takes 4 channels, the data has 3: red, green, blue"):
        SegmentationModule(in_channels=4).use_inputs(input_spec(PROFILE, "vhr"), stats)


@pytest.mark.parametrize("total", [10, 37, 400])
def test_schedule_is_the_one_cycle_of_torch(total: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=total, cycle_momentum=False)
    for step in range(total):
        assert one_cycle(step, total) == pytest.approx(cycle.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        if step < total - 1:
            cycle.step()
    assert one_cycle(total + 5, total) == one_cycle(total - 1, total)


@pytest.mark.parametrize(
    "settings",
    [
        {"arch": "Vnet"},
        {"encoder_name": "resnet1"},
        {"encoder_name": "tu-nothing"},
        {"encoder_name": "resnet18", "encoder_weights": "mine"},
    ],
)
def test_names_smp_does_not_know(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="cannot build"):
        SegmentationModule(in_channels=3, **settings)
